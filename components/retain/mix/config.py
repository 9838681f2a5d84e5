"""Settings of the step `mix`: how much of what goes into training, and what must not."""

from typing import Literal

from pydantic import Field, model_validator

from retain.config import StepConfig


class DecontaminationConfig(StepConfig):
    """Rows that hold an item of the gate would make the gate blind; they are dropped and listed."""

    enabled: bool = Field(default=True, description="compare every row with the gate's own items")
    ngram_words: int = Field(
        default=13, ge=5, le=50, description="a run of this many words in common is a hit (13: GPT-3, arXiv 2005.14165, appendix C); shorter items are matched whole"
    )  # fmt: skip
    short_words: int = Field(
        default=5,
        ge=1,
        le=50,
        description="items with fewer words than this are a hit only where they are a whole line of a row",
    )
    jaccard: float = Field(
        default=0.6,
        gt=0,
        le=1,
        description="share of 3-word shingles in common from which a near copy is a hit; found by MinHash, then computed exactly",
    )
    common_items: int = Field(
        default=10, ge=1, description="words that stand in more items than this belong to the prompt's form, not to an item (GPT-3 used the same number)"
    )  # fmt: skip
    max_dropped_share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="share of the target rows from which a run is refused: then the data is the benchmark",
    )


class MixConfig(StepConfig):
    """Replay of general rows among the target rows, by tokens."""

    share: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="share of replay in all train tokens; 0.05 is the default against forgetting, 0.25 for a strong shift of language or format",
    )
    source: Literal["files", "generated", "both"] = Field(
        default="files", description="replay rows from files with part replay, written by the base model itself (step rehearse), or both"
    )  # fmt: skip
    safety_share: float = Field(default=0.0, ge=0, lt=1, description="share of safety rows in all train tokens")
    shortfall: Literal["refuse", "accept", "oversample"] = Field(
        default="refuse", description="too few replay or safety rows for their share: refuse, accept the smaller share, or oversample (repeat rows)"
    )  # fmt: skip
    validation_rows: int = Field(
        default=64,
        ge=0,
        description="rows set apart from target and from replay for the two validation losses where the data has no validation split; at most a tenth of them",
    )
    max_validation_rows: int = Field(
        default=256, ge=0, description="most validation rows kept of each part, drawn by the seed; 0: all"
    )
    seed: int = Field(default=0, ge=0, description="decides which replay rows are drawn and the order of all rows")
    decontamination: DecontaminationConfig = Field(
        default_factory=DecontaminationConfig, description="keeping the gate's items out of the rows"
    )

    @model_validator(mode="after")
    def _leaves_room_for_the_target(self) -> "MixConfig":
        if self.share + self.safety_share >= 1:
            raise ValueError(
                f"share {self.share} and safety_share {self.safety_share} leave nothing for the target rows"
            )
        return self
