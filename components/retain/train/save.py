"""The end of a training: adapter/ in peft's layout (or changed weights in Hugging Face's), retain.json last."""

import math
import platform
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from retain import artifacts, digest
from retain.train import bottleneck, probe
from retain.train.config import MERGEABLE
from retain.train.memory import peak_memory
from retain.train.methods import kind
from retain.train.work import Run, TrainResult

SCHEMA = "retain.adapter/1"
Weights = dict[str, Any]  # name in the model → tensor
LIBRARIES = ("torch", "transformers", "peft")


def write_adapter(run: Run, folder: Path, model_dir: Path, provenance: dict[str, str], warned: tuple[str, ...]) -> TrainResult:  # fmt: skip
    """Write everything under ``folder``; without retain.json the folder counts as unfinished."""
    engine = run.engine
    measured = engine.final_facts()
    engine.head.restore()
    weights = engine.named_weights()
    if engine.args.should_save:  # the first process of several
        _write(run, weights, folder, model_dir, {"measured": measured, **provenance}, warned)
    engine.accelerator.wait_for_everyone()
    return _result(run, warned, _content(folder))


def _write(
    run: Run, weights: Weights, folder: Path, model_dir: Path, provenance: dict[str, Any], warned: tuple[str, ...]
) -> None:
    (folder / "retain.json").unlink(missing_ok=True)
    history, what = run.engine.watch.history, kind(run.engine.model)
    SAVERS[what](run, weights, folder)
    losses = {name: getattr(history, name) for name in ("train", "target_validation", "retention", "by_dataset")}
    artifacts.write_json(folder / "losses.json", {"schema": "retain.losses/1", **losses})
    card = _card(run, _result(run, warned, _content(folder)), model_dir, what, provenance)
    artifacts.write_json(folder / "retain.json", card)


def _content(folder: Path) -> str:
    return digest.of_manifest(
        {p.name: digest.of_file(p).removeprefix("sha256:") for p in sorted(folder.glob("*.safetensors"))}
    )


def _save_peft(run: Run, weights: Weights, folder: Path) -> None:
    """fp32 masters, so that a merge can round once; a start taken out of the base is subtracted again (rank 2r)."""
    model = run.engine.model
    own = {} if run.config.sharding == "fsdp" else dict(model.named_parameters())
    for name, parameter in own.items():  # soft prompts are computed by the model itself, from these
        if name in weights:
            parameter.data = weights[name]
    for settings in model.peft_config.values():
        settings.base_model_name_or_path = ""  # a path of this machine says nothing elsewhere; base_digest does
        if run.config.lora.init in ("corda", "eva"):  # how it started is in retain.json; a loader needs no data for it
            settings.corda_config = settings.eva_config = None
            settings.init_lora_weights = True if run.config.lora.init == "eva" else "corda"
    start = {"path_initial_model_for_weight_conversion": str(run.started)} if run.started else {}
    whole = {"state_dict": weights} if run.config.sharding == "fsdp" else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*changes the base weights.*")  # that is what is undone here
        model.save_pretrained(str(folder), safe_serialization=True, **start, **whole)
    (folder / "README.md").unlink(missing_ok=True)  # peft's card is an empty form


def _save_bottleneck(run: Run, weights: Weights, folder: Path) -> None:
    bottleneck.save(folder, run.config.bottleneck, weights)


def _save_probe(run: Run, weights: Weights, folder: Path) -> None:
    named = {name.rpartition(".")[2]: weight for name, weight in weights.items()}
    probe.save(folder, getattr(run.engine.model, probe.MARK), named)


def _save_weights(run: Run, weights: Weights, folder: Path) -> None:
    """Only the weights that could move, in the precision of the base."""
    run.engine.model.save_pretrained(str(folder), state_dict=weights)


SAVERS = {"peft": _save_peft, "bottleneck": _save_bottleneck, "probe": _save_probe, "weights": _save_weights}


def _result(run: Run, warned: tuple[str, ...], content: str) -> TrainResult:
    history = run.engine.watch.history
    state, optimizer = run.engine.state, run.engine.masters()
    at = history.best_step or state.global_step
    return TrainResult(
        method=run.config.method, steps=state.global_step, planned_steps=state.max_steps, best_step=at, stopped=history.stop,
        train_loss_nats=history.smoothed, target_validation_nats=_at(history.target_validation, at), retention_nats=_at(history.retention, at),
        base_target_validation_nats=_at(history.target_validation, 0), base_retention_nats=_at(history.retention, 0),
        trainable_parameters=sum(p.numel() for p in optimizer.sources), tokens=history.tokens, seconds=history.seconds,
        resumed_at=int(run.checkpoint.name.split("-")[1]) if run.checkpoint else 0, adapter_digest=content, peak_memory_bytes=peak_memory(str(run.engine.args.device)), warnings=warned,
    )  # fmt: skip


def _at(curve: list[list[float]], step: int) -> float:
    return next((value for at, value in curve if at == step), math.nan)


def _card(run: Run, result: TrainResult, model_dir: Path, what: str, provenance: dict[str, Any]) -> dict[str, Any]:
    config = run.config.model_dump(mode="json")
    losses = {name: getattr(result, name) for name in ("train_loss_nats", "target_validation_nats", "retention_nats", "base_target_validation_nats", "base_retention_nats")}  # fmt: skip
    return {
        "schema": SCHEMA, "kind": what, "method": run.config.method, "strength": 1.0, "mergeable": run.config.method in MERGEABLE,
        "base_digest": digest.of_model(model_dir), "mixture_digest": run.rows.info["digest"], "sources": [source["source"] for source in run.rows.info.get("sources", [])],
        "template_digest": run.rows.info.get("template_digest", ""), "settings_digest": digest.of_json(config), "adapter_digest": result.adapter_digest,
        "config": config, "checkpoint_key": run.engine.plan.place.key, "peak_memory_bytes": result.peak_memory_bytes, "seeds": {"train": run.config.seed}, "steps": result.steps, "best_step": result.best_step, "stopped": result.stopped,
        "losses": {name: value for name, value in losses.items() if math.isfinite(value)}, "trainable_parameters": result.trainable_parameters,
        "versions": {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()}, "warnings": list(result.warnings), "choices": list(run.engine.plan.choices.why), **provenance,
    }  # fmt: skip
