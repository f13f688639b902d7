"""AURO's study: what its report computes from planted results, and the whole of it in small."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recrl.core.runs import RunFolder
from recrl.reproductions.auro import AUROStudy, Budget, study
from recrl.reproductions.auro.report import DRIFTED, recovery, report, switches
from recrl.reproductions.study import Asked, Cell, Done, run_study


def result(acting: np.ndarray, deployed: float, gap: float = 2.0, **more):
    """Of ten sessions a day."""

    def day(p: float) -> dict[str, float]:
        return {"requests": 40.0, "sessions": 10.0, "expected": 10.0 * p, "next_day": 0.0, "returns": 5.0, "gap_days": 5.0 * gap}

    return {"days": [day(p) for p in acting], "deployed": [day(deployed)] * 3, **more}


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
        probe_days=6,
        generations=1,
        candidates=2,
        steps=30,
        search_users=8,
    )
    small = AUROStudy(Asked(seeds=1, secondary_seeds=0), tiny, data="", drifts=("held",), methods=("oracle", "cem", "auro"))
    run = RunFolder.create(tmp_path / "run", kind="reproduction", config=small.budget(), seed=0)
    report = run_study(small, run)
    assert set(report.tables["retention"]["method"]) == {"oracle", "cem", "auro"}
    guard = report.tables["guard"].row(0, named=True)
    assert guard["acts"] > 30
    assert guard["never_below"] == 1.0
    assert guard["least_gain"] >= 0.0
    assert {"r2_phi", "r2_untrained", "spearman_phi"} <= set(report.tables["abstraction"].columns)
    assert report.verdict[0].startswith("no verdict")
    again = small.bench("published", 0, tmp_path)(Cell("published", "td3", 0, False))
    assert 1.0 < again["ard"] < 10.0
    assert 0.0 < again["day_1"] < 1.0
