import pytest

from retain.errors import ConfigError
from retain.gate.config import GatePolicy
from retain.plan.advice import advise, forgetting
from retain.plan.config import PlanConfig
from retain.plan.cost import break_even_queries, cost, device, expected_rate, flop_per_token
from retain.plan.power import Planned, PlannedTarget
from retain.plan.shapes import ModelShape
from retain.plan.work import RunFacts, plan
from retain.train.config import TrainConfig

EIGHT_B = ModelShape(8_030_261_248, 1_050_673_152, 525_336_576, 16_060_522_496, 32, 4096, 14336, 32, 8, 128, 128256, ())
FACTS = RunFacts(rows=2000, tokens=200_000, longest=256, replay_share=0.05)
SIX = [Planned(f"bench{i}", 1500, 0.08) for i in range(6)]


@pytest.fixture
def planned(tiny_llama):
    def run(train=None, facts=FACTS, **changes):
        return plan(PlanConfig(**changes), GatePolicy(), TrainConfig(**(train or {})), tiny_llama, facts, SIX, PlannedTarget(300, 20, 0.4))  # fmt: skip

    return run


def test_a_plan_has_every_part(planned):
    found = planned()
    assert (found.gate.word, found.method, found.fits, found.advice.way) == ("fine", "lora", True, "lora")
    assert set(found.memory) == {"lora", "qlora", "full"}
    assert found.cost.tokens == 400_000
    assert found.break_even > 0


def test_every_knob_moves_the_plan(planned):
    start = planned()
    assert planned(device="l4").cost.seconds > start.cost.seconds
    assert planned(devices=4).cost.seconds == pytest.approx(start.cost.seconds / 4)
    assert not planned(memory_gib=0.001).fits
    assert planned(price_per_hour=30).cost.price == pytest.approx(10 * start.cost.price)
    assert planned(utilisation=0.7).cost.seconds == pytest.approx(start.cost.seconds / 2)
    probed = planned(tokens_per_second=100)
    assert (probed.cost.seconds, probed.cost.source) == (4000, "measured by a probe")
    assert planned(prompt_tokens_saved=0).break_even == float("inf")
    assert planned(price_per_million_tokens=0.1).break_even == pytest.approx(2 * start.break_even)
    assert planned(queries=1e-9).advice.way == "prompting"
    assert planned(facts=RunFacts(60_000, 6_000_000, 256), shift="strong").advice.way == "full"
    assert planned(gate={"fine_power": 0.999}).gate.word == "weak"
    assert planned({"max_steps": 10}).cost.tokens == 10 * 8 * 100
    assert planned({"gradient_checkpointing": True}).memory["lora"].peak < planned({"micro_tokens": 4096}).memory["lora"].peak  # fmt: skip


def test_an_eight_billion_model_on_an_h100_agrees_with_what_is_published():
    """NeMo AutoModel: 12 473 tokens/s for LoRA, packed 4096, one H100: 41 % of the peak."""
    speed = expected_rate(EIGHT_B, "lora", device("h100"), devices=1, utilisation=0.41, row_tokens=4096, checkpointing=False)  # fmt: skip
    assert speed == pytest.approx(12_473, rel=0.15)
    lora, full, again = (flop_per_token(EIGHT_B, m, row_tokens=4096, checkpointing=c) for m, c in (("lora", False), ("full", False), ("full", True)))  # fmt: skip
    assert lora < full < again


def test_money():
    spent = cost(36_000_000, 10_000, devices=2, price_per_hour=3, source="")
    assert (spent.device_hours, spent.price) == (2.0, 6.0)
    assert break_even_queries(6, prompt_tokens_saved=1000, price_per_million_tokens=0.5) == pytest.approx(12_000)
    with pytest.raises(ConfigError, match="no such device"):
        device("abacus")


def test_advice_says_why():
    fits = {"lora_fits": True, "qlora_fits": True, "full_fits": True}
    base = {"rows": 5000, "queries": 0, "break_even": 1000, **fits}
    ways = [
        advise(**{**base, **change})
        for change in ({}, {"rows": 50}, {"queries": 10}, {"lora_fits": False}, {"lora_fits": False, "qlora_fits": False}, {"rows": 90_000, "shift": True}, {"rows": 90_000, "shift": True, "full_fits": False})
    ]  # fmt: skip
    assert [a.way for a in ways] == ["lora", "prompting", "prompting", "qlora", "prompting", "full", "lora"]
    assert all(a.reasons for a in ways)


def test_the_forgetting_band():
    usual = forgetting("lora", "mlp-only", learning_rate=1e-4, replay_share=0.0)
    assert (usual.low, usual.high) == (0.02, 0.05)
    assert forgetting("lora", "mlp-only", learning_rate=1e-4, replay_share=0.05).high < usual.high
    assert forgetting("full", "", learning_rate=5e-4, replay_share=0.0).high >= 0.4
    assert forgetting("lora", "mlp-only", learning_rate=1e-4, replay_share=0.0, rslora=True).high > usual.high
