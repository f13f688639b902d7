"""Retention under another policy, from a log that ends: who came back within ``k`` days, with censoring accounted for.

A session's user returns on day ``T = 1, 2, ...`` and was observed for ``C`` whole days; the log shows the smaller of the two, and
which it was. A user seen for three days has not failed to return within seven. Estimates here are of ``P(T <= k)`` had the target
policy acted in the session.

**Notation**: ``w_i`` is the session's importance weight (the product over its actions), ``N_ij = [T_i = j]`` a return on day ``j``,
``Y_ij = [T_i >= j, C_i >= j]`` being at risk on it, ``G(j) = P(C >= j)`` the share of sessions that are observed for ``j`` days.

**Assumptions**: when observation stops is independent of when the user would return (given the stratum, for those that take one), the
propensities are right, and some sessions are observed for all ``k`` days.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from offline_eval.censoring import RetentionLog, checked_sessions, curves, need_weight, nobody
from offline_eval.contributions import linearised
from offline_eval.intervals import Interval, Method, interval
from recrl.core.contracts import Contributions


class RetentionEstimator(Protocol):
    """An estimator of the share of users who return within ``day`` days."""

    name: ClassVar[str]

    @property
    def day(self) -> int:
        """``k`` of day-k retention."""
        ...

    def contributions(self, feedback: RetentionLog) -> Contributions:
        """Contributions a session."""
        ...


@dataclass(frozen=True)
class NaiveRetention:
    """Weighted share of sessions with a recorded return within ``day`` days: ``sum w_i [T_i <= k, T_i <= C_i] / sum w_i``.

    **When it fails**: whenever a session is observed for fewer than ``day`` days; it then counts as never returned. Here to show by
    how much.
    """

    day: int = 1
    name: ClassVar[str] = "naive_retention"

    def contributions(self, feedback: RetentionLog) -> Contributions:
        """One term with the weights as denominator."""
        log = checked_sessions(feedback, self.day)
        back = log.returned & (log.days <= self.day)
        return Contributions((log.w * back)[None], log.w[None], log.cluster, log.w)


@dataclass(frozen=True)
class IPCW:
    """Inverse probability of censoring weights: what is known by day ``k`` counts for those of whom it is not.

    ``sum w_i [T_i <= k, T_i <= C_i] / G(T_i)`` over ``sum w_i [known_i] / G(min(T_i, k))``, a session being known by day ``k`` when
    the user returned or was observed so long. ``G`` is the product-limit estimate of each stratum (all sessions, unweighted), and
    the interval includes its error. With unit weights and one stratum this is 1 minus Kaplan-Meier.

    **When it fails**: few sessions are observed for ``day`` days, so that these few count for many.

    **Source**: Robins and Rotnitzky, 1992; Satten and Datta, The American Statistician 2001.
    """

    day: int = 1
    name: ClassVar[str] = "ipcw"

    def contributions(self, feedback: RetentionLog) -> Contributions:
        """Two terms: the linearised value, and a term of value 0 that guards against a single user."""
        log = checked_sessions(feedback, self.day)
        k, observed, lost = self.day, log.censoring.survival(self.day), log.censoring
        if bool((observed[:, k] <= 0).any()):
            nobody(k, "observed")
        until = np.minimum(log.days, k)
        back = log.returned & (log.days <= k)
        known = back | (log.days >= k)
        inverse = np.where(known, log.w / np.where(known, observed[log.stratum, until], 1.0), 0.0)
        total = float(inverse.sum())
        need_weight(total)
        value = float((inverse * back).sum()) / total
        residual = inverse * (back - value) / total
        # a longer censoring survival on day l scales down all that is known after l: what the estimate of G moves
        after = np.zeros_like(observed)
        np.add.at(after, (log.stratum, until), residual)
        after = after[:, ::-1].cumsum(axis=1)[:, ::-1] - after
        hazard = lost.hazard[:, : k + 1]
        slope = after / np.maximum((1.0 - hazard) * lost.at_risk[:, : k + 1], 1e-300) * (lost.at_risk[:, : k + 1] > 0)
        spent = (slope * hazard).cumsum(axis=1)
        last = np.minimum(np.where(log.returned, log.days - 1, log.days), k - 1)
        ended = ~log.returned & (log.days < k)
        moved = np.where(ended, slope[log.stratum, until], 0.0) - spent[log.stratum, last]
        return linearised(value, residual + moved, inverse / total, inverse, log.cluster, log.w)


@dataclass(frozen=True)
class KaplanMeier:
    """Product-limit estimate with importance weights: ``1 - prod_(j <= k) (1 - sum w_i Y_ij N_ij / sum w_i Y_ij)``.

    With unit weights and one session a user its error is Greenwood's. **When it fails**: as self-normalised weights do; where censoring
    differs between groups that also return differently (use :class:`IPCW` with strata).

    **Source**: Kaplan and Meier, JASA 1958; weighted: Xie and Liu, Statistics in Medicine 2005.
    """

    day: int = 1
    name: ClassVar[str] = "kaplan_meier"

    def contributions(self, feedback: RetentionLog) -> Contributions:
        """Two terms: the linearised value, and a term of value 0 whose denominators are the weights at risk on the last day."""
        log = checked_sessions(feedback, self.day)
        k = self.day
        until, back = np.minimum(log.days, k), log.returned & (log.days <= k)
        at_risk = np.bincount(until, weights=log.w, minlength=k + 1)[::-1].cumsum()[::-1].astype(np.float64)
        events = np.bincount(until, weights=log.w * back, minlength=k + 1)
        survival = np.ones(k + 1)
        hazard = np.zeros(k + 1)
        for j in range(1, k + 1):
            if survival[j - 1] > 0:
                if at_risk[j] <= 0:
                    nobody(j, "at risk")
                hazard[j] = events[j] / at_risk[j]
            survival[j] = survival[j - 1] * (1.0 - hazard[j])
        stays = np.where(hazard < 1.0, 1.0 - hazard, 1.0)
        each = np.divide(1.0, at_risk * stays, out=np.zeros(k + 1), where=at_risk > 0)
        influence = survival[k] * log.w * (np.where(back, each[until], 0.0) - (hazard * each).cumsum()[until])
        share = log.w * np.divide(1.0, at_risk, out=np.zeros(k + 1), where=at_risk > 0)[until]
        # where everybody has returned, nobody is at risk and nobody can move the value
        thinnest = log.w * (until == k) if survival[k] > 0 else log.w
        return linearised(1.0 - survival[k], influence, share, thinnest, log.cluster, log.w)


@dataclass(frozen=True)
class SurvivalDR:
    """Doubly robust on survival curves: predicted curves, corrected by what the observed days at risk say against them.

    ``1 - sum_i (S_i^pi(k) - w_i sum_(j <= k) Y_ij / G(j) * S_i(k) / S_i(j) * (N_ij - h_ij)) / n`` with ``h`` the predicted hazards
    of the logged actions, ``S`` the survival they imply, and ``S^pi`` the predicted survival under the target policy. Unbiased
    where ``w`` and ``G`` are right, or where the predictions are. ``G`` is that of :class:`IPCW`; its error is of second order here
    and not in the interval.

    **When it fails**: predictions not cross-fitted; heavy weights.

    **Source**: Hubbard, van der Laan and Robins, 2000; Bai, Tsiatis and O'Brien, Statistics in Medicine 2013.
    """

    day: int = 1
    name: ClassVar[str] = "survival_dr"

    def contributions(self, feedback: RetentionLog) -> Contributions:
        """One term with denominator 1."""
        log = checked_sessions(feedback, self.day)
        hazard, curve = curves(feedback, log.w.size, self.day)
        observed = log.censoring.survival(self.day)[log.stratum, 1:]
        survival = np.cumprod(1.0 - hazard, axis=1)
        day = np.arange(1, self.day + 1)
        at_risk = (log.days[:, None] > day) | (log.days[:, None] == day)
        event = (log.days[:, None] == day) & log.returned[:, None]
        gone = survival <= 0
        left = np.where(gone, 0.0, survival[:, -1:] / np.where(gone, 1.0, survival))
        if bool((at_risk & (observed <= 0)).any()):
            nobody(int(day[np.argmax((at_risk & (observed <= 0)).any(axis=0))]), "observed")
        correction = (np.where(at_risk, left * (event - hazard), 0.0) / np.where(observed > 0, observed, 1.0)).sum(axis=1)
        numerator = 1.0 - curve + log.w * correction
        return Contributions(numerator[None], np.ones_like(numerator)[None], log.cluster, log.w)


def retention_curve(
    feedback: RetentionLog,
    estimator: Callable[[int], RetentionEstimator],
    days: Sequence[int],
    *,
    level: float = 0.95,
    method: Method = "auto",
    seed: int = 0,
) -> list[Interval]:
    """The share of users back within each of ``days``, with pointwise user-clustered intervals.

    >>> import numpy as np
    >>> log = RetentionLog(np.array([1, 2, 1, 3]), np.array([True, True, False, True]), np.zeros(4), np.zeros(4), np.arange(4))
    >>> [round(point.value, 3) for point in retention_curve(log, KaplanMeier, [1, 2, 3])]
    [0.25, 0.625, 1.0]
    """
    return [interval(estimator(day).contributions(feedback), level, method, seed=seed) for day in days]


REGISTRY: dict[str, RetentionEstimator] = {e.name: e for e in (NaiveRetention(), IPCW(), KaplanMeier(), SurvivalDR())}
"""Retention estimators by name, for day 1."""
