"""A closed gate on a real (tiny) model is mended: chosen on dev, merged with its proof, and judged on the other items."""

import json
from pathlib import Path
from typing import Any

import pytest

from retain import digest
from retain.artifacts import read_json
from retain.errors import IntegrityError, UsageError
from retain.gate.config import GatePolicy
from retain.gate.evidence import judge_evidence, read_case
from retain.gate.split import is_dev
from retain.gate.work import gate
from retain.merge.config import MergeConfig
from retain.repair.config import RepairConfig
from retain.repair.work import Inputs, RepairResult, repair
from retain.score.config import ScoreConfig
from retain.score.work import score

POLICY: dict[str, Any] = {
    "macro_margin_points": 12.0,
    "defaults": {"max_drop": 12.0},
    "target": {"rule": "none"},
    "on_fail": "repair",
}
QUICK = MergeConfig(probe_rows=1, probe_tokens=8)


def inputs(world: Any, verdict: Path, **changes: Any) -> Inputs:
    return Inputs(**{"base": world.base, "base_digest": digest.of_model(world.base), "adapter": world.adapter, "model": world.folder / "model", "verdict": verdict, **changes})  # fmt: skip


@pytest.fixture(scope="module")
def verdict(world: Any) -> Path:
    return world.gate(POLICY)


def mend(world: Any, verdict: Path, out: Path, **settings: Any) -> RepairResult:
    config = RepairConfig(runs=500, **settings)
    return repair(config, QUICK, ScoreConfig(**world.settings), inputs(world, verdict), out / "model", out, cache=world.folder / "cache")  # fmt: skip


def test_the_gate_sets_items_apart_and_asks_for_a_repair(world: Any, verdict: Path) -> None:
    said = read_json(verdict / "verdict.json", schema="retain.verdict/1")
    assert (said["verdict"], said["action"]) == ("regressed", "repair")
    case, policy = read_case(verdict / "evidence.json")
    task = case.baselines[0].tasks[0]
    dev = int(is_dev(policy.seed, task.name, task.cluster, policy.dev_share).sum())
    assert said["benchmarks"][0]["n"] == len(task.base) - dev < len(task.base)


def test_it_is_repaired_chosen_on_dev_and_passes_on_the_other_items(world: Any, verdict: Path, tmp_path: Path) -> None:
    result = mend(world, verdict, tmp_path, likely=0.95)
    told = read_json(tmp_path / "repair.json", schema="retain.repair/1")
    assert result.chosen is not None
    assert result.chosen.strength < 1
    assert told["chosen"]["strength"] == result.chosen.strength
    assert told["attempt"] == 2
    assert result.digest == digest.of_model(tmp_path / "model") == told["model_digest"]
    assert read_json(tmp_path / "model" / "manifest.json", schema="retain.manifest/1")["strength"] == result.chosen.strength  # fmt: skip
    assert read_json(tmp_path / "model" / "proof.json", schema="retain.proof/1")["logits"]["adapter_effect"] > 0
    drops = [one.forecast.drop for one in result.tried if one.method == "strength"]
    assert drops[0] > drops[-1]
    score(ScoreConfig(**world.settings), tmp_path / "model", tmp_path / "scores")
    again = gate(GatePolicy(**POLICY), world.folder / "base-scores", tmp_path / "scores", tmp_path / "verdict", attempt=2, repaired=True)  # fmt: skip
    assert (again.verdict, again.action, again.attempt) == ("pass", "publish", 2)


def test_dev_scores_are_never_a_verdict_s_ground(world: Any, verdict: Path, tmp_path: Path) -> None:
    mend(world, verdict, tmp_path)
    scored = next((tmp_path / "scores").iterdir())
    with pytest.raises(IntegrityError, match="preview"):
        gate(GatePolicy(**POLICY), world.folder / "base-scores", scored, tmp_path / "no-verdict")


def test_a_second_sweep_computes_nothing_anew(world: Any, verdict: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    first = mend(world, verdict, tmp_path / "one")
    monkeypatch.setattr("retain.score.dial.load_engine", lambda *_: pytest.fail("a model was loaded"))
    second = mend(world, verdict, tmp_path / "two")
    assert (second.digest, second.tried) == (first.digest, first.tried)


def test_where_nothing_is_likely_no_attempt_is_spent_and_a_training_is_proposed(world: Any, tmp_path: Path) -> None:
    strict = world.gate({**POLICY, "macro_margin_points": 1.5, "defaults": {"max_drop": 1.5}}, "strict")
    result = mend(world, strict, tmp_path, strengths=[1.0, 0.9], methods=["strength", "depth", "intruders"])
    assert (result.digest, result.chosen) == ("", None)
    assert {one.method for one in result.tried} == {"strength", "depth", "intruders"}
    assert [change.key for change in result.changes] == [
        "data.replay.share"
    ]  # a LoRA from elsewhere: nothing else is known
    card = world.adapter / "retain.json"
    config = {"method": "full", "learning_rate": 1e-3, "num_train_epochs": 5.0}
    card.write_text(json.dumps({"schema": "retain.adapter/1", "config": config}))
    told = mend(world, strict, tmp_path / "again", strengths=[1.0, 0.9], methods=["strength"])
    card.unlink()
    assert [c.key for c in told.changes] == ["train.method", "train.learning_rate", "data.replay.share", "train.num_train_epochs"]  # fmt: skip
    assert not (tmp_path / "model" / "manifest.json").exists()
    assert read_json(tmp_path / "repair.json", schema="retain.repair/1")["chosen"] == {}


def test_a_repaired_model_is_not_repaired_again_and_its_evidence_says_so(world: Any, tmp_path: Path) -> None:
    said = gate(GatePolicy(**POLICY), world.folder / "base-scores", world.folder / "scores", tmp_path, attempt=2, repaired=True)  # fmt: skip
    assert (said.verdict, said.action) == ("regressed", "stop")
    assert judge_evidence(tmp_path / "evidence.json") == said
    with pytest.raises(UsageError, match="another verdict to a repair"):
        mend(world, tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("policy", "told"),
    [({"on_fail": "stop"}, "set no items apart"), ({"attempts": 1}, "another verdict"), ({"macro_margin_points": 45.0, "defaults": {"max_drop": 45.0}}, "weaker change does not help")],
)  # fmt: skip
def test_what_a_repair_cannot_follow_is_refused(world: Any, policy: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=told):
        mend(world, world.gate({**POLICY, **policy}, f"refused-{len(str(policy))}"), tmp_path)


def test_folders_that_do_not_belong_together_are_refused(world: Any, verdict: Path, noisy_adapter: Any, tmp_path: Path) -> None:  # fmt: skip
    other = noisy_adapter(tmp_path / "other", world.base, seed=9)
    scoring = ScoreConfig(**world.settings)
    with pytest.raises(IntegrityError, match="not made of this adapter"):
        repair(RepairConfig(), QUICK, scoring, inputs(world, verdict, adapter=other), tmp_path / "m", tmp_path / "o")
    with pytest.raises(IntegrityError, match="another model"):
        repair(RepairConfig(), QUICK, scoring, inputs(world, verdict, model=world.base), tmp_path / "m", tmp_path / "o")
    broken = json.loads((verdict / "evidence.json").read_text()) | {"attempt": 3}
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "evidence.json").write_text(json.dumps(broken))
    (tmp_path / "v" / "verdict.json").write_bytes((verdict / "verdict.json").read_bytes())
    with pytest.raises(IntegrityError, match="changed after it was written"):
        repair(RepairConfig(), QUICK, scoring, inputs(world, tmp_path / "v"), tmp_path / "m", tmp_path / "o")


def test_the_attempt_is_the_one_that_the_register_of_attempts_will_give(world: Any, registry_home: Path, tmp_path: Path) -> None:  # fmt: skip
    from retain.artifacts import read_scores
    from retain.gate import attempts
    from retain.gate.work import COUNTED

    policy, base = GatePolicy(**POLICY), world.folder / "base-scores"
    gate(policy, base, world.folder / "scores", tmp_path / "verdict", attempt=COUNTED)
    case, _ = read_case(tmp_path / "verdict" / "evidence.json")
    asked = attempts.question(read_scores(base), case, policy, "")
    assert (case.attempt, case.asked, attempts.coming(asked.key)) == (1, asked.key, 2)
    first = mend(world, tmp_path / "verdict", tmp_path / "one", methods=["strength"])
    others = [attempts.take(asked, f"sha256:{name}") for name in ("one", "two")]
    later = mend(world, tmp_path / "verdict", tmp_path / "two", methods=["strength"])
    told = [read_json(tmp_path / name / "repair.json", schema="retain.repair/1")["attempt"] for name in ("one", "two")]
    assert (others, told) == ([2, 3], [2, 4])  # less alpha is left, so less is likely to pass
    assert all(b.probability <= a.probability for a, b in zip(first.tried, later.tried, strict=True))
    assert sum(a.probability - b.probability for a, b in zip(first.tried, later.tried, strict=True)) > 0
    attempts.take(asked, "sha256:three")
    spent = mend(world, tmp_path / "verdict", tmp_path / "three")
    assert (spent.tried, spent.chosen) == ((), None)
    assert "attempt 5 would be beyond the 4" in spent.notes[0]
