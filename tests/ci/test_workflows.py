"""The shell lines of the CI templates, run as they stand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_world import build_base, build_tasks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, one that forgot everything, and the tasks they are asked."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("ci")
    build_base(folder / "good")
    build_tasks(folder / "tasks")
    torch.manual_seed(3)
    broken = AutoModelForCausalLM.from_pretrained(str(folder / "good"))
    torch.nn.init.normal_(broken.lm_head.weight)
    broken.save_pretrained(str(folder / "broken"))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / "broken" / name).write_bytes((folder / "good" / name).read_bytes())
    return folder


def environment(models: Path, **more: str) -> dict[str, str]:
    paths = os.pathsep.join(p for p in sys.path if p)
    return {
        **os.environ,
        "PYTHONPATH": paths,
        "RETAIN_HOME": str(models / "home"),
        "RETAIN": f"{sys.executable} -m retain_pipelines.cli",
        **more,
    }


def tasks(models: Path) -> str:
    return ",".join(str(models / "tasks" / f"{name}.yaml") for name in ("colours", "sizes"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("candidate", "code", "word"), [("good", 0, "PASS"), ("broken", 3, "REGRESSED")])
def test_the_github_action_blocks_a_regression(
    models: Path, tmp_path: Path, candidate: str, code: int, word: str
) -> None:
    action = yaml.safe_load((ROOT / ".github" / "actions" / "gate" / "action.yml").read_text())
    script = action["runs"]["steps"][0]["run"]
    more = {
        "BASE": str(models / "good"),
        "CANDIDATE": str(models / candidate),
        "TASKS": tasks(models),
        "POLICY": "macro_margin_points=6\n",
        "DATA": str(models / "tasks" / "colours.jsonl"),  # any file: attempts are counted by what it holds
        "GITHUB_OUTPUT": str(tmp_path / "output"),
    }
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment(models, **more),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert (tmp_path / "output").read_text() == "comment=retain-gate/comment.md\n"
    assert word.lower() in (tmp_path / "retain-gate" / "comment.md").read_text().lower()
    assert (tmp_path / "retain-gate" / "junit.xml").read_text().startswith("<?xml")
    assert ("::error" in done.stdout) == (code != 0)
    evidence = json.loads((tmp_path / "retain-gate" / "verdict" / "evidence.json").read_text())
    assert bool(evidence["asked"]) == (candidate != "good")  # a model against itself is no attempt


@pytest.mark.timeout(300)
def test_the_gitlab_job_ends_with_the_gates_exit_code(models: Path, tmp_path: Path) -> None:
    job = yaml.safe_load((ROOT / ".gitlab" / "gate.yml").read_text())["retain-gate"]
    more = {
        "RETAIN_BASE": str(models / "good"),
        "RETAIN_CANDIDATE": str(models / "broken"),
        "RETAIN_TASKS": tasks(models),
    }
    done = subprocess.run(
        ["bash", "-ec", "\n".join(job["script"])],
        cwd=tmp_path,
        env=environment(models, **more),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert (tmp_path / "retain-gate" / "junit.xml").is_file()
