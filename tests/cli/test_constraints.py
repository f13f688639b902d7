"""`--constraints` on `recrl train` and `recrl online`: vector rewards reach learners that use them, others refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recrl.cli import main
from recrl.core.runs import RunFolder
from recrl.pipeline.simulate import simulator_folder
from recrl.policies import load_policy
from recrl.policies.items import ItemPolicy
from recrl_datasets import open_store
from simulators.fit import FitConfig, fit_world
from simulators.response_fit import ResponseConfig

STEPS = ["--steps", "20", "--log-every", "5", "--checkpoint-every", "10", "--batch-size", "16"]


def call(capsys, *words: str, status: int = 0) -> dict:
    capsys.readouterr()
    assert main([*words, "--json"]) == status
    (line,) = capsys.readouterr().out.strip().splitlines()
    return json.loads(line)


def test_training_from_a_log(asked, capsys):
    words = ["train", "tscac", "--action", "item", *asked, *STEPS, "--constraints", "like>=0.1", "click@0.5"]
    found = call(capsys, *words, "--tscac.stage-one-updates", "10", "--tscac.actor.hidden", "16")
    assert {"slack_like", "rate_click", "kl_like", "kl_click", "lambda_like", "critic_loss_long_view"} <= found["final"].keys()
    assert isinstance(load_policy(Path(found["policy"])), ItemPolicy)
    again = call(capsys, *words[:-1], "click@0.9", "--tscac.stage-one-updates", "10", "--tscac.actor.hidden", "16", status=2)["error"]
    assert "was started with other options: learner" in again["what"]


@pytest.mark.parametrize("action", ["item", "fusion_weights"])
def test_training_on_users(action, asked, stores, tmp_path, capsys):
    run = RunFolder(tmp_path / "simulator")
    config = FitConfig(response=ResponseConfig(epochs=1), leave="synthetic", retention="published")
    fit_world(open_store(stores / "small").log(), config=config).save(simulator_folder(run))
    users = ["--users", "8", "--slate", "2", "--pool", "10", "--days", "3", "--evaluate-users", "10", "--warmup", "4"]
    words = ["online", "tscac", "--action", action, *asked, "--simulator", str(run.path), *users, *STEPS, "--constraints", "like>=0.1"]
    found = call(capsys, *words, "--tscac.stage-one-updates", "8", "--tscac.actor.hidden", "16")
    assert {"slack_like", "eval_return", "reward_1"} <= found["final"].keys()
    assert "cloning_loss" not in found["final"], "who acts knows its own probabilities"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["train", "bc", "--constraints", "like"], "bc honours no constraints"),
        (["train", "bpr", "--constraints", "like"], "bpr honours no constraints"),
        (["train", "td3", "--constraints", "like>=0.1"], "td3 maximises one signal and honours no constraints"),
        (["train", "tscac", "--constraints", "like=0.1"], "'like=0.1' is no constraint"),
        (["train", "tscac", "--constraints", "long_view"], "each signal may appear once"),
        (["train", "tscac", "--constraints", "hugs"], "unknown signal 'hugs'"),
    ],
)
def test_what_cannot_be_is_said(words, what, asked, capsys):
    error = call(capsys, *words, *asked, status=2)["error"]
    assert what in error["what"]
    assert error["mend"]


def test_a_control_task_has_one_reward(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    error = call(capsys, "online", "tscac", "--env", "Pendulum-v1", "--constraints", "like", status=2)["error"]
    assert error["what"] == "a control task has one reward"
