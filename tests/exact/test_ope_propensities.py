"""Estimated propensities: the temperature, cross-fitting and calibration error by hand; what cannot be estimated is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import offline_eval
from offline_eval.direct import user_folds
from offline_eval.networks import TorchClassifier
from offline_eval.propensities import MOST_ACTIONS, temperature
from recrl.core.contracts import Observation
from recrl.core.errors import ConfigError, DataError
from recrl.pipeline.estimate import calibrated
from recrl.policies.items import ItemPolicy, TableScores, item_spec


class Shares:
    """A classifier of one number: how often each label was seen at each value of the first feature, plus one."""

    def fit(self, features: np.ndarray, labels: np.ndarray) -> Shares:
        self.labels, self.seen = labels, features[:, 0]
        self.actions = int(labels.max()) + 1
        return self

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        every = [np.bincount(self.labels[self.seen == v], minlength=self.actions) + 1.0 for v in features[:, 0]]
        return np.array([count / count.sum() for count in every])


def log_of(users: int, rows: int, actions: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Contexts of two values, actions that follow them, users."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 2, users * rows)
    law = rng.dirichlet(np.full(actions, 3.0), 2)
    action = (rng.random(x.size)[:, None] > law[x].cumsum(axis=1)[:, :-1]).sum(axis=1)
    return x[:, None].astype(float), action, np.repeat(np.arange(users), rows)


@pytest.mark.parametrize("sharper", [0.5, 1.0, 2.0, 5.0])
def test_the_temperature_undoes_a_law_that_is_too_sure(sharper: float) -> None:
    law = np.array([0.6, 0.3, 0.1])
    action = np.repeat([0, 1, 2], [6, 3, 1])
    wrong = np.tile(sharper * np.log(law), (10, 1))
    assert temperature(wrong, action) == pytest.approx(sharper, rel=1e-4)


def test_the_temperature_has_the_least_loss_of_a_grid() -> None:
    rng = np.random.default_rng(3)
    law, action = np.log(rng.dirichlet(np.ones(4), 60)), rng.integers(0, 4, 60)

    def loss(t: float) -> float:
        tempered = np.exp(law / t)
        return float(-np.log(tempered[np.arange(60), action] / tempered.sum(axis=1)).mean())

    found = loss(temperature(law, action))
    assert found <= min(loss(t) for t in np.geomspace(0.06, 19.0, 400)) + 1e-9


@pytest.mark.parametrize("calibration", ["none", "temperature"])
def test_every_row_is_predicted_by_the_other_folds_alone(calibration: Any) -> None:
    x, action, user = log_of(40, 3, 3, seed=1)
    found = offline_eval.cross_fit_propensities(x, action, user, model=Shares(), calibration=calibration, folds=4)
    fold = user_folds(user, 4)
    assert np.array_equal(found.fold, fold)
    wanted = np.empty((action.size, 3))
    for k in range(4):
        own = np.log(Shares().fit(x[fold != k], action[fold != k]).predict_proba(x[fold == k]))
        law, seen = [], []
        for j in {0, 1, 2, 3} - {k}:
            neither = (fold != j) & (fold != k)
            law.append(np.log(Shares().fit(x[neither], action[neither]).predict_proba(x[fold == j])))
            seen.append(action[fold == j])
        own = own / (temperature(np.concatenate(law), np.concatenate(seen)) if calibration == "temperature" else 1.0)
        wanted[fold == k] = own - np.log(np.exp(own).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found.log_prob_all, wanted, atol=1e-10)
    np.testing.assert_allclose(found.log_prob, wanted[np.arange(action.size), action], atol=1e-10)
    np.testing.assert_allclose(np.exp(found.log_prob_all).sum(axis=1), 1.0)


@pytest.mark.parametrize("model", ["logistic", "lightgbm", Shares()])
def test_a_user_never_teaches_its_own_propensities(model: Any) -> None:
    x, action, user = log_of(30, 10, 3, seed=2)
    changed = action.copy()
    changed[user == 7] = (changed[user == 7] + 1) % 3
    before, after = (offline_eval.cross_fit_propensities(x, a, user, model=model, folds=3) for a in (action, changed))
    same = before.fold == before.fold[user == 7][0]
    assert np.array_equal(before.log_prob_all[same], after.log_prob_all[same])
    assert not np.allclose(before.log_prob_all[~same], after.log_prob_all[~same], atol=1e-12)


def test_calibration_error_by_hand() -> None:
    law = np.array([[0.5, 0.5], [0.5, 0.5], [0.9, 0.1], [0.9, 0.1]])
    action = np.array([0, 1, 0, 1])
    found = offline_eval.Propensities(np.arange(2), action, np.log(law), np.arange(4), np.zeros(4, dtype=int), np.ones(1))
    # by action and bin: .5 is right; of the rows that say .9 and .1 one of two each came true
    assert found.calibration_error() == pytest.approx(0.5 * (2 / 4) * (abs(0.9 - 0.5) + abs(0.1 - 0.5)))
    assert found.calibration_error(bins=1) == pytest.approx(0.5 * (abs(0.7 - 0.5) + abs(0.3 - 0.5)))


def test_reliability_holds_actions_of_the_law_against_the_log() -> None:
    rng = np.random.default_rng(0)
    law = np.tile([0.6, 0.25, 0.15], (6_000, 1))
    right, wrong = (rng.choice(3, 6_000, p=p) for p in ([0.6, 0.25, 0.15], [0.45, 0.25, 0.3]))
    tables = [
        offline_eval.Propensities(np.arange(3), a, np.log(law), np.arange(6_000), np.zeros(6_000, dtype=int), np.ones(1)).reliability()
        for a in (right, wrong)
    ]
    for table, expected in zip(tables, ([1, 1, 1], [2, 1, 0.75]), strict=True):
        for row, ratio in zip(table.to_pylist(), expected, strict=True):
            assert abs(row["ratio"] - ratio) < 5 * row["error"]


def test_ids_may_be_any_integers_and_networks_serve() -> None:
    x, action, user = log_of(60, 5, 2, seed=4)
    ids = np.array([-3, 90])
    found = offline_eval.cross_fit_propensities(x, ids[action], user, model=TorchClassifier(hidden=(8,), steps=60), folds=3)
    assert found.actions.tolist() == [-3, 90]
    share = [action[x[:, 0] == v].mean() for v in (0, 1)]
    np.testing.assert_allclose(np.exp(found.log_prob_all[:, 1]), np.array(share)[x[:, 0].astype(int)], atol=0.15)


class Certain(Shares):
    """Holds what it has seen most for certain."""

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        likely = super().predict_proba(features)
        return (likely == likely.max(axis=1, keepdims=True)).astype(float)


X, ACTION, USER = log_of(30, 4, 3, seed=5)
LONE = np.where(np.arange(ACTION.size) == 17, 8, ACTION)
HOLE = X.copy()
HOLE[5, 0] = np.nan


@pytest.mark.parametrize(
    ("changes", "kind", "what"),
    [
        ({"features": HOLE}, DataError, "features hold nan in row 5, column 0"),
        ({"features": X[1:]}, DataError, "expected"),
        ({"action": LONE}, DataError, r"action 8 \(1 rows\) is logged in 1 of 5 folds of users; 3 are needed"),
        ({"action": LONE, "calibration": "none"}, DataError, "2 are needed"),
        ({"action": np.zeros_like(ACTION)}, DataError, "1 different actions"),
        ({"action": ACTION * 1.0}, DataError, "not integers"),
        ({"cluster": USER[1:]}, DataError, "cluster"),
        ({"cluster": np.zeros_like(USER)}, DataError, "1 user"),
        ({"folds": 2}, ConfigError, "needs 3"),
        ({"folds": 1}, ConfigError, "at least 2"),
        ({"model": "forest"}, ConfigError, "unknown model"),
        ({"model": Certain()}, DataError, "predicted propensity of the logged action is 0.0"),
        ({"calibration": "isotonic"}, ConfigError, "unknown calibration"),
    ],
)
def test_what_cannot_be_estimated_is_refused(changes: dict[str, Any], kind: type[Exception], what: str) -> None:
    given = {"features": X, "action": ACTION, "cluster": USER, "model": "logistic", **changes}
    with pytest.raises(kind, match=what):
        offline_eval.cross_fit_propensities(**given)


def test_a_catalogue_is_no_set_of_classes() -> None:
    items = np.arange(MOST_ACTIONS + 1)
    with pytest.raises(DataError, match="recrl ope"):
        offline_eval.cross_fit_propensities(items[:, None], items, items)


@dataclass(frozen=True)
class Rows:
    """As much of a logged buffer as calibration reads: what was shown, and pools of three items out of four."""

    item: torch.Tensor
    device: torch.device = torch.device("cpu")

    def observation(self, rows: torch.Tensor) -> Observation:
        return Observation(user=rows, candidates=torch.tensor([[0, 1, 2]]).repeat(rows.numel(), 1))


@pytest.mark.parametrize("pool", [False, True])
def test_a_cloned_policy_takes_the_temperature_of_rows_it_did_not_see(pool: bool) -> None:
    """Scores twice as sure as the log's shares .6, .3, .1; a shown item that is no candidate says nothing."""
    scores = TableScores(2.0 * torch.tensor([0.6, 0.3, 0.1, 1e-9]).log())
    policy = ItemPolicy(scores, item_spec(4, pool=pool), temperature=3.0)
    shown = torch.tensor([0] * 6 + [1] * 3 + [2] + [3] * (2 if pool else 0))
    found = calibrated(policy, Rows(shown), torch.arange(shown.numel()))  # type: ignore[arg-type]
    assert found.temperature == pytest.approx(2.0, rel=1e-3)
    assert found.scores is policy.scores
    assert calibrated(policy, Rows(shown), torch.arange(0)).temperature == 3.0  # type: ignore[arg-type]


def test_options_of_the_diagnostics_are_checked() -> None:
    found = offline_eval.cross_fit_propensities(X, ACTION, USER, model="logistic", folds=3)
    with pytest.raises(ConfigError, match="draws"):
        found.reliability(draws=0)
    with pytest.raises(ConfigError, match="bins"):
        found.calibration_error(bins=0)
