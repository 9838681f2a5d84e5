from xml.etree import ElementTree as ET

import pytest

from retain.config import parse
from retain.gate.ci import MARKER, annotations, comment, junit
from retain.gate.config import GatePolicy
from retain.gate.judge import judge

FINE = {f"bench{i}": (1500, 0.0, 0.05) for i in range(4)}
PLAN = {**FINE, "bench1": (1500, 0.08, 0.1), "guess": (400, 0.0, 0.1), "extra|<b>": (400, 0.0, 0.1), "target": (300, -0.4, 0.5)}  # fmt: skip
INTEGRITY = {"verdict": "integrity", "reasons": [{"code": "integrity", "benchmark": "", "got": "items\ndiffer 100%", "limit": 0.0, "items_needed": 0, "role": "base"}]}  # fmt: skip


@pytest.fixture
def verdict(scores, draw, tuned_digest):
    base, tuned = draw(PLAN)
    base["guess"] = [1.0, 0, 0, 0] * 100
    policy = parse(GatePolicy, {"benchmarks": {"extra|<b>": {"tier": "advisory"}}})
    return judge(scores(base, "sha256:b"), scores(tuned, tuned_digest), policy).as_dict()


def test_junit_has_a_case_for_every_condition(verdict):
    suite = ET.fromstring(junit(verdict))
    cases = {case.get("name"): case for case in suite}
    assert set(cases) == {*PLAN, "macro average", "gate"} - {"target"}
    failed = {name for name, case in cases.items() if case.find("failure") is not None}
    assert failed == {"bench1", "macro average"}
    assert cases["guess"].find("skipped") is not None
    assert [suite.get(k) for k in ("tests", "failures", "errors", "skipped")] == [str(len(cases)), "2", "0", "1"]


def test_an_unmet_target_fails_a_case(verdict):
    reason = {"code": "target_not_improved", "benchmark": "target", "got": 1.0, "limit": 0.0, "items_needed": 0, "role": "base"}  # fmt: skip
    suite = ET.fromstring(junit({**verdict, "reasons": [reason]}))
    assert (
        suite.find("testcase[@name='gate']/failure")
        .get("message")
        .startswith("the metric of the target rows (target) did not")
    )


def test_the_comment_has_the_table_and_cannot_be_broken_by_names(verdict):
    text = comment(verdict)
    assert text.startswith(MARKER)
    assert "regressed" in text
    assert "| extra\\|&lt;b> (advisory) |" in text
    assert all(line.count(" | ") == 5 for line in text.splitlines() if line.startswith("| "))
    assert "| target (target) |" in text


def test_nothing_lost_has_no_minus(scores, draw, tuned_digest):
    same = scores(draw({"bench": (400, 0.0, 0.0)})[0], tuned_digest)
    verdict = judge(same, same, parse(GatePolicy, {"target": {"rule": "none"}})).as_dict()
    assert "| +0.00 | +0.00 … +0.00 |" in comment(verdict)
    assert "-0.00" not in comment(verdict) + junit(verdict)


def test_annotations_are_single_lines(verdict):
    lines = annotations(verdict)
    assert lines[0].startswith("::error title=Regression gate regressed::")
    assert annotations(INTEGRITY) == ["::error title=Regression gate integrity::items%0Adiffer 100%25"]
    assert annotations({"verdict": "pass", "reasons": []}) == ["::notice title=Regression gate pass::the candidate may be published"]  # fmt: skip


def test_a_reviewer_is_told_of_waivers():
    rows = [{"benchmark": name, "who": "the owner", "why": "x", "until": "2999-01-01", "holds": name == "maths"} for name in ("maths", "facts")]  # fmt: skip
    said = {"verdict": "pass", "reasons": [], "benchmarks": [], "waivers": rows}
    told = (
        "Waived: maths by the owner until 2999-01-01; facts by the owner until 2999-01-01 (expired: it lifts nothing)"
    )
    assert f"- ⚠️ {told}" in comment(said)
    assert f"::warning title=Regression gate::{told}" in annotations(said)


def test_scores_that_cannot_be_compared_are_an_error():
    suite = ET.fromstring(junit(INTEGRITY))
    assert (suite.get("errors"), suite.get("failures")) == ("1", "0")
    assert "items differ" in comment(INTEGRITY)


def test_control_characters_do_not_break_the_xml(verdict):
    rows = [{**verdict["benchmarks"][0], "name": "a\x00\x1bb"}]
    assert ET.fromstring(junit({**verdict, "benchmarks": rows})) is not None
