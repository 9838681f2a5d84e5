"""Repair: weaken the change until the gate should pass, chosen on dev items only; then merge once more, or propose a training."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retain import digest, models
from retain.artifacts import check_writable, read_json, write_json
from retain.errors import ConfigError, IntegrityError, UsageError
from retain.gate.verdict import SCHEMA as VERDICT
from retain.gate.verdict import Verdict, from_dict
from retain.merge.adapters import content_of
from retain.merge.config import MergeConfig
from retain.merge.work import merge
from retain.progress import Progress
from retain.repair.candidates import Family, family
from retain.repair.choose import Tried, choose, likely, worst
from retain.repair.config import Method, RepairConfig
from retain.repair.forecast import forecast
from retain.repair.proposal import Change, forget_less
from retain.repair.sweep import Closed, Sweep, closed
from retain.score.config import ScoreConfig
from retain.score.dial import Dial

SCHEMA = "retain.repair/1"


@dataclass(frozen=True)
class Inputs:
    """adapter: what was trained; model: its merge, as it was gated; verdict: the closed gate's folder; dataset: holds the
    target's rows; recipe: the resolved one, or empty."""

    base: Path
    base_digest: str
    adapter: Path
    model: Path
    verdict: Path
    dataset: Path | None = None
    recipe: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class RepairResult:
    """digest: of the repaired model, empty where no attempt is spent; changes: then the next training's."""

    digest: str
    chosen: Tried | None
    tried: tuple[Tried, ...]
    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    seconds: float


def repair(
    config: RepairConfig, merging: MergeConfig, scoring: ScoreConfig, inputs: Inputs, model: Path, out: Path, *,
    cache: Path | None = None, show: Callable[[Tried], None] = lambda tried: None,
) -> RepairResult:  # fmt: skip
    """Sweep, choose, and merge the chosen member into ``model``; ``out``/repair.json tells all of it.

    merging: precision and proof; strength and method are those of the gated model. scoring: as it was scored. cache: keeps finished dev scores (a killed sweep goes
    on there). Raises UsageError where no repair may follow the verdict, IntegrityError where the folders do not belong
    together.
    """
    check_writable(out)
    check_writable(model)
    start = time.monotonic()
    gate, manifest, said = _checked(inputs)
    merging = merging.model_copy(update={name: manifest[name] for name in ("method", "strength", "first_layer")})
    sweep = Sweep(scoring, gate, Dial(scoring, inputs.base, inputs.model), inputs.dataset, out / "scores", cache)
    tried, families, notes = _spent(gate) or _try_all(config, merging, inputs, gate, sweep, out, show)
    chosen = choose(tried, config)
    changes = () if chosen else tuple(forget_less(inputs.recipe or _training(inputs.adapter)))
    made = _merged(families[chosen.method], chosen, inputs, model) if chosen else ""
    result = RepairResult(made, chosen, tuple(tried), changes, tuple(notes), time.monotonic() - start)
    write_json(out / "repair.json", _told(config, gate, said, result))
    return result


def _checked(inputs: Inputs) -> tuple[Closed, Mapping[str, Any], Verdict]:
    """(the closed gate, manifest.json of the gated model, the verdict); IntegrityError unless verdict, model and adapter belong together."""
    models.check_folder(inputs.model)
    said = from_dict(_known(read_json(inputs.verdict / "verdict.json", schema=VERDICT)))
    ours = digest.of_model(inputs.model)
    if ours != said.candidate_digest:
        raise IntegrityError("this verdict is for another model", where=str(inputs.model), got=ours, expected=said.candidate_digest, fix="give the merged model that was gated")  # fmt: skip
    manifest = read_json(inputs.model / "manifest.json", schema="retain.manifest/1")
    merged = [entry["digest"] for entry in manifest["adapters"]]
    if merged != [content_of(inputs.adapter)]:
        raise IntegrityError("the gated model was not made of this adapter alone", where=str(inputs.adapter), got=content_of(inputs.adapter), expected=", ".join(merged))  # fmt: skip
    gate = closed(inputs.verdict, said)
    if gate.asks_target and inputs.dataset is None:
        raise UsageError("the target's rows are needed to see what a weaker change keeps of it", expected="the folder that validate wrote", fix="--dataset FOLDER")  # fmt: skip
    return gate, manifest, said


def _training(adapter: Path) -> Mapping[str, Any]:
    """What the adapter itself says of its training, in the shape of a recipe."""
    file = adapter / "retain.json"
    return {"train": read_json(file, schema="retain.adapter/1").get("config", {})} if file.is_file() else {}


def _known(value: dict[str, Any]) -> dict[str, Any]:
    if value["verdict"] == "integrity":
        raise UsageError("scores that cannot be compared cannot be repaired", fix="score both models again")
    return value


All = tuple[list[Tried], dict[Method, Family], list[str]]


def _spent(gate: Closed) -> All | None:
    """Nothing is scored for an attempt that could not pass any more."""
    most = gate.policy.attempts
    return ([], {}, [f"attempt {gate.attempt} would be beyond the {most} that these items allow: others spent them since"]) if gate.attempt > most else None  # fmt: skip


def _try_all(
    config: RepairConfig, merging: MergeConfig, inputs: Inputs, gate: Closed, sweep: Sweep, out: Path, show: Callable[[Tried], None]
) -> All:  # fmt: skip
    """Family after family, until one has a member that is likely to pass."""
    tried: list[Tried] = []
    families: dict[Method, Family] = {}
    notes: list[str] = []
    for method in config.methods:
        try:
            families[method] = family(method, config, merging, inputs.base, inputs.adapter, out / "intruders")
        except ConfigError as error:
            notes.append(f"{method} was not tried: {error.what} ({error.got})")
            continue
        found = _try(config, families[method], gate, sweep)
        for one in found:
            show(one)
        tried += found
        if likely(found, config):
            break
    if not tried:
        raise ConfigError("nothing could be tried", where="repair.methods", got="; ".join(notes), fix="add strength")
    return tried, families, notes


def _try(config: RepairConfig, family: Family, gate: Closed, sweep: Sweep) -> list[Tried]:
    with Progress(f"repair: {family.method}", total=len(config.strengths), unit="strengths") as progress:
        swept = []
        for strength in config.strengths:
            swept.append(sweep.at(family, strength))
            progress.advance(note=f"strength {strength:g}")
    return worst(family.method, [
        forecast(config.strengths, [member[i] for member in swept], plan, attempt=gate.attempt, runs=config.runs, seed=config.seed)
        for i, plan in enumerate(gate.plans)
    ])  # fmt: skip


def _merged(family: Family, chosen: Tried, inputs: Inputs, model: Path) -> str:
    """The one merge that is gated, with its proof."""
    settings = family.at(chosen.strength)
    return merge(settings, inputs.base, [(family.adapter, 1.0)], model, base_digest=inputs.base_digest).digest


def _told(config: RepairConfig, gate: Closed, said: Verdict, result: RepairResult) -> dict[str, Any]:
    plan = gate.plans[0]
    sizes = {side: {task.name: len(task.base) for task in getattr(plan, side)} for side in ("dev", "decision")}
    return {
        "schema": SCHEMA, "candidate_digest": gate.case.candidate_digest, "model_digest": result.digest, "attempt": gate.attempt,
        "gated": {"drop_points": said.macro["drop_points"], "gain_points": -said.target.get("drop_points", 0.0)},
        "policy": {"macro_margin_points": plan.policy.macro_margin_points, "target": plan.policy.target.as_parameter()},
        "config": config.as_parameter(), "items": sizes, "tried": [_row(one) for one in result.tried],
        "chosen": _row(result.chosen) if result.chosen else {}, "changes": [asdict(change) for change in result.changes],
        "notes": list(result.notes), "seconds": round(result.seconds, 1),
    }  # fmt: skip


def _row(one: Tried) -> dict[str, Any]:
    numbers = {k: round(v, 4) for k, v in asdict(one.forecast).items() if isinstance(v, float)}
    drops = {name: round(value, 4) for name, value in one.forecast.benchmarks.items()}
    return {"method": one.method, **numbers, "benchmarks": drops}
