"""The action that looks at the served model and starts a retraining: its shell lines as they stand.

How drift is decided is tested in tests/retain/drift, and on a real served model in tests/pipelines; here ``retain drift`` only
ends with the code in question, and every other verb is the real one, against a server that validates what it is sent.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kfp_server import World, serving

ROOT = Path(__file__).resolve().parents[2]
DIGESTS = f"cpu=sha256:{'a' * 64}\ngpu=sha256:{'b' * 64}\n"


def looked(folder: Path, host: str, code: int) -> subprocess.CompletedProcess[str]:
    (step,) = yaml.safe_load((ROOT / ".github/actions/drift/action.yml").read_text())["runs"]["steps"]
    call = folder / "retain"
    call.write_text(f'#!/bin/sh\n[ "$1" = drift ] && {{ echo "$@" >> {folder}/asked; exit {code}; }}\nexec {sys.executable} -m retain_pipelines.cli "$@"\n')  # fmt: skip
    call.chmod(0o755)
    given = {
        "RETAIN": str(call), "MODEL": "ticket-triage", "ROWS": "s3://data/labelled.jsonl", "RECIPE": "quickstart", "SETTINGS": "margin_points=3\n",
        "PARAMETERS": "data_window_days=28\n", "HOST": host, "NAMESPACE": "team", "PROFILE": "default", "REGISTRY": "registry.example.com/ml",
        "DIGESTS": DIGESTS,
    }  # fmt: skip
    assert set(given) == set(step["env"])
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths, "GITHUB_OUTPUT": str(folder / "output"), **given}
    return subprocess.run(["bash", "-ec", step["run"]], cwd=folder, env=environment, capture_output=True, text=True, check=False)  # fmt: skip


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("code", "ends", "runs"), [(0, 0, 0), (3, 0, 1), (4, 0, 0), (8, 8, 0)])
def test_a_retraining_is_started_where_the_model_fell_and_nowhere_else(
    code: int, ends: int, runs: int, tmp_path: Path
) -> None:
    world = World()
    with serving(world) as host:
        done = looked(tmp_path, host, code)
    assert done.returncode == ends, done.stderr
    assert (tmp_path / "asked").read_text() == "drift ticket-triage --recipe quickstart --rows s3://data/labelled.jsonl --out retain-drift --assume margin_points=3\n"  # fmt: skip
    assert len(world.runs) == runs
    for identity, run in world.runs.items():
        assert run.runtime_config.parameters["data_window_days"] == 28
        assert run.pipeline_spec["pipeline_spec"]["pipelineInfo"]["name"] == "retrain"
        assert (tmp_path / "output").read_text() == f"run={identity}\n"
    assert ("too few fresh rows" in done.stdout) is (code == 4)


def test_the_workflow_hands_on_what_the_action_asks_for() -> None:
    action = yaml.safe_load((ROOT / ".github/actions/drift/action.yml").read_text())
    workflow = yaml.safe_load((ROOT / ".github/workflows/drift.yml").read_text())
    given = workflow["jobs"]["look"]["steps"][-1]["with"]
    wanted = {name for name, entry in action["inputs"].items() if entry.get("required")}
    assert wanted <= set(given) <= set(action["inputs"])
