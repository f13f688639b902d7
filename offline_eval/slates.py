"""Estimators for slates whose positions are judged one by one: a trajectory of ``LoggedFeedback`` is a slate, its rows are the positions.

``w_k = pi(a_k | x) / mu(a_k | x)`` is the weight of a position alone: log-probabilities are those of the item at the position, whatever
stands elsewhere. What is assumed of users decides what may be used:

| a position's reward depends on | estimator |
|---|---|
| the whole slate | ``tis`` (standard IPS) with log-probabilities whose sum is the slate's |
| its own item and those above (cascade) | ``pdis`` (reward-interaction IPS), with predictions ``seq_dr`` (cascade-DR) |
| its own item | ``iips`` |
| only the slate's total is known, and it is a sum over positions | ``pseudo_inverse`` |

The first two take log-probabilities of an item given those above it. All four are the same where the positions are drawn independently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from offline_eval.trajectories import trajectories
from offline_eval.validation import weights
from recrl.core.contracts import Contributions, Estimator, LoggedFeedback


@dataclass(frozen=True)
class IndependentIPS:
    """Independent IPS of slates: ``sum_i sum_k w_ik g_ik r_ik / N``, ``g`` the discounts before a position (1 where absent).

    Unbiased where a position's reward depends on its own item alone. **When it fails**: users compare items, or stop at the first good one.

    **Source**: Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay and Wen, "Offline evaluation of ranking policies with click models",
    KDD 2018 (item-position model).
    """

    name: ClassVar[str] = "iips"

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term a slate with denominator 1; its weight is the mean of its positions'."""
        slates = trajectories(feedback)
        w = weights(slates.rows)
        numerator = slates.sum(w * slates.present * slates.rows.reward)
        return Contributions(numerator[None], np.ones((1, numerator.size)), slates.cluster, slates.sum(w) / slates.lengths)


@dataclass(frozen=True)
class PseudoInverse:
    """Pseudo-inverse estimator for a logger that draws positions independently: ``sum_i (1 - K_i + sum_k w_ik) R_i / N``.

    ``R_i`` is the slate's total. Unbiased where its expectation is a sum over positions of what each item is worth there, which nobody
    needs to know. For such a logger the pseudo-inverse of the paper has this closed form.

    **When it fails**: items compete or complete each other; the logger's positions depend on each other (draws without replacement). A
    slate's factor may be negative.

    **Source**: Swaminathan, Krishnamurthy, Agarwal, Dudík, Langford, Jose and Zitouni, NeurIPS 2017 (equation 5 for product distributions).
    """

    name: ClassVar[str] = "pseudo_inverse"

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """One term a slate with denominator 1; its weight is the mean of its positions'."""
        slates = trajectories(feedback)
        total = slates.sum(weights(slates.rows))
        numerator = (1.0 - slates.lengths + total) * slates.returns()
        return Contributions(numerator[None], np.ones((1, numerator.size)), slates.cluster, total / slates.lengths)


REGISTRY: dict[str, Estimator] = {e.name: e for e in (IndependentIPS(), PseudoInverse())}
"""Estimators by name."""
