r"""Do actions move what comes later? Tests on held-out users, by boosted trees and permutations within users.

With an outcome ``y``, a state ``x`` before the action ``a``, a model ``m(x, a)`` of the outcome that never saw the row's user, and actions
``a_j`` of other rows of the same user, the advantage and the score of a row are

    z = (m(x, a) - mean_j m(x, a_j)) / sd        s = z (y - g(x))

The mean of ``s`` is what the outcome gains, at first order, when the logging policy is tilted by one standard deviation towards what ``m``
prefers. Where each user's actions were chosen without regard to the moment and the action tells nothing of the outcome, the mean is 0
whatever ``m`` and ``g`` (which only takes noise away), and a one-sided t test with users as clusters rejects at its level. No propensities
are needed, and what differs from user to user cannot pass for an effect. ``m`` is the mean of a ridge regression and boosted trees.

**Why not residuals on residuals**: models of ``y`` and ``m`` from the same rows share their noise, and the product of their residuals is
negative where there is nothing; models from different rows are shrunk alike, and it is positive.

**Assumptions / when it fails**: where the logging policy followed the user's passing mood, items stand for the mood: in such a log this is
prediction, not cause. Logs of random exposure, and simulated ones, are free of that.

**Source**: Chernozhukov, Demirer, Duflo and Fernandez-Val, "Generic machine learning inference on heterogeneous treatment effects", 2018
(a prediction's covariance with the outcome, on other data); Berrett et al., "The conditional permutation test", JRSS B 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from offline_eval.direct import regressor, user_folds
from recrl.core.errors import DataError
from recrl.core.ragged import Offsets
from recrl.core.streams import Purpose, Streams

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

OTHERS = 6
"""Other actions of the user that each action is held against."""


@dataclass(frozen=True, eq=False)
class Units:
    """What is analysed, in the order of users and sessions.

    **Shapes**: ``state`` (n, S), ``action`` (n, A), ``outcome`` (n,), ``user`` (n,) int64; ``sessions`` groups the rows.
    """

    state: Float64
    action: Float64
    outcome: Float64
    user: Int64
    sessions: Offsets

    def where(self, known: NDArray[np.bool_]) -> Units:
        """The rows of a mask (n,)."""
        lengths = np.add.reduceat(known.astype(np.int64), self.sessions.values[:-1])
        kept = Offsets.from_lengths(lengths[lengths > 0])
        return Units(self.state[known], self.action[known], self.outcome[known], self.user[known], kept)

    def shuffled(self, seed: int) -> Units:
        """The same with each session's actions from another session, drawn over all users; one too short starts over."""
        lengths, order = self.sessions.lengths, Streams(seed).permutation(self.sessions.count, 0, Purpose.SPLITS)
        source = order[self.sessions.segment_ids()]
        row = self.sessions.values[:-1][source] + self.sessions.positions() % lengths[source]
        return Units(self.state, self.action[row], self.outcome, self.user, self.sessions)


@dataclass(frozen=True)
class Tilt:
    """What the outcome gains by a tilt of one standard deviation, with its interval by user and the chance of as much by luck alone."""

    value: float
    lower: float
    upper: float
    p_value: float
    rows: int
    users: int


def action_effect(units: Units, *, seed: int = 0, level: float = 0.95) -> Tilt:
    """Whether actions tell anything of the outcome beyond the state.

    **Errors**: :class:`DataError` for fewer than 20 users, or an outcome that never differs.
    """
    return tilt(advantage(units, units.outcome, seed) * outcome_residual(units, seed), units.user, level)


def planning_effect(units: Units, now: Float64, later: Float64, *, seed: int = 0, level: float = 0.95) -> Tilt:
    """What a tilt towards actions that are good for ``later`` (n,) gains over one towards those good for ``now`` (n,), in the outcome."""
    planned, myopic = (advantage(units, target, seed) for target in (later, now))
    return tilt((planned - myopic) * outcome_residual(units, seed), units.user, level)


def advantage(units: Units, target: Float64, seed: int) -> Float64:
    """``z`` of each row for a model of ``target`` (n,), cross-fitted over two halves of the users, (n,)."""
    both = np.concatenate([units.state, units.action], axis=1)
    others = _other_rows(units.user, seed)
    out = np.zeros(units.outcome.size)
    for seen, held in _halves(units, seed):
        model = Blend(seed).fit(both[seen], target[seen])
        usual = np.mean([model.predict(np.concatenate([units.state[held], units.action[row[held]]], axis=1)) for row in others], axis=0)
        part = model.predict(both[held]) - usual
        spread = part.std()
        out[held] = part / spread if spread > 1e-12 else 0.0
    return out


def _other_rows(user: Int64, seed: int) -> list[Int64]:
    """Rows of the same user for each row, drawn with replacement: arrays of (n,)."""
    _, start, place, count = np.unique(user, return_index=True, return_inverse=True, return_counts=True)
    uniform = Streams(seed).uniform(np.arange(user.size), 0, Purpose.CANDIDATES, (OTHERS,))
    return [start[place] + np.minimum((uniform[:, j] * count[place]).astype(np.int64), count[place] - 1) for j in range(OTHERS)]


def outcome_residual(units: Units, seed: int) -> Float64:
    """``y - g``, (n,)."""
    out = np.empty(units.outcome.size)
    for seen, held in _halves(units, seed):
        out[held] = units.outcome[held] - trees(seed).fit(units.state[seen], units.outcome[seen]).predict(units.state[held])
    return out


def tilt(score: Float64, user: Int64, level: float = 0.95) -> Tilt:
    """Mean of ``score`` (n,) with users as clusters; the p-value is one-sided."""
    _, index = np.unique(user, return_inverse=True)
    sums, counts = np.bincount(index, score), np.bincount(index)
    mean, users = float(score.mean()), counts.size
    error = float(np.sqrt(users / (users - 1) * np.sum((sums - mean * counts) ** 2))) / score.size
    if error == 0.0:
        return Tilt(mean, mean, mean, 0.0 if mean > 0 else 1.0, score.size, users)
    half = float(stats.t.ppf((1 + level) / 2, users - 1)) * error
    return Tilt(mean, mean - half, mean + half, float(stats.t.sf(mean / error, users - 1)), score.size, users)


class Blend:
    """Mean of a ridge regression, which finds small effects on everybody, and boosted trees, which find others."""

    def __init__(self, seed: int) -> None:
        self._parts = (regressor("ridge", seed), trees(seed))

    def fit(self, x: Float64, y: Float64) -> Blend:
        """Fit both."""
        for part in self._parts:
            part.fit(x, y)
        return self

    def predict(self, x: Float64) -> Float64:
        """Mean prediction, (n,)."""
        return np.mean([part.predict(x) for part in self._parts], axis=0)


def trees(seed: int) -> Any:
    """An unfitted boosted regression, small enough for noise."""
    from lightgbm import LGBMRegressor

    return LGBMRegressor(
        n_estimators=60,
        learning_rate=0.08,
        num_leaves=8,
        min_child_samples=40,
        n_jobs=1,
        deterministic=True,
        force_row_wise=True,
        random_state=seed,
        verbose=-1,
    )


def _halves(units: Units, seed: int) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    users = np.unique(units.user).size
    if users < 20 or np.ptp(units.outcome) == 0:
        what = f"{users} users" if users < 20 else "an outcome that never differs"
        raise DataError(f"{what} tell nothing of later effects", where="recrl diagnose", mend="give a longer log, or more users")
    fold = user_folds(units.user, 2, seed)
    return [(fold != k, fold == k) for k in range(2)]
