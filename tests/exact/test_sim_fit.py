"""Fitting a world to a log: the regression against known answers, covariates against a slow loop, storage, mistakes."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

import recrl_datasets as rd
from recrl.core.behaviours import BEHAVIOURS
from recrl.core.errors import ConfigError, DataError, StorageError
from recrl.core.torch.streams import TensorStreams
from recrl_datasets import Log, sessions
from simulators.calibration import RELIABILITY_SCHEMA, SCHEMA, auc_influence, calibration_table, clustered_auc, reliability_table, verdict
from simulators.config import WorldConfig
from simulators.ensemble import Ensemble, bootstrap_weights, fit_ensemble
from simulators.fit import FitConfig, FittedWorld, activity_groups, fit_world
from simulators.law_fit import fit_leave, fit_retention, person_days
from simulators.logistic import fit_logistic
from simulators.response_fit import ResponseConfig
from simulators.retention import RetentionLaw
from simulators.satisfaction import Satisfaction
from simulators.sequence_fit import SequenceConfig
from simulators.toy import TOY_CONFIG
from simulators.trace import session_weekdays, trace
from simulators.trees import BoostedConfig, SideFeatures

DAY = 86_400_000


def make_log(users=60, days=12, seed=0) -> Log:
    """Users who come on random days and make a few requests; clicks, long views, likes and hates at random."""
    rng = np.random.default_rng(seed)
    user, item, time = [], [], []
    for u in range(users):
        for day in range(days):
            if rng.random() < 0.5:
                start = day * DAY + int(rng.integers(0, DAY // 2))
                for r in range(int(rng.geometric(0.4))):
                    shown = int(rng.integers(1, 4))
                    user += [u] * shown
                    item += rng.integers(0, 30, shown).tolist()
                    time += [start + r * 60_000] * shown
    n = len(user)
    click = rng.random(n) < 0.5
    columns = {
        "user": np.array(user, np.int32),
        "item": np.array(item, np.int32),
        "timestamp_ms": np.array(time, np.int64),
        "click": click.astype(np.uint8),
        "long_view": (click & (rng.random(n) < 0.6)).astype(np.uint8),
        "like": (rng.random(n) < 0.1).astype(np.uint8),
        "hate": (rng.random(n) < 0.05).astype(np.uint8),
    }
    return Log.from_arrays(columns, n_users=users, n_items=30, observed_until_ms=days * DAY - 1)


# ---------------------------------------------------------------- regression


def test_logistic_fit_of_one_intercept_is_the_log_odds_of_the_share():
    y = np.r_[np.ones(30), np.zeros(70)]
    fit = fit_logistic(np.ones((100, 1)), y, np.arange(100), where="test")
    assert fit.coefficients[0] == pytest.approx(math.log(0.3 / 0.7), abs=1e-9)
    # one cluster a row: the sandwich is the usual variance 1 / (n p q), times n / (n - 1)
    assert fit.covariance[0, 0] == pytest.approx(100 / 99 / (100 * 0.3 * 0.7), rel=1e-9)


def test_logistic_fit_agrees_with_statsmodels_cluster_covariance():
    import statsmodels.api as sm

    rng = np.random.default_rng(1)
    cluster = rng.integers(0, 40, 600)
    x = np.column_stack([np.ones(600), rng.normal(size=600), rng.normal(size=40)[cluster]])
    y = (rng.random(600) < 1 / (1 + np.exp(-(x @ [0.2, 0.7, -0.4])))).astype(float)
    fit = fit_logistic(x, y, cluster, where="test")
    reference = sm.Logit(y, x).fit(disp=0, cov_type="cluster", cov_kwds={"groups": cluster, "use_correction": False}, tol=1e-12)
    np.testing.assert_allclose(fit.coefficients, reference.params, rtol=1e-6)
    np.testing.assert_allclose(fit.covariance * 39 / 40, reference.cov_params(), rtol=1e-5)
    low, high = fit.interval(1)
    assert high - low == pytest.approx(2 * 1.959964 * math.sqrt(fit.covariance[1, 1]))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.column_stack([np.ones(20), np.arange(20.0)]), (np.arange(20) > 9).astype(float)),  # separated
        (np.column_stack([np.ones(20), np.ones(20)]), np.arange(20) % 2.0),  # collinear
        (np.ones((20, 1)), np.ones(20)),  # constant
    ],
)
def test_logistic_fits_without_a_maximum_are_refused(x, y):
    with pytest.raises(DataError):
        fit_logistic(x, y, np.arange(20), where="test")


def test_weights_of_a_logistic_fit_are_repetitions():
    rng = np.random.default_rng(2)
    x = np.column_stack([np.ones(200), rng.normal(size=200)])
    y, cluster, times = (rng.random(200) < 0.4).astype(float), rng.integers(0, 30, 200), rng.integers(0, 4, 200)
    weighted = fit_logistic(x, y, cluster, where="test", weights=times.astype(float))
    kept = np.repeat(np.arange(200), times)
    repeated = fit_logistic(x[kept], y[kept], cluster[kept], where="test")
    np.testing.assert_allclose(weighted.coefficients, repeated.coefficients, rtol=1e-7)
    np.testing.assert_allclose(weighted.covariance, repeated.covariance, rtol=1e-6)


# ---------------------------------------------------------------- covariates


def test_trace_equals_the_world_recursion_row_by_row():
    log = make_log()
    cut = sessions(log, rule="day")
    satisfaction, baseline = Satisfaction(), np.linspace(0.1, 0.4, 60)
    traced = trace(cut, satisfaction, baseline, half_life_days=2.0, memory_decay=0.5, max_days=10)
    worth = satisfaction.of_bits()[log.feedback_bits()]
    completed = cut.gap_whole_days[(cut.gap_whole_days >= 1) & (cut.gap_whole_days <= 10)]
    assert traced.memory_mean == pytest.approx(np.log(completed).mean())
    for u in range(60):
        c, fatigue, memory = baseline[u], 0.0, traced.memory_mean
        for s in range(cut.users.values[u], cut.users.values[u + 1]):
            assert traced.fatigue[s] == pytest.approx(fatigue)
            assert traced.memory[s] == pytest.approx(memory)
            for k, r in enumerate(range(cut.requests.values[s], cut.requests.values[s + 1])):
                c = 0.8 * c + 0.2 * worth[cut.rows[r]].mean()
                assert traced.position[r] == k
                assert traced.deviation[r] == pytest.approx(c - baseline[u], abs=1e-6)
                assert traced.last[r] == (r == cut.requests.values[s + 1] - 1)
            assert traced.end_deviation[s] == pytest.approx(c - baseline[u], abs=1e-6)
            gap = int(cut.gap_whole_days[s])
            if gap > 0:
                c = baseline[u] + (c - baseline[u]) * 0.9**gap
                fatigue = (fatigue + cut.depth[s]) * 0.5 ** (gap / 2.0)
                memory = 0.5 * memory + 0.5 * math.log(gap)
    # only a session on the log's last day may have gone on
    open_end = traced.last & ~traced.known
    assert open_end.any()
    assert (cut.exposure_whole_days[traced.session[open_end]] == 0).all()


def test_person_days_by_hand():
    # one user on days 0, 2, 3 of a log that was watched until day 5; another on day 4 only
    columns = {
        "user": np.array([0, 0, 0, 1], np.int32),
        "item": np.zeros(4, np.int32),
        "timestamp_ms": np.array([0, 2, 3, 4], np.int64) * DAY,
    }
    cut = sessions(Log.from_arrays(columns, n_users=2, n_items=1, observed_until_ms=5 * DAY), rule="day")
    row, day, returned = person_days(cut, max_days=10)
    assert list(zip(row.tolist(), day.tolist(), returned.tolist(), strict=True)) == [
        (0, 1, 0.0),
        (0, 2, 1.0),
        (1, 1, 1.0),
        (2, 1, 0.0),
        (2, 2, 0.0),
        (3, 1, 0.0),
    ]
    row, day, returned = person_days(cut, max_days=1)
    assert day.tolist() == [1, 1, 1, 1]
    assert returned.tolist() == [0.0, 1.0, 0.0, 0.0]


def test_a_second_session_of_a_day_is_no_return():
    columns = {"user": np.zeros(3, np.int32), "item": np.zeros(3, np.int32), "timestamp_ms": np.array([0, DAY // 2, 2 * DAY], np.int64)}
    cut = sessions(Log.from_arrays(columns, n_users=1, n_items=1, observed_until_ms=2 * DAY), rule="gap")
    row, _, returned = person_days(cut, max_days=10)
    assert row.tolist() == [1, 1]
    assert returned.tolist() == [0.0, 1.0]


def test_hazards_without_covariates_are_the_shares_of_those_at_risk():
    log = make_log(users=200)
    cut = sessions(log, rule="day")
    traced = trace(cut, Satisfaction(), np.full(200, 0.3), half_life_days=1.0, memory_decay=0.5, max_days=6)
    flat = replace(traced, end_deviation=np.zeros(cut.count), memory=np.full(cut.count, traced.memory_mean))
    law = fit_retention(cut, flat, max_days=6)
    _, day, returned = person_days(cut, 6)
    at_risk, back = np.bincount(day)[1:], np.bincount(day, weights=returned)[1:]
    informed = back > 0
    np.testing.assert_allclose(law.hazards()[: len(back)][informed], (back / at_risk)[informed], rtol=1e-6)
    assert law.eta_s == 0.0
    assert law.eta_s_interval is None


def test_group_effects_are_centred_and_an_empty_group_gets_none():
    log = make_log(users=200)
    cut = sessions(log, rule="day")
    traced = trace(cut, Satisfaction(), np.full(200, 0.3), half_life_days=1.0, memory_decay=0.5, max_days=6)
    codes = np.arange(200) % 3 - 1
    law = fit_retention(cut, traced, groups=codes, group_names=("a", "b", "nobody"), max_days=6)
    row, _, _ = person_days(cut, 6)
    share = np.bincount(codes[cut.user[row]] + 1, minlength=3)[1:]
    assert share @ np.array(law.group_effects[:2]) == pytest.approx(0.0, abs=1e-9)
    assert law.group_effects[2] == 0.0


def test_weekdays_of_sessions_and_of_the_days_after_them():
    # 1 January 1970 was a Thursday; sessions on that day and on the next Monday
    columns = {"user": np.zeros(3, np.int32), "item": np.zeros(3, np.int32), "timestamp_ms": np.array([0, 1, 4 * DAY], np.int64)}
    cut = sessions(Log.from_arrays(columns, n_users=1, n_items=1), rule="day")
    assert session_weekdays(cut).tolist() == [3, 0]
    law = replace(RetentionLaw.published(), delta_dow=(1.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0))
    assert law.calendar(3).tolist() == [0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]
    assert law.calendar([3, 0]).shape == (2, 10)
    assert not RetentionLaw.published().calendar(0).any()
    np.testing.assert_array_equal(law.hazards(), RetentionLaw.published().hazards())
    with pytest.raises(ConfigError, match="seven effects"):
        replace(law, delta_dow=(1.0, -1.0))
    with pytest.raises(ConfigError, match="sum to 0"):
        replace(law, delta_dow=(1.0,) * 7)


def test_weekday_effects_make_each_weekdays_share_that_of_those_at_risk():
    log = make_log(users=120, days=30)
    fit = fit_world(log, sessions=sessions(log, rule="day"), config=QUICK)
    law = fit.retention
    assert sum(law.delta_dow) == pytest.approx(0.0, abs=1e-9)
    assert all(low < effect < high for effect, (low, high) in zip(law.delta_dow, law.delta_dow_interval, strict=True))
    held = {(r["quantity"], r["group"]): r for r in calibration_table(fit, sessions(log, rule="day")).to_pylist()}
    for group in ("Monday", "Thursday", "Sunday", "day 1", "day 3"):
        row = held["return_hazard", group]
        assert row["simulated"] == pytest.approx(row["logged"], abs=1e-6)
    assert held["delta_dow", "Monday"]["lower"] == law.delta_dow_interval[0][0]
    short = make_log(users=120, days=13)
    assert fit_world(short, sessions=sessions(short, rule="day"), config=QUICK).retention.delta_dow == ()


def test_logs_without_leaving_or_returning_are_refused():
    columns = {"user": np.arange(5, dtype=np.int32), "item": np.zeros(5, np.int32), "timestamp_ms": np.arange(5, dtype=np.int64)}
    log = Log.from_arrays(columns, n_users=5, n_items=1, observed_until_ms=3 * DAY)
    cut = sessions(log, rule="day")
    traced = trace(cut, Satisfaction(), np.zeros(5), half_life_days=1.0, memory_decay=0.5, max_days=10)
    with pytest.raises(DataError, match="no return"):
        fit_retention(cut, traced)
    with pytest.raises(DataError, match="every request ends its session"):
        fit_leave(cut, traced, half_life_days=1.0)


# ---------------------------------------------------------------- the whole world


QUICK = FitConfig(response=ResponseConfig(dim=4, epochs=2))


@pytest.fixture(scope="module")
def fitted():
    log = make_log()
    return log, fit_world(log, sessions=sessions(log, rule="day"), config=QUICK)


def test_progress_ends_at_one_and_never_falls():
    log, told = make_log(users=20), []
    fit_world(log, sessions=sessions(log, rule="day"), config=QUICK, progress=lambda share, what: told.append((share, what)))
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert all(what for _, what in told)


def test_saved_fit_is_the_same_world(fitted, tmp_path):
    _, one = fitted
    one.save(tmp_path)
    two = FittedWorld.load(tmp_path)
    assert (two.leave, two.retention, two.satisfaction, two.config) == (one.leave, one.retention, one.satisfaction, one.config)
    assert (two.data_hash, two.seed, two.notes()) == (one.data_hash, one.seed, one.notes())
    config = replace(TOY_CONFIG, pool_size=12, exclude_recent=6)
    outcomes = []
    for fit in (one, two):
        world, streams = fit.world(config), TensorStreams(1)
        state = world.initial_state(world.population(40), streams)
        for _ in range(5):
            state, outcome = world.transition(state, torch.ones(40, 7), streams)
        outcomes.append((state, outcome))
    assert torch.equal(outcomes[0][0].satisfaction, outcomes[1][0].satisfaction)
    assert torch.equal(outcomes[0][1].feedback, outcomes[1][1].feedback)


def test_broken_folders_are_named(fitted, tmp_path):
    with pytest.raises(StorageError, match=r"world.json is missing"):
        FittedWorld.load(tmp_path)
    fitted[1].save(tmp_path)
    (tmp_path / "tables.safetensors").write_bytes(b"x")
    with pytest.raises(StorageError, match="cannot be read"):
        FittedWorld.load(tmp_path)
    fitted[1].save(tmp_path)
    data = json.loads((tmp_path / "world.json").read_text())
    data["leave"]["mood"] = 1
    (tmp_path / "world.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="unknown key 'mood'"):
        FittedWorld.load(tmp_path)


def test_users_at_baseline_are_those_of_the_logged_exposure(fitted):
    log, fit = fitted
    users = torch.arange(60)
    every = fit.response.scores(users, torch.arange(30).expand(60, -1))
    share = torch.from_numpy(np.bincount(log.column("item"), minlength=30) / log.n_rows).float()
    expected = ((every @ torch.tensor(fit.satisfaction.weights)) * share).sum(1).numpy()
    np.testing.assert_allclose(fit.baseline, expected, atol=0.03)
    np.testing.assert_array_equal(fit.exposures, np.bincount(log.column("item"), minlength=30))


def test_logs_of_ratings_get_stated_laws():
    log = make_log(users=80, days=6)
    fit = fit_world(log, config=replace(FitConfig.ratings(), response=replace(QUICK.response, rates="published"), mean_depth=4.0))
    assert fit.leave.mean_depth() == pytest.approx(4.0, rel=1e-6)
    assert fit.retention.source.startswith("published")
    assert any("published for KuaiRand-Pure, not this log's" in note for note in fit.notes())
    assert any("scenarios weak and strong are assumptions" in note for note in fit.notes())


def test_activity_groups_come_from_the_user_table(tmp_path):
    import polars as pl

    frame = pl.DataFrame(
        {"user_id": list(range(120)), "item_id": [0] * 120, "timestamp_ms": [1_600_000_000_000 + k for k in range(120)], "click": [1] * 120}
    )
    labels = ["full"] * 60 + ["high"] * 55 + ["new"] * 4 + [None]
    users = pl.DataFrame({"user_id": list(range(120)), "user_active_degree": labels})
    store = rd.from_frame(frame, name="mine", users=users, stores=tmp_path)
    codes, names = activity_groups(store)
    assert names == ("full", "high", "other")
    assert np.bincount(codes).tolist() == [60, 55, 5]
    codes, names = activity_groups(rd.from_frame(frame, name="bare", stores=tmp_path))
    assert names == ()
    assert (codes == -1).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda log: fit_world(log), "fitted from sessions"),
        (lambda log: fit_world(log, sessions=sessions(make_log(seed=9), rule="day")), "another log"),
        (
            lambda log: fit_world(log, sessions=sessions(log, rule="day"), groups=(np.zeros(3, np.int64), ("a",))),
            r"groups has shape \(3,\)",
        ),
    ],
)
def test_fits_that_cannot_be_are_refused(call, message):
    with pytest.raises(DataError, match=message):
        call(make_log())


def test_unknown_laws_are_refused():
    with pytest.raises(ConfigError, match="leave='guess'"):
        FitConfig(leave="guess")
    with pytest.raises(ConfigError, match="max_days is 0"):
        FitConfig(max_days=0)


def test_calibration_table_on_the_fitted_rows(fitted):
    log, fit = fitted
    table = calibration_table(fit, sessions(log, rule="day"))
    assert table.schema == SCHEMA
    held = {(r["quantity"], r["group"]): r for r in table.to_pylist()}
    for name in ("click", "long_view", "like", "hate"):
        row = held["rate", name]
        assert row["logged"] == pytest.approx(float(log.column(name).mean()))
        assert row["simulated"] == pytest.approx(row["logged"], rel=1e-3)
        assert row["lower"] < row["logged"] < row["upper"]
    assert held["click_given", "long_view"]["logged"] == 1.0
    assert held["click_given", "long_view"]["simulated"] == pytest.approx(1.0)
    # a logistic fit with an intercept a day reproduces each day's share on its own rows
    for k in range(1, 4):
        row = held["return_hazard", f"day {k}"]
        assert row["simulated"] == pytest.approx(row["logged"], abs=1e-6)
    assert held["eta_s", "all"]["note"].endswith("not identified")
    assert "the log does not identify" in verdict(table)
    unknown = [r for r in table.to_pylist() if r["quantity"] == "rate" and r["group"] not in BEHAVIOURS]
    assert unknown == []


def test_calibration_interval_of_a_rate_is_the_clustered_delta_interval(fitted):
    log, fit = fitted
    row = next(r for r in calibration_table(fit, sessions(log, rule="day")).to_pylist() if (r["quantity"], r["group"]) == ("rate", "like"))
    y, user = log.column("like").astype(float), log.column("user")
    residual = np.bincount(user, weights=y - y.mean())
    half = 1.959964 * math.sqrt((residual**2).sum()) / log.n_rows
    assert row["upper"] - row["logged"] == pytest.approx(half, rel=1e-6)


def test_calibration_of_another_store_is_refused(fitted):
    with pytest.raises(DataError, match="60 users"):
        calibration_table(fitted[1], sessions(make_log(users=30), rule="day"))


def test_verdict_of_a_table_without_fitted_rows():
    assert verdict(pa.Table.from_pylist([], schema=SCHEMA)).startswith("nothing fitted could be checked")


def test_a_fitted_world_lives(fitted):
    _, fit = fitted
    world = fit.world(WorldConfig(pool_size=12, exclude_recent=6, scenario="strong"))
    assert world.retention.scenario == "strong"
    streams = TensorStreams(1)
    state = world.initial_state(world.population(64), streams)
    for _ in range(20):
        state, outcome = world.transition(state, torch.zeros(64, 7), streams)
    assert torch.isfinite(outcome.reward).all()
    assert int(state.session.max()) > 1


# ---------------------------------------------------------------- areas under the curve


def test_auc_and_its_clustered_error_are_those_of_all_pairs():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(3)
    y, score, cluster = (rng.random(80) < 0.4).astype(float), rng.integers(0, 12, 80) / 12, rng.integers(0, 9, 80)
    good, bad = np.flatnonzero(y), np.flatnonzero(1 - y)
    wins = (score[good][:, None] > score[bad]) + 0.5 * (score[good][:, None] == score[bad])
    auc, half = clustered_auc(score, y, cluster)
    assert auc == pytest.approx(wins.mean()) == pytest.approx(roc_auc_score(y, score))
    share = np.zeros(9)
    np.add.at(share, cluster[good], (wins.mean(1) - auc) / good.size)
    np.add.at(share, cluster[bad], (wins.mean(0) - auc) / bad.size)
    assert half == pytest.approx(1.959964 * np.sqrt((share**2).sum()))
    np.testing.assert_allclose(auc_influence(score, y, cluster)[1], share, atol=1e-12)


def test_reliability_bins_hold_all_rows_from_the_least_to_the_most_likely(fitted):
    log, fit = fitted
    table = reliability_table(fit, log)
    assert table.schema == RELIABILITY_SCHEMA
    rows = [r for r in table.to_pylist() if r["behaviour"] == "click"]
    assert [r["bin"] for r in rows] == list(range(10))
    assert sum(r["rows"] for r in rows) == log.n_rows
    predicted = [r["predicted"] for r in rows]
    assert predicted == sorted(predicted)
    assert np.average([r["logged"] for r in rows], weights=[r["rows"] for r in rows]) == pytest.approx(float(log.column("click").mean()))
    assert all(r["lower"] <= r["logged"] <= r["upper"] for r in rows)


# ---------------------------------------------------------------- other models, ensembles


@pytest.mark.parametrize(
    ("model", "known", "memory"), [("sequence", False, 16), ("boosted", False, 9), ("latent", True, 0), ("sequence", True, 25)]
)
def test_models_fit_save_and_live(model, known, memory, tmp_path):
    log, rng = make_log(users=40), np.random.default_rng(0)
    sides = SideFeatures(*(rng.random((n, 2)).astype(np.float32) for n in (log.n_users, log.n_items))) if known else None
    config = replace(
        QUICK, model=model, sequence=SequenceConfig(dim=4, memory=16, epochs=1), boosted=BoostedConfig(trees=3, groups=4, min_leaf_rows=20)
    )
    fit = fit_world(log, sessions=sessions(log, rule="day"), sides=sides, config=config)
    fit.save(tmp_path)
    again = FittedWorld.load(tmp_path)
    assert (again.config, type(again.response)) == (config, type(fit.response))
    assert any("tabulated" in note for note in again.notes()) == (model == "boosted")
    held = {(r["quantity"], r["group"]): r for r in calibration_table(again, sessions(log, rule="day")).to_pylist()}
    assert held["rate", "click"]["simulated"] == pytest.approx(held["rate", "click"]["logged"], rel=0.1 if model == "latent" else 2e-3)
    world = again.world(WorldConfig(pool_size=12, exclude_recent=6))
    state = world.initial_state(world.population(32), TensorStreams(1))
    for _ in range(5):
        state, outcome = world.transition(state, torch.ones(32, 7), TensorStreams(1))
    assert torch.isfinite(outcome.reward).all()
    assert state.memory.shape == (32, memory)


def test_bootstrap_weights_belong_to_users_members_and_seeds():
    log = make_log(users=400, days=2)
    one = bootstrap_weights(log, 0)
    assert (one > 0).all()
    # exponential draws: mean and deviation 1, five standard errors of each (false alarm 6e-7)
    assert one.mean() == pytest.approx(1.0, abs=5 / 20)
    assert one.std() == pytest.approx(1.0, abs=5 * math.sqrt(8) / 20)
    np.testing.assert_array_equal(one, bootstrap_weights(log.select(np.arange(log.n_rows) % 2 == 0), 0))
    for other in (bootstrap_weights(log, 1), bootstrap_weights(log, 0, seed=1)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.25


def test_an_ensemble_goes_on_where_it_was_stopped(tmp_path):
    log = make_log(users=30)
    given = {"sessions": sessions(log, rule="day"), "config": QUICK}

    def stop(share: float, what: str) -> None:
        if what.startswith("member 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_ensemble(log, tmp_path / "cut", members=3, progress=stop, **given)
    assert len(Ensemble(tmp_path / "cut")) == 1
    told: list[tuple[float, str]] = []
    found = fit_ensemble(log, tmp_path / "cut", members=3, progress=lambda share, what: told.append((share, what)), **given)
    assert told[0][1].startswith("member 2 of 3")
    whole = fit_ensemble(log, tmp_path / "whole", members=3, **given)
    assert len(found) == len(whole) == 3
    for one, other in zip(found, whole, strict=True):
        assert torch.equal(one.response.items, other.response.items)
        assert one.retention == other.retention
    assert not torch.equal(whole[0].response.items, whole[-1].response.items)
    assert whole[0].retention.day_logits != whole[1].retention.day_logits
    assert [m.data_hash for m in whole[1:]] == [log.content_hash] * 2
    with pytest.raises(ConfigError, match="another log, configuration or seed"):
        fit_ensemble(log, tmp_path / "cut", members=3, seed=1, **given)
    with pytest.raises(ConfigError, match="members=1"):
        fit_ensemble(log, tmp_path / "one", members=1, **given)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "ensemble.json").write_text("{}")
    with pytest.raises(StorageError, match="no members"):
        Ensemble(tmp_path / "none")
