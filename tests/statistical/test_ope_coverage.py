"""Intervals on known truth. Each test states how often it would fail by chance."""

from __future__ import annotations

import runpy

import numpy as np
import pytest
from scipy import stats

import offline_eval
from offline_eval.contributions import cluster_sums
from recrl.core.contracts import LoggedFeedback
from tests.conftest import REPOSITORY

# every second user logs rows with correlated rewards and correlated weights; the truth is known by construction
USERS, ROWS, RATE, CORRELATION = 1000, 10, 0.5, 0.3


def draw(rng: np.random.Generator, users: int = USERS, rate: float = RATE) -> LoggedFeedback:
    """Rewards with this rate whatever the weight (so that it is the truth), weights with mean 1 and deviation 1."""
    user = np.repeat(np.arange(users), ROWS)
    own, shared = np.sqrt(1 - CORRELATION), np.sqrt(CORRELATION)
    taste = shared * rng.standard_normal(users)[user] + own * rng.standard_normal(user.size)
    spread = np.sqrt(np.log(2.0))
    log_weight = spread * (shared * rng.standard_normal(users)[user] + own * rng.standard_normal(user.size)) - spread**2 / 2
    return LoggedFeedback((taste < stats.norm.ppf(rate)).astype(float), log_weight, np.zeros(user.size), user)


def test_user_intervals_cover_and_row_intervals_do_not() -> None:
    """One cell of benchmarks/ope_coverage.py with 200 replications. For each of four estimators the share of 95 % intervals that hold the
    truth must lie in the binomial band of true coverages of 94 to 96 %, 2.5e-5 each: false alarm 1e-4 together. The same interval with rows
    (for wis, sessions) as units holds it in 78 % (87 %); more than 93 % has a chance below 1e-4.
    """
    benchmark = runpy.run_path(str(REPOSITORY / "benchmarks" / "ope_coverage.py"))
    replications = 200
    found = benchmark["coverage"](2000, 0.1, replications, seed=1)
    low, high = stats.binom.ppf(1.25e-5, replications, 0.94), stats.binom.isf(1.25e-5, replications, 0.96)
    assert set(found) == {"snips", "sndr", "wis", "ncis"}
    for name, shares in found.items():
        assert low <= shares["skew_t"] * replications <= high, (name, shares)
        assert shares["rows"] < 0.93, (name, shares)


def test_the_skewness_correction_mends_few_users_with_rare_rewards() -> None:
    """600 replications of 100 users at a rate of .02. True coverage is about 95.5 % with and 90 % without the correction; the lines are
    more than 4 binomial deviations (.85 and 1.2 points) away: false alarm below 1e-4.
    """
    rng, held = np.random.default_rng(7), {"skew_t": 0, "delta": 0}
    for _ in range(600):
        sums = cluster_sums(offline_eval.SNIPS().contributions(draw(rng, 100, 0.02)))
        for method in held:
            found = offline_eval.interval(sums, method=method)  # type: ignore[arg-type]
            held[method] += found.lower <= 0.02 <= found.upper
    assert held["skew_t"] >= 0.92 * 600, held
    assert held["delta"] <= 0.95 * 600, held


@pytest.mark.parametrize("method", ["bootstrap", "poisson_bootstrap"])
def test_bootstrap_agrees_with_the_delta_method(method: offline_eval.intervals.Method) -> None:
    """4,000 resamples: the bootstrap's standard error has relative error 1 / sqrt(8000) = 1.1 %; 5 % is beyond 4 of these,
    false alarm below 1e-4. The interval's ends are compared at 10 % of its width.
    """
    contributions = offline_eval.SNIPS().contributions(draw(np.random.default_rng(5)))
    delta = offline_eval.interval(contributions)
    found = offline_eval.interval(contributions, method=method, replicates=4000, seed=1)
    assert found.value == delta.value
    assert found.standard_error == pytest.approx(delta.standard_error, rel=0.05)
    assert found.lower == pytest.approx(delta.lower, abs=0.1 * (delta.upper - delta.lower))
    assert found.upper == pytest.approx(delta.upper, abs=0.1 * (delta.upper - delta.lower))


def test_self_normalised_interval_does_not_depend_on_the_level_of_rewards() -> None:
    """The defect of resampling only the numerator: an interval that widens when a constant is added to every reward. Exact."""
    log = draw(np.random.default_rng(6))
    lifted = LoggedFeedback(log.reward + 10.0, log.target_log_prob, log.behaviour_log_prob, log.cluster)
    errors = [
        offline_eval.interval(offline_eval.SNIPS().contributions(x), method="bootstrap", seed=2).standard_error for x in (log, lifted)
    ]
    assert errors[1] == pytest.approx(errors[0], rel=1e-9)
