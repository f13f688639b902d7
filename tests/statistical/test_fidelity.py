"""What the published modes come to, against published numbers; and what they get wrong, which our own world must not."""

from __future__ import annotations

import runpy

import numpy as np
import pytest
import torch

from recrl.core.torch.streams import TensorStreams
from simulators.fidelity.auro import AuroConfig, AuroWorld
from simulators.fidelity.gfn import GfnConfig, GfnWorld
from simulators.fidelity.kuaisim import CrossSession, CrossSessionConfig, SessionConfig, WholeSession
from simulators.fidelity.laws import AURO_CURVE, AURO_RATES, drawn_day, truncated_geometric
from simulators.fidelity.users import StandInUsers, UniformUsers
from tests.conftest import REPOSITORY
from tests.exact.test_fidelity_laws import PUBLISHED

checks = runpy.run_path(str(REPOSITORY / "benchmarks" / "fidelity.py"))
mean_day, logit, by_chance = checks["mean_day"], checks["logit"], checks["by_chance"]
DAYS = torch.arange(1.0, 11.0)


@pytest.mark.parametrize(("p", "expected"), PUBLISHED.items())
def test_truncated_geometric_days_by_a_million_draws(p, expected):
    """Mean and P(1) within .01 of the published values; their standard errors are at most .0026 and .0005, so that with the
    rounding of the published mean (.005) a false alarm is at 1.9 (mean of P = .2, 5 %) to over 5 standard errors; the seed is fixed."""
    law = truncated_geometric(torch.tensor([p])).expand(1_000_000, -1)
    day = drawn_day(law, torch.rand(1_000_000, generator=torch.Generator().manual_seed(1)))
    assert int(day.min()) == 1
    assert int(day.max()) <= 10
    assert float(day.mean()) == pytest.approx(expected[0], abs=0.01)
    assert float((day == 1).float().mean()) == pytest.approx(expected[1], abs=0.01)


@pytest.mark.parametrize("p", [0.51, 0.65, 0.72])
def test_whole_sessions_are_as_deep_as_the_click_rate_says(p):
    """depth = 19 / (2 - p) + 1/2 +- .1 and total = p depth +- 1 % over 2,500 sessions. Depth varies by .6 (standard error .012; the formula
    neglects up to .04), total less p depth by .8 (standard error .016, .25 % of the total): false alarm below 1e-4 each."""
    lived = {name: float(x.mean()) for name, x in checks["whole_sessions"](checks["clicking"](p), 2_500).items()}
    assert lived["clicks"] == pytest.approx(p, abs=0.005)
    assert lived["depth"] == pytest.approx(19 / (2 - p) + 0.5, abs=0.1)
    assert lived["total"] == pytest.approx(p * lived["depth"], rel=0.01)


def test_two_sigmoids_leave_a_narrow_band():
    """Whatever the users' tastes: click rate in [.497, .728], mean ILD in [.984, .998]; bounds that the extremes reach, no chance."""
    for users in (StandInUsers(50, 30, gain=100.0), UniformUsers(-40.0), UniformUsers(40.0)):
        world = WholeSession(SessionConfig(), users)
        streams = TensorStreams(1)
        state = world.initial_state(world.population(100), streams)
        _, outcome = world.transition(state, by_chance(world, 100, 0), streams)
        p = outcome.truth["probabilities"]
        assert float(p.min()) >= 0.4968
        assert float(p.max()) <= 0.7311
        ild = checks["whole_sessions"](world, 60)["ild"]
        assert float(ild.min()) >= 0.984
        assert float(ild.mean()) <= 0.998, "a mean, as published: single slates of items with negative cosines go a little beyond"
    for score, edge in ((-40.0, 0.497), (40.0, 0.728)):
        users = UniformUsers(score)
        same = torch.zeros(1, 6, dtype=torch.int64)
        world = WholeSession(SessionConfig(), users)
        state = world.initial_state(torch.tensor([0]), TensorStreams(0))
        p = world.probabilities(state, same, users.scores(torch.zeros(1, 192), same))
        torch.testing.assert_close(p, torch.full_like(p, edge), atol=5e-4, rtol=0)


@pytest.mark.parametrize("dropout", [True, False], ids=["dropout", "eval"])
def test_auros_return_model_by_response_rate(dropout):
    """The table of rates, each response a coin: mean day and P(1) within .02, averaged over the laws of 500 users, whose mean rate of
    350 coins varies by .027 and their mean by .0012: a false alarm needs over 10 standard errors. Drawn days, all pooled, within 4."""
    means, first = AURO_CURVE["dropout" if dropout else "eval"]
    surprise = variance = 0.0
    for rate, mean, one in zip(AURO_RATES, means, first, strict=True):
        law, gap_days = checks["first_return"](AuroWorld(AuroConfig(drift="none", dropout=dropout), UniformUsers(logit(rate))), 500)
        assert float((law @ DAYS).mean()) == pytest.approx(mean, abs=0.02)
        assert float(law[:, 0].mean()) == pytest.approx(one, abs=0.02)
        surprise += float((gap_days - law @ DAYS).sum())
        variance += float((law @ DAYS**2 - (law @ DAYS) ** 2).sum())
    assert abs(surprise) < 4 * variance**0.5


def test_random_personal_bias_decides_how_soon_users_return():
    """60 environment seeds: the standard deviation of the mean return day is above .5, and 0 where the environment's seed is frozen. With
    a true value of 1.2 or more a sample of 60 falls below .5 with probability below 1e-9."""
    users = StandInUsers(200, 30)
    free = [mean_day(CrossSession(CrossSessionConfig(), users, seed=s)) for s in range(60)]
    assert np.std(free, ddof=1) > 0.5
    frozen = [mean_day(CrossSession(CrossSessionConfig(frozen_env_seed=7), users, seed=s)) for s in range(5)]
    assert np.std(frozen) == 0.0
    bounded = [mean_day(GfnWorld(GfnConfig(), users, seed=s)) for s in range(20)]
    assert np.std(bounded, ddof=1) < 0.2, "GFN4Retention's personal term is bounded"


# ---------------------------------------------------------------- what they get wrong


def test_auros_users_return_later_the_more_they_respond():
    """Expected days, no chance: monotone in the wrong direction."""
    days = [mean_day(AuroWorld(AuroConfig(drift="none"), UniformUsers(logit(q)))) for q in (0.0, 0.3, 0.6, 1.0)]
    assert (np.diff(days) > 0.1).all(), days


def test_gfns_users_return_sooner_the_more_they_hate():
    """Expected days from equal satisfaction paths, no chance; with the weights mended the direction is right."""

    calm, hated = ([mean_day(checks["hated"](hate, bug=bug)) for bug in (True, False)] for hate in (0.01, 0.5))
    assert hated[0] < calm[0] - 0.1
    assert hated[1] > calm[1] + 0.1


def test_kuaisims_users_forget_all_but_the_last_slate():
    """The response term of two users with one last slate and different earlier sessions is the same; GFN4Retention's is not."""
    users = StandInUsers(50, 30)
    for world, remembers in (
        (CrossSession(CrossSessionConfig(personal_bias=False), users), False),
        (GfnWorld(GfnConfig(personal_bias=False), users), True),
    ):
        streams = TensorStreams(5)
        laws = []
        for seed in (0, 1):
            state = world.initial_state(torch.arange(32), streams)
            for step in range(9):
                state, _ = world.transition(state, by_chance(world, 32, seed * 100 + step), streams)
            shown, responses = torch.arange(6).expand(32, -1), torch.ones(32, 6, 7) * torch.tensor([1.0, 0, 0, 1, 0, 0, 0])
            satisfied = world.satisfied(state.satisfaction, responses, responses)
            memory = users.remembered(state.memory, shown, responses)
            after = type(state)(**(vars(state) | {"satisfaction": satisfied, "memory": memory}))
            laws.append(world.return_days(after, responses))
        assert torch.equal(*laws) != remembers
