"""PrefRec's study: cells that do not depend on their order, and a report that says what planted results say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recrl.core.runs import RunFolder
from recrl.reproductions.prefrec.bench import Bench
from recrl.reproductions.prefrec.findings import findings
from recrl.reproductions.prefrec.grounds import environment
from recrl.reproductions.prefrec.plan import PrefRecStudy
from recrl.reproductions.prefrec.recipes import RECIPES, Budget, Taught
from recrl.reproductions.study import Asked, Cell, Done, run_study

TINY = Budget(users=90, fresh_users=4, updates=10, cloning_updates=10, pairs=40, held_out=10, pretraining_steps=10, layers=(8, 8), batch=16)


def test_a_tiny_study_runs_and_reports(tmp_path: Path) -> None:
    study = PrefRecStudy(Asked(seeds=1, secondary_seeds=0), TINY, data="toy", parts=("simulator",), methods=("BC", "random reward"))
    run = RunFolder.create(tmp_path / "run", kind="reproduction", config=study.budget(), seed=0)
    report = run_study(study, run)
    table = report.tables["simulator"]
    assert table["policy"].to_list() == ["BC", "random reward"]
    assert table.row(0, named=True)["depth_over_bc"] == 0.0
    assert table["depth"].min() >= 1.0
    assert table["gap_days"].min() >= 1.0
    assert table["ess"][0] == pytest.approx(1.0)
    assert report.tables["policies"].height == 0


def test_the_primary_set_of_a_quick_run_is_method_and_baselines_in_both_worlds() -> None:
    cells = PrefRecStudy(Asked(seeds=1, secondary_seeds=0)).cells()
    methods = {part: [cell.method for cell in cells if cell.part == part] for part in ("environment", "simulator")}
    assert methods["environment"] == methods["simulator"] == ["BC", "PrefRec", "IQL, explicit", "TD3+BC, explicit", "random reward"]
    whole = PrefRecStudy().cells()
    assert len({cell.file for cell in whole}) == len(whole)
    assert sum(cell.method == "PrefRec" for cell in whole) == 10


def test_a_cell_does_not_depend_on_what_ran_before(tmp_path: Path) -> None:
    """Rewards and clones are kept, and start every cell as pre-training left them."""
    bench, cell = Bench(environment(0, 90, 4), 0, TINY, tmp_path / "one"), Cell("environment", "expectile .5", 0, False)
    first = bench(cell)
    assert bench(cell) == first, "the kept reward is what the first cell learned from, too"
    assert set(first["reward"]) >= {"all", "across users", "close", "far", "action_share"}
    assert bench(Cell("environment", "100 pairs", 0, False)).keys() == {"reward"}


def test_depth_counts_the_requests_of_each_session(tmp_path: Path) -> None:
    bench = Bench(environment(3, 5, 1), 3, TINY, tmp_path)
    log, wanted, made = bench.trajectories, [], 0
    firsts = set(log.offsets.values.tolist())
    for row, ends in enumerate(log.ends):
        made = 1 if row in firsts else made + 1
        wanted.append(float(made) if ends else 0.0)
        made = 0 if ends else made
    assert bench.depth.tolist() == wanted
    assert bench.rows.observation.features is not None
    assert bench.rows.observation.features.mean(0).abs().max() < 1e-3


def planted(gain: float, seeds: int = 5, noise: float = 0.2, right: float = 0.8, **special: dict[str, float]) -> list[Done]:
    """Every method at a depth of 10 and a gap of 2 days, with noise of its seed and its own; PrefRec ``gain`` better."""
    rng, done = np.random.default_rng(11), []
    for seed in range(seeds):
        luck = rng.normal()
        for name, recipe in RECIPES.items():
            better = gain if isinstance(recipe.reward, Taught) and recipe.reward.mistake < 0.5 and not recipe.shuffled else 0.0
            own = rng.normal(size=2) * noise
            result: dict[str, object] = {"depth": 10 + luck + better + own[0], "gap_days": 2 - 0.2 * better + 0.2 * own[1]}
            result |= {"day1": 0.5, "click_rate": 0.7, "ess": 0.5, "ncis_depth": 8.0, "ncis_gap_days": 2 + own[0]}
            if isinstance(recipe.reward, Taught):
                result["reward"] = {"all": right, "close": 0.6, "far": 0.9, "action_share": 0.05}
            done.append(Done(Cell("environment", name, seed, recipe.primary), result | special.get(name, {}), 1.0))
    return done


def met(done: list[Done]) -> dict[str, str]:
    """Checks and whether they are met."""
    checks = findings(done).tables["checks"]
    return dict(zip(checks["check"].to_list(), checks["met"].to_list(), strict=True))


@pytest.mark.parametrize(
    ("gain", "said", "answer"),
    [(2.0, "PrefRec beats behaviour cloning", "yes"), (-2.0, "PrefRec is worse than", "no"), (0.0, "PrefRec does not beat", "no")],
)
def test_the_verdict_follows_the_numbers(gain: float, said: str, answer: str) -> None:
    """A gain of 2 is seven deviations of a seed's difference. Without one, chance tells one of the two quantities apart in a tenth of all
    draws; these are fixed."""
    done = planted(gain)
    report = findings(done)
    assert said in report.verdict[0]
    assert met(done)["13a against cloning"] == answer
    over = report.tables["policies"].filter(policy="PrefRec").row(0, named=True)
    assert over["depth_low"] < over["depth_over_bc"] < over["depth_high"]
    assert over["depth_over_bc"] == pytest.approx(gain, abs=0.4)


def test_one_seed_gives_directions_and_no_verdict() -> None:
    done = planted(2.0, seeds=1)
    report = findings(done)
    assert "no verdict" in report.verdict[0]
    assert not any("better than" in line or "told apart" in line for line in report.verdict)
    assert report.tables["policies"]["depth_low"].dtype == pl.Float64
    answers = met(done)
    assert {answers[name] for name in ("13a against cloning", "15 explicit reward", "16 without value", "17b labels swapped")} == {"open"}


def test_what_is_missing_is_open_and_named() -> None:
    done = [d for d in planted(2.0) if d.cell.primary]
    answers, last = met(done), findings(done).verdict
    assert answers["13a against cloning"] == "yes"
    assert answers["18 dpg"] == "open"
    assert any("open for want of cells or seeds" in line and "18 dpg" in line for line in last)
    assert findings([]).tables["policies"].height == 0


@pytest.mark.parametrize(("right", "answer"), [(0.8, "yes"), (0.7, "no")])
def test_accuracy_is_asked_of_every_task(right: float, answer: str) -> None:
    assert met(planted(1.0, right=right))["11a accuracy"] == answer


def test_a_trap_must_catch_and_a_collapse_must_show() -> None:
    trap = "task depth, sessions, sum"
    known = {"all": 0.95, "close": 0.6, "far": 0.9, "action_share": 0.05}
    caught = planted(2.0, **{trap: {"depth": 8.0, "reward": known}, "dpg": {"depth": 2.0, "ess": 0.01}})  # type: ignore[arg-type]
    assert met(caught)["18b length trap"] == "yes"
    assert met(caught)["18 dpg"] == "yes"
    free = met(planted(2.0))
    assert free["18b length trap"] == "no"
    assert free["18 dpg"] == "no"
