"""The rows of a mixture as the training sees them."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retain import artifacts
from retain.errors import DataRefused


class Row(NamedTuple):
    """One tokenised row; ``labels[i]`` is ``input_ids[i]`` where that token is supervised, else -100.

    ``pair``: for an encoder-decoder ``input_ids`` is the source and ``labels`` the target, each of its own length.
    A row that judges answers has a ``rejected`` side beside its own, or says whether it is ``desirable``. A row that is
    ``classified`` carries one label more than tokens: the last token predicts its class index.
    """

    id: str
    part: str
    weight: float
    input_ids: np.ndarray
    labels: np.ndarray
    pair: bool = False
    source: str = ""
    rejected: "Row | None" = None
    desirable: bool | None = None
    classified: bool = False

    @property
    def kind(self) -> str:
        """What can be learnt from it."""
        if self.classified:
            return "classes"
        return "pairs" if self.rejected is not None else "judgements" if self.judged else "plain rows"

    @property
    def judged(self) -> bool:
        return self.rejected is not None or self.desirable is not None

    @property
    def predicted(self) -> np.ndarray:
        """Labels by the position that predicts them: a causal model's first token has nothing before it."""
        return self.labels if self.pair else self.labels[1:]

    @property
    def supervised(self) -> int:
        """Tokens that carry loss (of a judged row: of its own side)."""
        return int((self.predicted != artifacts.IGNORED_LABEL).sum())

    @property
    def tokens(self) -> int:
        own = len(self.input_ids) + (len(self.labels) if self.pair else 0)
        return own + (self.rejected.tokens if self.rejected else 0)


@dataclass(frozen=True)
class Mixture:
    """The rows of a mixture by their use, and what its info.json says."""

    train: list[Row]
    target_validation: list[Row]
    retention: list[Row]
    info: dict[str, Any]


def read_mixture(folder: Path, *, longest: int, pairs: bool = False) -> Mixture:
    """Rows of a ``mixture/`` (memory: all token ids); a row longer than ``longest`` tokens or without a single supervised token is refused."""
    info = artifacts.read_info(folder, "retain.mixture/1")
    kinds: dict[tuple[str, str], list[Row]] = {}
    too_long: list[Row] = []
    for table in artifacts.read_tables(folder):
        for split, row in _rows(table, pairs, classified=bool(class_names(info))):
            for side in (row, *([row.rejected] if row.rejected else [])):
                _check(side, folder)
                too_long += [side] if len(side.input_ids) > longest else []
            kinds.setdefault((split, row.part), []).append(row)
    if too_long:
        raise _too_long(too_long, longest, folder)
    train = [row for (split, _), rows in kinds.items() if split == "train" for row in rows]
    if not train:
        raise DataRefused(
            "there is no row to train on",
            where=str(folder),
            expected="rows with split train",
            fix="look into the mix's report: what the checks refused, and what was set aside for validation",
        )
    return Mixture(train, kinds.get(("validation", "target"), []), kinds.get(("validation", "replay"), []), info)


def class_names(info: dict[str, Any]) -> tuple[str, ...]:
    """Names of the classes of a mixture that was rendered for a classifier head, in the order of their indices."""
    return tuple(info.get("options", {}).get("class_names", ()))


def _rows(table: Any, pairs: bool, *, classified: bool) -> Iterator[tuple[str, Row]]:
    """(split, row) of one Arrow table of TOKEN_SCHEMA; token ids are views into it."""
    names, lists = ("id", "part", "split", "weight", "source", "desirable"), ("input_ids", "labels", "rejected_input_ids", "rejected_labels")  # fmt: skip
    plain = zip(*(table.column(name).to_pylist() for name in names), strict=True)
    tokens = zip(*(table.column(name).to_numpy(zero_copy_only=False) for name in lists), strict=True)
    for (name, part, split, weight, source, desirable), (ids, labels, other, other_labels) in zip(plain, tokens, strict=True):  # fmt: skip
        row = Row(name, part, weight, ids, labels, pairs, source, desirable=desirable)
        if classified and len(labels) == 1:
            nothing = np.full(len(ids), artifacts.IGNORED_LABEL, labels.dtype)
            row = row._replace(labels=np.concatenate([nothing, labels]), pair=False, classified=True)
        yield split, row if other is None else row._replace(rejected=row._replace(input_ids=other, labels=other_labels))


def _too_long(rows: list[Row], longest: int, folder: Path) -> DataRefused:
    """All of them at once: a person should not meet one after the other."""
    sources, most = Counter(row.source for row in rows), max(rows, key=lambda row: len(row.input_ids))
    told = ", ".join(f"{count} of {source or 'an unnamed source'}" for source, count in sources.most_common())
    return DataRefused(
        "a row is longer than the model can read" if len(rows) == 1 else f"{len(rows)} rows are longer than the model can read", where=f"{folder}, row {most.id}",
        got=f"{len(most.input_ids)} tokens in the longest; {told}", expected=f"at most {longest}", fix="lower template.max_seq_length",
    )  # fmt: skip


def check_tokens(rows: "Mixture", vocabulary: int, folder: Path) -> None:
    """Refuse tokens that the model has no state for (on a GPU they would end the whole process), and weights that are none."""
    for row in (*rows.train, *rows.target_validation, *rows.retention):
        for side in (row, *([row.rejected] if row.rejected else [])):
            low, high = int(side.input_ids.min()), int(side.input_ids.max())
            if low < 0 or max(high, int(side.labels.max())) >= vocabulary:
                raise DataRefused("a row has tokens that the model does not know", where=f"{folder}, row {row.id}", got=f"token {low if low < 0 else max(high, int(side.labels.max()))}", expected=f"0 to {vocabulary - 1}", fix="the rows were rendered for another model: run template and mix again")  # fmt: skip
        if not 0 < row.weight < math.inf:
            raise DataRefused("a row's weight is a number above 0", where=f"{folder}, row {row.id}", got=row.weight, fix="leave the row out to train without it")  # fmt: skip


def _check(row: Row, folder: Path) -> None:
    if len(row.input_ids) == 0:
        raise DataRefused("a row has no tokens", where=f"{folder}, row {row.id}", fix="drop the row")
    if not (row.pair or row.classified) and len(row.labels) != len(row.input_ids):
        raise DataRefused(
            "a row was rendered for an encoder-decoder, and this model is not one", where=f"{folder}, row {row.id}",
            got=f"{len(row.input_ids)} tokens and {len(row.labels)} labels", fix="render the rows again for this model",
        )  # fmt: skip
    if row.supervised == 0:
        raise DataRefused(
            "a row has no supervised token: it would train nothing",
            where=f"{folder}, row {row.id}",
            fix="check the template's mask, or drop the row",
        )


def total_weight(rows: Sequence[Row]) -> float:
    """Weight of all supervised tokens: what a step's loss is divided by. Judged rows count by themselves (`judged_weight`)."""
    return sum(row.weight * row.supervised for row in rows if not row.judged)


def judged_weight(rows: Sequence[Row]) -> float:
    """Weight of all rows that judge answers: what their loss is divided by."""
    return sum(row.weight for row in rows if row.judged)


def dataset_suffix(all_rows: Sequence[Row], own: Sequence[Row]) -> str:
    """What a metric of the rows of one dataset is called beside its name: "/name" where there are several, else ""."""
    return f"/{own[0].source}" if len({row.source for row in all_rows}) > 1 else ""


def crossed(rows: Sequence[Row]) -> list[Row]:
    """Each kto row's prompt with the answer of the row before it (the first with the last's), no longer than the longest row:
    what KTO measures the drift from the reference on (Ethayarajh et al. 2024, arXiv 2402.01306, section 4.2)."""
    judged = [row for row in rows if row.desirable is not None]
    longest = max((len(row.input_ids) for row in judged), default=0)
    return [_graft(row, other, longest) for row, other in zip(judged, [*judged[-1:], *judged[:-1]], strict=True)]


def _graft(row: Row, other: Row, longest: int) -> Row:
    if row.pair:
        return row._replace(labels=other.labels)
    end, start = (int(np.argmax(one.labels != artifacts.IGNORED_LABEL)) for one in (row, other))
    ids, labels = (
        np.concatenate([getattr(row, name)[:end], getattr(other, name)[start:]])[:longest]
        for name in ("input_ids", "labels")
    )
    return row._replace(input_ids=ids, labels=labels)
