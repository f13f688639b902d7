"""`recrl power`, and what `recrl ab` shares among processes, breaks down and puts beside its plain intervals."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from recrl.cli import main

FAST_AB = ["--users", "60", "--days", "4", "--slate", "2", "--pool", "10"]


def call(capsys, *words: str) -> dict:
    """Run a command with ``--json``."""
    status = main([*words, "--json"])
    out, err = capsys.readouterr()
    assert status == 0, err
    return json.loads(out.strip().splitlines()[-1])


def test_textbook_plans(capsys):
    """Cohen 1988: half a deviation takes 64 users an arm, or 34 pairs."""
    needed = call(capsys, "power", "--effect", "0.5", "--deviation", "1")
    assert (needed["users"], needed["users_looking_daily"]) == (64, 123)
    assert call(capsys, "power", "--effect", "0.5", "--deviation", "1", "--paired")["users"] == 34
    found = call(capsys, "power", "--users", "64", "--deviation", "2")
    assert found["effect"] == pytest.approx(1.0, abs=0.002)
    assert call(capsys, "power", "--users", "64", "--deviation", "2", "--effect", "1")["power"] == pytest.approx(0.8015, abs=1e-4)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "neither an effect nor users"),
        (["--users", "9"], "the deviation comes from one place"),
        (["--users", "1", "--deviation", "1"], "users=1 must be at least 2"),
        (["--users", "9", "--deviation", "-1"], "deviation is -1"),
        (["--users", "9", "--pilot", "absent"], "no run in"),
        (["--users", "9", "--deviation", "1", "--power", "2"], "power is 2.0"),
    ],
)
def test_bad_plans_are_refused(capsys, words, says):
    assert main(["power", *words]) == 2
    assert says in capsys.readouterr().err


def test_an_unpaired_test_with_all_its_tables_plans_the_next(capsys, asked):
    simulator = call(capsys, "simulate", "fit", *asked)["run"]
    options = ["--no-paired", "--pre-days", "2", "--shards", "1", "--scenarios", "weak", "strong"]
    found = call(capsys, "ab", "popularity", "random", "--simulator", simulator, *asked, *FAST_AB, *options)
    folder = Path(found["run"], "artifacts")
    cuped = pl.read_parquet(folder / "ab_cuped.parquet")
    assert cuped.filter(pl.col("metric") == "click_rate")["covariate"].unique().to_list() == ["pre_click_rate"]
    assert {row["scenario"] for row in found["uncertainty"]} == {"weak", "strong", "all"}
    assert {row["metric"] for row in found["guardrails"]} >= {"coverage", "gini", "novelty", "slate_diversity"}
    assert pl.read_parquet(folder / "ab_sequential.parquet")["day"].max() == 3
    assert sum(pl.read_parquet(path).height for path in (folder / "ab_users" / "weak").glob("users-*.parquet")) == 60
    pilot = ["power", "--pilot", Path(found["run"]).name, "--users", "1000", "--metric"]
    planned = call(capsys, *pilot, "click_rate")
    assert not planned["paired"]
    assert 0 < planned["effect"] < 0.2
    assert main([*pilot, "absent"]) == 2
    assert "metrics: active_days" in capsys.readouterr().err
    again = ["ab", "popularity", "random", "--simulator", simulator, *asked, *FAST_AB]
    assert main([*again, "--members", "3"]) == 2
    assert "0 members of an ensemble are there, 3 were asked for" in capsys.readouterr().err
    assert main([*again, "--provider", "absent", "--run", "other"]) == 2
    assert "no feature 'absent'" in capsys.readouterr().err
