"""Does a row hold an item of the gate? Runs of words in common, and near copies.

Three tests, in this order: a run of 13 words of an item (GPT-3, arXiv 2005.14165, appendix C); for an item of fewer
words, the whole of it, and for its short lines and tiny items a whole line of the row; and a near copy of an item or of one of its lines, found by MinHash and settled by the exact
Jaccard index of 3-word shingles. Words that stand in many items are the prompt's form and prove nothing.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from retain.mix.config import DecontaminationConfig

if TYPE_CHECKING:
    from retain.score.items import GateItem

# Scripts without spaces count each character as a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af\u0e00-\u0e7f"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
SHINGLE = 3
LINE_WORDS = 8  # shorter lines are compared only as part of their text
PERMUTATIONS = 128
BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Hit:
    """A row that holds an item: how it was seen, and the words or the Jaccard index that show it."""

    task: str
    doc_id: str
    item_text: str
    method: str  # ngram | whole | minhash
    evidence: str


def words(text: str) -> list[str]:
    """Lower-case words, compatibility forms unified (NFKC), punctuation dropped."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def _unlabelled(line: str) -> tuple[str, ...]:
    """The words of a line without a leading ``Question:`` or ``Answer:``."""
    spoken = words(line)
    return tuple(spoken[1:] if spoken[:1] in (["question"], ["answer"], ["q"], ["a"]) and ":" in line else spoken)


class ItemIndex:
    """The gate's items, ready to be compared with many rows."""

    def __init__(self, items: Iterable["GateItem"], config: DecontaminationConfig) -> None:
        self.items, self.config = list(items), config
        self._vocabulary: dict[str, int] = {}
        limits = self._limits()
        self._grams = _Grams(self._coded(), limits, config)
        self._copies = _Copies([item.text for item in self.items], limits, config)
        self._lines = self._whole_lines(limits)

    def _whole_lines(self, limits: Sequence[int]) -> dict[tuple[str, ...], int]:
        """What counts as a whole line of a row alone: tiny items, and an item's lines too short for a run of words."""
        found: dict[tuple[str, ...], list[int]] = {}
        for number, item in enumerate(self.items):
            spoken = tuple(words(item.text))
            lines = (
                {spoken}
                if len(spoken) < self.config.short_words
                else {_unlabelled(line) for line in item.text.split("\n")}
            )
            for line in lines:
                if line and (line == spoken or self.config.short_words <= len(line) < self.config.ngram_words):
                    found.setdefault(line, []).append(number)
        return {line: numbers[0] for line, numbers in found.items() if len(numbers) <= limits[numbers[0]]}

    def _limits(self) -> list[int]:
        """Per item: in how many items words may stand and still be an item's own; in a small task, a quarter of it."""
        sizes = Counter(item.task for item in self.items)
        return [min(self.config.common_items, max(2, sizes[item.task] // 4)) for item in self.items]

    def _coded(self) -> list[np.ndarray]:
        """Items as arrays of word numbers, from 1; 0 is a word that no item holds."""
        book = self._vocabulary
        return [
            np.array([book.setdefault(w, len(book) + 1) for w in words(item.text)], dtype=np.uint64)
            for item in self.items
        ]

    def find(self, text: str) -> Hit | None:
        """The first item that ``text`` holds, or None."""
        spoken = words(text)
        known = np.array([self._vocabulary.get(word, 0) for word in spoken], dtype=np.uint64)
        if (at := self._grams.find(known)) is not None:
            number, start, length = at
            method = "ngram" if length == self.config.ngram_words else "whole"
            return self._hit(number, method, " ".join(spoken[start : start + length]))
        for line in text.split("\n") if self._lines else ():
            if (whole := self._lines.get(_unlabelled(line))) is not None:
                return self._hit(whole, "whole", line.strip())
        if (copy := self._copies.find(text)) is not None:
            return self._hit(copy[0], "minhash", f"Jaccard {copy[1]:.2f}")
        return None

    def _hit(self, number: int, method: str, evidence: str) -> Hit:
        item = self.items[number]
        return Hit(item.task, item.doc_id, item.text, method, evidence)


class _Grams:
    """Runs of words as 64-bit polynomial hashes, compared exactly before they count."""

    def __init__(self, coded: Sequence[np.ndarray], limits: Sequence[int], config: DecontaminationConfig) -> None:
        self._coded = coded
        self._index: dict[int, tuple[np.ndarray, dict[int, tuple[int, int]]]] = {}
        sizes = {n for item in coded if (n := min(len(item), config.ngram_words)) >= config.short_words}
        for size in sorted(sizes, reverse=True):
            mine = [
                i
                for i, item in enumerate(coded)
                if len(item) == size or (size == config.ngram_words and len(item) > size)
            ]
            self._index[size] = _index(coded, mine, size, limits)

    def find(self, row: np.ndarray) -> tuple[int, int, int] | None:
        """(item, place in the row, words) of the first run in common."""
        for size, (hashes, places) in self._index.items():
            if len(row) < size:
                continue
            runs = _rolling(row, size)
            at = np.searchsorted(hashes, runs)
            for start in np.flatnonzero(hashes[np.minimum(at, len(hashes) - 1)] == runs) if len(hashes) else ():
                item, offset = places[int(runs[start])]
                if np.array_equal(self._coded[item][offset : offset + size], row[start : start + size]):
                    return item, int(start), size
        return None


def _index(
    coded: Sequence[np.ndarray], mine: list[int], size: int, limits: Sequence[int]
) -> tuple[np.ndarray, dict[int, tuple[int, int]]]:
    holders: Counter[int] = Counter()
    places: dict[int, tuple[int, int]] = {}
    for item in mine:
        runs = _rolling(coded[item], size).tolist()
        holders.update(set(runs))
        for offset, run in enumerate(runs):
            places.setdefault(run, (item, offset))
    kept = [run for run, count in holders.items() if count <= limits[places[run][0]]]
    return np.array(sorted(kept), dtype=np.uint64), places


def _rolling(row: np.ndarray, size: int) -> np.ndarray:
    """Hash of every window of ``size`` words (arithmetic modulo 2**64)."""
    count = len(row) - size + 1
    runs = np.zeros(max(count, 0), dtype=np.uint64)
    for offset in range(size):
        runs = runs * BASE + row[offset : offset + count]
    return runs


class _Copies:
    """Near copies of items and of their longer lines, by MinHash with locality-sensitive hashing (rensa)."""

    def __init__(self, texts: Sequence[str], limits: Sequence[int], config: DecontaminationConfig) -> None:
        from rensa import RMinHash, RMinHashLSH

        self._minhash, self._threshold = RMinHash, config.jaccard
        self._form = _form(texts, limits)
        self._units = [(number, shingles) for number, text in enumerate(texts) for shingles in self._own(text)]
        self._spoken = frozenset().union(*(shingles for _, shingles in self._units))
        # Bands of four rows: a pair with Jaccard .5 is seen with probability 1 − (1 − .5⁴)³² = .87, one with .6 with .99.
        self._lsh = RMinHashLSH(threshold=config.jaccard, num_perm=PERMUTATIONS, num_bands=PERMUTATIONS // 4)
        for key, (_, shingles) in enumerate(self._units):
            self._lsh.insert(key, self._sketch(shingles))

    def _own(self, text: str) -> Iterator[frozenset[str]]:
        """Shingles of the text and of its lines without the prompt's form, where enough are left to prove something."""
        for shingles in _units(text):
            own = shingles - self._form
            if len(own) > LINE_WORDS - SHINGLE:
                yield own

    def _sketch(self, shingles: Iterable[str]) -> object:
        return self._minhash.from_token_sets([sorted(shingles)], PERMUTATIONS, 1)[0]

    def find(self, text: str) -> tuple[int, float] | None:
        """(item, exact Jaccard index) of the nearest copy at or above the threshold."""
        if not self._units:
            return None
        best: tuple[int, float] | None = None
        for shingles in self._own(text):
            # No item can reach the threshold if too few of these shingles stand in any: nearly every row ends here.
            if len(shingles & self._spoken) < self._threshold * len(shingles):
                continue
            for key in self._lsh.query(self._sketch(shingles)):
                number, other = self._units[key]
                index = len(shingles & other) / len(shingles | other)
                if index >= self._threshold and (best is None or index > best[1]):
                    best = (number, index)
        return best


def _form(texts: Sequence[str], limits: Sequence[int]) -> frozenset[str]:
    """Shingles that stand in more items than an item's own words do."""
    holders: Counter[str] = Counter()
    first: dict[str, int] = {}
    for number, text in enumerate(texts):
        shingles = frozenset().union(*_units(text))
        holders.update(shingles)
        for shingle in shingles:
            first.setdefault(shingle, number)
    return frozenset(shingle for shingle, count in holders.items() if count > limits[first[shingle]])


def _units(text: str) -> Iterator[frozenset[str]]:
    """Shingles of the whole text and of each of its longer lines."""
    lines = text.split("\n")
    for part in dict.fromkeys([text, *lines]):
        spoken = words(part)
        if len(spoken) >= LINE_WORDS:
            yield frozenset(" ".join(spoken[i : i + SHINGLE]) for i in range(len(spoken) - SHINGLE + 1))
