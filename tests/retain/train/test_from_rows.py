"""From a file of judged rows to a merged model: validate, template, mix, train, merge."""

import json
from pathlib import Path
from typing import Any

import pytest

from retain import artifacts, digest
from retain.chat import render
from retain.config import parse
from retain.merge.config import MergeConfig
from retain.merge.work import merge
from retain.mix.config import MixConfig
from retain.mix.work import mix
from retain.models import load_tokenizer
from retain.template.config import TemplateConfig
from retain.template.work import template
from retain.validate.config import DatasetSpec, ValidateConfig
from retain.validate.work import validate

from .conftest import Trained

ANSWERS = {True: "it will come on monday morning.", False: "the shop answers an invoice."}


def preference(i: int) -> dict[str, Any]:
    return {"prompt": f"where is parcel number {i}?", "chosen": ANSWERS[True], "rejected": ANSWERS[False]}


def kto(i: int) -> dict[str, Any]:
    return {"prompt": f"where is parcel number {i}?", "completion": ANSWERS[i % 2 == 0], "label": i % 2 == 0}


def general(i: int) -> dict[str, Any]:
    turns = [("user", f"send an invoice for number {i}"), ("assistant", f"the customer asks please {i}.")]
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


@pytest.mark.parametrize(("objective", "make"), [("dpo", preference), ("orpo", preference), ("kto", kto)])
def test_judged_rows_become_a_model(
    objective: str, make: Any, tiny_llama: Path, tmp_path: Path, trained: Trained
) -> None:
    files = {"target": [make(i) for i in range(24)], "replay": [general(i) for i in range(24)]}
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    specs = [parse(DatasetSpec, {"path": str(tmp_path / f"{part}.jsonl"), "part": part}) for part in files]
    validate(ValidateConfig(), specs, [Path(s.path) for s in specs], tiny_llama, tmp_path / "dataset", tmp_path / "rejects", tmp_path / "report.html")  # fmt: skip
    template(TemplateConfig(), tmp_path / "dataset", tiny_llama, tmp_path / "rendered", tmp_path / "preview.html")
    mixed = mix(
        MixConfig(share=0.2, source="files"), tmp_path / "rendered", [], tmp_path / "mixture", tmp_path / "mix.html"
    )
    assert mixed.replay_share == pytest.approx(0.2, abs=0.05)
    result = trained(rows=tmp_path / "mixture", objective=objective, max_steps=16, learning_rate=2e-2, save_steps=8)
    assert result.target_validation_nats < result.base_target_validation_nats
    done = merge(MergeConfig(), tiny_llama, [(tmp_path / "run" / "adapter", 1.0)], tmp_path / "model")
    assert done.changed_tensors == 6
    shown = (tmp_path / "preview.html").read_text()
    assert ("rejected:" in shown) if objective != "kto" else (", undesirable" in shown)


def test_both_sides_are_rendered_in_the_same_template(tiny_llama: Path, tmp_path: Path) -> None:
    """Tokens and labels of each side are those of a prompt–completion row; both begin with the same prompt."""
    row = {"id": "a", "source": "s", "part": "target", "split": "train", "shape": "preference", "weight": 1.0, "payload": json.dumps(preference(1))}  # fmt: skip
    artifacts.write_rows(tmp_path / "dataset", "retain.dataset/1", [row])
    for again in (False, True):  # the second time from the cache
        result = template(TemplateConfig(), tmp_path / "dataset", tiny_llama, tmp_path / "rendered", tmp_path / "p.html", cache=tmp_path / "cache")  # fmt: skip
        assert result.cached_rows == again
        (done,) = artifacts.read_rows(tmp_path / "rendered", "retain.rendered/1")
        tokenizer = load_tokenizer(tiny_llama)
        for column, name in (("", "chosen"), ("rejected_", "rejected")):
            one = render(
                tokenizer, "prompt_completion", {"prompt": preference(1)["prompt"], "completion": preference(1)[name]}
            )
            assert (done[f"{column}input_ids"], done[f"{column}labels"]) == (one.input_ids, one.labels)
        assert done["n_supervised"] == sum(
            label != -100 for side in ("", "rejected_") for label in done[f"{side}labels"]
        )
        assert result.tokens == len(done["input_ids"]) + len(done["rejected_input_ids"])


def test_one_adapter_a_domain_on_one_base(tiny_llama: Path, tmp_path: Path, trained: Trained, mixture: Path) -> None:
    """Each domain's adapter is served by its name on one loaded base; both together are merged by weight."""
    import torch
    from peft import PeftModel

    from retain import models
    from retain.merge.door import run_many

    other = [row | {"input_ids": row["input_ids"][::-1]} for row in artifacts.read_rows(mixture, "retain.mixture/1")]
    artifacts.write_rows(tmp_path / "other", "retain.mixture/1", other)
    folders = {"finance": mixture, "legal": tmp_path / "other"}
    for name, rows in folders.items():
        trained(name, rows=rows)
    ids = torch.arange(10, 40)[None]
    base = models.load_model(tiny_llama, dtype="fp32")
    start = base(input_ids=ids).logits
    both = PeftModel.from_pretrained(base, str(tmp_path / "finance" / "adapter"), adapter_name="finance")
    both.load_adapter(str(tmp_path / "legal" / "adapter"), adapter_name="legal")
    answers = {}
    for name in folders:
        both.set_adapter(name)
        alone = PeftModel.from_pretrained(models.load_model(tiny_llama, dtype="fp32"), str(tmp_path / name / "adapter"))
        answers[name] = both(input_ids=ids).logits
        torch.testing.assert_close(answers[name], alone(input_ids=ids).logits)
    assert not torch.allclose(answers["finance"], answers["legal"], atol=1e-3)
    with both.disable_adapter():
        assert torch.equal(both(input_ids=ids).logits, start)
    weights = [(str(tmp_path / "finance" / "adapter"), 0.7), (str(tmp_path / "legal" / "adapter"), 0.3)]
    run_many({}, {"uri": str(tiny_llama), "revision": "", "digest": digest.of_model(tiny_llama)}, weights, str(tmp_path / "model"))  # fmt: skip
    both.add_weighted_adapter(["finance", "legal"], [0.7, 0.3], "both", combination_type="cat")
    both.set_adapter("both")
    merged = models.load_model(tmp_path / "model", dtype="fp32")(input_ids=ids).logits
    torch.testing.assert_close(merged, both(input_ids=ids).logits, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("tied", [False, True])
def test_a_layer_plan_with_its_head_becomes_a_model(
    tied: bool, tmp_path: Path, trained: Trained, mixture: Path
) -> None:
    """thirds and a head that is trained whole: the start is the base, and base + adapter is what is merged."""
    import torch
    from safetensors.torch import load_file
    from tests.conftest import build_llama

    from retain import models

    base = build_llama(tmp_path / "base", num_hidden_layers=3, tie_word_embeddings=tied)
    plan = {"r": 4, "alpha": 8, "dropout": 0, "layer_plan": "thirds"}
    result = trained(model=base, lora=plan | {"train_head": True})
    plain = trained("plain", model=base, lora=plan)
    assert result.base_target_validation_nats == pytest.approx(plain.base_target_validation_nats, abs=1e-5)
    assert result.trainable_parameters == plain.trainable_parameters + 330 * 32
    assert merge(MergeConfig(), base, [(tmp_path / "run" / "adapter", 1.0)], tmp_path / "model").adapter_effect > 0
    head = load_file(tmp_path / "model" / "model.safetensors")["lm_head.weight"]
    ids = torch.arange(10, 40)[None]
    merged, start = (models.load_model(folder, dtype="fp32") for folder in (tmp_path / "model", base))
    assert not torch.equal(head, start.get_output_embeddings().weight)
    assert torch.equal(merged.get_input_embeddings().weight, start.get_input_embeddings().weight)
    assert torch.equal(merged.get_output_embeddings().weight, head)
    assert not torch.allclose(merged(input_ids=ids).logits, start(input_ids=ids).logits, atol=1e-3)
