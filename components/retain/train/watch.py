"""What is watched while a training runs: loss, divergence, the two validation losses, the best weights, the clock."""

import math
import time
from dataclasses import dataclass, field
from typing import Any

from retain.errors import Diverged
from retain.progress import Progress
from retain.train.config import EarlyStoppingConfig

SMOOTHING = 0.9


@dataclass
class History:
    """Losses of a run, nats per supervised token: [[step, loss], …]. Goes into checkpoints and losses.json."""

    train: list[list[float]] = field(default_factory=list)
    target_validation: list[list[float]] = field(default_factory=list)
    retention: list[list[float]] = field(default_factory=list)
    by_dataset: dict[str, list[list[float]]] = field(default_factory=dict)  # target validation, where there are several
    smoothed: float = math.inf
    lowest: float = math.inf
    best_step: int = 0
    best_target: float = math.inf
    without_gain: int = 0
    stop: str = ""
    anchor_strength: float = 0.0
    tokens: int = 0
    seconds: float = 0.0


class Watch:
    """Decides on every step's numbers: go on, stop early, or stop as diverged."""

    def __init__(self, history: History, stopping: EarlyStoppingConfig, divergence_nats: float, steps: int, rate: float) -> None:  # fmt: skip
        self.history, self.stopping, self.divergence_nats, self.rate = history, stopping, divergence_nats, rate
        self.steps = steps
        self.progress = Progress("train", total=steps, unit="steps")
        self._since = time.monotonic()

    def step(self, step: int, loss: float, norm: float, tokens: int, memory: int) -> dict[str, float]:
        """Note one optimizer step (``memory``: most bytes held so far); a loss or gradient that is not finite, or a loss that ran away, raises Diverged."""
        history = self.history
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged(f"loss {loss:.4g} nats and gradient norm {norm:.4g} at step {step}")
        if norm == 0.0 and loss > 0.0:  # an overflow inside that a norm layer turned into zeros
            raise self._diverged(f"loss {loss:.4g} nats without any gradient at step {step}: the model is dead")
        first = math.isinf(history.smoothed)
        history.smoothed = loss if first else SMOOTHING * history.smoothed + (1 - SMOOTHING) * loss
        history.lowest = min(history.lowest, history.smoothed)
        if history.smoothed > history.lowest + self.divergence_nats:
            raise self._diverged(
                f"a smoothed loss of {history.smoothed:.3f} nats at step {step}, after {history.lowest:.3f}"
            )
        history.train.append([step, loss])
        return self._clock(step, loss, tokens, memory)

    def _clock(self, step: int, loss: float, tokens: int, memory: int) -> dict[str, float]:
        now = time.monotonic()
        self.history.seconds += now - self._since
        self.history.tokens += tokens
        self._since = now
        speed = self.history.tokens / max(self.history.seconds, 1e-9)
        note = f"loss {loss:.3f} {memory / 2**30:.1f} GiB"
        self.progress.advance(step - self.progress.done, note=note, rate=f"{speed:,.0f} tokens/s")
        return {"train_loss_nats": loss, "tokens_per_second": speed, "peak_memory_bytes": float(memory)}

    def pause(self) -> None:
        """What follows (an evaluation, a checkpoint) is over: it does not count as training time."""
        self._since = time.monotonic()

    def _diverged(self, got: str) -> Diverged:
        return Diverged(
            "the training ran off", got=got, expected="a finite loss that falls",
            fix=f"lower train.learning_rate (it is {self.rate:g}; try {self.rate / 5:g}), raise train.warmup_ratio, or look at the rows around this step",
        )  # fmt: skip

    def evaluated(self, step: int, target: float, retention: float) -> bool:
        """Note an evaluation (NaN = no such rows); True if these are the best weights so far. Step 0 is the base."""
        history = self.history
        for curve, value in ((history.target_validation, target), (history.retention, retention)):
            if not math.isnan(value):
                curve.append([step, value])
        if step == 0:
            return False
        return self._judge(step, target)

    def _judge(self, step: int, target: float) -> bool:
        history, rules = self.history, self.stopping
        if rules.max_retention_rise_nats and (rise := retention_rise(history)) > rules.max_retention_rise_nats:
            history.stop = (
                f"the loss on general rows rose by {rise:.3f} nats, more than {rules.max_retention_rise_nats:g}"
            )
            return False
        if math.isnan(target) or target < history.best_target - rules.min_delta_nats:
            history.best_step, history.best_target, history.without_gain = step, target, 0
            return True
        history.without_gain += 1
        if rules.patience and history.without_gain >= rules.patience and step < self.steps:
            history.stop = f"{history.without_gain} evaluations without a better target loss"
        return False


def retention_rise(history: History) -> float:
    """Rise of the loss on general rows since the base, nats per token; NaN without such rows."""
    return history.retention[-1][1] - history.retention[0][1] if history.retention else math.nan


def history_from(values: dict[str, Any]) -> History:
    known: dict[str, Any] = {k: (math.inf if v is None else v) for k, v in values.items()}
    return History(**known)


def history_json(history: History) -> dict[str, Any]:
    """JSON has no infinity: null stands for it."""
    return {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in vars(history).items()}
