"""What to expect of a method, and which one to take: rules with their reasons, from measured tables where there are any."""

from dataclasses import dataclass
from typing import Literal

Way = Literal["prompting", "lora", "qlora", "full"]
# Rise of mean cross-entropy on general text, nats per token: PEFT's method comparison (Llama-3.2-3B, MetaMathQA, one seed).
BANDS = {
    "mlp-only": (0.02, 0.05), "all-linear": (0.03, 0.07), "attention-only": (0.04, 0.07), "attention-qv": (0.04, 0.06), "rslora": (0.08, 0.13), "full": (0.02, 0.05),
}  # fmt: skip
SAFE_RATE = {"lora": 5e-4, "qlora": 5e-4, "full": 2e-5}
BROKEN = 0.4
FEW_ROWS, MANY_ROWS = 200, 50_000


@dataclass(frozen=True)
class Forgetting:
    """Expected rise of the general loss, nats per token; ``why``: where the band comes from and what moved it."""

    low: float
    high: float
    why: str


def forgetting(method: str, target_modules: str, *, learning_rate: float, replay_share: float, rslora: bool = False) -> Forgetting:  # fmt: skip
    """The band of the method, halved by replay, pushed up by a rate above what the method is known to bear."""
    name = "full" if method == "full" else "rslora" if rslora else target_modules
    low, high = BANDS.get(name, BANDS["all-linear"])
    why = [f"{name} in PEFT's method comparison"]
    if replay_share >= 0.01:
        low, high = low / 2, high * 0.7
        why.append(f"{100 * replay_share:g} % replay")
    if learning_rate > SAFE_RATE[method]:
        times = learning_rate / SAFE_RATE[method]
        low, high = low * times, max(high * times, BROKEN)
        why.append(f"a learning rate {times:.3g} times what {method} is known to bear")
    return Forgetting(round(low, 4), round(high, 4), "; ".join(why))


@dataclass(frozen=True)
class Advice:
    """The way to take, and one sentence a reason."""

    way: Way
    reasons: tuple[str, ...]


def advise(
    *, rows: int, queries: float, break_even: float, lora_fits: bool, qlora_fits: bool, full_fits: bool, shift: bool = False
) -> Advice:  # fmt: skip
    """prompting, lora, qlora or full. queries: expected over the model's life (0: not said). shift: another language or format.

    Full fine-tuning is advised only where much data meets a strong shift: elsewhere a LoRA learns as much and is undone easily.
    """
    reasons = []
    if rows < FEW_ROWS:
        return Advice("prompting", (f"{rows} rows are few: examples in the prompt reach as far, and nothing can be forgotten",))  # fmt: skip
    if 0 < queries < break_even:
        return Advice("prompting", (f"{queries:,.0f} queries do not pay for the training: it breaks even at {break_even:,.0f}",))  # fmt: skip
    if rows >= MANY_ROWS and shift and full_fits:
        return Advice("full", (f"{rows} rows and a shift of language or format are more than a low-rank update holds", "keep the rate at or below 2e-5 and replay at 25 %"))  # fmt: skip
    if rows >= MANY_ROWS and shift:
        reasons.append("full fine-tuning would be worth trying, but does not fit")
    if lora_fits:
        return Advice("lora", (*reasons, "LoRA on the MLP learns as much as full fine-tuning here, and its strength can be turned down after the fact"))  # fmt: skip
    if qlora_fits:
        return Advice("qlora", (*reasons, "the weights fit only in 4 bits; about a third slower than LoRA"))
    return Advice("prompting", (*reasons, "no training fits on this device: take a smaller base or a larger device"))
