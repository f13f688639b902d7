"""The study of TSCAC: a tiny run of its simulator part, and what its report computes from planted results."""

from __future__ import annotations

import pytest
import torch

from recrl.core.runs import RunFolder
from recrl.reproductions.study import Asked, Cell, Done, run_study
from recrl.reproductions.tscac import PRIMARY, Budget, TSCACStudy, simulator, study
from recrl.reproductions.tscac.report import constrained, report
from recrl.reproductions.tscac.rows import PROTECTED, SIGNALS, chosen

TINY = Budget(updates=8, options=2, clone_updates=10, users=60, days=1, judging_users=20, data="toy")


def test_a_tiny_simulator_part_runs_to_its_tables_and_goes_on(tmp_path):
    small = TSCACStudy(Asked(seeds=1, secondary_seeds=0), TINY)
    run = RunFolder.create(tmp_path / "run", kind="reproduction", config=small.budget(), seed=0)
    first = run_study(small, run)
    held = first.tables["tscac_simulator"]
    assert set(held["method"]) == {"logged", *PRIMARY}
    assert held.filter(method="bc", signal="watch_seconds")["value"][0] > 0
    assert all(0 < x < 1 for x in held.filter(held["signal"] == "click")["value"])
    lambdas = first.tables["tscac_lambda"]
    assert lambdas["lambda"].to_list() == [0.4, 0.8]
    assert all(lambdas["kl_mean"] >= 0)
    assert "fewer than two seeds" in first.verdict[0]
    again = run_study(small, run)
    assert again.tables["tscac_simulator"].equals(held), "what is there is read, not made again"


def test_the_untrained_actor_shows_nearly_everything_alike(tmp_path):
    small = TSCACStudy(Asked(seeds=1), TINY)
    found = small.bench("simulator", 0, tmp_path)(Cell("simulator", "untrained", 0, False))
    assert found["metrics"] == {}
    assert 0 < found["truth"]["click"] < 1
    assert len(found["tried"]) == 1


def test_truth_is_that_of_the_same_users_with_the_same_luck(tmp_path):
    world = simulator.world("toy", tmp_path, tmp_path, 1)
    policy = simulator.logging_policy(world)
    one = simulator.truth(world, policy, 20, 3)
    assert one == simulator.truth(world, policy, 20, 3)
    assert one != simulator.truth(world, policy, 20, 4)
    log = simulator.simulated_log(world, 200, 0)
    share = torch.bincount(torch.from_numpy(log.column("item").copy()).long(), minlength=world.n_items) / log.n_rows
    told = policy.scores.table.softmax(0)
    # 5 standard errors for each of 40 items: a false alarm in 50,000 runs
    assert bool(((share - told).abs() < 5 * (told / log.n_rows).sqrt()).all()), "the log is the known policy's"


def planted(watch: dict[str, float], like: dict[str, float], seeds: int = 3) -> list[Done]:
    """Cells of a finished simulator part; seeds differ a little, alike for all methods."""
    done = []
    for method in watch:
        for seed in range(seeds):
            noise = 0.001 * seed * (1 + len(method) % 3)
            truth = {"watch_seconds": watch[method] + noise, "click": 0.5, "long_view": 0.4, "like": like[method] + 0.001 * seed}
            tried = [
                {"option": {"multipliers": [lam]}, "truth": truth | {"watch_seconds": 5 - lam}, "divergence": dict.fromkeys(PROTECTED, d)}
                for lam, d in ((0.1, 2.0), (1.0, 1.0), (3.0, 0.5))
            ]
            done.append(Done(Cell("simulator", method, seed), {"truth": truth, "tried": tried}, 1.0))
    return done


def test_the_verdict_falls_either_way():
    kept = dict.fromkeys(("bc", "tscac", "rcpo multi-critic", "joint critic"), 0.02)
    good = report(planted({"bc": 10.0, "tscac": 13.0, "rcpo multi-critic": 12.0, "joint critic": 14.0}, kept), kuairand=False)
    first, rcpo, joint, lam, rows = good.verdict
    assert "beyond its interval: yes" in first
    assert "wins against rcpo multi-critic" in rcpo
    assert "loses against joint critic" in joint
    assert "watch time falls as lambda grows; the mean divergence from stage one falls" in lam
    assert "--root" in rows
    bad = report(planted({"bc": 10.0, "tscac": 13.0}, {"bc": 0.02, "tscac": 0.01}), kuairand=False)
    assert "interval: no" in bad.verdict[0]
    assert bad.verdict[0].endswith("below: like")
    worse = report(planted({"bc": 10.0, "tscac": 9.0}, kept), kuairand=False)
    assert "interval: no" in worse.verdict[0]
    assert "below:" not in worse.verdict[0]


def test_who_breaks_a_constraint_counts_as_cloning():
    bc, bold = ({"truth": {"watch_seconds": w, "click": 0.5, "long_view": 0.4, "like": k}} for w, k in ((10.0, 0.02), (20.0, 0.01)))
    assert constrained(bold, bc) == 10.0
    assert constrained({"truth": bold["truth"] | {"like": 0.02}}, bc) == 20.0
    table = report(planted({"bc": 10.0, "tscac": 20.0}, {"bc": 0.02, "tscac": 0.01}), kuairand=False).tables["tscac_constrained"]
    assert table.filter(method="tscac")["constraints_kept_in"].item() == 0


def rows_of(value: float, like: float, seed: int) -> dict:
    ends = {"value": value + 0.001 * seed, "lower": value - 0.5, "upper": value + 0.5}
    one = {name: {"ncis": ends, "snips": ends, "dr": ends, "effective_rows": 100.0} for name in SIGNALS}
    return one | {"like": {e: ends | {"value": like} for e in ("ncis", "snips", "dr")} | {"effective_rows": 100.0}}


@pytest.mark.parametrize(("value", "clear", "popular"), [(13.0, "is above", "more than popularity"), (10.2, "not clearly", "no more than")])
def test_kuairand_rows_are_judged_where_there_are_events(value, clear, popular):
    counts = {"click": 900, "like": 50, "long_view": 700, "hate": 2}
    best = {"chosen_on_validation": 11.0}
    done = [
        *(Done(Cell("kuairand", "logged", s), {"test": rows_of(10.0, 0.1, 0), "events": counts, "constants": best}, 1.0) for s in range(2)),
        *(Done(Cell("kuairand", "bc", s), {"test": rows_of(10.0, 0.1, s)}, 1.0) for s in range(2)),
        *(Done(Cell("kuairand", "tscac", s), {"test": rows_of(value, 0.1, 2 * s)}, 1.0) for s in range(2)),
    ]
    found = report(done, kuairand=True)
    assert "like" not in found.tables["tscac_kuairand"]["signal"].to_list(), "50 events judge nothing"
    text = " ".join(found.verdict)
    assert clear in text
    assert popular in text
    assert "not measurable there: like, hate" in text
    ours = found.tables["tscac_published"].filter(method="tscac", signal="watch_seconds")["ours"].item()
    assert ours == pytest.approx((value - 10.0) / 10.0, abs=1e-3)


def test_options_are_chosen_by_constraints_first():
    def judged(watch, like, half=0.0):
        return {"watch_seconds": {"ncis": {"value": watch}}, **{s: {"ncis": {"value": like, "upper": like + half}} for s in PROTECTED}}

    logged = judged(10.0, 0.5)
    sure = [judged(20.0, 0.4), judged(12.0, 0.5), judged(11.0, 0.6)]
    assert chosen(sure, logged) == chosen(sure, logged, "value") == 1
    assert chosen([judged(20.0, 0.2), judged(12.0, 0.3)], logged) == 1, "where none keeps them, the least loss"
    unsure = [judged(20.0, 0.3, 0.1), judged(15.0, 0.45, 0.1), judged(11.0, 0.6, 0.1)]
    assert chosen(unsure, logged) == 1, "a loss within its interval is none"
    assert chosen(unsure, logged, "value") == 2


def test_kuairand_rows_are_a_part_where_their_folder_is_given(tmp_path):
    assert {c.part for c in study(Asked(root=tmp_path)).cells()} == {"simulator", "kuairand"}
    assert {c.part for c in study(Asked()).cells()} == {"simulator"}
    assert study(Asked(root=tmp_path)).budget() == study(Asked()).budget(), "one run takes the rows in later"
