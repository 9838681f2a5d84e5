"""`retain plan`: fits, hours, money, expected forgetting, what the gate will see, and what to do; no GPU, no weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from retain.gate.config import GatePolicy
from retain.plan.advice import Advice, Forgetting, advise, forgetting
from retain.plan.config import PlanConfig
from retain.plan.cost import GIB, Cost, break_even_queries, cost, device, expected_rate
from retain.plan.gate import GatePlan, plan_gate
from retain.plan.memory import Memory, Method, TrainShape, training_memory
from retain.plan.power import Planned, PlannedTarget
from retain.plan.shapes import read_shape
from retain.train.config import TrainConfig, rate

# Bytes of the two moments of one weight on the device (retain.train.optimizer).
MOMENTS = {"adamw": 8, "adamw_8bit": 2, "paged_adamw": 0, "paged_adamw_8bit": 0}


@dataclass(frozen=True)
class RunFacts:
    """What the data says. rows, tokens: of one epoch; longest: tokens of the longest row; replay_share: of the tokens."""

    rows: int
    tokens: int
    longest: int
    supervised: float = 0.5
    replay_share: float = 0.0


@dataclass(frozen=True)
class Plan:
    """The whole plan; memory: by method, the configured one under ``method``."""

    method: str
    gate: GatePlan
    memory: dict[str, Memory]
    available: int
    cost: Cost
    break_even: float
    forgetting: Forgetting
    advice: Advice

    @property
    def fits(self) -> bool:
        return self.memory[self.method].fits(self.available)


def plan(
    config: PlanConfig, policy: GatePolicy, train: TrainConfig, model_dir: Path, facts: RunFacts, benchmarks: Sequence[Planned],
    target: PlannedTarget | None = None,
) -> Plan:  # fmt: skip
    """All parts; nothing is refused here: retain.plan.gate.check and ``fits`` say what cannot go on."""
    shape, where = read_shape(model_dir), device(config.device)
    asked = train_shape(config, train, facts)
    others: tuple[Method, ...] = ("lora", "qlora", "full")
    memory: dict[str, Memory] = {
        m: training_memory(shape, asked if m == asked.method else replace(asked, method=m)) for m in others
    }
    available = int(config.memory_gib * GIB) or where.memory
    speed = config.tokens_per_second or expected_rate(
        shape, asked.method, where, devices=config.devices, utilisation=config.utilisation, row_tokens=facts.longest, checkpointing=asked.checkpointing,
    )  # fmt: skip
    spent = cost(
        _trained_tokens(train, facts), speed, devices=config.devices, price_per_hour=config.price_per_hour or where.price_per_hour,
        source="measured by a probe" if config.tokens_per_second else f"{100 * config.utilisation:g} % of {config.device}'s peak",
    )  # fmt: skip
    even = break_even_queries(spent.price, prompt_tokens_saved=config.prompt_tokens_saved, price_per_million_tokens=config.price_per_million_tokens)  # fmt: skip
    fits = {f"{name}_fits": m.fits(available) for name, m in memory.items()}
    targets = train.lora.target_modules if isinstance(train.lora.target_modules, str) else "all-linear"
    return Plan(
        asked.method, plan_gate(policy, benchmarks, target, config.gate), memory, available, spent, even,
        forgetting(asked.method, targets, learning_rate=rate(train), replay_share=facts.replay_share, rslora=train.lora.use_rslora),
        advise(rows=facts.rows, queries=config.queries, break_even=even, shift=config.shift == "strong", **fits),
    )  # fmt: skip


def train_shape(config: PlanConfig, train: TrainConfig, facts: RunFacts) -> TrainShape:
    """What of a recipe decides its memory; gradient checkpointing counts where it is asked for (auto is decided from this)."""
    where: Literal["cpu", "cuda"] = "cpu" if config.device == "cpu" else "cuda"
    mean = facts.tokens / max(facts.rows, 1)
    in_step = max(facts.longest, int(_largest_step(mean, facts.longest, train.batch_rows) / config.devices))
    method: Method = train.method if train.method in {"lora", "qlora", "full"} else "lora"
    dropout = (0.05 if facts.rows < 1000 else 0.0) if train.lora.dropout == "auto" else train.lora.dropout
    return TrainShape(
        method, max(facts.longest, min(train.micro_tokens, in_step)), facts.longest, train.lora.r, train.lora.target_modules, dropout,
        train.gradient_checkpointing is True, 4 if train.dtype == "fp32" else 2, facts.supervised, where, train.early_stopping.keep_best, MOMENTS[train.optimizer],
        facts.longest > mean,
    )  # fmt: skip


def _largest_step(mean: float, longest: int, rows: int) -> float:
    """Tokens of a run's largest step: two standard deviations above the mean, one of a row taken as a quarter of what the longest has more."""
    return mean * rows + 2 * (longest - mean) / 4 * rows**0.5


def _trained_tokens(train: TrainConfig, facts: RunFacts) -> int:
    if train.max_steps:
        return int(train.max_steps * train.batch_rows * facts.tokens / max(facts.rows, 1))
    return int(train.num_train_epochs * facts.tokens)
