"""AURO's study: what its report computes from planted results, and the whole of it in small."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from recrl.core.errors import ConfigError
from recrl.core.runs import RunFolder
from recrl.reproductions.auro import AUROStudy, Budget, study
from recrl.reproductions.auro.calendar import Calendar, static
from recrl.reproductions.auro.drifting import NOT_BELOW, builder, supervised
from recrl.reproductions.auro.published import InPublished
from recrl.reproductions.auro.report import DRIFTED, recovery, report, switches
from recrl.reproductions.study import Asked, Cell, Done, run_study
from simulators.ab.statistics import compare


def result(acting: np.ndarray, deployed: float, gap: float = 2.0, **more):
    """Of ten sessions a day."""

    def day(p: float) -> dict[str, float]:
        return {"requests": 40.0, "sessions": 10.0, "expected": 10.0 * p, "next_day": 0.0, "returns": 5.0, "gap_days": 5.0 * gap}

    return {"days": [day(p) for p in acting], "deployed": [day(deployed)] * 3, **more}


def lived(expected: list[float], sessions: list[float]) -> dict[str, list[float]]:
    """What users did, for results that know them."""
    return {"expected": expected, "sessions": sessions, "gap_days": sessions, "returns": sessions}


def planted(auro: float, td3: float = 0.70, spread: float = 0.001):
    """Three seeds of every baseline in every drift; AURO's level above them is ``auro - 0.70``."""
    level, done = {"oracle": 0.80, "random": 0.60, "cem": 0.70, "td3": td3, "rlur": 0.70, "auro": auro}, []
    for part in DRIFTED:
        for method, p in level.items():
            for seed in range(3):
                wobble = spread * (seed - 1) * (method == "auro")
                done.append(Done(Cell(part, method, seed), result(np.full(40, p + wobble), p + wobble), 1.0))
    return done


def test_recovery_and_area_of_a_planted_switch():
    regret = np.full(30, 0.02)
    regret[14:18] += (0.09, 0.06, 0.02, 0.0)
    # windows of three above the level: .057, .027, .007; the third is within .01
    assert recovery(regret, 14) == (2, pytest.approx(0.17))
    never = np.full(30, 0.02)
    never[14:] = 0.2
    assert recovery(never, 14) == (5, pytest.approx(7 * 0.18))
    assert recovery(np.full(30, 0.02), 14) == (0, pytest.approx(0.0))
    assert switches("held", 35) == [14, 21, 28]
    assert switches("regimes", 56) == [14, 28, 42]
    assert switches("weekly", 56) == []


def test_recovery_tables_are_against_the_oracle_of_the_same_seed():
    dip = np.full(40, 0.7)
    dip[14:16] = 0.6
    done = [Done(Cell("regimes", "oracle", s), result(np.full(40, 0.8), 0.8), 1.0) for s in range(2)]
    done += [Done(Cell("regimes", "td3", s), result(dip if s else np.full(40, 0.7), 0.7), 1.0) for s in range(2)]
    tables = report(done).tables
    row = tables["recovery"].row(0, named=True)
    assert (row["method"], row["seeds"]) == ("td3", 2)
    # switches on days 14 and 28; one of the two seeds dips at one of them, for two days
    assert row["regret_area"] == pytest.approx((0.0 + 0.2 / 2) / 2)
    assert row["recovery_days"] == pytest.approx((0.0 + 2.0 / 2) / 2)
    assert tables["switches"].filter(switch_day=28)["regret_area"].to_list() == pytest.approx([0.0])


@pytest.mark.parametrize(
    ("auro", "td3", "answer"),
    [
        (0.72, 0.70, "AURO wins: it keeps more users than every baseline"),
        (0.68, 0.70, "AURO does not win: it keeps fewer users than TD3 and RLUR and static CEM"),
        (0.70, 0.70, "AURO does not win: no difference from any baseline can be told"),
        (0.72, 0.75, "AURO wins in part: it keeps more users than RLUR and static CEM"),
    ],
)
def test_the_verdict_comes_out_as_the_numbers_do(auro, td3, answer):
    lines = report(planted(auro, td3)).verdict
    assert lines[0].startswith(answer)
    assert "below the oracle" in lines[4]
    assert "above random weights" in lines[5]
    # the planted days of learning have the planted levels too
    assert [line.split()[5] for line in lines[6:9]] == [line.split()[2] for line in lines[1:4]]


def test_differences_have_student_intervals_paired_by_seed():
    table = report(planted(0.72)).tables["against"].filter(part="all", auro_less="td3")
    # differences .019, .020, .021: their deviation is .001, t of two degrees of freedom is 4.3027
    assert table["day_1"].item() == pytest.approx(0.02)
    assert table["day_1_high"].item() - 0.02 == pytest.approx(4.30265 * 0.001 / 3**0.5, rel=1e-4)


def test_one_seed_or_a_missing_drift_gives_no_verdict():
    assert report([d for d in planted(0.72) if d.cell.seed == 0]).verdict[0].startswith("no verdict")
    assert report([d for d in planted(0.72) if d.cell.part != "weekly"]).verdict[0].startswith("no verdict")


def test_a_guard_that_lets_a_worse_action_through_is_told():
    done = planted(0.72)
    guard = {"acts": 100, "never_below": 0.99, "least_gain": -0.1, "gain": 0.0, "kept": 0.5}
    broken = [replace(d, result={**d.result, "guard": guard}) if d.cell.method == "auro" else d for d in done]
    assert any(line.startswith("The guard fails: 99.00%") for line in report(broken).verdict)


def test_the_cells_that_are_asked_for():
    full, quick = study(Asked()), study(Asked(quick=True, seeds=1, secondary_seeds=0))
    primary = [cell for cell in full.cells() if cell.primary]
    assert {(c.part, c.method) for c in primary} == {
        (part, method) for part in DRIFTED for method in ("auro", "td3", "rlur", "cem", "oracle", "random")
    }
    assert max(c.seed for c in primary) == 4
    assert max(c.seed for c in full.cells() if not c.primary) == 2
    assert len({c.file for c in full.cells()}) == len(full.cells())
    assert all(c.primary and c.seed == 0 for c in quick.cells())


def test_the_study_in_small(tmp_path):
    tiny = Budget(
        users=8,
        days=6,
        deployed_users=8,
        deployed_days=2,
        per_update=32,
        batch=32,
        probe_days=16,
        probe_users=8,
        logged_requests=4,
        generations=1,
        candidates=2,
        steps=30,
        search_users=8,
    )
    small = AUROStudy(Asked(seeds=1, secondary_seeds=0), tiny, data="", drifts=("held",), methods=("oracle", "cem", "supervised", "auro"))
    run = RunFolder.create(tmp_path / "run", kind="reproduction", config=small.budget(), seed=0)
    report = run_study(small, run)
    retention = report.tables["retention"]
    assert set(retention["method"]) == {"oracle", "cem", "supervised", "auro"}
    assert (retention["day_1_users_low"] < retention["day_1"]).all()
    guard = report.tables["guard"].row(0, named=True)
    assert guard["acts"] > 30
    assert guard["never_below"] == 1.0
    assert guard["least_gain"] >= -NOT_BELOW
    assert {"r2_phi", "r2_untrained", "spearman_phi"} <= set(report.tables["abstraction"].columns)
    assert report.verdict[0].startswith("no verdict")
    again = small.bench("published", 0, tmp_path)(Cell("published", "td3", 0, False))
    assert 1.0 < again["ard"] < 10.0
    assert 0.0 < again["day_1"] < 1.0


def test_intervals_over_users_are_those_of_a_paired_comparison():
    """Two seeds, one drift: half the interval of each seed's paired users, their variances added, over two."""
    rng, done, errors = np.random.default_rng(0), [], []
    for seed in range(2):
        sessions = {name: rng.integers(1, 9, 40).astype(float) for name in ("auro", "td3")}
        expected = {name: sessions[name] * rng.uniform(0.5, 0.9, 40) for name in sessions}
        for name in sessions:
            users = lived(expected[name].tolist(), sessions[name].tolist())
            p = float(expected[name].sum() / sessions[name].sum())
            done.append(Done(Cell("weekly", name, seed), result(np.full(40, p), p, users=users), 1.0))
        arms = [(expected[name], sessions[name]) for name in ("auro", "td3")]
        # the library divides by n - 1
        errors.append(compare(*arms, same_users=True).standard_error * (39 / 40) ** 0.5)
    row = report(done).tables["against"].filter(part="weekly", auro_less="td3").row(0, named=True)
    half = 1.959964 * float(np.hypot(*errors)) / 2
    assert row["day_1_users_high"] - row["day_1"] == pytest.approx(half)
    assert row["day_1"] - row["day_1_users_low"] == pytest.approx(half)


def test_users_who_arrived_under_one_method_alone_count_for_it():
    few, many = (lived([0.5] * n + [0.9], [1.0] * (n + 1)) for n in (3, 5))
    done = [Done(Cell("weekly", name, 0), result(np.full(40, 0.7), 0.7, users=u), 1.0) for name, u in (("auro", few), ("td3", many))]
    row = report(done).tables["against"].filter(part="weekly").row(0, named=True)
    own, other = ((np.array(u["expected"]) - np.mean(u["expected"])) / len(u["expected"]) for u in (few, many))
    variance = ((np.pad(own, (0, 2)) - other) ** 2).sum()
    assert row["day_1_users_high"] - row["day_1"] == pytest.approx(1.959964 * variance**0.5)


def test_days_are_the_sums_of_users_and_another_seed_has_others(tmp_path):
    world = builder("", tmp_path, tmp_path, Budget(days=4, probe_days=4))("fusion_weights", "regimes", 0)
    one, other = (Calendar(world, 24, seed) for seed in (0, 1))
    days = [one.live(today, static(torch.ones(7))) for today in range(12)]
    for name, values in one.by_user().items():
        assert sum(values) == pytest.approx(sum(day[name] for day in days), abs=1e-3)
    assert len(one.by_user()["requests"]) > 24, "the churned are replaced"
    assert not torch.equal(one.state.user, other.state.user)


@pytest.mark.parametrize(("part", "period"), [("regimes", 14), ("held", 7)])
def test_environments_are_the_periods_of_the_drift(part, period, tmp_path):
    world = builder("", tmp_path, tmp_path, Budget(days=30, probe_days=30))("fusion_weights", part, 0)
    users, told = Calendar(world, 6, 0), {}
    for today in range(29):
        users.live(
            today, static(torch.ones(7)), lambda batch, today=today: told.setdefault(today, set(batch.notes["environment"].tolist()))
        )
    assert told == {today: {today // period} for today in told}
    assert {0, 14, 28} <= told.keys()


def test_the_supervised_ranker_is_trained_on_what_users_did(tmp_path):
    """Its weights are far from the worth that satisfaction is made of, and rank better than random ones."""
    budget = Budget(users=32, logged_requests=40, days=4, probe_days=4)
    world = builder("", tmp_path, tmp_path, budget)("fusion_weights", "none", 0)
    weights = supervised(world, budget, 0)
    assert weights.abs().max() == 1.0
    assert not torch.equal(weights, supervised(world, budget, 1)), "other users, other feedback"
    assert torch.equal(weights, supervised(world, budget, 0))
    expected = []
    for choice in (weights, -weights):
        users = Calendar(world, 64, 9)
        days = [users.live(today, static(choice)) for today in range(3)]
        expected.append(sum(d["expected"] for d in days) / sum(d["sessions"] for d in days))
    assert expected[0] > expected[1] + 0.02


def test_options_and_constants_belong_to_the_identity_of_a_run(monkeypatch, tmp_path):
    asked = study(Asked())
    RunFolder.create(tmp_path / "run", kind="reproduction", config=asked.budget(), seed=0).write_table(
        "t", pl.DataFrame({"a": [1]}).to_arrow()
    )
    assert asked.budget()["rules"]["period_days"] == {"held": 7, "regimes": 14}
    assert asked.budget()["learners"]["auro"]["explore"]["jitter"] == 0.01
    assert asked.budget()["learners"]["td3"]["actor"]["exploration"] == 0.1
    monkeypatch.setitem(asked.budget()["rules"]["period_days"], "held", 3)
    with pytest.raises(ConfigError, match="rules"):
        RunFolder.create(tmp_path / "run", kind="reproduction", config=asked.budget(), seed=0)


def test_the_papers_environment_has_intervals_over_users_too():
    spend = Budget(steps=30, generations=1, candidates=2)
    done = [Done(Cell("published", "least", seed), InPublished(spend)(Cell("published", "least", seed)), 1.0) for seed in range(2)]
    first, second = (d.result for d in done)
    assert first["ard"] != second["ard"], "another seed, other users"
    row = report(done).tables["published"].filter(method="least", quantity="ard").row(0, named=True)
    half = 1.959964 * (first["ard_users_error"] ** 2 + second["ard_users_error"] ** 2) ** 0.5 / 2
    assert row["ours_users_high"] - row["ours"] == pytest.approx(half)
    assert row["ours"] == pytest.approx((first["ard"] + second["ard"]) / 2)
