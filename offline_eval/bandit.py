"""Off-policy estimators for logged bandit feedback (item, slate or continuous actions alike: only log-probabilities enter).

**Notation**: row ``i`` was logged with reward ``r_i`` for an action of the behaviour policy ``mu``;
``w_i = pi(a_i | x_i) / mu(a_i | x_i)`` is its importance weight for the target policy ``pi``, computed in logarithms.
``q_i`` is a predicted reward of the logged action (``logged_value``), ``v_i = E_pi q(x_i, .)`` that of the target policy
(``target_value``). Every estimator returns per-row contributions, from which :mod:`offline_eval.contributions` reads value
and interval.

**Assumptions** of all but ``mean``: the propensities are those the log was made with, ``mu`` gives a positive probability to
whatever ``pi`` may do, and nothing unlogged steered both action and reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from offline_eval.validation import capped_weights, checked, weights
from recrl.core.contracts import Contributions, Estimator, LoggedFeedback
from recrl.core.errors import ConfigError, DataError

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Mean:
    """Mean logged reward: the on-policy value of the logging policy, ``sum r_i / n``.

    **When it fails**: it says nothing about any other policy.
    """

    name: ClassVar[str] = "mean"

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term with denominator 1 and unit weights."""
        rows = checked(feedback)
        ones = np.ones_like(rows.reward)
        return _one_term(rows, rows.reward, ones, ones)


@dataclass(frozen=True)
class IPS:
    """Inverse propensity score: ``sum w_i r_i / n``.

    Unbiased under the assumptions of this module. **When it fails**: the variance grows with the mean of ``w^2`` and, since
    it is not shift-invariant, with the level of the rewards.

    **Source**: Horvitz and Thompson, JASA 1952.
    """

    name: ClassVar[str] = "ips"

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term with denominator 1."""
        rows = checked(feedback)
        w = weights(rows)
        return _one_term(rows, w * rows.reward, np.ones_like(w), w)


@dataclass(frozen=True)
class ClippedIPS:
    """IPS with weights cut off at ``cap``: ``sum min(w_i, cap) r_i / n``.

    **When it fails**: biased towards 0 for positive rewards by the mass above the cap, which is 1 minus the mean clipped weight.

    **Source**: Ionides, "Truncated importance sampling", JCGS 2008; Bottou et al., JMLR 2013.
    """

    cap: float = 10.0
    name: ClassVar[str] = "clipped_ips"

    def __post_init__(self) -> None:
        _check_cap(self.cap)

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term with denominator 1 and capped weights."""
        rows = checked(feedback)
        w = capped_weights(rows, self.cap)
        return _one_term(rows, w * rows.reward, np.ones_like(w), w)


@dataclass(frozen=True)
class SNIPS:
    """Self-normalised IPS: ``sum w_i r_i / sum w_i``.

    Stays within the range of the rewards and moves with a shift of them; consistent, with a bias of order ``1 / n``.
    **When it fails**: with few effective rows the bias is large and points to the logging policy's value.

    **Source**: Swaminathan and Joachims, NeurIPS 2015.
    """

    name: ClassVar[str] = "snips"

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term with the weights as denominator."""
        rows = checked(feedback)
        w = weights(rows)
        return _one_term(rows, w * rows.reward, w, w)


@dataclass(frozen=True)
class NCIS:
    """Normalised capped importance sampling, pooled over rows: ``sum min(w_i, cap) r_i / sum min(w_i, cap)``.

    The usual yardstick of papers on short-video recommendation (``cap`` 10). Policies without a density enter with a Gaussian
    around their output, which the caller evaluates: the estimator sees log-probabilities only.

    **When it fails**: the cap biases it to the logging policy; with a surrogate density it becomes a kernel average of
    logged rewards around the policy's output, which a constant policy may win. Report such a policy beside yours, and
    the effective sample size.

    **Source**: Cai et al., "Two-stage constrained actor-critic for short video recommendation", WWW 2023 (pooled,
    per request, undiscounted; no product over a session).
    """

    cap: float = 10.0
    name: ClassVar[str] = "ncis"

    def __post_init__(self) -> None:
        _check_cap(self.cap)

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term with the capped weights as denominator."""
        rows = checked(feedback)
        w = capped_weights(rows, self.cap)
        return _one_term(rows, w * rows.reward, w, w)


@dataclass(frozen=True)
class DR:
    """Doubly robust: ``sum (v_i + w_i (r_i - q_i)) / n``.

    Unbiased where the propensities or the predictions are right; predictions must be cross-fitted (never fitted on the row
    they predict). **When it fails**: poor predictions under heavy weights give more variance than SNIPS.

    **Source**: Dudík, Langford and Li, ICML 2011.
    """

    name: ClassVar[str] = "dr"

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term with denominator 1."""
        rows = checked(feedback)
        w = weights(rows)
        target, logged = _predictions(rows, self.name)
        return _one_term(rows, target + w * (rows.reward - logged), np.ones_like(w), w)


@dataclass(frozen=True)
class SNDR:
    """Self-normalised doubly robust: ``sum v_i / n + sum w_i (r_i - q_i) / sum w_i``.

    The correction is a weighted mean of residuals and so bounded by them. **When it fails**: as SNIPS and DR do.

    **Source**: Thomas and Brunskill, ICML 2016 (weighted doubly robust, one step).
    """

    name: ClassVar[str] = "sndr"

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """Two terms: the direct one with denominator 1, the correction with the weights."""
        rows = checked(feedback)
        w = weights(rows)
        target, logged = _predictions(rows, self.name)
        return Contributions(
            numerators=np.stack([target, w * (rows.reward - logged)]),
            denominators=np.stack([np.ones_like(w), w]),
            cluster=rows.cluster,
            weights=w,
        )


def _one_term(rows: LoggedFeedback, numerator: Float64, denominator: Float64, w: Float64) -> Contributions:
    return Contributions(numerators=numerator[None], denominators=denominator[None], cluster=rows.cluster, weights=w)


def _predictions(rows: LoggedFeedback, name: str) -> tuple[Float64, Float64]:
    if rows.target_value is None or rows.logged_value is None:
        raise DataError(
            f"{name} needs predicted rewards",
            where="LoggedFeedback.target_value, LoggedFeedback.logged_value",
            mend="give cross-fitted predictions for the target policy and the logged action, or use snips or ncis",
        )
    return rows.target_value, rows.logged_value


def _check_cap(cap: float) -> None:
    if not 0.0 < cap < np.inf:
        raise ConfigError(f"cap is {cap}; it must be positive and finite", where="cap", mend="10 is usual; snips has no cap")


REGISTRY: dict[str, Estimator] = {e.name: e for e in (Mean(), IPS(), ClippedIPS(), SNIPS(), NCIS(), DR(), SNDR())}
"""Estimators by name, with default options."""
