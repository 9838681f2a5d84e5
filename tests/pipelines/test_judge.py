"""The judge as a step of a local run: its win rate is in the verdict, as the advisory benchmark the policy makes of it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import KEY, serving

from retain.artifacts import read_scores, write_scores
from retain.config import parse
from retain.gate.config import GatePolicy
from retain.gate.work import gate
from retain.judge.config import JudgeConfig
from retain.judge.work import judge
from retain_pipelines import local
from retain_pipelines.endings import STOPS

from ..retain.gate.conftest import draw, rows_of  # noqa: F401 (fixtures)
from ..retain.judge.conftest import settings, write  # noqa: F401 (fixtures)

TOY = Path(__file__).with_name("toy_judge.py")
PATHS = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
POLICY = {"macro_margin_points": 3.0, "target": {"rule": "none"}, "benchmarks": {"asked": {"tier": "advisory"}}}


def with_reading(folder: Path, values: Any) -> None:
    """A benchmark of 1500 items beside the questions."""
    table, meta = read_scores(folder)
    facts = {"version": "1", "num_fewshot": 0, "fewshot_seed": 0, "metric": "acc"}
    write_scores(
        folder,
        [*table.to_pylist(), *rows_of({"reading": values}, 0.25, 1)],
        {**meta, "tasks": {**meta["tasks"], "reading": facts}},
    )


def test_a_local_run_asks_the_judge_and_shows_its_win_rate(
    write: Callable[..., Path],  # noqa: F811
    draw: Callable[..., Any],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {**PATHS, "RETAIN_HOME": str(tmp_path / "home"), "RETAIN_TRACKING": "later"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RETAIN_JUDGE_API_KEY", KEY)
    base = write(tmp_path / "base", [f"an answer to {i}" for i in range(10)])
    candidate = write(tmp_path / "candidate", [f"a good answer to {i}" if i < 5 else f"answer {i}" for i in range(10)])
    before, same = draw({"reading": (1500, 0.0, 0.04)})
    with_reading(base, before["reading"])
    with_reading(candidate, same["reading"])
    spec = json.loads(subprocess.run([sys.executable, str(TOY)], capture_output=True, text=True, check=True).stdout)
    with serving() as server:
        scoring = {"judge": {"tasks": ["asked"], "endpoint": server.address, "model": "judge-1"}}
        arguments = {"scoring": scoring, "config": parse(GatePolicy, POLICY).as_parameter(), "base": str(base), "candidate": str(candidate)}  # fmt: skip
        ran = local.run(spec, arguments, tmp_path / "run", finals=("passed", *STOPS), cache=None, show=lambda line: None)  # fmt: skip
    assert (ran.exit_code, len(server.seen)) == (0, 20)
    verdict = json.loads(next((tmp_path / "run").glob("artifacts/*/gate/verdict/verdict.json")).read_text())
    [asked] = [row for row in verdict["benchmarks"] if row["name"] == "asked"]
    assert (asked["tier"], asked["drop_points"]) == ("advisory", -25.0)
    assert not [p for p in (tmp_path / "run").rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]


def test_in_a_retraining_two_win_rates_over_the_base_are_compared(
    write: Callable[..., Path],  # noqa: F811
    draw: Callable[..., Any],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The model in service wins two of ten against the base and the candidate five: the candidate gained 15 points."""
    monkeypatch.setenv("RETAIN_JUDGE_API_KEY", KEY)
    before, same = draw({"reading": (1500, 0.0, 0.04)})
    good = {"base": 0, "champion": 2, "candidate": 5}
    folders = {name: write(tmp_path / name, [f"a good answer to {i}" if i < n else f"answer {i}" for i in range(10)]) for name, n in good.items()}  # fmt: skip
    for name, folder in folders.items():
        with_reading(folder, (before if name == "base" else same)["reading"])
    with serving() as server:
        config = JudgeConfig(tasks=["asked"], endpoint=server.address, model="judge-1")
        for name in ("champion", "candidate"):
            judge(config, folders["base"], folders[name], tmp_path / "b", tmp_path / f"judged-{name}", cache=tmp_path / "cache")  # fmt: skip
        policy = {**POLICY, "target": {"rule": "none", "champion_rule": "none"}}
        said = gate(parse(GatePolicy, policy), tmp_path / "b", tmp_path / "judged-candidate", tmp_path / "verdict", champion_scores=tmp_path / "judged-champion")  # fmt: skip
    assert [baseline["role"] for baseline in said.baselines] == ["champion", "base"]
    assert {row["name"]: row["drop_points"] for row in said.benchmarks}["asked"] == pytest.approx(-15.0)
