"""The door of the step: what the run's page has when the rows were refused."""

import json
from pathlib import Path

import pytest

from retain import digest, tracking
from retain.validate.door import run


def test_the_page_of_refused_rows_is_kept_with_the_run(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RETAIN_RUN_ID", "refused")
    rows = [{"messages": [{"role": "user", "content": f"nobody answers {i}"}]} for i in range(20)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(file), "name": "rows", "part": "target", "split": "train", "digest": digest.of_file(file)}
    base = {"uri": str(tiny_llama), "revision": "main", "digest": digest.of_model(tiny_llama)}
    with pytest.raises(SystemExit) as left:
        run({}, [source], base, *(str(tmp_path / name) for name in ("dataset", "rejects", "report.html")))
    assert left.value.code == 7
    experiment = tracking.client().get_experiment_by_name("retain").experiment_id
    (kept,) = tracking.client().search_runs([experiment], "tags.`retain.stage` = 'validate'")
    assert [artifact.path for artifact in tracking.client().list_artifacts(kept.info.run_id)] == ["report.html"]
