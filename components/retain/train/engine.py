"""transformers' Trainer with our batches, loss, optimizer and checkpoints: the loop itself is theirs."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerState

from retain.errors import ConfigError, Interrupted
from retain.train import anchor, checkpoints, sharding
from retain.train.anchor import SHARE_OF_LOSS, Anchor
from retain.train.arguments import arguments
from retain.train.batches import Micro, Steps, as_batches, to_device
from retain.train.config import TrainConfig, rate
from retain.train.loss import Head
from retain.train.memory import peak_memory
from retain.train.methods import kind
from retain.train.optimizer import Masters, make
from retain.train.places import Place
from retain.train.reference import References
from retain.train.rhythm import Rhythm
from retain.train.rows import Row, judged_weight, total_weight
from retain.train.sharding import like, whole
from retain.train.speed import Choices
from retain.train.watch import Watch, history_from, history_json

Log = Callable[[dict[str, float], int], None]


@dataclass(frozen=True)
class Plan:
    """What one run is made of; ``every``: steps between (evaluations, checkpoints)."""

    steps: Steps
    target_validation: list[Row]
    retention: list[Row]
    every: tuple[int, int]
    place: Place
    log: Log
    choices: Choices


class Engine(Trainer):
    """One optimizer step = one item of ``plan.steps``; validation, checkpoints and stopping go through the callback."""

    def __init__(self, config: TrainConfig, model: Any, plan: Plan, watch: Watch, device: str) -> None:
        self.config, self.plan, self.watch = config, plan, watch
        self.optimizer: Any
        split = config.sharding == "fsdp"
        if not split:
            model.to(device)
        self.head = Head(model.get_base_model() if hasattr(model, "get_base_model") else model)
        self.anchor = self._anchored(model, device)
        if split:
            sharding.start(device)
            sharding.split(model, device)
        self.references = References(plan.steps, self.head, model, device) if config.kl.beta else None
        self.extra: dict[str, float] = {}
        self.best: list[torch.Tensor] = []
        self.interrupted = False
        super().__init__(model=model, args=arguments(config, plan.choices, len(plan.steps), plan.place.folder, device), train_dataset=plan.steps, callbacks=[Rhythm(self)])  # fmt: skip
        for name in ("PrinterCallback", "ProgressCallback", "DefaultFlowCallback"):
            self._drop(name)

    def _anchored(self, model: Any, device: str) -> Anchor | None:
        knobs = self.config.anchor
        if knobs.kind == "none":
            return None
        anchor.check(model, knobs.kind)
        if knobs.kind == "l2_sp":
            return Anchor(model, {})
        rows = [row for row in self.plan.steps.rows if row.part == "replay"][: knobs.fisher_rows]
        if not rows:
            raise ConfigError("ewc measures the base's knowledge on replay rows, and there are none", where="train.anchor.kind", fix="give the mix a replay source, or use l2_sp")  # fmt: skip
        return Anchor(model, anchor.fisher(model, self.head, rows, self.plan.steps.shape, device))

    def _drop(self, name: str) -> None:
        for callback in [c for c in self.callback_handler.callbacks if type(c).__name__ == name]:
            self.remove_callback(callback)

    # -- the step ------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """Not prepared by accelerate: each process takes its own rows of a step (`Steps`)."""
        return torch.utils.data.DataLoader(self.plan.steps, batch_size=1, collate_fn=_only)

    def create_optimizer(self, model: Any = None) -> Any:
        if self.optimizer is None:
            self.trainable = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
            self.optimizer = make(
                self.config.optimizer, [p for _, p in self.trainable], lr=rate(self.config), weight_decay=self.config.weight_decay
            )  # fmt: skip
        return self.optimizer

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of every micro-batch of one step → its mean loss over supervised tokens, nats."""
        model.train()
        micros = inputs["micros"]
        if self.references is not None:
            self.base = self.references.of(inputs["step"])
        loss = torch.zeros((), device=self.args.device)
        self.extra = {}
        for i, micro in enumerate(micros):
            last = i == len(micros) - 1
            with self._gradients_kept(model, last):
                task, held = self._losses(model, to_device(micro, self.args.device), inputs)
                self.accelerator.backward((task + held) * self.args.world_size)
            loss += task.detach() * self.args.world_size
        self.tokens = sum(micro["tokens"] for micro in micros) * self.args.world_size
        if self.anchor is not None:
            self._pull(self.anchor, float(self.accelerator.reduce(loss, "mean")))
        return loss

    @contextlib.contextmanager
    def _gradients_kept(self, model: Any, last: bool) -> Iterator[None]:
        """Inside, gradients are summed on each process alone, but for the last micro-batch of a step."""
        if self.config.sharding == "fsdp":
            model.set_requires_gradient_sync(last)
            yield
            return
        with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
            yield

    def _losses(self, model: Any, micro: Micro, step: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """(this micro-batch's part of the step's mean loss, beta · its part of the mean divergence from the base on replay)."""
        hidden = self.head.hidden(model, micro)
        task = self.head.cross_entropy(hidden, micro["targets"], micro["weights"]) / step["total_weight"]
        at = micro["replay"]
        if not (self.config.kl.beta and len(at)):
            return task, task.new_zeros(())
        base, self.base = self.base.split([len(at), len(self.base) - len(at)])
        divergence = self.head.divergence(base, hidden[at], micro["weights"][at]) / step["replay_weight"]
        known = self.extra.get("kl_to_base_nats", 0.0)
        self.extra["kl_to_base_nats"] = known + float(divergence.detach()) * self.args.world_size
        return task, self.config.kl.beta * divergence

    def _pull(self, anchor: Anchor, loss: float) -> None:
        """The anchor's gradient; an automatic strength is settled at the end of the warmup, from the loss over all processes."""
        history, wanted = self.watch.history, self.config.anchor.strength
        if wanted != "auto":
            history.anchor_strength = float(wanted)
        penalty = anchor.pull(history.anchor_strength)
        warm = self.state.global_step >= self.args.warmup_steps
        if wanted == "auto" and warm and penalty > 0 and not history.anchor_strength:
            history.anchor_strength = SHARE_OF_LOSS * loss / penalty
        self.extra["anchor_penalty_nats"] = history.anchor_strength * penalty

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Called by the loop after every step, and once at the end with a summary (without a gradient norm)."""
        if "grad_norm" in logs:
            step = self.state.global_step
            memory = peak_memory(str(self.args.device))
            metrics = self.watch.step(step, logs["loss"], logs["grad_norm"], self.tokens, memory)
            self._tell(
                metrics | {"learning_rate": logs["learning_rate"], "grad_norm": logs["grad_norm"]} | self.extra, step
            )

    def _tell(self, metrics: dict[str, float], step: int) -> None:
        if self.args.should_save:  # the first process speaks for all
            self.plan.log(metrics, step)

    # -- validation ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Loss on target rows and on general rows, nats per supervised token; NaN where there are no such rows."""
        self.model.eval()
        losses = self._by_dataset(self.plan.target_validation), self.mean_loss(self.plan.retention)
        target, retention = sharding.from_all(losses)[0]  # GPUs may round apart, and all must stop at the same step
        if self.watch.evaluated(self.state.global_step, target, retention) and self.config.early_stopping.keep_best:
            self.best = [weight.detach().clone() for weight in self.final_weights()]
        named = {"target_validation_nats": target, "retention_nats": retention}
        self._tell({name: value for name, value in named.items() if value == value}, self.state.global_step)
        if self.watch.history.stop:
            self.control.should_training_stop = self.control.should_save = True
        self.watch.pause()
        return named

    def _by_dataset(self, rows: list[Row]) -> float:
        """Mean loss of the target rows; where they come from several datasets, each one's is watched as well."""
        names, step = sorted({row.source for row in rows}), self.state.global_step
        if len(names) < 2:
            return self.mean_loss(rows)
        total = weight = 0.0
        for name in names:
            own = [row for row in rows if row.source == name]
            loss, share = self.mean_loss(own), total_weight(own) + judged_weight(own)
            self.watch.history.by_dataset.setdefault(name, []).append([step, loss])
            self._tell({f"target_validation_nats/{name}": loss}, step)
            total, weight = total + share * loss, weight + share
        return total / weight

    def mean_loss(self, rows: list[Row]) -> float:
        if not rows:
            return float("nan")
        batches = as_batches(rows, self.plan.steps.shape)
        total = sum(float(self.head.loss(self.model, to_device(micro, self.args.device))) for micro in batches)
        return total / total_weight(rows)

    def final_facts(self) -> dict[str, float]:
        """What an objective measures on the weights that are saved, beside their losses."""
        return {}

    def final_weights(self) -> list[torch.Tensor]:
        """What a run ends with: fp32 masters of an adapter, or a model's own weights in its own precision."""
        optimizer = self.masters()
        return [p.data for p in optimizer.sources] if kind(self.model) == "weights" else optimizer.masters

    def masters(self) -> Masters:
        """Our optimizer, also where accelerate has wrapped it."""
        found: Masters = getattr(self.optimizer, "optimizer", self.optimizer)
        return found

    def agree(self) -> None:
        """One process that is asked to stop stops all: each takes part in every step, or the others wait for ever."""
        if self.args.world_size > 1:
            asked = torch.tensor(float(self.interrupted), device=self.args.device)
            self.interrupted = bool(self.accelerator.reduce(asked, "sum") > 0)

    def named_weights(self) -> dict[str, torch.Tensor]:
        """What is saved, by its name in the model, whole: where the model is split, all processes ask for it together."""
        weights = {id(p): weight for p, weight in zip(self.masters().sources, self.final_weights(), strict=True)}
        return {name: whole(weights[id(p)]) for name, p in self.trainable if id(p) in weights}

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        random = sharding.from_all(checkpoints.random_state())
        if not (self.args.should_save or self.config.sharding != "none"):
            return
        tensors = checkpoints.tensors_of(self.masters(), self.best)
        if not self.args.should_save:
            return
        schedule = {k: v for k, v in self.lr_scheduler.state_dict().items() if k != "lr_lambdas"}
        state = {"history": history_json(self.watch.history), "schedule": schedule, "random": random}
        place, keep = self.plan.place, self.config.keep_checkpoints
        saved = checkpoints.save(
            place.folder, self.state.global_step, place.key, tensors, state, keep,
            lambda folder: self.state.save_to_json(str(folder / "trainer_state.json")),
        )  # fmt: skip
        place.keep(saved, keep)
        self.watch.pause()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """The weights come with the optimizer's masters."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        extra, state = checkpoints.load(Path(checkpoint), self.masters())
        now = self.final_weights()
        self.best = [like(extra[f"best.{i}"], now[i]) for i in range(len(extra))]
        self.watch.history.__dict__.update(vars(history_from(state["history"])))
        self.lr_scheduler.load_state_dict(state["schedule"] | {"lr_lambdas": [None] * len(self.lr_scheduler.base_lrs)})
        for group, value in zip(self.masters().param_groups, state["schedule"]["_last_lr"], strict=True):
            group["lr"] = value
        self.random_state = state["random"]

    def restore(self, checkpoint: Path) -> None:
        """Take up a run that had already stopped early, without a further step."""
        self.create_optimizer_and_scheduler(len(self.plan.steps))
        self._load_optimizer_and_scheduler(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            checkpoints.restore_random(self.random_state)
        self.watch.pause()


def run(engine: Engine, checkpoint: Path | None) -> None:
    """Train to the end, to an early stop, or to a signal (then: a checkpoint, and Interrupted)."""
    if checkpoint is not None and checkpoints.stopped(checkpoint):
        engine.restore(checkpoint)
    else:
        with engine.watch.progress:
            engine.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if engine.interrupted:
        raise Interrupted(
            f"the training was interrupted at step {engine.state.global_step} of {engine.state.max_steps}",
            where=engine.plan.place.remote or str(engine.plan.place.folder),
            fix="run the same command again: it goes on from the checkpoint",
        )
    if engine.best and engine.watch.history.best_step != engine.state.global_step:
        engine.masters().put(engine.best)


def _only(items: list[Micro]) -> Micro:
    return items[0]
