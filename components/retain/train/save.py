"""The end of a training: adapter/ in peft's layout (or changed weights in Hugging Face's), retain.json last."""

import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from retain import artifacts, digest
from retain.train.watch import History
from retain.train.work import Run, TrainResult

SCHEMA = "retain.adapter/1"
LIBRARIES = ("torch", "transformers", "peft")


def write_adapter(run: Run, folder: Path, model_dir: Path, provenance: dict[str, str], warnings: tuple[str, ...]) -> TrainResult:  # fmt: skip
    """Write everything under ``folder``; without retain.json the folder counts as unfinished."""
    (folder / "retain.json").unlink(missing_ok=True)
    engine, history = run.engine, run.engine.watch.history
    engine.head.restore()
    adapter = hasattr(engine.model, "peft_config")
    (_save_peft if adapter else _save_weights)(engine, folder)
    losses = {name: getattr(history, name) for name in ("train", "target_validation", "retention")}
    artifacts.write_json(folder / "losses.json", {"schema": "retain.losses/1", **losses})
    content = digest.of_manifest(
        {p.name: digest.of_file(p).removeprefix("sha256:") for p in sorted(folder.glob("*.safetensors"))}
    )
    result = _result(run, history, content, warnings)
    artifacts.write_json(
        folder / "retain.json", _card(run, result, model_dir, "peft" if adapter else "weights", provenance)
    )
    return result


def _save_peft(engine: Any, folder: Path) -> None:
    """fp32 masters, so that a merge can round once."""
    optimizer = engine.masters()
    for source, master in zip(optimizer.sources, optimizer.masters, strict=True):
        source.data = master.data
    engine.model.save_pretrained(str(folder), safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)  # peft's card is an empty form; ours is written by publish


def _save_weights(engine: Any, folder: Path) -> None:
    """Only the weights that could move, in the precision of the base."""
    moved = {id(p) for p in engine.masters().sources}
    weights = {
        name: p.detach().to(_base_dtype(engine.model)) for name, p in engine.model.named_parameters() if id(p) in moved
    }
    engine.model.save_pretrained(str(folder), state_dict=weights)


def _base_dtype(model: Any) -> torch.dtype:
    return model.dtype


def _result(run: Run, history: History, content: str, warnings: tuple[str, ...]) -> TrainResult:
    state, optimizer = run.engine.state, run.engine.masters()
    at = history.best_step or state.global_step
    return TrainResult(
        method=run.config.method, steps=state.global_step, planned_steps=state.max_steps, best_step=at, stopped=history.stop,
        train_loss_nats=history.smoothed, target_validation_nats=_at(history.target_validation, at), retention_nats=_at(history.retention, at),
        base_target_validation_nats=_at(history.target_validation, 0), base_retention_nats=_at(history.retention, 0),
        trainable_parameters=sum(p.numel() for p in optimizer.sources), tokens=history.tokens, seconds=history.seconds,
        resumed_at=int(run.checkpoint.name.split("-")[1]) if run.checkpoint else 0, adapter_digest=content, warnings=warnings,
    )  # fmt: skip


def _at(curve: list[list[float]], step: int) -> float:
    return next((value for at, value in curve if at == step), math.nan)


def _card(run: Run, result: TrainResult, model_dir: Path, kind: str, provenance: dict[str, str]) -> dict[str, Any]:
    config = run.config.model_dump(mode="json")
    losses = {name: getattr(result, name) for name in ("train_loss_nats", "target_validation_nats", "retention_nats", "base_target_validation_nats", "base_retention_nats")}  # fmt: skip
    return {
        "schema": SCHEMA, "kind": kind, "method": run.config.method, "strength": 1.0,
        "base_digest": digest.of_model(model_dir), "mixture_digest": run.rows.info["digest"],
        "template_digest": run.rows.info.get("template_digest", ""), "recipe_digest": digest.of_json(config), "adapter_digest": result.adapter_digest,
        "config": config, "seeds": {"train": run.config.seed}, "steps": result.steps, "best_step": result.best_step, "stopped": result.stopped,
        "losses": {name: value for name, value in losses.items() if math.isfinite(value)}, "trainable_parameters": result.trainable_parameters,
        "versions": {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()}, "warnings": list(result.warnings), **provenance,
    }  # fmt: skip
