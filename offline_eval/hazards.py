"""Cross-fitted daily hazards of return: the predictions that a doubly robust survival curve needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offline_eval.censoring import RetentionLog, checked_sessions
from offline_eval.direct import TargetActions, feature_rows, target_actions, user_folds
from recrl.core.errors import ConfigError

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


def cross_fit_hazards(
    feedback: RetentionLog,
    features: ArrayLike,
    target: TargetActions,
    days: int,
    *,
    model: Any = "lightgbm",
    folds: int = 5,
    seed: int = 0,
    rows_at_once: int = 16_384,
) -> RetentionLog:
    """The same sessions with ``logged_hazard`` and ``target_survival`` (n, days), by models that never saw the session's user.

    A classifier is fitted to days at risk: each day from 1 to the return or the end of observation is one case, labelled whether the
    user returned on it. Its features are the session's and which day it is, as one column a day.

    Args:
        feedback: sessions.
        features: (n, D) of each session's context and actions together.
        target: the target policy's actions for given sessions in the same features, see :func:`offline_eval.cross_fit`.
        days: the last day to predict.
        model: ``lightgbm``, ``logistic`` (standardised), or any scikit-learn classifier with ``predict_proba``.
        folds: folds of users.
        seed: of the folds, and of LightGBM.
        rows_at_once: sessions predicted together.

    **Errors**: as :func:`offline_eval.cross_fit`; :class:`ConfigError` for an unknown model.

    **Source**: discrete-time survival by pooled binary regression: Brown, Biometrics 1975.
    """
    log = checked_sessions(feedback, days)
    x = feature_rows(features, log.days.size, "features")
    fold = user_folds(log.cluster, folds, seed)
    hazard, survival = np.empty((log.days.size, days)), np.empty((log.days.size, days))
    for k in range(int(fold.max()) + 1):
        seen, held = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        case, day = _days_at_risk(np.minimum(log.days[seen], days))
        case = seen[case]
        fitted = classifier(model, seed).fit(_with_day(x[case], day, days), log.returned[case] & (log.days[case] == day))
        for start in range(0, held.size, rows_at_once):
            part = held[start : start + rows_at_once]
            hazard[part] = _hazards(fitted, x[part], days)
            listed, chance = target_actions(target, part, x.shape[1])
            stays = 1.0 - _hazards(fitted, listed.reshape(-1, x.shape[1]), days).reshape(*chance.shape, days)
            survival[part] = (chance[:, :, None] * np.cumprod(stays, axis=2)).sum(axis=1)
    return replace(feedback, logged_hazard=hazard, target_survival=survival)


def classifier(model: Any, seed: int) -> Any:
    """An unfitted classifier of its own.

    **Errors**: :class:`ConfigError` for an unknown name, or an object without ``predict_proba``.
    """
    from sklearn.base import clone

    if not isinstance(model, str):
        if not (hasattr(model, "fit") and hasattr(model, "predict_proba")):
            raise ConfigError(f"{type(model).__name__} has no fit and predict_proba", where="model", mend="give a scikit-learn classifier")
        return clone(model, safe=False)
    if model == "logistic":
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    if model == "lightgbm":
        from lightgbm import LGBMClassifier

        return LGBMClassifier(
            n_estimators=100,
            learning_rate=0.05,
            num_leaves=15,
            n_jobs=1,
            deterministic=True,
            force_row_wise=True,
            random_state=seed,
            verbose=-1,
        )
    raise ConfigError(f"unknown model {model!r}", where="model", mend="use 'lightgbm', 'logistic', or a scikit-learn classifier")


def _days_at_risk(last: Int64) -> tuple[Int64, Int64]:
    """Session and day of every day at risk, from the last such day (n,) of each session."""
    session = np.repeat(np.arange(last.size), last)
    return session, np.arange(session.size) - np.repeat(np.cumsum(last) - last, last) + 1


def _with_day(x: Float64, day: Int64, days: int) -> Float64:
    return np.concatenate([x, np.eye(days)[day - 1]], axis=1)


def _hazards(fitted: Any, x: Float64, days: int) -> Float64:
    """Predicted hazards (b, days)."""
    every = np.tile(np.arange(1, days + 1), x.shape[0])
    chance = fitted.predict_proba(_with_day(np.repeat(x, days, axis=0), every, days))
    # a model that saw no return, or nothing else, knows one class only
    known = list(fitted.classes_)
    of_return = chance[:, known.index(True)] if True in known else np.zeros(every.size)
    return np.asarray(of_return, dtype=np.float64).reshape(x.shape[0], days)
