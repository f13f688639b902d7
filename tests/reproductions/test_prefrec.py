"""PrefRec's study: cells that do not depend on their order, and a report that says what planted results say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import offline_eval
from recrl.core.errors import ConfigError
from recrl.core.runs import RunFolder
from recrl.core.streams import Purpose, Streams
from recrl.core.torch.streams import TensorStreams
from recrl.policies.encoders import HistoryEncoder
from recrl.preferences.reward import PreferenceReward
from recrl.preferences.trajectories import Trajectories
from recrl.replay.sessions import LoggedSessions
from recrl.reproductions.prefrec import grounds
from recrl.reproductions.prefrec.estimates import Estimates, all_of
from recrl.reproductions.prefrec.findings import findings
from recrl.reproductions.prefrec.found import Found
from recrl.reproductions.prefrec.grounds import best_static, environment, lives, marked_down, means
from recrl.reproductions.prefrec.kuairand import Encoded, RowsBench, halves
from recrl.reproductions.prefrec.plan import PrefRecStudy
from recrl.reproductions.prefrec.recipes import RECIPES, Budget, Taught
from recrl.reproductions.prefrec.worlds import WorldBench
from recrl.reproductions.study import Asked, Cell, Done, run_study
from recrl_datasets import Log

TINY = Budget(users=90, fresh_users=4, updates=10, cloning_updates=10, pairs=40, held_out=10, pretraining_steps=10, layers=(8, 8), batch=16)


def test_a_tiny_study_runs_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grounds, "marked_down", lambda *asked: {"marked_down": 0.6})
    study = PrefRecStudy(Asked(seeds=1, secondary_seeds=0), TINY, data="toy", parts=("retention",), methods=("BC", "random reward"))
    run = RunFolder.create(tmp_path / "run", kind="reproduction", config=study.budget(), seed=0)
    report = run_study(study, run)
    table = report.tables["retention"]
    assert table["policy"].to_list() == ["BC", "random reward"]
    assert table.row(0, named=True)["depth_over_bc"] == 0.0
    assert table["depth"].min() >= 1.0
    assert table["gap_days"].min() >= 1.0
    assert table["ess"][0] == pytest.approx(1.0)
    assert report.tables["policies"].height == 0


def test_the_primary_set_of_a_quick_run_is_method_and_baselines_in_both_worlds() -> None:
    cells = PrefRecStudy(Asked(seeds=1, secondary_seeds=0)).cells()
    methods = {part: [cell.method for cell in cells if cell.part == part] for part in ("environment", "retention")}
    assert methods["environment"] == methods["retention"] == ["BC", "PrefRec", "IQL, explicit", "TD3+BC, explicit", "random reward"]
    whole = PrefRecStudy().cells()
    assert len({cell.file for cell in whole}) == len(whole)
    assert sum(cell.method == "PrefRec" for cell in whole) == 10
    rows = [cell for cell in PrefRecStudy(Asked(root=Path("files"))).cells() if cell.part == "kuairand"]
    assert sum(cell.method == "PrefRec" for cell in rows) == 3
    assert not any(cell.primary for cell in rows)
    assert "left out" in PrefRecStudy().report([]).verdict[-1]


def test_a_cell_does_not_depend_on_what_ran_before(tmp_path: Path) -> None:
    """Rewards and clones are kept, and start every cell as pre-training left them."""
    bench, cell = WorldBench(environment(0, 90, 4), 0, TINY, tmp_path / "one"), Cell("environment", "expectile .5", 0, False)
    first = bench(cell)
    assert bench(cell) == first, "the kept reward is what the first cell learned from, too"
    assert set(first["reward"]) >= {"all", "across users", "close", "far", "action_share"}
    assert bench(Cell("environment", "100 pairs", 0, False)).keys() == {"reward"}


def test_depth_counts_the_requests_of_each_session(tmp_path: Path) -> None:
    bench = WorldBench(environment(3, 5, 1), 3, TINY, tmp_path)
    log, wanted, made = bench.trajectories, [], 0
    firsts = set(log.offsets.values.tolist())
    for row, ends in enumerate(log.ends):
        made = 1 if row in firsts else made + 1
        wanted.append(float(made) if ends else 0.0)
        made = 0 if ends else made
    assert bench.depth.tolist() == wanted
    assert bench.rows.observation.features is not None
    assert bench.rows.observation.features.mean(0).abs().max() < 1e-3


def planted(
    gain: float, seeds: int = 5, noise: float = 0.2, right: float = 0.8, part: str = "environment", **special: dict[str, float]
) -> list[Done]:
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
            if part in recipe.parts:
                done.append(Done(Cell(part, name, seed, recipe.primary), result | special.get(name, {}), 1.0))
    return done


def met(done: list[Done], column: str = "met") -> dict[str, str]:
    """Checks and whether they are met."""
    checks = findings(done).tables["checks"]
    return dict(zip(checks["check"].to_list(), checks[column].to_list(), strict=True))


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


def test_two_seeds_decide_what_they_agree_on_and_nothing_else() -> None:
    """A gain of 200 lies beyond an interval of two seeds, one of a tenth does not."""
    assert met(planted(200.0, seeds=2))["13a against cloning"] == "yes"
    small = met(planted(0.1, seeds=2))
    assert {small[name] for name in ("13a against cloning", "15 explicit reward", "16 without value")} == {"open"}


def test_what_is_missing_is_open_and_named() -> None:
    done = [d for d in planted(2.0) if d.cell.primary]
    answers, last = met(done), findings(done).verdict
    assert answers["13a against cloning"] == "yes"
    assert answers["18 dpg"] == "open"
    assert any("open for want of cells or seeds" in line and "18 dpg" in line for line in last)
    assert findings([]).tables["policies"].height == 0


def test_the_same_checks_are_asked_of_the_retention_simulator() -> None:
    """Whatever the reference environment says; with the recipes that are tried there no check is left open."""
    done = [*planted(-2.0), *planted(2.0, part="retention")]
    here, there = met(done), met(done, "retention_met")
    asked = [name for name in here if not name.startswith("19")]
    assert (here["13a against cloning"], there["13a against cloning"]) == ("no", "yes")
    assert "open" not in {there[name] for name in asked if name != "16 pre-training, early"}
    assert {there[name] for name in here if name not in asked} == {None}
    said = [line for line in findings(done).verdict if line.startswith("In the retention simulator:")]
    assert len(said) == 1
    assert f"of {len(asked)} checks are met" in said[0]
    assert findings(done).tables["retention_rewards"].height == 13
    assert set(met(planted(2.0), "retention_met").values()) == {"open", None}


def test_ranks_are_those_of_every_seed_with_policies_enough() -> None:
    """Two seeds rank rightly and wrongly; a third has too few policies to count."""
    done = []
    for seed, policies, order in ((0, 9, 1.0), (1, 8, -1.0), (2, 5, 1.0)):
        for k in range(policies):
            result = {"gap_days": float(k), "ncis_gap_days": order * k, "ess": 0.5}
            done.append(Done(Cell("environment", f"policy {k}", seed), result, 1.0))
    assert Found(done, "environment").rank_correlation(8) == (0.0, 8)
    rank, policies = Found(done, "environment").rank_correlation(10)
    assert np.isnan(rank)
    assert policies == 9


def test_a_reward_is_normalised_as_often_as_the_recipe_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refreshed: list[int] = []
    monkeypatch.setattr(PreferenceReward, "_refresh", lambda self: refreshed.append(self._step))
    bench = WorldBench(environment(0, 90, 4), 0, replace(TINY, updates=101), tmp_path)
    bench(Cell("environment", "without pre-training", 0, False))
    bench(Cell("environment", "without pre-training, refreshed often", 0, False))
    assert refreshed == [0, 0, 50, 100]


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


# ---------------------------------------------------------------- static actions, and what a platform leaves to gain


def planted_lives(target: torch.Tensor):
    """Users whose sessions have 10 requests and who are back after a day and the squared distance of the action to ``target``."""

    def lived(ground, act, users, streams):
        action = act(users)
        away = 1.0 + (action - target).square().sum(1).double()
        one = torch.ones(len(users), dtype=torch.float64)
        return torch.stack([one, 10 / away, away, one * 0, one * 0, one * 10], dim=1)

    return lived


def test_cem_finds_the_best_static_action_within_its_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    target = torch.tensor([0.5, -0.5, 0.0, 0.3, 0.0, -0.2])
    monkeypatch.setattr(grounds, "lives", planted_lives(target))
    ground = environment(0, 20, 4)
    found, requests = best_static(ground, ground.logged, lambda sums: -means(sums)["gap_days"], 25_000, 0)
    assert 25_000 <= requests < 25_000 + 125 * 10
    assert (found - target).abs().max() < 0.1
    hasty, _ = best_static(ground, ground.logged, lambda sums: -means(sums)["gap_days"], 1, 0)
    assert (hasty - target).square().sum() > (found - target).square().sum()


@pytest.mark.parametrize(("best", "chosen"), [((-0.1, 0.6), 0.6), ((-0.8, 0.6), 0.0)])
def test_the_platform_leaves_headroom_before_anybody_learns(
    monkeypatch: pytest.MonkeyPatch, best: tuple[float, float], chosen: float
) -> None:
    """A gap of 1 + x is a tenth longer than 1 from x = 1/9 on: clicks marked down by more than 1/3 from what is best."""
    monkeypatch.setattr(grounds, "lives", planted_lives(torch.tensor([*best, 0.0, 0.0, 0.0, 0.0, 0.0])))
    monkeypatch.setattr(grounds, "best_static", lambda ground, *rest: (torch.tensor([*best, 0.0, 0.0, 0.0, 0.0, 0.0]), 0))
    found = marked_down(environment(0, 5, 1), torch.arange(3))
    assert found["marked_down"] == chosen
    assert len(found["tried"]) == grounds.MARKED_DOWN.index(chosen) + 1


def test_lives_are_counted_a_user_each() -> None:
    ground, streams = environment(2, 5, 6), TensorStreams(3)
    sums = lives(ground, lambda state: ground.centre(state), ground.fresh, streams)
    again = lives(ground, lambda state: ground.centre(state), ground.fresh[2:3], streams)
    assert torch.equal(sums[2:3], again)
    assert torch.equal(sums[:, 0], torch.full((6,), 8.0, dtype=torch.float64))
    assert (sums[:, 1] == sums[:, 5]).all(), "every request is of a session that ended"
    assert (means(sums.sum(0))["gap_days"] >= 1.0).all()


# ---------------------------------------------------------------- rows of a log


def logged_rows(users: int = 240, rows: int = 14) -> Log:
    """Two rows a day; every third user comes back a day later."""
    rng = np.random.default_rng(5)
    user, place = np.repeat(np.arange(users, dtype=np.int32), rows), np.tile(np.arange(rows), users)
    day = (place // 2) * (1 + (user % 3 == 0))
    columns = {
        "user": user,
        "item": rng.integers(0, 12, user.size).astype(np.int32),
        "timestamp_ms": 1_650_000_000_000 + day * 86_400_000 + (place % 2) * 60_000,
        "click": (rng.random(user.size) < 0.5).astype(np.uint8),
        "long_view": (rng.random(user.size) < 0.3).astype(np.uint8),
    }
    return Log.from_arrays(columns, n_users=users, n_items=12)


def test_rows_are_learned_from_some_users_and_judged_by_others(tmp_path: Path) -> None:
    log = logged_rows()
    bench = RowsBench(log, 0, TINY, tmp_path)
    learned, judges = set(bench.trajectories.user.tolist()), bench.estimates
    assert 0.7 * 240 < len(learned) < 0.9 * 240
    assert judges.users == 240 - len(learned)
    assert judges.sessions == 6 * judges.users, "of the last of seven sessions nobody knows the return"
    assert set(bench.depth[bench.trajectories.ends].tolist()) == {2.0}
    assert bench.ended.sum() == 6 * len(learned)
    same_as_log = bench(Cell("kuairand", "BC", 0, False))
    assert same_as_log["ess"] == pytest.approx(1.0)
    assert same_as_log["gain_gap_days"]["gain"] == 0.0
    assert same_as_log["gain_depth"]["logged"] == pytest.approx(2.0)
    found = bench(Cell("kuairand", "PrefRec", 0, False))
    assert found["gain_gap_days"]["low"] <= found["gain_gap_days"]["gain"] <= found["gain_gap_days"]["high"]
    assert found["gain_depth"]["gain"] == pytest.approx(0.0, abs=1e-9), "all sessions are as deep"
    assert found["sixth"]["ess"] != found["ess"]
    assert "reward" in found
    assert "early_depth" not in found
    with pytest.raises(ConfigError, match="needs a world"):
        bench(Cell("kuairand", "CEM, explicit", 0, False))


def test_item_vectors_are_those_of_the_users_who_are_learned_from() -> None:
    """What the judges did with an item that nobody else has seen tells nothing about it."""
    log = logged_rows()
    learns = Streams(0).uniform(np.arange(240), 1, Purpose.SPLITS) < 0.8
    columns = {name: log.column(name).copy() for name in ("user", "item", "timestamp_ms", "click", "long_view")}
    columns["item"][learns[columns["user"]] & (columns["item"] == 11)] = 3
    cut = halves(Log.from_arrays(columns, n_users=240, n_items=12), 0)
    shown = all_of(cut.judges)
    assert not shown.action[shown.item == 11].any()
    assert shown.action[shown.item == 3].abs().sum(1).min() > 0
    assert int(all_of(cut.learned).cluster.unique().numel()) == int(learns.sum())


def test_estimates_follow_a_policy_towards_what_it_imitates() -> None:
    """A policy that does what is logged before quick returns is estimated to shorten gaps; and as `offline_eval.ncis` has it."""
    log = Trajectories(Encoded(*_judged_rows()), returns=0)
    rows = all_of(log.source)
    soon = torch.from_numpy(log.user % 3 != 0).repeat_interleave(14)
    quick = rows.action[soon].mean(0)
    estimates = Estimates(log, lambda seen: torch.zeros(len(seen), 8))
    found = estimates.of(lambda seen: torch.zeros(len(seen), 8), 0.3)
    assert found["ess"] == 1.0
    gains = estimates.gains(lambda seen: quick.expand(len(seen), -1), 0.3)
    known, end = log.known, log.ends & log.known
    gap = log.gap_days[end].repeat(2)
    ours, theirs = ((-0.5 * (rows.action - centre).square().sum(1) / 0.09).numpy()[known] for centre in (quick, torch.zeros(8)))
    pooled = offline_eval.ncis(ours, theirs, gap, cluster=np.repeat(log.user, 12))
    assert gains["gap_days"]["pooled_gain"] == pytest.approx(pooled.value / gap.mean() - 1, rel=1e-4)


def _judged_rows() -> tuple[LoggedSessions, HistoryEncoder]:
    cut = halves(logged_rows(), 0).judges
    return cut._log, cut._encoder


@pytest.mark.parametrize(("gain", "ess", "answer"), [(0.02, 0.5, "yes"), (0.3, 0.5, "no"), (0.02, 0.2, "no"), (-0.02, 0.5, "no")])
def test_a_gain_on_rows_must_be_likely_and_supported(gain: float, ess: float, answer: str) -> None:
    rng, done = np.random.default_rng(3), []
    for seed in range(3):
        for name in ("BC", "PrefRec", "PrefRec, task depth", "PrefRec, task return"):
            told = {"logged": 2.0, "gain": gain + rng.normal() * 0.001, "low": gain - 0.01, "high": gain + 0.01, "pooled_gain": gain}
            back = told | {"gain": -told["gain"]}
            found = {"ess": ess, "gain_depth": told, "gain_gap_days": back, "sixth": {"ess": ess}}
            done.append(Done(Cell("kuairand", name, seed, False), found, 1.0))
    answers = met(done)
    assert {answers[f"19 KuaiRand, task {task}"] for task in ("both", "depth", "return")} == {answer}
    report = findings(done)
    assert report.tables["kuairand"].height == 4
    assert any("KuaiRand rows" in line for line in report.verdict)
