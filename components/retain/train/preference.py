"""Training on judged answers: the engine with a preference loss on judged rows and cross-entropy on plain ones beside them."""

from typing import Any

import torch

from retain.train import objectives
from retain.train.batches import as_batches, to_device
from retain.train.engine import Engine
from retain.train.objectives import Judged
from retain.train.reference import adapter_off
from retain.train.rows import Row, crossed, dataset_suffix, judged_weight
from retain.train.sequences import answer_log_probs


class PreferenceEngine(Engine):
    """The reference is the same model with its adapter off and no dropout, in the same micro-batch."""

    # A step's reported loss is that of its judged rows alone: not every step has plain ones, and theirs is on another scale.
    drift = 0.0  # KTO's reference point of the running step, nats

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        self.rewards = Rewards()
        if self.config.objective == "kto":
            model.train()
            self.drift = self._drift(inputs["crossed"])
        return super().training_step(model, inputs, num_items_in_batch)

    def _losses(self, model: Any, micro: dict[str, Any], step: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        if "sequence" not in micro:
            plain, held = super()._losses(model, micro, step)
            self.extra["plain_loss_nats"] = self.extra.get("plain_loss_nats", 0.0) + float(plain.detach()) * self.args.world_size  # fmt: skip
            return plain.new_zeros(()), held + self.config.preference.replay_weight * plain
        judged = self._judge(model, micro)
        share = micro["row_weights"] / step["judged_weight"]
        self.rewards.add(judged, micro["row_weights"])
        self.extra |= self.rewards.means() | ({"reference_drift_nats": self.drift} if "desirable" in micro else {})
        loss = (judged.losses * share).sum()
        return loss, loss.new_zeros(())

    def _judge(self, model: Any, micro: dict[str, Any]) -> Judged:
        knobs, rows = self.config.preference, len(micro["row_weights"])
        sides = rows if "desirable" in micro else 2 * rows
        policy = answer_log_probs(self.head, model, micro, sides)
        if self.config.objective == "orpo":
            return objectives.orpo(policy, torch.bincount(micro["sequence"], minlength=sides), knobs.beta)
        with adapter_off(self.model):
            reference = answer_log_probs(self.head, self.model, micro, sides)
        if self.config.objective == "dpo":
            return objectives.dpo(policy, reference, knobs.beta)
        weights = (knobs.desirable_weight, knobs.undesirable_weight)
        return objectives.kto(policy, reference, micro["desirable"], self.drift, knobs.beta, weights)

    @torch.no_grad()
    def _drift(self, micros: list[dict[str, Any]]) -> float:
        """Mean of log p − log p_reference over crossed answers (in a step: of all processes), at least 0, nats.

        Through the bare model: processes may have different numbers of micro-batches, and nothing is to be synchronised.
        """
        totals = torch.zeros(2, device=self.args.device)
        for micro in (to_device(micro, self.args.device) for micro in micros):
            sides = len(micro["row_weights"])
            policy = answer_log_probs(self.head, self.model, micro, sides)
            with adapter_off(self.model):
                ratios = policy - answer_log_probs(self.head, self.model, micro, sides)
            totals += torch.stack([ratios.sum(), ratios.new_tensor(float(sides))])
        if self.model.training:  # an evaluation is done by every process on all rows
            totals = self.accelerator.reduce(totals, "sum")
        return max(0.0, float(totals[0] / totals[1].clamp(min=1)))

    def mean_loss(self, rows: list[Row]) -> float:
        """Of judged rows the mean preference loss, of plain ones nats per token; the rewards of judged rows go into the log."""
        if not any(row.judged for row in rows):
            return super().mean_loss(rows)
        if self.config.objective == "kto":
            self.drift = self._drift(list(as_batches(crossed(rows), self.plan.steps.shape)))
        total, rewards = 0.0, Rewards()
        for micro in (to_device(micro, self.args.device) for micro in as_batches(rows, self.plan.steps.shape)):
            judged = self._judge(self.model, micro)
            total += float((judged.losses * micro["row_weights"]).sum())
            rewards.add(judged, micro["row_weights"])
        self._tell(
            rewards.means("validation_", dataset_suffix(self.plan.target_validation, rows)), self.state.global_step
        )
        return total / judged_weight(rows)


class Rewards:
    """Mean rewards over rows, by their weight; of pairs also the margin and the share in which the chosen answer wins."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}

    def add(self, judged: Judged, weights: torch.Tensor) -> None:
        margin = judged.chosen - judged.rejected
        wins = torch.where(margin.isnan(), margin, (margin > 0).float())
        for name, values in zip(("chosen", "rejected", "margin", "accuracy"), (judged.chosen, judged.rejected, margin, wins), strict=True):  # fmt: skip
            there = ~values.isnan()
            held = self.sums.setdefault(f"reward_{name}", [0.0, 0.0])
            held[0] += float((values * weights)[there].sum())
            held[1] += float(weights[there].sum())

    def means(self, prefix: str = "", suffix: str = "") -> dict[str, float]:
        return {prefix + name + suffix: total / weight for name, (total, weight) in self.sums.items() if weight}
