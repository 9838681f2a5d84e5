"""The streamed merge against peft's own, for every variant of LoRA, any sharding and precision."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retain import digest
from retain.errors import ConfigError, EnvironmentFault, IntegrityError
from retain.merge.config import MergeConfig
from retain.merge.work import merge

Make = Callable[..., Path]
Loaded = Callable[[Path], Any]
# peft warns when such adapters are made; what is asserted here is what a merge makes of them.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
QUICK = {"probe_rows": 2, "probe_tokens": 12}

VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("llama", {}, {}),
    "rank and alpha patterns": ("llama", {}, {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 8}, "alpha_pattern": {"q_proj": 5}}),
    "rslora": ("llama", {}, {"use_rslora": True, "rank_pattern": {"v_proj": 2}}),
    "dora": ("llama", {}, {"use_dora": True}),
    "head trained whole": ("llama", {}, {"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]}),
    "norms trained whole": ("llama", {}, {"modules_to_save": ["input_layernorm"], "target_modules": ["q_proj"]}),
    "embedding": ("llama", {}, {"target_modules": ["embed_tokens", "o_proj"]}),
    "embedding with dora": ("llama", {}, {"target_modules": ["embed_tokens"], "use_dora": True}),
    "attention biases": ("llama", {"attention_bias": True}, {"target_modules": ["q_proj"], "bias": "lora_only"}),
    "a bias of its own": ("llama", {"attention_bias": True}, {"target_modules": ["q_proj"], "lora_bias": True}),
    "single tokens": ("llama", {}, {"target_modules": ["q_proj"], "trainable_token_indices": [3, 90]}),
    "single tokens, tied": ("llama", {"tie_word_embeddings": True}, {"target_modules": ["q_proj"], "trainable_token_indices": [3, 90]}),
    "fused and transposed": ("gpt2", {}, {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "transposed with dora": ("gpt2", {}, {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "use_dora": True}),
    "encoder and decoder": ("t5", {}, {"task_type": "SEQ_2_SEQ_LM", "target_modules": ["q", "v", "wo"]}),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_equals_what_peft_merges(variant: str, base: Make, adapter: Make, loaded: Loaded, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel

    family, shape, settings = VARIANTS[variant]
    folder = base(family, shard="20KB", **shape)
    tuned = adapter(folder, **settings)
    result = merge(MergeConfig(**QUICK), folder, [(tuned, 1.0)], tmp_path / "model")
    theirs = PeftModel.from_pretrained(loaded(folder), str(tuned)).merge_and_unload().state_dict()
    ours = loaded(tmp_path / "model").state_dict()
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        torch.testing.assert_close(
            tensor, theirs[name], rtol=1e-5, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert result.digest == digest.of_model(tmp_path / "model")
    assert result.adapter_effect > 100 * result.logit_difference
    assert result.changed_tensors > 0


OTHERS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "ia3": ("llama", {}, "IA3Config", {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
    "ia3 with biases": ("llama", {"attention_bias": True}, "IA3Config", {"target_modules": ["k_proj"], "feedforward_modules": []}),
    "ia3 transposed": ("gpt2", {}, "IA3Config", {"target_modules": ["c_attn", "c_proj"], "feedforward_modules": ["c_proj"], "fan_in_fan_out": True}),
    "oft": ("llama", {}, "OFTConfig", {"r": 0, "oft_block_size": 8, "target_modules": ["q_proj", "down_proj"]}),
    "oft by its inverse": ("llama", {}, "OFTConfig", {"r": 2, "oft_block_size": 0, "target_modules": ["q_proj"], "use_cayley_neumann": False}),
    "oft, shared blocks, three terms": ("llama", {}, "OFTConfig", {"r": 0, "oft_block_size": 8, "target_modules": ["q_proj"], "block_share": True, "num_cayley_neumann_terms": 3}),
    "oft of two terms": ("llama", {}, "OFTConfig", {"r": 0, "oft_block_size": 8, "target_modules": ["q_proj"], "num_cayley_neumann_terms": 2}),
    "osf": ("llama", {}, "OSFConfig", {"target_modules": ["q_proj", "down_proj"], "effective_rank": 8}),
}  # fmt: skip


@pytest.mark.parametrize("variant", OTHERS)
def test_methods_that_scale_or_turn_weights(variant: str, base: Make, loaded: Loaded, tmp_path: Path) -> None:
    import peft
    import torch

    family, shape, config, settings = OTHERS[variant]
    folder = base(family, shard="20KB", **shape)
    if shape:
        _fill_biases(folder)
    model = peft.get_peft_model(loaded(folder), getattr(peft, config)(**settings))
    torch.manual_seed(0)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(str(tmp_path / "adapter"))
    result = merge(MergeConfig(**QUICK), folder, [(tmp_path / "adapter", 1.0)], tmp_path / "model")
    theirs, ours = model.merge_and_unload().state_dict(), loaded(tmp_path / "model").state_dict()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=5e-6, msg=lambda text, name=name: f"{name}: {text}")  # fmt: skip
    assert result.adapter_effect > 100 * result.logit_difference
    half = merge(MergeConfig(strength=0.5, **QUICK), folder, [(tmp_path / "adapter", 1.0)], tmp_path / "half")
    assert 1e-4 > half.logit_difference < half.adapter_effect < result.adapter_effect
    if settings.get("block_share"):
        return  # one block for all inputs fits any width
    with pytest.raises(IntegrityError, match=r"another shape|does not have"):
        merge(MergeConfig(**QUICK), base(family, **_WIDER[family]), [(tmp_path / "adapter", 1.0)], tmp_path / "m")


_WIDER: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16},
    "gpt2": {"n_embd": 64},
}


def _fill_biases(folder: Path) -> None:
    """transformers starts biases at 0, which hides a wrong factor."""
    from safetensors.torch import load_file, save_file

    for shard in folder.glob("*.safetensors"):
        tensors = {n: t + 0.1 if n.endswith(".bias") else t for n, t in load_file(shard).items()}
        save_file(tensors, shard, metadata={"format": "pt"})


def test_an_adapter_trained_on_nf4_is_merged_into_the_original_precision_and_said_so(
    base: Make, adapter: Make, tmp_path: Path
) -> None:
    folder = base(dtype="bfloat16")
    tuned = adapter(folder)
    card = {"schema": "retain.adapter/1", "method": "qlora", "base_digest": digest.of_model(folder)}
    (tuned / "retain.json").write_text(json.dumps(card))
    result = merge(MergeConfig(**QUICK), folder, [(tuned, 1.0)], tmp_path / "model")
    assert "trained on the base in NF4" in " ".join(result.notes)
    assert "NF4" in " ".join(json.loads((tmp_path / "model" / "manifest.json").read_text())["notes"])
    settings = json.loads((folder / "config.json").read_text())
    (tuned / "retain.json").unlink()
    (folder / "config.json").write_text(json.dumps({**settings, "quantization_config": {"load_in_4bit": True}}))
    with pytest.raises(ConfigError, match="quantised base"):
        merge(MergeConfig(**QUICK), folder, [(tuned, 1.0)], tmp_path / "model")


@pytest.mark.parametrize("what", ["lm_head", "embed_tokens"])
@pytest.mark.parametrize("how", ["low rank", "whole"])
def test_one_end_of_a_tied_embedding_is_written_out(
    what: str, how: str, base: Make, adapter: Make, loaded: Loaded, tmp_path: Path
) -> None:
    """peft warns that its own merge moves both ends; ours is what was trained, as the proof's forward pass shows."""
    folder = base(tie_word_embeddings=True)
    settings: dict[str, Any] = (
        {"target_modules": [what]} if how == "low rank" else {"target_modules": ["q_proj"], "modules_to_save": [what]}
    )
    tuned = adapter(folder, **settings)
    result = merge(MergeConfig(**QUICK), folder, [(tuned, 1.0)], tmp_path / "model")
    model = loaded(tmp_path / "model")
    assert not model.config.tie_word_embeddings
    assert not (model.lm_head.weight == model.model.embed_tokens.weight).all()
    assert "written out" in " ".join(result.notes)
    assert result.adapter_effect > 100 * result.logit_difference


def test_strength_goes_from_the_base_to_the_adapter_and_beyond(base: Make, adapter: Make, tmp_path: Path) -> None:
    folder = base()
    for settings in ({}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}):
        tuned = adapter(folder, **settings)
        for strength in (0.3, 1.5):
            result = merge(MergeConfig(strength=strength, **QUICK), folder, [(tuned, 1.0)], tmp_path / "model")
            assert result.logit_difference < 1e-5 < result.adapter_effect


def test_it_rounds_once_to_the_precision_of_the_base_and_says_what_was_lost(
    base: Make, adapter: Make, loaded: Loaded, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel

    folder = base(dtype="bfloat16")
    tuned = adapter(folder, size=0.01, modules_to_save=["lm_head"])
    result = merge(MergeConfig(**QUICK), folder, [(tuned, 1.0)], tmp_path / "model")
    exact = PeftModel.from_pretrained(loaded(folder).float(), str(tuned)).merge_and_unload().state_dict()
    ours = loaded(tmp_path / "model").state_dict()
    for name, tensor in ours.items():
        assert tensor.dtype == torch.bfloat16
        difference = (tensor.float() - exact[name].float()).abs()
        assert (difference <= exact[name].float().abs() * 2**-8).all(), name
    assert 0 < result.lost_percent < 100
    proof = json.loads((tmp_path / "model" / "proof.json").read_text())
    assert set(proof["tensors"]) >= {"model.layers.0.self_attn.q_proj.weight", "lm_head.weight"}
    wide = merge(MergeConfig(dtype="fp32", **QUICK), folder, [(tuned, 1.0)], tmp_path / "wide")
    assert wide.lost_percent < result.lost_percent
    assert {t.dtype for t in loaded(tmp_path / "wide").state_dict().values()} == {torch.float32}


def test_untouched_files_and_tensors_are_the_same_bytes(base: Make, adapter: Make, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = base(dtype="float16")
    (folder / "generation_config.json").write_text('{"max_length": 77}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    tuned = adapter(folder, target_modules=["q_proj"])
    merge(MergeConfig(**QUICK), folder, [(tuned, 1.0)], tmp_path / "model")
    for name in ("generation_config.json", "chat_template.jinja", "tokenizer_config.json"):
        assert (tmp_path / "model" / name).read_bytes() == (folder / name).read_bytes()
    old, new = load_file(folder / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    changed = {name for name in old if not old[name].equal(new[name])}
    assert changed == {f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1)}


def test_the_bytes_do_not_depend_on_workers_or_blocks(base: Make, adapter: Make, tmp_path: Path) -> None:
    folder = base(dtype="bfloat16", hidden_size=256, intermediate_size=1024)
    tuned = adapter(folder)
    digests = {
        merge(
            MergeConfig(workers=workers, block_mib=block, **QUICK),
            folder,
            [(tuned, 1.0)],
            tmp_path / f"m{workers}{block}",
        ).digest
        for workers, block in ((1, 1), (3, 1), (2, 64))
    }
    assert len(digests) == 1


def test_new_words_make_the_vocabulary_longer(base: Make, adapter: Make, loaded: Loaded, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    folder = base()
    model = loaded(folder)
    model.resize_token_embeddings(100, mean_resizing=False)
    tuned = get_peft_model(
        model, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    )
    torch.manual_seed(0)
    for parameter in (p for p in tuned.parameters() if p.requires_grad):
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    tuned.save_pretrained(str(tmp_path / "adapter"))
    (tmp_path / "adapter" / "tokenizer.json").write_text("{}")
    merge(MergeConfig(**QUICK), folder, [(tmp_path / "adapter", 1.0)], tmp_path / "model")
    merged = loaded(tmp_path / "model")
    assert merged.config.vocab_size == 100
    ids = torch.tensor([[1, 99, 5]])
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, tuned(ids).logits, rtol=1e-4, atol=1e-5)
    assert (tmp_path / "model" / "tokenizer.json").is_file()


def test_changed_weights_interpolate_with_the_base(base: Make, loaded: Loaded, tmp_path: Path) -> None:
    import torch

    folder = base()
    model, start = loaded(folder), loaded(folder).state_dict()
    moved = {name: t + 0.01 * torch.randn_like(t) for name, t in model.state_dict().items() if "mlp" in name}
    model.save_pretrained(str(tmp_path / "tuned"), state_dict=moved)
    for strength in (1.0, 0.4):
        done = merge(MergeConfig(strength=strength, **QUICK), folder, [(tmp_path / "tuned", 1.0)], tmp_path / "model")
        assert done.logit_difference < 1e-5 < done.adapter_effect
        for name, tensor in loaded(tmp_path / "model").state_dict().items():
            wanted = start[name] + strength * (moved.get(name, start[name]) - start[name])
            torch.testing.assert_close(tensor, wanted, rtol=1e-6, atol=1e-7)


def test_a_whole_models_second_copy_of_its_embedding_leaves_a_tied_base_tied(
    base: Make, loaded: Loaded, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    folder = base(tie_word_embeddings=True)
    moved = {name: tensor + 0.01 for name, tensor in loaded(folder).state_dict().items()}
    (tmp_path / "tuned").mkdir()
    save_file(moved, tmp_path / "tuned" / "model.safetensors")
    assert "lm_head.weight" in moved
    result = merge(MergeConfig(strength=0.5, **QUICK), folder, [(tmp_path / "tuned", 1.0)], tmp_path / "model")
    assert loaded(tmp_path / "model").config.tie_word_embeddings
    assert result.logit_difference < 1e-5 < result.adapter_effect


def test_whole_models_with_new_words_are_proven(base: Make, loaded: Loaded, tmp_path: Path) -> None:
    folder = base()
    model = loaded(folder)
    model.resize_token_embeddings(100, mean_resizing=False)
    model.save_pretrained(str(tmp_path / "tuned"), state_dict={n: t + 0.01 for n, t in model.state_dict().items()})
    result = merge(MergeConfig(strength=0.5, **QUICK), folder, [(tmp_path / "tuned", 1.0)], tmp_path / "model")
    assert loaded(tmp_path / "model").config.vocab_size == 100
    assert result.logit_difference < 1e-5 < result.adapter_effect


def test_a_wrong_interpolation_does_not_pass_its_proof(
    base: Make, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retain.merge.deltas import Replace

    folder, right = base(dtype="bfloat16"), Replace.rows
    model = loaded(folder)
    moved = {name: t + 0.01 if "layers.1.mlp" in name else t for name, t in model.state_dict().items()}
    model.save_pretrained(str(tmp_path / "tuned"), state_dict=moved)
    monkeypatch.setattr(Replace, "rows", lambda *given: 1.1 * right(*given))
    with pytest.raises(IntegrityError, match="not base") as caught:
        merge(MergeConfig(strength=0.5, **QUICK), folder, [(tmp_path / "tuned", 1.0)], tmp_path / "model")
    assert "layers.1.mlp" in str(caught.value)
    assert not (tmp_path / "model" / "manifest.json").exists()


def test_what_cannot_be_merged_is_refused_with_the_reason(base: Make, adapter: Make, tmp_path: Path) -> None:
    folder = base()
    with pytest.raises(ConfigError, match="no such adapter"):
        merge(MergeConfig(), folder, [(tmp_path / "nowhere", 1.0)], tmp_path / "model")
    tuned = adapter(folder)
    settings = json.loads((tuned / "adapter_config.json").read_text())
    for change, told in (
        ({"peft_type": "PREFIX_TUNING"}, "trained inputs"), ({"peft_type": "VERA"}, "cannot be merged"), ({"peft_type": "OFT", "coft": True}, "constrained OFT"), ({"init_lora_weights": "pissa_niter_4"}, "moves the base"),
        ({"layer_replication": [[0, 2]]}, "one fixed change"),
    ):  # fmt: skip
        (tuned / "adapter_config.json").write_text(json.dumps({**settings, **change}))
        with pytest.raises(ConfigError, match=told):
            merge(MergeConfig(), folder, [(tuned, 1.0)], tmp_path / "model")
        assert not (tmp_path / "model" / "manifest.json").exists()


def test_damaged_foreign_and_empty_adapters(base: Make, adapter: Make, tmp_path: Path) -> None:
    folder = base()
    tuned = adapter(folder)
    weights = tuned / "adapter_model.safetensors"
    whole = weights.read_bytes()
    sha = digest.of_manifest({weights.name: digest.of_file(weights).removeprefix("sha256:")})

    def refused(told: str) -> None:
        with pytest.raises(IntegrityError, match=told):
            merge(MergeConfig(**QUICK), folder, [(tuned, 1.0)], tmp_path / "model")

    weights.write_bytes(whole[:-8])
    refused("cut short")
    weights.write_bytes(whole)
    card = {"schema": "retain.adapter/1", "adapter_digest": "sha256:" + "0" * 64}
    (tuned / "retain.json").write_text(json.dumps(card))
    refused("changed after training")
    (tuned / "retain.json").write_text(json.dumps({**card, "adapter_digest": sha, "base_digest": "sha256:" + "1" * 64}))
    refused("another base")
    (tuned / "retain.json").unlink()
    shutil.rmtree(tuned)
    adapter_of_other = adapter(base(hidden_size=64))
    shutil.copytree(adapter_of_other, tuned)
    refused("another shape")
    shutil.rmtree(tuned)
    shutil.copytree(adapter(folder, size=0.0), tuned)
    refused("equals its base")


def test_a_nan_and_a_corrupted_shard_are_found(base: Make, adapter: Make, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = base()
    tuned = adapter(folder, target_modules=["q_proj"])
    shard = folder / "model.safetensors"
    tensors = load_file(shard)
    for name in ("model.layers.1.self_attn.q_proj.weight", "model.norm.weight"):
        broken = {k: v.clone() for k, v in tensors.items()}
        broken[name].view(-1)[3] = torch.nan
        save_file(broken, shard, metadata={"format": "pt"})
        with pytest.raises(IntegrityError, match="NaN") as caught:
            merge(MergeConfig(**QUICK), folder, [(tuned, 1.0)], tmp_path / "model")
        assert name in str(caught.value)
    save_file(tensors, shard, metadata={"format": "pt"})
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match="cut short"):
        merge(MergeConfig(**QUICK), folder, [(tuned, 1.0)], tmp_path / "model")


def test_a_full_disk_is_said_before_anything_is_computed_and_leaves_nothing(
    base: Make, adapter: Make, small_disk: Path
) -> None:
    folder = base(vocab_size=2000)
    with pytest.raises(EnvironmentFault, match="could not be written") as caught:
        merge(MergeConfig(**QUICK), folder, [(adapter(folder), 1.0)], small_disk / "model")
    assert "No space left" in str(caught.value)
    assert not list((small_disk / "model").iterdir())


def test_a_wrong_merge_does_not_pass_its_proof(
    base: Make, adapter: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retain.merge import adapters

    whole = adapters._Reader._scale
    for wrong in (lambda self, module, rank: 1.01 * whole(self, module, rank), lambda self, module, rank: 2.0):
        monkeypatch.setattr(adapters._Reader, "_scale", wrong)
        folder = base(dtype="bfloat16")
        with pytest.raises(IntegrityError, match="not base"):
            merge(MergeConfig(**QUICK), folder, [(adapter(folder, size=0.3), 1.0)], tmp_path / "model")
        assert not (tmp_path / "model" / "manifest.json").exists()
