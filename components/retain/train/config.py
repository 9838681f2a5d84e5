"""Every knob of a training, with its unit and the range it is known to work in."""

from typing import Literal

from pydantic import Field

from retain.config import StepConfig

# Rates that worked without breaking the base, and the highest that is known to (forgetting.md of the design notes;
# full: never above 2e-5). Above the second a training still runs, with a warning in its result.
METHOD_RATES: dict[str, tuple[float, float]] = {"lora": (1e-4, 5e-4), "full": (1e-5, 2e-5)}

Auto = Literal["auto"]


class LoraConfig(StepConfig):
    """Low-rank adapters: W + (alpha / r)·B·A (Hu et al. 2021, arXiv 2106.09685)."""

    r: int = Field(default=16, ge=1, le=4096, description="Rank of the update, in dimensions.")
    alpha: float = Field(default=32.0, gt=0, description="Scale numerator: the update is multiplied by alpha / r.")
    dropout: float | Auto = Field(
        default="auto",
        description="Share of adapter inputs dropped while training, 0 to 1; auto: .05 under 1 000 rows, else 0.",
    )
    target_modules: str | list[str] = Field(
        default="mlp-only",
        description="mlp-only, all-linear, attention-only, attention-qv, or the module names themselves.",
    )
    use_rslora: bool = Field(
        default=False, description="Scale by alpha / sqrt(r) instead of alpha / r (arXiv 2312.03732)."
    )


class EarlyStoppingConfig(StepConfig):
    """Two losses are watched: the target's, and the loss on general rows (retention)."""

    patience: int = Field(
        default=2,
        ge=0,
        description="Evaluations without a better target loss before the training stops; 0 = never stops.",
    )
    min_delta_nats: float = Field(
        default=0.0, ge=0, description="Smallest gain in target loss that counts, nats per token."
    )
    max_retention_rise_nats: float = Field(
        default=0.1,
        ge=0,
        description="Rise of the general loss above the base's that stops the training, nats per token; 0 = not watched.",
    )
    keep_best: bool = Field(
        default=True, description="Keep the weights of the best evaluation instead of the last step's."
    )


class TrainConfig(StepConfig):
    """How to train: the default is a LoRA on the MLP with few steps at a small rate, the cheapest way not to forget."""

    method: Literal["lora", "full"] = Field(
        default="lora", description="What is trained: lora (low-rank adapters) or full (every weight)."
    )
    learning_rate: float | Auto = Field(
        default="auto", description="Peak rate, per step; auto: the method's own default (lora 1e-4, full 1e-5)."
    )
    num_train_epochs: float = Field(
        default=2.0, gt=0, le=1000, description="Passes over the training rows; ignored when max_steps is set."
    )
    max_steps: int = Field(default=0, ge=0, description="Optimizer steps; 0 = as many as the epochs need.")
    batch_rows: int = Field(
        default=8,
        ge=1,
        description="Rows of one optimizer step, over all devices and accumulated micro-batches together.",
    )
    micro_tokens: int = Field(
        default=4096,
        ge=16,
        description="Most tokens in one forward pass of one device (memory knob); a step is split as often as needed.",
    )
    packing: Literal["auto", "packed", "padded"] = Field(
        default="auto",
        description="packed: rows side by side, each with its own attention and positions; padded: rows of like length under each other; auto: packed where the model can.",
    )
    lr_scheduler_type: Literal["cosine", "linear", "constant_with_warmup"] = Field(
        default="cosine", description="Shape of the rate after the warmup."
    )
    warmup_ratio: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the steps during which the rate rises from 0."
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are scaled down to this L2 norm.")
    weight_decay: float = Field(
        default=0.0, ge=0, description="Decoupled weight decay (AdamW), per step and unit of rate."
    )
    seed: int = Field(
        default=0, ge=0, le=2**32 - 1, description="Seed of the adapter's start, the order of the rows and dropout."
    )
    dtype: Literal["auto", "bf16", "fp32"] = Field(
        default="auto",
        description="Precision of forward and backward; the optimizer always keeps fp32 masters. auto: bf16 where the device computes it.",
    )
    device: str = Field(
        default="auto", description="auto, cpu, cuda or cuda:N; asking for cuda where there is none is an error."
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Compute activations twice to save memory (about a third slower)."
    )
    eval_steps: int | Auto = Field(
        default="auto",
        description="Steps between evaluations; auto: four a run. The base is always measured first, the last step always.",
    )
    max_eval_rows: int = Field(
        default=64, ge=1, description="Most validation rows of each kind (target, general) in one evaluation."
    )
    save_steps: int | Auto = Field(default="auto", description="Steps between checkpoints; auto: with each evaluation.")
    keep_checkpoints: int = Field(default=2, ge=1, description="Whole checkpoints kept; older ones are deleted.")
    resume: str = Field(
        default="auto",
        description="auto: go on from the last whole checkpoint of the same recipe and data; never: start anew; or the folder of one checkpoint.",
    )
    divergence_nats: float = Field(
        default=3.0,
        gt=0,
        description="Rise of the smoothed training loss above its lowest that stops the run as diverged, nats per token.",
    )
    lora: LoraConfig = Field(default_factory=LoraConfig, description="Settings of method lora.")
    early_stopping: EarlyStoppingConfig = Field(
        default_factory=EarlyStoppingConfig, description="When to stop before the last step."
    )


# What does not change the trained weights, and so is outside the key of a checkpoint.
BESIDE_THE_RECIPE = {"save_steps", "keep_checkpoints", "resume"}


def rate(config: TrainConfig) -> float:
    """The peak learning rate in force."""
    return METHOD_RATES[config.method][0] if config.learning_rate == "auto" else float(config.learning_rate)
