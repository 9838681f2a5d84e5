"""Base and adapter in one loaded model: for sweeps and previews. A gate refuses these scores, for what ships is the merge."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retain import digest, models
from retain.artifacts import check_writable
from retain.errors import ConfigError
from retain.score import place
from retain.score.config import ScoreConfig
from retain.score.run import Run, load_engine
from retain.score.work import ScoreResult, complete

if TYPE_CHECKING:
    from retain.score.lm import Engine

# The gate knows it by this name (retain.gate.pairs).
DIGEST = "adapter-preview"


class Preview:
    """A base with a peft adapter that is switched off, on, and scaled, without loading anything twice.

    Args:
        config: what is scored. model_dir: the base. adapter: a folder in peft's layout.
        dataset, cache: as in ``retain.score.work.score``; the base's scores are the very ones that step would keep.
    """

    def __init__(self, config: ScoreConfig, model_dir: Path, adapter: Path, *, dataset: Path | None = None, cache: Path | None = None) -> None:  # fmt: skip
        models.check_folder(model_dir)
        if not (adapter / "adapter_config.json").is_file():
            raise ConfigError("this folder holds no peft adapter", where=str(adapter), got="no adapter_config.json", fix="score the merged model instead")  # fmt: skip
        self.config, self.model_dir, self.adapter, self.dataset, self.cache = config, model_dir, adapter, dataset, cache
        self._first: dict[tuple[int, str], float] = {}  # each layer's own scaling

    def base(self, scores: Path) -> ScoreResult:
        """The base's own scores, under its own digest."""
        check_writable(scores)
        run = Run(self.config, self.model_dir, "base", load=lambda: self._at(0.0))
        return complete(run, scores, self.dataset, self.cache)

    def tuned(self, scores: Path, strength: float = 1.0) -> ScoreResult:
        """Scores with the adapter's change times ``strength``."""
        check_writable(scores)
        variant = {"adapter": digest.of_manifest(self._files()), "strength": strength}
        run = Run(self.config, self.model_dir, "candidate", load=lambda: self._at(strength), variant=variant)
        return complete(run, scores, self.dataset, self.cache, model_digest=DIGEST)

    @cached_property
    def engine(self) -> "Engine":
        return load_engine(self.config, self.model_dir, place.resolve(self.config), self._adapted)

    def _adapted(self, model: Any) -> Any:
        """The base itself, its layers wrapped by peft; the adapter in the base's precision, as a merge would have it."""
        from peft import PeftModel

        wrapped = PeftModel.from_pretrained(model, str(self.adapter), autocast_adapter_dtype=False).eval()
        return wrapped.get_base_model()

    def _files(self) -> dict[str, str]:
        names = ("adapter_config.json", "adapter_model.safetensors")
        return {name: digest.of_file(self.adapter / name).removeprefix("sha256:") for name in names}

    def _at(self, strength: float) -> "Engine":
        """The engine with the adapter's change times ``strength``; 0 switches it off altogether."""
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils import AuxiliaryTrainingWrapper

        engine = self.engine
        layers = [
            module
            for module in engine.model.modules()
            if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))
        ]
        if strength not in (0.0, 1.0) and any(
            not isinstance(getattr(layer, "scaling", None), dict) for layer in layers
        ):
            raise ConfigError("this adapter cannot be scaled", where=str(self.adapter), got=f"strength {strength}", expected="a LoRA without modules_to_save, or strength 0 or 1")  # fmt: skip
        for layer in layers:
            layer.enable_adapters(strength != 0.0)
            for name in getattr(layer, "scaling", {}):
                first = self._first.setdefault((id(layer), name), layer.scaling[name])
                layer.scaling[name] = first * (strength or 1.0)
        return engine
