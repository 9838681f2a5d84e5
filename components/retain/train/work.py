"""Train a base on a mixture: rows in, adapter (or changed weights) out, resumable at any moment."""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retain import artifacts, digest, models
from retain.errors import ConfigError
from retain.train import batches
from retain.train.batches import Mixture, Row
from retain.train.config import BESIDE_THE_RECIPE, METHOD_RATES, TrainConfig, rate
from retain.train.memory import keep_freed_memory

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

    for folder in (adapter, checkpoints):
        artifacts.check_writable(folder)
    device = models.pick_device(config.device)
    seeded(config.seed)
    if device == "cpu":
        keep_freed_memory()
    base = models.load_model(model_dir, dtype=config.dtype, device=device)
    rows = batches.read_mixture(mixture, longest=longest(base))
    run = _build(config, base, rows, checkpoints, _key(config, rows, model_dir), log, device)
    with _signals(run.engine):
        run.go()
    return write_adapter(run, adapter, model_dir, dict(provenance or {}), warnings(config))


def _key(config: TrainConfig, rows: Mixture, model_dir: Path) -> str:
    settings = config.model_dump(mode="json", exclude=BESIDE_THE_RECIPE)
    return digest.of_json({"train": settings, "mixture": rows.info["digest"], "base": digest.of_model(model_dir)})


class Run:
    """One training: its engine, where it goes on from, and what it was made of."""

    def __init__(self, config: TrainConfig, engine: Any, rows: Mixture, checkpoint: Path | None, key: str) -> None:
        self.config, self.engine, self.rows, self.checkpoint, self.key = config, engine, rows, checkpoint, key

    def go(self) -> None:
        from retain.train.engine import run

        run(self.engine, self.checkpoint)


def _build(config: TrainConfig, base: Any, rows: Mixture, folder: Path, key: str, log: Callable[[dict[str, float], int], None], device: str) -> Run:  # fmt: skip
    from retain.train import checkpoints
    from retain.train.engine import Engine, Plan
    from retain.train.methods import prepare
    from retain.train.watch import History, Watch

    padded = not packs(config, base)
    model = prepare(config, base, len(rows.train))
    steps = plan_steps(config, rows, padded, base)
    evaluate = every(config.eval_steps, len(steps))
    place = checkpoints.home(folder, key)
    plan = Plan(
        steps, sample(rows.target_validation, config), sample(rows.retention, config),
        (evaluate, evaluate if config.save_steps == "auto" else int(config.save_steps)), place, key, log,
    )  # fmt: skip
    watch = Watch(History(), config.early_stopping, config.divergence_nats, len(steps), rate(config))
    return Run(
        config, Engine(config, model, plan, watch, device), rows, checkpoints.find(config.resume, place, key), key
    )


def packs(config: TrainConfig, model: Any) -> bool:
    """Whether rows are packed; switches the model's attention over."""
    from retain.train import attention

    if config.packing == "padded" or (config.packing == "auto" and not attention.can_pack(model)):
        return False
    if not attention.can_pack(model):
        raise ConfigError(
            "this model cannot train on packed rows", where="train.packing", got=type(model).__name__,
            expected="a causal model whose attention goes through transformers' interface, without a soft cap", fix="use packing: auto",
        )  # fmt: skip
    attention.register()
    model.set_attn_implementation(attention.PACKED)
    return True


def plan_steps(config: TrainConfig, rows: Mixture, padded: bool, model: Any) -> batches.Steps:
    import os

    order = batches.plan(
        len(rows.train),
        batch_rows=config.batch_rows,
        epochs=config.num_train_epochs,
        max_steps=config.max_steps,
        seed=config.seed,
    )
    pad = model.config.get_text_config().pad_token_id or 0
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    return batches.Steps(
        rows.train, order, micro_tokens=config.micro_tokens, padded=padded, pad=pad, rank=rank, world=world
    )


def every(steps: int | str, total: int) -> int:
    """Steps between evaluations."""
    return max(1, -(-total // AUTO_EVALUATIONS)) if steps == "auto" else int(steps)


def sample(rows: list[Row], config: TrainConfig) -> list[Row]:
    """At most ``max_eval_rows`` rows, drawn with the seed, in their order."""
    if len(rows) <= config.max_eval_rows:
        return rows
    chosen = np.random.default_rng(config.seed).choice(len(rows), config.max_eval_rows, replace=False)
    return [rows[i] for i in sorted(chosen)]


def longest(model: Any) -> int:
    """Tokens the model can read; a model without such a limit reads anything."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 2**31)


def warnings(config: TrainConfig) -> tuple[str, ...]:
    """What a person should know although the run may go on."""
    high = METHOD_RATES[config.method][1]
    if rate(config) <= high:
        return ()
    return (
        f"train.learning_rate {rate(config):g} is above {high:g}, the highest that {config.method} is known to bear without forgetting",
    )


def seeded(seed: int) -> None:
    from transformers import set_seed

    set_seed(seed)


@contextmanager
def _signals(engine: Any) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the running step, write a checkpoint and stop; a second one stops at once."""

    def ask(number: int, frame: Any) -> None:
        if engine.interrupted:
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
