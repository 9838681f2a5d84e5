"""Whether a method's sizes and patterns fit the layers of this very model: what would be cut down or passed over in silence is refused."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from retain import models
from retain.errors import ConfigError
from retain.train.method_config import MUTATING_STARTS, FreezeConfig, LoraConfig, PromptConfig
from retain.train.targets import Site, leaves

DATA_STARTS = (*MUTATING_STARTS, "eva")  # they take r directions out of every layer


def sides(model: Any, site: Site) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer, also of GPT-2's transposed ``Conv1D`` and of one in 4 bits."""
    layer = model.get_submodule(site.name)
    return (layer.nx, layer.nf) if hasattr(layer, "nf") else (layer.in_features, layer.out_features)


def check_lora(model: Any, knobs: LoraConfig, chosen: Sequence[Site], planned: Sequence[Site]) -> None:
    """``chosen``: the layers of target_modules; ``planned``: those that the layer plan leaves of them."""
    if not planned:
        raise ConfigError("the layer plan leaves nothing of the chosen layers", where="train.lora.layer_plan", got=", ".join(leaves(list(chosen))), fix="use layer_plan: none")  # fmt: skip
    check_rank(model, "train.lora.r", knobs.r, planned, everywhere=knobs.init in DATA_STARTS)
    for name in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(knobs, name):
            if not any(re.match(rf"(.*\.)?({pattern})$", site.name) for site in planned):  # as peft looks for them
                raise _finds_nothing(f"train.lora.{name}", pattern, leaves(list(planned)))


def check_rank(model: Any, where: str, rank: int, chosen: Sequence[Site], *, everywhere: bool = False) -> None:
    """A rank above a matrix's smaller side adds nothing there; ``everywhere``: one such layer is too many."""
    room = [min(sides(model, site)) for site in chosen]
    most = min(room) if everywhere else max(room)
    if rank > most:
        raise ConfigError("the rank is larger than the matrices it is for", where=where, got=rank, expected=f"at most {most} in this model", fix=f"use {most} or less")  # fmt: skip


def check_blocks(model: Any, size: int, chosen: Sequence[Site]) -> None:
    """Rotation blocks divide each layer's inputs; peft would take another size with a warning."""
    for site in chosen:
        inputs = sides(model, site)[0]
        if inputs % size:
            fitting = [n for n in range(2, inputs + 1) if inputs % n == 0 and n <= 4 * size]
            raise ConfigError("rotation blocks of this size do not fill a layer", where="train.oft.block_size", got=f"{size} for the {inputs} inputs of {site.leaf}", expected=f"one of {fitting}", fix="choose a divisor of every layer's inputs")  # fmt: skip


def check_freeze(knobs: FreezeConfig, blocks: int, names: Iterable[str]) -> None:
    first, weights = 0 if knobs.first_layers == "auto" else int(knobs.first_layers), list(names)
    for where, number in (("first_layers", first), ("last_layers", knobs.last_layers)):
        if number > blocks:
            raise ConfigError("this model has not so many blocks", where=f"train.freeze.{where}", got=number, expected=f"at most {blocks}", fix="freeze fewer")  # fmt: skip
    for pattern in knobs.patterns:
        if not any(re.search(pattern, name) for name in weights):
            raise _finds_nothing("train.freeze.patterns", pattern, sorted({name.split(".")[-2] for name in weights if "." in name}))  # fmt: skip


def check_words(model_dir: Path, knobs: PromptConfig) -> None:
    """Words beyond the virtual tokens would be cut off (peft repeats shorter ones)."""
    count = len(models.load_tokenizer(model_dir)(knobs.text)["input_ids"]) if knobs.text else 0
    if count > knobs.tokens:
        raise ConfigError("the words are longer than the prompt", where="train.prompt.text", got=f"{count} tokens", expected=f"at most {knobs.tokens} (train.prompt.tokens)", fix=f"set train.prompt.tokens: {count}, or say it shorter")  # fmt: skip


def _finds_nothing(where: str, pattern: str, known: Sequence[str]) -> ConfigError:
    return ConfigError("a pattern matches nothing that is trained here", where=where, got=pattern, expected=", ".join(known), fix="correct the pattern, or remove it")  # fmt: skip
