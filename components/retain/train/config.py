"""Every knob of a training, with its unit and the range it is known to work in."""

from typing import Annotated, Literal

from pydantic import Field

from retain.config import StepConfig
from retain.train.method_config import (
    AnchorConfig,
    Auto,
    BottleneckConfig,
    EarlyStoppingConfig,
    FreezeConfig,
    KlConfig,
    LoraConfig,
    OftConfig,
    PreferenceConfig,
    PromptConfig,
    QuantConfig,
    WeightingConfig,
)

# Rates that worked without breaking the base, and the highest that is known to (full: never above 2e-5; the soft prompts
# and IA3 after PEFT's method comparison). Above the second a training still runs, with a warning in its result.
METHOD_RATES: dict[str, tuple[float, float]] = {
    "lora": (1e-4, 5e-4), "qlora": (1e-4, 5e-4), "full": (1e-5, 2e-5), "freeze": (1e-5, 5e-5), "bottleneck": (1e-4, 1e-3), "prefix": (1e-3, 3e-2),
    "prompt": (1e-3, 3e-2), "p_tuning": (1e-3, 3e-2), "ia3": (1e-3, 5e-3), "oft": (1e-4, 1e-3), "osf": (1e-5, 5e-5),
    "probe": (1e-3, 1e-2),
}  # fmt: skip
# Preference losses move a model further per step: trl's defaults are 1e-6 (full) beside 2e-5 for supervised tuning.
PREFERENCE_RATE_SHARE = 0.1
# Methods whose change is one of the base's weights: what merge, and with it a whole run, can take.
MERGEABLE = ("lora", "qlora", "full", "freeze", "ia3", "oft", "osf")
SOFT_PROMPTS = ("prefix", "prompt", "p_tuning")
Count = Annotated[int, Field(ge=1)]
Method = Literal[
    "lora", "qlora", "full", "freeze", "bottleneck", "prefix", "prompt", "p_tuning", "ia3", "oft", "osf", "probe"
]


class TrainConfig(StepConfig):
    """How to train: the default is a LoRA on the MLP with few steps at a small rate, the cheapest way not to forget."""

    method: Method = Field(
        default="lora",
        description="What is trained: lora, qlora (4-bit base), full (every weight), freeze (some weights), bottleneck adapters, prefix, prompt, p_tuning, ia3, oft, osf, probe (a head over classes on the frozen base).",
    )
    objective: Literal["sft", "dpo", "kto", "orpo"] = Field(
        default="sft",
        description="What is learned: sft (the supervised tokens), dpo or orpo (rows with a chosen and a rejected answer), kto (answers judged true or false).",
    )
    learning_rate: float | Auto = Field(
        default="auto",
        description="Peak rate, per step; auto or 0: the method's own default (lora 1e-4, full 1e-5; a tenth of it for dpo, kto and orpo).",
    )
    num_train_epochs: float = Field(
        default=2.0,
        gt=0,
        le=1000,
        description="Passes over the training rows; refused beside max_steps, which says it another way.",
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
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto, cpu, cuda or cuda:N; asking for cuda where there is none is an error.",
    )
    processes: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = Field(
        default="auto",
        description="Processes of this machine that train together; auto: one for each GPU, one on a CPU.",
    )
    sharding: Literal["none", "fsdp", "zero2"] = Field(
        default="none",
        description="Several processes under torchrun: none: each holds the whole model (DDP); fsdp: weights, gradients and optimizer are split among them (FSDP2), for models that do not fit one GPU; zero2: gradients and optimizer are (DeepSpeed ZeRO-2, where deepspeed is installed).",
    )
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"] = Field(
        default="adamw",
        description="adamw: two fp32 moments a weight (8 bytes); adamw_8bit: in 8 bits (2 bytes, bitsandbytes); paged_…: moments move to the host where the GPU is full.",
    )
    gradient_checkpointing: bool | Auto = Field(
        default="auto",
        description="Compute activations twice to save memory (about a third slower); auto: where the planned memory does not fit.",
    )
    fused_kernels: Literal["auto", "off", "liger"] = Field(
        default="auto",
        description="liger: liger-kernel's fused norms, rotations and MLPs (GPU); auto: where it is installed.",
    )
    eval_steps: Count | Auto = Field(
        default="auto",
        description="Steps between evaluations; auto: four a run. The base is always measured first, the last step always.",
    )
    max_eval_rows: int = Field(
        default=64, ge=1, description="Most validation rows of each kind (target, general) in one evaluation."
    )
    save_steps: Count | Auto = Field(
        default="auto", description="Steps between checkpoints; auto: with each evaluation."
    )
    checkpoint_uri: str = Field(
        default="",
        description="Where checkpoints lie, under a name made of recipe, data and base, so that a new pod finds them: a folder (a volume) or s3://bucket/path; empty: the folder checkpoints/ in the home folder. Deleted after publishing.",
    )
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
    lora: LoraConfig = Field(
        default_factory=LoraConfig,
        description="Settings of methods lora and qlora; target_modules also for oft and osf.",
    )
    quant: QuantConfig = Field(default_factory=QuantConfig, description="Settings of method qlora.")
    freeze: FreezeConfig = Field(default_factory=FreezeConfig, description="Settings of method freeze.")
    prompt: PromptConfig = Field(
        default_factory=PromptConfig, description="Settings of methods prefix, prompt and p_tuning."
    )
    oft: OftConfig = Field(default_factory=OftConfig, description="Settings of methods oft and osf.")
    bottleneck: BottleneckConfig = Field(default_factory=BottleneckConfig, description="Settings of method bottleneck.")
    kl: KlConfig = Field(default_factory=KlConfig, description="Divergence from the base on replay rows.")
    preference: PreferenceConfig = Field(
        default_factory=PreferenceConfig, description="Settings of objectives dpo, kto and orpo."
    )
    weighting: WeightingConfig = Field(
        default_factory=WeightingConfig, description="Softer learning of what the base finds hard."
    )
    task_weights: dict[str, float] = Field(
        default_factory=dict,
        description="Factor on the loss of a dataset's training rows, by its name; the others keep 1. How often rows are drawn is data.datasets[].weight.",
    )
    anchor: AnchorConfig = Field(default_factory=AnchorConfig, description="Pull back to the base's weights.")
    early_stopping: EarlyStoppingConfig = Field(
        default_factory=EarlyStoppingConfig, description="When to stop before the last step."
    )


# What does not change the trained weights, and so is outside the key of a checkpoint.
BESIDE_THE_RECIPE = {"save_steps", "keep_checkpoints", "resume", "checkpoint_uri", "processes"}


def known_rates(method: str, objective: str) -> tuple[float, float]:
    """(default rate, highest known to do no harm), per step."""
    share = 1.0 if objective == "sft" else PREFERENCE_RATE_SHARE
    default, high = METHOD_RATES[method]
    return share * default, share * high


def rate(config: TrainConfig) -> float:
    """The peak learning rate in force."""
    return (
        known_rates(config.method, config.objective)[0]
        if config.learning_rate in ("auto", 0)
        else float(config.learning_rate)
    )
