"""Per-item records (retain.artifacts.ITEM_SCHEMA) of a leaf task, from lm-eval's own results."""

import json
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from retain.score import tasks
from retain.score.tasks import Leaf

NAN = float("nan")


def of_leaf(leaf: Leaf, truncated: Collection[Hashable]) -> Iterator[dict[str, Any]]:
    """One record per item and metric. The first filter's metrics keep their names, others read `metric,filter`."""
    better = leaf.task.higher_is_better()
    filters: list[str] = []
    for number, doc, asked, filter_name, values in tasks.results(leaf):
        if filter_name not in filters:
            filters.append(filter_name)
        suffix = "" if filter_name == filters[0] else f",{filter_name}"
        common = _of_item(leaf, number, doc, asked, (leaf.task.task_name, number) in truncated)
        for metric, raw in values.items():
            value = as_number(raw)
            if value is not None:
                yield {
                    **common,
                    "metric": metric + suffix,
                    "value": value,
                    "higher_is_better": _better(metric, raw, better),
                }


def primary(leaf: Leaf) -> str:
    """The metric a gate decides on: the asked one, else the task's first."""
    return leaf.spec.metric or next(iter(leaf.task.higher_is_better()))


def as_number(raw: Any) -> float | None:
    """A metric's per-item value as one number; None for what only makes sense over a whole task.

    lm-eval hands some metrics to their aggregation as pairs: (gold, predicted) becomes 0 or 1, (log-likelihood, words
    or bytes) the log-likelihood a word or byte, (gold, probabilities) the Brier score, a list of yes and no (IFEval's
    instructions) the share of yes.
    """
    if isinstance(raw, (bool, int, float, np.integer, np.floating)):
        return float(raw)
    if isinstance(raw, list) and raw and all(isinstance(one, bool) for one in raw):
        return sum(raw) / len(raw)
    if not isinstance(raw, (tuple, list)) or len(raw) != 2:
        return None
    first, second = raw
    if isinstance(second, (list, tuple, np.ndarray)) and isinstance(first, (int, np.integer)):
        return float(np.sum((np.asarray(second) - np.eye(len(second))[first]) ** 2))
    if isinstance(first, float) and isinstance(second, (int, np.integer)):
        return first / max(int(second), 1)
    if isinstance(first, (int, str, np.integer)) and isinstance(second, (int, str, np.integer)):
        return float(first == second)
    return None


def _better(metric: str, raw: Any, better: Mapping[str, Any]) -> bool:
    """Perplexities arrive as log-likelihoods, of which more is better whatever the task says of the perplexity."""
    if metric == "perplexity" or (isinstance(raw, (tuple, list)) and isinstance(raw[0], float)):
        return True
    return bool(better.get(metric, True))


def _of_item(leaf: Leaf, number: int, doc: dict[str, Any], asked: Sequence[Any], truncated: bool) -> dict[str, Any]:
    sha = tasks.doc_hash(doc)
    return {
        "task": leaf.benchmark, "task_version": leaf.version, "doc_id": leaf.doc_id(number), "doc_hash": sha,
        "cluster": tasks.cluster_of(doc), "stratum": leaf.stratum or str(doc.get("stratum", "")),
        "truncated": truncated, **_of_answer(leaf.task, doc, asked),
    }  # fmt: skip


def _of_answer(task: Any, doc: dict[str, Any], asked: Sequence[Any]) -> dict[str, Any]:
    if task.OUTPUT_TYPE == "multiple_choice":
        return _of_choices(task, doc, asked)
    response = asked[0].resps[0]
    target = "" if task.OUTPUT_TYPE == "loglikelihood_rolling" else as_text(task.doc_to_target(doc))
    probability = float(np.exp(min(response[0], 0.0))) if task.OUTPUT_TYPE == "loglikelihood" else NAN
    return {"chance": 0.0, "p_gold": probability, "output": as_text(response), "gold": target}


def _of_choices(task: Any, doc: dict[str, Any], asked: Sequence[Any]) -> dict[str, Any]:
    """p(gold): softmax over the choices' log-likelihoods divided by their length in characters (as acc_norm divides)."""
    choices = [str(choice) for choice in task.doc_to_choice(doc)]
    logs = np.array([instance.resps[0][0] for instance in asked[: len(choices)]])
    scaled = logs / np.array([max(len(choice), 1) for choice in choices])
    weights = np.exp(scaled - scaled.max())
    gold = _gold(task, doc, choices)
    return {
        "chance": 1.0 / len(choices), "p_gold": float(weights[gold].sum() / weights.sum()) if gold else NAN,
        "output": choices[int(logs.argmax())], "gold": " | ".join(choices[g] for g in gold),
    }  # fmt: skip


def _gold(task: Any, doc: dict[str, Any], choices: list[str]) -> list[int]:
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    places = [
        choices.index(g) if isinstance(g, str) and g in choices else g
        for g in (gold if isinstance(gold, list) else [gold])
    ]
    return [int(place) for place in places if isinstance(place, (int, np.integer)) and 0 <= place < len(choices)]


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
