"""Whether an off-policy estimate can be trusted: how much of the log stands behind it, and a verdict with reasons.

The effective sample size ``(sum w)^2 / sum w^2`` is the number of equally weighted rows with the same variance. The same over
users' total weights, relative to what users would give with unit weights, is the share of users that count. The mean weight
is 1 in expectation when the propensities are right and the log covers the target policy; with capped weights it falls short of 1
by the mass above the cap. Its distance from 1 is tested with users as units.

**Source**: Kong, "A note on importance sampling using standardized weights", 1992 (effective sample size); Swaminathan and
Joachims, NeurIPS 2015 (the mean weight as a control).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from offline_eval.contributions import ClusterSums, dense_clusters, standard_error, sum_rows
from recrl.core.contracts import Contributions

Verdict = Literal["trust", "caution", "do not use"]
Float64 = NDArray[np.float64]

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)
"""Where the tails of the weights are reported."""


@dataclass(frozen=True)
class Thresholds:
    """Where a verdict turns; each pair is (caution, do not use).

    The defaults were chosen with the coverage of nominal 95 % intervals in mind (``docs/off_policy.md``).

    Attributes:
        users: at most so many users.
        effective_users: fewer effective users.
        ess_share: a smaller effective share of rows or of users.
        weight_share: one user carries more of the total weight.
        mean_weight: the mean weight is further from 1, beyond ``mean_weight_sigmas`` clustered standard errors.
        mean_weight_sigmas: how sure the distance must be.
    """

    users: tuple[int, int] = (500, 30)
    effective_users: tuple[float, float] = (200.0, 20.0)
    ess_share: tuple[float, float] = (0.1, 0.01)
    weight_share: tuple[float, float] = (0.05, 0.25)
    mean_weight: tuple[float, float] = (0.1, 0.5)
    mean_weight_sigmas: float = 3.0


@dataclass(frozen=True)
class Diagnostics:
    """What stands behind an estimate.

    Attributes:
        rows: logged rows.
        users: clusters.
        ess: effective sample size in rows.
        ess_share: ``ess / rows``.
        effective_users: effective number of users.
        effective_users_share: relative to the same rows with unit weights, so that unit weights give 1.
        max_weight: largest weight of a row.
        max_weight_share: its share of the total weight.
        max_user_share: largest share of the total weight that one user carries.
        zero_weight_share: rows that the target policy would never have produced.
        mean_weight: 1 in expectation for right propensities, full overlap and no cap.
        mean_weight_error: its clustered standard error.
        mean_weight_p: p-value of the test that its expectation is 1.
        verdict: ``trust``, ``caution`` or ``do not use``.
        reasons: why, most serious first; empty for ``trust``.
    """

    rows: int
    users: int
    ess: float
    ess_share: float
    effective_users: float
    effective_users_share: float
    max_weight: float
    max_weight_share: float
    max_user_share: float
    zero_weight_share: float
    mean_weight: float
    mean_weight_error: float
    mean_weight_p: float
    verdict: Verdict
    reasons: tuple[str, ...]


def effective_sample_size(weights: Float64) -> float:
    """``(sum w)^2 / sum w^2``; 0 when every weight is 0."""
    total = float(weights.sum())
    return total**2 / float(weights @ weights) if total > 0 else 0.0


def diagnose(contributions: Contributions, thresholds: Thresholds | None = None) -> Diagnostics:
    """Diagnostics of an estimate's importance weights.

    **Shapes**: reads ``weights`` (n,) and ``cluster`` (n,) only.
    """
    weights = np.asarray(contributions.weights, dtype=np.float64)
    ids, index = dense_clusters(np.asarray(contributions.cluster))
    weight_of_user, rows_of_user = sum_rows(np.stack([weights, np.ones_like(weights)]), index, ids.size)
    rows, users, total = int(weights.size), int(ids.size), float(weights.sum())
    ess, effective_users = effective_sample_size(weights), effective_sample_size(weight_of_user)
    mean = total / rows
    error = standard_error(ClusterSums(weight_of_user[None], rows_of_user[None], ids))
    measured: dict[str, float] = {
        "ess": ess,
        "ess_share": ess / rows,
        "effective_users": effective_users,
        "effective_users_share": effective_users / effective_sample_size(rows_of_user),
        "max_weight": float(weights.max()),
        "max_weight_share": float(weights.max()) / total if total > 0 else 0.0,
        "max_user_share": float(weight_of_user.max()) / total if total > 0 else 0.0,
        "zero_weight_share": float(np.mean(weights == 0)),
        "mean_weight": mean,
        "mean_weight_error": error,
        "mean_weight_p": _p_value(mean - 1.0, error, users),
    }
    verdict, reasons = _judge(users, measured, thresholds or Thresholds())
    return Diagnostics(rows=rows, users=users, verdict=verdict, reasons=reasons, **measured)


def weight_quantiles(weights: Float64) -> Float64:
    """Quantiles of the weights at :data:`QUANTILES`."""
    quantiles: Float64 = np.quantile(weights, QUANTILES)
    return quantiles


def _p_value(distance: float, error: float, users: int) -> float:
    if distance == 0 or not np.isfinite(error):
        return 1.0
    return float(2 * stats.t.sf(abs(distance) / error, users - 1)) if error > 0 else 0.0


def _judge(users: int, measured: dict[str, float], limits: Thresholds) -> tuple[Verdict, tuple[str, ...]]:
    """Every reason against an estimate with its severity; the verdict is that of the worst."""
    found: list[tuple[int, str]] = []

    def note(severity: int, reason: str) -> None:
        if severity:
            found.append((severity, reason))

    if measured["mean_weight"] == 0:
        return "do not use", ("the target policy never takes a logged action",)
    note((users <= limits.users[0]) + (users <= limits.users[1]), f"few users ({users})")
    effective = measured["effective_users"]
    note(
        (effective < limits.effective_users[0]) + (effective < limits.effective_users[1]),
        f"the weights leave {effective:.0f} effective users",
    )
    for name, label in (("ess_share", "rows"), ("effective_users_share", "users")):
        share = measured[name]
        note((share < limits.ess_share[0]) + (share < limits.ess_share[1]), f"effective sample is {share:.1%} of the {label}")
    share = measured["max_user_share"]
    note((share > limits.weight_share[0]) + (share > limits.weight_share[1]), f"one user carries {share:.0%} of the weight")
    distance = measured["mean_weight"] - 1.0
    if abs(distance) > limits.mean_weight_sigmas * measured["mean_weight_error"]:
        cause = "capped mass, missing overlap or wrong propensities" if distance < 0 else "wrong propensities"
        far = abs(distance)
        note((far > limits.mean_weight[0]) + (far > limits.mean_weight[1]), f"mean weight is {1 + distance:.2f} instead of 1 ({cause})")
    found.sort(key=lambda entry: -entry[0])
    verdicts: tuple[Verdict, ...] = ("trust", "caution", "do not use")
    return verdicts[found[0][0] if found else 0], tuple(reason for _, reason in found)
