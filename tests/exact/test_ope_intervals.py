"""Intervals and lower bounds: formulas by hand, exact coverage of the guaranteed ones, and what the skewness correction inverts."""

from __future__ import annotations

import math
import re
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import offline_eval
from offline_eval.contributions import as_sums, influence
from offline_eval.intervals import SMALL, BoundMethod, Method, user_values
from recrl.core.contracts import Contributions
from recrl.core.errors import ConfigError, DataError

CLOSED: tuple[Any, ...] = ("delta", "skew_t", "student_t", "hoeffding", "bernstein")


def mean_of(x: np.ndarray, cluster: np.ndarray | None = None) -> Contributions:
    return Contributions(x[None], np.ones((1, x.size)), np.arange(x.size) if cluster is None else cluster, np.ones(x.size))


def ratio(seed: int, users: int = 30) -> Contributions:
    rng = np.random.default_rng(seed)
    w = rng.lognormal(0, 0.7, 4 * users)
    return Contributions((w * rng.random(w.size) ** 3)[None], w[None], np.arange(w.size) % users, w)


def test_a_users_value_is_the_mean_of_its_contributions() -> None:
    x = np.random.default_rng(0).random(60)
    values = user_values(as_sums(mean_of(x, np.repeat(np.arange(20), 3))))
    np.testing.assert_allclose(values, x.reshape(20, 3).mean(axis=1), rtol=1e-12)
    assert user_values(as_sums(ratio(1))).mean() == pytest.approx(offline_eval.value(ratio(1)), rel=1e-12)


def test_student_t_is_the_textbook_interval() -> None:
    x = np.random.default_rng(1).normal(size=12)
    found = offline_eval.interval(mean_of(x), 0.9, "student_t")
    expected = stats.t.interval(0.9, 11, loc=x.mean(), scale=stats.sem(x))
    assert (found.lower, found.upper) == pytest.approx(expected, rel=1e-12)


def test_guaranteed_bounds_by_hand() -> None:
    x = np.array([0.0, 1.0, 0.5, 0.25])
    low = offline_eval.interval(mean_of(x), 0.9, "hoeffding", support=(0.0, 2.0))
    assert low.value - low.lower == pytest.approx(2.0 * math.sqrt(math.log(2 / 0.1) / 8), rel=1e-12)
    both = offline_eval.interval(mean_of(x), 0.9, "bernstein", support=(0.0, 2.0))
    variance = sum((v - 0.4375) ** 2 for v in x) / 3
    reach = math.sqrt(2 * variance * math.log(4 / 0.1) / 4) + 7 * 2.0 * math.log(4 / 0.1) / 9
    assert both.upper - both.value == pytest.approx(reach, rel=1e-12)
    slack = math.sqrt(math.log(1 / 0.1) / 8)
    steps = [0.25 * (1 - 1 / 4 - slack), 0.25 * max(0.0, 1 - 2 / 4 - slack), 0.5 * max(0.0, 1 - 3 / 4 - slack)]
    assert offline_eval.lower_bound(mean_of(x), 0.9, "anderson", support=(0.0, 9.0)) == pytest.approx(sum(steps), rel=1e-12)
    # without support the extremes of the log stand in
    assert offline_eval.interval(mean_of(x), 0.9, "hoeffding").upper == pytest.approx(0.4375 + math.sqrt(math.log(20) / 8), rel=1e-12)


@pytest.mark.parametrize("method", ["hoeffding", "bernstein", "anderson"])
@pytest.mark.parametrize("level", [0.6, 0.9, 0.95])
def test_guaranteed_bounds_hold_for_every_rate(method: Any, level: float) -> None:
    """Exact: 25 Bernoulli users, every number of successes weighed with its binomial probability."""
    n = 25
    samples = [(np.arange(n) < k).astype(float) for k in range(n + 1)]
    bounds = np.array([offline_eval.lower_bound(mean_of(x), level, method, support=(0.0, 1.0)) for x in samples])
    for rate in np.linspace(0.01, 0.99, 50):
        chance = stats.binom.pmf(np.arange(n + 1), n, rate)
        assert chance[bounds <= rate].sum() >= level
    if method != "anderson":
        ends = [offline_eval.interval(mean_of(x), level, method, support=(0.0, 1.0)) for x in samples]
        for rate in np.linspace(0.01, 0.99, 50):
            chance = stats.binom.pmf(np.arange(n + 1), n, rate)
            assert sum(c for c, e in zip(chance, ends, strict=True) if e.lower <= rate <= e.upper) >= level


def test_anderson_bounds_rewards_that_have_no_upper_end() -> None:
    """Exact: 6 users, values 0, 1 or 40 with chances .7, .25, .05; every outcome weighed. The t bound promises the same and breaks it."""
    law = {0.0: 0.7, 1.0: 0.25, 40.0: 0.05}
    truth, held = sum(v * p for v, p in law.items()), {"anderson": 0.0, "student_t": 0.0}
    for a in range(7):
        for b in range(7 - a):
            x = np.repeat(list(law), [a, b, 6 - a - b])
            chance = stats.multinomial.pmf([a, b, 6 - a - b], 6, list(law.values()))
            for method in held:
                bound = offline_eval.lower_bound(mean_of(x), 0.9, method, support=(0.0, math.inf))  # type: ignore[arg-type]
                held[method] += float(chance) * (bound <= truth)
    assert held["anderson"] >= 0.9
    assert held["anderson"] > held["student_t"] - 1e-12


@given(seed=st.integers(0, 30))
def test_one_sided_bounds_are_ends_of_two_sided_intervals(seed: int) -> None:
    for method in CLOSED:
        found = offline_eval.interval(ratio(seed), 0.9, method)
        assert offline_eval.lower_bound(ratio(seed), 0.95, method) == pytest.approx(found.lower, rel=1e-12)
        assert found.lower <= found.value <= found.upper


@pytest.mark.parametrize("method", ["bootstrap", "poisson_bootstrap"])
def test_bootstrapped_lower_bound_is_a_percentile(method: Any) -> None:
    found = offline_eval.interval(ratio(2), 0.5, method, seed=3)
    assert offline_eval.lower_bound(ratio(2), 0.75, method, seed=3) == pytest.approx(found.lower, rel=1e-12)


def test_skew_t_inverts_halls_cubic() -> None:
    c = mean_of(np.arange(30.0) ** 4)
    moved = influence(as_sums(c))
    moved = moved - moved.mean()
    a = float((moved**3).sum() / (moved**2).sum() ** 1.5)
    assert abs(a) > 0.05
    found = offline_eval.interval(c, 0.9, "skew_t")
    t = float(stats.t.ppf(0.95, 29))
    for end, x in ((found.lower, t), (found.upper, -t)):
        statistic = (found.value - end) / found.standard_error
        assert statistic + a * statistic**2 / 3 + a**2 * statistic**3 / 27 + a / 6 == pytest.approx(x, rel=1e-9)
    symmetric = mean_of(np.array([-2.0, -1.0, 0.0, 1.0, 2.0]))
    plain, corrected = (offline_eval.interval(symmetric, method=m) for m in ("delta", "skew_t"))  # type: ignore[arg-type]
    assert (corrected.lower, corrected.upper) == pytest.approx((plain.lower, plain.upper))


def test_auto_corrects_for_skewness_with_few_users_only() -> None:
    rng = np.random.default_rng(0)
    few, many = mean_of(rng.random(SMALL - 1) ** 6), mean_of(rng.random(SMALL) ** 6)
    assert (offline_eval.interval(few).method, offline_eval.interval(many).method) == ("skew_t", "delta")
    assert offline_eval.interval(few) == offline_eval.interval(few, method="skew_t")
    assert offline_eval.lower_bound(many) == offline_eval.lower_bound(many, method="delta")


@pytest.mark.parametrize("method", get_args(Method))
def test_degenerate_samples_are_defined(method: Any) -> None:
    same = offline_eval.interval(mean_of(np.full(10, 0.25)), method=method)
    assert (same.value, same.lower, same.upper, same.standard_error) == pytest.approx((0.25, 0.25, 0.25, 0.0))
    single = offline_eval.interval(mean_of(np.array([0.5])), method=method, support=(0.0, 1.0))
    assert single.lower <= 0.0
    assert single.upper >= 1.0


OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"method": "hoeffding", "support": (0.2, 1.0)}, DataError, "users' values span [0, 1], beyond the support [0.2, 1]"),
    ({"method": "bernstein", "support": (0.0, 0.9)}, DataError, "beyond the support [0, 0.9]"),
    ({"method": "anderson", "support": (0.1, 1.0)}, DataError, "beyond the support [0.1, inf]"),
    ({"method": "anderson", "level": 0.4}, ConfigError, "level is 0.4; Anderson's bound needs at least 0.5"),
    ({"method": "magic"}, ConfigError, "unknown interval method 'magic'"),
    ({"level": 1.0}, ConfigError, "level is 1.0"),
]


@pytest.mark.parametrize(("options", "kind", "what"), OPTIONS, ids=[what for *_, what in OPTIONS])
def test_options_are_checked(options: dict[str, Any], kind: type[Exception], what: str) -> None:
    with pytest.raises(kind, match=re.escape(what)):
        offline_eval.lower_bound(mean_of(np.array([0.0, 0.5, 1.0])), **options)
    assert "anderson" in get_args(BoundMethod)[-1:]
