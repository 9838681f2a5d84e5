"""A model in memory whose weights are set in place to those of any merge: for sweeps and previews nothing is written or loaded twice."""

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from retain.errors import ConfigError
from retain.merge import adapters, plan
from retain.merge.config import MergeConfig
from retain.merge.stream import Worker, units_of
from retain.merge.tensors import Folder
from retain.score import place
from retain.score.config import ScoreConfig
from retain.score.run import load_engine

if TYPE_CHECKING:
    import torch

    from retain.score.lm import Engine

WORKERS = 4


class Dial:
    """Args:
    scoring: precision and device of the scorer. base: the base's folder. model: the folder that is loaded, whose tokenizer
        and shape are kept: a merged candidate's, or the base's own.
    """

    def __init__(self, scoring: ScoreConfig, base: Path, model: Path) -> None:
        self.scoring, self.base, self.model = scoring, base, model

    @cached_property
    def engine(self) -> "Engine":
        return load_engine(self.scoring, self.model, place.resolve(self.scoring), keep=True)

    def at(self, merge: MergeConfig, adapter: Path) -> "Engine":
        """The engine with the very weights that this merge would write (rounded to the stored precision first)."""
        from retain.score import packed

        engine, base = self.engine, Folder(self.base)
        try:
            change = adapters.read(adapter, base)
            made = plan.make(merge, base, [(change, 1.0)])
            # What takes nothing of the change here may have taken some before, and goes back to the base.
            jobs = [job for jobs in made.files.values() for job in jobs if job.changes or job.name in change.changes]
            worker, weights = Worker(merge, base), Weights(engine.model)
            with ThreadPoolExecutor(WORKERS) as pool:
                units = [pool.submit(worker.do, weights, *unit) for job in jobs for unit in units_of(merge, job)]
                for done in units:
                    done.result()
        finally:
            base.close()
        packed.pack(engine.model, engine.scorer.budget, keep=True)
        return engine

    def off(self, adapter: Path) -> "Engine":
        """The engine with the base's own weights, whatever of ``adapter`` is in them now."""
        return self.at(MergeConfig().model_copy(update={"strength": 0.0}), adapter)


class Weights:
    """A loaded model as the place that merged rows go to."""

    def __init__(self, model: "torch.nn.Module") -> None:
        self.known = dict(model.named_parameters(remove_duplicate=False))

    def write(self, name: str, first: int, data: "torch.Tensor") -> None:
        """Merged rows from row ``first`` on, cast to the model's precision."""
        import torch

        if name not in self.known or first + data.shape[0] > self.known[name].shape[0]:
            raise ConfigError("this architecture's weights cannot be set in place", got=name, fix="merge at that strength, and score the merged model")  # fmt: skip
        with torch.no_grad():
            self.known[name][first : first + data.shape[0]].copy_(data)
