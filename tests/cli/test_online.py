"""`recrl online`: learning by acting on simulated users and in control tasks, evaluated on the way, gone on with where it was stopped."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recrl.algorithms.task import Task
from recrl.algorithms.td3 import TD3, TD3Config
from recrl.cli import main
from recrl.core import runs as core_runs
from recrl.core.contracts import Update
from recrl.core.errors import ConfigError, StorageError
from recrl.core.runs import RunFolder
from recrl.pipeline.data import DataOptions
from recrl.pipeline.online import UsersConfig
from recrl.pipeline.runs import read_metrics
from recrl.pipeline.simulate import simulator_folder
from recrl.policies import load_policy
from recrl.policies.encoders import EncoderConfig
from recrl.policies.items import ItemPolicy
from recrl.policies.vector import ActorConfig
from recrl.replay.ring import RingBuffer
from recrl.replay.samplers import UniformSampler
from recrl.replay.session_buffer import SessionBuffer
from recrl.training.collect import WorldCollector
from recrl.training.online import OnlineConfig, train_online
from recrl.verbs.online import Learners, OnlineOptions, online_one
from recrl.verbs.seeds import RunOptions
from recrl_datasets import open_store
from simulators.drift import DriftConfig
from simulators.fit import FitConfig, fit_world
from simulators.response_fit import ResponseConfig
from simulators.toy import toy_world

ACTOR = ActorConfig(EncoderConfig("history", history=10), hidden=(16,))
SMALL = TD3Config(actor=ACTOR, critic_hidden=(16,))
SHAPE = ["--td3.actor.hidden", "16", "--td3.critic-hidden", "16", "--td3.actor.encoder.history", "10", "--batch-size", "16"]
USERS = ["--users", "8", "--slate", "2", "--pool", "10", "--days", "3", "--evaluate-users", "10", "--scenario", "strong"]
STEPS = ["--steps", "20", "--log-every", "5", "--checkpoint-every", "10", "--evaluate-every", "10", "--warmup", "4"]
FAST_AB = ["--users", "20", "--days", "2", "--slate", "2", "--pool", "10"]


@pytest.fixture(scope="module")
def simulator(stores, tmp_path_factory) -> Path:
    """A run that holds a simulator of the small log, fitted in a hurry."""
    run = RunFolder(tmp_path_factory.mktemp("simulators") / "quick")
    config = FitConfig(response=ResponseConfig(epochs=1), leave="synthetic", retention="published")
    fit_world(open_store(stores / "small").log(), config=config).save(simulator_folder(run))
    return run.path


def call(capsys, *words: str, status: int = 0) -> dict:
    capsys.readouterr()
    assert main([*words, "--json"]) == status
    (line,) = capsys.readouterr().out.strip().splitlines()
    return json.loads(line)


def test_policies_learned_on_users_meet_in_an_ab_test(asked, simulator, capsys):
    words = ["online", "td3", *asked, "--simulator", str(simulator), *SHAPE, *USERS, *STEPS]
    found = call(capsys, *words)
    assert [point["step"] for point in found["curve"]] == [10, 20]
    assert (found["scenario"], found["eta_s"]) == ("strong", 5.0)
    assert found["final"]["eval_return"] == found["curve"][-1]["eval_return"] > 0
    assert {"eval_day1_retention", "eval_churn_share", "critic_loss", "reward_0"} <= found["final"].keys()
    assert isinstance(load_policy(Path(found["policy"])), ItemPolicy)
    fused = call(capsys, *words, "--action", "fusion_weights", "--buffer.kind", "sessions", "--buffer.window", "3")
    met = call(capsys, "ab", "random", found["run"], fused["run"], *asked, *FAST_AB, "--simulator", str(simulator))
    assert {row["arm"] for row in met["metrics"]} == {"random", "td3-embedding", "td3-fusion_weights"}
    refused = call(capsys, "ope", fused["run"], *asked, status=2)["error"]
    assert refused["what"] == "policy 'td3-fusion_weights' decides fusion_weights, which gives no probability of an item"
    assert "recrl ab popularity" in refused["mend"]


def test_a_control_task(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["online", "td3", "--env", "Pendulum-v1", "--tasks", "2", "--episodes", "2", *SHAPE[:4], "--batch-size", "16", *STEPS]
    found = call(capsys, *words)
    assert Path(found["run"]).name == "online-td3-Pendulum-v1-seed0"
    assert found["final"]["eval_episode_length"] == 200
    assert -2000 < found["final"]["eval_return"] < 0
    assert load_policy(Path(found["policy"])).action_spec.shape == (1,)
    assert main(words) == 0
    assert "return by step" in capsys.readouterr().out


def test_tensorboard_that_is_not_installed_is_said_before_anything_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    error = call(capsys, "online", "td3", "--env", "Pendulum-v1", "--tensorboard", status=2)["error"]
    assert error["what"] == "TensorBoard is not installed"
    assert "pip install tensorboard" in error["mend"]
    assert not list(tmp_path.iterdir())


class StopError(KeyboardInterrupt):
    """Ctrl-C in the middle."""


def stop_at(step: int, steps: int):
    def progress(done: float, text: str) -> None:
        if done * steps >= step:
            raise StopError

    return progress


def options(stores: Path, simulator: Path, run: str) -> OnlineOptions:
    return OnlineOptions(
        data=DataOptions("small", stores=stores, vector_size=8),
        simulator=simulator,
        users=UsersConfig(users=8, slate=2, pool=10, days=3, scenario="strong", evaluate_users=10),
        online=OnlineConfig(steps=20, log_every=5, checkpoint_every=10, evaluate_every=10, warmup=4, batch_size=16),
        learners=Learners(td3=SMALL),
        how=RunOptions(runs=Path("runs"), run=run, tensorboard=True),
    )


def metrics_of(run: Path) -> list[tuple]:
    return sorted(read_metrics(RunFolder(run), "train-td3-embedding").iter_rows())


def test_drift_is_lived_through_in_training_and_evaluation(asked, stores, simulator):
    """Under a shift of 5 in the log-odds of returning that turns on day 1, one sign of which keeps users away."""
    still, drifting = options(stores, simulator, "still"), options(stores, simulator, "drifting")
    drift = DriftConfig("regimes", amplitude=5.0, switch_days=(1,))
    drifting = replace(drifting, users=replace(drifting.users, drift=drift))
    found = [online_one(asked, lambda done, text: None)["final"] for asked in (still, drifting)]
    assert found[0]["eval_active_days"] != found[1]["eval_active_days"]
    assert RunFolder.open("runs/drifting").config["users"]["drift"]["switch_days"] == [1]
    with pytest.raises(ConfigError, match="started with other options"):
        online_one(replace(still, how=replace(still.how, run="drifting")), lambda done, text: None)


def test_stopped_and_full_disk_then_the_same_command_goes_on(asked, stores, simulator, monkeypatch):
    """Ctrl-C after step 5, a full disk after step 15: weights, metrics and the curves of TensorBoard end as if neither had been."""
    online_one(options(stores, simulator, "whole"), lambda done, text: None)
    cut = options(stores, simulator, "cut")
    with pytest.raises(StopError):
        online_one(cut, stop_at(5, 20))
    run = RunFolder.open("runs/cut")
    assert run.status.state == "stopped"
    real, written = core_runs.pq.write_table, Counter()

    def full(table: object, path: Path, **arguments: object) -> None:
        written["parts"] += "metrics" in path.parts
        # step 5; 10 and its evaluation; 15; 20 and its evaluation
        if written["parts"] == 5:
            raise OSError(28, "No space left on device")
        real(table, path, **arguments)

    with monkeypatch.context() as patched:
        patched.setattr(core_runs.pq, "write_table", full)
        with pytest.raises(StorageError, match="free some disk space"):
            online_one(cut, lambda done, text: None)
    assert (run.status.state, run.status.done) == ("failed", 0.75)
    result = online_one(cut, lambda done, text: None)
    assert run.status.state == "done"
    assert metrics_of(Path("runs/cut")) == metrics_of(Path("runs/whole"))
    states = [load_file(Path("runs", n, "checkpoints/train-td3-embedding/step-000000020/tensors.safetensors")) for n in ("whole", "cut")]
    assert states[0].keys() == states[1].keys()
    # as bytes: what warm-up could not know is NaN
    assert all(states[0][name].numpy().tobytes() == states[1][name].numpy().tobytes() for name in states[0])
    scalars = EventAccumulator("runs/cut/tensorboard/train-td3-embedding")
    scalars.Reload()
    for name in ("eval_return", "critic_loss", "reward_0"):
        shown = [(event.step, event.value) for event in scalars.Scalars(name)]
        kept = [(step, value) for step, metric, value in metrics_of(Path("runs/cut")) if metric == name]
        assert shown == [(step, pytest.approx(value)) for step, value in kept], name
    assert result["final"]["eval_return"] == result["curve"][-1]["eval_return"]


def toy(folder: Path, *, config: OnlineConfig, learner: TD3 | None = None, **arguments: object) -> tuple[TD3, RunFolder]:
    world = toy_world()
    learner = learner or learner_of(TD3)
    run = RunFolder.create(folder, kind="online", config={}, seed=0)
    train_online(learner, WorldCollector(world, 6, seed=1), RingBuffer(200), config, run, stream="s", seed=2, **arguments)
    return learner, run


def learner_of(kind: type[TD3]) -> TD3:
    world = toy_world()
    return kind(SMALL, Task(world.action_spec, world.objective, world.response.item_vectors), 0)


CONFIG = OnlineConfig(steps=12, warmup=3, batch_size=8, log_every=4, checkpoint_every=4, evaluate_every=3)


def test_evaluation_changes_nothing_in_training(tmp_path):
    asked = []

    def evaluate(policy: object) -> dict[str, float]:
        asked.append(policy)
        return {"eval_return": float(len(asked))}

    plain, without = toy(tmp_path / "plain", config=CONFIG)
    judged, run = toy(tmp_path / "judged", config=CONFIG, evaluate=evaluate)
    weights = (plain.state_dict(), judged.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(weights[0]["policy"].values(), weights[1]["policy"].values(), strict=True))
    rows = read_metrics(run, "s")
    curve = rows.filter(pl.col("name") == "eval_return")
    assert list(zip(curve["step"], curve["value"], strict=True)) == [(3, 1.0), (6, 2.0), (9, 3.0), (12, 4.0)]
    rest = rows.filter(pl.col("name") != "eval_return").sort("step", "name")
    assert rest.equals(read_metrics(without, "s").sort("step", "name"))
    never = replace(CONFIG, evaluate_every=0)
    assert [step for step in range(1, 13) if never.evaluates_at(step)] == [12], "the last step always"


class Prioritised(UniformSampler):
    """Remembers what it is told, and keeps it in its state."""

    def __init__(self, buffer: RingBuffer) -> None:
        super().__init__(buffer, None, 2)
        self.told: dict[int, float] = {}

    def update_priorities(self, index: torch.Tensor, priorities: torch.Tensor) -> None:
        self.told.update(zip(index.tolist(), priorities.tolist(), strict=True))

    def state_dict(self) -> dict:
        return {"told": dict(self.told)}

    def load_state_dict(self, state: dict) -> None:
        self.told = dict(state["told"])


class Reporting(TD3):
    """TD3 that reports the reward of a row as its priority."""

    def update(self, batch):
        return Update(super().update(batch).metrics, priorities=batch.reward[:, 0] + 1.0)


def test_priorities_go_back_to_the_sampler_and_live_in_the_checkpoint(tmp_path):
    world, buffer = toy_world(), RingBuffer(200)
    sampler = Prioritised(buffer)
    run = RunFolder.create(tmp_path / "r", kind="online", config={}, seed=0)

    def train(sampler: Prioritised, buffer: RingBuffer) -> int:
        collector = WorldCollector(world, 6, seed=1)
        return train_online(learner_of(Reporting), collector, buffer, CONFIG, run, stream="s", seed=2, sampler=sampler)

    assert train(sampler, buffer) == 0
    rewards = buffer.gather(torch.arange(len(buffer))).reward[:, 0]
    assert len(sampler.told) > 20
    assert all(priority == pytest.approx(float(rewards[row]) + 1.0) for row, priority in sampler.told.items())
    fresh = Prioritised(RingBuffer(200))
    assert train(fresh, fresh.buffer) == 12
    assert fresh.told == sampler.told


def test_a_buffer_of_another_kind_needs_its_sampler(tmp_path):
    run = RunFolder.create(tmp_path / "r", kind="online", config={}, seed=0)
    with pytest.raises(ConfigError, match="nothing draws from a SessionBuffer"):
        train_online(learner_of(TD3), WorldCollector(toy_world(), 6, seed=1), SessionBuffer(100), CONFIG, run, stream="s", seed=2)


MISTAKES = [
    (["ppo"], "algorithm 'ppo' is unknown"),
    (["bc"], "algorithm 'bc' learns from logged actions only"),
    (["td3", "--simulator", "nowhere"], "no fitted simulator in nowhere"),
    (["td3", "--env", "Pendulum-v1", "--simulator", "x"], "td3 cannot learn from two things at once"),
    (["td3", "--env", "Nope-v0"], "no task 'Nope-v0'"),
    (["td3", "--env", "CartPole-v1"], "not bounded vectors"),
    (["td3", "--warmup", "0"], "warmup=0 must be at least 1"),
    (["td3", "--evaluate-every", "-1"], "evaluate_every=-1 must be at least 0"),
    (["td3", "--users", "0"], "users=0 must be at least 1"),
    (["td3", "--buffer.capacity", "0"], "capacity=0 must be at least 1"),
    (["td3", "--signal", "hate", "--simulator", "THE"], "pool_size=100 and exclude_recent=30 do not fit"),
    (["td3", "--signal", "rating", "--pool", "10", "--simulator", "THE"], "this world has no signal 'rating'"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_mistakes(words, message, asked, simulator, capsys):
    words = [str(simulator) if word == "THE" else word for word in words]
    error = call(capsys, "online", *words, *asked, status=2)["error"]
    assert message in error["what"]
    assert not list(Path("runs").glob("*/metrics"))
