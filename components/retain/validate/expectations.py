"""The one house of Great Expectations: suites over tables of numbers decide which rows and whether the run go on.

A table of features has one row a sample and one column a reason (how often it was found) beside `tokens`; no text. Rows
come in chunks, so memory is that of a chunk. A second, tiny table with one row a source holds the shares of rejected rows.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retain.validate.config import REASONS, UNREADABLE, ValidateConfig

if TYPE_CHECKING:
    import numpy as np

# Values never leave: no lists of unexpected values, no query; only which rows.
RESULT_FORMAT = {
    "result_format": "COMPLETE",
    "partial_unexpected_count": 0,
    "include_unexpected_rows": False,
    "return_unexpected_index_query": False,
}
TOO_LONG = "too_long"


@dataclass
class Outcome:
    """One expectation over all chunks."""

    reason: str
    column: str
    limit: float
    act: str
    rows: int = 0
    unexpected: int = 0

    @property
    def share(self) -> float:
        return self.unexpected / self.rows if self.rows else 0.0


class Suites:
    """Great Expectations, opened once a run."""

    def __init__(self, config: ValidateConfig, limit: int) -> None:
        os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
        import great_expectations as gx

        self._config = config
        self._context = gx.get_context(mode="ephemeral")
        self._context.variables.progress_bars = {"globally": False, "metric_calculations": False}
        self._source = self._context.data_sources.add_pandas("retain")
        self.outcomes = {reason: self._outcome(reason, limit) for reason in REASONS if config.act(reason) != "off"}
        self._rows = self._suite("rows", [(o.column, o.limit, o.reason) for o in self.outcomes.values()])
        self._features = self._source.add_dataframe_asset("features").add_batch_definition_whole_dataframe("chunk")

    def _outcome(self, reason: str, limit: int) -> Outcome:
        column, most = ("tokens", limit) if reason == TOO_LONG else (reason, 0)
        return Outcome(reason, column, most, self._config.act(reason))

    def _suite(self, name: str, limits: Sequence[tuple[str, float, str]]) -> Any:
        import great_expectations as gx
        from great_expectations.expectations import ExpectColumnValuesToBeBetween

        expectations = [
            ExpectColumnValuesToBeBetween(
                column=column, max_value=most, meta={"reason": reason}, severity=self._severity(reason)
            )
            for column, most, reason in limits
        ]
        return self._context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))

    def _severity(self, reason: str) -> str:
        return "warning" if reason in REASONS and self._config.act(reason) == "warn" else "critical"

    def judge(self, features: Mapping[str, "np.ndarray"]) -> dict[str, list[int]]:
        """Reason → places of the rows of this chunk that do not meet its expectation; totals are kept in ``outcomes``."""
        import pandas as pd

        found: dict[str, list[int]] = {}
        for reason, places, rows in self._validate(self._features, pd.DataFrame(features), self._rows):
            outcome = self.outcomes[reason]
            outcome.rows += rows
            outcome.unexpected += len(places)
            found[reason] = places
        return found

    def shares(self, table: Sequence[Mapping[str, float]], limits: Mapping[str, float]) -> list[tuple[int, str]]:
        """(row, column) of every share that is over its limit; ``table`` has one row a source."""
        import pandas as pd

        suite = self._suite("shares", [(column, most, column) for column, most in limits.items()])
        batches = self._source.add_dataframe_asset("shares").add_batch_definition_whole_dataframe("sources")
        return [
            (place, column)
            for column, places, _ in self._validate(batches, pd.DataFrame(list(table)), suite)
            for place in places
        ]

    @staticmethod
    def _validate(batches: Any, frame: Any, suite: Any) -> list[tuple[str, list[int], int]]:
        """(name in meta, unexpected places, rows) of each expectation."""
        report = batches.get_batch({"dataframe": frame}).validate(suite, result_format=RESULT_FORMAT)
        results = []
        for one in report.results:
            if one.exception_info.get("raised_exception"):
                raise RuntimeError(f"Great Expectations: {one.exception_info.get('exception_message')}")
            results.append(
                (
                    one.expectation_config.meta["reason"],
                    list(one.result.get("unexpected_index_list") or []),
                    int(one.result["element_count"]),
                )
            )
        return results


def columns(config: ValidateConfig) -> list[str]:
    """The reasons that have a column of their own in the table of features."""
    return [
        reason for reason in REASONS if reason != TOO_LONG and (reason in UNREADABLE or config.act(reason) != "off")
    ]
