import itertools

import numpy as np
import pytest

from retain.gate.looks import alpha_at, boundaries
from retain.gate.split import in_look, is_dev


def test_published_boundaries():
    """Jennison and Turnbull 2000, table 2.3: 1.678, 1.710, 1.733 for 2, 3, 4 looks at two-sided .1."""
    assert [boundaries(0.05, k)[-1] for k in (2, 3, 4)] == pytest.approx([1.678, 1.710, 1.733], abs=6e-4)
    assert boundaries(0.05, 4) == pytest.approx((3.47, 2.46, 2.01, 1.74), abs=0.011)
    assert [boundaries(alpha_at(a), 4)[-1] for a in (1, 2, 3)] == pytest.approx([1.74, 2.03, 2.29], abs=0.012)
    assert boundaries(0.05, 1)[0] == pytest.approx(1.6449, abs=1e-3)


def test_the_boundary_is_crossed_with_probability_alpha():
    steps = np.random.default_rng(0).standard_normal((200_000, 4))
    z = np.cumsum(steps, axis=1) / np.sqrt(np.arange(1, 5))
    assert (z > np.array(boundaries(0.05, 4))).any(1).mean() == pytest.approx(0.05, abs=0.002)


def test_looks_are_nested_fractions_of_whole_clusters():
    cluster = tuple(f"passage {i // 3}" for i in range(1200))
    looks = [in_look(0, "task", cluster, k, 4) for k in (1, 2, 3, 4)]
    assert [x.sum() for x in looks] == [300, 600, 900, 1200]
    assert all((later | ~earlier).all() for earlier, later in itertools.pairwise(looks))
    assert len({(c, bool(x)) for c, x in zip(cluster, looks[0], strict=True)}) == 400


def test_the_dev_share_is_drawn_by_cluster_and_seed():
    cluster = tuple(f"passage {i // 5}" for i in range(5000))
    dev = is_dev(0, "task", cluster, 0.3)
    assert dev.mean() == pytest.approx(0.3, abs=0.05)
    assert len({(c, bool(x)) for c, x in zip(cluster, dev, strict=True)}) == 1000
    assert (dev != is_dev(1, "task", cluster, 0.3)).mean() > 0.3
    assert (dev == is_dev(0, "task", cluster[::-1], 0.3)[::-1]).all()
