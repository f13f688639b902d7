"""What importance weights around a clone of the logging policy say of others, from rows of a log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offline_eval import NCIS, TrajectoryNCIS, interval, value
from offline_eval.contributions import difference
from offline_eval.diagnostics import effective_sample_size
from recrl.core.contracts import LoggedFeedback, Observation, Transitions
from recrl.core.ragged import Offsets
from recrl.preferences.trajectories import FixedBuffer, Trajectories
from recrl.replay.sessions import Segments

Act = Callable[[Observation], Tensor]
Float64 = NDArray[np.float64]
CAP = 10.0
SIGNALS = ("depth", "gap_days")


def all_of(log: Segments) -> Transitions:
    """Every row, user by user."""
    lengths = log.lengths()
    rows = log.gather(np.arange(lengths.size), np.zeros_like(lengths), lengths)
    return replace(rows, segments=None)


def depths(log: Trajectories) -> Float64:
    """Requests of the session that ends with a row, 0 elsewhere; sessions begin after an end and with each user."""
    cuts = log.ends.copy()
    cuts[log.offsets.values[1:] - 1] = True
    at, depth = np.flatnonzero(cuts), np.zeros(len(log))
    depth[at] = np.diff(at, prepend=-1)
    return np.where(log.ends, depth, 0.0)


class Estimates:
    """Rows of sessions after which the user was seen again, each with its session's depth and gap; both policies count as Gaussians.

    Args:
        log: of the users who judge.
        behaviour: mean of the logging policy.
    """

    def __init__(self, log: Trajectories, behaviour: Act) -> None:
        keep, ends = np.flatnonzero(log.known), np.flatnonzero(log.ends)
        session = np.searchsorted(ends, keep)
        self._rows = FixedBuffer(all_of(log.source)).gather(torch.from_numpy(keep))
        self._value = {"depth": depths(log)[ends][session], "gap_days": log.gap_days[ends][session]}
        self.sessions = int(np.unique(session).size)
        self._user = log.user[np.searchsorted(log.offsets.values, keep, side="right") - 1]
        self._lives = Offsets.from_starts(np.append(True, self._user[1:] != self._user[:-1]))
        self._theirs = self._far(behaviour)

    @property
    def users(self) -> int:
        """How many of them judge."""
        return self._lives.count

    @torch.no_grad()
    def _far(self, centre: Act) -> Float64:
        """Squared distance of the logged actions to a policy's, (n,)."""
        apart: Tensor = self._rows.action - centre(self._rows.observation)
        return apart.square().sum(1).double().numpy()

    def feedback(self, signal: str, ours: Float64, noise: float) -> LoggedFeedback:
        """The rows for a policy whose actions lie ``ours`` (n,) from the logged ones."""
        target, behaviour = (-0.5 * far / noise**2 for far in (ours, self._theirs))
        return LoggedFeedback(self._value[signal], target, behaviour, self._user, trajectory=self._lives)

    def ess(self, ours: Float64, noise: float) -> float:
        """Share of effective rows of capped weights."""
        weight = np.exp(np.minimum(0.5 * (self._theirs - ours) / noise**2, np.log(CAP)))
        return effective_sample_size(weight) / len(weight)

    def of(self, act: Act, noise: float) -> dict[str, float]:
        """NCIS of depth and gap, a trajectory a user, weights capped at 10; and the share of effective rows."""
        ours, estimator = self._far(act), TrajectoryNCIS(cap=CAP)
        found = {f"ncis_{signal}": float(value(estimator.contributions(self.feedback(signal, ours, noise)))) for signal in SIGNALS}
        return found | {"ess": self.ess(ours, noise)}

    def gains(self, act: Act, noise: float) -> dict[str, dict[str, float]]:
        """By signal, of the form over trajectories and of the pooled one: gain over the log's own value as a share of it, with its interval
        over users, and that value.
        """
        ours, found = self._far(act), {}
        for signal in SIGNALS:
            rows, own = (self.feedback(signal, far, noise) for far in (ours, self._theirs))
            told: dict[str, float] = {}
            for prefix, estimator in (("", TrajectoryNCIS(cap=CAP)), ("pooled_", NCIS(cap=CAP))):
                logged = estimator.contributions(own)
                level = float(value(logged))
                gain = interval(difference(estimator.contributions(rows), logged))
                parts = {"logged": level, "gain": gain.value / level, "low": gain.lower / level, "high": gain.upper / level}
                told |= {f"{prefix}{name}": x for name, x in parts.items()}
            found[signal] = told
        return found
