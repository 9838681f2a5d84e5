"""What the planner assumes before anything is trained or scored."""

from typing import Literal

from pydantic import Field

from retain.config import StepConfig


class GatePlanConfig(StepConfig):
    """Assumptions about a run whose gate is planned. Flip rates: means over ARC-Easy, SciQ, HellaSwag and PIQA, measured on
    SmolLM2-135M against its LoRA and against a full tune (pipelines/EVIDENCE.md, "Flip rates")."""

    flip_rate_lora: float = Field(default=0.071, gt=0, lt=1, description="share of items whose answer changes under LoRA and its kin, where no earlier run says")  # fmt: skip
    flip_rate_full: float = Field(default=0.276, gt=0, lt=1, description="the same for full fine-tuning and freezing; measured on a hurried tune, so a careful one is asked for more items than it needs, never for fewer")  # fmt: skip
    target_gain_points: float = Field(default=10.0, gt=0, le=100, description="points; gain of the target metric that is hoped for")  # fmt: skip
    target_flip_rate: float = Field(default=0.3, gt=0, le=1, description="share of target rows whose answer changes")
    fine_power: float = Field(default=0.8, gt=0, lt=1, description="chance of passing an unharmed model from which a plan is fine")  # fmt: skip
    least_power: float = Field(default=0.5, gt=0, lt=1, description="below this chance a plan is refused")
    runs: int = Field(default=2000, ge=200, le=100_000, description="simulated runs")
    seed: int = Field(default=0, ge=0, description="of the simulation")

    def flip_rate(self, method: str) -> float:
        """The prior for a training method's name."""
        return self.flip_rate_full if method in {"full", "freeze"} else self.flip_rate_lora


class PlanConfig(StepConfig):
    """Assumptions of `retain plan`: nothing here changes a run."""

    gate: GatePlanConfig = Field(default=GatePlanConfig(), description="assumptions about the gate")
    device: str = Field(default="h100", description="h200, h100, a100-80, a100-40, l40s, a10g, l4, t4 or cpu")
    devices: int = Field(default=1, ge=1, le=1024, description="devices that train together")
    memory_gib: float = Field(default=0.0, ge=0, description="GiB of one device; 0: as the table says")
    price_per_hour: float = Field(default=0.0, ge=0, description="USD of one device and hour; 0: the table's assumption")  # fmt: skip
    utilisation: float = Field(default=0.35, gt=0, le=1, description="share of the device's peak FLOP that a training reaches")  # fmt: skip
    tokens_per_second: float = Field(default=0.0, ge=0, description="measured by a short probe, all devices together; 0: not measured")  # fmt: skip
    queries: float = Field(default=0.0, ge=0, description="expected queries over the model's life; 0: not said")
    prompt_tokens_saved: int = Field(default=500, ge=0, description="tokens of examples and rules that a tuned model no longer needs in each prompt")  # fmt: skip
    price_per_million_tokens: float = Field(default=0.2, ge=0, description="USD of a million prompt tokens where the model is served")  # fmt: skip
    shift: Literal["none", "strong"] = Field(default="none", description="strong: the rows are in another language or format than the base knows")  # fmt: skip
