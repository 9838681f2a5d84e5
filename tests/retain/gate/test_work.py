import json

import pytest

from retain.digest import of_json
from retain.errors import IntegrityError
from retain.gate.config import GatePolicy
from retain.gate.evidence import judge_evidence
from retain.gate.verdict import from_dict
from retain.gate.work import gate

SIX = {f"bench{i}": (1500, 0.0, 0.05) for i in range(6)}
GOOD = {**SIX, "target": (300, -0.4, 0.5)}
BAD = {**GOOD, "bench3": (1500, 0.06, 0.1)}


@pytest.fixture
def gated(tmp_path, scores_folder, draw, tuned_digest):
    def run(plan, policy=None, **more):
        base, tuned = draw(plan)
        left = scores_folder(tmp_path / "base", base)
        right = scores_folder(tmp_path / "tuned", tuned, tuned_digest)
        return gate(policy or GatePolicy(), left, right, tmp_path / "verdict", **more)

    return run


def test_an_unharmed_model_whose_target_improved_is_published(gated, tmp_path):
    verdict = gated(GOOD)
    assert (verdict.verdict, verdict.action, verdict.exit_code, verdict.reasons) == ("pass", "publish", 0, ())
    written = json.loads((tmp_path / "verdict" / "verdict.json").read_text())
    assert from_dict(written) == verdict
    assert len(written["benchmarks"]) == 6


def test_one_benchmark_that_fell_closes_the_gate(gated, tmp_path):
    verdict = gated(BAD)
    assert (verdict.verdict, verdict.action, verdict.exit_code) == ("regressed", "stop", 3)
    assert ("benchmark_drop", "bench3") in {(r.code, r.benchmark) for r in verdict.reasons}
    assert "bench3 fell by" in (tmp_path / "verdict" / "summary.md").read_text()


def test_the_evidence_alone_gives_the_same_verdict(gated, tmp_path):
    verdict = gated(BAD, GatePolicy(on_fail="repair", looks=4, seed=3), attempt=2, today="2026-01-01")
    assert judge_evidence(tmp_path / "verdict" / "evidence.json") == verdict
    assert verdict.action == "repair"


def test_evidence_that_was_touched_is_refused(gated, tmp_path):
    gated(GOOD)
    path = tmp_path / "verdict" / "evidence.json"
    body = json.loads(path.read_text())
    body["baselines"][0]["columns"]["tuned"][0] = 1.0 - body["baselines"][0]["columns"]["tuned"][0]
    path.write_text(json.dumps(body))
    with pytest.raises(IntegrityError, match="changed after"):
        judge_evidence(path)


def test_evidence_of_another_version_is_refused(gated, tmp_path):
    gated(GOOD)
    path = tmp_path / "verdict" / "evidence.json"
    body = json.loads(path.read_text())
    del body["repaired"], body["schema"], body["digest"]
    path.write_text(json.dumps({"schema": "retain.evidence/1", "digest": of_json(body), **body}))
    with pytest.raises(IntegrityError, match=r"lacks .*\n.*\n.*no repaired"):
        judge_evidence(path)


def test_the_summary_stays_within_ten_lines(gated, tmp_path):
    gated({**{f"b{i}": (400, 0.2, 0.3) for i in range(12)}, "target": (100, 0.3, 0.4)})
    assert 3 <= len((tmp_path / "verdict" / "summary.md").read_text().splitlines()) <= 10
