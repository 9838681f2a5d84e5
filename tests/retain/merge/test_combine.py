"""Several adapters on the exact ΔW, against arithmetic on whole matrices."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retain.errors import ConfigError
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
    assert (result.adapter_effect > 0) == (method == "linear")  # peft can attach a weighted sum, and nothing else


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
