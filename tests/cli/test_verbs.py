"""Every verb through ``recrl.cli.main``: one JSON object last on stdout, exit 0, results where they are said to be."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import polars as pl
import pytest

from recrl.cli import VERBS, main

TINY = ["--steps", "20"]
FAST_AB = ["--users", "60", "--days", "4", "--slate", "2", "--pool", "10"]


def call(capsys, *words: str) -> dict:
    """Run a command with ``--json``; its last line of stdout as an object."""
    status = main([*words, "--json"])
    out, err = capsys.readouterr()
    assert status == 0, err
    lines = out.strip().splitlines()
    assert len(lines) == 1, out
    return json.loads(lines[-1])


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_explains_itself(verb, capsys):
    assert main([*verb.split(), "--help"]) == 0
    assert f"usage: recrl {verb}" in capsys.readouterr().out


def test_data_verbs(capsys, tmp_path, stores):
    prepared = call(capsys, "data", "prepare", "ml-100k", "--stores", str(tmp_path))
    assert (prepared["rows"], prepared["users"], prepared["items"], prepared["duplicate_rows"]) == (100_000, 943, 1682, 0)
    assert call(capsys, "data", "prepare", "ml-100k", "--stores", str(tmp_path))["content_hash"] == prepared["content_hash"]
    listed = call(capsys, "data", "list", "--stores", str(stores))
    assert {d["name"] for d in listed["datasets"]} >= {"ml-100k", "kuairand-pure"}
    assert [s["name"] for s in listed["stores"]] == ["small"]
    described = call(capsys, "data", "describe", "small", "--stores", str(stores), "--runs", str(tmp_path / "runs"))
    assert described["data_summary"][0]["users"] == 150
    assert Path(described["report"]).is_file()


@pytest.mark.kuairand
def test_kuairand_counts(capsys, tmp_path, kuairand_root):
    prepared = call(capsys, "data", "prepare", "kuairand-pure", "--root", str(kuairand_root), "--stores", str(tmp_path))
    counts = [prepared[name] for name in ("rows", "users", "items", "duplicate_rows", "random_rows")]
    assert counts == [181_932, 20_131, 6_176, 4_368, 0]


def test_train_then_estimate(capsys, asked):
    trained = call(capsys, "train", "td3_bc", *asked, *TINY, "--td3-bc.alpha", "0.5", "--log-every", "10", "--checkpoint-every", "20")
    assert Path(trained["policy"], "policy.json").is_file()
    estimated = call(capsys, "ope", trained["run"], *asked, "--behaviour-steps", "20", "--estimators", "snips", "ncis")
    found = {(r["policy"], r["estimator"]) for r in estimated["estimates"]}
    assert found >= {("logged", "mean"), ("td3_bc-embedding", "snips"), ("popularity", "ncis"), ("random", "snips")}


def test_replay(capsys, asked):
    done = call(capsys, "replay", *asked, *TINY)
    assert Path(done["report"]).is_file()
    assert {p.name for p in Path(done["run"], "artifacts", "policies").iterdir()} >= {
        "bc-item",
        "td3_bc-embedding",
        "td3_bc-fusion_weights",
    }


def test_two_runs_with_policies_of_one_name_are_two_arms(capsys, asked):
    for seed in "01":
        call(capsys, "train", "bc", *asked, *TINY, "--seed", seed, "--run", f"seed{seed}")
    call(capsys, "simulate", "fit", *asked)
    found = call(capsys, "ab", "random", "seed0", "seed1", *asked, *FAST_AB)
    assert {row["arm"] for row in found["metrics"]} == {"random", "seed0/bc-embedding", "seed1/bc-embedding"}


def test_simulate_then_compare(capsys, asked):
    fitted = call(capsys, "simulate", "fit", *asked)
    assert {row["quantity"] for row in fitted["fit"]}
    assert call(capsys, "simulate", "report", fitted["run"])["fit"] == fitted["fit"]
    compared = call(capsys, "ab", "popularity", "random", "--simulator", fitted["run"], *asked, *FAST_AB, "--scenarios", "weak", "strong")
    assert {row["scenario"] for row in compared["metrics"]} == {"weak", "strong"}
    assert compared["design"][0]["users"] == 60
    assert {row["arm"] for row in compared["metrics"]} == {"popularity", "random"}


def test_simulators_of_other_kinds_with_an_ensemble(capsys, asked):
    fitted = call(capsys, "simulate", "fit", *asked, "--response", "sequence", "--members", "2")
    assert fitted["members"] == 2
    assert "do not use it for forecasts of absolute retention" in fitted["verdict"]
    again = call(capsys, "simulate", "fit", *asked, "--response", "sequence", "--members", "2")
    assert again["fit"] == fitted["fit"]
    reliability = pl.read_parquet(Path(fitted["run"], "artifacts", "simulator_reliability.parquet"))
    assert reliability.columns == ["behaviour", "bin", "rows", "predicted", "logged", "lower", "upper"]


def test_demo_is_idempotent_and_deterministic(capsys, asked):
    first = call(capsys, "demo", *asked, *TINY, *FAST_AB)
    tables = {p.name for p in Path(first["run"], "artifacts").glob("*.parquet")}
    expected = {
        "data_summary",
        "data_gaps",
        "estimates",
        "estimates_weights",
        "ab_metrics",
        "ab_daily",
        "ab_retention",
        "ab_design",
        "simulator_fit",
    }
    assert {f"{name}.parquet" for name in expected} <= tables
    again = call(capsys, "demo", *asked, *TINY, *FAST_AB)
    assert again["estimates"] == first["estimates"]
    assert again["effects"] == first["effects"]
    elsewhere = call(capsys, "demo", *asked, *TINY, *FAST_AB, "--run", "another")
    assert elsewhere["effects"] == first["effects"]
    assert pl.read_parquet(Path(first["run"]) / "metrics" / "train-bc-item" / "*.parquet")["step"].max() == 20


def test_doctor(capsys):
    found = call(capsys, "doctor")
    assert found["ok"] is True
    assert {c["name"] for c in found["checks"]} >= {"device", "import recrl", "data ml-100k", "data open-bandit"}


def test_doctor_says_how_to_get_data_that_is_missing(capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "obp" else found(name))
    checks = {c["name"]: c for c in call(capsys, "doctor")["checks"]}
    assert not checks["data open-bandit"]["ok"]
    assert "obp==0.5.7" in checks["data open-bandit"]["mend"]
