"""Settings of the step `validate`: which rows come in, and what makes one of them unfit for training."""

from typing import Literal

from pydantic import Field

from retain.config import StepConfig

Format = Literal[
    "auto", "messages", "sharegpt", "alpaca", "prompt_completion", "text", "preference", "kto", "classification", "seq2seq", "tokenized"
]  # fmt: skip


class DatasetSpec(StepConfig):
    """One file of rows, what it is for, and how its columns become a known shape."""

    path: str = Field(description="URI of the file: a path, package://, s3://, hf://, https:// …; JSONL, JSON, CSV, Parquet or text, plain, .gz or .zst")
    name: str = Field("", description="source name kept with every row; empty: the file's name")
    format: Format = Field("auto", description="shape of the rows; auto: told from the columns and echoed")
    part: Literal["target", "replay", "safety"] = Field("target", description="target: the task to learn; replay: general rows against forgetting; safety: refusals to keep")
    split: Literal["train", "validation", "test"] = Field("train", description="what the rows serve as; test rows are for the target metric and never trained on")
    weight: float = Field(1.0, gt=0, description="sampling weight of this source among the others of its part")
    map: dict[str, str] = Field(default_factory=dict, description="new columns from old ones, e.g. {prompt: 'Sentiment of: {sentence}', completion: '{label}'}")
    split_at: str = Field("", description="cut the text column here: what stands before (with the mark) is the prompt, the rest the completion")
    where: dict[str, str] = Field(default_factory=dict, description="keep only rows whose column equals this value (as text)")
    rows: str = Field("", pattern=r"^(\d*:\d*)?$", description="keep only this slice of the kept rows, e.g. 0:2700")
    validation_share: float = Field(0.0, ge=0, lt=1, description="share of these rows set apart for the validation loss, chosen by a hash of the row")
