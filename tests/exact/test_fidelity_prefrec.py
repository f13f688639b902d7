"""PrefRec's reference environment against its formulas, written out user by user."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from recrl.core.contracts import World
from recrl.core.errors import ConfigError, ContractError
from recrl.core.streams import Purpose, Streams
from recrl.core.torch.streams import TensorStreams
from simulators.fidelity.prefrec import PrefRecConfig, PrefRecWorld


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def clip(z, low, high):
    return max(low, min(high, z))


def test_lives_follow_the_formulas():
    """Five users, 60 requests, each number by hand in double precision; draws that lie on an edge would differ, none does."""
    world, seed = PrefRecWorld(PrefRecConfig(seed=3)), 11
    assert isinstance(world, World)
    streams, draws = TensorStreams(seed), Streams(seed)
    m1, m2 = 0.6 * Streams(3).normal([0, 1], 0, Purpose.INITIALISATION, (6, 6))
    state = world.initial_state(world.population(5), streams)
    lives = []
    for uid in range(5):
        x = draws.normal(uid, 0, Purpose.USERS, (7,))[0]
        lives.append(
            {"x": x[:6], "m": clip(0.5 + 0.15 * x[6], 0, 1), "rates": np.zeros(3), "n": 0, "gap": 0, "depth": 0, "s": 0, "on": True}
        )
    for t in range(60):
        action = world.logged(state, streams)
        state, outcome = world.transition(state, action, streams)
        for uid, u in enumerate(lives):
            if not u["on"]:
                assert not outcome.reward[uid].any()
                continue
            best, bait = 0.7 * np.tanh(u["x"] @ m1), 0.7 * np.tanh(u["x"] @ m2)
            a = np.clip(0.5 * bait + 0.15 * best + 0.3 * draws.normal(uid, t, Purpose.EXPLORATION, (6,))[0], -1, 1)
            np.testing.assert_allclose(action[uid], a, atol=1e-5)
            d, c, lift = ((a - best) ** 2).mean(), ((a - bait) ** 2).mean(), u["m"] - 0.5
            p = sigmoid(np.array([1.5 - 5 * c, 0.3 + 1.2 * lift - 1.5 * d, -1.5 + 2 * lift]))
            happened = draws.uniform(uid, t, Purpose.RESPONSES, (6, 3))[0] < p
            u["rates"] = 0.7 * u["rates"] + 0.3 * happened.mean(0)
            m = clip(u["m"] + 0.25 * (0.28 - d) + 0.05 * draws.normal(uid, t + 1, Purpose.USERS)[0], 0, 1)
            u["n"] += 1
            leaves = draws.uniform(uid, t, Purpose.LEAVING)[0] < sigmoid(-1.6 - 4 * (m - 0.5) + 0.02 * u["n"]) or u["n"] >= 40
            stay = 1 - clip(0.1 + 0.7 * m, 0.05, 0.95)
            gap = 1 + sum(draws.uniform(uid, t, Purpose.RETURN)[0] < stay**k for k in range(1, 10))
            u["m"] = 0.75 * m + 0.125 if leaves else m
            assert bool(outcome.session_end[uid]) == leaves
            assert float(outcome.gap_days[uid]) == (gap if leaves else 0)
            np.testing.assert_allclose(outcome.reward[uid], [*happened.mean(0), -gap if leaves else 0], atol=1e-6)
            assert outcome.feedback[uid].tolist() == (happened @ [1, 2, 4]).tolist()
            if leaves:
                u["gap"], u["depth"], u["n"], u["s"] = gap, u["n"], 0, u["s"] + 1
                u["on"] = u["s"] < 8
                assert bool(outcome.truncated[uid]) != u["on"]
            seen = [*u["x"], *u["rates"], u["n"] / 20, u["gap"] / 10, u["depth"] / 20, u["s"] / 10, 1]
            np.testing.assert_allclose(world.observe(state).features[uid], seen, atol=1e-5)
            assert float(state.satisfaction[uid]) == pytest.approx(u["m"], abs=1e-5)
    assert min(u["s"] for u in lives) >= 3
    assert not all(u["on"] for u in lives)


def test_sessions_end_at_forty_requests_and_users_after_their_sessions():
    world = PrefRecWorld(PrefRecConfig(sessions=2))
    streams = TensorStreams(1)
    state = world.initial_state(world.population(300), streams)
    depth = []
    while bool(state.alive.any()):
        before = state
        state, outcome = world.transition(state, world.suiting(state.taste), streams)
        depth += (before.requests[outcome.session_end] + 1).tolist()
        gone = ~before.alive
        assert all(torch.equal(getattr(state, f.name)[gone], getattr(before, f.name)[gone]) for f in fields(state))
    assert len(depth) == 600
    assert max(depth) == 40


def test_users_do_not_depend_on_their_company():
    world, streams = PrefRecWorld(), TensorStreams(6)
    whole, part = (world.initial_state(users, streams) for users in (world.population(20), world.population(1, first=13)))
    for _ in range(30):
        whole, _ = world.transition(whole, world.logged(whole, streams), streams)
        part, _ = world.transition(part, world.logged(part, streams), streams)
    for f in fields(part):
        torch.testing.assert_close(getattr(part, f.name), getattr(whole, f.name)[13:14])


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="sessions is 0"):
        PrefRecConfig(sessions=0)
    with pytest.raises(ConfigError, match="noise is -1"):
        PrefRecConfig(noise=-1)
    world = PrefRecWorld()
    with pytest.raises(ContractError, match=r"give \(2, 6\)"):
        world.transition(world.initial_state([0, 1], TensorStreams(0)), torch.zeros(2, 5), TensorStreams(0))
