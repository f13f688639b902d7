"""Cross-fitted reward models against least squares by hand, and what they may not do: see the user they predict."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeRegressor

import offline_eval
from offline_eval.direct import user_folds
from recrl.core.contracts import LoggedFeedback
from recrl.core.errors import ConfigError, DataError

ACTIONS = 3
TABLE = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
TARGET = np.array([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]])
MEAN = np.array([[0.1, 0.4, 0.8], [0.7, 0.5, 0.2]])


def encode(context: np.ndarray, action: np.ndarray) -> np.ndarray:
    """One column for each pair of context and action."""
    return np.eye(2 * ACTIONS)[context * ACTIONS + action]


def bandit(users: int = 60, rows: int = 6, seed: int = 0) -> tuple[LoggedFeedback, np.ndarray, offline_eval.direct.TargetActions]:
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users) * 7 - 30, rows)
    context = rng.integers(0, 2, user.size)
    action = (rng.random(user.size)[:, None] > TABLE.cumsum(axis=1)[context]).sum(axis=1)
    reward = (rng.random(user.size) < MEAN[context, action]).astype(float)
    log = LoggedFeedback(reward, np.log(TARGET[context, action]), np.log(TABLE[context, action]), user)
    listed = np.stack([encode(context, np.full(user.size, a)) for a in range(ACTIONS)], axis=1)
    return log, encode(context, action), lambda rows: (listed[rows], TARGET[context[rows]])


def test_predictions_equal_least_squares_on_the_other_folds() -> None:
    log, features, target = bandit()
    fold = user_folds(log.cluster, 4, seed=3)
    found = offline_eval.cross_fit(log, features, target, model=LinearRegression(fit_intercept=False), folds=4, seed=3, rows_at_once=17)
    for k in range(4):
        table = np.linalg.lstsq(features[fold != k], log.reward[fold != k], rcond=None)[0]
        held = np.flatnonzero(fold == k)
        np.testing.assert_allclose(found.logged_value[held], features[held] @ table, rtol=0, atol=1e-10)
        listed, chance = target(held)
        np.testing.assert_allclose(found.target_value[held], np.einsum("bmd,d,bm->b", listed, table, chance), rtol=0, atol=1e-10)
    assert (found.reward is log.reward, found.cluster is log.cluster) == (True, True)


def test_folds_hold_whole_users_evenly_whatever_the_order_of_rows() -> None:
    cluster = np.repeat(np.arange(23) ** 3, 5)
    fold = user_folds(cluster, 5, seed=1)
    of_user = fold.reshape(23, 5)
    assert np.all(of_user == of_user[:, :1])
    assert sorted(np.bincount(of_user[:, 0]).tolist()) == [4, 4, 5, 5, 5]
    order = np.random.default_rng(0).permutation(cluster.size)
    assert np.array_equal(user_folds(cluster[order], 5, seed=1), fold[order])
    assert not np.array_equal(user_folds(cluster, 5, seed=2), fold)
    assert np.unique(user_folds(np.array([3, 3, 9]), 5)).tolist() == [0, 1]


@pytest.mark.parametrize("model", ["ridge", "lightgbm", DecisionTreeRegressor(random_state=0)])
def test_a_user_is_never_predicted_from_its_own_rewards(model: Any) -> None:
    log, features, target = bandit(users=12)
    first = offline_eval.cross_fit(log, features, target, model=model, folds=3)
    mine = log.cluster == log.cluster[0]
    changed = replace(log, reward=np.where(mine, 50.0, log.reward))
    second = offline_eval.cross_fit(changed, features, target, model=model, folds=3)
    np.testing.assert_array_equal(second.logged_value[mine], first.logged_value[mine])
    np.testing.assert_array_equal(second.target_value[mine], first.target_value[mine])
    if not isinstance(model, str):
        assert not hasattr(model, "tree_")  # the caller's model is left as it was


@pytest.mark.parametrize("model", ["ridge", "lightgbm"])
def test_models_find_the_value(model: str) -> None:
    """4,000 rows: standard error about .01 for DM and .015 for DR; .08 is beyond 5 of these."""
    log, features, target = bandit(users=400, rows=10)
    truth = float((0.5 * TARGET * MEAN).sum())
    fitted = offline_eval.cross_fit(log, features, target, model=model)
    for estimator in (offline_eval.DM(), offline_eval.DR(), offline_eval.SNDR(), offline_eval.SwitchDR()):
        assert offline_eval.value(estimator.contributions(fitted)) == pytest.approx(truth, abs=0.08)
    errors = [offline_eval.standard_error(e.contributions(fitted)) for e in (offline_eval.DR(), offline_eval.IPS())]
    assert errors[0] < 0.85 * errors[1]


def test_predicting_the_rows_it_was_fitted_on_biases_dr() -> None:
    """The mistake that folds prevent: a tree that remembers every row leaves no residual, so DR repeats the tree's own error.

    Rewards are pure noise around .5 with deviation .5, and the target does what was logged least often.
    Cross-fitted DR lies within 5 standard errors of .5 (false alarm below 1e-6); the remembering one says what one row said.
    """
    rng = np.random.default_rng(0)
    n = 4000
    x, user = rng.random(n), np.arange(n)
    reward = (rng.random(n) < 0.5).astype(float)
    action = (rng.random(n) < 0.05).astype(float)  # the target always takes action 1
    with np.errstate(divide="ignore"):
        log = LoggedFeedback(reward, np.log(action), np.log(np.where(action == 1, 0.05, 0.95)), user)
    features = np.stack([x, 10 * action], axis=1)
    wanted = np.stack([x, np.full(n, 10.0)], axis=1)[:, None]

    def target(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return wanted[rows], np.ones((rows.size, 1))

    honest = offline_eval.cross_fit(log, features, target, model=DecisionTreeRegressor(random_state=0))
    found = offline_eval.estimate(honest, offline_eval.DR())
    assert abs(found.value - 0.5) < 5 * found.interval.standard_error
    tree = DecisionTreeRegressor(random_state=0).fit(features, reward)
    remembering = replace(log, logged_value=tree.predict(features), target_value=tree.predict(wanted[:, 0]))
    remembered = offline_eval.estimate(remembering, offline_eval.DR())
    # it reports an error that is several times too small
    assert remembered.interval.standard_error < 0.25 * found.interval.standard_error


def test_sampled_actions_give_the_same_value_with_a_wider_interval() -> None:
    log, features, target = bandit(users=300)
    exact = offline_eval.cross_fit(log, features, target, model="ridge")
    rng = np.random.default_rng(5)
    listed, chance = target(np.arange(log.reward.size))
    drawn = (rng.random(chance.shape[0])[:, None] > chance.cumsum(axis=1)).sum(axis=1)
    one = offline_eval.cross_fit(log, features, lambda rows: (listed[rows, drawn[rows]][:, None], np.ones((rows.size, 1))), model="ridge")
    whole, sampled = (offline_eval.estimate(x, offline_eval.DM()) for x in (exact, one))
    assert sampled.interval.standard_error > 2 * whole.interval.standard_error
    assert abs(sampled.value - whole.value) < 5 * sampled.interval.standard_error


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"features": np.ones((5, 2))}, DataError, "features have shape (5, 2), expected (360, D)"),
    ({"features": np.where(np.arange(360)[:, None] == 7, np.nan, np.ones((360, 6)))}, DataError, "features hold nan in row 7, column 0"),
    ({"target": lambda rows: (np.ones((rows.size, 2, 6)), np.ones((rows.size, 2)))}, DataError, "the sum of target probabilities is 2.0"),
    ({"target": lambda rows: (np.ones((rows.size, 2)), np.ones((rows.size, 2)))}, DataError, "target actions have features"),
    ({"target": lambda rows: (np.ones((rows.size, 2, 5)), np.full((rows.size, 2), 0.5))}, DataError, "for 72 rows with 6 features"),
    ({"model": "magic"}, ConfigError, "unknown model 'magic'"),
    ({"model": 3}, ConfigError, "int has no fit and predict"),
    ({"folds": 1}, ConfigError, "folds is 1"),
    ({"one_user": True}, DataError, "1 user: no model can be fitted on other users"),
]


@pytest.mark.parametrize(("changes", "kind", "what"), BAD, ids=[what for *_, what in BAD])
def test_what_cannot_be_fitted_is_refused(changes: dict[str, Any], kind: type[Exception], what: str) -> None:
    log, features, target = bandit()
    changes = dict(changes)
    if changes.pop("one_user", False):
        log = replace(log, cluster=np.zeros(360, dtype=int))
    with pytest.raises(kind, match=re.escape(what)):
        offline_eval.cross_fit(log, **({"features": features, "target": target, "model": "ridge"} | changes))
