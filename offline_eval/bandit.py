"""Estimators of importance weights alone, for logged bandit feedback (item, slate or continuous actions alike: only
log-probabilities enter).

**Notation**: row ``i`` was logged with reward ``r_i`` for an action of the behaviour policy ``mu``;
``w_i = pi(a_i | x_i) / mu(a_i | x_i)`` is its importance weight for the target policy ``pi``, computed in logarithms.
Every estimator returns per-row contributions, from which :mod:`offline_eval.contributions` reads value and interval.

**Assumptions** of all but ``mean``: the propensities are those the log was made with, ``mu`` gives a positive probability to
whatever ``pi`` may do, and nothing unlogged steered both action and reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from offline_eval.contributions import dense_clusters
from offline_eval.validation import capped_weights, check_positive, check_strength, checked, ones, refuse, smoothed, weights
from recrl.core.contracts import Contributions, Estimator, LoggedFeedback
from recrl.core.streams import Purpose, Streams, mix

Float64 = NDArray[np.float64]

_CAP = "10 is usual; snips has no cap"


@dataclass(frozen=True)
class Mean:
    """Mean logged reward: the on-policy value of the logging policy, ``sum r_i / n``.

    **When it fails**: it says nothing about any other policy.
    """

    name: ClassVar[str] = "mean"

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term with denominator 1 and unit weights."""
        rows = checked(feedback)
        each = ones(rows.reward.size)
        return _one_term(rows, rows.reward, each, each)


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
        return _one_term(rows, w * rows.reward, ones(w.size), w)


@dataclass(frozen=True)
class ClippedIPS:
    """IPS with weights cut off at ``cap``: ``sum min(w_i, cap) r_i / n``.

    **When it fails**: biased towards 0 for positive rewards by the mass above the cap, which is 1 minus the mean clipped weight.

    **Source**: Ionides, "Truncated importance sampling", JCGS 2008; Bottou et al., JMLR 2013.
    """

    cap: float = 10.0
    name: ClassVar[str] = "clipped_ips"

    def __post_init__(self) -> None:
        check_positive(self.cap, "cap", _CAP)

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term with denominator 1 and capped weights."""
        rows = checked(feedback)
        w = capped_weights(rows, self.cap)
        return _one_term(rows, w * rows.reward, ones(w.size), w)


@dataclass(frozen=True)
class SubGaussianIPS:
    """IPS with smoothed weights ``s_i = w_i / (1 - strength + strength w_i)``: ``sum s_i r_i / n``.

    Weights stay below ``1 / strength`` without a corner; the error then has the tails of a Gaussian one. 0 is IPS, 1 forgets the weights.

    **When it fails**: biased to the logging policy by what the weights lost, 1 minus the mean smoothed weight.

    **Source**: Metelli, Russo and Restelli, "Subgaussian and differentiable importance sampling", NeurIPS 2021 (harmonic correction).
    """

    strength: float = 0.1
    name: ClassVar[str] = "sg_ips"

    def __post_init__(self) -> None:
        check_strength(self.strength)

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term with denominator 1 and smoothed weights."""
        rows = checked(feedback)
        w = smoothed(weights(rows), self.strength)
        return _one_term(rows, w * rows.reward, ones(w.size), w)


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
        check_positive(self.cap, "cap", _CAP)

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term with the capped weights as denominator."""
        rows = checked(feedback)
        w = capped_weights(rows, self.cap)
        return _one_term(rows, w * rows.reward, w, w)


@dataclass(frozen=True)
class TrajectoryNCIS:
    """Capped and normalised inside each trajectory, then averaged: ``mean over trajectories of sum c_i r_i / sum c_i``.

    ``c_i = min(w_i, cap)``. A trajectory is one of ``LoggedFeedback.trajectory``, or all rows of a user where the log names none.
    Long trajectories count no more than short ones, so the logging policy's own value is the mean of trajectory means.
    A trajectory without any weight says nothing and is left out.

    **When it fails**: as :class:`NCIS`; and inside a short trajectory the normalisation cancels most of what the weights say,
    which pulls the value to the logging policy's.

    **Source**: the offline metric of ResAct (WWW 2023) and PrefRec (KDD 2023), from second-hand descriptions.
    """

    cap: float = 10.0
    name: ClassVar[str] = "ncis_trajectory"

    def __post_init__(self) -> None:
        check_positive(self.cap, "cap", _CAP)

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term; a row holds its share of its trajectory's value, and of its trajectory's count."""
        rows = checked(feedback)
        w = capped_weights(rows, self.cap)
        group = dense_clusters(rows.cluster)[1] if rows.trajectory is None else rows.trajectory.segment_ids()
        of_group, size = np.bincount(group, weights=w)[group], np.bincount(group)[group]
        heard = of_group > 0
        numerator = np.divide(w * rows.reward, of_group, out=np.zeros_like(w), where=heard)
        return _one_term(rows, numerator, heard / size, w)


@dataclass(frozen=True)
class Replay:
    """Mean reward of logged rows that the target policy accepts: row ``i`` stays with probability ``w_i / bound``.

    Accepted rows are a sample of what the target policy would have logged. With a logger that picks uniformly and a deterministic
    target these are the rows where both agree, the classic replay method.

    Attributes:
        bound: a number no weight can exceed; then the value's expectation is exact, given that a row is accepted.
            Without it the largest weight of the log takes its place, which is consistent only.
        seed: of the draws; they do not depend on the order of rows.

    **When it fails**: ``1 / bound`` of the rows remain. :class:`SNIPS` is its average over all draws and never worse; replay is for
    when rows themselves are wanted, or to compare with published figures.

    **Source**: Li, Chu, Langford and Wang, WSDM 2011; von Neumann's rejection sampling.
    """

    bound: float | None = None
    seed: int = 0
    name: ClassVar[str] = "replay"

    def __post_init__(self) -> None:
        if self.bound is not None:
            check_positive(self.bound, "bound", "leave it out to use the log's largest weight")

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term whose denominator is 1 for accepted rows, 0 for others."""
        rows = checked(feedback)
        w = weights(rows)
        bound = float(w.max()) if self.bound is None else self.bound
        refuse(w > bound * (1 + 1e-9), w, "weight", "raise the bound, or leave it out", where=f"Replay.bound={bound:g}, row {{row}}")
        kept = (self._draws(rows) * bound < w).astype(np.float64)
        return _one_term(rows, kept * rows.reward, kept, kept * bound)

    def _draws(self, rows: LoggedFeedback) -> Float64:
        """A uniform number a row, dealt out in the order of the rows' content; rows of one content are exchangeable.

        The stream is salted with all log-probabilities: two logs of one size share no draws.
        """
        draws, salt = np.empty_like(rows.reward), np.uint64(0)
        for column in (rows.target_log_prob, rows.behaviour_log_prob):
            salt = mix(salt + mix(column.view(np.uint64)).sum(keepdims=True))[0]
        order = np.lexsort((rows.reward, rows.behaviour_log_prob, rows.target_log_prob))
        draws[order] = Streams(self.seed).uniform(np.arange(order.size), salt.view(np.int64), Purpose.SPLITS)
        return draws


def _one_term(rows: LoggedFeedback, numerator: Float64, denominator: Float64, w: Float64) -> Contributions:
    return Contributions(numerators=numerator[None], denominators=denominator[None], cluster=rows.cluster, weights=w)


REGISTRY: dict[str, Estimator] = {
    e.name: e for e in (Mean(), IPS(), ClippedIPS(), SubGaussianIPS(), SNIPS(), NCIS(), TrajectoryNCIS(), Replay())
}
"""Estimators by name, with default options."""
