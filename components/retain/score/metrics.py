"""Per-item metrics of an answer against its reference, in [0, 1], higher is better; macro-F1 needs all of them at once."""

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from retain.score.config import TargetConfig

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")


def scorer(config: TargetConfig) -> Callable[[str, str], float]:
    """The function (answer, reference) → value of the configured metric."""
    table: dict[str, Callable[[str, str], float]] = {
        "exact_match": lambda answer, gold: float(normalised(answer, config) == normalised(gold, config)),
        "label_accuracy": lambda answer, gold: float(label(answer, config) == label(gold, config)),
        "f1": lambda answer, gold: token_f1(normalised(answer, config), normalised(gold, config)),
        "numeric_match": numeric_match, "json_valid": json_valid, "bleu": _bleu, "chrf": _chrf,
        "sql_valid": lambda answer, gold: sql_valid(answer, config.sql_dialect),
    }  # fmt: skip
    return _rouge(config.metric) if config.metric.startswith("rouge") else table[config.metric]


def values(answers: Sequence[str], golds: Sequence[str], config: TargetConfig) -> list[float]:
    """The configured metric's value of every row."""
    if config.metric == "macro_f1":
        return macro_f1_items(answers, golds, config)
    measure = scorer(config)
    return [measure(answer, gold) for answer, gold in zip(answers, golds, strict=True)]


def normalised(text: str, config: TargetConfig) -> str:
    """White space collapsed; case, punctuation and articles dropped where asked (SQuAD's rule, Rajpurkar et al. 2016)."""
    text = text.lower() if config.ignore_case else text
    if config.ignore_punctuation:
        text = "".join(letter for letter in text if letter not in string.punctuation)
        text = re.sub(r"\b(a|an|the)\b", " ", text, flags=re.IGNORECASE)
    return " ".join(text.split())


def label(text: str, config: TargetConfig) -> str:
    """The first line of an answer without marks around it: ` Positive.\\n…` is `positive`."""
    lines = [line for line in text.splitlines() if line.strip()]
    return normalised(lines[0], config).strip(string.punctuation + " ") if lines else ""


def token_f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall of words, counted with their multiplicity."""
    said, meant = answer.split(), gold.split()
    common = sum((Counter(said) & Counter(meant)).values())
    if not said or not meant:
        return float(said == meant)
    return 2 * common / (len(said) + len(meant))


def numeric_match(answer: str, gold: str) -> float:
    """Equality of the last number of both texts (for GSM8K, the number after ####)."""
    said, meant = _last_number(answer), _last_number(gold)
    return float(meant is not None and said is not None and abs(said - meant) <= 1e-6 * max(1.0, abs(meant)))


def _last_number(text: str) -> float | None:
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def json_valid(answer: str, gold: str) -> float:
    """1 for JSON of the same top-level shape as the reference: the same keys of an object, a list for a list."""
    said, meant = _json(answer), _json(gold)
    if said is None or type(said) is not type(meant):
        return 0.0
    return float(set(said) == set(meant)) if isinstance(said, dict) else 1.0


def _json(text: str) -> Any:
    try:
        return json.loads(text.strip().removeprefix("```json").removesuffix("```"))
    except ValueError:
        return None


def sql_valid(answer: str, dialect: str) -> float:
    """1 for one SQL statement that parses (sqlglot knows some thirty dialects, SQLite's own parser only one); nothing is run."""
    import sqlglot
    from sqlglot import exp

    text = answer.strip().removeprefix("```sql").removeprefix("```").removesuffix("```")
    try:
        found = [tree for tree in sqlglot.parse(text, dialect=dialect or None) if tree is not None]
    except (sqlglot.errors.ParseError, sqlglot.errors.TokenError):
        return 0.0
    return float(len(found) == 1 and isinstance(found[0], (exp.Query, exp.DML, exp.DDL, exp.Alter, exp.Drop)))


def _rouge(kind: str) -> Callable[[str, str], float]:
    from rouge_score.rouge_scorer import RougeScorer

    measure = RougeScorer([kind], use_stemmer=True)
    return lambda answer, gold: float(measure.score(gold, answer)[kind].fmeasure)


def _bleu(answer: str, gold: str) -> float:
    from sacrebleu.metrics import BLEU

    return float(BLEU(effective_order=True).sentence_score(answer, [gold]).score) / 100


def _chrf(answer: str, gold: str) -> float:
    from sacrebleu.metrics import CHRF

    return float(CHRF().sentence_score(answer, [gold]).score) / 100


def macro_f1(answers: Sequence[str], golds: Sequence[str], config: TargetConfig) -> float:
    """Mean over the reference labels of each label's F1; an answer outside them counts as a miss."""
    said, meant = [label(a, config) for a in answers], [label(g, config) for g in golds]
    return sum(_f1_of(name, said, meant) for name in sorted(set(meant))) / max(len(set(meant)), 1)


def macro_f1_items(answers: Sequence[str], golds: Sequence[str], config: TargetConfig) -> list[float]:
    """Each row's share in the macro-F1: the jackknife's pseudo-values n·F − (n − 1)·F without the row (Tukey 1958).

    Their mean is the macro-F1 with its first-order bias removed, and their spread its standard error: what lets a gate
    that compares rows in pairs decide on a measure that is no mean over rows.
    """
    said, meant = [label(a, config) for a in answers], [label(g, config) for g in golds]
    names = sorted(set(meant))
    hits = Counter(s for s, m in zip(said, meant, strict=True) if s == m)
    total = Counter(said) + Counter(meant)

    def score(without: Sequence[str], hit: bool) -> float:
        """Macro-F1 with one row's labels taken out of the counts."""
        less = Counter(without)
        ones = ((2 * (hits[n] - (hit and n in less)), total[n] - less[n]) for n in names)
        return sum(top / all_of if all_of else 0.0 for top, all_of in ones) / len(names)

    whole, n = score((), False), len(said)
    return [n * whole - (n - 1) * score((s, m), s == m) for s, m in zip(said, meant, strict=True)]


def _f1_of(name: str, said: Sequence[str], meant: Sequence[str]) -> float:
    hits = sum(s == m == name for s, m in zip(said, meant, strict=True))
    total = said.count(name) + meant.count(name)
    return 2 * hits / total if total else 0.0
