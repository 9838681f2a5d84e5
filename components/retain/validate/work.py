"""The work of `validate`: rows in; fit rows to dataset/, unfit ones with their reasons to rejects/, and a page that tells."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retain.artifacts import RowWriter, check_writable
from retain.progress import Progress
from retain.validate import private, structure, wording
from retain.validate.config import DatasetSpec, ValidateConfig
from retain.validate.expectations import TOO_LONG, Suites, columns
from retain.validate.lengths import Lengths
from retain.validate.read import Record
from retain.validate.repeats import Repeats
from retain.validate.sample import Sample, sample
from retain.validate.sources import Source, held_out_first, sources_of
from retain.validate.verdict import Breach, breaches, refusal
from retain.validate.view import Examples, View, write_page

CHUNK_ROWS, CHUNK_CHARS = 20_000, 32_000_000


@dataclass(frozen=True)
class ValidateResult:
    """What came of the rows; every selected row is counted once, in ``rows`` or in ``rejected``."""

    rows: int
    rejected: int
    reasons: dict[str, int]  # rejected rows by reason; a row may have several
    warnings: dict[str, int]  # kept rows by what was noticed
    detected: dict[str, str]  # source → format of its rows
    counts: dict[str, int]  # "target/train" → rows
    digest: str  # of dataset/


def validate(
    config: ValidateConfig, specs: list[DatasetSpec], files: list[Path], model_dir: Path, dataset: Path, rejects: Path, report: Path
) -> ValidateResult:  # fmt: skip
    """Check every row of ``files`` (one per spec) against ``config`` and the base in ``model_dir`` (tokenizer only).

    Writes dataset/, rejects/ and the page ``report``. Raises ConfigError for a file or column that is not there,
    DataRefused (exit 7, after rejects/ and the page are written) where too many rows are unfit or too few are left.
    """
    for folder in (dataset, rejects, report.parent):
        check_writable(folder)
    run = Run(config, sources_of(specs, files), Lengths(config, model_dir), dataset, rejects)
    try:
        run.take_all()
    finally:
        run.close()
    return run.finish(report)


class Run:
    """One pass over all rows: memory is a chunk of rows and the hashes of all."""

    def __init__(
        self, config: ValidateConfig, sources: list[Source], lengths: Lengths, dataset: Path, rejects: Path
    ) -> None:
        self.config, self.sources, self.lengths = config, sources, lengths
        self.suites = Suites(config, lengths.limit)
        self.repeats = Repeats(config)
        self.examples = Examples(config.examples)
        self.dataset, self.rejects = RowWriter(dataset, "retain.dataset/1"), RowWriter(rejects, "retain.rejects/1")
        self.counts: Counter[str] = Counter()

    def take_all(self) -> None:
        with Progress("validate", unit="rows") as progress:
            for source in held_out_first(self.sources):
                for chunk in _chunks(source.records(self.config)):
                    self._take(source, chunk)
                    progress.advance(len(chunk), note=f"{self.rejects.count} rejected")

    def close(self) -> None:
        self.dataset.close()
        self.rejects.close()

    def _take(self, source: Source, chunk: list[Record]) -> None:
        source.detect(chunk)
        samples = [sample(record, source.format, self.config) for record in chunk]
        splits = [source.split_of(made) if made.payload else "" for made in samples]
        for made in samples:
            if made.payload is not None:
                self._look_at(made, source)
        self.lengths.count(samples)
        for made, split in zip(samples, splits, strict=True):
            if made.payload is not None and not self._is_lost(made):
                self.repeats.check(made, source.name, split)
        reasons = self._judged(samples)
        for made, split, found in zip(samples, splits, reasons, strict=True):
            self._settle(source, made, split, found)

    def _look_at(self, made: Sample, source: Source) -> None:
        structure.check(made, self.config)
        wording.check(made, self.config, refusals=source.spec.part != "safety")
        private.check(made, self.config)

    def _is_lost(self, made: Sample) -> bool:
        """Whether a row will be rejected for itself: what comes later is then no repetition of it."""
        too_long = _length(made) > self.lengths.limit and self._rejects(TOO_LONG)
        return too_long or any(map(self._rejects, made.counts))

    def _rejects(self, reason: str) -> bool:
        return self.config.act(reason) == "reject"

    def _judged(self, samples: list[Sample]) -> list[list[str]]:
        """The reasons of each sample, as the suite sees them."""
        table = {
            name: np.fromiter((s.counts.get(name, 0) for s in samples), np.int32, len(samples))
            for name in columns(self.config)
        }
        table["tokens"] = np.fromiter(map(_length, samples), np.int64, len(samples))
        reasons: list[list[str]] = [[] for _ in samples]
        for reason, places in self.suites.judge(table).items():
            for place in places:
                reasons[place].append(reason)
        return reasons

    def _settle(self, source: Source, made: Sample, split: str, reasons: list[str]) -> None:
        """Write the row to the one folder it belongs to, and count it."""
        source.read += 1
        for reason in reasons:
            detail = self._detail(made, reason)
            self.examples.add(
                reason, f"{source.path.name}, row {made.record.row}", detail, made.text or made.record.text()[:4000]
            )
        fatal = [reason for reason in reasons if made.payload is None or self._rejects(reason)]
        if made.payload is None or fatal:
            source.rejected += 1
            source.reasons.update(fatal)
            self.rejects.add(self._reject(source, made, reasons))
            return
        source.kept += 1
        source.warnings.update(reasons)
        source.splits[split] += 1
        source.tokens[made.tokens] += 1
        source.returns += made.returns
        if made.shape == "classification":
            source.labels[made.payload["label"]] += 1
        self.counts[f"{source.spec.part}/{split}"] += 1
        self.dataset.add({
            "id": f"{source.name}:{made.record.row}", "source": source.name, "part": source.spec.part, "split": split,
            "shape": made.shape, "weight": source.spec.weight, "payload": made.json,
        })  # fmt: skip

    def _detail(self, made: Sample, reason: str) -> str:
        if reason == TOO_LONG:
            return f"{made.tokens} tokens, the limit is {self.lengths.limit}"
        return made.details.get(reason, "")

    def _reject(self, source: Source, made: Sample, reasons: list[str]) -> dict[str, Any]:
        told = [f"{reason}: {detail}" if (detail := self._detail(made, reason)) else reason for reason in reasons]
        return {
            "file": str(source.spec.path),
            "row": made.record.row,
            "source": source.name,
            "reasons": told,
            "raw": made.record.text(),
        }

    def finish(self, report: Path) -> ValidateResult:
        """Close the folders, write the page, and refuse the rows if the suite says so."""
        broken = breaches(self.config, self.sources, self.counts, self.suites)
        detected = {source.label: source.format or "unreadable" for source in self.sources}
        totals = {"reasons": _sum(s.reasons for s in self.sources), "warnings": _sum(s.warnings for s in self.sources)}
        self.rejects.finish(reasons=totals["reasons"])
        info = {} if broken else self.dataset.finish(detected=detected, counts=dict(self.counts), **totals)
        write_page(report, self.view(broken))
        if broken:
            raise refusal(broken, report)
        return ValidateResult(
            self.dataset.count,
            self.rejects.count,
            **totals,
            detected=detected,
            counts=dict(self.counts),
            digest=info["digest"],
        )

    def view(self, broken: list[Breach]) -> View:
        return View(
            self.config, self.sources, broken, list(self.suites.outcomes.values()), self.examples, self.lengths.limit
        )


def _length(made: Sample) -> int:
    """Tokens that must fit the model at once; raw text is cut when it is packed, and has no such length."""
    return 0 if made.shape == "text" else made.tokens


def _sum(counters: Iterable[Counter[str]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return dict(total.most_common())


def _chunks(records: Iterator[Record]) -> Iterator[list[Record]]:
    chunk: list[Record] = []
    size = 0
    for record in records:
        chunk.append(record)
        size += len(record.raw or "")
        if len(chunk) >= CHUNK_ROWS or size >= CHUNK_CHARS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
