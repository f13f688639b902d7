"""Learners solve tiny tasks whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recrl.algorithms.bc import BC, BCConfig
from recrl.algorithms.task import Task
from recrl.algorithms.td3_bc import TD3BC, TD3BCConfig
from recrl.core.contracts import ActionSpec, Observation, Transitions
from recrl.core.errors import ConfigError
from recrl.core.objective import Constraint, Objective, Signal
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig
from tests.support import small

FLAT = ActorConfig(EncoderConfig("flat", features=2), hidden=(32, 32))


def transitions(features, action, reward, *, session_end=None, terminated=None, next_features=None) -> Transitions:
    """A batch of control transitions."""
    size = len(features)
    none = torch.zeros(size, dtype=torch.bool)
    return Transitions(
        observation=Observation(features=features),
        action=action,
        reward=reward.unsqueeze(1),
        next_observation=Observation(features=features if next_features is None else next_features),
        terminated=none if terminated is None else terminated,
        truncated=none,
        session_end=none if session_end is None else session_end,
    )


def bandit(size: int = 512):
    """A contextual bandit: the best action is (x_0, -x_1), the log wanders around (0.3, 0.3)."""
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(size, 2, generator=rng) * 1.6 - 0.8
    action = (0.3 + 0.4 * torch.randn(size, 2, generator=rng)).clamp(-1, 1)
    best = x * torch.tensor([1.0, -1.0])
    return x, action, best, -((action - best) ** 2).sum(1)


def test_td3_bc_beats_the_log_on_a_bandit():
    x, action, best, reward = bandit()
    task = Task(ActionSpec("continuous", (2,)), Objective(Signal("reward", discount_within=0.0, discount_across=0.0)))
    learner = TD3BC(TD3BCConfig(actor=FLAT, critic_hidden=(32, 32), actor_learning_rate=3e-3, critic_learning_rate=3e-3, alpha=10.0), task)
    batch = transitions(x, action, reward)
    for _ in range(800):
        learner.update(batch)
    chosen = learner.policy().actor(batch.observation).detach()
    earned = -((chosen - best) ** 2).sum(1).mean()
    cloned = -((action.mean(0) - best) ** 2).sum(1).mean()
    # the log's own mean action earns about -0.7, the optimum 0
    assert earned > 0.4 * cloned
    assert earned > reward.mean()


def test_alpha_zero_is_behaviour_cloning():
    x, action, _, reward = bandit(512)
    task = Task(ActionSpec("continuous", (2,)), Objective(Signal("reward")))
    learner = TD3BC(TD3BCConfig(actor=FLAT, alpha=0.0, actor_learning_rate=3e-3), task)
    batch = transitions(x, action, reward)
    for _ in range(400):
        learner.update(batch)
    chosen = learner.policy().actor(batch.observation).detach()
    assert torch.allclose(chosen.mean(0), action.mean(0), atol=0.05)


def critic_values(discounts: tuple[float, float], session_end: torch.Tensor) -> torch.Tensor:
    """Fitted values of a two-state chain: state 0 earns 1 and goes to state 1, which earns 2 and terminates."""
    x = torch.eye(2).repeat(16, 1)
    follow = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).repeat(16, 1)
    terminated = torch.tensor([False, True]).repeat(16)
    task = Task(ActionSpec("continuous", (1,)), Objective(Signal("reward", discount_within=discounts[0], discount_across=discounts[1])))
    learner = TD3BC(TD3BCConfig(actor=FLAT, critic_learning_rate=3e-3, tau=0.05, alpha=0.0), task)
    action = torch.zeros(32, 1)
    batch = transitions(
        x, action, torch.tensor([1.0, 2.0]).repeat(16), session_end=session_end, terminated=terminated, next_features=follow
    )
    for _ in range(700):
        learner.update(batch)
    with torch.no_grad():
        return learner._critics(torch.eye(2), torch.zeros(2, 1))[0]


def test_critic_solves_a_chain_with_both_discounts():
    """Closed form: Q(1) = 2 (terminal), Q(0) = 1 + g Q(1), with g the discount within or across a session's end."""
    within = critic_values((0.9, 0.2), torch.zeros(32, dtype=torch.bool))
    across = critic_values((0.9, 0.2), torch.tensor([True, False]).repeat(16))
    assert torch.allclose(within, torch.tensor([1 + 0.9 * 2, 2.0]), atol=0.1)
    assert torch.allclose(across, torch.tensor([1 + 0.2 * 2, 2.0]), atol=0.1)


def test_constraints_are_refused_not_rewarded():
    objective = Objective(Signal("click"), (Constraint(Signal("hate"), "at_most", 0.01),))
    with pytest.raises(ConfigError, match="honours no constraints"):
        TD3BC(TD3BCConfig(actor=FLAT), Task(ActionSpec("continuous", (2,)), objective))


def test_bc_recovers_the_loggers_softmax():
    """The logger prefers item 1 after a long view and item 2 otherwise; BC finds both probabilities."""
    rng = np.random.default_rng(0)
    size = 2000
    seen = rng.integers(0, 2, size)
    item = np.where(rng.random(size) < 0.7, np.where(seen == 1, 1, 2), rng.integers(0, small.N_ITEMS, size))
    observation = Observation(
        user=torch.arange(size),
        history_items=torch.zeros(size, 1, dtype=torch.int64),
        history_feedback=torch.tensor(seen * 2, dtype=torch.uint8).unsqueeze(1),
        clock=torch.zeros(size, 4),
    )
    # one-hot item vectors: a low-rank softmax could not hold two such different laws
    task = replace(small.task("item"), item_vectors=torch.eye(small.N_ITEMS))
    learner = BC(BCConfig(ActorConfig(EncoderConfig(history=1), hidden=(32,)), learning_rate=1e-2, weight_decay=0.0), task)
    none = torch.zeros(size, dtype=torch.bool)
    batch = Transitions(observation, torch.from_numpy(item), torch.zeros(size, 1), observation, none, none, none)
    for _ in range(300):
        learner.update(batch)
    first = torch.tensor([int(np.flatnonzero(seen == 1)[0]), int(np.flatnonzero(seen == 0)[0])])
    probability = learner.policy().log_prob(observation[first], torch.tensor([1, 2])).exp()
    assert torch.allclose(probability, torch.full((2,), 0.7 + 0.3 / small.N_ITEMS), atol=0.05)
