"""Checks of logged feedback before any estimator sees it; each error names the array, the row and the mend."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recrl.core.contracts import LoggedFeedback
from recrl.core.errors import DataError

Float64 = NDArray[np.float64]

MAX_LOG_WEIGHT = 300.0
"""Uncapped log-weights beyond this (a ratio of 1e130) mean that the two densities do not describe the same action."""


def checked(feedback: LoggedFeedback) -> LoggedFeedback:
    """The same feedback as float64 and int64 arrays that estimators can trust.

    ``target_log_prob`` may hold minus infinity (the target never takes that action: weight 0).

    **Errors**: :class:`DataError` for no rows, arrays that are not ``(n,)``, NaN or infinity in a reward or prediction,
    a logged action with zero behaviour propensity, and clusters that are not integers.
    """
    reward = vector(feedback.reward, "reward")
    rows = reward.shape[0]
    if rows == 0:
        raise DataError("there are no rows to evaluate", where="LoggedFeedback.reward", mend="check the filter or split that made the log")
    finite(reward, "reward")
    target = same_length(vector(feedback.target_log_prob, "target_log_prob"), rows, "target_log_prob")
    refuse(
        np.isnan(target) | (target == np.inf),
        target,
        "target_log_prob",
        "give natural logarithms; minus infinity is allowed and means weight 0",
    )
    behaviour = same_length(vector(feedback.behaviour_log_prob, "behaviour_log_prob"), rows, "behaviour_log_prob")
    refuse(
        ~np.isfinite(behaviour),
        behaviour,
        "behaviour_log_prob",
        "the logging policy took this action, so its propensity is positive: give its natural logarithm, or leave the row out",
    )
    cluster = np.asarray(feedback.cluster)
    if cluster.dtype.kind not in "iu":
        raise DataError(
            f"clusters are {cluster.dtype}, not integers",
            where="LoggedFeedback.cluster",
            mend="give one integer user id a row, e.g. the store's dense `user` column",
        )
    same_length(one_dimensional(cluster, "cluster"), rows, "cluster")
    changes: dict[str, Any] = {}
    for name in ("target_value", "logged_value"):
        given = getattr(feedback, name)
        if given is not None:
            changes[name] = finite(same_length(vector(given, name), rows, name), name)
    return replace(
        feedback,
        reward=reward,
        target_log_prob=target,
        behaviour_log_prob=behaviour,
        cluster=cluster.astype(np.int64, copy=False),
        **changes,
    )


def log_weights(feedback: LoggedFeedback) -> Float64:
    """Logarithm of ``pi_target / pi_behaviour`` of each logged action, ``(n,)``; minus infinity for weight 0."""
    ratio: Float64 = feedback.target_log_prob - feedback.behaviour_log_prob
    return ratio


def weights(feedback: LoggedFeedback) -> Float64:
    """Importance weights ``(n,)``.

    **Errors**: :class:`DataError` where a weight is beyond any meaning (see :data:`MAX_LOG_WEIGHT`).
    """
    logs = log_weights(feedback)
    refuse(
        logs > MAX_LOG_WEIGHT,
        logs,
        "target_log_prob - behaviour_log_prob",
        "check that both policies score the same action in the same units, or use an estimator with a cap (ncis, clipped_ips)",
    )
    return np.exp(logs)


def capped_weights(feedback: LoggedFeedback, cap: float) -> Float64:
    """``min(weight, cap)`` of each row, ``(n,)``; taken in logarithms, so it never overflows."""
    return np.exp(np.minimum(log_weights(feedback), np.log(cap)))


def vector(array: Any, name: str) -> Float64:
    """``array`` as ``(n,)`` float64."""
    try:
        values = np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} is not numeric: {error}", where=f"LoggedFeedback.{name}", mend="give one number a row") from None
    return one_dimensional(values, name)


def one_dimensional(array: NDArray[Any], name: str) -> NDArray[Any]:
    """``array`` if it has one dimension."""
    if array.ndim != 1:
        raise DataError(
            f"{name} has shape {array.shape}, expected (n,)", where=f"LoggedFeedback.{name}", mend="flatten it to one value a row"
        )
    return array


def same_length(array: NDArray[Any], rows: int, name: str) -> NDArray[Any]:
    """``array`` if it has ``rows`` values."""
    if array.shape[0] != rows:
        raise DataError(
            f"{name} holds {array.shape[0]} values for {rows} rewards", where=f"LoggedFeedback.{name}", mend="give one value a row"
        )
    return array


def finite(array: Float64, name: str) -> Float64:
    """``array`` if it holds neither NaN nor infinity."""
    refuse(~np.isfinite(array), array, name, "leave such rows out or fill them before evaluating")
    return array


def refuse(bad: NDArray[np.bool_], array: Float64, name: str, mend: str) -> None:
    """Raise for the first row marked ``bad``."""
    if bool(bad.any()):
        row = int(np.argmax(bad))
        raise DataError(
            f"{name} is {array[row]} in row {row} ({int(bad.sum())} such rows)", where=f"LoggedFeedback.{name}[{row}]", mend=mend
        )
