"""Every registered learner, killed while it trains, ends where the uninterrupted run ends: weights, metric rows, policies, to the bit.

Forks of this process train through the public loops and kill themselves before a change of a file. Who goes on is built from another
seed, so that whatever it knows comes from the checkpoint.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from recrl.algorithms import REGISTRY
from recrl.algorithms.cem import CEM, CEMConfig
from recrl.algorithms.rnd import RND, RNDConfig
from recrl.algorithms.task import Learner, Task
from recrl.core.contracts import BatchTransform, Transitions, Update
from recrl.core.objective import Constraint, Objective, Signal
from recrl.core.runs import RunFolder
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig
from recrl.preferences.reward import LearnedReward, PreferenceReward, RewardConfig
from recrl.replay.ring import RingBuffer
from recrl.replay.samplers import UniformSampler
from recrl.training import checkpoints
from recrl.training.collect import WorldCollector
from recrl.training.offline import OfflineConfig, train_offline
from recrl.training.online import OnlineConfig, train_online
from simulators.toy import TOY_CONFIG, toy_world
from tests.resume import crashing
from tests.resume.crashing import KILLED
from tests.support import small

pytestmark = pytest.mark.usefixtures("quick_files")

MAIN = Signal("long_view", discount_within=0.9, discount_across=0.5)
PROTECTED = Objective(MAIN, (Constraint(Signal("like"), "at_least", 0.1),))
SEVERAL = ("tscac", "tscac_ddpg", "rcpo", "pareto", "joint_critic", "rlur")
"""Learners of several signals."""
ITEMS = ("bc", "tscac", "rcpo", "pareto", "joint_critic")
"""Learners of items offline; the others learn embeddings there, and all of them fusion weights in the world."""
ONLINE = ("auro", "oac", "sac", "rlur", "tscac", "tscac_ddpg")
"""One of each way to explore, and those whose actors know how likely their actions were; TD3 dies in ``test_crashes.py``."""
LENGTH = {"steps": 7, "batch_size": 8, "log_every": 3, "checkpoint_every": 3}


class Told:
    """Tells which environment a transition comes from, as a collector in a changing world does."""

    def update(self, batch: Transitions) -> Update:
        return Update({})

    def apply(self, batch: Transitions) -> Transitions:
        return replace(batch, notes={**batch.notes, "environment": batch.index % 3})

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def objective_of(name: str) -> Objective:
    return PROTECTED if name in SEVERAL else Objective(MAIN)


def learner_of(name: str, task: Task, encoder: EncoderConfig, seed: int) -> Learner:
    """A tiny one; two stages meet within seven updates."""
    kind = REGISTRY[name].config_type
    tiny = {"actor": ActorConfig(encoder, hidden=(8,), exploration=0.3), "critic_hidden": (8,), "stage_one_updates": 4}
    return REGISTRY[name](kind(**{option: value for option, value in tiny.items() if option in vars(kind())}), task, seed)


def save_policies(learner: Learner, folder: Path) -> None:
    """What is deployed and what explores."""
    for name, policy in (("deployed", learner.policy()), ("exploring", learner.collect_policy())):
        policy.save(folder / "artifacts" / "policies" / name)


def offline(name: str, folder: Path, seed: int = 0) -> None:
    """On a log; ESCP with environments, TD3+BC with a bonus for novelty, PrefRec with a learned reward."""
    action, encoder = "item" if name in ITEMS else "embedding", EncoderConfig(history=4)
    objective = objective_of(name)
    task, buffer = small.task(action, objective), small.buffer(action, LOG, objective)
    sampler = UniformSampler(buffer, torch.arange(len(buffer)), 0)
    transforms: list[BatchTransform] = []
    if name == "escp":
        transforms = [Told()]
    elif name == "td3_bc":
        transforms = [RND(RNDConfig(encoder, hidden=(8,), width=4), task, seed)]
    elif name == "prefrec":
        reward = LearnedReward(RewardConfig(encoder, (8,), refresh_every=2, refresh_rows=8), task, seed)
        transforms = [PreferenceReward(reward, None, sampler)]
    run = RunFolder.create(folder, kind="train", config={}, seed=0)
    with run.running():
        learner = learner_of(name, task, encoder, seed)
        train_offline(learner, sampler, OfflineConfig(**LENGTH), run, stream="train", transforms=transforms)
        save_policies(learner, folder)


def online(name: str, folder: Path, seed: int = 0) -> None:
    """In the toy world, with a replay buffer that wraps around."""
    objective = objective_of(name)
    world = toy_world(TOY_CONFIG, objective)
    vectors = world.response.item_vectors
    run = RunFolder.create(folder, kind="train", config={}, seed=0)
    with run.running():
        task = Task(world.action_spec, objective, vectors, torch.zeros(len(vectors)))
        learner = learner_of(name, task, EncoderConfig(history=4), seed)
        collector, config = WorldCollector(world, 4, seed=1), OnlineConfig(warmup=2, **LENGTH)
        train_online(learner, collector, RingBuffer(20), config, run, stream="train", seed=2)
        save_policies(learner, folder)


LOG = small.small_log()
WORKS = {f"{work.__name__} {name}": partial(work, name) for work, names in ((offline, REGISTRY), (online, ONLINE)) for name in names}


@pytest.mark.parametrize("name", WORKS)
def test_a_killed_learner_goes_on_to_the_bit(tmp_path, name):
    """Killed at a random change of a file between its first checkpoint and its last."""
    work, whole, cut = WORKS[name], tmp_path / "whole", tmp_path / "cut"
    changes = crashing.changes_of(work, whole, tmp_path / "changes")
    number = random.Random(name).randint(len(changes) * 2 // 5 + 1, len(changes) * 2 // 3)
    assert crashing.killed_at(work, cut, number) == KILLED
    assert checkpoints.load_latest(cut / "checkpoints" / "train")[0] in (3, 6)
    work(cut, seed=1)
    assert crashing.left_by(cut) == crashing.left_by(whole)


def test_a_search_goes_on_to_the_bit(tmp_path):
    """CEM from a checkpoint between being asked and being told."""

    def generation(search: CEM, number: int) -> None:
        search.ask(6, number)
        search.tell(-(search.asked**2).sum(1))

    task = small.task("fusion_weights")
    whole, cut, again = (CEM(CEMConfig(), task, seed) for seed in (0, 0, 1))
    for number in range(4):
        generation(whole, number)
    generation(cut, 0)
    cut.ask(6, 1)
    checkpoints.save_checkpoint(tmp_path, 1, cut.state_dict())
    again.load_state_dict(checkpoints.load_latest(tmp_path)[1])
    again.tell(-(again.asked**2).sum(1))
    for number in (2, 3):
        generation(again, number)
    assert torch.equal(again.mean, whole.mean)
    assert torch.equal(again.spread, whole.spread)
