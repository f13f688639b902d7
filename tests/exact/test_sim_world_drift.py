"""The simulated world under drift: what moves, whom it moves, and which items live."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from recrl.checks import check_no_sync
from recrl.core.behaviours import unpack
from recrl.core.errors import ConfigError
from recrl.core.torch.streams import TensorStreams
from simulators.drift import DriftConfig
from simulators.retention import RetentionLaw
from simulators.toy import TOY_CONFIG, toy_world
from simulators.world import RetentionWorld
from tests.contracts.test_no_sync import moved
from tests.support.lives import act, assert_same, live, rows

KINDS_OF_DRIFT = ("glitch", "held", "weekly", "regimes", "taste", "mix")


def drifting(kind="none", action_kind="slate", horizon=40, pool=20, **options):
    config = replace(
        TOY_CONFIG, action_kind=action_kind, horizon_days=horizon, pool_size=pool, exclude_recent=6, drift=DriftConfig(kind, **options)
    )
    base = toy_world()
    law = replace(RetentionLaw.published(), group_effects=(0.5, 0.0, -0.5), group_names=("often", "some", "seldom"))
    return RetentionWorld(config, base.response, base.leave, law, groups=torch.arange(50) % 4 - 1)


@pytest.mark.parametrize("kind", KINDS_OF_DRIFT)
def test_drift_is_the_same_for_every_policy_and_users_stay_independent(kind):
    world = drifting(kind, action_kind="fusion_weights")
    users = world.population(70, seed=2)
    state, outcomes = live(world, users, 15)
    part, part_outcomes = live(world, users[20:27], 15)
    assert_same(part, state[20:27])
    for whole, some in zip(outcomes, part_outcomes, strict=True):
        assert_same(some, rows(whole, slice(20, 27)))
    for outcome in outcomes:
        assert torch.equal(outcome.truth["drift"], world.drift.truth(outcome.truth["day"]))
    assert len(torch.cat([o.truth["drift"] for o in outcomes]).unique()) > 1 or kind == "glitch"


def test_without_drift_nothing_is_asked_of_it():
    world = drifting()
    assert world.drift is None
    _, outcomes = live(world, world.population(5), 2)
    assert "drift" not in outcomes[0].truth


def one_request(world, day):
    streams = TensorStreams(3)
    state = world.initial_state(torch.arange(48), streams)
    state = replace(state, day=torch.full_like(state.day, day))
    slate = torch.arange(6).expand(48, -1).contiguous()
    return state, slate, world.transition(state, slate, streams)[1]


def test_each_drift_moves_what_it_says():
    calm_state, slate, calm = one_request(drifting(), 9.5)
    usual = calm.truth["probabilities"]
    for kind, day in (("held", 9.5), ("glitch", 10.501)):
        world = drifting(kind, amplitude=0.3)
        factor = world.drift.factor(torch.tensor([day]))
        assert factor != 1.0
        _, _, outcome = one_request(world, day)
        room = usual[..., :1] * factor < 1.0
        torch.testing.assert_close(outcome.truth["probabilities"], torch.where(room, usual * factor, outcome.truth["probabilities"]))
        assert room.float().mean() > 0.8
    world = drifting("weekly")
    _, _, outcome = one_request(world, 9.5)
    shift = world.drift.response_shift(torch.tensor([9.5]))
    moved_logits = world.response.logits(calm_state.user, slate) + shift.unsqueeze(1)
    torch.testing.assert_close(outcome.truth["probabilities"], world.response.marginals(moved_logits))
    world = drifting("regimes")
    _, _, outcome = one_request(world, 9.5)
    torch.testing.assert_close(outcome.feedback, calm.feedback)
    difference = torch.logit(outcome.truth["return_hazards"]) - torch.logit(calm.truth["return_hazards"])
    torch.testing.assert_close(difference, world.drift.return_shift(torch.tensor([9.5])).expand_as(difference), rtol=0, atol=1e-5)
    world = drifting("taste", amplitude=1.0)
    _, _, outcome = one_request(world, 9.5)
    rows_then = world.drift.turned(calm_state.day * 0 + 9.5, world.response.user_rows(calm_state.user))
    logits = world.response.logits_of_rows(rows_then, world.response.item_rows(slate))[..., :7].clone()
    logits[..., 0] += world.drift.item_shift(calm_state.day * 0 + 9.5, slate)
    torch.testing.assert_close(outcome.truth["probabilities"], world.response.marginals(logits))


def test_feedback_follows_the_multiplied_probabilities():
    """48,000 shown items: clicks and long views within 4.5 standard errors of m times the usual; false alarm below 2e-5."""
    world = drifting("held", amplitude=0.5, seed=1)
    streams, found, expected, spread = TensorStreams(4), torch.zeros(2), torch.zeros(2), torch.zeros(2)
    assert abs(float(world.drift.factor(torch.tensor([1.0]))) - 1.0) > 0.05
    state = world.initial_state(torch.arange(8_000), streams)
    state = replace(state, day=torch.ones_like(state.day))
    _, outcome = world.transition(state, torch.arange(6).expand(8_000, -1).contiguous(), streams)
    p = outcome.truth["probabilities"][..., :2].double()
    found = torch.from_numpy(unpack(outcome.feedback.numpy()))[..., :2].double().sum((0, 1))
    expected, spread = p.sum((0, 1)), (p * (1 - p)).sum((0, 1)).sqrt()
    assert ((found - expected).abs() < 4.5 * spread).all()


@pytest.mark.parametrize(("kind", "pool"), [("slate", 12), ("fusion_weights", 12), ("fusion_weights", 0), ("embedding", 0)])
def test_items_are_candidates_while_they_live(kind, pool):
    world = drifting("none", kind, pool=pool, newborn_share=0.4, newborn_days=20, item_life_days=60.0, seed=3)
    items, drift = torch.arange(40), world.drift
    lives = [drift.live(torch.tensor([float(d)]))[0] for d in range(40)]
    assert not lives[0].all(), "some are born later"
    assert any((a & ~b).any() for a, b in pairwise(lives)), "some die"
    streams = TensorStreams(5)
    state = world.initial_state(torch.arange(300), streams)
    state = replace(state, day=state.day + torch.arange(300) % 40)
    for _ in range(5):
        before = state
        candidates = world.observe(state).candidates
        if candidates is not None:
            assert candidates.shape == (300, 12)
            assert drift.live(state.day, candidates)[state.alive].all()
            assert (candidates.sort(1).values.diff(dim=1) > 0).all()
        state, outcome = world.transition(state, act(world, state), streams)
        on = before.alive
        assert drift.live(before.day[on], outcome.shown[on]).all()
        if kind != "slate":
            recent = before.history_items[on][:, -6:].long()
            assert not (outcome.shown[on].unsqueeze(2) == recent.unsqueeze(1)).any()
    assert len(items) == world.n_items


def test_users_arrive_over_the_horizon_in_the_days_own_mix():
    world = drifting("mix", amplitude=2.0, horizon=20)
    users = world.population(20_000, seed=7)
    assert torch.equal(world.population(9_000, seed=7, first=500), users[500:9_500])
    state = world.initial_state(users, TensorStreams(1))
    arrived = state.day.floor()
    assert torch.equal(arrived.unique(), torch.arange(20.0))
    groups = torch.arange(50) % 4 - 1
    group = groups[state.user]
    for day in (0.0, 19.0):
        share = world.drift.user_mix(torch.tensor([day]))[0]
        today = group[arrived == day]
        # 1,000 users a day: standard error of a share at most .016
        for k, wanted in enumerate(share.tolist()):
            assert float((today == (k if k < 3 else -1)).float().mean()) == pytest.approx(wanted, abs=0.075)
    assert (world.drift.user_mix(torch.tensor([0.0])) - world.drift.user_mix(torch.tensor([19.0]))).abs().max() > 0.1


@pytest.mark.parametrize("kind", [*KINDS_OF_DRIFT, "none"])
def test_no_drift_waits_for_the_device(kind):
    def build(device):
        world = moved(drifting(kind, "embedding", pool=12, newborn_share=0.2, item_life_days=90.0), device)
        streams = TensorStreams(0, device)
        ids = torch.arange(8, device=device)
        action = torch.zeros(8, world.action_spec.shape[0], device=device)
        return lambda: world.transition(world.initial_state(ids, streams), action, streams)

    check_no_sync(build, kind)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: toy_world(replace(TOY_CONFIG, drift=DriftConfig("mix"))), "mix needs groups"),
        (lambda: drifting("none", "slate", pool=0, newborn_share=0.2), "the whole catalogue would be listed"),
        (lambda: drifting("none", "embedding", pool=0, newborn_share=0.9, newborn_days=39), "live items cannot fill a slate"),
        (lambda: drifting("none", "slate", pool=30, newborn_share=0.5), "do not fit a catalogue of"),
    ],
)
def test_drifts_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
