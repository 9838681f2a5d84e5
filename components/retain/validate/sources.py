"""The files of a run as streams of records, each with its name, its format and its tally."""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from retain import digest
from retain.validate.config import DatasetSpec, ValidateConfig
from retain.validate.read import Record, records
from retain.validate.sample import Sample
from retain.validate.select import HEAD, nothing_selected, select
from retain.validate.shapes import detect

# A prompt belongs to the first split it is seen in, so the splits that must not leak come first.
ORDER = {"test": 0, "validation": 1, "train": 2}


@dataclass
class Source:
    """One entry of data.datasets: where its rows come from, and what became of them."""

    spec: DatasetSpec
    path: Path
    name: str
    format: str = ""
    columns: tuple[str, ...] = ()
    read: int = 0
    kept: int = 0
    rejected: int = 0
    returns: int = 0  # rows in which CR LF became LF
    tokens: Counter[int] = field(default_factory=Counter)  # length in tokens → rows
    reasons: Counter[str] = field(default_factory=Counter)  # of rejected rows
    warnings: Counter[str] = field(default_factory=Counter)  # of kept rows
    splits: Counter[str] = field(default_factory=Counter)  # of kept rows
    labels: Counter[str] = field(default_factory=Counter)  # classes of kept rows

    @property
    def label(self) -> str:
        """For a person: the name, and what its rows serve as."""
        return f"{self.name} ({self.spec.part}, {self.spec.split})"

    def records(self, config: ValidateConfig) -> Iterator[Record]:
        """The selected records. Raises DataRefused where nothing is selected."""
        found = select(self.spec, records(self.path, text_chars=config.text_chars), where=str(self.path))
        first = next(found, None)
        if first is None:
            raise nothing_selected(self.spec, str(self.path))
        return itertools.chain([first], found)

    def detect(self, chunk: list[Record]) -> None:
        """Fill ``format`` and ``columns`` from the first chunk that has a readable row."""
        rows = [record.value for record in chunk if record.value is not None][:HEAD]
        if rows and not self.format:
            self.columns = tuple(dict.fromkeys(name for row in rows for name in row))
            self.format = self.spec.format if self.spec.format != "auto" else detect(rows, where=str(self.path))

    def split_of(self, sample: Sample) -> str:
        """Where this row goes; rows with the same prompt go to the same side."""
        if self.spec.split != "train" or not self.spec.validation_share:
            return self.spec.split
        place = int(digest.of_json(sample.question)[7:23], 16) / 16**16
        return "validation" if place < self.spec.validation_share else "train"


def sources_of(specs: list[DatasetSpec], files: list[Path]) -> list[Source]:
    """One source per entry, in the entries' order."""
    return [Source(spec, path, name) for spec, path, name in zip(specs, files, _names(specs, files), strict=True)]


def held_out_first(sources: list[Source]) -> list[Source]:
    """The order in which rows are taken: test, validation, train."""
    return sorted(sources, key=lambda source: ORDER[source.spec.split])


def _names(specs: list[DatasetSpec], files: list[Path]) -> list[str]:
    """Names that tell files apart: two files of one name become ``train`` and ``train#2``; one file keeps one name."""
    taken: dict[str, list[Path]] = {}
    names = []
    for spec, path in zip(specs, files, strict=True):
        name = spec.name or _stem(path)
        paths = taken.setdefault(name, [])
        if path not in paths:
            paths.append(path)
        number = paths.index(path) + 1
        names.append(name if number == 1 else f"{name}#{number}")
    return names


def _stem(path: Path) -> str:
    return path.name.partition(".")[0] or path.name
