"""From a base model to a model of which exactly one method's parameters can move."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retain.errors import ConfigError
from retain.train import bottleneck, fit, lora_linear, probe, starts, targets
from retain.train.config import TrainConfig
from retain.train.method_config import MUTATING_STARTS, LoraConfig
from retain.train.rows import Row

SMALL_DATA_ROWS = 1000


@dataclass(frozen=True)
class Start:
    """What a method is made from; ``rows``: training rows."""

    config: TrainConfig
    model: Any
    rows: list[Row]
    model_dir: Path
    classes: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        return "SEQ_2_SEQ_LM" if self.model.config.is_encoder_decoder else "CAUSAL_LM"


def prepare(start: Start) -> Any:
    """The model with exactly the parameters of ``config.method`` trainable."""
    model = METHODS[start.config.method](start)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError("nothing is left to train", where="train.freeze", fix="freeze fewer layers")
    return model


def full(start: Start) -> Any:
    """Every weight moves."""
    if getattr(start.model, "quantization_method", None):
        raise ConfigError(
            "a quantised base cannot be trained in full", got=str(start.model.quantization_method), fix="use method: qlora, or the unquantised base"
        )  # fmt: skip
    return start.model.requires_grad_(True)


def freeze(start: Start) -> Any:
    """Every weight moves but those of the first and last blocks, the embeddings and the named ones."""
    knobs, model = start.config.freeze, full(start)
    blocks = 1 + max(site.layer for site in targets.sites(model))
    first = blocks * 2 // 3 if knobs.first_layers == "auto" else int(knobs.first_layers)
    fit.check_freeze(knobs, blocks, (name for name, _ in model.named_parameters()))
    embeddings = {id(p) for p in model.get_input_embeddings().parameters()} if knobs.embeddings else set()
    for name, parameter in model.named_parameters():
        number = targets.block_number(name)
        low_or_high = number is not None and not first <= number < blocks - knobs.last_layers
        named = any(re.search(pattern, name) for pattern in knobs.patterns)
        parameter.requires_grad_(not (low_or_high or named or id(parameter) in embeddings))
    return model


def lora(start: Start) -> Any:
    """peft's LoRA in the precision of the base; the optimizer holds the fp32 masters."""
    from peft import LoraConfig as PeftLora

    knobs = start.config.lora
    dropout = _auto_dropout(start) if knobs.dropout == "auto" else float(knobs.dropout)
    names, ranks, alphas = _planned(start.model, knobs)
    settings = PeftLora(
        r=knobs.r, lora_alpha=knobs.alpha, lora_dropout=dropout, target_modules=names, use_rslora=knobs.use_rslora, use_dora=knobs.use_dora,
        task_type=start.task, fan_in_fan_out=_transposed(start.model), rank_pattern=ranks, alpha_pattern=alphas,
        modules_to_save=[targets.head_name(start.model)] if knobs.train_head else None,
    )  # fmt: skip
    adapted = starts.adapt(start.model, settings, knobs.init, start.rows, start.config.batch_rows)
    return _in_base_precision(adapted)


def _auto_dropout(start: Start) -> float:
    """A preference is a small difference of two answers, which dropout would drown; a mutating start holds parts of the base."""
    few, mutating = len(start.rows) < SMALL_DATA_ROWS, start.config.lora.init in MUTATING_STARTS
    return 0.05 if few and start.config.objective == "sft" and not mutating else 0.0


def _planned(model: Any, knobs: LoraConfig) -> tuple[list[str], dict[str, int], dict[str, float]]:
    """(modules, ranks, alphas) with the layer plan worked in."""
    names = targets.choose(model, knobs.target_modules)
    ranks, alphas = dict(knobs.rank_pattern), dict(knobs.alpha_pattern)
    chosen = upper = targets.matching(model, names)
    blocks = 1 + max(site.layer for site in targets.sites(model))
    if knobs.layer_plan == "thirds":
        upper = [site for site in chosen if site.layer >= blocks // 3]
    fit.check_lora(model, knobs, chosen, upper)
    if knobs.layer_plan == "thirds":
        for site in upper:
            if site.layer < 2 * blocks // 3:
                ranks[re.escape(site.name)] = max(1, knobs.r // 2)
                alphas[re.escape(site.name)] = knobs.alpha / 2
        names = [site.name for site in upper]
    return names, ranks, alphas


def _in_base_precision(model: Any) -> Any:
    """Adapters compute in the type of the layers they sit on: no cast in every forward."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(model.dtype if model.dtype.is_floating_point else parameter.dtype)
    lora_linear.quicken(model)
    return model


def soft_prompt(start: Start) -> Any:
    """Virtual tokens before every row: as keys and values (prefix), embeddings (prompt), or made by an encoder (p_tuning)."""
    import peft

    knobs, common = start.config.prompt, {"task_type": start.task, "num_virtual_tokens": start.config.prompt.tokens}
    if start.config.method == "prefix":
        settings = peft.PrefixTuningConfig(
            **common, prefix_projection=knobs.projection, encoder_hidden_size=knobs.hidden
        )
    elif start.config.method == "p_tuning":
        settings = peft.PromptEncoderConfig(**common, encoder_hidden_size=knobs.hidden)
    else:
        fit.check_words(start.model_dir, knobs)
        text = {
            "prompt_tuning_init": "TEXT",
            "prompt_tuning_init_text": knobs.text,
            "tokenizer_name_or_path": str(start.model_dir),
        }
        settings = peft.PromptTuningConfig(**common, **(text if knobs.text else {"prompt_tuning_init": "SAMPLE_VOCAB"}))
    return peft.get_peft_model(start.model, settings)


def ia3(start: Start) -> Any:
    """One factor per key, value and inner MLP channel (Liu et al. 2022, arXiv 2205.05638)."""
    from peft import IA3Config, get_peft_model

    known = targets.sites(start.model)
    inputs = targets.outputs_of_mlp(known)
    names = sorted({site.leaf for site in known if site.leaf in targets.KEY_VALUE} | {site.leaf for site in inputs})
    settings = IA3Config(
        task_type=start.task, target_modules=names, feedforward_modules=sorted({site.leaf for site in inputs}), fan_in_fan_out=_transposed(start.model)
    )  # fmt: skip
    return _in_base_precision(get_peft_model(start.model, settings))


def rotations(start: Start) -> Any:
    """oft: weights turned by small orthogonal blocks; osf: weights moved only outside their leading subspace."""
    import peft

    if _transposed(start.model):
        raise ConfigError("peft cannot rotate GPT-2's transposed layers (Conv1D)", where="train.method", got=start.config.method, fix="use method lora")  # fmt: skip
    names = targets.choose(start.model, start.config.lora.target_modules)
    chosen = targets.matching(start.model, names)
    if start.config.method == "oft":
        fit.check_blocks(start.model, start.config.oft.block_size, chosen)
        settings = peft.OFTConfig(task_type=start.task, r=0, oft_block_size=start.config.oft.block_size, target_modules=names)  # fmt: skip
    else:
        fit.check_rank(start.model, "train.oft.rank", start.config.oft.rank + 1, chosen, everywhere=True)
        settings = peft.OSFConfig(
            task_type=start.task, target_modules=names, effective_rank=start.config.oft.rank or None
        )
    return peft.get_peft_model(start.model, settings)


def bottlenecks(start: Start) -> Any:
    """Our own small adapters after the sublayers."""
    return bottleneck.insert(start.model, start.config.bottleneck)


def linear_probe(start: Start) -> Any:
    """A head over classes on the frozen base."""
    return probe.insert(start.model, start.classes)


def _transposed(model: Any) -> bool:
    return any(type(module).__name__ == "Conv1D" for module in model.modules())


METHODS: dict[str, Callable[[Start], Any]] = {
    "lora": lora, "qlora": lora, "full": full, "freeze": freeze, "bottleneck": bottlenecks, "prefix": soft_prompt, "prompt": soft_prompt,
    "p_tuning": soft_prompt, "ia3": ia3, "oft": rotations, "osf": rotations, "probe": linear_probe,
}  # fmt: skip


def kind(model: Any) -> str:
    """What lies in adapter/: peft (its own layout), bottleneck or probe (ours) or weights (of the base, changed)."""
    if hasattr(model, "peft_config"):
        return "peft"
    if hasattr(model, probe.MARK):
        return "probe"
    return "bottleneck" if hasattr(model, bottleneck.MARK) else "weights"
