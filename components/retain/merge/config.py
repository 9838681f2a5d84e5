"""Settings of a merge: which arithmetic, how strong, in which precision, and how the proof is taken."""

from typing import Literal

from pydantic import Field

from retain.config import StepConfig


class MergeConfig(StepConfig):
    """W + strength · Σ weight · ΔW, written in the precision that ships."""

    method: Literal["linear", "ties", "dare", "slerp"] = Field(
        "linear", description="how several adapters are combined; with one adapter, linear"
    )
    strength: float = Field(
        1.0,
        gt=0,
        le=2,
        description="λ: factor on the whole change; below 1 it goes back towards the base, which undoes forgetting first (WiSE-FT)",
    )
    first_layer: float = Field(
        1.0,
        ge=0,
        le=1,
        description="factor on the strength at the first layer, rising linearly to 1 at the last (LiNeS): early layers carry what is general, late ones what was tuned; 1: the same everywhere",
    )
    density: float = Field(
        0.5,
        gt=0,
        le=1,
        description="ties: share of each change's largest entries that is kept; dare: share that is kept at random and scaled up",
    )
    seed: int = Field(0, ge=0, description="seed of dare's random choice")
    dtype: Literal["base", "bf16", "fp16", "fp32"] = Field(
        "base", description="precision of the changed tensors; base: each as it is stored in the base"
    )
    workers: int = Field(0, ge=0, le=64, description="tensors merged at once; 0: one a core, at most 4")
    block_mib: int = Field(
        2,
        ge=1,
        le=4096,
        description="fp32 MiB of a tensor that a worker holds at once; small blocks stay in the processor's cache",
    )
    probe_rows: int = Field(
        4,
        ge=1,
        le=64,
        description="rows of tokens whose logits are compared between the merged model and base + adapter",
    )
    probe_tokens: int = Field(32, ge=2, le=512, description="tokens a probe row")
    tolerance: float = Field(
        0.02,
        gt=0,
        le=1,
        description="largest allowed root mean square difference of probe logits, as a share of their standard deviation, for weights stored in 16 bits; a hundredth of it for fp32",
    )
