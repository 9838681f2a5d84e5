"""A linear probe: the base stays as it is, a head of its own reads a class off the state of a row's last token.

Nothing of the base moves, so nothing can be forgotten; what a probe reaches is what the base's features hold (Alain and
Bengio 2016, arXiv 1610.01644). Saved like an adapter (adapter_model.safetensors, adapter_config.json).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from retain import artifacts
from retain.errors import ConfigError

MARK = "_classes"


def insert(model: Any, classes: Sequence[str]) -> Any:
    """Freeze ``model`` and put a head over ``classes`` in place of its output layer; at zero, so that every class is as likely."""
    if model.config.is_encoder_decoder:
        raise ConfigError("a probe reads the last state of a causal model", where="train.method", got=type(model).__name__, fix="use method lora with data.template.classification: completion")  # fmt: skip
    model.requires_grad_(False)
    head = torch.nn.Linear(
        model.config.get_text_config().hidden_size, len(classes), dtype=model.dtype, device=model.device
    )
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    model.set_output_embeddings(head)
    object.__setattr__(model, MARK, tuple(classes))
    return model


def save(folder: Path, classes: Sequence[str], weights: dict[str, torch.Tensor]) -> None:
    """``weights``: weight [C, H] and bias [C] of the head (the fp32 masters)."""
    from safetensors.torch import save_file

    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    artifacts.write_json(folder / "adapter_config.json", {"peft_type": "PROBE", "classes": list(classes)})


def load(model: Any, folder: Path) -> Any:
    """A base with the probe of ``folder`` in place of its output layer."""
    from safetensors.torch import load_file

    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    model = insert(model, settings["classes"])
    model.get_output_embeddings().load_state_dict(load_file(folder / "adapter_model.safetensors"))
    return model.eval()


@torch.no_grad()
def classify(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """The class of each text, as the probe of ``model`` sees it."""
    found = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"].to(model.device)
        found.append(getattr(model, MARK)[int(model(input_ids=ids).logits[0, -1].argmax())])
    return found
