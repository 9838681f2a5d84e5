"""What the planner assumes before anything is trained or scored."""

from pydantic import Field

from retain.config import StepConfig


class GatePlanConfig(StepConfig):
    """Assumptions about a run whose gate is planned. Flip rates seen on a real 135 M model: .04 to .13."""

    flip_rate_lora: float = Field(default=0.08, gt=0, lt=1, description="share of items whose answer changes under LoRA and its kin, where no earlier run says")  # fmt: skip
    flip_rate_full: float = Field(default=0.12, gt=0, lt=1, description="the same for full fine-tuning and freezing")
    target_gain_points: float = Field(default=10.0, gt=0, le=100, description="points; gain of the target metric that is hoped for")  # fmt: skip
    target_flip_rate: float = Field(default=0.3, gt=0, le=1, description="share of target rows whose answer changes")
    fine_power: float = Field(default=0.8, gt=0, lt=1, description="chance of passing an unharmed model from which a plan is fine")  # fmt: skip
    least_power: float = Field(default=0.5, gt=0, lt=1, description="below this chance a plan is refused")
    runs: int = Field(default=2000, ge=200, le=100_000, description="simulated runs")
    seed: int = Field(default=0, ge=0, description="of the simulation")

    def flip_rate(self, method: str) -> float:
        """The prior for a training method's name."""
        return self.flip_rate_full if method in {"full", "freeze"} else self.flip_rate_lora
