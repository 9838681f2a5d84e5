import pytest

from retain.config import parse
from retain.errors import ConfigError
from retain.gate.config import GatePolicy


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"macro_margin_points": 0.01}, "did you mean 1.0"),
        ({"defaults": {"max_drop": 0.02}}, "did you mean 2.0"),
        ({"benchmarks": {"piqa": {"max_drop": 0.05}}}, "did you mean 5.0"),
        ({"target": {"min_gain_points": 0.03}}, "did you mean 3.0"),
        ({"macro_margin_points": 0}, "greater than 0"),
        ({"defaults": {"max_drop": -1}}, "greater than 0"),
        ({"benchmarks": {"piqa": {"max_drop": -1}}}, "above 0"),
        ({"weights": {"piqa": 0.5, "sciq": 0.2}}, "sum to 1"),
        ({"looks": 2}, "sequence of 4"),
        ({"marcro_margin_points": 1}, "did you mean 'macro_margin_points'"),
        ({"benchmarks": {"target": {"tier": "critical"}}}, "is the target"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        parse(GatePolicy, values, where="gate")


def test_a_named_benchmark_keeps_the_defaults_it_does_not_change():
    policy = parse(GatePolicy, {"defaults": {"max_drop": 2}, "benchmarks": {"mmlu": {"tier": "critical"}, "piqa": {"max_drop": 4}}})  # fmt: skip
    assert (policy.rule_for("mmlu").tier, policy.rule_for("mmlu").max_drop) == ("critical", 2)
    assert (policy.rule_for("piqa").tier, policy.rule_for("piqa").max_drop) == ("supporting", 4)
    assert policy.rule_for("other") == policy.defaults


def test_whole_numbers_may_come_as_floats_and_the_parameter_has_no_null():
    policy = parse(GatePolicy, {"looks": 4.0, "attempts": 2.0})
    assert (policy.looks, policy.attempts) == (4, 2)
    assert "null" not in policy.model_dump_json()
    assert parse(GatePolicy, policy.as_parameter()) == policy
