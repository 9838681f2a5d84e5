"""Trees, prefixes and batches give the numbers of plain scoring, on every family, or are not used."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retain import models
from retain.errors import ConfigError, EnvironmentFault
from retain.score import generate, plan, selfcheck
from retain.score.forward import Scorer
from retain.score.lm import Engine
from retain.score.plan import Request

SHAPE: dict[str, Any] = {
    "vocab_size": 80, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 2, "head_dim": 8,
}  # fmt: skip
FAMILIES = {
    "llama": {}, "qwen2": {}, "qwen3": {}, "gemma": {}, "gemma2": {"sliding_window": 24, "final_logit_softcapping": 5.0, "attn_implementation": "eager"},
    "gemma3_text": {"sliding_window": 24}, "mistral": {"sliding_window": 24},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "n_inner": 48}, "bloom": {"n_head": 4, "n_layer": 2},
    "mamba": {"state_size": 4, "num_hidden_layers": 2}, "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 24},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256}, "mixtral": {"num_local_experts": 4},
    "phi3": {"original_max_position_embeddings": 32, "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "factor": 8.0, "original_max_position_embeddings": 32}},
    "falcon_h1": {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 4, "mamba_chunk_size": 16, "mamba_d_ssm": 64, "mamba_d_conv": 4},
    "llama4_text": {"attention_chunk_size": 24, "no_rope_layers": [1, 1], "num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size_mlp": 48},
}  # fmt: skip

ENCODERS = ("bert", "roberta", "electra")


def build(family: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    extra = dict(FAMILIES.get(family, {}))
    attention = extra.pop("attn_implementation", None)
    config = AutoConfig.for_model(family, **{**SHAPE, **extra})
    model = AutoModelForCausalLM.from_config(config, **({"attn_implementation": attention} if attention else {})).eval()
    if family in (
        "phi3",
        "rwkv",
        *ENCODERS,
    ):  # sharp predictions, of which positions, padding and what is ahead change some
        with torch.no_grad():
            for weight in model.parameters():
                weight *= 20 if weight.dim() == 2 else 1
    return model


def requests(seed: int = 0, shared: int = 0) -> list[Request]:
    """Items of three to five choices with contexts of 5 to 60 tokens, behind `shared` common tokens."""
    draw = torch.Generator().manual_seed(seed)

    def some(low: int, high: int) -> tuple[int, ...]:
        count = int(torch.randint(low, high, (1,), generator=draw))
        return tuple(torch.randint(3, 80, (count,), generator=draw).tolist())

    first = some(shared, shared + 1)
    found = []
    for item in range(8):
        context = first + some(5, 60)
        found += [Request(context, some(1, 9), item) for _ in range(3 + item % 3)]
    return found


def by_hand(model: Any, request: Request) -> tuple[float, bool]:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([(request.context + request.continuation)[:-1]])).logits[0].float()
    rows = logits[len(request.context) - 1 :].log_softmax(-1)
    tokens = torch.tensor(request.continuation)
    return float(rows[torch.arange(len(tokens)), tokens].sum()), bool((rows.argmax(-1) == tokens).all())


def scorer(model: Any, asked: list[Request], **changes: Any) -> Scorer:
    """As the engine makes it: trees as deep as the windows allow, if the self-check agrees."""
    depth = selfcheck.deepest_tree(model.config)
    made = Scorer(model, **{"max_length": 256, "budget": 256, "max_depth": depth, **changes})
    made.tree = made.tree and depth > 0 and selfcheck.agrees(made, asked)
    return made


@pytest.mark.parametrize("tree", [True, False])
@pytest.mark.parametrize("shared", [0, 20])
@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_are_those_of_one_plain_pass_per_choice(family: str, shared: int, tree: bool) -> None:
    model, asked = build(family), requests(shared=shared)
    got = scorer(model, asked, tree=tree).score(asked)
    for one, request in zip(got, asked, strict=True):
        value, greedy = by_hand(model, request)
        assert one[0] == pytest.approx(value, abs=1e-3)
        assert one[1] is greedy


def test_trees_are_used_where_they_are_valid_and_only_there() -> None:
    used = {family: scorer(build(family), requests()).tree for family in FAMILIES}
    assert {family for family, tree in used.items() if not tree} == {"bloom", "mamba", "gpt_neo", "mpt", "falcon_h1"}


@pytest.mark.parametrize(("family", "fault"), [("mpt", "positions cannot be set"), ("falcon_h1", "a branch sees its neighbours"), ("mixtral", ""), ("gemma2", "")])  # fmt: skip
def test_a_model_that_keeps_to_no_tree_is_found_out_bit_by_bit(family: str, fault: str) -> None:
    """MPT counts positions by the place in the row, Falcon-H1 carries a state along it: also in bf16, where rounding hides small faults."""
    made = Scorer(build(family).to(torch.bfloat16), max_length=256, budget=256)
    letters = [Request(one.context, one.continuation[:1], one.group) for one in requests()]
    assert [selfcheck._fault(made, asked) for asked in (requests(), letters)] == [fault, fault]


def test_numbers_alone_would_not_have_told_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Scorer(build("mpt").to(torch.bfloat16), max_length=256, budget=256)
    assert not selfcheck.agrees(made, requests())
    monkeypatch.setattr(selfcheck, "_fault", lambda scorer, items: "")
    assert selfcheck.agrees(made, requests())


@pytest.mark.parametrize("family", [*FAMILIES, *ENCODERS])
def test_a_model_that_looks_ahead_is_refused(family: str) -> None:
    model = build(family).to(torch.bfloat16)
    with pytest.raises(ConfigError, match="sees the tokens") if family not in FAMILIES else contextlib.nullcontext():
        selfcheck.need_causal(model)


@pytest.mark.parametrize("family", ["rwkv", "phi3", "mamba"])
def test_an_answer_is_the_same_beside_longer_prompts(family: str, tiny_llama: Path) -> None:
    """RWKV takes padding into its state; LongRoPE turns all rows as the longest one."""
    model = build(family)
    engine = Engine(model, models.load_tokenizer(tiny_llama), max_length=256)
    prompts = [list(request.context) for request in requests()[::4]]
    asked = [{"max_gen_toks": 3, "do_sample": False}] * len(prompts)
    assert len({len(prompt) > 32 for prompt in prompts}) == 2
    together = [one.text for one in generate.until(engine, prompts, asked, lambda count: None, str)]
    alone = [generate.until(engine, [prompt], asked[:1], lambda count: None, str)[0].text for prompt in prompts]
    assert together == alone


def test_int8_and_experts_are_given_room_to_round() -> None:
    """int8 picks the outliers of a whole batch, so that a neighbour moves a number a little; a plain model is held to the bit."""
    from transformers import BitsAndBytesConfig

    model = build("llama")
    assert not selfcheck._rounds_together(model)
    model.config.quantization_config = BitsAndBytesConfig(load_in_8bit=True)
    assert selfcheck._rounds_together(model)
    assert selfcheck._rounds_together(build("mixtral"))


def test_a_layer_without_a_mask_takes_no_trees() -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model("lfm2", **SHAPE, layer_types=["conv", "full_attention"])
    assert selfcheck.deepest_tree(config) == 0


def test_a_wrong_tree_is_found_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A window that the configuration does not confess: the self-check sees it in the numbers."""
    model = build("mistral")
    monkeypatch.setattr(selfcheck, "deepest_tree", lambda config: selfcheck.UNBOUNDED)
    assert scorer(model, requests()).tree is False
    assert "not valid" in caplog.text


def test_a_window_that_only_long_items_meet_is_found_when_they_come(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(selfcheck, "deepest_tree", lambda config: selfcheck.UNBOUNDED)
    model, long = build("mistral"), requests()
    short = [Request(request.context[:5], request.continuation, request.group) for request in long]
    engine = Engine(model, models.load_tokenizer(tiny_llama), max_length=256)
    for asked, tree in ((short, True), (long, False)):
        found = engine.score_tokens(asked, str)
        assert engine.scorer.tree is tree
        assert [value for value, _ in found] == pytest.approx([by_hand(model, request)[0] for request in asked], abs=1e-3)  # fmt: skip


@pytest.mark.parametrize("wrong", ["", "leak", "positions"])
def test_in_bf16_too_a_wrong_tree_is_told_from_rounding(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Branches that see each other, and positions that count along the row; weights as large as to make sharp predictions."""
    model = build("llama").to(torch.bfloat16)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 20 if weight.dim() == 2 else 1
    add = plan.Row.add

    def shifted(row: plan.Row, *rest: Any) -> list[int]:
        start, path = len(row.tokens), add(row, *rest)
        row.depths[start:] = range(row.after + start, row.after + len(row.tokens))
        return path

    if wrong == "leak":
        monkeypatch.setattr(plan.Row, "sees", lambda row: np.tri(len(row.tokens), dtype=bool))
    if wrong == "positions":
        monkeypatch.setattr(plan.Row, "add", shifted)
    assert scorer(model, requests()).tree is not bool(wrong)


@pytest.mark.parametrize("budget", [64, 100, 4096])
def test_the_budget_changes_batches_not_numbers(budget: int) -> None:
    model, asked = build("llama"), requests(shared=20)
    for one, two in zip(
        scorer(model, asked, budget=budget).score(asked), scorer(model, asked).score(asked), strict=True
    ):
        assert one == (pytest.approx(two[0], abs=1e-4), two[1])


class Narrow(Scorer):
    """A device on which batches above 100 tokens do not fit."""

    def _batch(self, rows: Any, before: Any) -> Any:
        if self.budget > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._batch(rows, before)


def test_the_budget_is_halved_when_memory_runs_out() -> None:
    model, asked = build("llama"), requests()
    narrow = Narrow(model, max_length=256, budget=512)
    for one, two in zip(narrow.score(asked), Scorer(model, max_length=256, budget=64).score(asked), strict=True):
        assert one == (pytest.approx(two[0], abs=1e-4), two[1])
    assert narrow.budget == 64


def test_one_item_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(EnvironmentFault, match="not enough memory"):
        Narrow(build("llama"), max_length=256, budget=110).score(requests())


def test_the_output_layer_runs_on_scored_positions_only() -> None:
    model, asked = build("llama"), requests()
    seen: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda module, inputs, out: seen.append(out.shape[-2]))
    todo = Scorer(model, max_length=256, budget=256)
    todo.score(asked)
    assert sum(seen) == sum(row.n_scored for batch in todo.plan(asked).batches for row in batch)
