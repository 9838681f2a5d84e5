"""Settings of the step `rehearse`: what the base model is asked, how it answers, and which answers are kept."""

from typing import Literal

from pydantic import Field

from retain.config import StepConfig


class RehearseConfig(StepConfig):
    """Replay rows that the base writes itself (self-synthesised rehearsal, arXiv 2403.01244)."""

    rows: int = Field(default=256, ge=0, description="rows wanted; 0: none are written and no model is loaded")
    prompts: Literal["auto", "dataset", "own"] = Field(
        default="auto",
        description="dataset = the questions of the dataset's replay rows; own = the model writes the questions too, from the "
        "beginning of a user's turn alone (Magpie, arXiv 2406.08464); auto = dataset where there are replay rows",
    )
    temperature: float = Field(
        default=0.0, ge=0, le=2, description="of the answers; 0 = the most likely token each time"
    )
    prompt_temperature: float = Field(default=1.0, gt=0, le=2, description="of questions that the model writes itself")
    top_p: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="where a temperature is set: the smallest set of tokens with this probability is drawn from",
    )
    max_prompt_tokens: int = Field(
        default=96, ge=4, le=8192, description="longest question, in tokens; longer ones of the dataset are left out"
    )
    max_new_tokens: int = Field(default=192, ge=4, le=8192, description="longest answer, in tokens")
    keep_unfinished: bool = Field(
        default=False, description="keep answers that were cut at max_new_tokens (the model then learns to stop there)"
    )
    max_repeat_share: float = Field(
        default=0.3, ge=0, le=1, description="share of repeated 4-word runs from which an answer counts as a loop (after Gopher, arXiv 2112.11446, table A1)"
    )  # fmt: skip
    batch_rows: int = Field(
        default=16, ge=1, le=1024, description="questions answered together; part of what decides the answers"
    )
    max_attempts: float = Field(
        default=3.0, ge=1, description="questions asked at most, as a multiple of rows; then fewer rows are written"
    )
    seed: int = Field(default=0, ge=0, description="decides the order of questions and all sampling")
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = Field(default="auto", description="precision of the model")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    template_kwargs: dict[str, str | bool | int | float] = Field(
        default_factory=dict, description="variables of the chat template, as in the step template"
    )
