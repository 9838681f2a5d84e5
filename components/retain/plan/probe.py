"""How fast this machine trains and what it takes: a few real steps, thrown away."""

from dataclasses import dataclass
from pathlib import Path

from retain.train.config import TrainConfig

PROBE_STEPS = 20


@dataclass(frozen=True)
class Probed:
    """tokens_per_second: of all devices together; peak_bytes: most memory held above what the imports hold, of one device."""

    tokens_per_second: float
    peak_bytes: int


def probe(train: TrainConfig, mixture: Path, model_dir: Path, scratch: Path, *, steps: int = PROBE_STEPS) -> Probed:
    """``steps`` steps of the very recipe; the rate is for PlanConfig.tokens_per_second.

    ``scratch``: a folder to be thrown away. Evaluations and checkpoints are not counted in the rate (retain.train).
    """
    from retain.train import engine  # noqa: F401  its imports are not the training's memory
    from retain.train.memory import Peak
    from retain.train.work import train as run

    epochs = type(train)().num_train_epochs  # the steps say how long
    short = train.model_copy(update={"max_steps": steps, "num_train_epochs": epochs, "eval_steps": steps, "save_steps": steps, "resume": "never", "checkpoint_uri": ""})  # fmt: skip
    peak = Peak()
    result = run(short, mixture, model_dir, scratch / "adapter", scratch / "checkpoints")
    return Probed(result.tokens_per_second, peak.bytes(result.peak_memory_bytes))
