"""Which member is gated: the strongest likely one, the first method that has one, else the best that is worth an attempt."""

import pytest

from retain.repair.choose import Tried, choose, worst
from retain.repair.config import RepairConfig
from retain.repair.forecast import Forecast


def member(method: str, strength: float, probability: float, kept: float = 1.0) -> Tried:
    return Tried(method, Forecast(strength, 0.0, 0.0, 0.0, 0.0, {}, probability, kept))  # type: ignore[arg-type]


def chosen(config: RepairConfig, *members: Tried) -> tuple[str, float]:
    found = choose(members, config)
    return (found.method, found.strength) if found else ("", 0.0)


def test_the_strongest_likely_member() -> None:
    tried = [member("strength", s, p) for s, p in ((1.0, 0.1), (0.8, 0.81), (0.6, 0.95), (0.3, 0.7))]
    assert chosen(RepairConfig(), *tried) == ("strength", 0.8)
    assert chosen(RepairConfig(likely=0.9), *tried) == ("strength", 0.6)


def test_methods_in_their_order_then_the_best_then_none() -> None:
    weak = member("strength", 0.5, 0.7)
    assert chosen(RepairConfig(), weak, member("depth", 0.9, 0.85), member("intruders", 1.0, 0.99)) == ("depth", 0.9)
    assert chosen(RepairConfig(), weak, member("depth", 0.9, 0.6)) == ("strength", 0.5)
    assert chosen(RepairConfig(), weak, member("depth", 0.9, 0.7)) == ("depth", 0.9)  # as good, and keeps more
    assert chosen(RepairConfig(), member("strength", 0.3, 0.49)) == ("", 0.0)
    assert chosen(RepairConfig(least=0.4), member("strength", 0.3, 0.49)) == ("strength", 0.3)


def test_what_gives_the_gain_away_is_not_chosen_however_surely_it_would_pass() -> None:
    kept, given = member("strength", 0.5, 0.6, 0.9), member("strength", 0.3, 0.99, 0.4)
    assert chosen(RepairConfig(), kept, given) == ("strength", 0.5)
    assert chosen(RepairConfig(least_kept=0.3), kept, given) == ("strength", 0.3)
    assert chosen(RepairConfig(least_kept=0.95), kept, given) == ("", 0.0)
    assert chosen(RepairConfig(), given, member("depth", 0.3, 0.9)) == ("depth", 0.3)
    assert chosen(RepairConfig()) == ("", 0.0)


def test_the_baseline_that_asks_most_counts() -> None:
    easy, hard = (Forecast(0.5, d, d, 9.0, 9.0, {}, p, k) for d, p, k in ((0.1, 0.9, 0.7), (1.5, 0.4, 1.0)))
    found = worst("strength", [[easy], [hard]])[0].forecast
    assert (found.drop, found.probability, found.kept) == (1.5, 0.4, 0.7)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"strengths": [1.2, 0.5]}, "at most at 1"), ({"strengths": [0.5, 0.5]}, "twice"), ({"methods": ["depth", "depth"]}, "twice"),
        ({"methods": ["magic"]}, "strength"), ({"least": 0.9}, "likely"), ({"strengths": [0.5]}, "at least 2"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RepairConfig(**settings)


def test_strengths_come_as_text_from_a_form_and_are_sorted() -> None:
    assert RepairConfig(strengths="0.5, 1.0, 0.7").strengths == [1.0, 0.7, 0.5]  # type: ignore[arg-type]
