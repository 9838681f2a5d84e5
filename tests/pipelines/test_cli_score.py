"""`retain score` with an adapter: one load, two scorings, and a gate that refuses the second."""

from pathlib import Path

import pytest

from retain import digest
from retain.artifacts import read_scores
from retain.errors import IntegrityError, UsageError
from retain.gate.pairs import join
from retain_pipelines.cli.models import score

from ..conftest import build_llama
from ..retain.score.conftest import tiny_tasks  # noqa: F401 (a fixture)
from ..retain.score.test_preview import adapter  # noqa: F401 (a fixture)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_HOME", str(tmp_path / "home"))


def test_an_adapter_is_scored_beside_its_base_and_no_gate_takes_it(
    tiny_llama: Path,
    tiny_tasks: Path,  # noqa: F811
    adapter: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {"tasks": "tiny_choice", "include_path": [tiny_tasks], "dtype": "fp32", "overrides": ["score.max_length=64", "target.metric=none"]}  # fmt: skip
    score(str(tiny_llama), adapter=str(adapter), out=tmp_path, limit=4, **settings)  # type: ignore[arg-type]
    base, candidate = (read_scores(tmp_path / name) for name in ("base", "candidate"))
    assert candidate[1]["model_digest"] == "adapter-preview"
    assert base[1]["tasks"]["tiny_choice"]["n"] == candidate[1]["tasks"]["tiny_choice"]["n"] == 4
    assert (base[1]["max_length"], base[1]["dtype"]) == (64, "fp32")
    assert "with the adapter" in capsys.readouterr().out
    with pytest.raises(IntegrityError, match="preview"):
        join(base, candidate)
    with pytest.raises(UsageError, match="not with the model in service"):
        score(str(tiny_llama), adapter=str(adapter), champion=str(tiny_llama), out=tmp_path, **settings)  # type: ignore[arg-type]
    other = build_llama(tmp_path / "other", seed=5)
    score(str(tiny_llama), adapter=str(adapter), baseline=str(other), out=tmp_path / "two", limit=4, **settings)  # type: ignore[arg-type]
    two = [read_scores(tmp_path / "two" / name)[1]["model_digest"] for name in ("base", "candidate")]
    assert two == [digest.of_model(other), "adapter-preview"]
