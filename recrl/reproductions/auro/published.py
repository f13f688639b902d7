"""AURO's own environment: 64 users in step, sessions of 10 requests, the multiplier held for 1,000 steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from recrl.algorithms.cem import CEM, CEMConfig
from recrl.algorithms.task import Task
from recrl.core.contracts import Action, Observation, Transitions
from recrl.core.objective import Constraint, Objective, Signal
from recrl.core.torch.streams import TensorStreams
from recrl.replay.ring import RingBuffer
from recrl.replay.samplers import UniformSampler
from recrl.reproductions.auro.calendar import Choose, chooser, flat, static
from recrl.reproductions.auro.learners import RETURN, Budget, learner_of
from recrl.reproductions.study import Cell
from recrl.training.online import UniformActions
from simulators.fidelity.auro import AuroConfig, AuroWorld
from simulators.fidelity.users import StandInUsers

Curve = list[Tensor]
"""Expected return day and day-1 share of each user, (2, users), in each session."""

_DAYS: Final = torch.arange(1.0, 11.0)
USERS, WARMUP_STEPS, LUCK = 64, 20, 1_000_003
"""Users in step; steps of random actions; added to a cell's seed, of the fresh users and the luck of the frozen policy."""


@dataclass(frozen=True)
class InPublished:
    """Cells of AURO's environment; ``least`` has weights of -1 for all behaviours, which elicits the least feedback."""

    budget: Budget

    def __call__(self, cell: Cell) -> dict[str, Any]:
        """Expected return day (ARD) and day-1 share while learning, and of the frozen policy with fresh users."""
        world = AuroWorld(AuroConfig(drift="held"), StandInUsers(n_users=500, n_items=300), seed=cell.seed)
        curve: Curve = []
        if cell.method == "least":
            acting = static(-torch.ones(7))
        elif cell.method == "cem":
            acting = _searched(world, self.budget, cell.seed)
        else:
            acting, curve = _learned(world, cell.method, cell.seed, self.budget)
        frozen = lived(world, acting, 100, 256, LUCK + cell.seed)
        told: dict[str, Any] = {}
        for name, users in zip(("ard", "day_1"), torch.stack(frozen).mean(0), strict=True):
            # the standard error over users, who each live through all of the sessions
            told |= {name: float(users.mean()), f"{name}_users_error": float(users.std()) / len(users) ** 0.5}
        return told | ({"acting_ard": float(torch.stack(curve[-50:])[:, 0].mean())} if curve else {})


def lived(world: AuroWorld, choose: Choose, steps: int, lanes: int, luck: int, take: Callable[[Transitions], None] | None = None) -> Curve:
    """What ``lanes`` users do, who are replaced every 100 steps."""
    streams, curve, state = TensorStreams(luck), [], None
    for step in range(steps):
        if step % 100 == 0:
            state = world.initial_state(world.population(lanes, luck + step), streams, clock=step)
        assert state is not None
        seen = world.observe(state)
        action = choose(state, seen)
        state, outcome = world.transition(state, action.value, streams)
        if bool(outcome.session_end.all()):
            law = outcome.truth["return_days"]
            curve.append(torch.stack([law @ _DAYS, law[:, 0]]))
        if take is not None:
            never, notes = torch.zeros_like(outcome.terminated), {**action.notes, "environment": torch.full((lanes,), step // 1_000)}
            reward, then = outcome.reward.flip(1), flat(world.observe(state))
            take(Transitions(flat(seen), action.value, reward, then, never, never, outcome.session_end, action.log_prob, notes=notes))
    return curve


def _searched(world: AuroWorld, budget: Budget, seed: int) -> Choose:
    cem = CEM(CEMConfig(), Task(world.action_spec, item_vectors=torch.zeros(1, 2)), seed)
    for generation in range(budget.generations):
        cem.ask(budget.candidates, generation)
        cem.tell(torch.stack([-torch.stack(lived(world, static(w), 10, 128, generation))[:, 0].mean() for w in cem.asked]))
    return static(cem.mean)


def _learned(world: AuroWorld, method: str, seed: int, budget: Budget) -> tuple[Choose, Curve]:
    """The policy of a learner that has acted and learned, an update a step, and its curve."""
    objective, streams = Objective(RETURN, (Constraint(Signal("click", 1.0, 0.9, 0.9), "at_least"),)), TensorStreams(seed)
    learner = learner_of(method, world.users.state_dim, world.action_spec, objective, seed)
    ring = RingBuffer(50_000)
    sampler, steps = UniformSampler(ring, None, seed), 0
    warm, act = chooser(UniformActions(world.action_spec), streams), chooser(learner.collect_policy(), streams)

    def choose(state: Any, seen: Observation) -> Action:
        if steps >= WARMUP_STEPS:
            return act(state, seen)
        # the released rules learn from the encoded state, so warm-up stores it too
        z = {"z": learner.policy().actor.encoder(flat(seen)).detach()} if method == "shipped" else {}
        return replace(warm(state, seen), notes=z)

    def take(batch: Transitions) -> None:
        nonlocal steps
        steps += 1
        learner.observe(batch)
        ring.add(batch)
        if steps > WARMUP_STEPS:
            learner.update(sampler.sample(budget.batch, steps))

    curve = lived(world, choose, budget.steps, USERS, seed + 1, take)
    return chooser(learner.policy(), streams, True), curve
