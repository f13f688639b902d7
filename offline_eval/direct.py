"""Cross-fitted reward models: the predictions that direct and doubly robust estimators need.

A model that predicts rows it was fitted on repeats their noise, and a doubly robust estimate built on it is biased. So users are dealt
into folds, and the rows of a fold are predicted by a model fitted on the other folds' users.

**Source**: Chernozhukov et al., "Double/debiased machine learning", The Econometrics Journal 2018 (cross-fitting; by user here).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offline_eval.contributions import dense_clusters
from offline_eval.validation import checked, refuse
from recrl.core.contracts import LoggedFeedback
from recrl.core.errors import ConfigError, DataError
from recrl.core.streams import Purpose, Streams

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

TargetActions = Callable[[Int64], tuple[ArrayLike, ArrayLike]]
"""From row numbers ``(b,)`` to the target policy's actions there: features ``(b, M, D)`` and probabilities ``(b, M)`` that sum to 1."""


class Regressor(Protocol):
    """Anything with the two methods of a scikit-learn regressor; an own copy is fitted for each fold."""

    def fit(self, features: Any, values: Any) -> Any:
        """Learn from features (n, D) and values (n,)."""
        ...

    def predict(self, features: Any) -> Any:
        """Predicted values (n,) of features (n, D)."""
        ...


def cross_fit(
    feedback: LoggedFeedback,
    features: ArrayLike,
    target: TargetActions,
    *,
    model: str | Regressor = "lightgbm",
    folds: int = 5,
    seed: int = 0,
    rows_at_once: int = 65_536,
) -> LoggedFeedback:
    """The same feedback with ``logged_value`` and ``target_value`` predicted by models that never saw the row's user.

    Args:
        feedback: logged rows.
        features: (n, D) of each row's context (user, history) and logged action (item, vector) together.
        target: the target policy's actions for given rows, in the same features. All actions with their probabilities, or, for large
            catalogues and continuous actions, ``M`` drawn ones with probability ``1 / M``: the prediction stays right on average, its
            variance grows by ``Var_pi(q) / M`` a row, and the interval shows it. Called with portions of the rows, so nothing of size
            rows x actions is ever held.
        model: ``lightgbm``, ``ridge`` (standardised), or any scikit-learn regressor.
        folds: number of folds; at most the number of users.
        seed: of the deal of users to folds, and of LightGBM.
        rows_at_once: rows predicted together.

    **Errors**: :class:`DataError` for features that do not fit or are not finite, probabilities that do not sum to 1, and fewer than two
    users; :class:`ConfigError` for fewer than two folds or an unknown model.

    >>> import numpy as np
    >>> from recrl.core.contracts import LoggedFeedback
    >>> action = np.arange(40) % 2
    >>> log = LoggedFeedback(action * 1.0, np.log(np.where(action, 0.9, 0.1)), np.full(40, np.log(0.5)), np.arange(40) // 2)
    >>> both = lambda rows: (np.tile([[[0.0], [1.0]]], (len(rows), 1, 1)), np.tile([[0.1, 0.9]], (len(rows), 1)))
    >>> fitted = cross_fit(log, action[:, None], both, model="ridge")
    >>> bool(abs(fitted.target_value.mean() - 0.9) < 0.05)
    True
    """
    rows = checked(feedback)
    x = feature_rows(features, rows.reward.size, "features")
    fold = user_folds(rows.cluster, folds, seed)
    logged, direct = np.empty_like(rows.reward), np.empty_like(rows.reward)
    for k in range(int(fold.max()) + 1):
        held = np.flatnonzero(fold == k)
        seen = fold != k
        fitted = regressor(model, seed)
        fitted.fit(x[seen], rows.reward[seen])
        logged[held] = fitted.predict(x[held])
        direct[held] = expected(fitted, target, held, x.shape[1], rows_at_once)
    return replace(feedback, target_value=direct, logged_value=logged)


def user_folds(cluster: NDArray[np.integer], folds: int, seed: int = 0) -> Int64:
    """Fold of each row ``(n,)``: users in random order, dealt out evenly, all rows of a user together.

    **Errors**: :class:`ConfigError` for fewer than two folds, :class:`DataError` for fewer than two users.
    """
    if folds < 2:
        raise ConfigError(f"folds is {folds}; cross-fitting needs at least 2", where="folds", mend="5 is usual")
    ids, index = dense_clusters(cluster)
    if ids.size < 2:
        raise DataError(
            f"{ids.size} user: no model can be fitted on other users", where="LoggedFeedback.cluster", mend="give the rows of more users"
        )
    order = np.argsort(Streams(seed).bits(ids, 0, Purpose.SPLITS).ravel(), kind="stable")
    of_user = np.empty(ids.size, dtype=np.int64)
    of_user[order] = np.arange(ids.size) % min(folds, ids.size)
    return of_user[index]


def regressor(model: str | Regressor, seed: int) -> Regressor:
    """An unfitted model of its own.

    **Errors**: :class:`ConfigError` for an unknown name, or an object that cannot be fitted.
    """
    from sklearn.base import clone

    if not isinstance(model, str):
        if not (hasattr(model, "fit") and hasattr(model, "predict")):
            raise ConfigError(f"{type(model).__name__} has no fit and predict", where="model", mend="give a scikit-learn regressor")
        own: Regressor = clone(model, safe=False)
        return own
    if model == "ridge":
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        ridge: Regressor = make_pipeline(StandardScaler(), Ridge(alpha=1.0))
        return ridge
    if model == "lightgbm":
        from lightgbm import LGBMRegressor

        trees: Regressor = LGBMRegressor(
            n_estimators=200,
            learning_rate=0.05,
            num_leaves=31,
            n_jobs=1,
            deterministic=True,
            force_row_wise=True,
            random_state=seed,
            verbose=-1,
        )
        return trees
    raise ConfigError(f"unknown model {model!r}", where="model", mend="use 'lightgbm', 'ridge', or a scikit-learn regressor")


def feature_rows(features: ArrayLike, rows: int, name: str) -> Float64:
    """``features`` as (rows, D) float64.

    **Errors**: :class:`DataError` for another shape, NaN or infinity.
    """
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or x.shape[0] != rows or x.shape[1] == 0:
        raise DataError(f"{name} have shape {x.shape}, expected ({rows}, D)", where=name, mend="give one row of features a logged row")
    bad = ~np.isfinite(x)
    if bool(bad.any()):
        row, column = np.argwhere(bad)[0]
        raise DataError(
            f"{name} hold {x[row, column]} in row {row}, column {column}",
            where=f"{name}[{row}, {column}]",
            mend="fill missing features first",
        )
    return x


def expected(model: Regressor, target: TargetActions, rows: Int64, width: int, rows_at_once: int) -> Float64:
    """Mean prediction over the target policy's actions in the states of ``rows`` (b,), in portions: (b,)."""
    out = np.empty(rows.size)
    for start in range(0, rows.size, rows_at_once):
        portion = slice(start, start + rows_at_once)
        x, p = target_actions(target, rows[portion], width)
        flat = np.asarray(model.predict(x.reshape(-1, width)), dtype=np.float64)
        out[portion] = (flat.reshape(p.shape) * p).sum(axis=1)
    return out


def target_actions(target: TargetActions, rows: Int64, width: int) -> tuple[Float64, Float64]:
    """Checked features (b, M, width) and probabilities (b, M) of the target policy's actions."""
    given, chances = target(rows)
    x, p = np.asarray(given, dtype=np.float64), np.asarray(chances, dtype=np.float64)
    if x.ndim != 3 or p.shape != x.shape[:2] or x.shape[0] != rows.size or x.shape[2] != width:
        raise DataError(
            f"target actions have features {x.shape} and probabilities {p.shape} for {rows.size} rows with {width} features",
            where="target",
            mend="return features (rows, M, D) and probabilities (rows, M)",
        )
    total = p.sum(axis=1)
    refuse(
        ~((np.abs(total - 1.0) < 1e-6) & (p >= 0).all(axis=1)),
        total,
        "the sum of target probabilities",
        "list all actions with their probabilities, or M drawn ones with 1 / M each",
        where="target, row {row} of those asked for",
    )
    return x, p
