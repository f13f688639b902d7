"""A run that dies anywhere, resumed, leaves what the uninterrupted run leaves: weights, replay, metric rows, policies, to the bit.

Forks of this process train on a small log, in the toy world, and in a Gymnasium task, and kill themselves before a change of a file.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from recrl.algorithms.task import Task
from recrl.algorithms.td3 import TD3, TD3Config
from recrl.algorithms.td3_bc import TD3BC, TD3BCConfig
from recrl.core.contracts import ActionSpec, Transitions, Update
from recrl.core.objective import Objective, Signal
from recrl.core.runs import RunFolder
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig
from recrl.replay.ring import RingBuffer
from recrl.replay.samplers import UniformSampler
from recrl.training import checkpoints
from recrl.training.collect import Collector, GymCollector, WorldCollector
from recrl.training.offline import OfflineConfig, train_offline
from recrl.training.online import OnlineConfig, train_online
from simulators.toy import TOY_CONFIG, toy_world
from tests.resume import crashing
from tests.resume.crashing import FULL, KILLED
from tests.support import small

pytestmark = pytest.mark.usefixtures("quick_files")

OBJECTIVE = Objective(Signal("long_view", discount_within=0.9, discount_across=0.5))
STEPS, LOG_EVERY, CHECKPOINT_EVERY = 7, 1, 3
LOG, WORLD = small.small_log(), toy_world(TOY_CONFIG, OBJECTIVE)


class Centred:
    """A batch transform with a state: rewards less their running mean."""

    def __init__(self) -> None:
        self.mean = torch.zeros(())

    def update(self, batch: Transitions) -> Update:
        self.mean = self.mean.lerp(batch.reward.mean(), 0.1)
        return Update({"reward_mean": self.mean})

    def apply(self, batch: Transitions) -> Transitions:
        return batch.with_reward(batch.reward - self.mean)

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]


def offline(folder: Path) -> None:
    """TD3+BC on a log, then its policy: what `recrl train` does."""
    run = RunFolder.create(folder, kind="train", config={}, seed=0)
    with run.running():
        actor = ActorConfig(EncoderConfig(history=5), hidden=(8,))
        learner = TD3BC(TD3BCConfig(actor=actor, critic_hidden=(8,)), small.task("embedding"), 0)
        buffer = small.buffer("embedding", LOG)
        config = OfflineConfig(steps=STEPS, batch_size=8, log_every=LOG_EVERY, checkpoint_every=CHECKPOINT_EVERY)
        train_offline(learner, UniformSampler(buffer, torch.arange(len(buffer)), 0), config, run, stream="train", transforms=[Centred()])
        learner.policy().save(folder / "artifacts" / "policies" / "td3_bc")


def _online(folder: Path, spec: ActionSpec, encoder: EncoderConfig, collector: Collector, vectors: torch.Tensor | None = None) -> None:
    run = RunFolder.create(folder, kind="train", config={}, seed=0)
    with run.running():
        actor = ActorConfig(encoder, hidden=(8,))
        learner = TD3(TD3Config(actor=actor, critic_hidden=(8,)), Task(spec, OBJECTIVE, vectors), 0)
        config = OnlineConfig(steps=STEPS, warmup=3, batch_size=8, log_every=LOG_EVERY, checkpoint_every=CHECKPOINT_EVERY)
        # small enough to wrap around
        train_online(learner, collector, RingBuffer(20), config, run, stream="train", seed=2)


def in_a_world(folder: Path) -> None:
    """TD3 with a trained encoder on simulated users."""
    encoder = EncoderConfig("gru", history=6, width=8, layers=1)
    _online(folder, WORLD.action_spec, encoder, WorldCollector(WORLD, 4, seed=1), WORLD.response.item_vectors)


class Drifting(gymnasium.Env):
    """A point pushed around by its own noise; an episode ends after 3 to 6 steps."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.point = int(self.np_random.integers(3, 7)), self.np_random.normal(size=2)
        return self.point, {}

    def step(self, action):
        self.left -= 1
        self.point = self.point + float(action[0]) + self.np_random.normal(size=2)
        return self.point, -float(self.point @ self.point), False, self.left == 0, {}


def in_a_task(folder: Path) -> None:
    """TD3 in three Gymnasium tasks side by side."""
    env = SyncVectorEnv([Drifting] * 3, autoreset_mode=AutoresetMode.DISABLED)
    _online(folder, ActionSpec("continuous", (1,)), EncoderConfig("flat", features=2), GymCollector(env, seed=4))


WORKS = {work.__name__: work for work in (offline, in_a_world, in_a_task)}


@dataclass
class Whole:
    """An uninterrupted run: what it leaves, the changes of files it makes, and where copies from before each of them are."""

    left: dict[str, object]
    changes: list[str]
    images: Path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run of each work."""

    @cache
    def of(name: str) -> Whole:
        base = tmp_path_factory.mktemp("whole")
        # once in this process, so that forks find everything imported
        WORKS[name](base / "first")
        changes = crashing.images_of(WORKS[name], base / name, base / "images")
        left = crashing.left_by(base / name)
        assert left == crashing.left_by(base / "first")
        return Whole(left, changes, base / "images")

    return of


def goes_on(name: str, folder: Path, whole) -> None:
    """The same command, in a new process, leaves what an uninterrupted one leaves."""
    assert crashing.forked(lambda: WORKS[name](folder)) == 0
    assert crashing.left_by(folder) == whole(name).left


@pytest.mark.parametrize(("name", "every"), [("offline", 1), ("in_a_world", 15), ("in_a_task", 15)])
def test_what_a_kill_before_any_change_of_a_file_leaves(whole, name, every):
    """Offline before each change, in the other loops before every fifteenth; resumed in this process, which is cheaper than a new one."""
    changes = whole(name).changes
    assert {"open", "test.half", "os.rename", "os.remove", "os.mkdir", "os.rmdir"} <= set(changes)
    for number in range(1 + len(changes) % every, len(changes) + 1, every):
        folder = whole(name).images / str(number)
        WORKS[name](folder)
        assert crashing.left_by(folder) == whole(name).left


@pytest.mark.parametrize("name", WORKS)
def test_killed_before_some_changes(tmp_path, whole, name):
    """The process kills itself, before every twentieth change."""
    count = len(whole(name).changes)
    for number in range(1 + count % 20, count + 1, 20):
        folder = tmp_path / str(number)
        assert crashing.killed_at(WORKS[name], folder, number) == KILLED
        goes_on(name, folder, whole)


@pytest.mark.parametrize("name", WORKS)
def test_killed_while_it_resumes(tmp_path, whole, name):
    """Three kills in a row at random changes, then it is left alone."""
    draw = random.Random(name)
    for k in range(2):
        for _ in range(3):
            # one that ends before the chosen change is done
            assert crashing.killed_at(WORKS[name], tmp_path / str(k), draw.randint(1, 60)) in (KILLED, 0)
        goes_on(name, tmp_path / str(k), whole)


@pytest.mark.parametrize("name", WORKS)
def test_killed_from_outside_at_any_time(tmp_path, whole, name):
    """SIGKILL by another process after random delays, again and again until the work is done."""
    draw, status = random.Random(name), KILLED
    begin = time.monotonic()
    assert crashing.forked(lambda: WORKS[name](tmp_path / "timed")) == 0
    duration = time.monotonic() - begin
    for _ in range(4):
        child = crashing.begun(lambda: WORKS[name](tmp_path / "run"))
        time.sleep(draw.uniform(0.2, 1.0) * duration)
        os.kill(child, signal.SIGKILL)
        status = crashing.finished(child)
        assert status in (KILLED, 0)
    goes_on(name, tmp_path / "run", whole)


@pytest.mark.parametrize(("name", "every"), [("offline", 12), ("in_a_world", 40), ("in_a_task", 40)])
def test_a_disk_that_is_full_from_any_change_on(tmp_path, whole, name, every):
    """A clear error, and what was kept serves once there is space again."""
    changes = whole(name).changes
    for number in range(1 + len(changes) % every, len(changes) + 1, every):
        folder = tmp_path / str(number)
        last = all(event in ("os.remove", "os.rmdir") for event in changes[number - 1 :])
        assert crashing.full_at(WORKS[name], folder, number) == (0 if last else FULL)
        goes_on(name, folder, whole)


@pytest.fixture
def tiny_disk(tmp_path):
    """A disk of 200 KB that can be made larger; skipped where this user may mount none."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a disk needs rights that this user does not have")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("name", WORKS)
def test_a_disk_that_is_really_full(tiny_disk, whole, name):
    """The kernel's own refusal, wherever it strikes: the space left for the run grows until it fits."""
    whole(name)
    filler, refusals = tiny_disk / "filler", 0
    for free in range(4_000, 200_000, 48_000):
        filler.write_bytes(b"")
        space = os.statvfs(tiny_disk)
        filler.write_bytes(bytes(max(0, space.f_bavail * space.f_frsize - free)))
        status = crashing.forked(lambda: WORKS[name](tiny_disk / "run"))
        assert status in (0, FULL)
        refusals += status == FULL
    assert refusals > 0
    filler.unlink()
    goes_on(name, tiny_disk / "run", whole)


def newest(folder: Path) -> Path:
    return max((folder / "checkpoints" / "train").glob("step-*"))


DAMAGES = {
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "missing": Path.unlink,
    "a bit flipped at the front": lambda path: flip(path, 3),
    "a bit flipped in the middle": lambda path: flip(path, path.stat().st_size // 2),
    "a bit flipped at the end": lambda path: flip(path, path.stat().st_size - 1),
    "a byte too many": lambda path: path.write_bytes(path.read_bytes() + b"0"),
}


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_the_newest_checkpoint(tmp_path, whole, damage):
    """The one before serves, and the run ends as if nothing had happened."""
    WORKS["in_a_task"](tmp_path / "run")
    for name in ("tensors.safetensors", "state.json", "SHA256SUMS"):
        DAMAGES[damage](newest(tmp_path / "run") / name)
        assert checkpoints.load_latest(tmp_path / "run" / "checkpoints" / "train")[0] == 6
        WORKS["in_a_task"](tmp_path / "run")
        assert crashing.left_by(tmp_path / "run") == whole("in_a_task").left
