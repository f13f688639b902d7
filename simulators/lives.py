"""Simulated lives, request by request: who acts is a policy, what is made of it is the reader's business.

Users who have churned or passed the horizon leave the batch. Policies are called on blocks of one fixed size, because the last bits of a
matrix product depend on its shape: no number depends on who else lives at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.core.contracts import Action, Observation, Outcome, Policy
from recrl.core.torch.streams import TensorStreams
from simulators.ab.experiment import BLOCK
from simulators.state import UserState
from simulators.world import RetentionWorld

Act = Callable[[Tensor, UserState], Action]
"""Decides for users: their places (B,) among those who live together, and their states."""

TILE = 4096
"""Users in memory at a time, where nothing else is said."""


@dataclass(frozen=True, eq=False)
class Request:
    """One request of every user who is still there.

    **Shapes**: ``place`` (B,) int64 positions among the users; ``state`` before the request; ``action`` and ``outcome`` of it.
    """

    place: Tensor
    state: UserState
    action: Action
    outcome: Outcome


@torch.no_grad()
def requests(world: RetentionWorld, act: Act, users: Tensor, streams: TensorStreams) -> Iterator[Request]:
    """What ``users`` (n,) live through where ``act`` decides, until the last of them is gone."""
    state, place = world.initial_state(users, streams), torch.arange(users.numel(), device=world.device)
    while len(place):
        action = act(place, state)
        after, outcome = world.transition(state, action.value, streams)
        yield Request(place, state, action, outcome)
        left = after.alive.nonzero().squeeze(1)
        state, place = after[left], place[left]


def acting(world: RetentionWorld, policy: Policy, streams: TensorStreams, deterministic: bool = False) -> Act:
    """The policy as one who acts on states: users are observed in ``world``, and each draw depends on the user's own request counter.

    **Shapes**: states of ``B`` users to actions of ``B`` rows.
    """
    return lambda place, state: acted(policy, world.observe(state), streams, state.draw_step, deterministic)


def acted(policy: Policy, observation: Observation, streams: TensorStreams, step: Tensor, deterministic: bool = False) -> Action:
    """The policy's actions for ``B`` users, asked for in blocks of :data:`BLOCK` rows; the last is filled up with its last row."""
    count, parts = len(observation), []
    for low in range(0, count, BLOCK):
        rows: Any = slice(low, low + BLOCK)
        if low + BLOCK > count:
            rows = torch.arange(low, low + BLOCK, device=step.device).clamp_max(count - 1)
        parts.append(policy.act(observation[rows], streams, step=step[rows], deterministic=deterministic))

    def joined(columns: Sequence[Any]) -> Tensor:
        return torch.cat([torch.as_tensor(column) for column in columns])[:count]

    told = None if parts[0].log_prob is None else joined([part.log_prob for part in parts])
    notes = {name: joined([part.notes[name] for part in parts]) for name in parts[0].notes}
    return Action(joined([part.value for part in parts]), told, notes)


@dataclass(frozen=True, eq=False)
class Lives:
    """What became of each user, sums over its life.

    **Shapes**: all ``(n,)`` float64: ``requests``; ``sessions``; ``next_day`` sessions whose user is back the next day; ``returns``
    sessions that a return follows; ``gap_days`` their days; ``reward`` of the objective's main signal.
    """

    requests: NDArray[np.float64]
    sessions: NDArray[np.float64]
    next_day: NDArray[np.float64]
    returns: NDArray[np.float64]
    gap_days: NDArray[np.float64]
    reward: NDArray[np.float64]


def live(
    world: RetentionWorld, policy: Policy, users: Tensor, streams: TensorStreams, *, deterministic: bool = False, tile: int = TILE
) -> Lives:
    """Let ``users`` (n,) live with ``policy``, at most ``tile`` of them at a time."""
    act = acting(world, policy, streams, deterministic)
    parts = [_summed(requests(world, act, part, streams), part.numel()) for part in users.split(tile)]
    return Lives(*torch.cat(parts, dim=1).cpu().numpy())


def live_by_vectors(world: RetentionWorld, vectors: Tensor, users: Tensor, streams: TensorStreams) -> list[Lives]:
    """Let the same ``users`` (n,) live with each of the static ``vectors`` (k, d), with the same luck, all of them side by side."""
    count, vectors = users.numel(), vectors.to(world.device)
    lived = requests(world, lambda place, state: Action(vectors[place // count]), users.repeat(len(vectors)), streams)
    return [Lives(*sums.cpu().numpy()) for sums in _summed(lived, count * len(vectors)).unflatten(1, (len(vectors), count)).unbind(1)]


def _summed(lived: Iterator[Request], users: int) -> Tensor:
    """The rows of :class:`Lives`, (6, users)."""
    sums: Tensor | None = None
    for request in lived:
        outcome = request.outcome
        back = outcome.session_end & ~outcome.terminated
        columns = [
            torch.ones_like(outcome.gap_days),
            outcome.session_end,
            outcome.gap_days == 1,
            back,
            torch.where(back, outcome.gap_days, 0.0),
            outcome.reward[:, 0],
        ]
        rows = torch.stack([column.double() for column in columns])
        sums = torch.zeros(len(rows), users, dtype=torch.float64, device=rows.device) if sums is None else sums
        sums.index_add_(1, request.place, rows)
    assert sums is not None
    return sums
