import numpy as np
import pytest
from scipy import optimize, stats

from retain.gate import rule
from retain.gate.statistics import from_clusters, from_counts, holm, mcnemar_p, restricted_variance, sign_flip_p, stack


@pytest.mark.parametrize(("b", "c", "n", "m"), [(7, 3, 150, 0.01), (0, 0, 300, 0.02), (40, 60, 1000, 0.05), (3, 0, 90, 0.10)])  # fmt: skip
def test_tangos_closed_form_maximises_the_likelihood(b, c, n, m):
    """Under drop = m: b at rate q + m, c at rate q; q must be where the trinomial likelihood is largest."""

    def loss(q):
        return -(b * np.log(q + m) + c * np.log(q) + (n - b - c) * np.log(1 - 2 * q - m))

    best = optimize.minimize_scalar(loss, bounds=(1e-12, (1 - m) / 2 - 1e-9), method="bounded", options={"xatol": 1e-12}).x  # fmt: skip
    assert float(restricted_variance(from_counts(b, c, n), m)) == pytest.approx((2 * best + m * (1 - m)) / n, rel=1e-3)


def test_one_benchmark_alone_is_exactly_tangos_test():
    b, c, n, m, z = 12, 9, 400, 0.03, 1.645
    s = from_counts([b], [c], [n])
    big_b, big_a = -(b + c) + (2 * n - (b - c)) * m, 2 * n
    q = (np.sqrt(big_b**2 + 4 * big_a * c * m * (1 - m)) - big_b) / (2 * big_a)
    statistic = ((b - c) - n * m) / np.sqrt(n * (2 * q + m * (1 - m)))
    assert bool(rule.macro(s, np.array([1.0]), m, z, 0.05).upper < m) == (statistic < -z)
    assert rule.macro(s, np.array([1.0]), m, -statistic, 0.05).upper == pytest.approx(m, abs=1e-12)


def test_mcnemar_is_the_exact_binomial_below_fifty_flips():
    assert mcnemar_p(15, 5) == pytest.approx(stats.binomtest(15, 20, alternative="greater").pvalue)
    assert mcnemar_p(60, 40) == pytest.approx(stats.norm.sf(19 / 10))
    assert mcnemar_p(0, 0) == 1.0


def test_holm_is_the_textbook_example():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_clusters_of_one_are_independent_items():
    rng = np.random.default_rng(0)
    d = rng.choice([-1.0, 0.0, 1.0], p=[0.05, 0.9, 0.05], size=800)
    alone = from_clusters(d, abs(d), abs(d), np.ones(800), binary=True)
    counted = from_counts((d > 0).sum(), (d < 0).sum(), 800)
    assert alone.deff == 1
    assert alone.variance == pytest.approx(counted.variance, rel=0.002)
    assert restricted_variance(alone, 0.01) == pytest.approx(restricted_variance(counted, 0.01))


def test_five_copies_of_an_item_count_once():
    rng = np.random.default_rng(0)
    d = rng.choice([-1.0, 0.0, 1.0], p=[0.05, 0.9, 0.05], size=800)
    copied = from_clusters(5 * d, 5 * abs(d), 5 * abs(d), np.full(800, 5.0), binary=True)
    assert copied.deff == pytest.approx(5, rel=0.02)
    assert restricted_variance(copied, 0.01) == pytest.approx(restricted_variance(from_counts((d > 0).sum(), (d < 0).sum(), 800), 0.01), rel=0.02)  # fmt: skip


def test_sign_flips_agree_with_mcnemar_and_do_not_care_about_order():
    d = np.array([1.0] * 30 + [-1.0] * 15 + [0.0] * 200)
    assert sign_flip_p(d) == pytest.approx(float(mcnemar_p(30, 15)), abs=0.004)
    assert sign_flip_p(d) == sign_flip_p(np.random.default_rng(1).permutation(d))


def test_a_cluster_too_few_of_benchmarks_widens_the_bound():
    narrow = from_counts([10, 10], [10, 10], [1000, 1000])
    d = np.zeros(24)
    d[:4] = [1, -1, 1, -1]
    wide = stack([from_clusters(d, abs(d), abs(d), np.ones(24), binary=True), narrow[0]])
    w = np.array([0.5, 0.5])
    assert rule.macro(wide, w, 0.01, 1.645, 0.05).upper > rule.macro(narrow, w, 0.01, 1.645, 0.05).upper
