"""Pipelines as IR YAML: the same object that a laptop runs is what a cluster gets."""

import tempfile
from pathlib import Path
from typing import Any

import yaml

PIPELINES = {"finetune-without-forgetting": "retain_pipelines.finetune:finetune"}


def spec_of(pipeline: Any) -> dict[str, Any]:
    """The compiled pipeline spec as a dict (the platform spec, where there is one, is the second document)."""
    return documents(pipeline)[0]


def documents(pipeline: Any) -> list[dict[str, Any]]:
    from kfp import compiler

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def load(name: str) -> Any:
    """A pipeline object by its name."""
    import importlib

    module, _, attribute = PIPELINES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def compile_all(folder: Path) -> list[Path]:
    """Write every pipeline's kept IR; without kfp's header comment, which changes at every compile."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in PIPELINES:
        path = folder / f"{name}.yaml"
        path.write_text(
            yaml.safe_dump_all(documents(load(name)), sort_keys=True, allow_unicode=True, width=120), encoding="utf-8"
        )
        written.append(path)
    return written
