"""`recrl prefer train`: states are standardised by what is learned from, alike in reward and policy, and what was stopped ends the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from recrl.algorithms.prefrec import PrefRecConfig
from recrl.checks.clauses import same
from recrl.core.errors import ConfigError
from recrl.core.runs import RunFolder
from recrl.pipeline.learn import policy_folder
from recrl.pipeline.prefer import LabelConfig, Lives, PreferPlan, learn_preferences, simulated_lives, standardised
from recrl.policies import load_policy
from recrl.policies.encoders import EncoderConfig, StandardisedEncoder, build_encoder
from recrl.policies.storage import read_policy
from recrl.policies.vector import ActorConfig
from recrl.preferences.pairs import teach
from recrl.preferences.reward import RewardConfig
from recrl.preferences.teacher import Teacher
from recrl.preferences.trajectories import Trajectories
from recrl.preferences.windows import cut_windows
from recrl.replay.sessions import LoggedSessions
from recrl.training.offline import OfflineConfig
from recrl_datasets import split_by_time
from tests.support import small

PLAN = PreferPlan(
    PrefRecConfig(ActorConfig(hidden=(8,)), (8,)),
    RewardConfig(hidden=(8, 8), batch_pairs=8, pretraining_steps=40, check_every=10, update_every=3, refresh_every=10, refresh_rows=64),
    OfflineConfig(steps=40, batch_size=16, log_every=5, checkpoint_every=10),
)


@pytest.fixture(scope="module")
def lives():
    return simulated_lives(60, 0)


@pytest.fixture(scope="module")
def pairs(lives):
    config = LabelConfig(pairs=40)
    return teach(lives.trajectories, cut_windows(lives.trajectories, config.windows), config.draw(lives, 0), "both", Teacher(), 0)


def test_states_of_simulated_users_have_mean_0_and_deviation_1(lives):
    encoder = build_encoder(PLAN.on(lives).prefrec.actor.encoder, None)
    states = encoder(lives.buffer.gather(torch.arange(len(lives.buffer))).observation)
    assert isinstance(encoder, StandardisedEncoder)
    assert states.mean(0).abs().max() < 1e-3
    # one feature is constant; a deviation of d is divided by d + .001
    assert ((states.std(0) - 1).abs() < 0.05).sum() == 13
    assert PLAN.on(lives).reward.encoder == PLAN.on(lives).prefrec.actor.encoder


def test_a_logs_states_are_measured_on_the_rows_that_are_learned_from():
    log = small.small_log()
    buffer, part = small.buffer("embedding", log), split_by_time(log).train
    lives = Lives(Trajectories(LoggedSessions(buffer, part, "user")), buffer, buffer.rows_of(part), small.task("embedding"), ("return",))
    plain = EncoderConfig(history=4)
    found, encoder = standardised(plain, lives), build_encoder(plain, small.item_vectors())
    states = encoder(buffer.gather(buffer.rows_of(part)).observation).double()
    assert len(part) < len(log)
    assert np.allclose(found.mean, states.mean(0))
    assert np.allclose(found.deviation, states.std(0, correction=0) + 1e-3)


def test_what_learns_or_misfits_is_not_standardised(lives):
    learned = EncoderConfig("gru")
    assert standardised(learned, lives) == learned
    with pytest.raises(ConfigError, match="do not standardise a gru state"):
        replace(learned, mean=(0.0,), deviation=(1.0,))
    with pytest.raises(ConfigError, match="1 means and 2 deviations"):
        EncoderConfig("flat", features=1, mean=(0.0,), deviation=(1.0, 1.0))
    with pytest.raises(ConfigError, match="1 means for a state of 2"):
        build_encoder(EncoderConfig("flat", features=2, mean=(0.0,), deviation=(1.0,)), None)


def test_stopped_anywhere_it_ends_the_same_and_the_policy_knows_its_scale(lives, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("recrl.pipeline.prefer.try_policies", lambda world, policy, seed: {})

    def learn(folder, stop=2.0):
        run = RunFolder.create(tmp_path / folder, kind="train", config={}, seed=0)

        def tell(done, text):
            if done >= stop:
                raise KeyboardInterrupt

        found = learn_preferences(lives, pairs, PLAN, run, seed=0, progress=tell)
        saved = [read_policy(place)[1] for place in (policy_folder(run, "prefrec"), run.path / "artifacts" / "reward")]
        return saved, found, pl.read_parquet(run.path / "metrics" / "train-prefrec").sort("step", "name").to_dicts()

    whole = learn("whole")
    for stop in (0.25, 0.7):
        with pytest.raises(KeyboardInterrupt):
            learn("cut", stop)
    assert same(learn("cut"), whole)
    policy = load_policy(policy_folder(RunFolder.open(tmp_path / "whole"), "prefrec"))
    assert isinstance(policy.actor.encoder, StandardisedEncoder)
    assert np.allclose(policy.actor.encoder.mean, PLAN.on(lives).prefrec.actor.encoder.mean)
