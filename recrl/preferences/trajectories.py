"""Trajectories as preferences read them: flat row numbers, and where sessions end and users come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.core.contracts import Observation, Transitions, World
from recrl.core.errors import ConfigError
from recrl.core.ragged import Offsets
from recrl.core.torch.streams import TensorStreams
from recrl.replay.session_buffer import SessionBuffer
from recrl.replay.sessions import Int64, Segments

_CHUNK = 65_536


class Trajectories:
    """Whole lives of users, one after the other, with a flat numbering of their rows that pairs are stored in.

    Args:
        source: trajectories of users (``unit="user"``): :class:`recrl.replay.sessions.LoggedSessions` over a log, or
            :class:`recrl.replay.session_buffer.SessionBuffer` over what was collected. It must not change afterwards.
        returns: column of the reward that holds minus the return gap in days at the end of a session.

    **Shapes**: n rows, S segments: ``offsets`` cuts the rows; ``user`` (S,); ``ends`` (n,) bool, a session ends with the row; ``gap_days``
    (n,) float64, days until the user came back, where it ends; ``known`` (n,) bool, the row's session ended and its user was seen again.
    """

    def __init__(self, source: Segments, returns: int = 0) -> None:
        self.source = source
        self.offsets = Offsets.from_lengths(source.lengths())
        count = self.offsets.total
        self.ends, self.gap_days = np.zeros(count, dtype=bool), np.zeros(count)
        user = np.zeros(count, dtype=np.int64)
        for first in range(0, self.offsets.count, segments := max(1, _CHUNK * self.offsets.count // max(1, count))):
            last = min(first + segments, self.offsets.count)
            low, high = self.offsets.values[[first, last]]
            rows = self.take(self.offsets.values[first:last], self.offsets.values[first + 1 : last + 1])
            if rows.cluster is None:
                raise ConfigError("trajectories do not tell their user", where="Trajectories.source", mend="fill Transitions.cluster")
            self.ends[low:high] = rows.session_end.cpu().numpy()
            self.gap_days[low:high] = -rows.reward[:, returns].double().cpu().numpy()
            user[low:high] = rows.cluster.cpu().numpy()
        self.gap_days[~self.ends] = 0.0
        self.user = user[self.offsets.values[:-1].clip(max=max(0, count - 1))] if count else user
        self.known = self._known()

    def __len__(self) -> int:
        return self.offsets.total

    def _known(self) -> NDArray[np.bool_]:
        """Of the last session of a segment nobody knows when the user came back, nor of an unfinished one."""
        final = np.zeros(len(self), dtype=bool)
        final[self.offsets.values[1:][self.offsets.lengths > 0] - 1] = True
        return_seen = self.ends & ~final
        after = np.add.accumulate(return_seen[::-1])[::-1] if len(self) else return_seen
        # a row counts while a seen return still lies ahead in its own segment
        beyond = np.append(after, 0)[self.offsets.values[1:]]
        known: NDArray[np.bool_] = after > np.repeat(beyond, self.offsets.lengths)
        return known

    def take(self, start: Int64, end: Int64) -> Transitions:
        """The rows ``start .. end`` (G,) of each stretch, one after the other, with ``segments`` that cut them."""
        segment = np.searchsorted(self.offsets.values, start, side="right") - 1
        return self.source.gather(segment, start - self.offsets.values[segment], end - start)


class FixedBuffer:
    """Transitions in memory that do not change: what samplers draw from after a simulation."""

    def __init__(self, transitions: Transitions) -> None:
        self._all, self.device = replace(transitions, segments=None), transitions.reward.device

    def __len__(self) -> int:
        return len(self._all)

    def gather(self, index: Tensor) -> Transitions:
        """Transitions of the rows ``index`` (B,)."""
        picked: dict[str, Any] = {}
        for f in fields(Transitions):
            value = getattr(self._all, f.name)
            if isinstance(value, Observation):
                picked[f.name] = value.map(lambda array: array.index_select(0, index))
            elif isinstance(value, Tensor):
                picked[f.name] = value.index_select(0, index)
        return Transitions(**{**picked, "index": index, "notes": {name: v.index_select(0, index) for name, v in self._all.notes.items()}})


def simulate_log(
    world: World, users: Tensor, act: Callable[[Any, TensorStreams], Tensor], streams: TensorStreams, most: int = 1_000
) -> SessionBuffer:
    """Whole lives of ``users`` (B,) under ``act(state, streams)``, for preferences and learning; a segment a user.

    Args:
        world: users live in it until it ends or cuts their lives.
        users: their ids.
        act: the logging policy.
        streams: of users and their luck.
        most: requests after which a life is cut in any case.
    """
    state = world.initial_state(users, streams)
    gone = torch.zeros(len(users), dtype=torch.bool, device=users.device)
    # every row of a batch is a lane's; those of users who are gone never close, and are not drawn
    log = SessionBuffer(len(users) * most, unit="user", max_length=most)
    for step in range(most):
        action = act(state, streams)
        after, outcome = world.transition(state, action, streams)
        over = (outcome.terminated | outcome.truncated) if step + 1 < most else ~gone
        log.add(
            Transitions(
                observation=world.observe(state),
                action=action,
                reward=outcome.reward,
                next_observation=world.observe(after),
                terminated=outcome.terminated & ~gone,
                truncated=(over & ~outcome.terminated) & ~gone,
                session_end=outcome.session_end,
                cluster=users,
            )
        )
        gone, state = gone | over, after
        if bool(gone.all()):
            break
    return log


def all_rows(log: SessionBuffer) -> Transitions:
    """Every closed step of a buffer, in the order of its segments."""
    lengths = log.lengths()
    return log.gather(np.arange(lengths.size), np.zeros_like(lengths), lengths)
