"""False positives, planted effects and interval coverage of the A/B engine. Each test states how often it would fail by chance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from recrl.core.contracts import Action, ActionSpec, Observation
from recrl.core.torch.streams import TensorStreams
from simulators.ab import Design, ExperimentResult, UserMetrics, run_experiment
from simulators.ab.statistics import cuped, power, welch
from simulators.toy import TOY_CONFIG, toy_world

METRICS = ("day1_retention", "sessions", "session_depth", "click_rate")


def light(rng: np.random.Generator, users: int, lift: float = 0.0) -> UserMetrics:
    """Users with tastes of their own: the more they like it, the more sessions, the deeper, the more clicks. No simulator."""
    taste = rng.normal(size=users)
    sessions = 1 + rng.poisson(np.exp(0.5 * taste))
    requests = sessions + rng.poisson(3 * sessions * np.exp(0.3 * taste))
    columns = {
        "sessions": sessions,
        "requests": requests,
        "shown": 6 * requests,
        "click": rng.binomial(6 * requests, 1 / (1 + np.exp(-0.4 * taste))),
        "returned_next_day": rng.random(users) < np.clip(0.6 + 0.1 * taste + lift, 0, 1),
    }
    return UserMetrics(np.arange(users), {k: np.asarray(v, dtype=float) for k, v in columns.items()}, np.ones((users, 1), dtype=np.float32))


def test_identical_arms_differ_as_often_as_the_level_says() -> None:
    """250 A/A experiments of 300 users an arm at level 0.9: the false positives of each metric lie in the 99.9 % binomial
    band of 10 %. Four metrics: false alarm 4e-3 over all seeds; the seed is fixed, and the same seed gives the same counts.
    """
    rng, replications = np.random.default_rng(11), 250
    false = dict.fromkeys(METRICS, 0)
    for _ in range(replications):
        found = ExperimentResult(Design(users=600, days=1, paired=False, level=0.9), {"a": light(rng, 300), "b": light(rng, 300)}, 0.0)
        for metric in METRICS:
            effect = found.effect(metric, "b")
            false[metric] += effect.p_value < 0.1
            assert (effect.p_value < 0.1) == (not effect.lower <= 0 <= effect.upper)
    low, high = stats.binom.ppf([0.0005, 0.9995], replications, 0.1)
    assert all(low <= count <= high for count in false.values()), false


def test_planned_power_is_met() -> None:
    """200 experiments with a planted lift of 6 points of day-1 retention: found as often as the planner says, within four
    binomial standard errors (false alarm below 1e-4).
    """
    rng, replications, users, lift = np.random.default_rng(12), 200, 700, 0.06
    deviation = float(light(rng, 200_000).columns["returned_next_day"].std())
    planned = power(lift, deviation, users)
    assert 0.5 < planned < 0.9
    found = 0
    for _ in range(replications):
        arms = {"a": light(rng, users), "b": light(rng, users, lift)}
        found += ExperimentResult(Design(users=2 * users, days=1, paired=False), arms, 0.0).effect("day1_retention", "b").p_value < 0.05
    assert abs(found / replications - planned) < 4 * np.sqrt(planned * (1 - planned) / replications)


def test_cuped_narrows_the_interval_and_keeps_the_effect() -> None:
    """300 experiments: the adjusted estimates centre on the truth within four standard errors of their mean (false alarm below
    1e-4) and spread as the correlation predicts within 20 % (a standard deviation from 300 draws is good to 4 %: five errors).
    """
    rng = np.random.default_rng(13)
    raw, adjusted = [], []
    for _ in range(300):
        x = rng.normal(size=(2, 100))
        y = 0.8 * x + 0.6 * rng.normal(size=(2, 100)) + np.array([[0.3], [0.0]])
        found = cuped(y[0], y[1], x[0], x[1])
        raw.append(welch(y[0], y[1]).effect)
        adjusted.append(welch(found.treatment, found.baseline).effect)
    assert abs(np.mean(adjusted) - 0.3) < 4 * np.std(adjusted) / np.sqrt(300)
    assert abs(np.std(adjusted) / np.std(raw) / 0.6 - 1) < 0.2


class Constant:
    """The same fusion weights for everybody."""

    def __init__(self, spec: ActionSpec, weights: float) -> None:
        self.action_spec, self.weights = spec, weights

    def act(self, observation: Observation, streams: TensorStreams, *, step: Tensor | int = 0, deterministic: bool = False) -> Action:
        return Action(torch.full((len(observation), *self.action_spec.shape), self.weights))

    def log_prob(self, observation: Observation, action: Tensor) -> Tensor:
        return torch.zeros(len(observation))

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def test_a_better_ranking_is_found_in_the_simulator_and_pairing_narrows_it() -> None:
    """Ranking by what users like against the opposite, in the strong scenario. The click rate moves by tens of standard errors
    (false alarm below 1e-9), so does the return gap; paired intervals of the click rate are narrower than unpaired ones.
    """
    world = toy_world(replace(TOY_CONFIG, truth=False))
    good, bad = Constant(world.action_spec, 1.0), Constant(world.action_spec, -1.0)
    worlds, policies = {"bad": world, "good": world}, {"bad": bad, "good": good}
    twins = run_experiment(worlds, policies, Design(users=400, days=6, paired=True))
    apart = run_experiment(worlds, policies, Design(users=800, days=6, paired=False))
    for found in (twins, apart):
        rows = {r["metric"]: r for r in found.tables()["ab_metrics"].to_pylist() if r["arm"] == "good"}
        assert rows["click_rate"]["verdict"] == rows["return_gap"]["verdict"] == "better"
        assert rows["click_rate"]["p_value"] < 1e-9
    assert twins.effect("click_rate", "good").standard_error < 0.9 * apart.effect("click_rate", "good").standard_error
