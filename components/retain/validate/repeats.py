"""Rows that were seen before: exact and near duplicates, the same prompt in two splits or with two answers.

Memory: about 200 bytes a row for exact matters, about 1 kB a row with near duplicates.
"""

from typing import Any

import xxhash

from retain.validate.config import ValidateConfig
from retain.validate.sample import Sample

PERMUTATIONS, BANDS = 64, 16
SHINGLE = 5  # words


class Repeats:
    """Remembers rows in the order they come; test and validation rows must come before train rows."""

    def __init__(self, config: ValidateConfig) -> None:
        self._config = config
        self._rows: dict[int, tuple[str, int, str]] = {}  # row → (source, row number, split) that had it first
        self._questions: dict[int, tuple[int, str, str, int]] = {}  # prompt → (answers, split, source, row number)
        self._near = NearDuplicates(config.near_duplicate_similarity) if config.near_duplicate != "off" else None

    def check(self, sample: Sample, source: str, split: str) -> None:
        """Note whether this row, its prompt or nearly its text came before."""
        row = _hash(sample.shape + sample.json)
        here = (source, sample.record.row, split)
        first = self._rows.setdefault(row, here)
        if first is not here and first[2] == split:
            self._note(sample, "duplicate", f"same as {first[0]}, row {first[1]}")
            return
        self._question(sample, row, here)
        if self._near is not None and (twin := self._near.add(sample.text, f"{source}, row {sample.record.row}")):
            self._note(sample, "near_duplicate", f"almost {twin}")

    def _question(self, sample: Sample, row: int, here: tuple[str, int, str]) -> None:
        source, number, split = here
        seen = (row, split, source, number)
        first = self._questions.setdefault(_hash(sample.shape + "?" + sample.question), seen)
        if first is seen:
            return
        if first[1] != split:
            self._note(sample, "leakage", f"its prompt is also in split {first[1]}: {first[2]}, row {first[3]}")
        elif first[0] != row:
            self._note(sample, "conflicting_answers", f"same prompt, other answer: {first[2]}, row {first[3]}")

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
