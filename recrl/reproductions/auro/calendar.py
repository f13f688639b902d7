"""Users side by side on one calendar, and what acts on them without learning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Final

import torch
from torch import Tensor

from recrl.core.contracts import Action, Observation, Transitions
from recrl.core.torch.streams import TensorStreams
from simulators.response import LatentResponse
from simulators.state import UserState
from simulators.world import RetentionWorld

Choose = Callable[[Any, Observation], Action]
"""From the state and what is seen of it to actions."""

COUNTED: Final = ("requests", "sessions", "next_day", "expected", "returns", "gap_days")

Day = dict[str, float]
"""Sums over a day of ``COUNTED``: requests, sessions that ended, next-day returns drawn, expected day-1 hazards, returns and the days away
before them."""


def flat(observation: Observation) -> Observation:
    """The flat view alone."""
    return Observation(features=observation.features, user=observation.user)


class Calendar:
    """Users on one calendar: each day those who are back live through their sessions; the churned are replaced the next day.

    Args:
        world: where they live.
        users: how many.
        seed: of users and luck.
        today: the first day.
    """

    def __init__(self, world: RetentionWorld, users: int, seed: int, today: int = 0) -> None:
        self.world, self._streams, self._next = world, TensorStreams(seed), users
        self._number = torch.arange(users)
        self._told = torch.zeros(len(COUNTED), users, dtype=torch.float64)
        self.state = self._fresh(self._number, today)

    def _fresh(self, numbers: Tensor, today: int) -> UserState:
        state = self.world.initial_state(self.world.users_numbered(numbers, self._streams.seed), self._streams)
        return replace(state, day=state.day + today)

    def _put(self, index: Tensor, rows: UserState) -> None:
        self.state = UserState(*(getattr(self.state, f.name).index_copy(0, index, getattr(rows, f.name)) for f in fields(UserState)))

    @torch.no_grad()
    def live(self, today: int, choose: Choose, take: Callable[[Transitions], None] | None = None) -> Day:
        """One day of everybody; ``take`` gets the transitions of each request, whose environment is the period of the drift."""
        before_today = self._told.sum(1)
        environment = today // self.world.config.drift.period if self.world.drift is not None else 0
        while len(index := (self.state.alive & (self.state.day < today + 1)).nonzero().squeeze(1)):
            before = self.state[index]
            seen = self.world.observe(before)
            action = choose(before, seen)
            after, outcome = self.world.transition(before, action.value, self._streams)
            self._put(index, after)
            ends, back = outcome.session_end, outcome.session_end & ~outcome.terminated
            hazard = outcome.truth["return_hazards"][:, 0]
            counts = (torch.ones_like(hazard), ends, outcome.gap_days == 1, torch.where(ends, hazard, 0.0), back, back * outcome.gap_days)
            self._told[:, self._number[index]] += torch.stack([values.to(torch.float64) for values in counts])
            if take is not None:
                never, notes = torch.zeros_like(ends), {**action.notes, "environment": torch.full_like(index, environment)}
                then, law = flat(self.world.observe(after)), action.log_prob
                take(Transitions(flat(seen), action.value, outcome.reward, then, outcome.terminated, never, ends, law, notes=notes))
        if len(gone := (~self.state.alive).nonzero().squeeze(1)):
            numbers = torch.arange(self._next, self._next + len(gone))
            self._put(gone, self._fresh(numbers, today + 1))
            self._number[gone] = numbers
            self._told = torch.cat([self._told, self._told.new_zeros(len(COUNTED), len(gone))], dim=1)
            self._next += len(gone)
        return dict(zip(COUNTED, (self._told.sum(1) - before_today).tolist(), strict=True))

    def by_user(self) -> dict[str, list[float]]:
        """Sums of every user who ever was here, by number: the same number is the same user under every method."""
        return {name: [round(x, 6) for x in values.tolist()] for name, values in zip(COUNTED, self._told, strict=True)}


def chooser(policy: Any, streams: TensorStreams, deterministic: bool = False) -> Choose:
    """A policy's choice; its draws depend on the user and the user's own step."""
    return lambda state, seen: policy.act(flat(seen), streams, step=state.draw_step, deterministic=deterministic)


def static(weights: Tensor) -> Choose:
    """The same weights for everybody, always."""
    return lambda state, seen: Action(weights.expand(len(state), -1))


def oracle(world: RetentionWorld) -> Choose:
    """The slate of the highest true expected satisfaction on the day: greedy, no proved bound over whole lives."""
    response, worth = world.response, torch.tensor(world.satisfaction.weights)
    assert isinstance(response, LatentResponse)

    def choose(state: UserState, seen: Observation) -> Action:
        assert seen.candidates is not None
        logits = response.logits(state.user, seen.candidates)
        shift = None if world.drift is None else world.drift.response_shift(state.day)
        chances = response.marginals(logits if shift is None else logits + shift.unsqueeze(1))
        return Action(seen.candidates.gather(1, (chances @ worth).topk(world.config.shown, dim=1).indices))

    return choose
