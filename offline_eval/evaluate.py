"""From logged feedback to the tables ``estimates`` and ``estimates_weights`` of a run (``docs/artifacts.md``), and one-call estimates."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from offline_eval import retention
from offline_eval.bandit import NCIS, SNIPS, Mean
from offline_eval.censoring import RetentionLog
from offline_eval.diagnostics import QUANTILES, Diagnostics, diagnose, weight_quantiles
from offline_eval.intervals import Interval, Method, interval
from offline_eval.registry import needs, resolve
from offline_eval.sequential import MeanReturn
from offline_eval.validation import UndefinedError, capped_weights, checked, vector
from recrl.core.contracts import Array, Contributions, Estimator, LoggedFeedback
from recrl.core.errors import ConfigError

ESTIMATES = pa.schema(
    [
        *[(name, pa.string()) for name in ("policy", "signal", "estimator")],
        *[(name, pa.float64()) for name in ("value", "lower", "upper", "level")],
        ("interval", pa.string()),
        ("rows", pa.int64()),
        ("users", pa.int64()),
        *[(name, pa.float64()) for name in ("ess", "ess_share", "max_weight_share")],
        ("verdict", pa.string()),
        ("reasons", pa.string()),
    ]
)
WEIGHTS = pa.schema([("policy", pa.string()), ("quantile", pa.float64()), ("weight", pa.float64())])

# quantiles are of the uncapped weights; beyond this no reader needs the exact size
_LARGEST_SHOWN = 1e130


@dataclass(frozen=True)
class Estimate:
    """One estimated value with its user-clustered interval and what stands behind it."""

    estimator: str
    interval: Interval
    diagnostics: Diagnostics

    @property
    def value(self) -> float:
        """The point estimate."""
        return self.interval.value

    @property
    def lower(self) -> float:
        """Lower end of the interval."""
        return self.interval.lower

    @property
    def upper(self) -> float:
        """Upper end of the interval."""
        return self.interval.upper

    @property
    def verdict(self) -> str:
        """``trust``, ``caution`` or ``do not use``."""
        return self.diagnostics.verdict


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The two result tables, ready for ``RunFolder.write_table``."""

    estimates: pa.Table
    weights: pa.Table


def estimate(feedback: LoggedFeedback, estimator: Estimator, *, level: float = 0.95, method: Method = "auto", seed: int = 0) -> Estimate:
    """Value, interval and diagnostics of one estimator on one log.

    **Errors**: :class:`DataError` for feedback that cannot be used, or an undefined value.
    """
    contributions = estimator.contributions(feedback)
    return Estimate(estimator.name, interval(contributions, level, method, seed=seed), _diagnosed(estimator, contributions))


def ncis(
    target_log_prob: Array,
    behaviour_log_prob: Array,
    reward: Array,
    *,
    cap: float = 10.0,
    cluster: Array | None = None,
    level: float = 0.95,
    method: Method = "auto",
) -> Estimate:
    """Normalised capped importance sampling with a user-clustered interval; see :class:`offline_eval.bandit.NCIS`.

    **Shapes**: all arrays ``(n,)``; ``cluster`` holds an integer user a row. Without it rows count as independent, with a warning.

    >>> import numpy as np, offline_eval
    >>> logged = np.log([0.5, 0.5, 0.25, 0.25])
    >>> round(offline_eval.ncis(np.log([0.9, 0.9, 0.05, 0.05]), logged, [1, 0, 1, 0], cluster=[0, 1, 2, 3]).value, 3)
    0.5
    """
    return estimate(_feedback(target_log_prob, behaviour_log_prob, reward, cluster), NCIS(cap), level=level, method=method)


def snips(
    target_log_prob: Array,
    behaviour_log_prob: Array,
    reward: Array,
    *,
    cluster: Array | None = None,
    level: float = 0.95,
    method: Method = "auto",
) -> Estimate:
    """Self-normalised importance sampling with a user-clustered interval; see :class:`offline_eval.bandit.SNIPS`.

    **Shapes**: all arrays ``(n,)``; ``cluster`` holds an integer user a row. Without it rows count as independent, with a warning.
    """
    return estimate(_feedback(target_log_prob, behaviour_log_prob, reward, cluster), SNIPS(), level=level, method=method)


def evaluate(
    feedback: LoggedFeedback,
    estimators: Sequence[str | Estimator] = ("snips", "ncis"),
    *,
    policy: str = "target",
    signal: str = "reward",
    level: float = 0.95,
    method: Method = "auto",
    seed: int = 0,
) -> Evaluation:
    """Estimate the value of one policy for one signal with several estimators, beside the logging policy's own mean (and mean return).

    Args:
        feedback: logged rows with the log-probabilities of both policies.
        estimators: names in :data:`offline_eval.REGISTRY`, or estimators.
        policy: name of the target policy in the tables.
        signal: name of the reward in the tables.
        level: nominal coverage of the intervals.
        method: see :mod:`offline_eval.intervals`.
        seed: seed of a bootstrap.

    An undefined value (no overlap at all, or weights beyond any meaning, as products over long sequences can be) is NaN with the
    verdict ``do not use``; anything else wrong with the feedback is an error.
    """
    rows = checked(feedback)
    asked = [resolve(estimator) for estimator in estimators]
    # per row; where sequences are asked for, per trajectory too
    logged: list[Estimator] = [Mean(), MeanReturn()] if any("trajectory" in needs(e) for e in asked) else [Mean()]
    records = [_record("logged", signal, rows, estimator, level, method, seed) for estimator in logged]
    records += [_record(policy, signal, rows, estimator, level, method, seed) for estimator in asked]
    quantiles = weight_quantiles(capped_weights(rows, _LARGEST_SHOWN))
    shown = {"policy": [policy] * len(QUANTILES), "quantile": list(QUANTILES), "weight": quantiles.tolist()}
    return Evaluation(pa.Table.from_pylist(records, schema=ESTIMATES), pa.table(shown, schema=WEIGHTS))


def evaluate_retention(
    feedback: RetentionLog,
    days: Sequence[int],
    estimators: Sequence[str] = ("naive_retention", "ipcw", "kaplan_meier"),
    *,
    policy: str = "target",
    level: float = 0.95,
    method: Method = "auto",
    seed: int = 0,
) -> Evaluation:
    """Estimate the share of users back within each of ``days``, beside the logging policy's own (Kaplan-Meier with unit weights).

    The signal in the tables is ``return_within_<k>_days``.

    **Errors**: as those of :mod:`offline_eval.retention`; :class:`ConfigError` for an unknown estimator.
    """
    unknown = sorted({*estimators} - {*retention.REGISTRY})
    if unknown:
        what = f"unknown retention estimators {', '.join(unknown)}"
        raise ConfigError(what, where="estimators", mend=f"choose from: {', '.join(retention.REGISTRY)}")
    unweighted = replace(feedback, target_log_prob=feedback.behaviour_log_prob)
    records = []
    for day in days:
        signal = f"return_within_{day}_days"
        records.append(_record("logged", signal, unweighted, retention.KaplanMeier(day), level, method, seed))
        asked = [type(retention.REGISTRY[name])(day) for name in estimators]  # type: ignore[call-arg]
        records += [_record(policy, signal, feedback, estimator, level, method, seed) for estimator in asked]
    return Evaluation(pa.Table.from_pylist(records, schema=ESTIMATES), WEIGHTS.empty_table())


def combine(evaluations: Sequence[Evaluation]) -> Evaluation:
    """One pair of tables for several policies and signals; rows that recur (the logged mean, a policy's weights) are kept once."""
    return Evaluation(
        _first_of(pa.concat_tables([ESTIMATES.empty_table(), *(e.estimates for e in evaluations)]), ("policy", "signal", "estimator")),
        _first_of(pa.concat_tables([WEIGHTS.empty_table(), *(e.weights for e in evaluations)]), ("policy", "quantile")),
    )


def _diagnosed(estimator: Estimator, contributions: Contributions) -> Diagnostics:
    """Diagnostics; what rests on predictions alone is never trusted, since its interval does not show their error."""
    found = diagnose(contributions)
    if estimator.name not in ("dm", "seq_dm") or found.verdict != "trust":
        return found
    return replace(found, verdict="caution", reasons=("predictions alone, whose error the interval does not show",))


def _record(policy: str, signal: str, rows: Any, estimator: Any, level: float, method: Method, seed: int) -> dict[str, Any]:
    try:
        contributions = estimator.contributions(rows)
    except UndefinedError as error:
        size, users, nan = len(rows.cluster), np.unique(rows.cluster).size, float("nan")
        hopeless = {"value": nan, "lower": nan, "upper": nan, "level": level, "interval": method, "rows": size, "users": users}
        told = {"verdict": "do not use", "reasons": str(error).splitlines()[0]}
        return {"policy": policy, "signal": signal, "estimator": estimator.name, **hopeless, **told}
    found = _diagnosed(estimator, contributions)
    undefined = bool(np.any(np.asarray(contributions.denominators).sum(axis=-1) <= 0))
    nan = float("nan")
    result = Interval(nan, nan, nan, level, method, found.users, nan) if undefined else interval(contributions, level, method, seed=seed)
    return {
        "policy": policy,
        "signal": signal,
        "estimator": estimator.name,
        "value": result.value,
        "lower": result.lower,
        "upper": result.upper,
        "level": level,
        "interval": result.method,
        "rows": found.rows,
        "users": found.users,
        "ess": found.ess,
        "ess_share": found.ess_share,
        "max_weight_share": found.max_weight_share,
        "verdict": found.verdict,
        "reasons": "; ".join(found.reasons),
    }


def _feedback(target_log_prob: Array, behaviour_log_prob: Array, reward: Array, cluster: Array | None) -> LoggedFeedback:
    if cluster is None:
        warnings.warn(
            "no cluster given: rows count as independent, and the interval is too narrow when users have several rows", stacklevel=3
        )
        cluster = np.arange(vector(reward, "reward").shape[0])
    return LoggedFeedback(reward, target_log_prob, behaviour_log_prob, np.asarray(cluster))


def _first_of(table: pa.Table, keys: tuple[str, ...]) -> pa.Table:
    seen: set[tuple[Any, ...]] = set()
    kept = []
    for row, key in enumerate(zip(*(table[name].to_pylist() for name in keys), strict=True)):
        if key not in seen:
            seen.add(key)
            kept.append(row)
    return table.take(pa.array(kept, type=pa.int64()))
