"""Settings of a repair: what is tried, and from which chance of passing on it is worth an attempt. Recipe section ``repair``."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from retain.config import StepConfig

Method = Literal["strength", "depth", "intruders"]


class RepairConfig(StepConfig):
    """How a regressed model is mended without training. Whether it is tried at all, and on which share of the items: gate.on_fail, gate.dev_share."""

    methods: list[Method] = Field(
        default=["strength", "depth", "intruders"],
        min_length=1,
        description="what is tried, in this order, until one is likely to pass: strength (the whole change weaker: WiSE-FT), depth (early layers weaker than late ones: LiNeS), intruders (directions that the base does not have reduced: in a plain LoRA by peft, and in changed weights)",
    )
    strengths: list[float] = Field(
        default=[1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3],
        min_length=2,
        description="λ: factors on the strength of what was gated; each costs one scoring of the dev items",
    )
    first_layer: float = Field(
        default=0.0, ge=0, lt=1, description="depth: factor at the first layer, rising linearly to 1 at the last"
    )
    intruder_share: float = Field(
        default=0.5, ge=0, lt=1, description="intruders: share of each intruding direction that is kept"
    )
    intruder_cosine: float = Field(
        default=0.5, gt=0, le=1, description="intruders: a direction whose largest cosine with the base's singular vectors is below this intrudes"
    )  # fmt: skip
    intruder_directions: int = Field(
        default=10, ge=1, le=1000, description="intruders: leading singular directions of a layer that are looked at"
    )
    likely: float = Field(
        default=0.8, gt=0, le=1, description="predicted chance of passing from which the strongest change is taken"
    )
    least: float = Field(
        default=0.5, gt=0, le=1, description="below this predicted chance no attempt is spent, and another training is proposed"
    )  # fmt: skip
    least_kept: float = Field(
        default=0.5, ge=0, le=1, description="share of the target's gain that a repaired model must be expected to keep; below it another training is proposed"
    )  # fmt: skip
    runs: int = Field(
        default=2000, ge=200, le=100_000, description="simulated gates behind each predicted chance of passing"
    )
    seed: int = Field(default=0, ge=0, description="seed of the simulation")

    @field_validator("strengths")
    @classmethod
    def _falling(cls, values: list[float]) -> list[float]:
        if any(not 0 < value <= 1 for value in values):
            raise ValueError("strengths lie above 0 and at most at 1")
        if len(set(values)) != len(values):
            raise ValueError("a strength is named twice")
        return sorted(values, reverse=True)

    @field_validator("methods")
    @classmethod
    def _once(cls, values: list[Method]) -> list[Method]:
        if len(set(values)) != len(values):
            raise ValueError("a method is named twice")
        return values

    @model_validator(mode="after")
    def _ordered(self) -> "RepairConfig":
        if self.least > self.likely:
            raise ValueError(f"least ({self.least}) may not be above likely ({self.likely})")
        return self
