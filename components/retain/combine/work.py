"""Which adapter is which domain's: said by the mixture it was trained on, never by its place in a list.

KFP gives the results of a parallel loop as a list; an adapter names its mixture by digest, and a mixture names its sources.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from retain.artifacts import read_info, read_json
from retain.divide.work import domain_of, weights
from retain.errors import IntegrityError


def by_domain(adapters: Sequence[Path], mixtures: Sequence[Path]) -> dict[str, Path]:
    """Domain → adapter folder, sorted by domain. IntegrityError (6) where they do not pair one to one."""
    trained_on = {_domain_digest(path)[1]: _domain_digest(path)[0] for path in mixtures}
    found: dict[str, Path] = {}
    for adapter in adapters:
        card = read_json(adapter / "retain.json", schema="retain.adapter/1")
        domain = trained_on.get(card.get("mixture_digest", ""), "")
        if not domain or domain in found:
            raise IntegrityError("an adapter belongs to no mixture of this run", where=str(adapter), got=card.get("mixture_digest"), expected=f"one of {len(trained_on)} mixtures", fix="start the run again")  # fmt: skip
        found[domain] = adapter
    if len(found) != len(mixtures):
        raise IntegrityError("not every domain has an adapter", got=", ".join(sorted(found)), expected=", ".join(sorted(trained_on.values())))  # fmt: skip
    return dict(sorted(found.items()))


def _domain_digest(mixture: Path) -> tuple[str, str]:
    info = read_info(mixture, "retain.mixture/1")
    names = {domain_of(source["source"]) for source in info["sources"] if source["part"] == "target"}
    if len(names) != 1:
        raise IntegrityError("a mixture of one domain is wanted here", where=str(mixture), got=", ".join(sorted(names)))
    return names.pop(), info["digest"]


def weighted(text: str, found: Mapping[str, Path]) -> list[tuple[str, float]]:
    """(adapter folder, weight) of every domain, as ``merge_weights`` says."""
    return [(str(found[name]), weight) for name, weight in weights(text, list(found)).items()]
