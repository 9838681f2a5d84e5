"""Merge: plan, stream, prove. ``model/`` counts as finished when manifest.json is there, and that is written last."""

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retain import digest, models
from retain.artifacts import write_json
from retain.claims import claimed
from retain.errors import ConfigError, EnvironmentFault, IntegrityError
from retain.merge import adapters as reading
from retain.merge import plan as planning
from retain.merge import stream
from retain.merge.adapters import Adapter
from retain.merge.config import MergeConfig
from retain.merge.index import INDEX
from retain.merge.tensors import Folder

KEPT_OF_TRAINING = (
    "method",
    "kind",
    "base_digest",
    "mixture_digest",
    "sources",
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
    models.check_folder(base_dir)
    models.kind_of(base_dir)
    _check_weights(config, [weight for _, weight in adapters])
    folders = [base_dir, *(path for path, _ in adapters)]
    with claimed(model, folders):
        before = _seen(folders)
        result = _merged(config, base_dir, adapters, model, base_digest or digest.of_model(base_dir))
        if changed := {path for path, _ in before ^ _seen(folders)}:
            raise IntegrityError("an input was changed while it was merged", where=", ".join(sorted(changed)[:3]), fix="merge again when nothing writes there")  # fmt: skip
    return result


def _check_weights(config: MergeConfig, weights: Sequence[float]) -> None:
    turned = config.method == "slerp" and (min(weights, default=0) < 0 or not any(weights))
    if turned or not all(map(math.isfinite, weights)):
        raise ConfigError("these weights cannot be merged with", got=weights, expected="finite numbers" + (", none below 0 and one above" if turned else ""))  # fmt: skip


def _seen(folders: Sequence[Path]) -> set[tuple[str, tuple[int, ...]]]:
    """(file, what tells whether it was written to) of all model files in ``folders``: no byte of them is read."""
    files = [p for folder in folders for p in [*digest.model_files(folder), *folder.glob("adapter_config.json")]]
    return {(str(p), (s.st_size, s.st_mtime_ns, s.st_ino)) for p in files for s in [p.stat()]}


def _merged(config: MergeConfig, base_dir: Path, adapters: Sequence[tuple[Path, float]], model: Path, base_digest: str) -> MergeResult:  # fmt: skip
    from retain.merge.proof import prove

    start = time.monotonic()
    written, read, notes = write(config, base_dir, adapters, model, base_digest)
    middle = time.monotonic()
    lost, entries = sum(m.lost for m in written.moved.values()), sum(m.entries for m in written.moved.values())
    if entries == lost:
        raise IntegrityError("the merged model equals its base", where=str(model), got=f"{len(written.moved)} tensors to change, no entry moved", fix="the adapter is empty or too weak for this precision: train longer, or merge with dtype: fp32")  # fmt: skip
    files = written.sha256
    proof = prove(config, base_dir, read, model, written.moved)
    if odd := {p.relative_to(model).as_posix() for p in digest.model_files(model)} ^ set(files):
        raise IntegrityError("somebody else wrote into this folder", where=str(model), got=", ".join(sorted(odd)[:3]), fix="choose an output folder of its own")  # fmt: skip
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
        beside = _companions(plan, base_dir, [adapter for adapter, _ in read], model)
        written.sha256.update({name: digest.of_file(model / name).removeprefix("sha256:") for name in beside})
    except OSError as error:
        raise EnvironmentFault("the merged model could not be written", where=str(model), got=error.strerror or error, fix="free some space or choose another output folder") from error  # fmt: skip
    finally:
        base.close()
    return written, read, plan.notes


def _check_base(adapter: Adapter, base_digest: str) -> None:
    trained_on = adapter.training.get("base_digest", base_digest)
    if trained_on != base_digest:
        raise IntegrityError("this adapter was trained on another base", where=str(adapter.path), got=base_digest, expected=trained_on, fix="merge it into the base it was trained on")  # fmt: skip


def _companions(plan: planning.Plan, base_dir: Path, adapters: Sequence[Adapter], model: Path) -> list[str]:
    """The files beside the weights; their names."""
    made = ["config.json"]
    for file in planning.companions(base_dir, adapters):
        shutil.copyfile(file, model / file.name)
        made.append(file.name)
    (model / "config.json").write_bytes(planning.model_settings(plan))
    names = {job.name: file for file, jobs in plan.files.items() for job in jobs}
    if len(plan.files) > 1 or (base_dir / INDEX).is_file():
        size = sum(stream.job_bytes(job) for jobs in plan.files.values() for job in jobs)
        write_json(model / INDEX, {"metadata": {"total_size": size}, "weight_map": names})
        made.append(INDEX)
    return made


def _card(
    config: MergeConfig, files: dict[str, str], base_digest: str, read: Sequence[tuple[Adapter, float]], notes: tuple[str, ...]
) -> dict[str, Any]:  # fmt: skip
    training = [{k: a.training[k] for k in KEPT_OF_TRAINING if k in a.training} for a, _ in read]
    merged = [{"digest": a.digest, "weight": w, "kind": a.kind, "training": t} for (a, w), t in zip(read, training, strict=True)]  # fmt: skip
    return {
        "schema": "retain.manifest/1", "files": files, "model_digest": digest.of_manifest(files), "base_digest": base_digest,
        "method": config.method, "strength": config.strength, "first_layer": config.first_layer, "adapters": merged, "notes": list(notes),
    }  # fmt: skip
