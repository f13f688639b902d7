"""A/B statistics against examples worked by hand and against independent implementations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.duration.survfunc import SurvfuncRight, survdiff
from statsmodels.regression.linear_model import OLS

from recrl.core.errors import ConfigError, DataError, RecrlError
from simulators.ab import statistics as ab


def test_welch_by_hand() -> None:
    """Variances 5/3 and 4 over 4 and 3 users: error^2 = 5/12 + 4/3 = 7/4, degrees = (7/4)^2 / ((5/12)^2 / 3 + (4/3)^2 / 2) = 3.2347."""
    found = ab.welch([1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 6.0])
    degrees = (7 / 4) ** 2 / ((5 / 12) ** 2 / 3 + (4 / 3) ** 2 / 2)
    assert degrees == pytest.approx(3.2347, abs=1e-4)
    assert (found.mean, found.baseline_mean, found.effect, found.relative) == (2.5, 4.0, -1.5, -0.375)
    assert found.standard_error == pytest.approx(math.sqrt(7 / 4), rel=1e-12)
    assert found.p_value == pytest.approx(2 * stats.t.sf(1.5 / math.sqrt(7 / 4), degrees), rel=1e-9)
    assert found.upper == pytest.approx(-1.5 + stats.t.ppf(0.975, degrees) * math.sqrt(7 / 4), rel=1e-9)
    assert found.lower == pytest.approx(-1.5 - stats.t.ppf(0.975, degrees) * math.sqrt(7 / 4), rel=1e-9)


def test_paired_by_hand() -> None:
    """Differences 1, 3, 2: mean 2, deviation 1, error 1 / sqrt(3), t = 3.4641 with 2 degrees."""
    found = ab.paired([2.0, 5.0, 9.0], [1.0, 2.0, 7.0], level=0.9)
    assert found.effect == pytest.approx(2.0)
    assert found.standard_error == pytest.approx(1 / math.sqrt(3))
    assert found.p_value == pytest.approx(0.07418, abs=1e-5)
    assert (found.lower, found.upper) == pytest.approx((2 - 2.919986 / math.sqrt(3), 2 + 2.919986 / math.sqrt(3)), abs=1e-6)


def test_same_users_doing_the_same_differ_by_exactly_nothing() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    found = ab.paired(values, values.copy())
    assert (found.effect, found.lower, found.upper, found.p_value, found.standard_error) == (0.0, 0.0, 0.0, 1.0, 0.0)


def test_a_difference_without_variance_is_certain() -> None:
    found = ab.welch([2.0, 2.0], [1.0, 1.0, 1.0])
    assert (found.effect, found.lower, found.upper, found.p_value) == (1.0, 1.0, 1.0, 0.0)
    assert ab.welch([0.0, 0.0], [0.0, 0.0]).relative is None


def test_linearised_ratio_by_hand() -> None:
    """R = 4 / 3; values R + (N - R D) / 1.5."""
    np.testing.assert_allclose(ab.linearised([1.0, 3.0], [1.0, 2.0]), [10 / 9, 14 / 9], rtol=1e-14)
    # constant denominators give a plain mean, bit for bit
    assert ab.linearised([0.1, 0.2, 0.7], [1.0, 1.0, 1.0]).tolist() == [0.1, 0.2, 0.7]


@given(seed=st.integers(0, 200))
@settings(max_examples=30)
def test_linearised_mean_is_the_ratio_and_its_error_the_delta_method(seed: int) -> None:
    rng = np.random.default_rng(seed)
    denominator = rng.integers(0, 8, 60).astype(float)
    numerator = rng.binomial(denominator.astype(int), 0.3).astype(float)
    values = ab.linearised(numerator, denominator)
    ratio = numerator.sum() / denominator.sum()
    assert values.mean() == pytest.approx(ratio, rel=1e-12)
    # Var(N/D) ~ (var N - 2 R cov + R^2 var D) / (n mean(D)^2)
    cov = np.cov(numerator, denominator)
    expected = (cov[0, 0] - 2 * ratio * cov[0, 1] + ratio**2 * cov[1, 1]) / (60 * denominator.mean() ** 2)
    assert values.var(ddof=1) / 60 == pytest.approx(expected, rel=1e-9)


def test_compare_is_welch_or_paired_on_linearised_values() -> None:
    rng = np.random.default_rng(1)
    arms = [(rng.poisson(3, 50).astype(float), rng.integers(1, 9, 50).astype(float)) for _ in range(2)]
    values = [ab.linearised(*arm) for arm in arms]
    assert ab.compare(*arms, 0.9) == ab.welch(*values, 0.9)
    assert ab.compare(*arms, 0.9, same_users=True) == ab.paired(*values, 0.9)


def test_cuped_by_hand_and_against_regression() -> None:
    found = ab.cuped([2.0, 4.0], [1.0, 2.0], [1.0, 3.0], [2.0, 4.0])
    # within arms y = (-1, 1, -.5, .5) and x = (-1, 1, -1, 1): theta = 3 / 4, correlation^2 = 3^2 / (2.5 * 4)
    assert (found.theta, found.variance_reduction) == (0.75, 0.9)
    np.testing.assert_allclose(found.treatment, [2 + 0.75 * 1.5, 4 - 0.75 * 0.5])
    rng = np.random.default_rng(3)
    x, arm = rng.normal(size=400), np.arange(400) % 2
    y = 2 * x + 0.5 * arm + rng.normal(size=400)
    found = ab.cuped(y[arm == 1], y[arm == 0], x[arm == 1], x[arm == 0])
    regression = OLS(y, np.column_stack([np.ones(400), arm, x])).fit()
    assert found.theta == pytest.approx(regression.params[2], rel=1e-9)
    assert found.treatment.mean() - found.baseline.mean() == pytest.approx(regression.params[1], rel=1e-9)
    # the promised variance is the variance found
    raw, adjusted = (
        np.concatenate([a - a.mean(), b - b.mean()]) for a, b in ((y[arm == 1], y[arm == 0]), (found.treatment, found.baseline))
    )
    assert float(adjusted @ adjusted) / float(raw @ raw) == pytest.approx(1 - found.variance_reduction, rel=1e-9)


def test_cuped_with_a_constant_covariate_changes_nothing() -> None:
    found = ab.cuped([2.0, 4.0], [1.0, 2.0], [1.0, 1.0], [1.0, 1.0])
    assert (found.theta, found.variance_reduction, found.treatment.tolist()) == (0.0, 0.0, [2.0, 4.0])


def test_sample_ratio_by_hand() -> None:
    """(520 - 500)^2 / 500 twice = 1.6 with one degree."""
    assert ab.sample_ratio_p([520, 480]) == pytest.approx(stats.chi2.sf(1.6, 1), rel=1e-12)
    assert ab.sample_ratio_p([900, 100], [0.9, 0.1]) == 1.0
    assert ab.sample_ratio_p([5500, 4500]) < 1e-20


def test_return_curve_by_hand() -> None:
    """Returns on days 1, 2, 3, one user lost after 2, one after 4: 4/5, then 3/4 of it, then 1/2 of it stay away."""
    found = ab.return_curve([1, 2, 2, 3, 4], [True, True, False, True, False], horizon=5)
    np.testing.assert_allclose(found.returned_share, [0.2, 0.4, 0.7, 0.7, 0.7])
    assert found.day.tolist() == [1, 2, 3, 4, 5]
    # Greenwood at day 2: sum d / (n (n - d)) = 1/20 + 1/12; bounds S^exp(+-z sqrt(sum) / log S)
    reach = stats.norm.ppf(0.975) * math.sqrt(1 / 20 + 1 / 12) / math.log(0.6)
    assert found.lower[1] == pytest.approx(1 - 0.6 ** math.exp(reach), rel=1e-9)
    assert found.upper[1] == pytest.approx(1 - 0.6 ** math.exp(-reach), rel=1e-9)
    assert np.all((found.lower <= found.returned_share) & (found.returned_share <= found.upper))


def test_return_curve_equals_statsmodels_and_is_defined_at_its_ends() -> None:
    rng = np.random.default_rng(0)
    days, returned = rng.integers(1, 8, 300), rng.random(300) < 0.7
    other = SurvfuncRight(days, returned.astype(int))
    np.testing.assert_allclose(1 - ab.return_curve(days, returned, 7).returned_share, other.surv_prob, rtol=1e-12)
    everybody = ab.return_curve([2, 2], [True, True], 3)
    assert everybody.returned_share.tolist() == everybody.upper.tolist() == [0.0, 1.0, 1.0]
    nobody = ab.return_curve([3, 3], [False, False], 3)
    assert nobody.returned_share.tolist() == nobody.lower.tolist() == nobody.upper.tolist() == [0.0, 0.0, 0.0]


def test_log_rank_equals_statsmodels() -> None:
    rng = np.random.default_rng(5)
    days, returned, arm = rng.integers(1, 10, 200), rng.random(200) < 0.8, np.arange(200) % 2
    _, expected = survdiff(days, returned.astype(int), arm)
    found = ab.log_rank_p(days[arm == 0], returned[arm == 0], days[arm == 1], returned[arm == 1])
    assert found == pytest.approx(expected, rel=1e-9)
    assert ab.log_rank_p([3, 3], [False, False], [3, 3], [False, False]) == 1.0
    assert ab.log_rank_p(np.ones(100), np.ones(100), np.full(100, 5), np.ones(100)) < 1e-6


def test_corrections_by_hand() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    np.testing.assert_allclose(ab.adjusted(p, "holm"), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(ab.adjusted(p, "benjamini_hochberg"), [0.02, 0.04, 0.04, 0.02])
    assert ab.adjusted([]).size == 0


def test_power_of_textbook_designs() -> None:
    """Cohen 1988: a medium effect of half a deviation takes 64 users an arm, or 34 pairs, for a power of 80 %."""
    assert ab.users_needed(0.5, 1.0) == 64
    assert ab.users_needed(-0.5, 1.0, same_users=True) == 34
    assert ab.power(1.0, 2.0, 64) == pytest.approx(0.8015, abs=1e-4)
    assert ab.power(0.5, 1.0, 34, same_users=True) == pytest.approx(0.8078, abs=1e-4)
    for same_users in (False, True):
        effect = ab.minimum_detectable_effect(3.0, 1000, 0.9, 0.7, same_users=same_users)
        assert ab.power(effect, 3.0, 1000, 0.9, same_users=same_users) == pytest.approx(0.7, rel=1e-6)


def test_intervals_of_shares_and_means() -> None:
    lower, upper = ab.share_interval([0, 50, 100], 100)
    # Wilson at 0 of n: z^2 / (n + z^2)
    assert (lower[0], upper[0]) == pytest.approx((0.0, 3.841459 / 103.841459), abs=1e-7)
    assert (lower[2], upper[2]) == pytest.approx((100 / 103.841459, 1.0), abs=1e-7)
    assert lower[1] + upper[1] == pytest.approx(1.0)
    mean, low, high = ab.mean_interval(np.array([[1.0, 0.0], [3.0, 0.0], [2.0, 0.0]]))
    assert mean.tolist() == [2.0, 0.0]
    assert high[0] - mean[0] == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert (low[1], high[1]) == (0.0, 0.0)


BAD: list[tuple[Callable[[], Any], type[RecrlError], str]] = [
    (lambda: ab.welch([1.0], [1.0, 2.0]), DataError, "treatment holds 1 users"),
    (lambda: ab.welch([1.0, np.nan], [1.0, 2.0]), DataError, "treatment is nan for user 1"),
    (lambda: ab.welch([[1.0, 2.0]], [1.0, 2.0]), DataError, r"treatment has shape \(1, 2\)"),
    (lambda: ab.welch([1.0, 2.0], [1.0, 2.0], level=1.5), ConfigError, "level is 1.5"),
    (lambda: ab.paired([1.0, 2.0], [1.0, 2.0, 3.0]), DataError, "2 treated users against 3"),
    (lambda: ab.linearised([1.0, 2.0], [1.0, 2.0, 3.0]), DataError, "2 numerators for 3 denominators"),
    (lambda: ab.linearised([1.0, 2.0], [0.0, 0.0]), DataError, "the ratio is undefined"),
    (lambda: ab.cuped([1.0, 2.0], [1.0, 2.0], [1.0, 2.0, 3.0], [1.0, 2.0]), DataError, "3 covariates for 2 users"),
    (lambda: ab.sample_ratio_p([10]), DataError, r"arm sizes \[10\] cannot be compared"),
    (lambda: ab.sample_ratio_p([10, 10], [1.0, 0.0]), ConfigError, "do not fit 2 arms"),
    (lambda: ab.return_curve([1.0, 2.0], [True], 3), DataError, "1 outcomes for 2 users"),
    (lambda: ab.adjusted([0.1], "magic"), ConfigError, "unknown correction 'magic'"),  # type: ignore[arg-type]
    (lambda: ab.power(0.0, 1.0, 10), ConfigError, "effect is 0.0"),
    (lambda: ab.users_needed(1.0, -1.0), ConfigError, "deviation is -1.0"),
]


@pytest.mark.parametrize(("call", "kind", "what"), BAD, ids=[what for _, _, what in BAD])
def test_bad_input_is_refused(call: Callable[[], Any], kind: type[RecrlError], what: str) -> None:
    with pytest.raises(kind, match=what) as caught:
        call()
    assert caught.value.where
    assert caught.value.mend
