"""What logged rows say of a policy: NCIS with cap 10, SNIPS and DR, with user-clustered intervals and the effective sample size of each.

Two policies are compared on the same rows with their users paired: an interval of the difference holds the sampling of users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offline_eval import DR, NCIS, SNIPS, interval
from offline_eval.contributions import difference
from offline_eval.diagnostics import effective_sample_size
from recrl.core.contracts import Contributions, LoggedFeedback, Transitions

CAP = 10.0
ESTIMATORS = (NCIS(CAP), SNIPS(), DR())
Judged = dict[str, dict[str, Any]]
Gains = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True, eq=False)
class Told:
    """All that estimates need of a policy: log-probabilities of the logged actions (n,), and predicted rewards under it (n, signals)."""

    logged: Tensor
    value: Tensor


def picked(law: Tensor, action: Tensor) -> Tensor:
    """The entries of ``action`` (n,) in ``law`` (n, items)."""
    return law.gather(1, action.unsqueeze(1)).squeeze(1)


class Estimates:
    """The rows of a part of a log.

    Args:
        part: the rows, with their users.
        signals: names of the rewards.
        behaviour: log-probabilities of every item under the logging policy, (n, items).
        predicted: rewards of every item, (n, items, signals), fitted on other rows.
    """

    def __init__(self, part: Transitions, signals: tuple[str, ...], behaviour: Tensor, predicted: Tensor) -> None:
        assert part.cluster is not None
        self._part, self._signals, self._predicted, self._user = part, signals, predicted, part.cluster.numpy()
        self._own = picked_rewards(predicted, part.action)
        self.logged = self.told(behaviour)

    def told(self, law: Tensor) -> Told:
        """What the rows need of a policy's law (n, items)."""
        return Told(picked(law, self._part.action).double(), torch.einsum("ni,nis->ns", law.exp(), self._predicted).double())

    def always(self, item: int) -> Told:
        """The policy that always shows one item."""
        shows = self._part.action == item
        return Told(torch.where(shows, 0.0, -torch.inf).double(), self._predicted[:, item].double())

    def contributions(self, told: Told, signal: str) -> dict[str, Contributions]:
        """By estimator."""
        k = self._signals.index(signal)
        logged, behaviour, reward, value, own = (
            x.double().numpy() for x in (told.logged, self.logged.logged, self._part.reward[:, k], told.value[:, k], self._own[:, k])
        )
        rows = LoggedFeedback(reward, logged, behaviour, self._user, value, own)
        return {estimator.name: estimator.contributions(rows) for estimator in ESTIMATORS}

    def judged(self, told: Told) -> Judged:
        """Estimates of each signal; ``effective_rows`` are of the estimator's own weights: capped for NCIS, as they are for the others."""
        out: Judged = {}
        for k, signal in enumerate(self._signals):
            out[signal] = {"events": int((self._part.reward[:, k] > 0).sum())}
            for name, each in self.contributions(told, signal).items():
                weights = np.asarray(each.weights)
                # a policy that never shows what was shown has no estimate
                one = interval(each) if weights.any() else None
                ends = {"value": one.value, "lower": one.lower, "upper": one.upper} if one else dict.fromkeys(("value", "lower", "upper"))
                out[signal][name] = {**ends, "effective_rows": effective_sample_size(weights)}
        return out

    def gains(self, told: Told, against: Told) -> Gains:
        """By signal and estimator, how far a policy is above another: the difference, its interval over paired users, standard error."""
        out: Gains = {}
        for signal in self._signals:
            ours, theirs = self.contributions(told, signal), self.contributions(against, signal)
            out[signal] = {}
            for name in ours:
                one = interval(difference(ours[name], theirs[name]))
                out[signal][name] = {"value": one.value, "lower": one.lower, "upper": one.upper, "standard_error": one.standard_error}
        return out


def picked_rewards(predicted: Tensor, action: Tensor) -> Tensor:
    """Predicted rewards (n, signals) of the logged actions."""
    return predicted[torch.arange(len(action)), action]


def effective_share(judged: Judged, logged: Judged) -> float:
    """Effective rows of capped weights as a share of all rows; ``logged`` are the estimates of the log itself, whose weights are 1."""
    rows: Mapping[str, Any] = next(iter(logged.values()))
    return float(next(iter(judged.values()))["ncis"]["effective_rows"] / rows["ncis"]["effective_rows"])
