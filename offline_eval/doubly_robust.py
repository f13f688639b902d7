"""Estimators that lean on predicted rewards, with or without importance weights, for logged bandit feedback.

**Notation** of :mod:`offline_eval.bandit`; ``q_i`` is a predicted reward of the logged action (``logged_value``),
``v_i = E_pi q(x_i, .)`` that of the target policy (``target_value``). :mod:`offline_eval.direct` fits both, so that no row is predicted
by a model that saw its user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from offline_eval.validation import check_positive, check_strength, checked, ones, predictions, smoothed, target_prediction, weights
from recrl.core.contracts import Contributions, Estimator, LoggedFeedback


@dataclass(frozen=True)
class DM:
    """Direct method: ``sum v_i / n``, what the model predicts for the target policy.

    **When it fails**: the value is as wrong as the model is where the target policy goes and the log did not, and the interval does not
    show it. Its importance weights do not enter the value; they stand in the contributions so that the verdict tells how far the
    model must reach beyond the log.
    """

    name: ClassVar[str] = "dm"

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term with denominator 1."""
        rows = checked(feedback)
        target = target_prediction(rows, self.name)
        return Contributions(target[None], ones(target.size)[None], rows.cluster, weights(rows))


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
        target, logged = predictions(rows, self.name)
        numerator = rows.reward - logged
        numerator *= w
        numerator += target
        return Contributions(numerator[None], ones(w.size)[None], rows.cluster, w)


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
        target, logged = predictions(rows, self.name)
        numerators, denominators = np.empty((2, w.size)), np.empty((2, w.size))
        numerators[0], denominators[0], denominators[1] = target, 1.0, w
        np.subtract(rows.reward, logged, out=numerators[1])
        numerators[1] *= w
        return Contributions(numerators, denominators, rows.cluster, w)


@dataclass(frozen=True)
class SwitchDR:
    """Doubly robust where weights are moderate, direct elsewhere: ``sum (v_i + [w_i <= threshold] w_i (r_i - q_i)) / n``.

    **When it fails**: biased by the model's error on actions whose weight exceeds the threshold; a threshold chosen by looking at the
    estimates makes the interval too narrow.

    **Source**: Wang, Agarwal and Dudík, ICML 2017.
    """

    threshold: float = 10.0
    name: ClassVar[str] = "switch_dr"

    def __post_init__(self) -> None:
        check_positive(self.threshold, "threshold", "10 is usual; dr has none, dm corrects nothing")

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term with denominator 1."""
        rows = checked(feedback)
        w = weights(rows)
        target, logged = predictions(rows, self.name)
        numerator = rows.reward - logged
        numerator *= w
        numerator *= w <= self.threshold
        numerator += target
        return Contributions(numerator[None], ones(w.size)[None], rows.cluster, w)


@dataclass(frozen=True)
class ShrunkDR:
    """Doubly robust with optimistic shrinkage: ``sum (v_i + s_i (r_i - q_i)) / n``, ``s_i = shrinkage w_i / (w_i^2 + shrinkage)``.

    The weights that minimise a bound of the squared error: moderate ones stay, heavy ones fall to 0. A ``shrinkage`` of 0 is DM, without
    end it is DR; 100 halves a weight of 10.

    **When it fails**: biased by the model's error, even at a weight of 1; a shrinkage chosen by looking at the estimates (use
    :func:`offline_eval.slope`).

    **Source**: Su, Dimakopoulou, Krishnamurthy and Dudík, "Doubly robust off-policy evaluation with shrinkage", ICML 2020.
    """

    shrinkage: float = 100.0
    name: ClassVar[str] = "dr_os"
    shrinks_ones: ClassVar[bool] = True  # so the logging policy's own value leans to the predictions

    def __post_init__(self) -> None:
        check_positive(self.shrinkage, "shrinkage", "100 is usual; dr has none, dm corrects nothing")

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term with denominator 1; diagnostics see the weights before they shrink."""
        rows = checked(feedback)
        w = weights(rows)
        target, logged = predictions(rows, self.name)
        numerator = rows.reward - logged
        # w / (w^2 / shrinkage + 1) cannot overflow: weights beyond 1e130 are refused
        numerator *= w / (w * w / self.shrinkage + 1.0)
        numerator += target
        return Contributions(numerator[None], ones(w.size)[None], rows.cluster, w)


@dataclass(frozen=True)
class SubGaussianDR:
    """Doubly robust with smoothed weights: ``sum (v_i + s_i (r_i - q_i)) / n``, ``s_i = w_i / (1 - strength + strength w_i)``.

    **When it fails**: biased by the model's error where weights are heavy; less than :class:`offline_eval.bandit.SubGaussianIPS` where the
    model is better than nothing.

    **Source**: Metelli, Russo and Restelli, NeurIPS 2021.
    """

    strength: float = 0.1
    name: ClassVar[str] = "sg_dr"

    def __post_init__(self) -> None:
        check_strength(self.strength)

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term with denominator 1; diagnostics see the weights before they are smoothed."""
        rows = checked(feedback)
        w = weights(rows)
        target, logged = predictions(rows, self.name)
        numerator = rows.reward - logged
        numerator *= smoothed(w, self.strength)
        numerator += target
        return Contributions(numerator[None], ones(w.size)[None], rows.cluster, w)


REGISTRY: dict[str, Estimator] = {e.name: e for e in (DM(), DR(), SNDR(), SwitchDR(), ShrunkDR(), SubGaussianDR())}
"""Estimators by name, with default options."""
