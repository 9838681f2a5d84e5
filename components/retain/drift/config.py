"""Settings of the look at a served model: how much of its gain may be gone before it is time to train again."""

from pydantic import Field

from retain.config import StepConfig


class DriftConfig(StepConfig):
    """When a loss of quality counts. The words are the gate's: pass, regressed, inconclusive."""

    margin_points: float = Field(
        5.0, gt=0, le=50, description="points of the target metric; a loss of its gain below this is let be"
    )
    alpha: float = Field(
        0.05, gt=0, le=0.2, description="chance of raising the alarm for an unchanged quality, and of missing a loss of the margin"
    )  # fmt: skip
    min_rows: int = Field(
        50, ge=20, description="fresh labelled rows below which nothing is said, rows that passed the checks"
    )
