"""The actor-critic learners on a control problem whose answers are known in closed form, learned from uniformly random actions.

The linear-quadratic task: ``s' = (s + a) / 2``, reward ``-(s^2 + a^2 / 4)``, discount 1/2, actions in [-1, 1]. With ``V(s) = -p s^2`` the
Riccati equation gives ``p``, the best action ``-k s`` and ``Q(s, a) = -s^2 - a^2 / 4 - (p / 8) (s + a)^2``.
"""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from recrl.algorithms import REGISTRY
from recrl.algorithms.task import Task
from recrl.core.contracts import ActionSpec, Observation, Transitions
from recrl.core.objective import Objective, Signal
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig

ROWS, DISCOUNT, UPDATES = 128, 0.5, 250


def riccati() -> tuple[float, float]:
    """``p`` and ``k``: the fixed point of ``p = 1 + min over k of k^2 / 4 + p (1 - k)^2 / 8``."""
    p = k = 0.0
    for _ in range(50):
        k = (p / 8) / (0.25 + p / 8)
        p = 1 + k * k / 4 + p * (1 - k) ** 2 / 8
    return p, k


P, K = riccati()


def batch(seed: int) -> Transitions:
    rng = torch.Generator().manual_seed(seed)
    state, action = (2 * torch.rand(ROWS, 1, generator=rng) - 1 for _ in range(2))
    never = torch.zeros(ROWS, dtype=torch.bool)
    reward, then = -(state * state + action * action / 4), (state + action) / 2
    return Transitions(Observation(features=state), action, reward, Observation(features=then), never, never, never)


@cache
def best(name: str):
    """A learner with the options that suit it best."""
    return trained(name, **OPTIONS[name])[0]


def trained(name: str, updates: int = UPDATES, discount: float = DISCOUNT, **options):
    """A learner after ``updates`` updates on fresh batches, and the metrics of its last one."""
    kind = REGISTRY[name].config_type
    rates = {f: 5e-3 for f in kind.__dataclass_fields__ if f.endswith("learning_rate")}
    given = {
        **rates,
        "tau": 0.05,
        "actor": ActorConfig(EncoderConfig("flat", features=1), (32, 32), 0.3),
        "critic_hidden": (32, 32),
        **options,
    }
    task = Task(ActionSpec("continuous", (1,)), Objective(Signal("reward", discount_within=discount)))
    one = REGISTRY[name](kind(**given), task, seed=0)
    for step in range(updates - 1):
        one.update(batch(step))
    return one, {name: float(value) for name, value in one.update(batch(updates)).metrics.items()}


STATES = torch.linspace(-0.9, 0.9, 19).unsqueeze(1)


def chosen(one) -> torch.Tensor:
    with torch.no_grad():
        return one.policy().centre(Observation(features=STATES))


OPTIONS = {
    "ddpg": {},
    "td3": {"target_noise": 0.01},
    "sac": {"temperature": 1e-3, "temperature_learning_rate": 0.0},
    "cql": {"temperature": 1e-3, "temperature_learning_rate": 0.0, "conservative_weight": 0.01, "samples": 3},
    "bcq": {"perturbation": 0.5, "kl_weight": 0.1},
    "awac": {"temperature": 0.03, "actor_learning_rate": 3e-3},
    "iql": {"expectile": 0.9, "inverse_temperature": 30.0},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_best_action_of_the_linear_quadratic_task_is_found(name):
    """Random actions are 0.6 away on average, none at all 0.17."""
    error = (chosen(best(name)) + K * STATES).abs().mean()
    assert error < 0.1


@pytest.mark.parametrize("name", ["ddpg", "td3", "sac", "bcq"])
def test_its_values_are_those_of_the_riccati_equation(name):
    critic = best(name)._actor.critics if name == "bcq" else getattr(best(name), {"ddpg": "_critic"}.get(name, "_critics"))
    state, action = (x.reshape(-1, 1) for x in torch.meshgrid(STATES[:, 0], STATES[:, 0], indexing="ij"))
    with torch.no_grad():
        found = critic(state, action)[0]
    expected = -(state**2) - action**2 / 4 - P / 8 * (state + action) ** 2
    assert (found - expected[:, 0]).abs().mean() < 0.05


def test_an_expectile_of_a_half_is_the_value_of_the_logging_policy():
    """Uniform actions: ``V(s) = -(q s^2 + c)``, ``q = 1 + q / 8``, ``c = E a^2 / 4 + q E a^2 / 8 + c / 2`` with ``E a^2 = 1/3``.

    The mean over two critics' minimum is a little below it.
    """
    one, _ = trained("iql", 400, expectile=0.5)
    q = 1 / (1 - 1 / 8)
    c = 2 * (1 / 12 + q / 24)
    with torch.no_grad():
        found = one._value(STATES)
    assert (found + q * STATES[:, 0] ** 2 + c).abs().mean() < 0.05


def test_a_higher_expectile_values_states_higher_but_never_above_the_best():
    middle, high = (one._value(STATES).detach().mean() for one in (trained("iql", expectile=0.5)[0], best("iql")))
    assert middle + 0.05 < high < -(P * STATES**2).mean() + 0.03


def test_sac_learns_the_boltzmann_policy():
    """Without a future the best policy is ``exp(r / alpha)``: a Gaussian of variance ``2 alpha`` around 0; its entropy is known."""
    alpha = 0.01
    _, metrics = trained("sac", 300, discount=0.0, temperature=alpha, temperature_learning_rate=0.0)
    assert metrics["entropy"] == pytest.approx(0.5 * math.log(2 * math.pi * math.e * 2 * alpha), abs=0.15)


def test_sac_reaches_the_entropy_that_it_aims_at():
    _, metrics = trained("sac", 300, entropy=-0.7, temperature=0.1, temperature_learning_rate=3e-2)
    assert metrics["entropy"] == pytest.approx(-0.7, abs=0.2)


def test_cql_values_actions_outside_the_log_below_those_inside():
    """Logged actions lie in [-1, 0]. TD3's critics extrapolate the reward; CQL's fall off where nothing was logged."""

    def halved(seed: int) -> Transitions:
        rows = batch(seed)
        action = -rows.action.abs()
        state = rows.observation.features
        never = rows.terminated
        reward = -(state**2) + action
        return Transitions(rows.observation, action, reward, rows.next_observation, ~never, never, never)

    rise = {}
    for name, options in (("sac", {}), ("cql", {"conservative_weight": 1.0, "samples": 4})):
        kind = REGISTRY[name].config_type
        actor = ActorConfig(EncoderConfig("flat", features=1), (32, 32), 0.8)
        config = kind(actor=actor, critic_hidden=(32, 32), critic_learning_rate=3e-3, **options)
        one = REGISTRY[name](config, Task(ActionSpec("continuous", (1,)), Objective(Signal("reward"))), seed=0)
        for step in range(100):
            one.update(halved(step))
        with torch.no_grad():
            inside, outside = (one._critics(STATES, torch.full_like(STATES, a)).amin(0).mean() for a in (-0.2, 0.8))
        rise[name] = float(outside - inside)
    assert rise["cql"] < 0 < rise["sac"]
