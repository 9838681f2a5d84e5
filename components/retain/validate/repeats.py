"""Rows that were seen before: exact and near duplicates, the same prompt in two splits or with two answers.

Memory: about 300 bytes a row for exact matters, about 1 kB a row with near duplicates.
"""

from typing import Any

import xxhash

from retain.validate.config import ValidateConfig
from retain.validate.sample import Sample

PERMUTATIONS, BANDS = 64, 16
SHINGLE = 5  # words
SOURCE_BITS = 16


class Repeats:
    """Remembers rows in the order they come; test and validation rows must come before train rows."""

    def __init__(self, config: ValidateConfig) -> None:
        self._config = config
        self._rows: dict[int, int] = {}  # hash of a row → place that had it first
        self._questions: dict[int, int] = {}  # hash of a prompt → place that had it first
        self._sources: list[
            tuple[str, str]
        ] = []  # (source, split); a place is a row number and an index into this, in one integer
        self._near = NearDuplicates(config.near_duplicate_similarity) if config.near_duplicate != "off" else None

    def check(self, sample: Sample, source: str, split: str) -> None:
        """Note whether this row, its prompt or nearly its text came before."""
        here = self._place(source, split, sample.record.row)
        row, question = _hash(sample.shape + sample.json), _hash(sample.shape + "?" + sample.question)
        if row in self._rows and self._where(self._rows[row])[1] == split:
            self._note(sample, "duplicate", f"same as {self._named(self._rows[row])}")
            return
        if question in self._questions:
            self._asked_before(sample, split, self._questions[question])
        self._rows.setdefault(row, here)
        self._questions.setdefault(question, here)
        if self._near is not None and (twin := self._near.add(sample.text, self._named(here))):
            self._note(sample, "near_duplicate", f"almost {twin}")

    def _asked_before(self, sample: Sample, split: str, first: int) -> None:
        """The row itself is new, so the same prompt in the same split has another answer."""
        asked = self._where(first)[1]
        if asked != split:
            self._note(sample, "leakage", f"its prompt is also in split {asked}: {self._named(first)}")
        else:
            self._note(sample, "conflicting_answers", f"same prompt, other answer: {self._named(first)}")

    def _place(self, source: str, split: str, row: int) -> int:
        if (source, split) not in self._sources:
            self._sources.append((source, split))
        return row << SOURCE_BITS | self._sources.index((source, split))

    def _where(self, place: int) -> tuple[str, str]:
        return self._sources[place & ((1 << SOURCE_BITS) - 1)]

    def _named(self, place: int) -> str:
        return f"{self._where(place)[0]}, row {place >> SOURCE_BITS}"

    def _note(self, sample: Sample, reason: str, detail: str) -> None:
        if self._config.act(reason) != "off":
            sample.note(reason, detail)


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


class NearDuplicates:
    """MinHash with locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman, Ullman, chapter 3) over word 5-grams."""

    def __init__(self, similarity: float) -> None:
        from rensa import RMinHashLSH

        self._similarity = similarity
        self._index = RMinHashLSH(threshold=similarity, num_perm=PERMUTATIONS, num_bands=BANDS)
        self._sketches: list[Any] = []
        self._names: list[str] = []

    def add(self, text: str, name: str) -> str:
        """The name of an earlier text at least as similar as asked for (estimated over 64 permutations), or an empty string."""
        from rensa import RMinHash

        sketch = RMinHash(num_perm=PERMUTATIONS, seed=42)
        sketch.update(_shingles(text))
        for key in self._index.query(sketch):
            if sketch.jaccard(self._sketches[key]) >= self._similarity:
                return self._names[key]
        self._index.insert(len(self._names), sketch)
        self._sketches.append(sketch)
        self._names.append(name)
        return ""


def _shingles(text: str) -> list[str]:
    words = text.lower().split()
    return [" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))]
