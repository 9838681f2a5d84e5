"""One run becomes one training a domain: the name of a target source is its domain, general rows belong to all."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from retain.config import nearest
from retain.errors import ConfigError

FEWEST, MOST = 2, 64
Entry = dict[str, Any]


def domains(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """The domains that can be learned, sorted; ConfigError (2) for fewer than two, or for rows without a name."""
    target = [source for source in sources if source["part"] == "target"]
    if any(not source["name"] for source in target):
        raise ConfigError("data.datasets: a target source without a name", expected="name: the domain of its rows, equal in its train and test files")  # fmt: skip
    found = sorted({source["name"] for source in target if source["split"] == "train"})
    if not FEWEST <= len(found) <= MOST:
        raise ConfigError("data.datasets: this is no choice of domains", got=", ".join(found) or "none", expected=f"{FEWEST} to {MOST} names among the target sources of split train", fix="give each domain's files a name: of their own, or run finetune-without-forgetting")  # fmt: skip
    for name in sorted({source["name"] for source in target} - set(found)):
        near = nearest(name, found)
        raise ConfigError(f"data.datasets: nothing to learn '{name}' from", expected="a train file of the same name", fix=f"did you mean '{near}'?" if near else "")  # fmt: skip
    return found


def domain_of(source: str) -> str:
    """The domain of a row's source: validate numbers a second file of the same name (``north#2``)."""
    return re.sub(r"#\d+$", "", source)


def weights(text: str, names: Sequence[str]) -> dict[str, float]:
    """``billing=0.7, tickets=0.3`` as domain → weight; empty: the same for all, together 1.

    ConfigError (2) for a domain that is not there or is left out, and for a weight that is no positive number.
    """
    if not text.strip():
        return {name: 1.0 / len(names) for name in names}
    found: dict[str, float] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, mark, value = (part.strip() for part in entry.partition("="))
        if name not in names or not mark:
            near = nearest(name, list(names))
            raise ConfigError("merge_weights: no such domain", got=entry, expected=", ".join(f"{n}=WEIGHT" for n in names), fix=f"did you mean '{near}'?" if near else "")  # fmt: skip
        found[name] = _positive(entry, value)
    if missing := [name for name in names if name not in found]:
        raise ConfigError("merge_weights: a domain without a weight", got=text, expected=f"{missing[0]}=WEIGHT too")
    return found


def _positive(entry: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 2:
        raise ConfigError("merge_weights: this is no weight", got=entry, expected="a number above 0, at most 2")
    return value


def divide(sources: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> list[Entry]:
    """One entry a domain: its name, its sources and the ``settings`` that all trainings share."""
    return [{"domain": name, "sources": [dict(s) for s in sources if _belongs(s, name)], **settings} for name in domains(sources)]  # fmt: skip


def _belongs(source: Mapping[str, Any], domain: str) -> bool:
    return source["part"] != "target" or source["name"] == domain
