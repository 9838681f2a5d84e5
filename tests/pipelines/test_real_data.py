"""The main job on real public data (slow: tens of minutes on two cores). RETAIN_DATA names the folder of the data files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve()
DATA = Path(os.environ.get("RETAIN_DATA") or HERE.parents[3] / "shared" / "data")
TASKS = HERE.parents[1] / "bench" / "tasks"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not DATA.is_dir(), reason=f"REAL DATA IS MISSING: {DATA} is no folder; set RETAIN_DATA to run this"
    ),
]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["phrasebank", "wikisql"])
def test_the_target_rises_clearly_and_the_verdict_is_honest(name: str, tmp_path: Path) -> None:
    recipe = tmp_path / f"{name}.yaml"
    recipe.write_text(
        (HERE.parent / "real" / f"{name}.yaml").read_text(encoding="utf-8").replace("DATA/", f"{DATA}/"),
        encoding="utf-8",
    )
    runs = Path(os.environ.get("RETAIN_EVIDENCE_RUNS") or tmp_path / "runs")
    command = [
        sys.executable,
        "-m",
        "retain_pipelines.cli",
        "run",
        str(recipe),
        "--set",
        f"score.include_path=[{TASKS}]",
        "--runs",
        str(runs),
        "--json",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    found = json.loads(done.stdout)
    target = found["verdict"]["target"]
    assert target["high"] < -10, f"the gain's 95 % interval starts above 10 points: {target}"
    assert {row["name"] for row in found["verdict"]["benchmarks"]} == {"arc_easy", "sciq", "hellaswag", "piqa"}
    assert found["exit_code"] in (0, 3, 4)
    assert bool(found["published"]) == (found["exit_code"] == 0)
