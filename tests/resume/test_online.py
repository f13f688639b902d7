"""The online loop in the toy world: exact resume, the ring of transitions, what a transition costs."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from gymnasium.vector import AutoresetMode
from safetensors.torch import load_file

from recrl.algorithms.task import Task
from recrl.algorithms.td3 import TD3, TD3Config
from recrl.checks import check_sampler
from recrl.core.contracts import ActionSpec
from recrl.core.errors import CheckpointError, ConfigError
from recrl.core.objective import Objective, Signal
from recrl.core.runs import RunFolder
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig
from recrl.replay.ring import RingBuffer
from recrl.replay.samplers import UniformSampler
from recrl.training.collect import GymCollector, WorldCollector
from recrl.training.online import OnlineConfig, UniformActions, train_online
from simulators.toy import TOY_CONFIG, toy_world

OBJECTIVE = Objective(Signal("long_view", discount_within=0.9, discount_across=0.5))
CONFIG = OnlineConfig(steps=30, warmup=5, batch_size=32, log_every=5, checkpoint_every=10)


def train(folder: Path, config: OnlineConfig = CONFIG, progress=None) -> RunFolder:
    world = toy_world(TOY_CONFIG, OBJECTIVE)
    actor = ActorConfig(EncoderConfig("history", history=10), hidden=(16,))
    learner = TD3(TD3Config(actor=actor, critic_hidden=(16,)), Task(world.action_spec, OBJECTIVE, world.response.item_vectors), seed=0)
    run = RunFolder.create(folder, kind="train", config={}, seed=0)
    # small enough to wrap around before the end
    train_online(learner, WorldCollector(world, 8, seed=1), RingBuffer(150), config, run, stream="train", seed=2, progress=progress)
    return run


def outcome(run: RunFolder):
    newest = sorted((run.checkpoints / "train").glob("step-*"))[-1]
    metrics = pq.read_table(run.path / "metrics" / "train").to_pylist()
    return load_file(newest / "tensors.safetensors"), sorted((r["step"], r["name"], r["value"]) for r in metrics)


class StopError(Exception):
    pass


def test_weights_metrics_users_and_replay_go_on_exactly(tmp_path):
    def stop(done: float, text: str) -> None:
        if round(done * CONFIG.steps) >= 15:
            raise StopError

    whole = outcome(train(tmp_path / "whole"))
    with pytest.raises(StopError):
        train(tmp_path / "cut", progress=stop)
    cut = outcome(train(tmp_path / "cut"))
    assert cut[1] == whole[1]
    assert cut[0].keys() == whole[0].keys()
    assert all(torch.equal(cut[0][name], whole[0][name]) for name in whole[0])


def collected(steps: int, history: int = 18):
    """A full ring of the toy world and everything that went into it."""
    world = toy_world(replace(TOY_CONFIG, history=history), OBJECTIVE)
    collector, policy = WorldCollector(world, 6, seed=3), UniformActions(world.action_spec)
    batches = [collector.collect(policy, step) for step in range(steps)]
    ring = RingBuffer(40)
    for batch in batches:
        ring.add(batch)
    return ring, batches


def test_the_ring_keeps_the_newest_transitions_as_they_were():
    ring, batches = collected(10)
    assert len(ring) == 40
    every = [(batch, k) for batch in batches for k in range(6)][-40:]
    kept = ring.gather(torch.arange(40))
    positions = [(20 + k) % 40 for k in range(40)]  # 60 transitions in a ring of 40: the oldest kept stands at position 20
    for (batch, k), at in zip(every, positions, strict=True):
        assert torch.equal(kept.action[at], batch.action[k])
        assert torch.equal(kept.reward[at], batch.reward[k])
        assert torch.equal(kept.observation.history_items[at], batch.observation.history_items[k])
        assert torch.equal(kept.next_observation.history_feedback[at], batch.next_observation.history_feedback[k])
        assert kept.session_end[at] == batch.session_end[k]


def test_a_transition_of_history_50_takes_at_most_600_bytes():
    ring, _ = collected(2, history=50)
    assert ring.bytes_per_transition() <= 600


def test_a_restored_ring_gathers_the_same():
    ring, _ = collected(10)
    again = RingBuffer(40)
    again.load_state_dict(ring.state_dict())
    index = torch.arange(0, 40, 3)
    assert torch.equal(again.gather(index).action, ring.gather(index).action)


def test_sampler_over_a_growing_ring():
    ring, _ = collected(4)
    check_sampler(UniformSampler(ring, None, seed=0))


def test_collected_users_are_replaced_and_clocks_go_on():
    _, batches = collected(60)
    gone = torch.stack([b.terminated for b in batches])
    ends = torch.stack([b.session_end for b in batches])
    assert gone.any()
    assert (ends | ~gone).all()
    for before, after in itertools.pairwise(batches):
        goes_on = ~before.terminated
        # after churn or the horizon a fresh user stands in the slot, with an empty history
        same = (after.observation.history_items == before.next_observation.history_items).all(1)
        fresh = (after.observation.history_items == -1).all(1)
        assert (same | fresh)[goes_on].all()
        assert fresh[before.terminated].all()


class Countdown(gymnasium.Env):
    """Ends after three steps; the observation counts them, and tells the episode's own random number."""

    observation_space = gymnasium.spaces.Box(-10, 10, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    fickle = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.number = 0, self.np_random.normal()
        return self._seen(), {}

    def step(self, action):
        self.count += 1
        if self.fickle:
            self.number = np.random.default_rng().normal()
        return self._seen(), 1.0, self.count == 3, False, {}

    def _seen(self):
        return np.array([self.count, self.number], np.float32)


class Fickle(Countdown):
    """One that asks a random generator of its own."""

    fickle = True


def countdowns(kind=Countdown, count: int = 2, mode=AutoresetMode.DISABLED):
    return gymnasium.vector.SyncVectorEnv([kind] * count, autoreset_mode=mode)


class Limited(Countdown):
    """One whose episodes are cut by a time limit."""

    def step(self, action):
        seen, reward, over, _, info = super().step(action)
        return seen, reward, False, over, info


UNIFORM = UniformActions(ActionSpec("continuous", (1,)))


def test_gym_transitions_hold_the_true_final_observation():
    collector = GymCollector(countdowns(), seed=0)
    batches = [collector.collect(UNIFORM, k) for k in range(4)]
    assert [b.next_observation.features[0, 0].item() for b in batches] == [1, 2, 3, 1]
    assert [b.observation.features[0, 0].item() for b in batches] == [0, 1, 2, 0]
    assert [b.terminated[0].item() for b in batches] == [False, False, True, False]
    assert collector.returns == [3.0, 3.0]


def test_a_time_limit_is_no_end():
    collector = GymCollector(countdowns(Limited), seed=0)
    batches = [collector.collect(UNIFORM, k) for k in range(4)]
    assert [b.next_observation.features[0, 0].item() for b in batches] == [1, 2, 3, 1]
    # the next state is known: it is neither an end nor unknown
    assert not any((b.terminated | b.truncated).any() for b in batches)
    assert collector.returns == [3.0, 3.0]


def test_every_episode_has_a_seed_of_its_own():
    collector = GymCollector(countdowns(count=3), seed=0)
    firsts = torch.cat([collector.collect(UNIFORM, k).observation.features[:, 1] for k in range(9)][::3])
    assert firsts.unique().numel() == 9
    again = GymCollector(countdowns(count=3), seed=0).collect(UNIFORM, 0)
    assert torch.equal(again.observation.features[:, 1], firsts[:3])


def test_a_task_that_does_not_play_the_same_way_twice_is_told():
    collector = GymCollector(countdowns(Fickle), seed=0)
    for k in range(4):
        collector.collect(UNIFORM, k)
    with pytest.raises(CheckpointError, match="do not show what they showed"):
        GymCollector(countdowns(Fickle), seed=0).load_state_dict(collector.state_dict())


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_another_autoreset_mode_is_refused(mode):
    with pytest.raises(ConfigError, match="begins episodes by itself"):
        GymCollector(countdowns(mode=mode), seed=0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RingBuffer(0), "capacity=0 must be at least 1"),
        (lambda: OnlineConfig(warmup=0), "warmup=0 must be at least 1"),
        (lambda: OnlineConfig(log_every=3, checkpoint_every=10), "choose 12"),
    ],
)
def test_bad_options(build, message):
    with pytest.raises(ConfigError) as caught:
        build()
    assert message in str(caught.value)
