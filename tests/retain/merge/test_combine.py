"""Several adapters on the exact ΔW, against arithmetic on whole matrices."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retain.errors import ConfigError, IntegrityError
from retain.merge import combine
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
    monkeypatch.setattr("retain.merge.dense.METHODS", {"ties": combine.ties})
    with pytest.raises(IntegrityError, match="not base"):
        merge(MergeConfig(method="ties", **QUICK), folder, pair, tmp_path / "model")


@pytest.mark.parametrize("method", ["ties", "dare", "slerp"])
def test_whole_models_combine_as_task_vectors(
    method: str, base: Make, loaded: Callable[[Path], Any], tmp_path: Path
) -> None:
    """Full fine-tunes in shards of their own, against arithmetic on whole matrices; every tensor of them is changed."""
    import numpy as np
    import torch

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
    for name, tensor in loaded(tmp_path / "model").state_dict().items():
        a, b = ((w[name] - start[name]).double().numpy() for w in models)
        if method == "dare":
            one, two = (torch.from_numpy(x).float() for x in (a, b))
            change = combine.dare([one, two], [0.7, 0.3], 0.4, f"0:{name}").double().numpy()
        else:
            change = dense_ties(a, b, 0.7, 0.3, 0.4) if method == "ties" else dense_slerp(a, b, 0.3)
        wrong = np.abs(tensor.double().numpy() - start[name].double().numpy() - 0.8 * change) > 1e-5
        assert wrong.mean() <= (0.05 if method == "ties" else 0), name  # an entry at the limit may fall either way


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
