"""Compress: write, prove, name. The folder counts as finished when manifest.json is there, and that is written last."""

import shutil
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from retain import digest, models
from retain.artifacts import read_json, write_json
from retain.claims import claimed
from retain.compress.config import NONE, CompressConfig, Method
from retain.compress.prune import Zeros
from retain.errors import ConfigError, EnvironmentFault, IntegrityError
from retain.merge.tensors import Folder

SCHEMA = "retain.compression/1"
MIB = 1 << 20


@dataclass(frozen=True)
class CompressResult:
    """size_mib, before_mib: of the weight files. zeros_percent: entries that are 0 in the pruned tensors (0: none pruned).
    kl_nats, same_top_percent: drift of the answers (retain.compress.proof.drift)."""

    digest: str
    method: str
    before_mib: float
    size_mib: float
    zeros_percent: float
    kl_nats: float
    same_top_percent: float
    seconds: float
    notes: tuple[str, ...]


def compress(config: CompressConfig, model_dir: Path, out: Path) -> CompressResult:
    """A smaller form of the model in ``model_dir`` as the folder ``out``, with compression.json and manifest.json.

    It is another model with another digest: a verdict on the original does not hold for it. Raises ConfigError for what
    cannot be compressed so, EnvironmentFault for a library or disk space that is missing, IntegrityError for a damaged
    original or a result that equals it.
    """
    start = time.monotonic()
    if config.method == NONE:
        raise ConfigError("nothing is to be compressed", got=f"compress.method: {NONE}", expected=", ".join(get_args(Method)))  # fmt: skip
    _check(model_dir)
    with claimed(out, [model_dir]):
        return _compressed(config, model_dir, out, start)


def _compressed(config: CompressConfig, model_dir: Path, out: Path, start: float) -> CompressResult:
    from retain.compress.proof import drift

    origin = digest.of_model(model_dir)
    zeros, notes = _write(config, model_dir, out)
    files = digest.model_manifest(out)
    facts = _facts(config, model_dir, out, zeros)
    if facts["method"] in ("magnitude", "2:4") and _weights(files) == _weights(digest.model_manifest(model_dir)):
        raise IntegrityError("the compressed model equals the original", where=str(out), fix="raise compress.sparsity, or look whether it was pruned before")  # fmt: skip
    facts |= {"drift": drift(config, model_dir, out), "from_digest": origin, "model_digest": digest.of_manifest(files)}
    write_json(out / "compression.json", {"schema": SCHEMA, **facts})
    write_json(out / "manifest.json", _card(config, model_dir, files, origin, notes))
    return CompressResult(
        facts["model_digest"], config.method, facts["bytes_before"] / MIB, facts["bytes"] / MIB, 100 * facts["zeros_ratio"],
        facts["drift"]["kl_nats"], facts["drift"]["same_top_percent"], time.monotonic() - start, notes,
    )  # fmt: skip


def _check(model_dir: Path) -> None:
    models.quiet()
    models.check_folder(model_dir)
    models.kind_of(model_dir)
    if models.settings_of(model_dir).get("quantization_config") or not any(model_dir.glob("*.safetensors")):
        raise ConfigError("this model is packed already", where=str(model_dir), fix="compress the model it was made of")
    with closing(Folder(model_dir)):
        return  # every shard's header tells whether the file is whole


def _write(config: CompressConfig, model_dir: Path, out: Path) -> tuple[Zeros, tuple[str, ...]]:
    """(zeros by pruned tensor, notes)."""
    from retain.compress import ggufs, pack, prune

    zeros: Zeros = {}
    notes: list[str] = []
    try:
        if config.method in ("magnitude", "2:4"):
            zeros = prune.prune(config, model_dir, out)
        elif config.method == "gguf":
            notes = ggufs.write(config, model_dir, out)
        else:
            pack.pack(config, model_dir, out)
        _companions(model_dir, out, packed=config.method in ("int8", "nf4"), one_file=config.method == "gguf")
    except OSError as error:
        raise EnvironmentFault("the compressed model could not be written", where=str(out), got=error.strerror or error, fix="free some space or choose another output folder") from error  # fmt: skip
    return zeros, tuple(notes)


def _companions(model_dir: Path, out: Path, *, packed: bool, one_file: bool) -> None:
    """Tokenizer, template and generation settings as they were; config.json and index where the weights kept their form."""
    for file in digest.model_files(model_dir):
        own = (packed and file.name == "config.json") or ((packed or one_file) and file.name.endswith(".index.json"))
        if not file.name.endswith(digest.WEIGHTS) and not own:
            target = out / file.relative_to(model_dir)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def _weights(files: dict[str, str]) -> dict[str, str]:
    return {name: sha for name, sha in files.items() if name.endswith(digest.WEIGHTS)}


def _facts(config: CompressConfig, model_dir: Path, out: Path, zeros: Zeros) -> dict[str, Any]:
    sizes = [sum(p.stat().st_size for p in digest.model_files(folder) if p.name.endswith(digest.WEIGHTS)) for folder in (model_dir, out)]  # fmt: skip
    return {
        "method": config.method, "settings": config.as_parameter(), "bytes_before": sizes[0], "bytes": sizes[1],
        "zeros_ratio": sum(z for _, z in zeros.values()) / max(sum(n for n, _ in zeros.values()), 1),
        "zeros": {name: z / n for name, (n, z) in sorted(zeros.items())},
    }  # fmt: skip


def _card(config: CompressConfig, model_dir: Path, files: dict[str, str], origin: str, notes: tuple[str, ...]) -> dict[str, Any]:  # fmt: skip
    """manifest.json: how this model was made, and the whole manifest of the one it was made of (empty: from elsewhere)."""
    path = model_dir / "manifest.json"
    before = read_json(path, schema="retain.manifest/1") if path.is_file() else {}
    made_from = {"digest": origin, **{k: v for k, v in before.items() if k not in ("schema", "files", "model_digest")}}
    return {
        "schema": "retain.manifest/1", "files": files, "model_digest": digest.of_manifest(files),
        "compressed": config.method, "base_digest": before.get("base_digest", ""), "made_from": made_from, "notes": list(notes),
    }  # fmt: skip
