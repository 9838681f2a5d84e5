"""The gate's policy: the recipe section ``gate``. All margins and drops are in POINTS (1.0 = one percentage point)."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from retain.config import StepConfig

Tier = Literal["critical", "supporting", "advisory"]
POINT = 0.01
# LoRA runs of PEFT's own comparison of methods (MetaMathQA) rise by .03 (MLP) to .11 nats a token, broken ones by more than .4.
RISE_NATS = 0.05


def _in_points(value: float) -> float:
    if 0 < value < 0.1:
        raise ValueError(
            f"{value} is in points, where 1.0 is one percentage point; did you mean {round(100 * value, 6)}?"
        )
    return value


Points = Annotated[float, AfterValidator(_in_points)]


def _bare_key(value: str) -> str:
    """A PEM block or its lines alone: one line without the BEGIN and END."""
    return "".join(line.strip() for line in value.splitlines() if "-----" not in line)


def _one_or_four(value: int) -> int:
    if value not in (1, 4):
        raise ValueError("either 1 look at all items or the planned sequence of 4 equal fractions")
    return value


class BenchmarkRule(StepConfig):
    """How one benchmark counts."""

    tier: Tier = Field(
        default="supporting",
        description="critical: must be non-inferior on its own; supporting: in the macro average, must not fall significantly; advisory: reported only",
    )
    max_drop: Points = Field(default=1.0, gt=0, le=50, description="points; critical: the benchmark's own margin; supporting: a significant drop counts from here on")  # fmt: skip


class BenchmarkChange(StepConfig):
    """What one named benchmark has otherwise than the defaults."""

    tier: Literal["critical", "supporting", "advisory", "default"] = Field(
        default="default", description="as in defaults, or a tier of its own"
    )
    max_drop: Points | Literal["default"] = Field(default="default", description="points; as in defaults, or a value of its own", union_mode="left_to_right")  # fmt: skip

    @model_validator(mode="after")
    def _positive(self) -> "BenchmarkChange":
        if self.max_drop != "default" and not 0 < self.max_drop <= 50:
            raise ValueError(f"max_drop is in points and above 0, at most 50 (got {self.max_drop})")
        return self


class TargetRule(StepConfig):
    """What the tuning was for, and what it must have reached."""

    name: str = Field(default="target", min_length=1, description="task of the scores that holds the target rows")
    rule: Literal["improved", "not_worse", "none"] = Field(
        default="improved",
        description="against the original base: gain above 0, loss below max_drop, or not tested; one-sided, at alpha",
    )
    champion_rule: Literal["improved", "not_worse", "none"] = Field(
        default="not_worse", description="the same against the model now in service, in a retraining"
    )
    min_gain_points: Points = Field(
        default=0.0, ge=0, le=100, description="points; improved: the gain must surely be above it"
    )
    max_drop: Points = Field(default=3.0, gt=0, le=50, description="points; margin of not_worse (0.01 of the metric's own unit); at 1 point, 268 rows that all stay the same would not yet do")  # fmt: skip


class GatePolicy(StepConfig):
    """When a candidate may be published. Frozen before anything is scored; its digest is in every verdict."""

    macro_margin_points: Points = Field(default=1.0, gt=0, le=50, description="points; M, the largest drop of the macro average over the general benchmarks that may not be excluded")  # fmt: skip
    alpha: float = Field(default=0.05, gt=0, le=0.2, description="chance of passing a model that is worse by the margin, at the first attempt; halved at each further one")  # fmt: skip
    fail_alpha: float = Field(default=0.05, gt=0, le=0.2, description="chance of calling an unchanged model regressed; half for Holm over the benchmarks, half for the macro bound")  # fmt: skip
    defaults: BenchmarkRule = Field(default=BenchmarkRule(), description="how a benchmark counts that is not named")
    benchmarks: dict[str, BenchmarkChange] = Field(
        default_factory=dict, description="benchmarks that count otherwise, by task name"
    )
    weights: dict[str, float] = Field(default_factory=dict, description="weights of the macro average by task name, sum 1; empty: equal")  # fmt: skip
    target: TargetRule = Field(default=TargetRule(), description="the target metric's condition")
    looks: Annotated[int, AfterValidator(_one_or_four)] = Field(default=1, description="1: one look at all items; 4: the planned sequence of 4 equal fractions, which may end early")  # fmt: skip
    attempts: int = Field(
        default=4, ge=1, le=8, description="verdicts that the same decision items may give before the budget is spent"
    )
    family: str = Field(default="", max_length=200, description="name of what is tuned, where no training data tell it (regression-gate): attempts are counted for each family, target data, baseline and items")  # fmt: skip
    on_fail: Literal["stop", "repair"] = Field(default="stop", description="what follows a closed gate: the end of the run, or a repair by strength where that can help")  # fmt: skip
    dev_share: float = Field(default=0.3, gt=0, lt=0.9, description="share of items set apart for choosing a repair; only where on_fail is repair")  # fmt: skip
    approval: Literal["none", "required"] = Field(
        default="none", description="required: a pass waits for a person (retain approve)"
    )
    waiver_keys: list[Annotated[str, AfterValidator(_bare_key)]] = Field(default=[], description="public keys (EC, the text between BEGIN and END PUBLIC KEY) of those who may waive a single benchmark's drop; empty: nobody")  # fmt: skip
    end_run: Literal["red", "green"] = Field(default="red", description="how a pipeline run ends whose gate stayed closed: failed, or succeeded without registering")  # fmt: skip
    cumulative_factor: float = Field(default=2.0, ge=1, le=10, description="retraining: the margins against the ORIGINAL base are this many times the ordinary ones")  # fmt: skip
    chance_margin_points: float = Field(
        default=5.0, ge=0, le=50, description="points; a baseline this close to chance tells nothing and is left out"
    )
    saturated_percent: float = Field(
        default=97.0, gt=50, le=100, description="percent; a baseline above it can show a loss but no gain"
    )
    same_tokenizer: bool = Field(default=True, description="tokenizer and template must be the same on both sides; false to compare models of different families")  # fmt: skip
    warn_flips_percent: float = Field(default=15.0, gt=0, le=100, description="percent of items whose answer changed; a warning above it")  # fmt: skip
    warn_p_gold_points: float = Field(default=0.7, gt=0, le=50, description="points; a warning when the mean probability of the right choice falls by more")  # fmt: skip
    warn_rise_nats: float = Field(default=RISE_NATS, gt=0, le=20, description="nats a token; a warning when general text's cross-entropy rises by more (measured where the data have general validation rows)")  # fmt: skip
    seed: int = Field(
        default=0,
        ge=0,
        description="decides which items are dev items and the order of looks; a new generation takes a new one",
    )

    @model_validator(mode="after")
    def _weights(self) -> "GatePolicy":
        if self.weights and (min(self.weights.values()) <= 0 or abs(sum(self.weights.values()) - 1) > 1e-6):
            raise ValueError(f"weights must be above 0 and sum to 1 (they sum to {sum(self.weights.values()):.6g})")
        if self.target.name in self.benchmarks:
            raise ValueError(f"'{self.target.name}' is the target and cannot be a general benchmark too")
        return self

    def rule_for(self, benchmark: str) -> BenchmarkRule:
        """Tier and drop of one benchmark, defaults filled in."""
        change = self.benchmarks.get(benchmark, BenchmarkChange())
        return BenchmarkRule(
            tier=self.defaults.tier if change.tier == "default" else change.tier,
            max_drop=self.defaults.max_drop if change.max_drop == "default" else change.max_drop,
        )

    def against_original(self) -> "GatePolicy":
        """The policy of the second comparison in a retraining: wider margins against the original base, the target's own rule."""
        factor = self.cumulative_factor
        wider = {name: self.rule_for(name) for name in self.benchmarks}
        return self.model_copy(update={
            "macro_margin_points": factor * self.macro_margin_points,
            "defaults": self.defaults.model_copy(update={"max_drop": factor * self.defaults.max_drop}),
            "benchmarks": {n: BenchmarkChange(tier=r.tier, max_drop=min(50.0, factor * r.max_drop)) for n, r in wider.items()},
        })  # fmt: skip

    @property
    def decision_share(self) -> float:
        """Share of the items that the verdict rests on."""
        return 1 - self.dev_share if self.on_fail == "repair" else 1.0
