"""Training a probe: the engine on class indices, with accuracy and macro-F1 beside the loss."""

from collections.abc import Sequence

import torch

from retain.train.batches import as_batches, to_device
from retain.train.engine import Engine
from retain.train.rows import Row, dataset_suffix


class ProbeEngine(Engine):
    """A class index is the one supervised token of its row."""

    def mean_loss(self, rows: list[Row]) -> float:
        if rows:
            of = dataset_suffix(self.plan.target_validation, rows)
            self._tell(
                {f"validation_{name}{of}": value for name, value in self.quality(rows).items()}, self.state.global_step
            )
        return super().mean_loss(rows)

    def final_facts(self) -> dict[str, float]:
        """Of the weights that are saved."""
        self.masters().publish()
        return self.quality(self.plan.target_validation) if self.plan.target_validation else {}

    @torch.no_grad()
    def quality(self, rows: list[Row]) -> dict[str, float]:
        """Accuracy, and the mean over the classes that occur of each one's F1; both 0 to 1."""
        said, meant = [], []
        for micro in (to_device(micro, self.args.device) for micro in as_batches(rows, self.plan.steps.shape)):
            said += self.head.logits(self.head.hidden(self.model, micro)).argmax(dim=-1).tolist()
            meant += micro["targets"].tolist()
        hits = sum(s == m for s, m in zip(said, meant, strict=True))
        return {"accuracy": hits / len(meant), "macro_f1": macro_f1(said, meant)}


def macro_f1(said: Sequence[int], meant: Sequence[int]) -> float:
    """Mean over the classes of ``meant`` of 2·hits / (times said + times meant)."""
    scores = []
    for name in sorted(set(meant)):
        hits = sum(s == m == name for s, m in zip(said, meant, strict=True))
        scores.append(2 * hits / (list(said).count(name) + list(meant).count(name)))
    return sum(scores) / len(scores)
