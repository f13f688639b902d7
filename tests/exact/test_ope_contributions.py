"""Values, standard errors and bootstraps from per-user sums against slow and obvious computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import offline_eval
from offline_eval.bootstrap import bootstrap_sums, poisson_sums, replicate_values
from offline_eval.contributions import between_logs, cluster_sums, standard_error, value
from recrl.core.contracts import Contributions, LoggedFeedback


def contributions(seed: int, users: int = 40, terms: int = 2, rows: int = 300) -> Contributions:
    rng = np.random.default_rng(seed)
    weights = rng.lognormal(size=(terms, rows))
    return Contributions(weights * rng.normal(1.0, 1.0, size=(terms, rows)), weights, np.sort(rng.integers(0, users, rows)), weights[0])


def without(c: Contributions, user: int) -> Contributions:
    keep = c.cluster != user
    return Contributions(c.numerators[:, keep], c.denominators[:, keep], c.cluster[keep], c.weights[keep])


@given(seed=st.integers(0, 50), terms=st.integers(1, 3))
def test_value_is_the_sum_of_ratios(seed: int, terms: int) -> None:
    c = contributions(seed, terms=terms, rows=20)
    expected = sum(math.fsum(n) / math.fsum(d) for n, d in zip(c.numerators, c.denominators, strict=True))
    assert offline_eval.value(c) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_standard_error_is_the_delete_one_user_jackknife(seed: int) -> None:
    c = contributions(seed, users=9, rows=60)
    users = np.unique(c.cluster)
    left_out = np.array([offline_eval.value(without(c, user)) for user in users])
    expected = math.sqrt((len(users) - 1) / len(users) * float(((left_out - offline_eval.value(c)) ** 2).sum()))
    assert offline_eval.standard_error(c) == pytest.approx(expected, rel=1e-10)


def test_equal_users_give_the_textbook_standard_error() -> None:
    """With unit denominators and one row a user it is s / sqrt(n)."""
    x = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    c = Contributions(x[None], np.ones((1, 5)), np.arange(5), np.ones(5))
    assert offline_eval.standard_error(c) == pytest.approx(x.std(ddof=1) / math.sqrt(5), rel=1e-14)
    found = offline_eval.interval(c, method="delta")
    assert found.upper - found.value == pytest.approx(2.7764451051977987 * x.std(ddof=1) / math.sqrt(5), rel=1e-9)  # t quantile, 4 degrees
    assert (found.clusters, found.level, found.method) == (5, 0.95, "delta")


def test_rows_of_one_user_do_not_count_twice() -> None:
    """The same rows twice under the same users change neither value nor error."""
    c = contributions(1)
    twice = Contributions(*(np.concatenate([a, a], axis=-1) for a in (c.numerators, c.denominators, c.cluster, c.weights)))
    assert offline_eval.value(twice) == pytest.approx(offline_eval.value(c), rel=1e-12)
    assert offline_eval.standard_error(twice) == pytest.approx(offline_eval.standard_error(c), rel=1e-10)


@pytest.mark.parametrize("ids", [np.array([5, -2, 5, 9]), np.array([10**15, -(10**15), 10**15, 3])], ids=["dense", "sparse"])
def test_user_sums_for_any_integer_ids(ids: np.ndarray) -> None:
    sums = cluster_sums(Contributions(np.array([[1.0, 2.0, 4.0, 8.0]]), np.ones((1, 4)), ids, np.ones(4)))
    assert sums.ids.tolist() == sorted(set(ids.tolist()))
    expected = {int(i): sum(v for v, j in zip([1.0, 2.0, 4.0, 8.0], ids, strict=True) if j == i) for i in ids}
    assert sums.numerators[0].tolist() == [expected[i] for i in sums.ids.tolist()]


@pytest.mark.parametrize("method", ["delta", "bootstrap", "poisson_bootstrap"])
def test_one_user_has_a_value_and_an_unbounded_interval(method: offline_eval.intervals.Method) -> None:
    c = Contributions(np.array([[1.0, 0.0]]), np.ones((1, 2)), np.array([3, 3]), np.ones(2))
    found = offline_eval.interval(c, method=method)
    assert (found.value, found.lower, found.upper, found.standard_error, found.clusters) == (0.5, -math.inf, math.inf, math.inf, 1)


@pytest.mark.parametrize("method", ["delta", "bootstrap", "poisson_bootstrap"])
def test_a_user_who_carries_all_weight_leaves_the_value_uncertain(method: offline_eval.intervals.Method) -> None:
    weights = np.array([[1.0, 0.0, 0.0]])
    found = offline_eval.interval(Contributions(weights * 2.0, weights, np.arange(3), weights[0]), method=method)
    assert found.value == 2.0
    assert math.isinf(found.standard_error)
    assert found.lower <= 2.0 <= found.upper
    assert math.isinf(found.upper)


def test_bootstrap_replicates_are_resampled_users() -> None:
    """Every replicate's denominators, with unit rows, sum to the rows of G drawn users: G rows with one row each."""
    c = Contributions(np.arange(7.0)[None], np.ones((1, 7)), np.arange(7), np.ones(7))
    numerators, denominators = bootstrap_sums(cluster_sums(c), 500, seed=3)
    assert np.all(denominators == 7.0)
    assert numerators.min() >= 0
    assert numerators.max() <= 42
    assert len(np.unique(numerators)) > 10


def test_bootstraps_are_functions_of_the_seed_and_of_nothing_else() -> None:
    sums = cluster_sums(contributions(0))
    for draw in (bootstrap_sums, poisson_sums):
        first, again, other = draw(sums, 64, 5), draw(sums, 64, 5), draw(sums, 64, 6)
        assert np.array_equal(first[0], again[0])
        assert not np.array_equal(first[0], other[0])
    # more replicates extend the first ones
    assert np.array_equal(bootstrap_sums(sums, 10, 5)[0], bootstrap_sums(sums, 64, 5)[0][:, :10])


def test_poisson_replicates_of_shards_add_up() -> None:
    """Rows dealt to three shards in any way, users cut across shards included."""
    c = contributions(4)
    shard = np.random.default_rng(0).integers(0, 3, c.cluster.size)
    parts = [
        Contributions(c.numerators[:, shard == k], c.denominators[:, shard == k], c.cluster[shard == k], c.weights[shard == k])
        for k in range(3)
    ]
    whole = poisson_sums(cluster_sums(c), 200, seed=9)
    merged = [sum(drawn) for drawn in zip(*(poisson_sums(cluster_sums(part), 200, seed=9) for part in parts), strict=True)]
    np.testing.assert_allclose(merged[0], whole[0], rtol=1e-12)
    np.testing.assert_allclose(merged[1], whole[1], rtol=1e-12)


def test_a_replicate_without_weight_is_no_number() -> None:
    assert np.isnan(replicate_values(np.array([[0.0, 1.0]]), np.array([[0.0, 2.0]]))).tolist() == [True, False]


def test_difference_of_two_estimates_is_paired() -> None:
    rng = np.random.default_rng(2)
    users = np.repeat(np.arange(50), 6)
    reward = np.repeat(rng.normal(size=50), 6) + rng.normal(scale=0.1, size=300)
    log = LoggedFeedback(reward, rng.normal(scale=0.1, size=300), np.zeros(300), users)
    target, logged = offline_eval.SNIPS().contributions(log), offline_eval.Mean().contributions(log)
    gain = offline_eval.difference(target, logged)
    assert offline_eval.value(gain) == pytest.approx(offline_eval.value(target) - offline_eval.value(logged), abs=1e-12)
    # the level of each user cancels in the difference
    assert offline_eval.standard_error(gain) < 0.3 * offline_eval.standard_error(logged)
    same = offline_eval.interval(offline_eval.difference(logged, logged))
    assert (same.value, same.standard_error) == (0.0, 0.0)


def test_difference_between_logs_holds_both_errors() -> None:
    """Its variance is the sum of the two, up to the factor (G - 1) / G of each; ids may recur in both logs."""
    rng = np.random.default_rng(8)
    one, two = (
        Contributions(rng.random((k, n)), rng.random((k, n)) + 0.5, rng.integers(0, n // 4, n), np.ones(n)) for k, n in ((2, 400), (1, 900))
    )
    both = between_logs(one, two)
    assert value(both) == pytest.approx(value(one) - value(two), abs=1e-12)
    groups = [np.unique(c.cluster).size for c in (one, two, both)]
    parts = [standard_error(c) ** 2 * g / (g - 1) for c, g in zip((one, two, both), groups, strict=True)]
    assert parts[2] == pytest.approx(parts[0] + parts[1], rel=1e-12)
