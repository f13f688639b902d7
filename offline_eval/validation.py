"""Checks of logged feedback before any estimator sees it; each error names the array, the row and the mend."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recrl.core.contracts import LoggedFeedback
from recrl.core.errors import ConfigError, DataError

Float64 = NDArray[np.float64]


class UndefinedError(DataError):
    """The log cannot tell the value at all: no overlap, weights beyond any meaning, or a day that it does not reach."""


MAX_LOG_WEIGHT = 300.0
"""Uncapped log-weights beyond this (a ratio of 1e130) mean that the two densities do not describe the same action."""

LARGE = 1 << 15
"""Numbers from which on a call into another library costs nothing beside the work."""


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
    target, behaviour = check_log_probs(feedback, rows)
    cluster = clusters(feedback.cluster, rows)
    changes: dict[str, Any] = {}
    for name in ("target_value", "logged_value", "discount"):
        given = getattr(feedback, name)
        if given is not None:
            changes[name] = finite(same_length(vector(given, name), rows, name), name)
    if "discount" in changes:
        factor = changes["discount"]
        refuse((factor < 0) | (factor > 1), factor, "discount", "a discount lies in [0, 1]")
    return replace(
        feedback,
        reward=reward,
        target_log_prob=target,
        behaviour_log_prob=behaviour,
        cluster=cluster,
        **changes,
    )


def check_log_probs(feedback: LoggedFeedback, rows: int) -> tuple[Float64, Float64]:
    """Log-probabilities (n,) of the logged actions under the target and the logging policy.

    **Errors**: :class:`DataError` for another shape, NaN, plus infinity, or a logged action with zero behaviour propensity.
    """
    target = same_length(vector(feedback.target_log_prob, "target_log_prob"), rows, "target_log_prob")
    # one number tells whether there is anything to look for; NaN fails every comparison
    if rows and not target.max() < np.inf:
        refuse(
            np.isnan(target) | (target == np.inf),
            target,
            "target_log_prob",
            "give natural logarithms; minus infinity is allowed and means weight 0",
        )
    behaviour = same_length(vector(feedback.behaviour_log_prob, "behaviour_log_prob"), rows, "behaviour_log_prob")
    mend = "the logging policy took this action, so its propensity is positive: give its natural logarithm, or leave the row out"
    return target, finite(behaviour, "behaviour_log_prob", mend)


def clusters(array: Any, rows: int) -> NDArray[np.int64]:
    """Integer users (n,).

    **Errors**: :class:`DataError` for other types or shapes.
    """
    cluster = np.asarray(array)
    if cluster.dtype.kind not in "iu":
        raise DataError(
            f"clusters are {cluster.dtype}, not integers",
            where="LoggedFeedback.cluster",
            mend="give one integer user id a row, e.g. the store's dense `user` column",
        )
    same_length(one_dimensional(cluster, "cluster"), rows, "cluster")
    return cluster.astype(np.int64, copy=False)


def predictions(rows: LoggedFeedback, name: str) -> tuple[Float64, Float64]:
    """``target_value`` and ``logged_value`` (n,) of checked feedback.

    **Errors**: :class:`DataError` where one is absent.
    """
    return _prediction(rows, "target_value", name), _prediction(rows, "logged_value", name)


def target_prediction(rows: LoggedFeedback, name: str) -> Float64:
    """``target_value`` (n,) of checked feedback.

    **Errors**: :class:`DataError` where it is absent.
    """
    return _prediction(rows, "target_value", name)


def check_positive(value: float, name: str, mend: str) -> None:
    """Refuse an option that must be positive and finite."""
    if not 0.0 < value < np.inf:
        raise ConfigError(f"{name} is {value}; it must be positive and finite", where=name, mend=mend)


def log_weights(feedback: LoggedFeedback) -> Float64:
    """Logarithm of ``pi_target / pi_behaviour`` of each logged action, ``(n,)``; minus infinity for weight 0."""
    ratio: Float64 = feedback.target_log_prob - feedback.behaviour_log_prob
    return ratio


def weights(feedback: LoggedFeedback) -> Float64:
    """Importance weights ``(n,)``.

    **Errors**: :class:`DataError` where a weight is beyond any meaning (see :data:`MAX_LOG_WEIGHT`).
    """
    logs = log_weights(feedback)
    if logs.max(initial=-np.inf) > MAX_LOG_WEIGHT:
        refuse(
            logs > MAX_LOG_WEIGHT,
            logs,
            "target_log_prob - behaviour_log_prob",
            "check that both policies score the same action in the same units, or use an estimator with a cap (ncis, clipped_ips)",
            kind=UndefinedError,
        )
    return exponential(logs)


def capped_weights(feedback: LoggedFeedback, cap: float) -> Float64:
    """``min(weight, cap)`` of each row, ``(n,)``; taken in logarithms, so it never overflows."""
    logs = log_weights(feedback)
    np.minimum(logs, np.log(cap), out=logs)
    return exponential(logs)


def exponential(logs: Float64) -> Float64:
    """``exp(logs)`` in place of a contiguous array of our own.

    NumPy's takes doubles one by one where the processor lacks AVX-512, torch's four at once: it serves large arrays where the process has
    loaded torch anyway (loading it costs more than a hundred million exponentials). The two agree to 1e-15.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None or logs.size < LARGE:
        return np.exp(logs, out=logs)
    tensor = torch.from_numpy(logs)
    torch.exp(tensor, out=tensor)
    return logs


def check_strength(strength: float) -> None:
    """Refuse a strength of smoothing outside [0, 1]."""
    if not 0.0 <= strength <= 1.0:
        raise ConfigError(f"strength is {strength}; it lies in [0, 1]", where="strength", mend="0.1 is usual: weights stay below 10")


def smoothed(w: Float64, strength: float) -> Float64:
    """``w / (1 - strength + strength w)`` of weights (n,); 0 stays 0."""
    return np.divide(w, 1.0 - strength + strength * w, out=np.zeros_like(w), where=w > 0)


def ones(size: int) -> Float64:
    """Ones (size,), read-only, that take no memory."""
    return np.broadcast_to(np.float64(1.0), size)


def _prediction(rows: LoggedFeedback, field: str, name: str) -> Float64:
    values = getattr(rows, field)
    if values is None:
        raise DataError(
            f"{name} needs predicted rewards",
            where=f"LoggedFeedback.{field}",
            mend="add them with offline_eval.cross_fit (or fitted_q for sequences), or use an estimator of weights alone",
        )
    return np.asarray(values)


def vector(array: Any, name: str, *, where: str = "LoggedFeedback") -> Float64:
    """``array`` as ``(n,)`` float64."""
    try:
        values = np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} is not numeric: {error}", where=f"{where}.{name}", mend="give one number a row") from None
    return one_dimensional(values, name, where=where)


def one_dimensional(array: NDArray[Any], name: str, *, where: str = "LoggedFeedback") -> NDArray[Any]:
    """``array`` if it has one dimension."""
    if array.ndim != 1:
        raise DataError(f"{name} has shape {array.shape}, expected (n,)", where=f"{where}.{name}", mend="flatten it to one value a row")
    return array


def same_length(array: NDArray[Any], rows: int, name: str, *, where: str = "LoggedFeedback") -> NDArray[Any]:
    """``array`` if it has ``rows`` values."""
    if array.shape[0] != rows:
        raise DataError(
            f"{name} holds {array.shape[0]} values for {rows} rows",
            where=f"{where}.{name}",
            mend="give one value a row",
        )
    return array


def finite(array: Float64, name: str, mend: str = "leave such rows out or fill them before evaluating") -> Float64:
    """``array`` if it holds neither NaN nor infinity."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = array.sum()
    # a finite sum has finite terms; any other is looked into
    if not np.isfinite(total):
        refuse(~np.isfinite(array), array, name, mend)
    return array


def refuse(
    bad: NDArray[np.bool_],
    array: Float64,
    name: str,
    mend: str,
    *,
    where: str = "LoggedFeedback.{name}[{row}]",
    kind: type[DataError] = DataError,
) -> None:
    """Raise for the first row marked ``bad``."""
    if bool(bad.any()):
        row = int(np.argmax(bad))
        raise kind(f"{name} is {array[row]} in row {row} ({int(bad.sum())} such rows)", where=where.format(name=name, row=row), mend=mend)
