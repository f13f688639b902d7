"""Fitted Q evaluation with regression models (LightGBM, ridge, anything of scikit-learn), cross-fitted by user.

``q_0 = 0``, and ``q_k+1`` is fitted to ``r_t + discount_t v_k(s_t+1)`` with ``v_k(s) = E_pi q_k(s, .)``. After the last row of a
trajectory stands its ``final_value``, 0 where absent: then what is predicted is the return over the recorded steps. The same with
networks, over Transitions and any Policy: :mod:`offline_eval.fqe`.

**When it fails**: features that do not tell how many steps are left cannot predict the return over a recorded horizon; actions the
target prefers and the log lacks are extrapolated; with a discount near 1 many iterations are needed.

**Source**: Ernst, Geurts and Wehenkel, JMLR 2005 (fitted Q iteration); Le, Voloshin and Yue, ICML 2019 (FQE).
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offline_eval.direct import Regressor, TargetActions, expected, feature_rows, regressor, user_folds
from offline_eval.trajectories import trajectories
from recrl.core.contracts import LoggedFeedback
from recrl.core.errors import ConfigError

Float64 = NDArray[np.float64]

SETTLED = 0.05
"""A last iteration that moves values by more than this share of their size is warned of."""


def fitted_q(
    feedback: LoggedFeedback,
    features: ArrayLike,
    target: TargetActions,
    *,
    model: str | Regressor = "lightgbm",
    iterations: int = 20,
    folds: int = 5,
    seed: int = 0,
    rows_at_once: int = 65_536,
) -> LoggedFeedback:
    """The same feedback with predicted returns in ``logged_value`` and ``target_value``.

    Args:
        feedback: logged rows with trajectories; consecutive rows are consecutive steps.
        features: (n, D) of each row's state and logged action together.
        target: the target policy's actions in the states of given rows, see :func:`offline_eval.cross_fit`.
        model: ``lightgbm``, ``ridge``, or any scikit-learn regressor.
        iterations: fits in a row; the return over as many steps is covered.
        folds: folds of users; each is predicted by models of the others.
        seed: of the folds, and of LightGBM.
        rows_at_once: rows predicted together.

    Warns where the last iteration still moved the values by more than :data:`SETTLED`.

    **Errors**: as :func:`offline_eval.cross_fit` and :func:`offline_eval.trajectories.trajectories`; :class:`ConfigError` for no iteration.
    """
    if iterations < 1:
        raise ConfigError(f"iterations is {iterations}; at least one fit is needed", where="iterations", mend="20 is usual")
    logged = trajectories(feedback)
    size = logged.rows.reward.size
    x = feature_rows(features, size, "features")
    fold = user_folds(logged.rows.cluster, folds, seed)
    value, action_value, moved = np.empty(size), np.empty(size), 0.0
    for k in range(int(fold.max()) + 1):
        seen, held = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        v = before = np.zeros(size)
        for _ in range(iterations):
            fitted = regressor(model, seed)
            fitted.fit(x[seen], logged.backup(v)[seen])
            before, v = v, np.zeros(size)
            v[seen] = expected(fitted, target, seen, x.shape[1], rows_at_once)
        moved = max(moved, _change(before[seen], v[seen]))
        action_value[held] = fitted.predict(x[held])
        value[held] = expected(fitted, target, held, x.shape[1], rows_at_once)
    if moved > SETTLED:
        warnings.warn(
            f"fitted Q evaluation has not settled: the last of {iterations} iterations moved values by {moved:.0%}; give more iterations",
            stacklevel=2,
        )
    return replace(feedback, target_value=value, logged_value=action_value)


def _change(before: Float64, after: Float64) -> float:
    size = float(np.sqrt(np.mean(after**2)))
    return float(np.sqrt(np.mean((after - before) ** 2))) / size if size > 0 else 0.0
