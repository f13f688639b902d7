"""Cross-fitted, calibrated propensities, where the log does not say what they were, for small sets of actions (positions, item
categories, treatments). Large catalogues need a policy of their own kind, such as a cloned softmax over item vectors (``recrl ope``).

A classifier of actions given contexts is fitted on the other folds' users. Flexible classifiers are too sure of themselves, which
importance weights forgive least; so its law ``p`` is tempered, ``p^(1/T) / sum p^(1/T)``. ``T`` minimises the log-loss of rows that were
predicted without their users, and without the users whose rows are then corrected: models fitted on all folds but two serve both of them.

**Why a temperature**: one number a fold does not overfit, the law stays normalised, the order of actions stays, and no chance ever becomes
0, as it can by isotonic regression: a logged action of propensity 0 has no weight at all.

**Assumptions / when it fails**: what steered the logging policy is among the features. The interval of an estimate does not hold the
error of the propensities: read :meth:`Propensities.reliability`.

**Source**: Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017 (temperature); Chernozhukov et al., The
Econometrics Journal 2018 (cross-fitting; by user here); Hanna, Niekum and Stone, ICML 2019 (estimated behaviour policies).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

from offline_eval import overlap
from offline_eval.direct import feature_rows, user_folds
from offline_eval.hazards import classifier
from offline_eval.validation import clusters, refuse
from recrl.core.errors import ConfigError, DataError
from recrl.core.streams import Purpose, Streams

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Calibration = Literal["temperature", "none"]

MOST_ACTIONS = 500
"""Classifiers of more actions take a tree for each of them and round."""

WIDEST = 20.0
"""Temperatures are sought between 1 / WIDEST and WIDEST."""


@dataclass(frozen=True, eq=False)
class Propensities:
    """Estimated propensities of a log's rows.

    **Shapes**: ``actions`` (A,) ascending ids; ``action`` (n,) what was logged, as a position in ``actions``; ``log_prob`` (n,) of the
    logged action, for ``LoggedFeedback.behaviour_log_prob``; ``log_prob_all`` (n, A) of all actions; ``cluster``, ``fold`` (n,);
    ``temperature`` (folds,), above 1 where the classifier was too sure.
    """

    actions: Int64
    action: Int64
    log_prob_all: Float64
    cluster: Int64
    fold: Int64
    temperature: Float64

    @property
    def log_prob(self) -> Float64:
        """Log-propensity of each logged action, (n,)."""
        return self.log_prob_all[np.arange(self.action.size), self.action]

    def reliability(self, *, draws: int = 8, bins: int = 10, seed: int = 0) -> pa.Table:
        """Logged actions against actions drawn from the law, by tenths of the propensity; see :func:`offline_eval.reliability`."""
        if draws < 1:
            raise ConfigError(f"draws is {draws}; at least 1 is needed", where="Propensities.reliability.draws", mend="8 is usual")
        uniform = Streams(seed).uniform(np.arange(self.action.size), 0, Purpose.EXPLORATION, (draws,))
        reach = np.exp(self.log_prob_all).cumsum(axis=1)
        drawn = (uniform[:, :, None] * reach[:, None, -1:] >= reach[:, None, :-1]).sum(axis=2)
        return overlap.reliability(self.log_prob, np.take_along_axis(self.log_prob_all, drawn, axis=1), self.cluster, bins=bins)

    def calibration_error(self, bins: int = 15) -> float:
        """Class-wise expected calibration error: mean over actions of ``sum_b |stated - observed share in bin b| n_b / n``.

        Bins are of equal width. With few rows chance alone makes it positive.

        **Source**: Nixon et al., "Measuring calibration in deep learning", CVPR workshops 2019.
        """
        if bins < 1:
            raise ConfigError(f"bins is {bins}; at least 1 is needed", where="Propensities.calibration_error.bins", mend="15 is usual")
        chance, (rows, actions) = np.exp(self.log_prob_all), self.log_prob_all.shape
        cell = np.minimum((chance * bins).astype(np.int64), bins - 1) + bins * np.arange(actions)
        excess = chance
        excess[np.arange(rows), self.action] -= 1.0
        apart = np.bincount(cell.ravel(), weights=excess.ravel(), minlength=bins * actions)
        return float(np.abs(apart).sum() / (rows * actions))


def cross_fit_propensities(
    features: ArrayLike,
    action: ArrayLike,
    cluster: ArrayLike,
    *,
    model: Any = "lightgbm",
    calibration: Calibration = "temperature",
    folds: int = 5,
    seed: int = 0,
) -> Propensities:
    """Propensities of every action in every row, by a classifier that never saw the row's user.

    Args:
        features: (n, D) of each row's context, without the action and without what came after it.
        action: (n,) integers, at most :data:`MOST_ACTIONS` different ones.
        cluster: (n,) integer user of each row.
        model: ``lightgbm`` (multiclass), ``logistic`` (standardised), :class:`offline_eval.networks.TorchClassifier`, or any scikit-learn
            classifier with ``predict_proba``.
        calibration: ``temperature``, from at least 3 folds: ``folds (folds + 1) / 2`` fits; ``none``: ``folds`` fits.
        folds: folds of users; at most the number of users.
        seed: of the folds, and of LightGBM.

    **Errors**: :class:`DataError` for features that do not fit or are not finite; one action only, or too many; an action logged in so few
    folds that a classifier would not know it; a classifier that holds a logged action for impossible. :class:`ConfigError` for too few
    folds, an unknown model or calibration.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(2_000, 1))
    >>> action = (rng.random(2_000) < 1 / (1 + np.exp(-x[:, 0]))).astype(int)
    >>> found = cross_fit_propensities(x, action, np.arange(2_000) // 5, model="logistic")
    >>> bool(np.abs(np.exp(found.log_prob_all[:, 1]) - 1 / (1 + np.exp(-x[:, 0]))).mean() < 0.03)
    True
    """
    if calibration not in ("temperature", "none"):
        raise ConfigError(f"unknown calibration {calibration!r}", where="calibration", mend="use 'temperature' or 'none'")
    given = np.asarray(action)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise DataError(f"actions are {given.dtype} {given.shape}, not integers (n,)", where="action", mend="give one integer a row")
    x, users = feature_rows(features, given.size, "features"), clusters(cluster, given.size)
    actions, index = np.unique(given, return_inverse=True)
    if not 2 <= actions.size <= MOST_ACTIONS:
        mend = "with one action propensities are 1; group items, or clone a softmax over item vectors for a catalogue (recrl ope)"
        raise DataError(f"the log holds {actions.size} different actions", where="action", mend=mend)
    fold = user_folds(users, folds, seed)
    dealt = int(fold.max()) + 1
    needed = 3 if calibration == "temperature" else 2
    if dealt < needed:
        raise ConfigError(
            f"{dealt} folds; {calibration!r} needs {needed}", where="folds", mend="give more folds and users, or no calibration"
        )
    _known_everywhere(index, actions, fold, dealt, needed)
    law, temperatures = np.empty((given.size, actions.size)), np.ones(dealt)
    if calibration == "temperature":
        temperatures = _temperatures(x, index, fold, model, seed)
    for k in range(dealt):
        held = np.flatnonzero(fold == k)
        law[held] = _predicted(x, index, fold != k, held, model, seed)
    return Propensities(actions, index, log_softmax(law / temperatures[fold][:, None], axis=1), users, fold, temperatures)


def temperature(log_prob: Float64, action: Int64) -> float:
    """The ``T`` whose tempered law ``p^(1/T)`` gives the actions (n,) the least log-loss, from log-probabilities (n, A).

    **Errors**: :class:`DataError` where a logged action is impossible.
    """
    logged = log_prob[np.arange(action.size), action]
    refuse(
        np.isneginf(logged),
        logged,
        "log-probability of the logged action",
        "use a model that gives every action a chance",
        where="temperature",
    )

    def loss(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float((logsumexp(log_prob * inverse, axis=1) - logged * inverse).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-np.log(WIDEST), np.log(WIDEST)), method="bounded", options={"xatol": 1e-6}).x))


def _temperatures(x: Float64, index: Int64, fold: Int64, model: Any, seed: int) -> Float64:
    """A temperature for each fold, from all other folds' rows, each predicted by a model that saw neither its fold nor this one."""
    dealt = int(fold.max()) + 1
    law = {}
    for j, k in itertools.combinations(range(dealt), 2):
        held = np.flatnonzero((fold == j) | (fold == k))
        both = _predicted(x, index, (fold != j) & (fold != k), held, model, seed)
        law[j, k], law[k, j] = both[fold[held] == j], both[fold[held] == k]
    of_fold = [np.flatnonzero(fold == j) for j in range(dealt)]
    found = []
    for k in range(dealt):
        others = [j for j in range(dealt) if j != k]
        found.append(temperature(np.concatenate([law[j, k] for j in others]), index[np.concatenate([of_fold[j] for j in others])]))
    return np.array(found)


def _predicted(x: Float64, index: Int64, seen: NDArray[np.bool_], held: Int64, model: Any, seed: int) -> Float64:
    """Log-probabilities (b, A) of the ``held`` rows (b,) by a classifier of the ``seen`` ones (n,)."""
    fitted = classifier(model, seed).fit(x[seen], index[seen])
    chance = np.asarray(fitted.predict_proba(x[held]), dtype=np.float64)
    # NaN anywhere in a row makes its sum NaN
    logged = chance[np.arange(held.size), index[held]] / chance.sum(axis=1)
    mend = "use a classifier that gives every action a chance (lightgbm, logistic), or merge rare actions"
    refuse(~(logged > 0), logged, "predicted propensity of the logged action", mend, where="model, held row {row}")
    with np.errstate(divide="ignore"):
        return np.log(chance)


def _known_everywhere(index: Int64, actions: Int64, fold: Int64, dealt: int, needed: int) -> None:
    """Every action must be logged in so many folds that a model which lacks some of them knows it."""
    cells = np.zeros((actions.size, dealt), dtype=bool)
    cells[index, fold] = True
    rare = np.flatnonzero(cells.sum(axis=1) < needed)
    if rare.size:
        first, rows = int(rare[0]), int((index == rare[0]).sum())
        raise DataError(
            f"action {actions[first]} ({rows} rows) is logged in {int(cells[first].sum())} of {dealt} folds of users; {needed} are needed",
            where="action",
            mend=f"merge rare actions into one or leave out their rows ({rare.size} such actions), or give more users",
        )
