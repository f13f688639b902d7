"""Sequences and retention on processes with exact values. Each test states how often it would fail by chance."""

from __future__ import annotations

import json
import runpy
import sys
import warnings
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from scipy import stats

import offline_eval
from offline_eval.scoring import Score, score
from offline_eval.truth import RetentionProcess, softmax_policy
from recrl.core.objective import Signal
from recrl.core.streams import Purpose, Streams
from tests.conftest import REPOSITORY

USERS = 400
PROCESS = RetentionProcess.random(4)
LOGGER, TARGET = softmax_policy(3, 3, 3, 0.25), softmax_policy(6, 3, 3, 0.25)
SIGNAL = Signal("reward", discount_within=0.95, discount_across=0.8)


def band(replications: int) -> tuple[float, float]:
    """Where the covered share lies but for 2.5e-5, for true coverages between 92 and 96.5 %."""
    low, high = stats.binom.ppf(2.5e-5 / 2, replications, 0.92), stats.binom.ppf(1 - 2.5e-5 / 2, replications, 0.965)
    return low / replications, high / replications


def unbiased_and_covering(found: list[Score], replications: int) -> None:
    low, high = band(replications)
    for entry in found:
        assert abs(entry.bias) < 5 * entry.bias_error, entry
        assert low <= entry.coverage <= high, entry


def test_sequential_estimators_find_the_exact_value_and_their_intervals_hold_it() -> None:
    """200 replications of 400 users: bias within 5 standard errors (1e-6 each), coverage in a band (2.5e-5 each); four estimators: 1e-4."""
    table = PROCESS.values(TARGET, SIGNAL, 3)[0]  # too short-sighted on purpose

    def draw(number: int) -> Any:
        return PROCESS.draw(LOGGER, USERS, 6, number).predicted(TARGET, SIGNAL, table)

    asked = [offline_eval.REGISTRY[name] for name in ("pdis", "wpdis", "seq_dr", "seq_wdr")]
    unbiased_and_covering(score(draw, PROCESS.value(TARGET, SIGNAL, 6), asked, replications=200), 200)


def test_planted_censoring_biases_the_naive_share_and_not_ours() -> None:
    """100 replications of 400 users, half of whom are observed for 0 to 6 days. Naive: about 8.5 points too low, more than 15 standard
    errors from the truth. Ours: bias within 5 standard errors, coverage in its band; false alarm 1e-4 together.
    """
    day, hazard = 3, PROCESS.hazard.mean(axis=0)[:3]

    def draw(number: int) -> Any:
        log = PROCESS.draw(LOGGER, USERS, 25, number)
        days = Streams(number).integers(14, np.arange(USERS), 0, Purpose.CANDIDATES)
        found = log.first_sessions(TARGET, np.where(days < 7, days, 30))
        n = len(found.days)
        curves = {"logged_hazard": np.tile(hazard, (n, 1)), "target_survival": np.tile(np.cumprod(1 - hazard), (n, 1))}
        return offline_eval.RetentionLog(
            found.days, found.returned, found.target_log_prob, found.behaviour_log_prob, found.cluster, None, **curves
        )

    kinds = (offline_eval.NaiveRetention, offline_eval.IPCW, offline_eval.KaplanMeier, offline_eval.SurvivalDR)
    naive, *ours = score(draw, float(PROCESS.retention(TARGET)[day - 1]), [kind(day) for kind in kinds], replications=100)
    assert -0.1 < naive.bias < -0.07
    assert naive.bias < -15 * naive.bias_error
    assert naive.coverage < 0.5
    unbiased_and_covering(ours, 100)


def test_the_benchmark_scores_every_estimator_interval_and_selector(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--json", "--users", "60", "--rates", "0.2", "--replications", "3"]
    monkeypatch.setattr(sys, "argv", ["ope_truth.py", *options])
    with warnings.catch_warnings():
        runpy.run_path(str(REPOSITORY / "benchmarks" / "ope_truth.py"), run_name="__main__")
    result = json.loads(capsys.readouterr().out)
    scored = {row["estimator"] for row in result["rows"]}
    selectors = {"slope", "slope_plus_plus", "cross_validated", "cross_validated_by_dr", "importance_fitted"}
    assert scored == ({*offline_eval.REGISTRY} - {"mean", "mean_return"}) | {*offline_eval.retention.REGISTRY} | selectors
    assert {row["world"] for row in result["rows"]} == {"bandit", "slate", "process", "heavy", "retention"}
    assert {row["method"] for row in result["rows"]} == {*get_args(offline_eval.intervals.Method)}
    assert all(row["replications"] == 3 and row["rmse"] >= 0 for row in result["rows"])


def test_the_simulators_benchmark_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two logs of 7 policies; a second call reads both back, and the tables agree."""
    out, tables = tmp_path / "logs.jsonl", []
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["ope_simulator.py", "--json", "--small", "--out", str(out)])
        runpy.run_path(str(REPOSITORY / "benchmarks" / "ope_simulator.py"), run_name="__main__")
        tables.append(json.loads(capsys.readouterr().out)["table"])
        assert len(out.read_text().splitlines()) == 2
    assert tables[0] == tables[1]
    assert tables[0]["item wpdis"]["cells"] == 7
    assert tables[0]["item snips"]["rank"] > 0.5
