"""PrefRec's reference environment: the levels its pilot reported, and what makes it worth learning in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recrl.core.torch.streams import TensorStreams
from simulators.fidelity.prefrec import PrefRecConfig, PrefRecWorld

POLICIES = {
    "logged": lambda w, s, streams: w.logged(s, streams),
    "logging mean": lambda w, s, _: w.logging_mean(s.taste),
    "a*": lambda w, s, _: w.suiting(s.taste),
    "a_click": lambda w, s, _: w.clicked(s.taste),
    "zero": lambda w, s, _: torch.zeros(len(s), 6),
}
# depth, gap in days, click rate of one unknown pair of maps
PILOT = {
    "logged": (6.3, 2.94, 0.68),
    "logging mean": (10.5, 2.22, 0.77),
    "a*": (19.8, 1.34, 0.32),
    "a_click": (4.6, 4.21, 0.82),
    "zero": (10.5, 2.06, 0.59),
}


def levels(seed, policies, users=60):
    """Mean depth, gap and click rate under each policy, ``(policies, 3)``: the same users with the same luck, all side by side."""
    world, streams, many = PrefRecWorld(PrefRecConfig(seed=seed)), TensorStreams(1), len(policies)
    state = world.initial_state(world.population(users).repeat(many), streams)
    block = torch.arange(many).repeat_interleave(users)
    end, depth, gap, click, made = torch.zeros(5, many, dtype=torch.float64)
    while bool(state.alive.any()):
        before = state
        rows = state.map(lambda x: x.view(many, users, *x.shape[1:]))
        action = torch.cat([policy(world, rows[k], streams) for k, policy in enumerate(policies)])
        state, outcome = world.transition(state, action, streams)
        for total, value in (
            (end, outcome.session_end),
            (depth, outcome.session_end * (before.requests + 1)),
            (gap, outcome.gap_days),
            (click, outcome.reward[:, 0]),
            (made, before.alive),
        ):
            total.index_add_(0, block, value.double())
    return torch.stack([depth / end, gap / end, click / made], dim=1).numpy()


@pytest.fixture(scope="module")
def measured():
    every = np.stack([levels(seed, list(POLICIES.values())) for seed in range(8)])
    return {name: every[:, k] for k, name in enumerate(POLICIES)}


@pytest.mark.parametrize("name", PILOT)
def test_levels_are_those_of_the_pilot(measured, name):
    """The pilot is one more pair of maps: within 4 standard deviations between our 8 maps and luck (t with 7 degrees of freedom: false
    alarm .5 % each, 15 of them) and at least .9 requests, .1 days, .02 clicks."""
    got = measured[name]
    band = np.maximum(4 * got.std(0, ddof=1) * np.sqrt(1 + 1 / 8), [0.9, 0.1, 0.02])
    assert (np.abs(got.mean(0) - PILOT[name]) < band).all(), (got.mean(0), band)


def test_clicks_and_satisfaction_disagree_in_every_map(measured):
    """Eight maps: a* has the deepest sessions, the shortest gaps and the fewest clicks, a_click the reverse; noise costs the log depth."""
    depth, gap, click = (np.stack([measured[name][:, k] for name in POLICIES]) for k in range(3))
    best, bait = list(POLICIES).index("a*"), list(POLICIES).index("a_click")
    assert (depth.argmax(0) == best).all()
    assert (gap.argmin(0) == best).all()
    assert (click.argmin(0) == best).all()
    assert (depth.argmin(0) == bait).all()
    assert (gap.argmax(0) == bait).all()
    assert (click.argmax(0) == bait).all()
    assert (depth[1] > depth[0] + 1).all()


def test_optimum_is_inside_and_depends_on_the_user():
    """Too little and too much of a* are worse than a*, by the same luck; one action for all is worse still, by several requests."""

    def scaled(k):
        return lambda w, s, _: (k * w.suiting(s.taste)).clamp(-1, 1)

    def fixed(k):
        action = 0.7 * torch.randn(6, generator=torch.Generator().manual_seed(k)).tanh()
        return lambda w, s, _: action.expand(len(s), -1)

    none, half, best, more, most, *same = levels(0, [*map(scaled, (0.0, 0.5, 1.0, 1.5, 2.0)), *map(fixed, range(6))])[:, 0]
    assert best > half > none + 2
    assert best > more > most
    assert max(same) < none < best - 5
