"""Selectors and the measures of a choice, on logs where the right answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import offline_eval
from offline_eval import ClippedIPS
from offline_eval.selection import (
    cross_validated,
    importance_fitted,
    rank_correlation,
    regret_at,
    sharpe_ratio_at,
    slope,
    violation_at,
)
from recrl.core.contracts import LoggedFeedback
from recrl.core.errors import ConfigError, DataError

SELECTORS = [slope, cross_validated, importance_fitted]


def log(spread: float = 0.7, users: int = 400, bias: float = 0.0, level: float = 1.0) -> LoggedFeedback:
    """Rewards that follow the weight: worth more under the target; predictions off by ``bias``."""
    rng = np.random.default_rng(3)
    w = rng.normal(-(spread**2) / 2, spread, users * 5)
    reward = level + 0.5 * np.exp(w) + rng.normal(0, 0.3, w.size)
    guess = level + 0.5 * np.exp(w) + bias
    truth = level + 0.5 * np.exp(spread**2)
    return LoggedFeedback(reward, w, np.zeros(w.size), np.arange(w.size) // 5, np.full(w.size, truth + bias), guess)


def test_slope_by_hand() -> None:
    """Half-widths and values of three candidates; SLOPE++ and SLOPE from their formulas."""
    feedback = log(1.2)
    candidates = [ClippedIPS(cap) for cap in (0.3, 1000.0, 4.0)]
    found = slope(feedback, candidates)
    each = [offline_eval.interval(c.contributions(feedback), method="delta") for c in candidates]
    half = np.array([(i.upper - i.lower) / 2 for i in each])
    np.testing.assert_allclose(found.scores, half, rtol=1e-9)
    order = np.argsort(-half)
    assert order.tolist() == [1, 2, 0]
    stands = [0]
    for place in (1, 2):
        i = order[place]
        if all(abs(each[i].value - each[j].value) <= half[i] + (6**0.5 - 1) * half[j] for j in order[:place]):
            stands.append(place)
        else:
            break
    assert found.index == order[stands[-1]]
    assert found.value == pytest.approx(each[found.index].value)
    low = max(each[i].value - 2 * half[i] for i in order[:2])
    both = low <= min(each[i].value + 2 * half[i] for i in order[:2])
    assert (slope(feedback, candidates, monotone=True).index != 1) == both


def test_slope_keeps_a_cap_that_costs_nothing_and_refuses_one_that_does() -> None:
    """Caps above every weight change nothing, a cap of .05 halves the value: beyond any noise."""
    caps = [ClippedIPS(cap) for cap in (1e6, 1e5, 0.05)]
    for monotone in (False, True):
        assert slope(log(), caps, monotone=monotone).estimator.cap >= 1e5  # type: ignore[attr-defined]
    assert slope(log(), caps[:1]).index == 0


@pytest.mark.parametrize("select", [cross_validated, importance_fitted])
@pytest.mark.parametrize(("bias", "wanted"), [(0.0, "dm"), (3.0, "snips")])
def test_a_model_is_taken_when_it_is_right_only(select: Any, bias: float, wanted: str) -> None:
    """Right predictions beat weights of deviation 1.3; predictions off by 3 beat nothing: the same choice for three seeds."""
    for seed in range(3):
        found = select(log(bias=bias), ["dm", "snips"], seed=seed)
        assert found.estimator.name == wanted, found.scores
        assert found.scores[found.index] == found.scores.min()


@pytest.mark.parametrize("select", SELECTORS)
def test_a_choice_holds_the_estimates_of_the_whole_log_and_is_a_function_of_its_seed(select: Any) -> None:
    names = ["ips", "snips", "dr"]
    found, again = (select(log(), names) for _ in range(2))
    np.testing.assert_array_equal(found.scores, again.scores)
    whole = [offline_eval.value(offline_eval.REGISTRY[n].contributions(log())) for n in names]
    np.testing.assert_allclose(found.values, whole, rtol=1e-12)
    assert found.value == found.values[found.index]


def test_mock_logs_have_the_mock_targets_mean() -> None:
    """Weights of the mock logger's rows against the mock target are exact: with all rewards 1 ips errs by noise alone."""
    rng = np.random.default_rng(0)
    w = rng.normal(-0.5, 1.0, 40_000)
    feedback = LoggedFeedback(np.ones(w.size), w, np.zeros(w.size), np.arange(w.size))
    found = importance_fitted(feedback, ["ips"], splits=4)
    assert found.scores[0] < 0.02**2


def test_measures_of_a_choice_by_hand() -> None:
    truth, estimate = [1.0, 3.0, 2.0, 0.0], [5.0, 1.0, 4.0, 2.0]
    assert regret_at(truth, estimate, 1) == 2.0
    assert regret_at(truth, estimate, 2) == 1.0
    assert regret_at(truth, estimate, 4) == 0.0
    assert sharpe_ratio_at(truth, estimate, 2, logged=1.0) == pytest.approx(1.0 / np.std([1.0, 2.0], ddof=1))
    assert violation_at(truth, estimate, 3, least=1.5) == pytest.approx(2 / 3)
    assert rank_correlation(truth, np.array(truth) * 10) == 1.0
    assert rank_correlation(truth, np.zeros(4)) == 0.0


BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: slope(log(), []), ConfigError, "no candidates"),
    (lambda: slope(log(), ["nonsense"]), ConfigError, "unknown estimator"),
    (lambda: cross_validated(log(users=3), ["ips"]), DataError, "3 users"),
    (lambda: importance_fitted(log(users=3), ["ips"]), DataError, "3 users"),
    (lambda: importance_fitted(log(), ["ips"], share=1.0), ConfigError, "share is 1"),
    (
        lambda: importance_fitted(LoggedFeedback(np.ones(20), np.full(20, -np.inf), np.zeros(20), np.arange(20)), ["ips"]),
        DataError,
        "too few rows",
    ),
    (lambda: regret_at([1.0, 2.0], [1.0], 1), DataError, "do not fit"),
    (lambda: regret_at([1.0, 2.0], [1.0, 2.0], 3), ConfigError, "k is 3"),
    (lambda: sharpe_ratio_at([1.0, 2.0], [1.0, 2.0], 1, 0.0), ConfigError, "at least 2"),
]


@pytest.mark.parametrize(("work", "kind", "what"), BAD, ids=[what for *_, what in BAD])
def test_what_cannot_be_chosen_from_is_refused(work: Any, kind: type[Exception], what: str) -> None:
    with pytest.raises(kind, match=what):
        work()
