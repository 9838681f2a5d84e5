"""Settings of the single methods and of what holds the base in place."""

from typing import Annotated, Literal

from pydantic import Field

from retain.config import StepConfig

Auto = Literal["auto"]
# Starts that put the base's own principal directions into the adapter and take them out of the base.
MUTATING_STARTS = ("pissa", "olora", "corda")


class LoraConfig(StepConfig):
    """Low-rank adapters: W + (alpha / r)·B·A (Hu et al. 2021, arXiv 2106.09685)."""

    r: int = Field(default=16, ge=1, le=4096, description="Rank of the update, in dimensions.")
    alpha: float = Field(default=32.0, gt=0, description="Scale numerator: the update is multiplied by alpha / r.")
    dropout: float | Auto = Field(
        default="auto", description="Share of adapter inputs dropped while training, 0 to 1; auto: .05 under 1 000 rows, else (and for pissa, olora, corda) 0."
    )  # fmt: skip
    target_modules: str | list[str] = Field(
        default="mlp-only",
        description="mlp-only, all-linear, attention-only, attention-qv, decoder-attention (encoder-decoders), or the module names themselves.",
    )
    use_rslora: bool = Field(default=False, description="Scale by alpha / sqrt(r) instead of alpha / r (arXiv 2312.03732).")  # fmt: skip
    use_dora: bool = Field(default=False, description="Train the length of each weight row apart from its direction (arXiv 2402.09353).")  # fmt: skip
    init: Literal["default", "gaussian", "orthogonal", "pissa", "olora", "corda", "eva"] = Field(
        default="default",
        description="Start of A and B: default (B = 0), gaussian, orthogonal, pissa (2404.02948), olora (2406.01775), corda (2406.05223), eva (2410.07170).",
    )
    layer_plan: Literal["none", "thirds"] = Field(
        default="none",
        description="thirds: lower third of the blocks frozen, middle third at half the rank and alpha, upper third at the full ones.",
    )
    train_head: bool = Field(default=False, description="Train the output layer whole beside the adapters; one that is tied to the embedding becomes a layer of its own.")  # fmt: skip
    rank_pattern: dict[str, int] = Field(default_factory=dict, description="Other ranks for modules whose name matches the key (regular expression), in dimensions.")  # fmt: skip
    alpha_pattern: dict[str, float] = Field(default_factory=dict, description="Other alphas for modules whose name matches the key.")  # fmt: skip


class QuantConfig(StepConfig):
    """4-bit base of method qlora (Dettmers et al. 2023, arXiv 2305.14314)."""

    kind: Literal["nf4", "fp4"] = Field(default="nf4", description="4-bit code of the frozen weights.")
    double: bool = Field(default=True, description="Quantise the block scales too (saves 0.4 bit a weight).")


class FreezeConfig(StepConfig):
    """Which weights stay still in method freeze; what is named by neither is trained."""

    first_layers: Annotated[int, Field(ge=0)] | Auto = Field(
        default="auto", description="Blocks frozen from the bottom; auto: two thirds of them."
    )
    last_layers: int = Field(default=0, ge=0, description="Blocks frozen from the top.")
    embeddings: bool = Field(
        default=True, description="Freeze the token embeddings (and a tied output layer with them)."
    )
    patterns: list[str] = Field(default_factory=list, description="Regular expressions; a weight whose name one of them finds is frozen too.")  # fmt: skip


class PromptConfig(StepConfig):
    """Virtual tokens of the methods prefix, prompt and p_tuning."""

    tokens: int = Field(default=16, ge=1, le=1024, description="Virtual tokens before every row.")
    text: str = Field(default="", description="Words the prompt starts from (method prompt; forgets less than a random start); '' = random tokens.")  # fmt: skip
    hidden: int = Field(default=128, ge=1, description="Width of the encoder that makes the virtual tokens (p_tuning; prefix with projection).")  # fmt: skip
    projection: bool = Field(default=False, description="Make a prefix through a two-layer encoder.")


class OftConfig(StepConfig):
    """Orthogonal finetuning: weights are only rotated (Qiu et al. 2023, arXiv 2306.07280); osf: the leading subspace is kept (2504.07097)."""

    block_size: int = Field(default=32, ge=2, description="Side of the rotation blocks (oft), in dimensions; must divide the layers' inputs.")  # fmt: skip
    rank: int = Field(default=0, ge=0, description="Leading singular directions that are kept as they are (osf); 0 = half of them.")  # fmt: skip


class BottleneckConfig(StepConfig):
    """Bottleneck adapters: x + up(act(down(x))) after a sublayer (Houlsby et al. 2019, 1902.00751; Pfeiffer et al. 2020, 2005.00247)."""

    size: int = Field(default=64, ge=1, description="Width of the bottleneck, in dimensions.")
    placement: Literal["houlsby", "pfeiffer"] = Field(default="pfeiffer", description="houlsby: after attention and MLP; pfeiffer: after the MLP only.")  # fmt: skip
    activation: Literal["relu", "gelu", "silu"] = Field(default="gelu", description="Nonlinearity between down and up.")


class KlConfig(StepConfig):
    """KL(base ‖ tuned) on the supervised tokens of replay rows; the reference is the same model with its adapter off."""

    beta: float = Field(default=0.0, ge=0, description="Weight of the divergence beside the task loss; 0 = off; 0.1 where replay alone forgets too much.")  # fmt: skip


class WeightingConfig(StepConfig):
    """Target rows or tokens weighed by how hard the base finds them, from one forward pass before the first step."""

    kind: Literal["none", "flow", "stm"] = Field(default="none", description="flow: rows by exp(−loss / temperature) (2502.02797); stm: tokens that surprise the base are left out (2501.14315).")  # fmt: skip
    temperature: float | Auto = Field(default="auto", description="Of flow, nats per token; auto: the median loss of the rows.")  # fmt: skip
    max_token_nats: float = Field(default=0.916, gt=0, description="Of stm: tokens with a larger loss under the base carry none in training, nats (0.916: a perplexity of 2.5).")  # fmt: skip


class PreferenceConfig(StepConfig):
    """Objectives on judged answers: dpo (2305.18290), kto (2402.01306), orpo (2403.07691)."""

    beta: float = Field(default=0.1, gt=0, description="Sharpness: scale of the rewards (dpo, kto), weight of the odds ratio beside the loss of the chosen answer (orpo).")  # fmt: skip
    desirable_weight: float = Field(default=1.0, ge=0, description="Weight of desirable rows (kto); keep desirable_weight · n_desirable near undesirable_weight · n_undesirable.")  # fmt: skip
    undesirable_weight: float = Field(default=1.0, ge=0, description="Weight of undesirable rows (kto).")
    replay_weight: float = Field(default=0.2, ge=0, description="Weight of the mean loss of plain replay and safety rows (nats per token) beside the mean preference loss of a step.")  # fmt: skip


class AnchorConfig(StepConfig):
    """A quadratic pull back to the base's weights; for LoRA on ΔW = scale·B·A, not on A and B (EWC-LoRA, 2602.17559)."""

    kind: Literal["none", "l2_sp", "ewc"] = Field(
        default="none", description="l2_sp: every weight pulls alike (1802.01483); ewc: by its Fisher information on replay rows (1612.00796)."
    )  # fmt: skip
    strength: float | Auto = Field(
        default="auto", description="λ of λ/2·Σ F·(θ − θ*)²; auto: set at the end of the warmup so that the penalty is a tenth of the task loss."
    )  # fmt: skip
    fisher_rows: int = Field(default=200, ge=1, description="Replay rows from which the Fisher information is measured, one by one.")  # fmt: skip


class EarlyStoppingConfig(StepConfig):
    """Two losses are watched: the target's, and the loss on general rows (retention)."""

    patience: int = Field(default=2, ge=0, description="Evaluations without a better target loss before the training stops; 0 = never stops.")  # fmt: skip
    min_delta_nats: float = Field(default=0.0, ge=0, description="Smallest gain in target loss that counts, nats per token.")  # fmt: skip
    max_retention_rise_nats: float = Field(default=0.1, ge=0, description="Rise of the general loss above the base's that stops the training, nats per token; 0 = not watched.")  # fmt: skip
    keep_best: bool = Field(default=True, description="Keep the weights of the best evaluation instead of the last step's.")  # fmt: skip
