"""The comparison against a judge on loopback: values, both orders, price, memory, faults, and a key that is nowhere."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import KEY, Judge, answers_in

from retain.artifacts import read_scores
from retain.config import parse
from retain.errors import ConfigError, EnvironmentFault, IntegrityError, UsageError
from retain.gate.config import GatePolicy
from retain.gate.pairs import join
from retain.judge.config import JudgeConfig
from retain.judge.door import run
from retain.judge.questions import check
from retain.judge.work import Judged, judge
from retain.score.config import ScoreConfig

BASE = [*(f"an answer to {i}" for i in range(9)), "a good answer"]
# Better on 0 to 5, the same words on 6 and 7, as bad on 8, worse on 9.
CANDIDATE = [*(f"a good answer to {i}" for i in range(6)), BASE[6], BASE[7], "another answer", "other"]

Write = Callable[[Path, list[str]], Path]
Compare = Callable[..., Judged]


@pytest.fixture
def compare(server: Judge, write: Write, tmp_path: Path) -> Compare:
    """compare(**settings) → the comparison of BASE with CANDIDATE."""
    base, candidate = write(tmp_path / "base", BASE), write(tmp_path / "candidate", CANDIDATE)

    def make(**changes: Any) -> Judged:
        config = JudgeConfig(**{**endpoint(server), **changes})
        return judge(config, base, candidate, tmp_path / "b", tmp_path / "c", cache=tmp_path / "cache")

    return make


def endpoint(server: Judge) -> dict[str, Any]:
    return {"tasks": ["asked"], "endpoint": server.address, "model": "judge-1", "longest_wait_seconds": 0.2}


def test_values_counts_and_records(compare: Compare, server: Judge, tmp_path: Path) -> None:
    outcome = compare().tasks["asked"]
    assert (outcome.n, outcome.wins, outcome.ties, outcome.losses, outcome.same) == (10, 6, 3, 1, 2)
    assert outcome.win_rate == pytest.approx(0.75)
    assert outcome.low < 0.75 < outcome.high
    assert len(server.seen) == 16, "two orders of every pair whose answers differ"
    [pair] = join(read_scores(tmp_path / "b"), read_scores(tmp_path / "c"))
    assert pair.metric == "win_rate"
    assert set(pair.base) == {0.5}
    assert sorted(pair.tuned) == [0.0, 0.5, 0.5, 0.5, 1, 1, 1, 1, 1, 1]
    rows, meta = read_scores(tmp_path / "c")
    assert rows.num_rows == 20, "the scores that were there stay"
    assert meta["tasks"]["asked"]["mean"] == pytest.approx(0.75)
    assert (meta["judge"]["model"], meta["judge"]["tasks"]["asked"]["wins"]) == ("judge-1", 6)


def test_a_judge_that_likes_what_it_reads_first_decides_nothing(compare: Compare, server: Judge) -> None:
    server.say = lambda body: "[[1]]"
    outcome = compare().tasks["asked"]
    assert (outcome.win_rate, outcome.first_place, outcome.consistent) == (0.5, 1.0, 0.0)


def test_a_judge_that_likes_length_is_seen_through(server: Judge, write: Write, tmp_path: Path) -> None:
    """The candidate is longer in seven of ten, and the longer one always wins: at equal length there is no winner."""

    def longer(body: dict[str, Any]) -> str:
        one, two = map(len, answers_in(body))
        return "[[1]]" if one > two else "[[2]]"

    server.say = longer
    answers = ["x" * 19 if i < 7 else "x" for i in range(10)]
    base, candidate = write(tmp_path / "base", ["some words"] * 10), write(tmp_path / "candidate", answers)
    judged = judge(JudgeConfig(**endpoint(server)), base, candidate, tmp_path / "b", tmp_path / "c", cache=tmp_path)
    assert judged.tasks["asked"].win_rate == pytest.approx(0.7)
    assert judged.tasks["asked"].length_controlled == pytest.approx(0.5, abs=0.15)


def test_replies_are_paid_for_once(compare: Compare, server: Judge) -> None:
    prices = {"price_per_1k_input": 0.01, "price_per_1k_output": 0.1}
    bill = compare(**prices).bill
    assert (bill.asked, bill.kept, bill.tokens_in, bill.tokens_out) == (16, 0, 1600, 160)
    assert bill.cost == pytest.approx(1.6 * 0.01 + 0.16 * 0.1) == bill.cost_all
    again = compare(**prices).bill
    assert (again.asked, again.kept, again.cost) == (0, 16, 0)
    assert again.cost_all == bill.cost
    assert len(server.seen) == 16
    assert compare(criteria="politeness").bill.asked == 16


def test_a_bound_on_the_cost_holds_and_loses_nothing(compare: Compare, server: Judge) -> None:
    prices = {"price_per_1k_input": 10.0, "workers": 1}
    with pytest.raises(UsageError, match="cost more than it may"):
        compare(max_cost=3.5, **prices)
    assert 4 <= len(server.seen) < 16
    before = len(server.seen)
    assert compare(**prices).bill.kept == before


@pytest.mark.parametrize("status", [429, 500, 503])
def test_faults_that_pass_are_waited_for(status: int, compare: Compare, server: Judge) -> None:
    server.faults = [status] * 3
    assert compare().tasks["asked"].wins == 6


def test_faults_that_stay_end_the_step(compare: Compare, server: Judge) -> None:
    server.faults = [503] * 99
    with pytest.raises(EnvironmentFault, match="does not answer"):
        compare(retries=1)


def test_a_wrong_key_is_said_once_and_without_the_key(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", "sk-wrong")
    with pytest.raises(EnvironmentFault, match="environment variable OTHER_KEY") as caught:
        compare(api_key_env="OTHER_KEY")
    assert "sk-wrong" not in str(caught.value)


def test_a_refused_request_shows_what_the_server_says(compare: Compare) -> None:
    with pytest.raises(ConfigError, match="unknown field"):
        compare(token_field="max_completion_tokens")


def test_a_judge_without_verdicts(compare: Compare, server: Judge) -> None:
    server.say = lambda body: "both are fine"
    with pytest.raises(EnvironmentFault, match="16 of 16 replies"):
        compare()
    outcome = compare(max_unreadable_share=1).tasks["asked"]
    assert (outcome.unreadable, outcome.win_rate) == (16, 0.5)


def test_other_items_than_the_settings_say(compare: Compare, server: Judge, write: Write, tmp_path: Path) -> None:
    import pyarrow.compute as pc

    from retain.artifacts import write_scores

    rows, meta = read_scores(tmp_path / "candidate")
    write_scores(tmp_path / "candidate", rows.filter(pc.not_equal(rows["doc_id"], "3")).to_pylist(), meta)
    with pytest.raises(IntegrityError, match="candidate scores, task asked"):
        compare()


def test_tasks_that_cannot_be_judged(compare: Compare) -> None:
    with pytest.raises(ConfigError, match="not scored"):
        compare(tasks=["other"])
    with pytest.raises(ConfigError, match="no answers to judge"):
        compare(tasks=["target"])


def test_mistakes_are_found_before_anything_is_spent(settings: ScoreConfig, server: Judge) -> None:
    def with_judge(*tasks: str) -> ScoreConfig:
        return settings.model_copy(update={"judge": JudgeConfig(**{**endpoint(server), "tasks": list(tasks)})})

    advisory = parse(GatePolicy, {"benchmarks": {"asked": {"tier": "advisory"}}})
    check(with_judge("asked"), advisory)
    for tasks, policy, said in (
        (["asked"], GatePolicy(), "tier of its own"),
        (["other"], advisory, "not scored"),
        (["target"], advisory, "no answers"),
    ):
        with pytest.raises(ConfigError, match=said):
            check(with_judge(*tasks), policy)


@pytest.mark.parametrize(
    ("change", "differs"),
    [({"limit": 3}, "n"), ({"temperature": 0.5}, "asked"), ({"max_tokens": 64}, "asked"), ({"model": "m2"}, "asked")],
)
def test_every_setting_moves_something(change: dict[str, Any], differs: str, compare: Compare, server: Judge) -> None:
    compare()
    judged = compare(**change)
    assert (judged.tasks["asked"].n == 3) if differs == "n" else (judged.bill.asked == 16)


def test_the_door_without_tasks_hands_the_scores_on(compare: Compare, tmp_path: Path) -> None:
    folders = [str(tmp_path / name) for name in ("base", "candidate", "b2", "c2", "page.html")]
    assert run({}, *folders) == {}
    for name, copy in (("base", "b2"), ("candidate", "c2")):
        assert (tmp_path / copy / "items.parquet").read_bytes() == (tmp_path / name / "items.parquet").read_bytes()
    assert "Nothing was judged" in (tmp_path / "page.html").read_text()


def test_the_key_is_in_no_artifact_and_no_output(
    compare: Compare, server: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RETAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RETAIN_TRACKING", "later")
    server.faults = [429, 500]
    folders = [str(tmp_path / name) for name in ("base", "candidate", "b", "c", "page.html")]
    rates = run({"judge": {**endpoint(server), "price_per_1k_input": 0.01}}, *folders)
    assert rates["win_rate/asked"] == 0.75
    shown = capfd.readouterr()
    assert "win rate 75.0 %" in shown.out
    assert KEY not in shown.out + shown.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 10
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    page = (tmp_path / "page.html").read_text()
    assert "base shown first: answer 2; candidate shown first: answer 1" in page


def test_texts_are_escaped_on_the_page(server: Judge, write: Write, tmp_path: Path) -> None:
    from retain.judge.page import judge_page

    config = JudgeConfig(**endpoint(server))
    base, candidate = write(tmp_path / "base", ["<script>a</script>"] * 10), write(tmp_path / "candidate", BASE)
    page = judge_page(config, judge(config, base, candidate, tmp_path / "b", tmp_path / "c", cache=tmp_path))
    assert "&lt;script&gt;a" in page
    assert "<script>a" not in page


KILLED = """
import sys
from pathlib import Path
from retain.judge.config import JudgeConfig
from retain.judge.work import judge
config = JudgeConfig.model_validate_json(sys.argv[1])
here = Path(sys.argv[2])
judge(config, here / "base", here / "candidate", here / "b", here / "c", cache=here / "cache")
"""


def test_a_killed_comparison_goes_on_where_it_was(compare: Compare, server: Judge, tmp_path: Path) -> None:
    def slowly(body: dict[str, Any]) -> str:
        time.sleep(0.2)
        return "[[1]]"

    server.say = slowly
    config = JudgeConfig(**endpoint(server), workers=1)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen([sys.executable, "-c", KILLED, config.model_dump_json(), str(tmp_path)], env=environment)
    replies = tmp_path / "cache" / "replies.jsonl"
    deadline = time.monotonic() + 60
    while not (replies.is_file() and replies.read_bytes().count(b"\n") >= 3) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    with replies.open("ab") as stream:
        stream.write(b'{"key": "half')
    server.say = lambda body: "[[1]]"
    bill = compare(workers=1).bill
    assert bill.kept >= 3
    assert bill.asked + bill.kept == 16
