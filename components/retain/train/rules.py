"""Knobs that cannot act together are refused with the reason, before anything is loaded."""

from retain.errors import ConfigError
from retain.train.config import METHOD_RATES, SOFT_PROMPTS, TrainConfig, rate
from retain.train.method_config import MUTATING_STARTS

LORA_FAMILY = ("lora", "qlora")
# Sub-config → the methods that read it.
OWNERS = {
    "lora": (*LORA_FAMILY, "ia3", "oft", "osf"), "quant": ("qlora",), "freeze": ("freeze",), "prompt": SOFT_PROMPTS, "oft": ("oft", "osf"), "bottleneck": ("bottleneck",),
}  # fmt: skip


def check(config: TrainConfig, device: str) -> None:
    """Refuse what would be ignored or go wrong."""
    for reason, where, fix in _faults(config, device):
        raise ConfigError(reason, where=f"train.{where}", fix=fix)


def _faults(config: TrainConfig, device: str) -> list[tuple[str, str, str]]:
    """(reason, setting, what to do) of everything that is wrong."""
    method, lora, mutating = config.method, config.lora, config.lora.init in MUTATING_STARTS
    changed = [name for name in OWNERS if getattr(config, name) != type(getattr(config, name))()]
    faults = [
        (
            f"method {method} does not read these settings: {name}",
            name,
            f"remove train.{name}, or use method {' or '.join(OWNERS[name])}",
        )
        for name in changed
        if method not in OWNERS[name]
    ]
    tests = [
        (config.kl.beta > 0 and method in ("full", "freeze"), "KL to the base needs the base: with method full there is no adapter to switch off", "kl.beta", "use anchor l2_sp or ewc, or an adapter method"),
        (config.kl.beta > 0 and mutating, f"a {lora.init} start changes the base's weights: with the adapter off it is not the base", "kl.beta", "use lora.init default or eva"),
        (method == "osf" and config.kl.beta > 0, "osf's weights replace the base's: there is nothing to switch off", "kl.beta", "use method lora"),
        (method == "qlora" and lora.init != "default", f"a {lora.init} start needs unquantised weights", "lora.init", "use lora.init default"),
        (method == "qlora" and config.anchor.kind == "ewc", "the Fisher information needs gradients of the base's weights, and 4-bit weights have none", "anchor.kind", "use l2_sp or kl"),
        (mutating and config.anchor.kind != "none", "the anchor holds B·A near nothing, and this start is not nothing", "anchor.kind", "use lora.init default"),
        (mutating and lora.use_dora, "peft converts such a start back to a plain adapter only without DoRA", "lora.init", "use lora.init default"),
        (method == "prefix" and config.gradient_checkpointing, "a prefix is a cache, and activations cannot be computed twice with one", "gradient_checkpointing", "switch it off"),
        (bool(config.prompt.text) and method != "prompt", f"method {method} does not start from words", "prompt.text", "use method prompt"),
        (config.prompt.projection and method != "prefix", f"method {method} has no projection", "prompt.projection", "use method prefix"),
        (isinstance(lora.dropout, float) and not 0 <= lora.dropout < 1, "a share must lie in [0, 1)", "lora.dropout", "use 0.05"),
        (isinstance(config.learning_rate, float) and config.learning_rate < 0, "a rate cannot be negative", "learning_rate", "use auto"),
    ]  # fmt: skip
    return faults + [(reason, where, fix) for wrong, reason, where, fix in tests if wrong]


def warnings(config: TrainConfig) -> tuple[str, ...]:
    """What a person should know although the run may go on."""
    high = METHOD_RATES[config.method][1]
    if rate(config) <= high:
        return ()
    return (
        f"train.learning_rate {rate(config):g} is above {high:g}, the highest that {config.method} is known to bear without forgetting",
    )
