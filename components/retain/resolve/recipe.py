"""The recipe: one frozen model, one field per stage, every key checked before anything runs."""

import difflib
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from retain import digest
from retain.compress.config import CompressConfig
from retain.config import StepConfig, parse
from retain.errors import ConfigError
from retain.gate.config import GatePolicy
from retain.merge.config import MergeConfig
from retain.mix.config import MixConfig
from retain.publish.config import PublishConfig
from retain.rehearse.config import RehearseConfig
from retain.repair.config import RepairConfig
from retain.resolve import settings
from retain.score.config import MACRO_F1_ROUNDS, ScoreConfig
from retain.template.config import TemplateConfig
from retain.train.config import TrainConfig
from retain.validate.config import DatasetSpec, ValidateConfig


class ModelConfig(StepConfig):
    """The base model that is tuned, and against which the result is gated."""

    base_model: str = Field(
        description="URI of the base: a folder in Hugging Face layout or a GGUF file; package://, hf://, s3://, pvc://, a path"
    )
    revision: str = Field(
        "", pattern=r"^([0-9a-f]{40})?$", description="40-hex commit of a hub model; empty for places that have none"
    )


class DataConfig(StepConfig):
    """Rows in: where they lie, what is refused, how they are rendered and mixed."""

    datasets: list[DatasetSpec] = Field(
        min_length=1, description="the files; at least one with part target and split train"
    )
    checks: ValidateConfig = Field(
        default_factory=ValidateConfig, description="what makes a row unfit, and how many may be"
    )
    template: TemplateConfig = Field(
        default_factory=TemplateConfig, description="rendering with the model's own chat template"
    )
    replay: MixConfig = Field(default_factory=MixConfig, description="general rows among the target rows, by tokens")
    rehearse: RehearseConfig = Field(
        default_factory=RehearseConfig,
        description="replay rows that the base writes itself, used where replay.source is generated",
    )


class TrackingConfig(StepConfig):
    """Where runs are recorded; the server's address comes by environment (MLFLOW_TRACKING_URI)."""

    experiment: str = Field("retain", min_length=1, description="MLflow experiment")


class Recipe(StepConfig):
    """Everything that decides a run. YAML keys are these fields, nested by stage."""

    model: ModelConfig
    data: DataConfig
    train: TrainConfig = Field(default_factory=TrainConfig)
    merge: MergeConfig = Field(default_factory=MergeConfig)
    score: ScoreConfig = Field(default_factory=ScoreConfig)
    gate: GatePolicy = Field(default_factory=GatePolicy)
    repair: RepairConfig = Field(default_factory=RepairConfig)
    compress: CompressConfig = Field(default_factory=CompressConfig)
    publish: PublishConfig = Field(default_factory=PublishConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)

    @model_validator(mode="after")
    def _rounds(self) -> "Recipe":
        if (self.score.rounds, self.score.rounds_seed) != (1, 0):
            raise ValueError("score.rounds follows the gate: set gate.looks (and gate.seed) instead")
        return self

    @model_validator(mode="after")
    def _all_items(self) -> "Recipe":
        """Looks may end the scoring of a candidate before all items are there."""
        if self.gate.looks > 1 and self.gate.on_fail == "repair":
            raise ValueError("gate.on_fail: repair chooses on all items set apart; set gate.looks: 1")
        if self.gate.looks > 1 and self.score.judge.tasks:
            raise ValueError("score.judge compares both models' answers to all items; set gate.looks: 1")
        if self.gate.looks > 1 and self.score.target.metric == "macro_f1":
            raise ValueError(MACRO_F1_ROUNDS)
        return self

    @model_validator(mode="after")
    def _one_wait(self) -> "Recipe":
        if self.compress.method != "none" and self.gate.approval == "required":
            raise ValueError("gate.approval: required ends the run at the first pass; set compress.method: none, and compress what was approved")  # fmt: skip
        return self

    def digest(self) -> str:
        return digest.of_json(self.as_parameter())


def recipes() -> dict[str, Path]:
    """The shipped recipes by name."""
    folder = Path(str(files("retain_pipelines"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load(name: str, overrides: list[str] | None = None) -> Recipe:
    """A recipe by its shipped name or its path, with ``train.learning_rate=5e-5`` overrides laid over it."""
    path = find(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            "this recipe is not YAML", where=str(path), got=str(error).replace("\n", " "), fix="mend the line it names"
        ) from None
    if not isinstance(values, dict):
        raise ConfigError("this recipe is empty", where=str(path), expected="a YAML mapping with model: and data:")
    for override in overrides or []:
        key, mark, text = override.partition("=")
        if not mark:
            raise ConfigError("--set takes key=value", got=override, expected="train.learning_rate=5e-5")
        settings.put(values, key.strip(), yaml.safe_load(text), where="--set ")
    return parse(Recipe, _with_places(values, path.parent))


def find(name: str) -> Path:
    shipped = recipes()
    if name in shipped:
        return shipped[name]
    path = Path(name)
    if path.is_file():
        return path
    near = difflib.get_close_matches(name, shipped, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise ConfigError(
        "there is no such recipe",
        got=name,
        expected=f"a path, or one of {', '.join(shipped)}",
        fix=f"{hint}`retain init` writes one to start from",
    )


def _with_places(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Relative paths in a recipe are meant from the recipe's own folder."""

    def absolute(uri: Any) -> Any:
        return (
            str((folder / uri).resolve())
            if isinstance(uri, str) and "://" not in uri and uri and not Path(uri).is_absolute()
            else uri
        )

    model, data = dict(values.get("model") or {}), dict(values.get("data") or {})
    if "base_model" in model:
        model["base_model"] = absolute(model["base_model"])
    if isinstance(data.get("datasets"), list):
        data["datasets"] = [
            {**d, "path": absolute(d["path"])} if isinstance(d, dict) and "path" in d else d for d in data["datasets"]
        ]
    score = dict(values.get("score") or {}) if isinstance(values.get("score"), dict | None) else {}
    if isinstance(score.get("include_path"), list):
        score["include_path"] = [absolute(path) for path in score["include_path"]]
    if isinstance(score.get("tasks"), list):
        score["tasks"] = [
            {**t, "rows": absolute(t["rows"])} if isinstance(t, dict) and "rows" in t else t for t in score["tasks"]
        ]
    found = {"model": model, "data": data, "score": score}
    return {**values, **{name: part for name, part in found.items() if part}}
