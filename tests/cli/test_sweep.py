"""`recrl sweep`: the same budget for each learner, chosen on validation rows, resumed as if it had not been stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from recrl.algorithms import REGISTRY
from recrl.cli import main
from recrl.core.errors import ConfigError
from recrl.pipeline.spaces import Range, space_of

QUICK = ["--trials", "3", "--steps", "4", "--behaviour-steps", "20", "--jobs", "1", "--signal", "click"]


def call(capsys, *words, status=0):
    assert main([*words, "--json"]) == status
    (line,) = capsys.readouterr().out.strip().splitlines()
    return json.loads(line)


def test_each_learner_tries_as_much_and_a_stopped_sweep_goes_on(capsys, asked):
    words = ["sweep", "td3_bc", "bc", *asked, *QUICK]
    told = call(capsys, *words)
    run = Path(told["run"])
    trials = pq.read_table(run / "artifacts/sweep_trials.parquet").to_pylist()
    assert [(t["learner"], t["trial"]) for t in trials] == [(n, k) for n in ("td3_bc", "bc") for k in range(3)]
    assert [t["options"] for t in trials if t["trial"] == 0] == ["defaults", "defaults"]
    assert len({t["options"] for t in trials}) == 5
    for row in told["best"]:
        assert row["score"] == max(t["score"] for t in trials if t["learner"] == row["learner"])
        assert row["score"] == pytest.approx(row["click_value"] / row["click_logged"])
    assert {row["policy"] for row in told["estimates"]} >= {"td3_bc", "bc"}
    # what came last is lost: the same command makes the same of it
    (run / "trials/bc-2.json").unlink()
    shutil.rmtree(run / "artifacts/policies/bc-2")
    again = call(capsys, *words)
    assert pq.read_table(run / "artifacts/sweep_trials.parquet").to_pylist() == trials
    assert again["best"] == told["best"]


def test_a_trial_that_falls_short_of_a_constraint_is_not_chosen(capsys, asked):
    words = ["--action", "item", "--constraints", "like>=0.9", "--space", "actor_learning_rate=1e-4..1e-2 log"]
    told = call(capsys, "sweep", "rcpo", *asked, *QUICK, "--trials", "2", *words)
    trials = pq.read_table(Path(told["run"], "artifacts/sweep_trials.parquet")).to_pylist()
    for trial in trials:
        short = (0.9 - trial["like_value"]) / 0.9
        assert trial["score"] == pytest.approx(trial["click_value"] / trial["click_logged"] - 10 * short)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("nobody",), "unknown learner 'nobody'"),
        (("td3", "--judge", "dr"), "dr needs predictions"),
        (("td3", "--space", "alpha=5..1"), "'alpha=5..1' is no range"),
        (("td3", "--space", "td3.colour=1..2"), "td3 has no option 'colour'"),
        (("td3", "--trials", "0"), "trials=0"),
        (("td3", "--seeds", "2"), "seeds=2"),
    ],
)
def test_mistakes_are_named(capsys, asked, words, what):
    assert what in call(capsys, "sweep", *words, *asked, "--steps", "2", "--behaviour-steps", "2", status=2)["error"]["what"]


def test_ranges():
    assert Range.parse("alpha=0.5..8 log") == Range("", "alpha", FloatDistribution(0.5, 8.0, log=True))
    assert Range.parse("td3.policy_delay=1..4") == Range("td3", "policy_delay", IntDistribution(1, 4))
    assert Range.parse("expectile=0.5,0.9") == Range("", "expectile", CategoricalDistribution([0.5, 0.9]))
    asked = [Range.parse("iql.expectile=0.5,0.9"), Range.parse("tau=0.001..0.1")]
    assert set(space_of("iql", REGISTRY["iql"].config_type(), asked)) == {"expectile", "tau"}
    assert set(space_of("td3", REGISTRY["td3"].config_type(), asked)) == {"tau"}
    assert set(space_of("td3", REGISTRY["td3"].config_type(), [])) == {"actor_learning_rate", "critic_learning_rate"}
    for text in ("alpha", "=1..2", "alpha=1..2 lin", "alpha=a..b"):
        with pytest.raises(ConfigError, match="is no range"):
            Range.parse(text)
