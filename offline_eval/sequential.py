"""Off-policy estimators for sequences: the value of a trajectory, a session or a user's sessions, of any length each.

**Notation** of :mod:`offline_eval.trajectories`: step ``t`` of trajectory ``i`` has reward ``r_it``, weight ``rho_it`` (the product of
its probability ratios up to ``t``) and present value ``gamma_it``; ``q_it`` (``logged_value``) and ``v_it`` (``target_value``) predict the
return that follows. ``N`` trajectories; a value is that of ``E_pi sum_t gamma_t r_t`` over the recorded steps.

**A trajectory that ends** stays in an absorbing state: reward 0, ratio 1. So where weights are normalised at step ``t``, those of finished
trajectories count with their last weight; normalising over the living alone would estimate something else, the reward of those who
stay.

**Assumptions** of those with weights: the recorded propensities are right at every step, the logger may do whatever the target policy may,
and a step's ratio depends on the state alone, not on what else the log has lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from offline_eval.contributions import linearised
from offline_eval.trajectories import Trajectories, trajectories
from offline_eval.validation import check_positive, predictions, target_prediction
from recrl.core.contracts import Contributions, Estimator, LoggedFeedback

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class MeanReturn:
    """Mean logged return: the on-policy value of the logging policy, ``sum_i sum_t gamma_it r_it / N``."""

    name: ClassVar[str] = "mean_return"

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term a trajectory with denominator 1 and unit weights."""
        logged = trajectories(feedback)
        ones = np.ones(logged.starts.size)
        return _one_term(logged, logged.returns(), ones, ones)


@dataclass(frozen=True)
class TIS:
    """Trajectory importance sampling: ``sum_i rho_i sum_t gamma_it r_it / N``, ``rho_i`` the weight of the whole trajectory.

    Unbiased. **When it fails**: the variance grows exponentially with the length; :class:`PDIS` is never worse.

    **Source**: Precup, Sutton and Singh, ICML 2000.
    """

    name: ClassVar[str] = "tis"

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term with denominator 1."""
        logged = trajectories(feedback)
        final = logged.ratio()[logged.ends]
        return _one_term(logged, final * logged.returns(), np.ones_like(final), final)


@dataclass(frozen=True)
class WIS:
    """Weighted (self-normalised) trajectory importance sampling: ``sum_i rho_i sum_t gamma_it r_it / sum_i rho_i``.

    Consistent, within the range of logged returns. **When it fails**: with long trajectories a single one carries the value.

    **Source**: Precup, Sutton and Singh, ICML 2000.
    """

    name: ClassVar[str] = "wis"

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term with the weights as denominator."""
        logged = trajectories(feedback)
        final = logged.ratio()[logged.ends]
        return _one_term(logged, final * logged.returns(), final, final)


@dataclass(frozen=True)
class CappedWIS:
    """Normalised capped importance sampling of whole trajectories: WIS with ``min(rho_i, cap)``.

    The form in which AURO describes NCIS (a product over the session, then a cap). **When it fails**: as NCIS does, the cap biases it to
    the logging policy; with products most trajectories sit at the cap or at nothing.

    **Source**: Xue et al., AURO (2023), from second-hand descriptions; its cap is not known.
    """

    cap: float = 10.0
    name: ClassVar[str] = "capped_wis"

    def __post_init__(self) -> None:
        check_positive(self.cap, "cap", "10 is usual; wis has no cap")

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term with the capped weights as denominator."""
        logged = trajectories(feedback)
        final = np.exp(np.minimum(logged.log_ratio[logged.ends], np.log(self.cap)))
        return _one_term(logged, final * logged.returns(), final, final)


@dataclass(frozen=True)
class PDIS:
    """Per-decision importance sampling: ``sum_i sum_t gamma_it rho_it r_it / N``; what led to a reward weighs it, not what follows.

    Unbiased. **When it fails**: late rewards still carry products of many ratios.

    **Source**: Precup, Sutton and Singh, ICML 2000.
    """

    name: ClassVar[str] = "pdis"

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term with denominator 1."""
        logged = trajectories(feedback)
        ratio = logged.ratio()
        return _one_term(logged, logged.sum(ratio * logged.present * logged.rows.reward), np.ones(logged.starts.size), ratio[logged.ends])


@dataclass(frozen=True)
class WPDIS:
    """Weighted per-decision importance sampling: ``sum_t (sum_i rho_it gamma_it r_it / sum_i rho_it)``, normalised step by step.

    Consistent, and mostly the best of those without a model. **When it fails**: with few effective trajectories at late steps.

    **Source**: Thomas, "Safe reinforcement learning", 2015 (CWPDIS), with finished trajectories in an absorbing state.
    """

    name: ClassVar[str] = "wpdis"

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """Two terms: the linearised value, and a term of value 0 with the weights of the thinnest step as denominator."""
        logged = trajectories(feedback)
        return _stepwise(logged, logged.present * logged.rows.reward, np.zeros(logged.starts.size))


@dataclass(frozen=True)
class SequentialDM:
    """Direct method for sequences: ``sum_i v_i0 / N``, what fitted Q evaluation predicts at each trajectory's first state.

    **When it fails**: as wrong as the model is; the interval shows the spread of first states only.
    """

    name: ClassVar[str] = "seq_dm"

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term with denominator 1; the trajectories' weights go to the diagnostics only."""
        logged = trajectories(feedback)
        first = target_prediction(logged.rows, self.name)[logged.starts]
        return _one_term(logged, first, np.ones_like(first), logged.ratio()[logged.ends])


@dataclass(frozen=True)
class SequentialDR:
    """Doubly robust for sequences: ``sum_i (v_i0 + sum_t gamma_it rho_it (r_it + discount_it v_i,t+1 - q_it)) / N``.

    After a trajectory's last row ``v`` is its ``final_value``, 0 where the user is gone. Unbiased where the propensities are right, or the
    predictions are. **When it fails**: predictions fitted on the users they predict; heavy late weights.

    **Source**: Jiang and Li, ICML 2016.
    """

    name: ClassVar[str] = "seq_dr"

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term with denominator 1."""
        logged = trajectories(feedback)
        first, error = _errors(logged, self.name)
        ratio = logged.ratio()
        error *= ratio
        return _one_term(logged, first + logged.sum(error), np.ones_like(first), ratio[logged.ends])


@dataclass(frozen=True)
class SequentialWDR:
    """Weighted doubly robust for sequences: as :class:`SequentialDR`, each step's correction a weighted mean over trajectories.

    ``sum_i v_i0 / N + sum_t (sum_i rho_it gamma_it (r_it + discount_it v_i,t+1 - q_it) / sum_i rho_it)``. Consistent.
    **When it fails**: as WPDIS and DR do.

    **Source**: Thomas and Brunskill, ICML 2016.
    """

    name: ClassVar[str] = "seq_wdr"

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """Two terms, as those of :class:`WPDIS`."""
        logged = trajectories(feedback)
        first, error = _errors(logged, self.name)
        return _stepwise(logged, error, first)


def _one_term(logged: Trajectories, numerator: Float64, denominator: Float64, w: Float64) -> Contributions:
    return Contributions(numerator[None], denominator[None], logged.cluster, w)


def _errors(logged: Trajectories, name: str) -> tuple[Float64, Float64]:
    """First predictions (N,) and the present value of each step's temporal-difference error (n,)."""
    value, action_value = predictions(logged.rows, name)
    error = logged.backup(value)
    error -= action_value
    error *= logged.present
    return value[logged.starts], error


def _stepwise(logged: Trajectories, addend: Float64, direct: Float64) -> Contributions:
    """``sum_i direct_i / N + sum_t R_t`` with ``R_t = sum_i rho_it addend_it / sum_i rho_it``, linearised around its value.

    One ratio a step would need (steps x trajectories) arrays. The influence of trajectory ``i`` is
    ``sum_t rho_it (addend_it - R_t) / sum_j rho_jt``; its share is the largest part of a step's weight that it ever holds, which bounds its
    leverage at every step.
    """
    ratio = logged.ratio()
    position = logged.position
    horizon, final = int(logged.lengths.max()), ratio[logged.ends]
    finished = np.cumsum(np.bincount(logged.lengths, weights=final, minlength=horizon + 1), dtype=np.float64)[:horizon]
    total = finished + np.bincount(position, weights=ratio)
    inverse = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)
    share = ratio * inverse[position]
    mean = np.bincount(position, weights=share * addend)
    # from its end on, a trajectory holds its last weight against means it adds nothing to
    later = np.append(np.cumsum((mean * inverse)[::-1])[::-1], 0.0)[logged.lengths]
    influence = logged.sum(share * (addend - mean[position])) - final * later
    thinnest_later = np.append(np.maximum.accumulate(inverse[::-1])[::-1], 0.0)[logged.lengths]
    largest = np.maximum(np.maximum.reduceat(share, logged.starts), final * thinnest_later)
    at_step = _held(logged, ratio, _thinnest_step(logged, ratio, total, int(np.argmax(largest))))
    return linearised(direct + mean.sum(), influence, largest, at_step, logged.cluster, final)


def _thinnest_step(logged: Trajectories, ratio: Float64, total: Float64, heaviest: int) -> int:
    """The first step without any weight, else the one at which trajectory ``heaviest`` holds the largest share."""
    if bool((total <= 0).any()):
        return int(np.argmax(total <= 0))
    rows = logged.starts[heaviest] + np.minimum(np.arange(total.size), logged.lengths[heaviest] - 1)
    return int(np.argmax(ratio[rows] / total))


def _held(logged: Trajectories, ratio: Float64, step: int) -> Float64:
    """Weight of each trajectory at ``step``, (N,): its last one where it has ended before."""
    held: Float64 = ratio[logged.starts + np.minimum(step, logged.lengths - 1)]
    return held


REGISTRY: dict[str, Estimator] = {
    e.name: e for e in (MeanReturn(), TIS(), WIS(), CappedWIS(), PDIS(), WPDIS(), SequentialDM(), SequentialDR(), SequentialWDR())
}
"""Estimators by name, with default options."""
