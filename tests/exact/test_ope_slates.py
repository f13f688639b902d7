"""Slates by position, and items by category: formulas by loops, expectations over every possible slate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import offline_eval
from offline_eval import slates
from recrl.core.contracts import LoggedFeedback
from recrl.core.errors import DataError
from recrl.core.ragged import Offsets

POSITIONS, ITEMS = 3, 3
LOGGER = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]])  # by position
TARGET = np.array([[0.1, 0.1, 0.8], [0.0, 0.5, 0.5], [0.3, 0.3, 0.4]])
WORTH = np.array([[1.0, 0.2, -0.4], [0.5, 0.1, 2.0], [0.3, 0.9, 0.7]])  # of an item at a position


def alone(slate: tuple[int, ...]) -> np.ndarray:
    """Each item is worth what it is worth at its position."""
    return WORTH[np.arange(POSITIONS), slate]


def after_those_above(slate: tuple[int, ...]) -> np.ndarray:
    """An item loses worth for each equal one above it."""
    return np.array([WORTH[k, a] / (1 + slate[:k].count(a)) for k, a in enumerate(slate)])


def with_those_below(slate: tuple[int, ...]) -> np.ndarray:
    """An item gains from any equal one in the slate."""
    return np.array([WORTH[k, a] * slate.count(a) for k, a in enumerate(slate)])


Rewards = Callable[[tuple[int, ...]], np.ndarray]


def expectation(name: str, rewards: Rewards, *, total_last: bool = False) -> float:
    """Over every slate that the logger may show; with ``total_last`` the slate's total stands at its last position."""
    expected = 0.0
    for slate in itertools.product(range(ITEMS), repeat=POSITIONS):
        cell = np.arange(POSITIONS), np.array(slate)
        reward = rewards(slate)
        if total_last:
            reward = np.array([0.0, 0.0, reward.sum()])
        with np.errstate(divide="ignore"):
            log = LoggedFeedback(
                reward, np.log(TARGET[cell]), np.log(LOGGER[cell]), np.zeros(3, dtype=int), trajectory=Offsets.from_lengths([3])
            )
        expected += float(np.prod(LOGGER[cell])) * offline_eval.value(offline_eval.REGISTRY[name].contributions(log))
    return expected


def truth(rewards: Rewards) -> float:
    every = itertools.product(range(ITEMS), repeat=POSITIONS)
    return sum(float(np.prod(TARGET[np.arange(POSITIONS), slate]) * rewards(slate).sum()) for slate in map(tuple, every))


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("iips", {"alone"}),
        ("pseudo_inverse", {"alone"}),
        ("pdis", {"alone", "after_those_above"}),
        ("tis", {"alone", "after_those_above", "with_those_below"}),
    ],
)
def test_each_is_unbiased_under_its_own_assumption_and_not_beyond(name: str, holds: set[str]) -> None:
    for rewards in (alone, after_those_above, with_those_below):
        off = abs(expectation(name, rewards) - truth(rewards))
        assert off < 1e-12 if rewards.__name__ in holds else off > 1e-3, rewards.__name__


def test_a_total_is_enough_for_the_pseudo_inverse() -> None:
    assert expectation("pseudo_inverse", alone, total_last=True) == pytest.approx(truth(alone), abs=1e-12)
    assert abs(expectation("iips", alone, total_last=True) - truth(alone)) > 0.1


def ragged() -> LoggedFeedback:
    rng = np.random.default_rng(1)
    lengths = [2, 1, 0, 4, 3]
    n = sum(lengths)
    return LoggedFeedback(
        *(rng.normal(size=n), rng.normal(-1, 0.5, n), rng.normal(-1, 0.5, n), np.repeat([4, 4, 5, 6, 9], lengths)),
        trajectory=Offsets.from_lengths(lengths),
        discount=rng.random(n),
    )


@pytest.mark.parametrize("name", sorted(slates.REGISTRY))
def test_values_equal_a_loop_over_slates_of_any_length(name: str) -> None:
    log, each = ragged(), []
    for k in range(log.trajectory.count):
        rows = range(log.trajectory[k].start, log.trajectory[k].stop)
        present, total, weighted, weights = 1.0, 0.0, 0.0, []
        for i in rows:
            weights.append(math.exp(log.target_log_prob[i] - log.behaviour_log_prob[i]))
            total += present * log.reward[i]
            weighted += weights[-1] * present * log.reward[i]
            present *= log.discount[i]
        if weights:
            each.append(weighted if name == "iips" else (1 - len(weights) + sum(weights)) * total)
    found = offline_eval.REGISTRY[name].contributions(log)
    assert offline_eval.value(found) == pytest.approx(sum(each) / len(each), rel=1e-12)
    same = replace(log, target_log_prob=log.behaviour_log_prob)
    mean = offline_eval.value(offline_eval.MeanReturn().contributions(log))
    assert offline_eval.value(offline_eval.REGISTRY[name].contributions(same)) == pytest.approx(mean, rel=1e-12)
    with pytest.raises(DataError, match="names no trajectories"):
        offline_eval.REGISTRY[name].contributions(replace(log, trajectory=None))


# four items in two categories, two contexts
CATEGORY = np.array([0, 1, 1, 0])
BY = np.array([[0.4, 0.1, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25]])
FOR = np.array([[0.1, 0.6, 0.1, 0.2], [0.7, 0.0, 0.1, 0.2]])


def marginal_expectation(worth: np.ndarray) -> float:
    """MIPS over every context and item, both contexts alike likely."""
    expected = 0.0
    for x, a in itertools.product(range(2), range(4)):
        logs = [offline_eval.category_log_prob(lambda rows, law=law[[x]]: law, CATEGORY, CATEGORY[[a]]) for law in (FOR, BY)]
        log = LoggedFeedback(worth[x, [a]], *logs, np.zeros(1, dtype=int))
        expected += 0.5 * BY[x, a] * offline_eval.value(offline_eval.IPS().contributions(log))
    return expected


def test_marginalised_ips_is_unbiased_where_the_category_is_what_counts() -> None:
    worth = np.array([[1.0, 0.2], [0.4, 3.0]])[:, CATEGORY]
    assert marginal_expectation(worth) == pytest.approx(float((0.5 * FOR * worth).sum()), abs=1e-12)
    own = worth + np.array([0.5, 0.0, 0.0, -0.5])
    share = np.stack([BY[:, c == CATEGORY].sum(axis=1) for c in (0, 1)], axis=1)[:, CATEGORY]
    gone = np.stack([FOR[:, c == CATEGORY].sum(axis=1) for c in (0, 1)], axis=1)[:, CATEGORY]
    # what the logger shows of a category stands for what the target would show of it
    assert marginal_expectation(own) == pytest.approx(float((0.5 * BY / share * gone * own).sum()), abs=1e-12)
    assert abs(marginal_expectation(own) - float((0.5 * FOR * own).sum())) > 0.01


@pytest.mark.parametrize("rows_at_once", [1, 3, 256])
def test_categories_are_summed_whatever_the_portion(rows_at_once: int) -> None:
    rng = np.random.default_rng(2)
    law, category, logged = rng.dirichlet(np.ones(9), 20), rng.integers(0, 4, 9), rng.integers(0, 5, 20)
    found = offline_eval.category_log_prob(lambda rows: law[rows], category, logged, rows_at_once=rows_at_once)
    wanted = [sum(law[i, a] for a in range(9) if category[a] == logged[i]) for i in range(20)]
    np.testing.assert_allclose(np.exp(found), wanted, atol=1e-14)
    assert np.isneginf(found[logged == 4]).all()


@pytest.mark.parametrize(
    ("law", "category", "logged", "what"),
    [
        (np.full((1, 2), 0.5), [0, 1, 1], [0], r"shape \(1, 2\) for 1 rows and 3 items"),
        (np.full((1, 2), 0.4), [0, 1], [0], "sum of probabilities is 0.8"),
        (np.full((1, 2), 0.5), [0.0, 1.0], [0], "category is float64"),
        (np.full((1, 2), 0.5), [0, 1], [-1], "logged_category is int64"),
    ],
)
def test_categories_that_do_not_fit_are_refused(law: np.ndarray, category: list[float], logged: list[int], what: str) -> None:
    with pytest.raises(DataError, match=what):
        offline_eval.category_log_prob(lambda rows: law[rows], category, logged)
