"""Whether the rows as a whole may be used: shares of rejected rows by source, and enough rows left."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from retain.errors import DataRefused
from retain.validate.config import ValidateConfig
from retain.validate.expectations import Suites
from retain.validate.sources import Source

HINTS = {
    "duplicate": "remove the copies, or allow them: duplicate: warn",
    "too_long": "shorten or split these rows, or raise max_tokens where the model allows it",
    "pii": "remove or replace the personal data; pii_kinds says what counts",
    "secrets": "remove the secrets, and revoke them: they are known to whoever has the file",
    "other_shape": "put rows of one shape into one file, and list the files one by one",
    "not_json": "write one JSON object a line",
    "leakage": "take the test prompts out of the train rows",
    "schema": "name the columns with map, or say which format it is",
}


@dataclass(frozen=True)
class Breach:
    """A limit that does not hold: where, what, got and allowed, as a person reads them."""

    where: str
    what: str
    got: str
    allowed: str
    fix: str = ""


def breaches(config: ValidateConfig, sources: list[Source], counts: Counter[str], suites: Suites) -> list[Breach]:
    """Everything that forbids a training on these rows, the decision on shares being the suite's."""
    limits = {
        "rejected": config.max_rejected_share,
        **{reason: share for reason, share in config.max_share.items() if config.act(reason) != "off"},
    }
    table = [
        {
            "rejected": s.rejected / s.read,
            **{r: (s.reasons[r] + s.warnings[r]) / s.read for r in limits if r != "rejected"},
        }
        for s in sources
    ]
    over = [_breach(sources[place], column, limits[column]) for place, column in suites.shares(table, limits)]
    return over + _too_few(config, counts)


def _breach(source: Source, column: str, limit: float) -> Breach:
    if column != "rejected":
        n = source.reasons[column] + source.warnings[column]
        return Breach(
            source.label,
            column,
            f"{n} of {source.read} rows ({n / source.read:.1%})",
            f"{limit:.1%} (max_share.{column})",
            HINTS.get(column, ""),
        )
    top = source.reasons.most_common(3)
    why = ", ".join(f"{reason} {n}" for reason, n in top)
    return Breach(
        source.label,
        "rejected rows",
        f"{source.rejected} of {source.read} rows ({source.rejected / source.read:.1%}): {why}",
        f"{limit:.1%} (max_rejected_share)",
        HINTS.get(top[0][0], ""),
    )


def _too_few(config: ValidateConfig, counts: Counter[str]) -> list[Breach]:
    left = counts["target/train"] + counts["target/validation"]
    if left >= config.min_rows:
        return []
    return [
        Breach(
            "target rows to train on",
            "too few rows are left",
            f"{left} rows",
            f"at least {config.min_rows} (min_rows)",
            "add rows; a tune on fewer is noise",
        )
    ]


def refusal(broken: list[Breach], report: Path) -> DataRefused:
    """One error for all breaches; the page and rejects/ have the rows."""
    first = broken[0]
    got = "; ".join(f"{b.where}: {b.what}: {b.got}, allowed {b.allowed}" for b in broken)
    fix = "; ".join(dict.fromkeys(b.fix for b in broken if b.fix))
    return DataRefused(
        f"these rows cannot be used: {first.where}: {first.what}: {first.got}", where=f"{report} shows examples; rejects/ has every row with its reasons",
        got=got if len(broken) > 1 else "", expected=first.allowed, fix=fix,
    )  # fmt: skip
