"""From a base model to a model that is ready to be trained by one method."""

from collections.abc import Callable
from typing import Any

from retain.errors import ConfigError
from retain.train import lora_linear, targets
from retain.train.config import TrainConfig

SMALL_DATA_ROWS = 1000


def prepare(config: TrainConfig, model: Any, rows: int) -> Any:
    """``model`` with exactly the parameters of the method trainable; ``rows`` is the number of training rows."""
    if getattr(model, "quantization_method", None) and config.method == "full":
        raise ConfigError(
            "a quantised base cannot be trained in full",
            got=model.quantization_method,
            fix="use method: lora, or the unquantised base",
        )
    return METHODS[config.method](config, model, rows)


def full(config: TrainConfig, model: Any, rows: int) -> Any:
    """Every weight moves."""
    return model.requires_grad_(True)


def lora(config: TrainConfig, model: Any, rows: int) -> Any:
    """peft's LoRA in the precision of the base; the optimizer holds the fp32 masters."""
    from peft import LoraConfig, get_peft_model

    knobs = config.lora
    dropout = (0.05 if rows < SMALL_DATA_ROWS else 0.0) if knobs.dropout == "auto" else knobs.dropout
    settings = LoraConfig(
        r=knobs.r, lora_alpha=knobs.alpha, lora_dropout=dropout, target_modules=targets.choose(model, knobs.target_modules),
        use_rslora=knobs.use_rslora, task_type="CAUSAL_LM", fan_in_fan_out=_transposed(model),
    )  # fmt: skip
    adapted = get_peft_model(model, settings, autocast_adapter_dtype=False)
    lora_linear.quicken(adapted)
    return adapted


def _transposed(model: Any) -> bool:
    return any(type(module).__name__ == "Conv1D" for module in model.modules())


METHODS: dict[str, Callable[[TrainConfig, Any, int], Any]] = {"lora": lora, "full": full}


def is_adapter(model: Any) -> bool:
    """Whether the result is an adapter in peft's layout (else: changed weights)."""
    return hasattr(model, "peft_config")
