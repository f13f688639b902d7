"""Users who live in a simulated world, and comparisons of their states and outcomes bit for bit."""

from __future__ import annotations

from dataclasses import fields, replace

import torch

from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams


def act(world, state, seed=9):
    """An action that depends on the user and its own step alone."""
    spec, streams = world.action_spec, TensorStreams(seed)
    if spec.is_vector:
        return streams.uniform(state.uid, state.counter, Purpose.EXPLORATION, spec.shape) * 2 - 1
    pool = world.observe(state).candidates
    if pool is None:
        pool = torch.arange(world.n_items).expand(len(state), -1)
    noise = streams.uniform(state.uid, state.counter, Purpose.EXPLORATION, (pool.shape[1],))
    chosen = pool.gather(1, noise.topk(spec.shape[0] if spec.shape else 1, dim=1).indices)
    return chosen if spec.shape else chosen.squeeze(1)


def live(world, users, steps, seed=5):
    streams = TensorStreams(seed)
    state = world.initial_state(users, streams)
    outcomes = []
    for _ in range(steps):
        state, outcome = world.transition(state, act(world, state), streams)
        outcomes.append(outcome)
    return state, outcomes


def assert_same(a, b):
    for f in fields(a):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if isinstance(x, dict):
            assert x.keys() == y.keys()
            assert all(torch.equal(x[k], y[k]) for k in x)
        elif x is None:
            assert y is None
        else:
            assert torch.equal(x, y), f.name


def rows(outcome, index):
    return replace(
        outcome,
        **{f.name: getattr(outcome, f.name)[index] for f in fields(outcome) if f.name != "truth" and getattr(outcome, f.name) is not None},
        truth={k: v[index] for k, v in outcome.truth.items()},
    )
