"""Train a base on a mixture: rows in, adapter (or changed weights) out, resumable at any moment."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from retain import artifacts, digest
from retain.config import nearest
from retain.errors import ConfigError
from retain.steps import say
from retain.train import batches, load, places, rules, speed
from retain.train import device as on_device
from retain.train.attention import VARLEN
from retain.train.config import BESIDE_THE_RECIPE, TrainConfig, rate
from retain.train.memory import steady
from retain.train.method_config import MUTATING_STARTS
from retain.train.rows import Mixture, Row, check_tokens, class_names, read_mixture

AUTO_EVALUATIONS = 4  # a run


@dataclass(frozen=True)
class TrainResult:
    """What a training did; losses in nats per supervised token, NaN where there were no such rows."""

    method: str
    steps: int
    planned_steps: int
    best_step: int
    stopped: str  # why it ended before its last step, or ""
    train_loss_nats: float
    target_validation_nats: float
    retention_nats: float
    base_target_validation_nats: float
    base_retention_nats: float
    trainable_parameters: int
    tokens: int
    seconds: float
    resumed_at: int  # step; 0 = from the start
    peak_memory_bytes: int
    adapter_digest: str
    warnings: tuple[str, ...] = ()

    @property
    def tokens_per_second(self) -> float:
        """Real (unpadded) tokens, evaluations and checkpoints not counted."""
        return self.tokens / max(self.seconds, 1e-9)


def nothing(metrics: dict[str, float], step: int) -> None:
    """A log that nobody reads."""


def train(
    config: TrainConfig, mixture: Path, model_dir: Path, adapter: Path, checkpoints: Path,
    log: Callable[[dict[str, float], int], None] = nothing, *, provenance: Mapping[str, str] | None = None,
) -> TrainResult:  # fmt: skip
    """Train ``model_dir`` on ``mixture/`` and write ``adapter/`` (retain.json, losses.json, weights).

    ``log`` is called with metrics (units in their names) and the step. ``provenance`` (recipe_digest, template_digest, …)
    is copied into retain.json. Errors: DataRefused (no rows, all labels masked, a row too long), ConfigError (a target
    module that matches nothing, a knob that cannot act), IntegrityError (a checkpoint of another run), Diverged,
    EnvironmentFault (disk), Interrupted (a signal; a checkpoint was written).
    """
    from retain.train.save import write_adapter

    for folder in (adapter, *(() if config.checkpoint_uri else (checkpoints,))):
        artifacts.check_writable(folder)
    device = on_device.own(config)
    seeded(config.seed)
    if device == "cpu":
        steady()
    rules.check(config, device)
    with on_device.explained(config, device):
        base = load.load_base(config, model_dir, device)
        rows = read_mixture(mixture, longest=load.longest(base), pairs=base.config.is_encoder_decoder)
        check_tokens(rows, load.vocabulary(base), mixture)
        rules.check_rows(config, rows, str(mixture))
        run = _build(config, base, rows, checkpoints, model_dir, log, device)
        with _signals(run.engine):
            run.go()
    warned = (*rules.warnings(config), *run.notes, *run.engine.plan.place.lost)
    return write_adapter(run, adapter, model_dir, dict(provenance or {}), warned)


def _key(config: TrainConfig, rows: Mixture, model_dir: Path) -> str:
    settings = config.model_dump(mode="json", exclude=BESIDE_THE_RECIPE)
    return digest.of_json({"train": settings, "mixture": rows.info["digest"], "base": digest.of_model(model_dir)})


@dataclass(frozen=True)
class Run:
    """One training: its engine, where it goes on from, and what it was made of."""

    config: TrainConfig
    engine: Any
    rows: Mixture
    checkpoint: Path | None
    started: Path | None
    notes: tuple[str, ...] = ()

    def go(self) -> None:
        from retain.train.engine import run

        run(self.engine, self.checkpoint)


def _build(config: TrainConfig, base: Any, rows: Mixture, folder: Path, model_dir: Path, log: Callable[[dict[str, float], int], None], device: str) -> Run:  # fmt: skip
    from retain.train import checkpoints
    from retain.train.engine import Plan
    from retain.train.methods import Start, prepare
    from retain.train.watch import History, Watch

    model = prepare(Start(config, base, rows.train, model_dir, class_names(rows.info)))
    packed, note = load.packs(config, base)  # after the method's start, which may look at padded rows
    if note and os.environ.get("RANK", "0") == "0":
        say(note)
    shape = batches.Shape(config.micro_tokens, not packed, base.config.get_text_config().pad_token_id or 0)
    rows = weighed(config, model, rows, shape)
    steps, key = plan_steps(config, rows, shape), _key(config, rows, model_dir)
    evaluate = every(config.eval_steps, len(steps))
    place = places.Place(config.checkpoint_uri, folder, key)
    artifacts.check_writable(place.folder)
    place.fetch()
    choices = speed.for_model(speed.choose(config, rows.train, model_dir, device), config, recomputes=base.supports_gradient_checkpointing)  # fmt: skip
    if base.config._attn_implementation == VARLEN:
        choices = replace(choices, why=(*choices.why, "packed rows go through attention in one call (torch's varlen)"))
    plan = Plan(
        steps, sample(rows.target_validation, config), sample(rows.retention, config),
        (evaluate, evaluate if config.save_steps == "auto" else int(config.save_steps)), place, log, choices,
    )  # fmt: skip
    watch = Watch(History(), config.early_stopping, config.divergence_nats, len(steps), rate(config))
    found = checkpoints.find(config.resume, place.folder, key)
    engine = _engine(config)(config, model, plan, watch, device)
    return Run(config, engine, rows, found, _start(config, model, place.folder), (note,) if note else ())


def _engine(config: TrainConfig) -> Any:
    from retain.train.engine import Engine
    from retain.train.preference import PreferenceEngine
    from retain.train.probe_engine import ProbeEngine
    from retain.train.zero_engine import ZeroEngine

    if config.sharding == "zero2":
        return ZeroEngine
    return ProbeEngine if config.method == "probe" else Engine if config.objective == "sft" else PreferenceEngine


def _start(config: TrainConfig, model: Any, place: Path) -> Path | None:
    """What such a start took out of the base, kept to be given back at the end; the same seed makes it again after a kill."""
    if config.lora.init not in MUTATING_STARTS:
        return None
    model.save_pretrained(str(place / "start"))
    return place / "start"


def weighed(config: TrainConfig, model: Any, rows: Mixture, shape: batches.Shape) -> Mixture:
    """The training rows with the weights that the recipe gives them; validation rows stay as they are."""
    from retain.train.weighting import weigh

    names = {row.source for row in rows.train}
    if unknown := next((name for name in config.task_weights if name not in names), ""):
        raise ConfigError(
            "task_weights names a dataset that has no training row", where="train.task_weights", got=unknown, expected=", ".join(sorted(names)),
            fix=f"did you mean '{near}'?" if (near := nearest(unknown, sorted(names))) else "",
        )  # fmt: skip
    train = [row._replace(weight=row.weight * config.task_weights.get(row.source, 1.0)) for row in rows.train]
    return replace(
        rows, train=train if config.weighting.kind == "none" else weigh(config.weighting, model, train, shape)
    )


def plan_steps(config: TrainConfig, rows: Mixture, shape: batches.Shape) -> batches.Steps:
    order = batches.plan(
        len(rows.train), batch_rows=config.batch_rows, epochs=config.num_train_epochs, max_steps=config.max_steps, seed=config.seed
    )  # fmt: skip
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    return batches.Steps(
        rows.train, order, shape, rank=rank, world=world, crossed=config.objective == "kto", even=config.sharding != "none",
    )  # fmt: skip


def every(steps: int | str, total: int) -> int:
    """Steps between evaluations."""
    return max(1, -(-total // AUTO_EVALUATIONS)) if steps == "auto" else int(steps)


def sample(rows: list[Row], config: TrainConfig) -> list[Row]:
    """At most ``max_eval_rows`` rows, drawn with the seed, in their order."""
    if len(rows) <= config.max_eval_rows:
        return rows
    chosen = np.random.default_rng(config.seed).choice(len(rows), config.max_eval_rows, replace=False)
    return [rows[i] for i in sorted(chosen)]


def seeded(seed: int) -> None:
    from transformers import set_seed

    set_seed(seed)


@contextmanager
def _signals(engine: Any) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the running step, write a checkpoint and stop; a second one stops at once."""

    signals = 0  # to this process; engine.interrupted may also come from another one

    def ask(number: int, frame: Any) -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            raise KeyboardInterrupt
        engine.interrupted = True

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever owns it decides
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
