"""The command line's own behaviour: help with an example, exit codes, JSON on stdout alone."""

import json
import subprocess
import sys
import time

import pytest

from retain_pipelines.cli.app import FAMILIES
from retain_pipelines.cli.common import emit

VERBS = {verb.__name__: example for family in FAMILIES for verb, example in family.VERBS.items()}


def retain(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "retain_pipelines.cli", *arguments], capture_output=True, text=True, check=False
    )


def test_help_lists_every_verb_without_a_heavy_import() -> None:
    code = "import sys; import retain_pipelines.cli.app; bad = {'torch','transformers','kfp','mlflow','lm_eval','great_expectations','datasets','pandas'} & set(sys.modules); sys.exit(', '.join(bad) or 0)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr == ""
    shown = retain("--help").stdout
    for verb in (*VERBS, "run", "compile", "init", "doctor"):
        assert f"  {verb} " in shown, verb


def test_help_is_quick() -> None:
    times = []
    for _ in range(3):
        start = time.monotonic()
        retain("--help")
        times.append(time.monotonic() - start)
    assert min(times) < 2.0, "half a second on a quiet machine; this bound holds on a busy one"


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    done = retain(verb, "--help")
    assert done.returncode == 0
    assert f"Example: retain {verb}" in done.stdout.replace("\n", " ").replace("  ", " ")
    assert "--json" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "quikstart"], "did you mean 'quickstart'"),
        (["nosuchverb"], "nosuchverb"),
        (["run", "--nosuchflag"], "nosuchflag"),
    ],
)
def test_wrong_usage_is_exit_2_and_one_paragraph(arguments: list[str], words: str) -> None:
    done = retain(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_init_prints_a_recipe_that_loads(tmp_path_factory: pytest.TempPathFactory) -> None:
    from retain.resolve.recipe import load

    path = tmp_path_factory.mktemp("init") / "mine.yaml"
    path.write_text(retain("init", "quickstart").stdout, encoding="utf-8")
    assert load(str(path)) == load("quickstart")


def test_doctor_says_what_is_there_as_json() -> None:
    found = {finding["name"]: finding for finding in json.loads(retain("doctor", "--json").stdout)}
    assert found["torch"]["ok"]
    assert all(finding["fix"] for finding in found.values() if not finding["ok"])


def test_emit_writes_one_json_value(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"a": "é"}, True)
    assert json.loads(capsys.readouterr().out) == {"a": "é"}
