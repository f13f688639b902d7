"""What the simulator draws, against the probabilities it says it draws from. Seeds are fixed: a pass stays a pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from recrl.core.behaviours import BEHAVIOURS, unpack
from recrl.core.torch.streams import TensorStreams
from simulators.leave import LeaveLaw
from simulators.published import RETURN_HAZARDS
from simulators.response import LatentResponse
from simulators.retention import RetentionLaw
from simulators.toy import TOY_CONFIG, TOY_RATES, toy_response, toy_world
from simulators.world import RetentionWorld

LEAVES_AT_ONCE = LeaveLaw(40.0)


def test_published_law_comes_out_of_the_world():
    """120,000 gaps: each day's hazard within 4 standard errors of the published one; false alarm below 10 * 6.4e-5 = 6.4e-4."""
    world = RetentionWorld(replace(TOY_CONFIG, scenario="fitted", truth=False), toy_response(), LEAVES_AT_ONCE, RetentionLaw.published())
    streams = TensorStreams(1)
    state = world.initial_state(world.population(120_000), streams)
    _, outcome = world.transition(state, torch.zeros(120_000, 7), streams)
    gap = outcome.gap_days.numpy()
    for k, hazard in enumerate(RETURN_HAZARDS, start=1):
        at_risk = int((gap >= k).sum())
        share = float((gap == k).sum()) / at_risk
        assert abs(share - hazard) < 4 * np.sqrt(hazard * (1 - hazard) / at_risk), k
    assert np.array_equal(outcome.terminated.numpy(), gap == 11)


def test_responses_and_leaving_happen_as_often_as_their_probabilities_say():
    """Sums of (event - probability) over 120,000 shown items, standardised, stay below 4: 7 marginals, 6 dependencies, leaving;
    false alarm below 14 * 6.4e-5 = 9e-4."""
    world = toy_world(replace(TOY_CONFIG, horizon_days=3650))
    streams = TensorStreams(2)
    state = world.initial_state(world.population(2_000), streams)
    excess, variance = np.zeros(14), np.zeros(14)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        before = state
        weights = torch.rand(2_000, 7, generator=generator) * 2 - 1
        state, outcome = world.transition(state, weights, streams)
        on = outcome.truth["active"]
        p = outcome.truth["probabilities"][on].double().numpy()
        logits = world.response.logits(before.user[on], outcome.shown[on])
        given = torch.sigmoid(logits).double().numpy()
        happened = unpack(outcome.feedback[on].numpy()).astype(float)
        excess[:7] += (happened - p).sum((0, 1))
        variance[:7] += (p * (1 - p)).sum((0, 1))
        clicked = happened[..., :1]
        excess[7:13] += (clicked * (happened - given))[..., 1:].sum((0, 1))
        variance[7:13] += (clicked * given * (1 - given))[..., 1:].sum((0, 1))
        hazard = outcome.truth["leave_hazard"][on].double().numpy()
        ends = outcome.session_end[on].numpy() & (before.requests[on].numpy() + 1 < world.leave.max_requests)
        excess[13] += (ends - hazard).sum()
        variance[13] += (hazard * (1 - hazard)).sum()
    assert (np.abs(excess / np.sqrt(variance)) < 4).all(), (excess / np.sqrt(variance)).round(2)


def test_share_of_clicks_among_long_views_is_the_planted_one():
    """About 70,000 long views: P(click | long view) within 4 standard errors of .996, the rate of every behaviour likewise; clustered by
    user. False alarm below 8 * 6.4e-5 = 5e-4, a little more for the estimated errors."""
    config = replace(TOY_CONFIG, action_kind="slate", slate_size=20, pool_size=0, exclude_recent=0, horizon_days=3650, truth=False)
    world = toy_world(config)
    streams = TensorStreams(3)
    state = world.initial_state(torch.arange(10_000), streams)  # every catalogue user 200 times
    halves = (torch.arange(20), torch.arange(20, 40))
    happened = []
    for half in halves:  # each user sees every item once: the calibrated population of pairs
        state = replace(state, alive=torch.ones_like(state.alive))
        state, outcome = world.transition(state, half.expand(10_000, -1), streams)
        happened.append(unpack(outcome.feedback.numpy()))
    y = np.concatenate(happened, axis=1).astype(float)
    for k, name in enumerate(BEHAVIOURS):
        by_user = y[..., k].mean(1)
        assert abs(by_user.mean() - TOY_RATES[name]) < 4 * by_user.std() / 100, name
    both, views = (y[..., 0] * y[..., 1]).sum(1), y[..., 1].sum(1)
    share = both.sum() / views.sum()
    error = np.sqrt(((both - share * views) ** 2).sum()) / views.sum()
    assert abs(share - 0.996) < 4 * error
    assert error < 0.001


def test_the_rarest_behaviour_keeps_its_rate():
    """Probability 4e-6, far below one step of a 16-bit draw: 3.6 million draws give a Poisson count of mean 14.4; the band 3 to 31
    has a false alarm below 1e-3, and rounding up to one 16-bit step would give about 55."""
    base = toy_response()
    users, items = base.users.clone(), base.items.clone()
    users[:, -8:] = items[:, -8:] = 0.0
    rare = torch.full((7,), 4e-6)
    rare[0] = 0.0
    response = LatentResponse(users, items, torch.full((7,), -40.0), torch.zeros(7), rare)
    config = replace(TOY_CONFIG, action_kind="slate", slate_size=30, pool_size=0, exclude_recent=0, truth=False)
    world = RetentionWorld(config, response, LEAVES_AT_ONCE, RetentionLaw.published())
    streams = TensorStreams(4)
    state = world.initial_state(torch.arange(120_000), streams)
    _, outcome = world.transition(state, torch.arange(30).expand(120_000, -1), streams)
    counts = unpack(outcome.feedback.numpy()).sum((0, 1))
    assert counts[0] == 0
    assert ((counts[1:] >= 3) & (counts[1:] <= 31)).all(), counts


def test_strong_scenario_separates_policies_as_documented():
    """Shares of next-day returns of 600 users: the gap between a good and a random policy is several times the band asked for."""
    world = toy_world()
    shares = {}
    for name, weight in (("random", 0.0), ("long views", 1.0)):
        streams = TensorStreams(5)
        state = world.initial_state(world.population(600), streams)
        action = torch.zeros(600, 7)
        action[:, 1] = weight
        back = gaps = 0
        for _ in range(60):
            state, outcome = world.transition(state, action, streams)
            back += int((outcome.gap_days == 1).sum())
            gaps += int(outcome.session_end.sum())
        shares[name] = back / gaps
    assert shares["long views"] - shares["random"] > 0.08
