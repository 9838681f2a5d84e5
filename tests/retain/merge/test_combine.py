"""Several adapters on the exact ΔW, against arithmetic on whole matrices."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retain.errors import ConfigError, IntegrityError
from retain.merge import again, combine
from retain.merge.config import MergeConfig
from retain.merge.work import merge

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
Make = Callable[..., Path]
QUICK = {"probe_rows": 2, "probe_tokens": 12}


def dense_ties(a: Any, b: Any, wa: float, wb: float, density: float) -> Any:
    """Algorithm 1 of arXiv 2306.01708, entry by entry."""
    import numpy as np

    def trim(x: Any) -> Any:
        keep = round(density * x.size)
        limit = np.sort(np.abs(x).ravel())[-keep]
        return np.where(np.abs(x) >= limit, x, 0)

    ta, tb = trim(a), trim(b)
    result = np.zeros_like(a)
    for index in np.ndindex(a.shape):
        va, vb = wa * ta[index], wb * tb[index]
        sign = np.sign(va + vb)
        agree = [(v, w) for v, w in ((va, wa), (vb, wb)) if v != 0 and np.sign(v) == sign]
        result[index] = sum(v for v, _ in agree) / sum(w for _, w in agree) if agree else 0
    return result


def dense_slerp(a: Any, b: Any, t: float) -> Any:
    import numpy as np

    angle = np.arccos((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


@pytest.mark.parametrize("method", ["linear", "ties", "slerp"])
def test_two_adapters_against_dense_arithmetic(
    method: str, base: Make, adapter: Make, loaded: Callable[[Path], Any], tmp_path: Path
) -> None:
    import numpy as np
    from peft import PeftModel

    folder = base(shard="20KB")
    one, two = adapter(folder, seed=1), adapter(folder, seed=2, r=2, use_rslora=True)
    config = MergeConfig(method=method, strength=0.9, density=0.4, **QUICK)
    result = merge(config, folder, [(one, 0.7), (two, 0.3)], tmp_path / "model")
    start, merged = loaded(folder).state_dict(), loaded(tmp_path / "model").state_dict()
    tuned = [
        PeftModel.from_pretrained(loaded(folder), str(path)).merge_and_unload().state_dict() for path in (one, two)
    ]
    for name, tensor in merged.items():
        a, b = ((t[name] - start[name]).double().numpy() for t in tuned)
        if not (a.any() or b.any()):
            assert tensor.equal(start[name])
            continue
        change = {"linear": lambda a=a, b=b: 0.7 * a + 0.3 * b, "ties": lambda a=a, b=b: dense_ties(a, b, 0.7, 0.3, 0.4), "slerp": lambda a=a, b=b: dense_slerp(a, b, 0.3)}[method]()  # fmt: skip
        wrong = np.abs(tensor.double().numpy() - start[name].double().numpy() - 0.9 * change) > 1e-5
        assert wrong.mean() <= (0.01 if method == "ties" else 0), (
            name
        )  # an entry at the trimming limit may fall either way
    assert result.changed_tensors == 14
    assert result.adapter_effect > 100 * result.logit_difference > 0
    reference = json.loads((tmp_path / "model" / "proof.json").read_text())["logits"]["reference"]
    assert ("attached" in reference) == (
        method == "linear"
    )  # peft can attach a weighted sum; the rest is done on whole matrices


def test_a_wrong_combination_does_not_pass_its_proof(
    base: Make, adapter: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retain.merge import stream

    folder = base()
    pair = [(adapter(folder, seed=1), 0.5), (adapter(folder, seed=2), 0.5)]
    monkeypatch.setitem(stream.METHODS, "ties", lambda *given: 1.2 * combine.ties(*given))
    with pytest.raises(IntegrityError, match="not base"):
        merge(MergeConfig(method="ties", **QUICK), folder, pair, tmp_path / "model")


@pytest.mark.parametrize("method", ["linear", "ties", "dare", "slerp"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_second_way_gives_the_same(method: str, count: int) -> None:
    """Blocks of any size, entries that cancel each other, changes that are alike, one that is nothing."""
    import torch

    if method == "slerp" and count != 2:
        return
    torch.manual_seed(count)
    weights = [0.7, 0.3, 0.4][:count]
    apart = [torch.randn(1000) for _ in range(count)]
    alike = [apart[0] + 1e-3 * change for change in apart]
    still = [torch.zeros(1000), *apart[1:]]
    for changes in (apart, alike, still, [0.3 * apart[0], *(-0.7 * apart[0] for _ in apart[1:])]):
        block = again.combined(method, changes, weights, 0.4, "7:w")
        parts = [block(slice(first, first + 300)) for first in range(0, 1000, 300)]
        doubt = torch.cat([torch.zeros_like(total, dtype=torch.bool) if d is None else d for total, d in parts])
        wanted = combine.METHODS[method](changes, weights, 0.4, "7:w").double()
        total = torch.cat([total for total, _ in parts])
        torch.testing.assert_close(total[~doubt], wanted[~doubt], rtol=1e-4, atol=1e-6)
        assert doubt.float().mean() <= (1 if changes is alike and method == "slerp" else 0.5 if method == "ties" else 0)


@pytest.mark.parametrize("method", ["ties", "dare", "slerp"])
def test_whole_models_combine_as_task_vectors(
    method: str, base: Make, loaded: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full fine-tunes in shards of their own, against arithmetic on whole matrices; every tensor of them is changed, also
    those that workers would share in a linear merge."""
    import numpy as np
    import torch

    from retain.merge import stream

    monkeypatch.setattr(stream, "UNIT_BYTES", 1 << 10)
    folder = base(shard="20KB")
    start = loaded(folder).state_dict()
    torch.manual_seed(3)
    models = [{n: t + 0.01 * torch.randn_like(t) for n, t in start.items()} for _ in range(2)]
    for i, weights in enumerate(models):
        loaded(folder).save_pretrained(str(tmp_path / f"full{i}"), state_dict=weights, max_shard_size="15KB")
    pair = [(tmp_path / "full0", 0.7), (tmp_path / "full1", 0.3)]
    config = MergeConfig(method=method, strength=0.8, density=0.4, **QUICK)
    result = merge(config, folder, pair, tmp_path / "model")
    assert result.changed_tensors == len(start)
    assert result.adapter_effect > 100 * result.logit_difference
    for name, tensor in loaded(tmp_path / "model").state_dict().items():
        a, b = ((w[name] - start[name]).double().numpy() for w in models)
        if method == "dare":
            one, two = (torch.from_numpy(x).float() for x in (a, b))
            change = combine.dare([one, two], [0.7, 0.3], 0.4, f"0:{name}").double().numpy()
        else:
            change = dense_ties(a, b, 0.7, 0.3, 0.4) if method == "ties" else dense_slerp(a, b, 0.3)
        wrong = np.abs(tensor.double().numpy() - start[name].double().numpy() - 0.8 * change) > 1e-5
        assert wrong.mean() <= (0.05 if method == "ties" else 0), name  # an entry at the limit may fall either way


@pytest.mark.parametrize("method", ["linear", "ties", "dare", "slerp"])
def test_whole_models_and_adapters_mix_and_are_proven(
    method: str, base: Make, adapter: Make, loaded: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Rounded to bf16, by depth, with a head of its own beside a tied base; a fault of any one tensor is found and named."""
    import torch
    from safetensors.torch import save_file

    from retain.merge import stream

    folder = base(dtype="bfloat16", shard="20KB", tie_word_embeddings=True)
    full = loaded(folder)
    torch.manual_seed(3)
    tuned = {n: (t.float() + 0.01 * torch.randn_like(t.float())).to(t.dtype) for n, t in full.state_dict().items()}
    (tmp_path / "full").mkdir()
    save_file(tuned, tmp_path / "full" / "model.safetensors")
    pair = [(tmp_path / "full", 0.6), (adapter(folder), 0.4)]
    config = MergeConfig(method=method, strength=0.8, first_layer=0.5, **QUICK)
    result = merge(config, folder, pair, tmp_path / "model")
    assert result.adapter_effect > 10 * result.logit_difference
    assert not loaded(tmp_path / "model").config.tie_word_embeddings
    logits = json.loads((tmp_path / "model" / "proof.json").read_text())["logits"]
    assert logits["layers_recomputed"] == len(tuned)
    right = stream.Worker._change

    def wrong(self: Any, job: Any, *given: Any) -> Any:
        return right(self, job, *given) * (20 if job.name == "model.layers.1.post_attention_layernorm.weight" else 1)

    monkeypatch.setattr(stream.Worker, "_change", wrong)
    with pytest.raises(IntegrityError, match="not base") as caught:
        merge(config, folder, pair, tmp_path / "again")
    assert "model.layers.1.post_attention_layernorm" in str(caught.value)


def test_dare_keeps_the_mean_and_its_seed() -> None:
    import torch

    change = torch.ones(400, 400)
    kept = combine.dare([change], [1.0], 0.3, "7:w")
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.3])
    assert float(kept.mean()) == pytest.approx(1.0, abs=0.02)
    assert kept.equal(combine.dare([change], [1.0], 0.3, "7:w"))
    assert not kept.equal(combine.dare([change], [1.0], 0.3, "8:w"))
    both = combine.dare([change, change], [1.0, 1.0], 0.3, "7:w")
    assert not both.equal(2 * kept)  # each change is thinned on its own


def test_knobs_change_the_result(base: Make, adapter: Make, tmp_path: Path) -> None:
    folder = base()
    pair = [(adapter(folder, seed=1), 0.5), (adapter(folder, seed=2), 0.5)]
    knobs: list[dict[str, Any]] = [
        {}, {"method": "ties"}, {"method": "ties", "density": 0.9}, {"method": "dare"}, {"method": "dare", "seed": 1}, {"method": "dare", "density": 0.9},
        {"method": "slerp"}, {"strength": 0.5}, {"dtype": "bf16"},
    ]  # fmt: skip
    digests = [merge(MergeConfig(**QUICK, **k), folder, pair, tmp_path / f"m{i}").digest for i, k in enumerate(knobs)]
    assert len(set(digests)) == len(knobs)
    with pytest.raises(ConfigError, match="exactly two"):
        merge(MergeConfig(method="slerp"), folder, pair[:1], tmp_path / "m")
    with pytest.raises(ConfigError, match="nothing to merge"):
        merge(MergeConfig(), folder, [], tmp_path / "m")
