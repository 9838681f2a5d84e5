"""Write rows, run `validate` on a tiny base, read what came out."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from retain.artifacts import read_rows
from retain.config import parse
from retain.validate.config import DatasetSpec, ValidateConfig
from retain.validate.work import ValidateResult, validate


def chat(number: int, **changes: Any) -> dict[str, Any]:
    """One good row, different for every number."""
    turns = [
        {"role": "user", "content": f"Where is parcel {number}?"},
        {"role": "assistant", "content": f"Parcel {number} comes on monday."},
    ]
    return {"messages": turns, **changes}


def says(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


@dataclass(frozen=True)
class Out:
    """The three outputs of a run."""

    folder: Path

    def rows(self) -> list[dict[str, Any]]:
        return list(read_rows(self.folder / "dataset", "retain.dataset/1"))

    def payloads(self) -> list[dict[str, Any]]:
        return [json.loads(row["payload"]) for row in self.rows()]

    def rejects(self) -> list[dict[str, Any]]:
        return list(read_rows(self.folder / "rejects", "retain.rejects/1"))

    def reasons(self) -> dict[int, list[str]]:
        """Row number → codes of its reasons."""
        return {row["row"]: [reason.partition(":")[0] for reason in row["reasons"]] for row in self.rejects()}

    def page(self) -> str:
        return (self.folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def out(tmp_path: Path) -> Out:
    return Out(tmp_path / "out")


Check = Callable[..., ValidateResult]


@pytest.fixture
def check(tiny_base: Path, tmp_path: Path, out: Out) -> Check:
    """check(rows, spec=…, **settings): rows as JSON lines (or a text written as it is) through `validate`; few rows are enough."""

    def run(
        rows: Any, *, spec: dict[str, Any] | None = None, name: str = "rows.jsonl", **settings: Any
    ) -> ValidateResult:
        path = write(tmp_path / name, rows)
        return check_files([({"path": str(path), **(spec or {})})], tiny_base, out, **settings)

    return run


def check_files(specs: list[dict[str, Any]], base: Path, out: Out, **settings: Any) -> ValidateResult:
    """Several files through `validate`; a share of rejected rows stops nothing unless ``settings`` say so."""
    config = parse(ValidateConfig, {"max_rejected_share": 1, "min_rows": 0, **settings})
    files = [Path(spec["path"]) for spec in specs]
    folder = out.folder
    return validate(
        config,
        [parse(DatasetSpec, spec) for spec in specs],
        files,
        base,
        folder / "dataset",
        folder / "rejects",
        folder / "report.html",
    )


def write(path: Path, rows: Any) -> Path:
    if isinstance(rows, bytes):
        path.write_bytes(rows)
    else:
        text = rows if isinstance(rows, str) else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A tokenizer and a config that says 512 tokens: all that `validate` needs of a base."""
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    tiny_tokenizer.save_pretrained(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 512}))
    return folder
