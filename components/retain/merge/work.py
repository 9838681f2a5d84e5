"""Merge: plan, stream, prove. ``model/`` counts as finished when manifest.json is there, and that is written last."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retain import digest, models
from retain.artifacts import check_writable, write_json
from retain.errors import ConfigError, EnvironmentFault, IntegrityError
from retain.merge import adapters as reading
from retain.merge import plan as planning
from retain.merge import stream
from retain.merge.adapters import Adapter
from retain.merge.config import MergeConfig
from retain.merge.tensors import Folder

KEPT_OF_TRAINING = (
    "method",
    "kind",
    "base_digest",
    "mixture_digest",
    "template_digest",
    "settings_digest",
    "checkpoint_key",
    "intruders",
)


@dataclass(frozen=True)
class MergeResult:
    """lost_percent: entries of changed tensors that rounding put back on the base's value. logit_difference,
    adapter_effect: root mean square in standard deviations of the logits (0 where no adapter can be attached to compare with)."""

    digest: str
    changed_tensors: int
    lost_percent: float
    logit_difference: float
    adapter_effect: float
    merge_seconds: float
    proof_seconds: float
    notes: tuple[str, ...]


def merge(
    config: MergeConfig, base_dir: Path, adapters: Sequence[tuple[Path, float]], model: Path, *, base_digest: str = ""
) -> MergeResult:
    """W + strength · Σ weight · ΔW as a Hugging Face folder ``model`` with proof.json and manifest.json.

    adapters: (peft adapter or changed weights, weight). base_digest: the base's digest where it is known already (else it
    is computed). Raises ConfigError for what cannot be merged, IntegrityError for damaged or foreign inputs, a NaN, a
    result that equals the base, or a proof that fails; EnvironmentFault for a full disk.
    """
    from retain.merge.proof import prove

    models.check_folder(base_dir)
    check_writable(model)
    (model / "manifest.json").unlink(missing_ok=True)
    base_digest = base_digest or digest.of_model(base_dir)
    start = time.monotonic()
    written, read, notes = write(config, base_dir, adapters, model, base_digest)
    middle = time.monotonic()
    lost, entries = sum(m.lost for m in written.moved.values()), sum(m.entries for m in written.moved.values())
    if entries == lost:
        raise IntegrityError("the merged model equals its base", where=str(model), got=f"{len(written.moved)} tensors to change, no entry moved", fix="the adapter is empty or too weak for this precision: train longer, or merge with dtype: fp32")  # fmt: skip
    files = _manifest(model, written.sha256)
    proof = prove(config, base_dir, read, model, written.moved)
    write_json(model / "proof.json", {"schema": "retain.proof/1", "base_digest": base_digest, "model_digest": digest.of_manifest(files), **proof})  # fmt: skip
    write_json(model / "manifest.json", _card(config, files, base_digest, read, notes))
    return MergeResult(
        digest.of_manifest(files), len(written.moved), 100 * lost / entries, proof["logits"]["rms_difference"], proof["logits"]["adapter_effect"],
        middle - start, time.monotonic() - middle, notes,
    )  # fmt: skip


def write(
    config: MergeConfig, base_dir: Path, adapters: Sequence[tuple[Path, float]], model: Path, base_digest: str
) -> tuple[stream.Written, list[tuple[Adapter, float]], tuple[str, ...]]:
    """The files without the proof: (what was written, the adapters as read, notes)."""
    if not adapters:
        raise ConfigError("nothing to merge", expected="at least one adapter")
    base = Folder(base_dir)
    try:
        read = [(reading.read(path, base), weight) for path, weight in adapters]
        for adapter, _ in read:
            _check_base(adapter, base_digest)
        plan = planning.make(config, base, read)
        written = stream.run(config, base, plan.files, model)
        _companions(plan, base_dir, [adapter for adapter, _ in read], model)
    except OSError as error:
        for left in model.glob("*.partial"):
            left.unlink()
        raise EnvironmentFault("the merged model could not be written", where=str(model), got=error.strerror or error, fix="free some space or choose another output folder") from error  # fmt: skip
    finally:
        base.close()
    return written, read, plan.notes


def _check_base(adapter: Adapter, base_digest: str) -> None:
    trained_on = adapter.training.get("base_digest", base_digest)
    if trained_on != base_digest:
        raise IntegrityError("this adapter was trained on another base", where=str(adapter.path), got=base_digest, expected=trained_on, fix="merge it into the base it was trained on")  # fmt: skip


def _companions(plan: planning.Plan, base_dir: Path, adapters: Sequence[Adapter], model: Path) -> None:
    for file in planning.companions(base_dir, adapters):
        shutil.copyfile(file, model / file.name)
    (model / "config.json").write_bytes(planning.model_settings(plan))
    names = {job.name: file for file, jobs in plan.files.items() for job in jobs}
    if len(plan.files) > 1 or (base_dir / "model.safetensors.index.json").is_file():
        size = sum(stream.job_bytes(job) for jobs in plan.files.values() for job in jobs)
        write_json(model / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": names})


def _manifest(model: Path, known: Mapping[str, str]) -> dict[str, str]:
    """Relative path → sha256; the weights' are known from the writing."""
    files = digest.model_files(model)
    return {p.name: known.get(p.name) or digest.of_file(p).removeprefix("sha256:") for p in files}


def _card(
    config: MergeConfig, files: dict[str, str], base_digest: str, read: Sequence[tuple[Adapter, float]], notes: tuple[str, ...]
) -> dict[str, Any]:  # fmt: skip
    training = [{k: a.training[k] for k in KEPT_OF_TRAINING if k in a.training} for a, _ in read]
    merged = [{"digest": a.digest, "weight": w, "kind": a.kind, "training": t} for (a, w), t in zip(read, training, strict=True)]  # fmt: skip
    return {
        "schema": "retain.manifest/1", "files": files, "model_digest": digest.of_manifest(files), "base_digest": base_digest,
        "method": config.method, "strength": config.strength, "first_layer": config.first_layer, "adapters": merged, "notes": list(notes),
    }  # fmt: skip
