"""Between the recipe and the pipeline's run form: headline parameters and one flat settings dict per stage.

The form groups by name alone (parameters are listed alphabetically), so each parameter starts with its stage.
"""

import re
from collections.abc import Mapping
from typing import Any

from retain.compress.config import NONE
from retain.config import nearest, parse
from retain.errors import ConfigError
from retain.resolve import settings
from retain.resolve.recipe import Recipe
from retain.validate.config import DatasetSpec

# Headline parameter → path in the recipe. What has a headline is not in the settings dict of its stage.
HEADLINES = {
    "base_model": "model.base_model",
    "compress_method": "compress.method",
    "data_id": "data.datasets.0.path",
    "data_replay_share": "data.replay.share",
    "gate_max_drop": "gate.macro_margin_points",
    "gate_min_gain": "gate.target.min_gain_points",
    "publish": "publish.enabled",
    "publish_name": "publish.name",
    "score_benchmarks": "score.tasks",
    "train_epochs": "train.num_train_epochs",
    "train_learning_rate": "train.learning_rate",
    "train_method": "train.method",
}
# Settings parameter → the recipe's stages it holds; with two, keys start with the second one's name.
SETTINGS = {
    "data_settings": "data",
    "gate_settings": "gate",
    "score_settings": "score",
    "train_settings": "train",
    "run_settings": "",
}
# What the form shows of each stage although it has its default (every other setting is taken too, by its dotted path).
SHOWN = {
    "data_settings": ("checks.max_rejected_share", "checks.max_tokens", "checks.pii", "replay.source", "replay.seed", "template.max_seq_length", "template.long_rows"),
    "gate_settings": ("alpha", "approval", "attempts", "defaults.max_drop", "defaults.tier", "end_run", "looks", "on_fail", "seed", "target.rule"),
    "run_settings": ("model.revision", "merge.strength", "publish.alias", "publish.licence", "publish.promote", "publish.signing_key", "publish.store", "repair.methods", "repair.strengths", "tracking.experiment"),
    "score_settings": ("apply_chat_template", "batch_tokens", "dtype", "max_length", "target.max_new_tokens", "target.metric", "tasks.0.limit", "tasks.0.num_fewshot"),
    "train_settings": (
        "batch_rows", "dtype", "early_stopping.max_retention_rise_nats", "early_stopping.patience", "gradient_checkpointing", "lora.alpha", "lora.dropout", "lora.r",
        "lora.target_modules", "lr_scheduler_type", "max_grad_norm", "max_steps", "packing", "seed", "warmup_ratio", "weight_decay",
    ),
}  # fmt: skip
RUN_STAGES = ("model", "merge", "repair", "compress", "publish", "tracking")


def to_form(recipe: Recipe) -> dict[str, Any]:
    """Every pipeline argument in full: nothing of the recipe is lost, and nothing is left to a default."""
    nested = recipe.as_parameter()
    tasks = nested["score"]["tasks"]
    flat = settings.flatten(nested)
    form: dict[str, Any] = {name: flat.pop(path) for name, path in HEADLINES.items() if path in flat}
    form["train_learning_rate"] = 0.0 if form["train_learning_rate"] == "auto" else form["train_learning_rate"]
    form["score_benchmarks"] = ", ".join(task["name"] for task in tasks)
    for i in range(len(tasks)):
        flat.pop(f"score.tasks.{i}.name")
    for name, stage in SETTINGS.items():
        mine = {
            k: v for k, v in flat.items() if (k.split(".")[0] in RUN_STAGES if not stage else k.startswith(f"{stage}."))
        }
        form[name] = {k.removeprefix(f"{stage}."): v for k, v in mine.items()} if stage else mine
    return form


def without_compression(recipe: Recipe, pipeline: str) -> dict[str, Any]:
    """The form of a pipeline that publishes its model as it is. ConfigError where the recipe asks for another form."""
    form = to_form(recipe)
    if (method := form.pop("compress_method")) != NONE:
        raise ConfigError(f"{pipeline} publishes its model as it is", got=f"compress.method: {method}", fix="--set compress.method=none; then retain compress, score, gate and publish")  # fmt: skip
    return form


def short_form(recipe: Recipe) -> dict[str, Any]:
    """The form as a person sees it: what differs from the defaults, and the settings people look for."""
    form = to_form(recipe)
    plain = _plain_settings()
    for name in SETTINGS:
        values = form[name]
        form[name] = {k: v for k, v in values.items() if k in SHOWN[name] or plain[name].get(_any_entry(k)) != v}
    return form


def _plain_settings() -> dict[str, dict[str, Any]]:
    """Every setting's default, list entries under the number 0."""
    entry = DatasetSpec(path="-").as_parameter()
    plain = parse(
        Recipe, {"model": {"base_model": "-"}, "data": {"datasets": [entry]}, "score": {"tasks": [{"name": "-"}]}}
    )
    form = to_form(plain)
    return {name: form[name] for name in SETTINGS}


def _any_entry(path: str) -> str:
    return re.sub(r"\.\d+\.", ".0.", path)


def from_form(form: Mapping[str, Any]) -> Recipe:
    """The recipe that a filled form means; unknown keys are refused with the nearest known one and their full path."""
    flat: dict[str, Any] = {}
    for name, stage in SETTINGS.items():
        for key, value in dict(form.get(name) or {}).items():
            path = f"{stage}.{key}" if stage else key
            _not_a_headline(path, name)
            flat[path] = value
    unknown = sorted(set(form) - set(HEADLINES) - set(SETTINGS))
    if unknown:
        near = nearest(unknown[0], [*HEADLINES, *SETTINGS])
        raise ConfigError(f"{unknown[0]}: no such parameter", fix=f"did you mean '{near}'?" if near else "")
    nested = settings.nest(flat)
    for name, path in HEADLINES.items():
        if name in form and name != "score_benchmarks":
            settings.put(nested, path, form[name])
    if form.get("train_learning_rate") == 0:  # a number field cannot say "auto"
        settings.put(nested, "train.learning_rate", "auto")
    return parse(Recipe, _with_benchmarks(nested, form.get("score_benchmarks", "")))


def _not_a_headline(path: str, where: str) -> None:
    for name, taken in HEADLINES.items():
        if path == taken:
            raise ConfigError(f"{where}: '{path}' has a parameter of its own", fix=f"set {name} instead")


def _with_benchmarks(nested: dict[str, Any], names: str) -> dict[str, Any]:
    """Task names from the headline, their details (``tasks.0.limit``) from the settings."""
    score = dict(nested.get("score") or {})
    details = score.get("tasks") or []
    listed = [name.strip() for name in names.split(",") if name.strip()]
    if len(details) > len(listed):
        raise ConfigError(
            "score_settings: more tasks.N entries than benchmarks",
            got=len(details),
            expected=len(listed),
            fix="remove the entries that are left over",
        )
    details = [*details, *({} for _ in range(len(listed) - len(details)))]
    if listed:
        score["tasks"] = [{"name": name, **detail} for name, detail in zip(listed, details, strict=True)]
    return {**nested, "score": score}
