"""Knobs that cannot act together are refused with the reason, before anything is loaded."""

import importlib.util
import math
import re

from retain.config import StepConfig
from retain.errors import ConfigError, DataRefused
from retain.train import sharding, speed
from retain.train.config import SOFT_PROMPTS, TrainConfig, known_rates, rate
from retain.train.method_config import MUTATING_STARTS, PreferenceConfig, WeightingConfig
from retain.train.rows import Mixture

LORA_FAMILY = ("lora", "qlora")
BASE_CHANGING = ("full", "freeze", "osf")
JUDGED = {"dpo": "pairs", "orpo": "pairs", "kto": "judgements"}
# What to do with rows of a kind that the objective cannot learn from.
FIXES = {
    "pairs": "use train.objective dpo or orpo, or keep one side: map: {prompt: '{prompt}', completion: '{chosen}'}",
    "judgements": "use train.objective kto", "classes": "use train.method probe, or data.template.classification: completion", "plain rows": "use train.objective sft, or give rows with chosen and rejected (dpo, orpo) or a label (kto); a probe takes rows with text and label and data.template.classification: head",
}  # fmt: skip
# Sub-config, or one knob of it → the methods that read it; a knob's own line counts before its sub-config's.
READERS = {
    "lora": LORA_FAMILY, "lora.target_modules": (*LORA_FAMILY, "oft", "osf"), "quant": ("qlora",), "freeze": ("freeze",), "bottleneck": ("bottleneck",),
    "prompt": SOFT_PROMPTS, "prompt.text": ("prompt",), "prompt.hidden": ("prefix", "p_tuning"), "prompt.projection": ("prefix",), "oft": ("oft",), "oft.rank": ("osf",),
}  # fmt: skip


def check(config: TrainConfig, device: str) -> None:
    """Refuse what would be ignored or go wrong, on this machine too."""
    here = _sharding_faults(config, config.lora.init in MUTATING_STARTS) + _device_faults(config, device)
    _refuse(_faults(config) + [fault[1:] for fault in here if fault[0]])


def check_recipe(config: TrainConfig) -> None:
    """The same as far as it needs neither the machine nor the rows: before a GPU is asked for."""
    _refuse(_faults(config))


def _refuse(faults: list[tuple[str, str, str]]) -> None:
    for reason, where, fix in faults:
        raise ConfigError(reason, where=f"train.{where}", fix=fix)


def _faults(config: TrainConfig) -> list[tuple[str, str, str]]:
    """(reason, setting, what to do) of everything that is wrong."""
    method, lora, mutating = config.method, config.lora, config.lora.init in MUTATING_STARTS
    prompt, anchor, stopping = config.prompt, config.anchor, config.early_stopping
    tests = [
        (config.kl.beta > 0 and method in ("full", "freeze"), "KL to the base needs the base: with method full there is no adapter to switch off", "kl.beta", "use anchor l2_sp or ewc, or an adapter method"),
        (config.kl.beta > 0 and mutating, f"a {lora.init} start changes the base's weights: with the adapter off it is not the base", "kl.beta", "use lora.init default or eva"),
        (method == "osf" and config.kl.beta > 0, "osf's weights replace the base's: there is nothing to switch off", "kl.beta", "use method lora"),
        (method == "qlora" and (mutating or lora.init == "orthogonal"), f"a {lora.init} start needs unquantised weights", "lora.init", "use lora.init default, gaussian or eva"),
        (method == "qlora" and config.anchor.kind == "ewc", "the Fisher information needs gradients of the base's weights, and 4-bit weights have none", "anchor.kind", "use l2_sp or kl"),
        (mutating and config.anchor.kind != "none", "the anchor holds B·A near nothing, and this start is not nothing", "anchor.kind", "use lora.init default"),
        (lora.train_head and config.anchor.kind != "none", "the anchor pulls the adapters' products, and a head that is trained whole has none", "lora.train_head", "switch it off, or use kl"),
        (mutating and lora.train_head, "peft converts such a start back to a plain adapter only without a head beside it", "lora.init", "use lora.init default"),
        (mutating and lora.dropout not in ("auto", 0), f"a {lora.init} start holds the base's own main directions, and dropout would drop parts of the base", "lora.dropout", "use auto or 0, or lora.init default"),
        (mutating and lora.use_dora, "peft converts such a start back to a plain adapter only without DoRA", "lora.init", "use lora.init default"),
        (method == "prefix" and config.gradient_checkpointing is True, "a prefix is a cache, and activations cannot be computed twice with one", "gradient_checkpointing", "switch it off"),
        (method == "prefix" and not prompt.projection and "hidden" in _changed(prompt), "without a projection a prefix has no encoder", "prompt.hidden", "remove it, or set prompt.projection"),
        (anchor.kind != "ewc" and "fisher_rows" in _changed(anchor), "only ewc measures the Fisher information", "anchor.fisher_rows", "remove it, or use anchor.kind ewc"),
        (anchor.kind == "none" and "strength" in _changed(anchor), "without a kind nothing pulls", "anchor.strength", "set anchor.kind"),
        (stopping.min_delta_nats > 0 and not stopping.patience and not stopping.keep_best, "nothing asks which evaluation was better", "early_stopping.min_delta_nats", "remove it, or set patience or keep_best"),
        (method == "probe" and (config.kl.beta > 0 or config.anchor.kind != "none"), "a probe leaves the base as it is: there is nothing to hold back", "kl.beta" if config.kl.beta > 0 else "anchor.kind", "switch it off"),
        (method == "probe" and config.objective != "sft", "a probe learns classes, not preferences", "objective", "use objective sft"),
        (isinstance(lora.dropout, float) and not 0 <= lora.dropout < 1, "a share must lie in [0, 1)", "lora.dropout", "use 0.05"),
        (config.weighting.kind == "none" and config.weighting != WeightingConfig(), "without a kind these settings weigh nothing", "weighting", "set weighting.kind"),
        (config.weighting.kind != "flow" and config.weighting.temperature != "auto", "only flow has a temperature", "weighting.temperature", "remove it"),
        (isinstance(config.weighting.temperature, float) and config.weighting.temperature <= 0, "a temperature is above 0", "weighting.temperature", "use auto"),
        (config.weighting.kind == "flow" and config.weighting.max_token_nats != WeightingConfig().max_token_nats, "only stm has a limit for tokens", "weighting.max_token_nats", "remove it"),
        (config.weighting.kind != "none" and (method == "probe" or config.objective != "sft"), "weights come from the base's loss on answers that are learnt as they stand", "weighting.kind", "use it with objective sft and a method other than probe"),
        (config.weighting.kind != "none" and mutating, f"a {lora.init} start changes the base's weights: its losses would not be the base's", "weighting.kind", "use lora.init default"),
        (any(weight <= 0 for weight in config.task_weights.values()), "a factor on a loss is above 0", "task_weights", "leave the dataset out to train without it"),
        (isinstance(config.learning_rate, float) and not 0 <= config.learning_rate < math.inf, "a rate is a number that is not negative", "learning_rate", "use auto"),
        (config.max_steps > 0 and "num_train_epochs" in _changed(config), "max_steps says how long to train: the epochs would be ignored", "num_train_epochs", f"leave it at its default ({TrainConfig().num_train_epochs:g}), or max_steps at 0"),
        (method == "probe" and config.gradient_checkpointing is True, "a probe's base takes no gradient: there are no activations to be computed twice", "gradient_checkpointing", "switch it off"),
        (lora.init == "orthogonal" and any(rank % 2 for rank in (lora.r, *lora.rank_pattern.values())), "an orthogonal start deals the rank's dimensions out in pairs", "lora.r", "use an even rank"),
        (lora.init == "orthogonal" and lora.layer_plan == "thirds" and lora.r % 4 != 0, "the layer plan halves the rank, and an orthogonal start deals its dimensions out in pairs", "lora.r", "use a rank that 4 divides"),
        (any(rank < 1 for rank in lora.rank_pattern.values()), "a rank is at least 1", "lora.rank_pattern", "leave the module out of target_modules"),
        (any(alpha <= 0 for alpha in lora.alpha_pattern.values()), "an alpha is above 0", "lora.alpha_pattern", "leave the module out of target_modules"),
        (config.processes not in ("auto", 1) and config.device.startswith("cuda:"), f"device {config.device} is one GPU, and each process takes one of its own", "processes", "use device: cuda, or processes: 1"),
        (config.sharding != "none" and config.processes == 1, "there is one process only: nothing can be shared out", "sharding", "use processes: auto, or sharding: none"),
    ]  # fmt: skip
    tests += _objective_faults(config)
    return _patterns(config) + _unread(config) + [(reason, where, fix) for wrong, reason, where, fix in tests if wrong]


def _unread(config: TrainConfig) -> list[tuple[str, str, str]]:
    """The same for knobs that another method reads."""
    changed = [f"{name}.{key}" for name in READERS if "." not in name for key in _changed(getattr(config, name))]
    readers = {knob: READERS.get(knob, READERS[knob.partition(".")[0]]) for knob in changed}
    return [
        (f"method {config.method} does not read these settings: {knob}", knob, f"remove train.{knob}, or use method {' or '.join(methods)}")
        for knob, methods in readers.items() if config.method not in methods
    ]  # fmt: skip


def _patterns(config: TrainConfig) -> list[tuple[str, str, str]]:
    """Regular expressions that are none."""
    given = {"freeze.patterns": config.freeze.patterns, "lora.rank_pattern": config.lora.rank_pattern, "lora.alpha_pattern": config.lora.alpha_pattern}  # fmt: skip
    return [
        (f"'{pattern}' is no regular expression: {wrong}", where, "escape its special characters with a backslash")
        for where, patterns in given.items() for pattern in patterns if (wrong := _wrong(pattern))
    ]  # fmt: skip


def _wrong(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        return str(error)
    return ""


def _changed(part: StepConfig) -> list[str]:
    """Names of the settings that are not at their defaults."""
    plain = type(part)()
    return [name for name in type(part).model_fields if getattr(part, name) != getattr(plain, name)]


def _objective_faults(config: TrainConfig) -> list[tuple[bool, str, str, str]]:
    """The same for objectives other than sft."""
    objective, method, knobs, mutating = config.objective, config.method, config.preference, config.lora.init in MUTATING_STARTS  # fmt: skip
    refers, plain = objective in ("dpo", "kto"), PreferenceConfig()
    weighted = (knobs.desirable_weight, knobs.undesirable_weight) != (plain.desirable_weight, plain.undesirable_weight)
    return [
        (objective == "sft" and knobs != plain, "objective sft does not read these settings: preference", "preference", "remove train.preference, or use objective dpo, kto or orpo"),
        (weighted and objective in ("dpo", "orpo"), f"objective {objective} knows no desirable and undesirable rows", "preference.desirable_weight", "use objective kto"),
        (refers and method in BASE_CHANGING, f"{objective} compares with the base, and method {method} leaves no adapter to switch off", "objective", "use an adapter method, or objective orpo, which needs no reference"),
        (refers and mutating, f"a {config.lora.init} start changes the base's weights: with the adapter off it is not the reference", "lora.init", "use lora.init default or eva"),
        (objective == "kto" and config.batch_rows < 2, "kto measures its drift on each prompt with another row's answer", "batch_rows", "use at least 2 rows a step"),
    ]  # fmt: skip


def check_rows(config: TrainConfig, rows: Mixture, folder: str) -> None:
    """The rows must be of the kind that method and objective learn from; replay rows are plain, safety rows either."""
    wanted = "classes" if config.method == "probe" else JUDGED.get(config.objective, "plain rows")
    for row in (*rows.train, *rows.target_validation, *rows.retention):
        where = f"{folder}, row {row.id}"
        if config.method == "probe" and row.part != "target":
            raise DataRefused(f"a probe leaves the base as it is: there is nothing that {row.part} rows could keep", where=where, fix="set data.replay.share: 0 and give rows with part target only")  # fmt: skip
        if row.part == "replay" and row.kind != "plain rows":
            raise DataRefused("replay rows are plain rows: they are there to be kept, not to be judged", where=where, got=row.kind, fix="map them to prompt and completion")  # fmt: skip
        if row.kind != wanted and (row.part == "target" or row.kind != "plain rows"):
            raise DataRefused(f"method {config.method} with objective {config.objective} learns from {wanted}", where=where, got=row.kind, expected=wanted, fix=FIXES[row.kind])  # fmt: skip
    _check_that_rows_ask(config, rows, folder)


def _check_that_rows_ask(config: TrainConfig, rows: Mixture, folder: str) -> None:
    """A knob that acts on rows which the mixture has not would do nothing."""
    stopping, general, target = config.early_stopping, rows.retention, rows.target_validation
    asked = _changed(stopping)
    tests = [
        (config.kl.beta > 0 and not any(row.part == "replay" for row in rows.train), "KL to the base is measured on replay rows, and there are none", "kl.beta"),
        ("max_retention_rise_nats" in asked and stopping.max_retention_rise_nats > 0 and not general, "no general rows are set aside for validation: their loss cannot be watched", "early_stopping.max_retention_rise_nats"),
        ("patience" in asked and stopping.patience > 0 and not target, "no target rows are set aside for validation: no gain can be seen", "early_stopping.patience"),
        (stopping.min_delta_nats > 0 and not target, "no target rows are set aside for validation: no gain can be seen", "early_stopping.min_delta_nats"),
        ("max_eval_rows" in _changed(config) and not (general or target), "no rows are set aside for validation", "max_eval_rows"),
        ("replay_weight" in _changed(config.preference) and all(row.judged for row in rows.train), "there are no plain rows beside the judged ones", "preference.replay_weight"),
    ]  # fmt: skip
    for idle, reason, where in tests:
        if idle:
            raise ConfigError(reason, where=f"train.{where}", got=f"rows of {folder}", fix=f"give such rows (data.replay, data.datasets), or remove train.{where}")  # fmt: skip


def _sharding_faults(config: TrainConfig, mutating: bool) -> list[tuple[bool, str, str, str]]:
    on, where, zero = config.sharding != "none", "sharding", config.sharding == "zero2"
    return [
        (zero and importlib.util.find_spec("deepspeed") is None, "ZeRO comes with deepspeed, which is not installed", where, "pip install deepspeed, or use sharding: fsdp, which torch has itself"),
        (on and sharding.processes() < 2, "there is one process only: nothing can be shared out", where, "set train.processes to the number of GPUs (or start it with torchrun --nproc-per-node N), or use sharding: none"),
        (on and config.method not in sharding.METHODS, "the parameters of this method cannot be split", where, f"use sharding: none, or method {' or '.join(sharding.METHODS)}"),
        (on and config.objective != "sft", f"objective {config.objective} compares answers in passes that the processes would not share", "objective", "use objective sft, or sharding: none"),
        (on and not zero and mutating, "such a start is given back at the end from whole weights", "lora.init", "use lora.init default, or sharding: none"),
        (on and config.optimizer != "adamw", "bitsandbytes' optimizers know no shared state", "optimizer", "use adamw, whose moments are shared out too"),
        (on and not zero and config.anchor.kind != "none", "the anchor reads whole weights, and a split model has none", "anchor.kind", "use kl, or sharding: none"),
        (zero and config.anchor.kind != "none", "deepspeed steps inside the backward pass, before the anchor can pull", "anchor.kind", "use kl, or sharding: none"),
    ]  # fmt: skip


def _device_faults(config: TrainConfig, device: str) -> list[tuple[bool, str, str, str]]:
    cpu, paged = device == "cpu", config.optimizer.startswith("paged")
    installed = importlib.util.find_spec("bitsandbytes") is not None
    return [
        (paged and cpu, "a paged optimizer moves its state between GPU and host; on a CPU bitsandbytes quietly does not page", "optimizer", "use adamw_8bit, or adamw"),
        (config.optimizer != "adamw" and not installed, "the 8-bit and paged optimizers come with bitsandbytes, which is not installed", "optimizer", "pip install bitsandbytes, or use adamw"),
        (config.fused_kernels == "liger" and cpu, "liger-kernel's kernels run on GPUs only", "fused_kernels", "use fused_kernels: auto"),
        (config.fused_kernels == "liger" and not speed.liger_version(), "liger-kernel is not installed", "fused_kernels", "pip install liger-kernel, or use fused_kernels: auto"),
    ]  # fmt: skip


def warnings(config: TrainConfig) -> tuple[str, ...]:
    """What a person should know although the run may go on."""
    high = known_rates(config.method, config.objective)[1]
    if rate(config) <= high:
        return ()
    return (
        f"train.learning_rate {rate(config):g} is above {high:g}, the highest that {config.method} is known to bear without forgetting",
    )
