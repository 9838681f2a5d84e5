"""The count against what was measured and what autograd itself says."""

import json
from dataclasses import replace

import pytest

from retain.errors import ConfigError, IntegrityError
from retain.plan.memory import TrainShape, activation_bytes, kv_cache_bytes, layer_bytes, training_memory
from retain.plan.shapes import Linear, ModelShape, adapter_parameters, read_shape

PER_LAYER = (("self_attn.q_proj", 576, 576), ("self_attn.k_proj", 192, 576), ("self_attn.v_proj", 192, 576), ("self_attn.o_proj", 576, 576),
             ("mlp.gate_proj", 1536, 576), ("mlp.up_proj", 1536, 576), ("mlp.down_proj", 576, 1536))  # fmt: skip
SMOL = ModelShape(
    134_515_008, 28_311_552, 28_311_552, 269_030_016, 30, 576, 1536, 9, 3, 64, 49152,
    tuple(Linear(f"model.layers.{i}.{name}.weight", rows, columns) for i in range(30) for name, rows, columns in PER_LAYER),
)  # fmt: skip
CPU = TrainShape("lora", 2048, 256, dropout=0.05, device="cpu", keep_best=False)
# Peak resident memory of the training step's process, net of what it held after its imports; SmolLM2-135M-Instruct,
# bf16, Linux x86-64, torch 2.13: (rows · length, length, method, targets, checkpointing, MB).
MEASURED = [
    (64, 64, "lora", "mlp-only", False, 475), (512, 128, "lora", "mlp-only", False, 977), (1024, 256, "lora", "mlp-only", False, 1818),
    (2048, 256, "lora", "mlp-only", False, 2920), (2048, 512, "lora", "mlp-only", False, 3342), (2048, 256, "lora", "all-linear", False, 3640),
    (2048, 256, "lora", "mlp-only", True, 771), (64, 64, "full", "mlp-only", False, 3050), (2048, 256, "full", "mlp-only", False, 4875),
]  # fmt: skip


@pytest.mark.parametrize(("tokens", "length", "method", "targets", "checkpointing", "megabytes"), MEASURED)
def test_the_peak_is_within_15_percent_of_what_was_measured(tokens, length, method, targets, checkpointing, megabytes):
    train = replace(CPU, method=method, micro_tokens=tokens, row_tokens=length, target_modules=targets, checkpointing=checkpointing)  # fmt: skip
    assert training_memory(SMOL, train).peak / 1e6 == pytest.approx(megabytes, rel=0.15)


@pytest.mark.parametrize(("method", "dropout", "bytes_seen"), [("lora", 0.0, 24394), ("lora", 0.05, 30922), ("full", 0.0, 29316)])  # fmt: skip
def test_the_count_agrees_with_autograds_saved_tensors(method, dropout, bytes_seen):
    """Bytes per token and layer that torch.autograd.graph.saved_tensors_hooks saw, one row of 256 tokens."""
    assert layer_bytes(SMOL, replace(CPU, method=method, dropout=dropout)) == pytest.approx(bytes_seen, rel=0.02)


def test_parameters_are_counted_as_peft_counts_them():
    assert adapter_parameters(SMOL, 16, "mlp-only") == 3_041_280
    assert adapter_parameters(SMOL, 16, "all-linear") == 4_884_480
    assert adapter_parameters(SMOL, 16, ["q_proj"]) == 16 * 30 * 1152
    assert adapter_parameters(SMOL, 16, "attention-qv") < adapter_parameters(SMOL, 16, "attention-only")


def test_every_knob_moves_the_peak():
    start = training_memory(SMOL, CPU).peak
    for change in (
        {"method": "qlora"}, {"method": "full"}, {"micro_tokens": 4096}, {"row_tokens": 128}, {"r": 64}, {"target_modules": "all-linear"}, {"dropout": 0.0},
        {"checkpointing": True}, {"saved_bytes": 4}, {"device": "cuda"}, {"keep_best": True},
    ):  # fmt: skip
        assert training_memory(SMOL, replace(CPU, **change)).peak != start, change
    few = replace(CPU, micro_tokens=64, supervised=0.1)
    assert training_memory(SMOL, few).peak != training_memory(SMOL, replace(few, supervised=0.9)).peak


def test_a_full_fine_tune_peaks_at_the_step_where_rows_are_few():
    few, many = (training_memory(SMOL, replace(CPU, method="full", micro_tokens=n)) for n in (64, 8192))
    assert (few.moment, many.moment) == ("step", "backward")
    assert few.fits(few.peak)
    assert not few.fits(few.peak - 1)


def test_a_model_folder_is_read_from_its_headers(tiny_llama):
    shape = read_shape(tiny_llama)
    assert (shape.layers, shape.hidden, shape.intermediate, shape.kv_heads, len(shape.linears)) == (2, 32, 64, 2, 14)
    assert shape.stored_bytes == 4 * shape.parameters
    assert sum(f.stat().st_size for f in tiny_llama.glob("*.safetensors")) == pytest.approx(shape.stored_bytes, rel=0.1)
    assert kv_cache_bytes(shape, 10) == 2 * 2 * 2 * 8 * 2 * 10


def test_the_count_agrees_with_autograd_on_a_real_model(tiny_llama):
    import torch

    from retain import models
    from retain.train.config import TrainConfig
    from retain.train.load import packs
    from retain.train.methods import Start, prepare

    shape, length, kept = read_shape(tiny_llama), 64, {}
    base = models.load_model(tiny_llama, dtype="bf16")
    config = TrainConfig(lora={"dropout": 0.0})
    assert packs(config, base)
    model = prepare(Start(config, base, [], tiny_llama)).train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        model(input_ids=torch.zeros((1, length), dtype=torch.long), position_ids=torch.arange(length)[None], lengths=[length], use_cache=False, logits_to_keep=torch.arange(1))  # fmt: skip
    seen = sum(t.untyped_storage().nbytes() for t in kept.values()) / length / shape.layers
    ours = layer_bytes(shape, TrainShape("lora", length, length, device="cpu"))
    assert ours == pytest.approx(seen, rel=0.35)  # layer 0 needs less, the low-rank products are not counted


def test_a_folder_without_a_model_and_a_damaged_file_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no model"):
        read_shape(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({}))
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(IntegrityError, match="damaged"):
        read_shape(tmp_path)


def test_checkpointing_keeps_one_layer_and_every_input():
    plain, saved = (activation_bytes(SMOL, replace(CPU, checkpointing=c)) for c in (False, True))
    assert saved < plain / 6
