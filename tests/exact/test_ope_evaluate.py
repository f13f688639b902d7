"""Diagnostics, verdicts and the result tables."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import offline_eval
from offline_eval.diagnostics import QUANTILES, effective_sample_size
from recrl.core.contracts import Contributions, LoggedFeedback
from recrl.core.ragged import Offsets
from recrl.core.runs import RunFolder


def diagnose(weights: np.ndarray, cluster: np.ndarray) -> offline_eval.Diagnostics:
    return offline_eval.diagnose(Contributions(weights[None], np.ones((1, weights.size)), cluster, weights))


def healthy(users: int = 1000, rows: int = 5, spread: float = 0.5, seed: int = 0) -> LoggedFeedback:
    rng = np.random.default_rng(seed)
    log_weight = rng.normal(-(spread**2) / 2, spread, users * rows)  # mean weight 1
    return LoggedFeedback(rng.random(users * rows), log_weight - 1.0, np.full(users * rows, -1.0), np.repeat(np.arange(users), rows))


def test_effective_sample_size_by_hand() -> None:
    assert effective_sample_size(np.array([1.0, 1.0, 1.0])) == 3.0
    assert effective_sample_size(np.array([3.0, 1.0])) == pytest.approx(16 / 10)
    assert effective_sample_size(np.zeros(3)) == 0.0


def test_diagnostics_by_hand() -> None:
    found = diagnose(np.array([1.0, 3.0, 0.0, 0.0]), np.array([7, 7, 8, 9]))
    assert (found.rows, found.users) == (4, 3)
    assert (found.ess, found.ess_share) == (1.6, 0.4)
    # users weigh 4, 0, 0; with unit weights they would weigh 2, 1, 1 and count as 16 / 6
    assert found.effective_users == 1.0
    assert found.effective_users_share == pytest.approx(6 / 16)
    assert (found.max_weight, found.max_weight_share, found.max_user_share, found.zero_weight_share) == (3.0, 0.75, 1.0, 0.5)
    assert found.mean_weight == 1.0


def test_mean_weight_test_is_a_clustered_t_test() -> None:
    weights = np.array([0.5, 0.7, 0.6, 0.9, 0.8])
    found = diagnose(weights, np.arange(5))
    expected = stats.ttest_1samp(weights, 1.0)
    assert found.mean_weight_error == pytest.approx(stats.sem(weights), rel=1e-12)
    assert found.mean_weight_p == pytest.approx(expected.pvalue, rel=1e-9)


def test_unit_weights_of_many_users_are_trusted() -> None:
    found = diagnose(np.ones(3000), np.repeat(np.arange(1000), 3))
    assert (found.verdict, found.reasons) == ("trust", ())
    assert (found.ess_share, found.effective_users_share, found.mean_weight_p) == (1.0, 1.0, 1.0)
    assert offline_eval.diagnose(offline_eval.SNIPS().contributions(healthy())).verdict == "trust"


@pytest.mark.parametrize(
    ("weights", "cluster", "verdict", "reason"),
    [
        (np.ones(500), np.arange(500), "caution", "few users (500)"),
        (np.ones(3000), np.arange(3000) % 30, "do not use", "few users (30)"),
        (np.r_[np.ones(1900), np.full(100, 350.0)], np.arange(2000), "caution", "effective sample is 5.6% of the rows"),
        (np.r_[np.ones(19990), np.full(10, 30000.0)], np.arange(20000), "do not use", "effective sample is 0.1% of the rows"),
        (np.r_[np.ones(2000), np.full(1, 200.0)], np.arange(2001), "caution", "one user carries 9% of the weight"),
        (np.r_[np.ones(2000), np.full(1, 1000.0)], np.arange(2001), "do not use", "one user carries 33% of the weight"),
        (
            np.full(2000, 0.8),
            np.arange(2000),
            "caution",
            "mean weight is 0.80 instead of 1 (capped mass, missing overlap or wrong propensities)",
        ),
        (np.full(2000, 1.6), np.arange(2000), "do not use", "mean weight is 1.60 instead of 1 (wrong propensities)"),
        (np.zeros(2000), np.arange(2000), "do not use", "the target policy never takes a logged action"),
    ],
)
def test_verdicts_and_their_reasons(weights: np.ndarray, cluster: np.ndarray, verdict: str, reason: str) -> None:
    found = diagnose(weights if reason.startswith(("mean", "the")) else weights / weights.mean(), cluster)
    assert found.verdict == verdict
    assert reason in found.reasons


def test_an_uncertain_mean_weight_is_no_reason() -> None:
    """A distance within three standard errors is noise."""
    rng = np.random.default_rng(0)
    weights = rng.lognormal(0.0, 2.0, 1000)
    weights *= 0.85 / weights.mean()
    found = diagnose(weights, np.arange(1000))
    assert abs(found.mean_weight - 1) > 0.1
    assert not any("mean weight" in reason for reason in found.reasons)


def test_thresholds_can_be_set() -> None:
    strict = offline_eval.Thresholds(users=(5000, 2000))
    contributions = offline_eval.IPS().contributions(healthy())
    assert offline_eval.diagnose(contributions, strict).verdict == "do not use"


def test_capping_is_seen_as_lost_mass() -> None:
    log = LoggedFeedback(np.ones(2000), np.where(np.arange(2000) % 20 == 0, np.log(20.0), -np.inf), np.zeros(2000), np.arange(2000))
    found = offline_eval.diagnose(offline_eval.NCIS(cap=10.0).contributions(log))
    assert found.mean_weight == pytest.approx(0.5)
    assert any("capped mass" in reason for reason in found.reasons)


def test_tables_have_the_documented_columns_and_the_logged_mean() -> None:
    log = healthy()
    result = offline_eval.evaluate(log, ["ips", "snips", offline_eval.NCIS(cap=5.0)], policy="bc", signal="click", level=0.9)
    assert result.estimates.column_names == [
        *("policy", "signal", "estimator", "value", "lower", "upper", "level", "interval", "rows", "users"),
        *("ess", "ess_share", "max_weight_share", "verdict", "reasons"),
    ]
    rows = result.estimates.to_pylist()
    assert [(r["policy"], r["estimator"]) for r in rows] == [("logged", "mean"), ("bc", "ips"), ("bc", "snips"), ("bc", "ncis")]
    assert rows[0]["value"] == pytest.approx(log.reward.mean())
    assert rows[0]["ess_share"] == 1.0
    single = offline_eval.estimate(log, offline_eval.SNIPS(), level=0.9)
    assert (rows[2]["value"], rows[2]["lower"], rows[2]["upper"]) == (single.value, single.lower, single.upper)
    assert all(r["lower"] < r["value"] < r["upper"] and r["level"] == 0.9 and r["users"] == 1000 and r["rows"] == 5000 for r in rows)
    assert result.weights.to_pydict()["quantile"] == list(QUANTILES)
    weights = np.exp(log.target_log_prob - log.behaviour_log_prob)
    assert result.weights.to_pydict()["weight"][-1] == pytest.approx(weights.max())


def test_no_overlap_is_a_row_with_a_verdict() -> None:
    log = LoggedFeedback(np.ones(600), np.full(600, -np.inf), np.zeros(600), np.arange(600))
    rows = offline_eval.evaluate(log, ["ips", "snips"]).estimates.to_pylist()
    assert rows[1]["value"] == 0.0
    assert math.isnan(rows[2]["value"])
    assert math.isnan(rows[2]["upper"])
    assert {r["verdict"] for r in rows[1:]} == {"do not use"}
    assert rows[2]["reasons"] == "the target policy never takes a logged action"


def test_sequences_stand_beside_the_mean_return() -> None:
    log = replace(healthy(), trajectory=Offsets.from_lengths(np.full(1000, 5)))
    rows = offline_eval.evaluate(log, ["snips", "wpdis", offline_eval.PDIS()]).estimates.to_pylist()
    assert [(r["policy"], r["estimator"], r["rows"]) for r in rows] == [
        *(("logged", "mean", 5000), ("logged", "mean_return", 1000)),
        *(("target", "snips", 5000), ("target", "wpdis", 1000), ("target", "pdis", 1000)),
    ]
    assert rows[1]["value"] == pytest.approx(5 * rows[0]["value"])
    assert {r["interval"] for r in rows} == {"skew_t"}
    few = offline_eval.evaluate(healthy(users=50), ["snips"]).estimates.to_pylist()
    assert {r["interval"] for r in few} == {"skew_t"}


def test_combined_tables_hold_each_row_once_and_fit_a_run_folder(tmp_path: object) -> None:
    evaluations = [
        offline_eval.evaluate(healthy(), ["snips"], policy=policy, signal=signal) for policy in ("a", "b") for signal in ("click", "like")
    ]
    result = offline_eval.combine(evaluations)
    assert [(r["policy"], r["signal"]) for r in result.estimates.to_pylist()] == [
        *(("logged", "click"), ("a", "click"), ("logged", "like"), ("a", "like"), ("b", "click"), ("b", "like")),
    ]
    assert result.weights.num_rows == 2 * len(QUANTILES)
    run = RunFolder.create(f"{tmp_path}/run", kind="ope", config={}, seed=0)
    assert run.write_table("estimates", result.estimates).is_file()
    assert offline_eval.combine([]).estimates.num_rows == 0
