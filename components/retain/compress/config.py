"""Settings of a compression: how the weights are made smaller, and what is left alone."""

from typing import Literal

from pydantic import Field

from retain.config import StepConfig

Method = Literal["magnitude", "2:4", "int8", "nf4", "gguf"]
NONE: Literal["none"] = "none"


class CompressConfig(StepConfig):
    """One form of a model that is smaller, or that some processors run faster."""

    method: Literal["none", Method] = Field(
        NONE,
        description="none: the tuned model is published as it is; magnitude: the smallest weights of each tensor become 0; 2:4: two of every four inputs become 0, the form GPUs have units for; "
        "int8, nf4: packed by bitsandbytes; gguf: one file for llama.cpp and its kin",
    )
    sparsity: float = Field(
        0.5, gt=0, lt=1, description="magnitude: share of each pruned tensor's entries that becomes 0"
    )
    gguf_type: Literal["F32", "BF16", "F16", "Q8_0"] = Field(
        "Q8_0", description="gguf: precision of the matrices; Q8_0 keeps blocks of 32 in 8 bits with a scale in 16"
    )
    gguf_vocabulary: str = Field(
        "",
        description="gguf: llama.cpp's name of the rule that splits text before BPE (tokenizer.ggml.pre); empty: found from tokenizer.json where it is known",
    )
    double_quant: bool = Field(True, description="nf4: the scales are packed too, 0.4 bit a weight less")
    skip: list[str] = Field(
        ["embed_tokens", "lm_head"],
        description="parts of tensor names that keep their precision and every entry; norms and biases always do",
    )
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="where int8 and nf4 are packed and the proof is computed: auto, cpu, cuda, cuda:N"
    )  # fmt: skip
    probe_rows: int = Field(4, ge=1, le=64, description="rows of tokens on which both models are compared")
    probe_tokens: int = Field(48, ge=4, le=512, description="tokens a probe row")
    seed: int = Field(0, ge=0, description="seed of the probe rows")
