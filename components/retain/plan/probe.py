"""How fast this machine trains: a few real steps, thrown away."""

from pathlib import Path

from retain.train.config import TrainConfig

PROBE_STEPS = 20


def probe(train: TrainConfig, mixture: Path, model_dir: Path, scratch: Path, *, steps: int = PROBE_STEPS) -> float:
    """Tokens per second of all devices together over ``steps`` steps of the very recipe; for PlanConfig.tokens_per_second.

    ``scratch``: a folder to be thrown away. Evaluations and checkpoints are not counted (retain.train).
    """
    from retain.train.work import train as run

    short = train.model_copy(update={"max_steps": steps, "eval_steps": steps, "save_steps": steps, "resume": "never"})
    return run(short, mixture, model_dir, scratch / "adapter", scratch / "checkpoints").tokens_per_second
