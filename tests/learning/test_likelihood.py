"""Cloning by likelihood finds the law behind the log: the spread of vectors, the choices, the slates."""

from __future__ import annotations

import torch

from recrl.algorithms.bc import BC, BCConfig
from recrl.algorithms.task import Task
from recrl.core.contracts import ActionSpec, Observation, Transitions
from recrl.core.objective import Objective, Signal
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.policies.encoders import EncoderConfig
from recrl.policies.items import ItemPolicy, TableScores, item_spec
from recrl.policies.vector import ActorConfig

ROWS = 2_000
ACTOR = ActorConfig(EncoderConfig("flat", features=2), hidden=(32,))


def learned(spec: ActionSpec, action: torch.Tensor, state: torch.Tensor, updates: int, **options):
    """The clone of ``action`` (n, *shape) in one of two states (n,)."""
    task = Task(spec, Objective(Signal("reward")), torch.eye(4), torch.zeros(4))
    learner = BC(BCConfig(ACTOR, learning_rate=1e-2, weight_decay=0.0, **options), task)
    seen, none = Observation(features=torch.eye(2)[state]), torch.zeros(ROWS, dtype=torch.bool)
    batch = Transitions(seen, action, torch.zeros(ROWS, 1), seen, none, none, none)
    for _ in range(updates):
        learner.update(batch)
    return learner.policy()


def test_a_spread_that_depends_on_the_state_is_found():
    state = torch.arange(ROWS) % 2
    mean, spread = torch.tensor([-0.5, 0.8])[state], torch.tensor([0.1, 0.6])[state]
    action = 1 + 2 * torch.tanh(mean + spread * TensorStreams(0).normal(torch.arange(ROWS), 0, Purpose.USERS))
    policy = learned(ActionSpec("continuous", (1,), low=-1.0, high=3.0), action.unsqueeze(1), state, 150, spread="learned")
    law = policy.actor(Observation(features=torch.eye(2)))
    # standard errors over 1,000 rows each: .003 and .02 of the means, .002 and .013 of the spreads; 5 of them, false-alarm rate 1e-6
    assert torch.allclose(law.mean.squeeze(1), torch.tensor([-0.5, 0.8]), atol=0.1)
    assert torch.allclose(law.log_spread.exp().squeeze(1), torch.tensor([0.1, 0.6]), atol=0.065)


def test_discrete_choices_are_found():
    state = torch.arange(ROWS) % 2
    share = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    action = (share[state].log() + TensorStreams(0).gumbel(torch.arange(ROWS), 0, Purpose.USERS, (3,))).argmax(1)
    policy = learned(ActionSpec("discrete", choices=3), action, state, 80)
    found = policy.log_probs(Observation(features=torch.eye(2))).exp()
    # standard error .016 at most
    assert torch.allclose(found, share, atol=0.08)


def test_the_scores_behind_slates_are_found():
    """Slates of 2 of 4 items drawn by Plackett-Luce: cloning finds the probability of each ordered slate."""
    logger = ItemPolicy(TableScores(torch.tensor([1.0, 0.0, -0.5, 0.5])), item_spec(4, 2))
    slates = logger.act(Observation(user=torch.arange(ROWS)), TensorStreams(0)).value
    policy = learned(item_spec(4, 2), slates, torch.zeros(ROWS, dtype=torch.int64), 120)
    every = torch.tensor([[a, b] for a in range(4) for b in range(4) if a != b])
    found = policy.log_prob(Observation(features=torch.eye(2)[:1].expand(12, -1)), every).exp()
    expected = logger.log_prob(Observation(user=torch.arange(12)), every).exp()
    # standard error .009 at most
    assert torch.allclose(found, expected, atol=0.05)
