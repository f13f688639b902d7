"""The published modes as worlds: contract, session ends, memory, drift, and their documented quirks."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from recrl.checks import check_no_sync
from recrl.core.contracts import World
from recrl.core.errors import ConfigError, ContractError
from recrl.core.torch.streams import TensorStreams
from simulators.fidelity.auro import AuroConfig, AuroWorld
from simulators.fidelity.gfn import GfnConfig, GfnWorld
from simulators.fidelity.kuaisim import CrossSession, CrossSessionConfig, RequestLevel, SessionConfig, WholeSession
from simulators.fidelity.laws import RATIOS, gfn_weights, slate_correlation
from simulators.fidelity.users import StandInUsers, UniformUsers

MODES = {
    "request": lambda users, seed=0: RequestLevel(SessionConfig(), users, seed=seed),
    "whole": lambda users, seed=0: WholeSession(SessionConfig(), users, seed=seed),
    "cross": lambda users, seed=0: CrossSession(CrossSessionConfig(), users, seed=seed),
    "auro": lambda users, seed=0: AuroWorld(AuroConfig(), users, seed=seed),
    "gfn": lambda users, seed=0: GfnWorld(GfnConfig(), users, seed=seed),
}
USERS = StandInUsers(40, 30, seed=1)


def act(world, batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if world.action_spec.is_vector:
        return torch.rand(batch, 7, generator=generator) * 2 - 1
    return torch.rand(batch, world.users.n_items, generator=generator).topk(world.config.slate_size).indices


def live(world, batch, steps, seed=3, start=None):
    streams = TensorStreams(seed)
    state = world.initial_state(world.population(batch), streams) if start is None else start
    outcomes = []
    for step in range(steps):
        state, outcome = world.transition(state, act(world, batch, step), streams)
        outcomes.append(outcome)
    return state, outcomes


@pytest.mark.parametrize("name", MODES)
def test_modes_are_worlds(name):
    world = MODES[name](USERS)
    assert isinstance(world, World)
    streams = TensorStreams(1)
    state = world.initial_state(world.population(16), streams)
    held = state.map(torch.clone)
    after, outcome = world.transition(
        state, act(world, 16).float().requires_grad_() if world.action_spec.is_vector else act(world, 16), streams
    )
    assert all(torch.equal(getattr(state, f.name), getattr(held, f.name)) for f in fields(state)), "a step leaves its state alone"
    assert not any(getattr(after, f.name).requires_grad for f in fields(after))
    observation = world.observe(after)
    assert observation.features.shape == (16, 192)
    assert observation.history_items.shape == observation.history_feedback.shape == (16, world.config.history)
    assert torch.equal(observation.history_items[:, -6:], outcome.shown)
    assert torch.equal(observation.history_feedback[:, -6:], outcome.feedback)
    assert outcome.reward.shape == (16, 2)
    again, _ = world.transition(state, act(world, 16), streams)
    assert all(torch.equal(getattr(after, f.name), getattr(again, f.name)) for f in fields(after)), "same streams, same result"


@pytest.mark.parametrize("name", MODES)
def test_no_request_waits_for_the_device(name):
    def build(device):
        world, streams = MODES[name](StandInUsers(40, 30, device=device)), TensorStreams(1, device)
        held = [world.initial_state(world.population(8), streams)]
        action = act(world, 8).to(device)

        def step():
            world.observe(held[0])
            held[0], _ = world.transition(held[0], action, streams)

        return step

    check_no_sync(build, name)


@pytest.mark.parametrize("name", MODES)
def test_who_is_gone_stays_as_he_was(name):
    world = MODES[name](USERS)
    state, outcomes = live(world, 12, 101)
    assert not state.alive.any()
    assert sum(int((o.terminated | o.truncated).sum()) for o in outcomes) == 12
    after, outcome = world.transition(state, act(world, 12), TensorStreams(0))
    assert all(torch.equal(getattr(after, f.name), getattr(state, f.name)) for f in fields(state))
    assert not outcome.reward.any()
    assert (outcome.shown == -1).all()


@pytest.mark.parametrize(("name", "length", "sessions"), [("request", 20, 1), ("cross", 5, 6), ("gfn", 5, 6), ("auro", 10, 10)])
def test_sessions_of_fixed_length_end_for_all_users_together(name, length, sessions):
    _, outcomes = live(MODES[name](USERS), 9, length * sessions)
    for k, outcome in enumerate(outcomes, start=1):
        assert outcome.session_end.tolist() == [k % length == 0] * 9
        assert ((outcome.gap_days > 0) == (outcome.session_end & (sessions > 1))).all()
        last = outcome.terminated if sessions == 1 else outcome.truncated
        assert last.tolist() == [k == length * sessions] * 9
        assert torch.equal(outcome.reward[:, 1], -outcome.gap_days / 10)


def test_ranking_by_fusion_weights_is_the_brute_force_one():
    world = MODES["cross"](USERS)
    streams = TensorStreams(1)
    state = world.initial_state(world.population(10), streams)
    weights = act(world, 10)
    _, outcome = world.transition(state, weights, streams)
    mind = USERS.state(state.user, state.memory)
    everything = torch.sigmoid(USERS.scores(mind, torch.arange(30).expand(10, -1)))
    fused = (everything * weights.unsqueeze(1)).sum(-1)
    assert torch.equal(outcome.shown, fused.topk(6, dim=1).indices)
    scaled, _ = world.transition(state, 3.0 * weights, streams)
    assert torch.equal(scaled.history_items[:, -6:], outcome.shown), "scale does not matter"


def test_probabilities_are_those_documented():
    shown = act(MODES["request"](USERS), 10)
    streams = TensorStreams(1)
    for name in ("request", "cross", "auro"):
        world = MODES[name](USERS)
        state = world.initial_state(world.population(10), streams, clock=1)
        scores = USERS.scores(USERS.state(state.user, state.memory), shown)
        got = world.probabilities(state, shown, scores)
        expected = torch.sigmoid(scores)
        if name == "request":
            expected = torch.sigmoid(expected) - 0.2 * slate_correlation(USERS.items[shown]).unsqueeze(-1)
            assert float(got.min()) > 0.49, "everything fires, hate included"
            mended = RequestLevel(SessionConfig(double_sigmoid=False, similarity=0.0), USERS)
            torch.testing.assert_close(mended.probabilities(state, shown, scores), torch.sigmoid(scores))
        torch.testing.assert_close(got, expected)


def test_immediate_rewards_weigh_what_each_task_weighs():
    happened = torch.tensor([1.0, 0, 1, 0, 0, 0, 1])
    users = UniformUsers((2 * happened - 1) * torch.inf)
    slate = torch.arange(6).expand(4, -1)
    weights = torch.ones(4, 7)
    config = SessionConfig(double_sigmoid=False, similarity=0.0)
    expected = {
        "request": (RequestLevel(config, users), slate, 2.0),
        "whole": (WholeSession(config, users), slate, 1.0),
        "ratios": (WholeSession(replace(config, single_response=False), users), slate, RATIOS[0] + RATIOS[2] + RATIOS[6]),
        "cross": (CrossSession(CrossSessionConfig(), users), weights, RATIOS[0] + RATIOS[2] + RATIOS[6]),
        "auro": (AuroWorld(AuroConfig(drift="none"), users), weights, 1.0),
    }
    for name, (world, action, worth) in expected.items():
        streams = TensorStreams(1)
        _, outcome = world.transition(world.initial_state(world.population(4), streams), action, streams)
        assert outcome.reward[:, 0].tolist() == pytest.approx([worth] * 4), name


# ---------------------------------------------------------------- AURO


def test_a_session_overwrites_all_of_auros_history():
    world = MODES["auro"](USERS)
    state, _ = live(world, 8, 10)
    assert (state.history_items >= 0).all()
    other = replace(state, history_feedback=255 - state.history_feedback, history_items=state.history_items.flip(1))
    one, a = live(world, 8, 10, seed=4, start=state)
    two, b = live(world, 8, 10, seed=4, start=other)
    assert torch.equal(one.history_feedback, two.history_feedback)
    assert torch.equal(a[-1].truth["return_days"], b[-1].truth["return_days"]), "no memory of earlier sessions"


def test_auros_reward_is_minus_its_mean_return_day_over_a_hundred():
    _, outcomes = live(MODES["auro"](USERS), 30, 100)
    rewards = torch.stack([o.reward[:, 1] for o in outcomes])
    gaps = torch.cat([o.gap_days[o.session_end] for o in outcomes])
    assert float(rewards.mean()) == pytest.approx(-float(gaps.mean()) / 100, rel=1e-5)


def test_auros_drift_is_one_step_in_a_thousand_as_shipped_and_all_as_meant():
    clock = torch.arange(5000)
    shipped, meant = (AuroWorld(AuroConfig(drift=d), USERS, seed=3).multiplier(clock) for d in ("glitch", "held"))
    assert (shipped != 1).nonzero().squeeze(1).tolist() == [0, 1000, 2000, 3000, 4000]
    assert torch.equal(shipped[::1000], meant[::1000])
    assert torch.equal(meant, meant[::1000].repeat_interleave(1000))
    assert ((meant > 0.8) & (meant < 1.2)).all()
    assert (AuroWorld(AuroConfig(drift="none"), USERS).multiplier(clock) == 1).all()
    frozen = (AuroWorld(AuroConfig(frozen_env_seed=5), USERS, seed=s).multiplier(clock) for s in (1, 2))
    assert torch.equal(*frozen)


# ---------------------------------------------------------------- GFN4Retention


@pytest.mark.parametrize("feed_probabilities", [True, False])
def test_gfns_satisfaction_after_n_slates_of_one_value(feed_probabilities):
    """Over the ends of four sessions: v (1 - .7^n), never reset."""
    score = torch.tensor([0.3, -0.2, 0.1, 0.0, -1.0, 0.5, 0.2]) if feed_probabilities else torch.inf
    world = GfnWorld(GfnConfig(feed_probabilities=feed_probabilities), UniformUsers(score))
    v = float((torch.sigmoid(torch.as_tensor(score)) * gfn_weights()).sum())
    streams = TensorStreams(2)
    state = world.initial_state(world.population(5), streams)
    for n in range(1, 21):
        state, _ = world.transition(state, act(world, 5), streams)
        assert state.satisfaction.tolist() == pytest.approx([v * (1 - 0.7**n)] * 5, rel=1e-5)


# ---------------------------------------------------------------- mistakes


def test_mistakes_are_named():
    world = MODES["request"](USERS)
    state = world.initial_state(world.population(4), TensorStreams(0))
    with pytest.raises(ContractError, match=r"give \(4, 6\)"):
        world.transition(state, torch.zeros(4, 7), TensorStreams(0))
    with pytest.raises(ContractError, match=r"0\.\.29"):
        world.transition(state, torch.full((4, 6), 30), TensorStreams(0))
    with pytest.raises(ConfigError, match="cannot fill a slate of 31"):
        RequestLevel(SessionConfig(slate_size=31), USERS)
    with pytest.raises(ConfigError, match="sessions is 0"):
        CrossSessionConfig(sessions=0)
    with pytest.raises(ConfigError, match="drift is 'weekly'"):
        AuroConfig(drift="weekly")
    with pytest.raises(ConfigError, match="shared is 2"):
        StandInUsers(shared=2.0)
