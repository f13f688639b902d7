"""When simulated users leave and return: laws with hand-computed values, and options that are refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.config import from_json, to_json
from recrl.core.errors import ConfigError
from recrl.core.torch.streams import TensorStreams
from simulators.config import ETA_STRONG, ETA_WEAK, WorldConfig
from simulators.leave import LeaveLaw
from simulators.published import RETURN_HAZARDS
from simulators.retention import RetentionLaw
from simulators.satisfaction import Satisfaction
from simulators.toy import TOY_CONFIG, toy_response
from simulators.world import RetentionWorld


def test_published_law_reproduces_the_published_hazards_and_gap_shares():
    law = RetentionLaw.published()
    np.testing.assert_allclose(law.hazards(), RETURN_HAZARDS, rtol=1e-12)
    shares = law.distribution()
    assert shares.sum() == pytest.approx(1.0)
    # the authors' counts of gaps of 1 to 16 days
    counts = np.array([236935, 63521, 30238, 18152, 11890, 8076, 5428, 3622, 2222, 1420, 937, 582, 417, 272, 212, 71])
    np.testing.assert_allclose(shares[:10], counts[:10] / counts.sum(), atol=1e-3)
    within = counts[:10] / counts[:10].sum()
    assert law.mean_gap_days() == pytest.approx(within @ np.arange(1, 11), abs=0.01)
    capped = shares[:-1] @ np.arange(1, 11) + 10 * shares[-1]
    assert capped == pytest.approx(np.minimum(np.arange(1, 17), 10) @ counts / counts.sum(), abs=0.01)
    assert capped == pytest.approx(1.98, abs=0.03)
    assert shares[-1] == pytest.approx(np.prod(1.0 - np.array(RETURN_HAZARDS)))


def test_distribution_of_two_days_by_hand():
    law = RetentionLaw((0.0, math.log(3.0)))  # hazards 1/2, 3/4
    np.testing.assert_allclose(law.distribution(), [0.5, 0.375, 0.125])
    assert law.mean_gap_days() == pytest.approx((0.5 + 2 * 0.375) / 0.875)


def test_satisfaction_shortens_the_mean_gap_and_hate_lengthens_it():
    law = RetentionLaw.published(eta_s=3.0)
    gaps = law.mean_gap_days(law.score(np.linspace(-0.4, 0.4, 9), law.memory_mean))
    assert (np.diff(gaps) < 0).all()
    churn = law.distribution(law.score(np.linspace(-0.4, 0.4, 9), law.memory_mean))[:, -1]
    assert (np.diff(churn) < 0).all()
    worth = Satisfaction().of_bits()
    for bit in range(len(BEHAVIOURS)):
        without = np.arange(256)[(np.arange(256) >> bit) & 1 == 0]
        change = worth[without | (1 << bit)] - worth[without]
        assert (change < 0).all() if BEHAVIOURS[bit] == "hate" else (change > 0).all()


def test_scenarios_are_frozen_values():
    law = RetentionLaw((0.0,), eta_s=0.0, eta_s_estimate=-0.3, eta_s_interval=(-0.4, -0.2))
    assert (ETA_WEAK, ETA_STRONG) == (1.0, 5.0)
    assert law.under("weak").eta_s == ETA_WEAK
    assert law.under("strong").eta_s == ETA_STRONG
    assert law.under("strong").under("fitted").eta_s == 0.0, "an estimate of the wrong sign counts as none"
    assert replace(law, eta_s_estimate=0.7).under("weak").under("fitted").eta_s == 0.7
    assert RetentionLaw.published(eta_s=2.0).under("fitted").eta_s == 2.0
    assert law.under("strong").scenario == "strong"


@pytest.mark.parametrize("depth", [1.5, 4.0, 20.0])
@pytest.mark.parametrize("position", [-0.3, 0.0, 0.4])
def test_synthetic_leave_law_has_its_mean_depth(depth, position):
    law = LeaveLaw.synthetic(depth, position=position)
    # the expectation again, by the chain of stays
    expected, alive = 0.0, 1.0
    for k in range(law.max_requests):
        expected += alive
        alive *= 1.0 - 1.0 / (1.0 + math.exp(-law.logit(math.log1p(k), 0.0, 0.0)))
    assert expected == pytest.approx(depth, rel=1e-6)


def test_pleased_users_stay_and_tired_users_go():
    law = LeaveLaw.synthetic(5.0)
    assert law.logit(1.0, 0.0, 0.2) < law.logit(1.0, 0.0, 0.0) < law.logit(1.0, 2.0, 0.0)


@pytest.mark.parametrize(
    "law", [LeaveLaw.synthetic(4.0), RetentionLaw.published(eta_s=1.5), Satisfaction(decay=0.5), WorldConfig(slate_size=3)]
)
def test_laws_and_options_survive_json(law):
    assert from_json(type(law), to_json(law)) == law


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WorldConfig(action_kind="video"), "action_kind is 'video'"),
        (lambda: WorldConfig(scenario="medium"), "scenario is 'medium'"),
        (lambda: WorldConfig(slate_reward="max"), "slate_reward is 'max'"),
        (lambda: WorldConfig(slate_size=0), "slate_size is 0"),
        (lambda: WorldConfig(slate_size=256, pool_size=300), "slate_size is 256"),
        (lambda: WorldConfig(history=0), "history is 0"),
        (lambda: WorldConfig(horizon_days=0), "horizon_days is 0"),
        (lambda: WorldConfig(horizon_days=4000), "horizon_days is 4000"),
        (lambda: WorldConfig(pool_size=5), "pool_size=5 cannot fill a slate of 6"),
        (lambda: WorldConfig(exclude_recent=60), "exclude_recent=60 reaches beyond history=50"),
        (lambda: WorldConfig(request_seconds=0), "request_seconds is 0"),
        (lambda: RetentionLaw(()), "day_logits"),
        (lambda: RetentionLaw((0.0, math.inf)), "day_logits"),
        (lambda: RetentionLaw((0.0,), eta_s=-0.1), "eta_s is -0.1"),
        (lambda: RetentionLaw((0.0,), eta_s=math.nan), "eta_s is nan"),
        (lambda: RetentionLaw((0.0,), group_effects=(1.0,)), "1 effects for 0 groups"),
        (lambda: RetentionLaw((0.0,), memory_decay=1.0), "memory_decay is 1.0"),
        (lambda: LeaveLaw(0.0, satisfaction=-1.0), "satisfaction effect is -1.0"),
        (lambda: LeaveLaw(0.0, max_requests=0), "max_requests is 0"),
        (lambda: LeaveLaw(0.0, fatigue_half_life_days=0.0), "half life is 0.0"),
        (lambda: LeaveLaw.synthetic(1.0), "mean_depth is 1.0"),
        (lambda: LeaveLaw.synthetic(200.0), "mean_depth is 200.0"),
        (lambda: Satisfaction(decay=1.0), "decay is 1.0"),
        (lambda: Satisfaction(hate=0.5), "worth of hate is 0.5"),
        (lambda: Satisfaction(like=-0.5), "worth of like is -0.5"),
    ],
)
def test_impossible_options_are_refused(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert message in caught.value.what
    assert caught.value.where
    assert caught.value.mend


def test_importing_the_package_loads_no_torch():
    import subprocess
    import sys

    code = "import sys, simulators; assert simulators.REGISTRY and 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_weekdays_that_draw_users_back_do_so_in_the_world():
    effects = (1.5, -0.5, 0.0, 0.5, -1.0, 0.25, -0.75)
    law = replace(RetentionLaw.published(), delta_dow=effects)
    world = RetentionWorld(TOY_CONFIG, toy_response(), LeaveLaw.synthetic(mean_depth=4.0, max_requests=30), law)
    streams = TensorStreams(0)
    state, weekdays = world.initial_state(world.population(64), streams), set()
    for _ in range(60):
        before = state
        state, outcome = world.transition(state, torch.zeros(64, len(BEHAVIOURS)), streams)
        weekday = (before.day.floor() % 7).long().numpy()
        score = ETA_STRONG * (outcome.truth["satisfaction"] - before.baseline).double().numpy()
        logits = np.asarray(law.day_logits) + law.calendar(weekday) + score[:, None]
        np.testing.assert_allclose(outcome.truth["return_hazards"].numpy(), 1.0 / (1.0 + np.exp(-logits)), rtol=2e-5)
        weekdays.update(weekday[before.alive.numpy()].tolist())
    assert weekdays == set(range(7))
