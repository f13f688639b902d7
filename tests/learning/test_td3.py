"""TD3 learns online what is known in closed form; its parts do what they say."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from recrl.algorithms.adam import Adam
from recrl.algorithms.task import Task
from recrl.algorithms.td3 import TD3, TD3Config
from recrl.core.contracts import ActionSpec, Observation
from recrl.core.objective import Objective, Signal
from recrl.core.runs import RunFolder
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig
from recrl.replay.ring import RingBuffer
from recrl.training.collect import GymCollector
from recrl.training.online import OnlineConfig, train_online
from tests.support import small


class Aim(gymnasium.Env):
    """A target is shown; the reward is minus the squared distance of the action to (x_0, -x_1), and the episode is over."""

    observation_space = gymnasium.spaces.Box(-0.8, 0.8, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-0.8, 0.8, 2).astype(np.float32)
        return self.x, {}

    def step(self, action):
        return self.x, -float(((action - self.x * [1, -1]) ** 2).sum()), True, False, {}


def test_td3_aims_where_the_best_action_is(tmp_path):
    """Online from nothing: the error falls from about 1.1 (random actions) and 0.43 (no movement) below 0.02; the optimum is 0."""
    actor = ActorConfig(EncoderConfig("flat", features=2), hidden=(32, 32), exploration=0.3)
    options = TD3Config(actor, critic_hidden=(32, 32), actor_learning_rate=3e-3, critic_learning_rate=3e-3)
    learner = TD3(options, Task(ActionSpec("continuous", (2,)), Objective(Signal("reward"))), seed=0)
    env = SyncVectorEnv([Aim] * 16, autoreset_mode=AutoresetMode.DISABLED)
    run = RunFolder.create(tmp_path / "run", kind="train", config={}, seed=0)
    config = OnlineConfig(steps=200, warmup=20, updates_per_step=3, batch_size=128, log_every=100, checkpoint_every=200)
    train_online(learner, GymCollector(env, seed=1), RingBuffer(3_200), config, run, stream="train", seed=2)
    x = torch.cartesian_prod(*[torch.linspace(-0.8, 0.8, 9)] * 2)
    with torch.no_grad():
        chosen = learner.policy().centre(Observation(features=x))
    assert ((chosen - x * torch.tensor([1.0, -1.0])) ** 2).sum(1).mean() < 0.02


def test_adam_is_that_of_torch():
    """Bit for bit, through gradients that lie in memory in any order."""
    draws = torch.Generator().manual_seed(0)
    start = [torch.randn(5, 7, generator=draws), torch.randn(7, generator=draws)]
    x = torch.randn(30, 5, generator=draws)

    def loss(weight, bias):
        # the gradient of a transposed weight is a transposed view
        return ((weight.t().contiguous().t() * 3.0).t().mul(x.mean(0)).sum() - bias.exp().sum()) ** 2

    ours, theirs = ([torch.nn.Parameter(p.clone()) for p in start] for _ in range(2))
    adam, reference = Adam(ours, 1e-2), torch.optim.Adam(theirs, lr=1e-2, fused=True)
    for _ in range(5):
        adam.descend(loss(*ours))
        reference.zero_grad()
        loss(*theirs).backward()
        reference.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def encoding_learner(**options):
    actor = ActorConfig(EncoderConfig("gru", history=5, width=8, layers=1), hidden=(8,))
    return TD3(TD3Config(actor=actor, critic_hidden=(8,), **options), small.task("embedding"), seed=0)


def changed(learner, batch) -> dict[str, bool]:
    before = {name: p.clone() for name, p in learner.policy().named_parameters()}
    learner.update(batch)
    return {name: not torch.equal(p, before[name]) for name, p in learner.policy().named_parameters()}


def test_the_encoder_is_trained_by_the_critics_alone():
    batch = small.buffer("embedding").gather(torch.arange(10) * 8 + 3)
    by_actor = changed(encoding_learner(critic_learning_rate=0.0), batch)
    by_critics = changed(encoding_learner(actor_learning_rate=0.0), batch)
    assert {name for name, moved in by_actor.items() if moved} == {name for name in by_actor if ".body." in name}
    assert {name for name, moved in by_critics.items() if moved} == {name for name in by_critics if ".encoder." in name}


def test_the_target_encoder_follows():
    batch = small.buffer("embedding").gather(torch.arange(10) * 8 + 3)
    learner = encoding_learner(tau=0.1)
    start = {name: p.clone() for name, p in learner.policy().named_parameters()}
    learner.update(batch)
    online, target = learner.policy().state_dict(), learner.state_dict()["target_policy"]
    for name, begin in start.items():
        assert torch.allclose(target[name], 0.9 * begin + 0.1 * online[name], atol=1e-7)
