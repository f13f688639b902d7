"""No update, batch or simulated request waits for the device; and the check finds what does."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from recrl.algorithms import REGISTRY
from recrl.algorithms.task import Task
from recrl.algorithms.td3 import TD3, TD3Config
from recrl.checks import check_no_sync
from recrl.core.contracts import Update
from recrl.core.errors import ContractError
from recrl.core.objective import Objective, Signal
from recrl.core.torch.views import transitions_to
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig
from recrl.replay.logged import LoggedBuffer
from recrl.replay.ring import RingBuffer
from recrl.replay.samplers import UniformSampler
from recrl.training.collect import WorldCollector
from simulators.toy import TOY_CONFIG, toy_world
from tests.contracts.test_registered import GRID, GRU, TRANSFORMER
from tests.support import small


def updates(name: str, kind: str, actor: ActorConfig | None = None, learner: type | None = None):
    """A learner on a device, with a batch that lies there."""

    def build(device: str):
        made = learner or REGISTRY[name]
        options = made.config_type() if actor is None else made.config_type(actor=actor)
        batch = transitions_to(small.buffer(kind).gather(torch.arange(10) * 8 + 3), device)
        this = made(options, replace(small.task(kind), device=device), 0)
        return lambda: this.update(batch)

    return build


@pytest.mark.parametrize(("name", "kind"), GRID)
def test_updates(name, kind):
    check_no_sync(updates(name, kind), name)


@pytest.mark.parametrize("actor", [GRU, TRANSFORMER], ids=["gru", "transformer"])
@pytest.mark.parametrize("name", REGISTRY)
def test_updates_of_learned_encoders(name, actor):
    check_no_sync(updates(name, "continuous", actor), name)


def test_batches_of_a_log():
    def build(device: str):
        buffer = LoggedBuffer(small.small_log(), Objective(Signal("long_view")), history=5, device=device)
        sampler, steps = UniformSampler(buffer, torch.arange(90), 0), iter(range(1, 9))
        return lambda: sampler.sample(16, next(steps))

    check_no_sync(build, "UniformSampler over a LoggedBuffer")


def moved(thing, device: str):
    """A copy of one of our objects, and of all that it holds, with its tensors on another device."""
    if isinstance(thing, torch.Tensor):
        return thing.to(device)
    if isinstance(thing, torch.device):
        return torch.device(device)
    if isinstance(thing, list | tuple):
        return type(thing)(moved(part, device) for part in thing)
    if not type(thing).__module__.startswith("simulators"):
        return thing
    other = copy(thing)
    for name, part in vars(thing).items():
        object.__setattr__(other, name, moved(part, device))
    return other


@pytest.mark.parametrize("encoder", [EncoderConfig(history=6), EncoderConfig("gru", history=6, width=8)], ids=lambda e: e.kind)
@pytest.mark.parametrize("kind", ["embedding", "fusion_weights"])
def test_the_online_loop_in_a_simulated_world(kind, encoder):
    """Act, respond, remember, draw a batch, learn."""

    def build(device: str):
        # set-up reads its tables, which is no step
        world = moved(toy_world(replace(TOY_CONFIG, action_kind=kind)), device)
        actor = ActorConfig(encoder, hidden=(8,))
        task = Task(world.action_spec, world.objective, torch.zeros(world.n_items, 8), device=device)
        learner = TD3(TD3Config(actor=actor, critic_hidden=(8,)), task, 0)
        collector, ring = WorldCollector(world, 8, 0), RingBuffer(20, device)
        sampler, steps = UniformSampler(ring, None, 0), iter(range(1, 9))

        def step() -> None:
            number = next(steps)
            ring.add(collector.collect(learner.collect_policy(), number))
            learner.update(sampler.sample(16, number))

        return step

    check_no_sync(build, "the online loop")


class Reads(TD3):
    def update(self, batch):
        update = super().update(batch)
        self.loss = update.metrics["critic_loss"].item()
        return update


class Branches(TD3):
    def update(self, batch):
        return super().update(batch) if batch.reward.mean() > 0 else Update({})


class Masks(TD3):
    def update(self, batch):
        self.rewarded = batch.reward[batch.reward > 0].mean()
        return super().update(batch)


class Moves(TD3):
    def update(self, batch):
        self.seen = batch.reward.cpu()
        return super().update(batch)


class Counts(TD3):
    def update(self, batch):
        self.weight = torch.tensor([0.5, 0.5], device=batch.reward.device)
        return super().update(batch)


class Draws(TD3):
    def update(self, batch):
        picked = torch.from_numpy(np.arange(5))
        return super().update(replace(batch, reward=batch.reward.index_fill(0, picked.to(batch.reward.device), 1.0)))


class Mixes(TD3):
    def update(self, batch):
        self.first = batch.reward[torch.arange(3)]
        return super().update(batch)


class Late(TD3):
    def _update_actor(self, state, action):
        metrics = super()._update_actor(state, action)
        return {name: float(value) for name, value in metrics.items()}


@pytest.mark.parametrize("learner", [Reads, Branches, Masks, Moves, Counts, Draws, Mixes, Late])
def test_planted_waits_are_found(learner):
    with pytest.raises(ContractError, match="no step waits for the device") as caught:
        check_no_sync(updates("td3", "continuous", learner=learner), learner.__name__)
    assert "test_no_sync.py" in caught.value.where
