"""The PrefRec study on logged rows: KuaiRand-Pure, where nobody can be asked what a policy would have reached.

- **Users** are cut 80/20: the first are learned from (item vectors, standardiser, clone, rewards, policies), the others judge.
- **Action** of a row: the vector of the shown video, 8 numbers in [-1, 1], a truncated SVD of who saw and watched what among the users who
  are learned from; a video that they have not seen has the zero vector. A policy's action is the vector it asks for.
- **State**: means of the vectors of the last 20 videos (all, watched long, liked), rates of their behaviours, days since the last session,
  place in the session, sessions so far, hour.
- **Session**: a calendar day; its depth, and the days until the user is back, at most 10. Both are judged only where the user came back
  within the log. Segments are of 6 requests, every 3: most users have no 24.
- **Judged** by NCIS capped at 10, policy and clone both Gaussian with the spread of the logged actions around the clone, and beside it a
  sixth of the range; intervals over users.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recrl.core.contracts import ActionSpec, Observation, Transitions
from recrl.core.objective import Objective, Signal
from recrl.core.streams import Purpose, Streams
from recrl.pipeline.setting import svd_item_vectors
from recrl.policies.encoders import EncoderConfig, HistoryEncoder, build_encoder
from recrl.preferences.trajectories import Trajectories
from recrl.preferences.windows import WindowConfig
from recrl.replay.logged import LoggedBuffer
from recrl.replay.sessions import Int64, LoggedSessions, Segments
from recrl.reproductions.prefrec.bench import Bench, Logged
from recrl.reproductions.prefrec.estimates import Act, Estimates
from recrl.reproductions.prefrec.grounds import Seen
from recrl.reproductions.prefrec.recipes import Budget
from recrl_datasets import Log, prepare, sessions

VECTOR, HISTORY, LEARNED_SHARE, SIXTH = 8, 20, 0.8, 1 / 3
LESS = 3
"""Every learner, clone and reward has this part of the budget's steps: there is little to learn from rows that are nearly a bandit."""
_WINDOWS = WindowConfig(length=6, stride=3)


class Encoded:
    """Users of a log with flat features in the place of their histories.

    Args:
        log: their rows.
        encoder: of states.
    """

    def __init__(self, log: Segments, encoder: HistoryEncoder) -> None:
        self._log, self._encoder = log, encoder

    def lengths(self) -> Int64:
        """Rows of each user."""
        return self._log.lengths()

    @torch.no_grad()
    def gather(self, segment: Int64, start: Int64, length: Int64) -> Transitions:
        """Stretches of the log."""
        batch = self._log.gather(segment, start, length)
        states = (Observation(features=self._encoder(o), user=o.user) for o in (batch.observation, batch.next_observation))
        return replace(batch, observation=next(states), next_observation=next(states))


@dataclass(frozen=True, eq=False)
class Halves:
    """Users of a log: those who are learned from, and those who judge."""

    learned: Encoded
    judges: Encoded
    features: int


def kuairand(root: Path, stores: Path) -> Log:
    """The rows of KuaiRand-Pure, the first of each request."""
    log = prepare("kuairand-pure", root, stores=stores).log()
    first = np.zeros(log.n_rows, dtype=bool)
    first[sessions(log, rule="day").rows.values[:-1]] = True
    return log.select(first)


def halves(log: Log, seed: int) -> Halves:
    """The users of a log cut in two by ``seed``; item vectors are those of the ones who are learned from."""
    learns = Streams(seed).uniform(np.arange(log.n_users), 1, Purpose.SPLITS) < LEARNED_SHARE
    views = [log.select(part[log.column("user")]) for part in (learns, ~learns)]
    vectors = svd_item_vectors(views[0], VECTOR)
    encoder = build_encoder(EncoderConfig(history=HISTORY), vectors)
    assert isinstance(encoder, HistoryEncoder)
    objective = Objective(Signal("return")).protecting(("click",))
    buffer = LoggedBuffer(log, objective, history=HISTORY, session_rule="day", encode_action=lambda user, item: vectors[item])
    learned, judges = (Encoded(LoggedSessions(buffer, view, "user"), encoder) for view in views)
    return Halves(learned, judges, encoder.width)


class RowsBench(Bench):
    """What the cells of a seed share: its cut of the users, and what is learned from one part of them.

    Args:
        log: rows of single videos.
        seed: of the cut, teachers, networks and batches.
        budget: what a cell may spend.
        folder: where clones and learned rewards are kept.
    """

    def __init__(self, log: Log, seed: int, budget: Budget, folder: Path) -> None:
        cut = halves(log, seed)
        self._judges = cut.judges
        logged = Logged(cut.learned, ActionSpec("embedding", (VECTOR,)), cut.features, click=1, returns=0, windows=_WINDOWS)
        steps = {name: max(1, getattr(budget, name) // LESS) for name in ("updates", "cloning_updates", "pretraining_steps")}
        super().__init__(logged, seed, replace(budget, **steps), folder)

    @property
    def ended(self) -> NDArray[np.bool_]:
        """Rows that end a session after which the user was seen again."""
        return self.trajectories.ends & self.trajectories.known

    @cached_property
    def noise(self) -> float:
        """Spread of the logged actions around the clone."""
        apart = self.rows.action - self.behaviour.centre(self.rows.observation).detach()
        return float(apart.square().mean().sqrt())

    @cached_property
    def estimates(self) -> Estimates:
        """From the users who judge."""
        log = Trajectories(Seen(self._judges, self.scale), returns=self.logged.returns)
        return Estimates(log, self.behaviour.centre)

    def judged(self, act: Act) -> dict[str, Any]:
        """What is estimated (``ncis_depth``, ``ncis_gap_days``, ``ess``), the gain over the log as a share (``gain_depth``,
        ``gain_gap_days``), the same with a sixth of the action range as spread (``sixth``), and who judged.
        """
        found: dict[str, Any] = self.estimates.of(act, self.noise) | self._gains(act, self.noise)
        found["sixth"] = self.estimates.of(act, SIXTH) | self._gains(act, SIXTH)
        return found | {"users": self.estimates.users, "sessions": self.estimates.sessions, "noise": self.noise}

    def _gains(self, act: Act, noise: float) -> dict[str, Any]:
        return {f"gain_{signal}": told for signal, told in self.estimates.gains(act, noise).items()}
