"""`recrl simulate log`: simulated users as a store with propensities, action vectors and censoring."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import offline_eval
from dashboards import what_if
from recrl.cli import main
from recrl.core.contracts import ActionSpec, LoggedFeedback
from recrl.core.errors import ConfigError
from recrl.core.files import write_json
from recrl.core.objective import Objective, Signal
from recrl.core.runs import RunFolder
from recrl.core.torch.streams import TensorStreams
from recrl.pipeline.data import DataOptions
from recrl.pipeline.setting import Setting
from recrl.pipeline.simulate import simulator_folder
from recrl.pipeline.simulated_log import LogConfig, weights_policy, write_log
from recrl.policies.encoders import EncoderConfig
from recrl.policies.items import ItemPolicy, QueryScores, TableScores, item_spec, random_policy
from recrl.policies.vector import ActorConfig, VectorPolicy
from recrl.replay.logged import LoggedBuffer
from recrl_datasets import append, open_store, sessions, split_by_time
from simulators.drift import DriftConfig
from simulators.fit import FitConfig, FittedWorld, fit_world
from simulators.logging import START_MS, log_rows
from simulators.response_fit import ResponseConfig
from simulators.toy import TOY_CONFIG, toy_world

Z = 4.0
"""Standard errors that a statistical check allows: a false alarm in 16,000 for each number."""


def setting_of(stores: Path) -> Setting:
    return Setting(open_store(stores / "small"), DataOptions("small", stores=stores, vector_size=8))


@pytest.fixture(scope="module")
def setting(stores) -> Setting:
    return setting_of(stores)


@pytest.fixture(scope="module")
def fitted(setting) -> FittedWorld:
    """Nothing pleases or tires these users: how often they come does not depend on what they are shown."""
    config = FitConfig(response=ResponseConfig(epochs=1), leave="synthetic", retention="published")
    world = fit_world(setting.log, config=config)
    return replace(world, leave=replace(world.leave, satisfaction=0.0, fatigue=0.0))


@pytest.fixture(scope="module")
def written(setting, fitted, tmp_path_factory):
    """Write a log of a policy into a folder of its own, or open it."""
    stores = tmp_path_factory.mktemp("simulated")

    def write(policy, name: str, **options):
        config = LogConfig(**({"users": 60, "days": 5} | options))
        return write_log(setting, fitted, "hash", policy, config, name, logger=name, seed=3, stores=stores)

    return write


@pytest.fixture(scope="module")
def uniform(setting, written):
    """A log of uniformly shown single items, large enough for statistics."""
    return written(random_policy(item_spec(setting.log.n_items)), "uniform", users=1_500, days=14)


def skewed(setting, size: int = 1) -> ItemPolicy:
    return ItemPolicy(TableScores(torch.linspace(0, 2, setting.log.n_items)), item_spec(setting.log.n_items, size if size > 1 else None))


# ---------------------------------------------------------------------- what is written


@pytest.mark.parametrize("kind", ["slate", "fusion_weights"])
def test_rows_do_not_depend_on_who_is_simulated_together(kind):
    drift = DriftConfig("regimes", seed=4)
    world = toy_world(replace(TOY_CONFIG, action_kind=kind, horizon_days=4, drift=drift, truth=False))
    if kind == "slate":
        policy = random_policy(item_spec(world.n_items, 6, pool=True))
    else:
        config = ActorConfig(EncoderConfig("flat", features=world.n_features), (16,))
        policy = VectorPolicy(world.action_spec, config)
    users, ids = world.population(24, 1), pl.Series("item_id", [f"i{k:02}" for k in range(40)])
    logs = [pl.concat(log_rows(world, policy, users, TensorStreams(9), item_ids=ids, logger="x", portion=portion)) for portion in (11, 24)]
    assert logs[0].equals(logs[1])
    assert logs[0]["user_id"].n_unique() == 24
    assert ("candidate_set_id" in logs[0].columns) == (kind == "slate")
    assert {"watch_seconds", "action_log_prob"} <= set(logs[0].columns)


def test_assumed_effects_take_the_place_of_fitted_ones(fitted):
    assert LogConfig(scenario="strong").assumed(fitted).retention == fitted.retention.under("strong")
    other = LogConfig(scenario="strong", eta_s=2.5, leave_odds=0.5).assumed(fitted)
    assert other.retention.under("strong").eta_s == 2.5
    hazards = [1 / (1 + np.exp(-world.leave.logit(0.7, 0.0, 0.0))) for world in (fitted, other)]
    odds = [hazard / (1 - hazard) for hazard in hazards]
    assert odds[1] == pytest.approx(0.5 * odds[0])
    assert other.leave.mean_depth() > fitted.leave.mean_depth()


@pytest.mark.parametrize("options", [{"eta_s": -1.0}, {"eta_s": float("nan")}, {"leave_odds": 0.0}, {"leave_odds": float("inf")}])
def test_assumptions_that_are_none_are_refused(options):
    with pytest.raises(ConfigError):
        LogConfig(**options)


def test_reopened_logs_hold_the_same_rows_and_the_whole_catalogue(setting, written):
    store = written(skewed(setting), "few", users=5, days=1)
    log, again = store.log(), open_store(store.path).log()
    assert again.content_hash == log.content_hash
    assert again.frame().equals(log.frame())
    assert np.unique(log.column("item")).size < log.n_items == setting.log.n_items
    assert store.items["item_id"].equals(setting.store.items["item_id"])
    assert store.users["catalogue_user_id"].to_list() == [int(setting.store.users["user_id"][k]) for k in store.users["catalogue_user"]]
    # the catalogue outlives what is appended
    rows = {"user_id": [77], "item_id": [3], "timestamp_ms": [START_MS], "click": [1]}
    more = log.frame().drop("user", "item").head(1).drop("click", "timestamp_ms").to_dict(as_series=False)
    grown = append(store, pl.DataFrame(more | rows).drop("is_duplicate").with_columns(pl.col("local_date").cast(pl.Date)))
    assert grown.log().n_items == setting.log.n_items


def test_propensities_are_the_probabilities_of_the_policy(setting, written):
    policy = skewed(setting, 3)
    log = written(policy, "slates", slate=3).log()
    assert (log.column("position").reshape(-1, 3) == [0, 1, 2]).all()
    slates = torch.as_tensor(log.column("item").astype(np.int64).reshape(-1, 3))
    observation = LoggedBuffer(log, Objective(Signal("click"))).observation(torch.arange(0, log.n_rows, 3))
    exact = policy.log_prob(observation, slates).numpy()
    assert log.column("action_log_prob").reshape(-1, 3) == pytest.approx(np.repeat(exact[:, None], 3, 1), abs=1e-5)
    assert np.log(log.column("propensity")).reshape(-1, 3).sum(1) == pytest.approx(exact, abs=1e-5)


def test_a_policy_that_remembers_finds_its_states_in_the_log(setting, written):
    """History and clock come back from the rows, so that a policy gives the logged items their logged chances."""
    vectors = setting.item_vectors
    actor = VectorPolicy(ActionSpec("embedding", (8,)), ActorConfig(EncoderConfig(history=6), (16,)), vectors, seed=5)
    policy = ItemPolicy(QueryScores(actor), item_spec(setting.log.n_items), 0.2)
    log = written(policy, "remembers").log()
    buffer = LoggedBuffer(log, Objective(Signal("click")), history=6, session_rule="day")
    rows = torch.arange(log.n_rows)
    found = policy.log_prob(buffer.observation(rows), torch.as_tensor(log.column("item").astype(np.int64)))
    # the log knows when a request began, the world when it ended: half a minute of the days away
    assert found.detach().numpy() == pytest.approx(log.column("action_log_prob"), abs=2e-3)
    assert np.ptp(log.column("action_log_prob")) > 0.5


def test_vectors_and_their_densities(setting, written):
    policy = weights_policy(setting, ("long_view=0.5", "hate=-0.95"), 0.2)
    log = written(policy, "weights", slate=2).log()
    assert not log.has("propensity")
    action = log.column("action").reshape(-1, 2, 7)
    assert (action[:, 0] == action[:, 1]).all()
    assert abs(action[:, 0, 1].mean() - 0.5) < Z * 0.2 / len(action) ** 0.5
    observation = LoggedBuffer(log, Objective(Signal("click")), history=1).observation(torch.arange(0, log.n_rows, 2))
    exact = policy.log_prob(observation, torch.as_tensor(action[:, 0])).detach().numpy()
    assert log.column("action_log_prob")[::2] == pytest.approx(exact, abs=1e-4)


def test_the_record_ends_for_everybody_on_the_last_day(uniform):
    log = uniform.log()
    assert np.unique(log.column("censor_time")).tolist() == [START_MS + 14 * 86_400_000 - 1]
    cut = sessions(log, rule="day")
    day = (cut.start_ms - START_MS) // 86_400_000
    assert (cut.exposure_whole_days == 13 - day).all()
    assert day.max() == 13
    # sessions cut by days are the simulated ones
    assert log.column("session_id")[cut.requests.through(cut.rows).values[:-1]].tolist() == cut.users.positions().tolist()


# ---------------------------------------------------------------------- what it says of the world


def test_rates_are_those_of_the_world(setting, fitted, uniform):
    """Clicks and others of each user against the chances of the world, in four numbers."""
    log, catalogue = uniform.log(), torch.as_tensor(uniform.users["catalogue_user"].to_numpy().astype(np.int64))
    chance = fitted.response.scores(catalogue, torch.arange(setting.log.n_items).expand(len(catalogue), -1)).mean(1).double().numpy()
    requests = np.bincount(log.column("user"), minlength=log.n_users)
    for k, name in enumerate(("click", "long_view", "like")):
        expected, variance = (requests * chance[:, k]).sum(), (requests * chance[:, k] * (1 - chance[:, k])).sum()
        assert abs(log.column(name).sum() - expected) < Z * variance**0.5
    share = np.bincount(log.column("item"), minlength=log.n_items) / log.n_rows
    assert np.abs(share - 1 / 40).max() < Z * (1 / 40 / log.n_rows) ** 0.5
    assert np.unique(log.column("propensity")) == pytest.approx([1 / 40])


def test_returns_follow_the_worlds_law_once_censoring_is_counted(fitted, uniform):
    """Kaplan-Meier's hazards of days 1 to 7 against the law; shares among completed gaps are off by many standard errors."""
    cut = sessions(uniform.log(), rule="day")
    law = fitted.retention.hazards()
    for day in range(1, 8):
        risk = (cut.exposure_whole_days >= day) & ((cut.gap_whole_days >= day) | cut.censored)
        back = (cut.gap_whole_days == day) & risk
        error = (law[day - 1] * (1 - law[day - 1]) / risk.sum()) ** 0.5
        assert abs(back.sum() / risk.sum() - law[day - 1]) < Z * error
    completed = cut.gap_whole_days[~cut.censored]
    first = (completed == 1).mean()
    assert first - law[0] > 2 * Z * (law[0] * (1 - law[0]) / completed.size) ** 0.5


def test_off_policy_estimates_from_the_log(setting, fitted, uniform):
    """The logging policy's weights are 1; another policy's clicks are covered at four standard errors."""
    log = uniform.log()
    logged = np.log(log.column("propensity").astype(np.float64))
    item, user = (log.column(name).astype(np.int64) for name in ("item", "user"))
    own = LoggedFeedback(log.column("click"), logged, logged, user)
    assert offline_eval.estimate(own, offline_eval.REGISTRY["ips"]).value == pytest.approx(log.column("click").mean(), abs=1e-12)
    law = torch.linspace(0, 2, 40).double().log_softmax(0).numpy()
    feedback = LoggedFeedback(log.column("click"), law[item], logged, user)
    catalogue = torch.as_tensor(uniform.users["catalogue_user"].to_numpy().astype(np.int64))
    chance = fitted.response.scores(catalogue, torch.arange(40).expand(len(catalogue), -1))[..., 0].double().numpy() @ np.exp(law)
    truth = chance[user].mean()
    for name in ("ips", "snips"):
        found = offline_eval.interval(offline_eval.REGISTRY[name].contributions(feedback))
        assert abs(found.value - truth) < Z * found.standard_error


# ---------------------------------------------------------------------- whole or not at all, and from the shell


KILLED_HALF_WAY = """
import os, signal, sys
from pathlib import Path
from tests.cli.test_simulate_log import skewed, small_log_of, setting_of
from simulators.fit import FittedWorld

def progress(done, text):
    if done > 0.3:
        os.kill(os.getpid(), signal.SIGKILL)

setting = setting_of(Path(sys.argv[1]))
small_log_of(setting, FittedWorld.load(sys.argv[2]), Path(sys.argv[3]), progress)
"""


def small_log_of(setting: Setting, fitted: FittedWorld, stores: Path, progress=None):
    options = {"logger": "skewed", "seed": 1, "stores": stores, "progress": progress}
    return write_log(setting, fitted, "hash", skewed(setting), LogConfig(20, 3), "mine", **options)


def test_a_killed_command_leaves_nothing_and_the_next_one_the_same_log(stores, setting, simulator, tmp_path):
    fitted = FittedWorld.load(simulator / "artifacts" / "simulator")
    whole = small_log_of(setting, fitted, tmp_path / "whole").content_hash
    words = [str(stores), str(simulator / "artifacts" / "simulator"), str(tmp_path / "killed")]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "datasets")])}
    done = subprocess.run([sys.executable, "-c", KILLED_HALF_WAY, *words], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "mine").exists()
    assert small_log_of(setting, fitted, tmp_path / "killed").content_hash == whole
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["mine"]


@pytest.fixture(scope="module")
def simulator(fitted, tmp_path_factory) -> Path:
    run = RunFolder(tmp_path_factory.mktemp("simulators") / "quick")
    fitted.save(simulator_folder(run))
    return run.path


def call(capsys, *words: str, status: int = 0) -> dict:
    capsys.readouterr()
    assert main([*words, "--json"]) == status
    (line,) = capsys.readouterr().out.strip().splitlines()
    return json.loads(line)


def test_from_the_shell(asked, simulator, tmp_path, capsys):
    # other tests use the folder of stores, too
    stores = tmp_path / "stores"
    stores.mkdir()
    os.symlink(Path(asked[3]) / "small", stores / "small")
    words = [*asked[:3], str(stores), *asked[4:], "--simulator", str(simulator), "--users", "40", "--days", "4"]
    found = call(capsys, "simulate", "log", "popularity", *words, "--slate", "2", "--scenario", "strong", "--drift.kind", "weekly")
    assert (found["logger"], found["users"], found["rows"]) == ("popularity", 40, 2 * found["requests"])
    assert Path(found["store"]).name == "simulated-small-popularity-seed0"
    again = call(capsys, "simulate", "log", "popularity", *words, "--slate", "2", "--scenario", "strong", "--drift.kind", "weekly")
    assert again == found
    where = ["--data", "simulated-small-popularity-seed0", "--stores", str(stores)]
    assert call(capsys, "data", "describe", *where[1:])["data_summary"][0]["rows"] == found["rows"]
    told = call(capsys, "ope", "random", *where, "--vector-size", "8")
    assert (told["propensities"], "reliability" in told) == ("logged", False)
    log = open_store(stores / "simulated-small-popularity-seed0").log()
    test = split_by_time(log).test
    (ips,) = (r for r in told["estimates"] if (r["policy"], r["signal"], r["estimator"]) == ("random", "click", "ips"))
    assert ips["value"] == pytest.approx(np.mean(test.column("click") / log.n_items / test.column("propensity")), rel=1e-4)
    ask = ("ope", "random", *where, "--vector-size", "8", "--run", "asked-again", "--behaviour-steps", "2")
    assert call(capsys, *ask, "--propensities", "estimated")["propensities"] == "estimated"
    assert "no column `propensity`" in call(capsys, "ope", "random", *words[:-6], "--propensities", "logged", status=2)["error"]["what"]


def test_a_what_if_of_the_dashboard_simulates_what_its_sliders_say(asked, simulator, tmp_path, capsys, monkeypatch):
    stores, root = tmp_path / "stores", tmp_path / "page"
    for folder, target in ((stores / "small", Path(asked[3]) / "small"), (root / "mine", simulator)):
        folder.parent.mkdir()
        shutil.copytree(target, folder)
    write_json(root / "mine" / "config.json", {"data": "small", "vector_size": 8})
    monkeypatch.setenv("RECRL_STORES", str(stores))
    depths = []
    for k, odds in enumerate((0.25, 4.0), 1):
        wanted = what_if.WhatIf("mine", "random", 2.5, odds, 10, 2, "none", 0.0, 40, 4, 0, f"what-if-{k}")
        found = call(capsys, *what_if.command(root, wanted))
        depths.append(found["requests"] / found["sessions"])
    assert depths[0] > 1.5 * depths[1], "odds of leaving move the depth of sessions"
    assert what_if.made() == ["what-if-2", "what-if-1"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("weights",), "the policy `weights` and --weights belong together"),
        (("weights", "--weights", "laughs=1"), "'laughs=1' is no weight of a behaviour"),
        (("weights", "--weights", "click=2"), "leaves the bounds"),
        (("nobody",), "no policy 'nobody'"),
        (("--response", "sequence"), "the simulator's response model is 'latent'"),
        (("--name", "ml-100k"), "'ml-100k' is the name of a dataset"),
        (("--users", "0"), "users=0 must be at least 1"),
    ],
)
def test_mistakes_are_named(asked, simulator, capsys, words, what):
    error = call(capsys, "simulate", "log", *words, *asked, "--simulator", str(simulator), status=2)["error"]
    assert what in error["what"]
