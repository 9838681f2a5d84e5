"""The next training, where going back is not enough: a diff of the recipe, most helpful first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retain.train.config import METHOD_RATES, known_rates

SHARE, MOST_SHARE, EPOCHS = 0.05, 0.25, 2
WIDE = (
    "all-linear",
)  # adapters on every layer; on the MLP alone they forgot less in PEFT's comparison (.032 against .050 nats)
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """One line of the diff: the recipe's dotted key, what it is now ("" where that is not known), what it should be, why."""

    key: str
    now: Any
    then: Any
    why: str

    @property
    def flag(self) -> str:
        return f"--set {self.key}={self.then}"


def forget_less(recipe: Settings) -> list[Change]:
    """What to change in a resolved ``recipe`` (empty: nothing is known of it) so that the next training forgets less."""
    train, replay = recipe.get("train", {}), recipe.get("data", {}).get("replay", {})
    method = str(train.get("method", ""))
    found = []
    if method == "full":
        found.append(Change("train.method", method, "lora", "Train low-rank adapters instead of every weight"))
    found += _lower_rate(method, train.get("objective", "sft"), train.get("learning_rate", "auto"))
    share = float(replay.get("share", 0.0))
    if share < MOST_SHARE:
        wanted = SHARE if share < SHARE else min(MOST_SHARE, round(3 * share, 2))
        said = f" ({100 * share:g} % of the tokens now)" if recipe.get("data") else ""
        found.append(Change("data.replay.share", share if replay else "", wanted, f"Mix in more general rows{said}"))
    if train.get("num_train_epochs", 0) > EPOCHS:
        found.append(Change("train.num_train_epochs", train["num_train_epochs"], EPOCHS, f"Train shorter ({train['num_train_epochs']:g} epochs now)"))  # fmt: skip
    targets = train.get("lora", {}).get("target_modules", "")
    if method in ("lora", "qlora") and _plain(targets) in WIDE:
        found.append(
            Change("train.lora.target_modules", targets, "mlp-only", "Put the adapters on the MLP layers only")
        )
    return found


def _plain(targets: Any) -> str:
    return ", ".join(targets) if isinstance(targets, list) else str(targets)


def _lower_rate(method: str, objective: str, rate: Any) -> list[Change]:
    """For a full tune that becomes a LoRA, the LoRA's own rate."""
    if method not in METHOD_RATES:
        return []
    usual, most = known_rates(method, objective)
    now = usual if rate in ("auto", 0) else float(rate)
    if method == "full":
        return [Change("train.learning_rate", rate, known_rates("lora", objective)[0], f"With a LoRA's rate ({now:g} now{_known(now, most, method)})")]  # fmt: skip
    if now <= usual:
        return [Change("train.learning_rate", rate, now / 2, f"Lower the rate ({now:g} now)")]
    return [Change("train.learning_rate", rate, usual, f"Lower the rate ({now:g} now{_known(now, most, method)})")]


def _known(rate: float, most: float, method: str) -> str:
    return f"; above {most:g} {method} is known to forget" if rate > most else ""


def diff(changes: list[Change]) -> str:
    """As lines of a recipe: what goes and what comes."""
    lines = [line for c in changes for line in ((f"- {c.key}: {c.now}" if c.now != "" else ""), f"+ {c.key}: {c.then}")]
    return "\n".join(line for line in lines if line)
