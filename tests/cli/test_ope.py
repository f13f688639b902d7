"""`recrl ope` with every kind of estimator, its diagnostics and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

import offline_eval
from recrl.cli import main


def test_every_estimator_and_diagnostic(capsys, asked):
    # 20 steps of cloning are no logging policy: what is told is checked, not how good it is
    names = list(offline_eval.REGISTRY)
    options = ["--behaviour-steps", "20", "--draws", "4", "--retention-days", "1", "3", "--estimators", *names]
    assert main(["train", "bc", *asked, "--steps", "20", "--run", "bc-run", "--json"]) == 0
    capsys.readouterr()
    assert main(["ope", "bc-run", *asked, *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {(r["policy"], r["signal"], r["estimator"]): r for r in found["estimates"]}
    assert {e for p, s, e in rows if (p, s) == ("random", "click")} == {*names}
    assert {s for p, s, e in rows if e == "kaplan_meier" and p == "logged"} == {"return_within_1_days", "return_within_3_days"}
    assert {e for p, s, e in rows if (p, s) == ("popularity", "return_within_1_days")} == {"naive_retention", "ipcw", "kaplan_meier"}
    # the test part is too short for it: a row that says so, no error
    assert rows["popularity", "return_within_3_days", "ipcw"]["verdict"] == "do not use"
    direct, mean = rows["popularity", "click", "dm"], rows["logged", "click", "mean"]
    assert abs(direct["value"] - mean["value"]) < 0.3
    assert direct["verdict"] != "trust"
    assert 0 <= found["unseen"]["user_rows"] <= found["unseen"]["rows"] == mean["rows"]
    for name, key in (("reliability", "ratio"), ("overlap", "seen"), ("cohorts", "ess_share")):
        assert pq.read_table(Path(found["run"], "artifacts", f"estimates_{name}.parquet")).to_pylist() == found[name]
        assert all(key in row for row in found[name])
    assert abs(sum(r["logged_share"] for r in found["reliability"]) - 1) < 1e-9
    by_policy = {p: sum(r["target_share"] for r in found["overlap"] if r["policy"] == p) for p in ("random", "popularity")}
    assert all(abs(total - 1) < 1e-9 for total in by_policy.values())


def test_predictions_without_draws_are_refused(capsys, asked):
    assert main(["ope", "random", *asked, "--estimators", "dr", "--draws", "0", "--json"]) == 2
    assert "--draws" in capsys.readouterr().out
