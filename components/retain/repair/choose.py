"""Which member of which family is gated once more, if any."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from retain.repair.config import Method, RepairConfig
from retain.repair.forecast import Forecast


@dataclass(frozen=True)
class Tried:
    """One member: its forecast against the baseline that it is least likely to pass."""

    method: Method
    forecast: Forecast

    @property
    def strength(self) -> float:
        return self.forecast.strength

    @property
    def probability(self) -> float:
        return self.forecast.probability


def worst(method: Method, by_baseline: Sequence[Sequence[Forecast]]) -> list[Tried]:
    """A family's members, each with the baseline that asks most of it, and the least of the gain it keeps."""
    return [_hardest(method, same) for same in zip(*by_baseline, strict=True)]


def _hardest(method: Method, same: Sequence[Forecast]) -> Tried:
    return Tried(method, replace(min(same, key=lambda f: f.probability), kept=min(f.kept for f in same)))


def worth(tried: Sequence[Tried], config: RepairConfig) -> list[Tried]:
    """Those that keep enough of what was learned: the gate asks for some gain only, and a repair could give nearly all of it away."""
    return [one for one in tried if one.forecast.kept >= config.least_kept]


def likely(tried: Sequence[Tried], config: RepairConfig) -> Tried | None:
    """The strongest member that is likely to pass: what was learned is kept as far as that."""
    good = [one for one in worth(tried, config) if one.probability >= config.likely]
    return max(good, key=lambda one: one.strength) if good else None


def choose(tried: Sequence[Tried], config: RepairConfig) -> Tried | None:
    """The strongest likely member of the first family that has one; else the best of all that keep enough; None below ``least``."""
    for method in config.methods:
        if found := likely([one for one in tried if one.method == method], config):
            return found
    best = max(worth(tried, config), key=lambda one: (one.probability, one.strength), default=None)
    return best if best and best.probability >= config.least else None
