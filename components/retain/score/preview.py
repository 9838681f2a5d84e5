"""Base and adapter in one loaded model: for sweeps and previews. A gate refuses these scores, for what ships is the merge."""

from pathlib import Path
from typing import TYPE_CHECKING

from retain import digest, models
from retain.artifacts import check_writable
from retain.merge.adapters import content_of
from retain.merge.config import MergeConfig
from retain.score.config import ScoreConfig
from retain.score.dial import Dial
from retain.score.run import Run
from retain.score.work import ScoreResult, complete

if TYPE_CHECKING:
    from retain.score.lm import Engine

# The gate knows it by this name (retain.gate.pairs).
DIGEST = "adapter-preview"


class Preview:
    """A base with an adapter that is switched off, on, and scaled, without loading anything twice.

    Args:
        config: what is scored. model_dir: the base. adapter: one that can be merged (peft's layout, or changed weights).
        dataset, cache: as in ``retain.score.work.score``; the base's scores are the very ones that step would keep.
    """

    def __init__(self, config: ScoreConfig, model_dir: Path, adapter: Path, *, dataset: Path | None = None, cache: Path | None = None) -> None:  # fmt: skip
        models.check_folder(model_dir)
        self.config, self.model_dir, self.adapter, self.dataset, self.cache = config, model_dir, adapter, dataset, cache
        self.dial, self.model_digest = Dial(config, model_dir, model_dir), digest.of_model(model_dir)
        self._untouched = True

    def base(self, scores: Path) -> ScoreResult:
        """The base's own scores, under its own digest."""
        check_writable(scores)
        return complete(
            Run(self.config, self.model_dir, "base", load=self._off, model_digest=self.model_digest),
            scores,
            self.dataset,
            self.cache,
        )

    def tuned(self, scores: Path, strength: float = 1.0) -> ScoreResult:
        """Scores with the adapter's change times ``strength``, as its merge would have them."""
        check_writable(scores)
        merge = MergeConfig(strength=strength)
        variant = {"adapter": content_of(self.adapter), "strength": strength}
        run = Run(
            self.config,
            self.model_dir,
            "candidate",
            load=lambda: self._at(merge),
            variant=variant,
            model_digest=self.model_digest,
        )
        return complete(run, scores, self.dataset, self.cache, model_digest=DIGEST)

    def _off(self) -> "Engine":
        return self.dial.engine if self._untouched else self.dial.off(self.adapter)

    def _at(self, merge: MergeConfig) -> "Engine":
        self._untouched = False
        return self.dial.at(merge, self.adapter)
