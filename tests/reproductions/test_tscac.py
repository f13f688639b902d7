"""The study of TSCAC: a tiny run of its simulator part, and what its report computes from planted results."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import offline_eval
from recrl.core.contracts import Transitions
from recrl.core.runs import RunFolder
from recrl.reproductions.study import Asked, Cell, Done, run_study
from recrl.reproductions.tscac import PRIMARY, Budget, TSCACStudy, simulator, study, supervised
from recrl.reproductions.tscac.estimates import Estimates
from recrl.reproductions.tscac.kuairand import kuairand_rows
from recrl.reproductions.tscac.report import constrained, report
from recrl.reproductions.tscac.report_rows import pooled
from recrl.reproductions.tscac.rows import PROTECTED, SIGNALS, Rows, chosen, qualified
from recrl_datasets import Log

study_module = importlib.import_module("recrl.reproductions.tscac.study")
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
    assert lambdas["lambda"].to_list() == [0.1, 0.4]
    assert lambdas["imitation"].to_list() == [0.2, 0.2]
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
                {
                    "option": {"multipliers": [lam], "imitation": 0.2},
                    "truth": truth | {"watch_seconds": 5 - lam},
                    "divergence": dict.fromkeys(PROTECTED, d),
                    "validation": {"watch_seconds": {"effective_rows": 50.0}},
                }
                for lam, d in ((0.1, 2.0), (1.0, 1.0), (3.0, 0.5))
            ]
            none = method == "joint critic"
            result = {"truth": truth, "tried": tried, "chosen": 1, "qualified": 0 if none else 2}
            done.append(Done(Cell("simulator", method, seed), result, 1.0))
    return done


def test_the_verdict_falls_either_way():
    kept = dict.fromkeys(("bc", "tscac", "rcpo multi-critic", "joint critic"), 0.02)
    good = report(planted({"bc": 10.0, "tscac": 13.0, "rcpo multi-critic": 12.0, "joint critic": 14.0}, kept), kuairand=False)
    first, rcpo, joint, lam, options, rows = good.verdict
    assert options.endswith("so the one with most of them: joint critic (simulator, 3 of 3 seeds)")
    held = good.tables["tscac_options"].filter(method="tscac")
    assert held["chosen_in"].to_list() == [0, 3, 0]
    assert held["option"][0] == "multipliers 0.1, imitation 0.2"
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


def rows_of(value: float, like: float) -> dict:
    ends = {"value": value, "lower": value - 0.5, "upper": value + 0.5, "effective_rows": 100.0}
    one = {name: dict.fromkeys(("ncis", "snips", "dr"), ends) for name in SIGNALS}
    return one | {"like": dict.fromkeys(("ncis", "snips", "dr"), ends | {"value": like})}


def gains_of(value: float, error: float) -> dict:
    one = {"value": value, "lower": value - 2 * error, "upper": value + 2 * error, "standard_error": error}
    return {name: dict.fromkeys(("ncis", "snips", "dr"), one) for name in SIGNALS}


@pytest.mark.parametrize(
    ("value", "error", "clear", "popular"),
    [
        (13.0, 0.3, "is above", "more than popularity"),
        (13.0, 2.0, "not clearly", "not told apart from what popularity"),
        (10.2, 0.3, "not clearly", "no more than"),
    ],
    ids=["clear", "clear over seeds alone: users are the same for all of them", "small"],
)
def test_kuairand_rows_are_judged_by_their_users_where_there_are_events(value, error, clear, popular):
    counts = {"click": 900, "like": 50, "long_view": 700, "hate": 2}
    best = {"chosen_on_validation": 11.0}
    done = []
    for s in range(3):
        mine, beside = (
            rows_of(value + 0.001 * s, 0.1),
            {"bc": gains_of(value - 10 + 0.001 * s, error), "constant": gains_of(value - 11, error)},
        )
        theirs = {"tscac": gains_of(12.0 - value, error), "bc": gains_of(2.0, error)}
        done += [
            Done(Cell("kuairand", "logged", s), {"test": rows_of(10.0, 0.1), "events": counts, "constants": best}, 1.0),
            Done(Cell("kuairand", "bc", s), {"test": rows_of(10.0, 0.1)}, 1.0),
            Done(Cell("kuairand", "tscac", s), {"test": mine, "above": beside}, 1.0),
            Done(Cell("kuairand", "joint critic", s), {"test": rows_of(12.0, 0.1), "above": theirs}, 1.0),
        ]
    found = report(done, kuairand=True)
    table = found.tables["tscac_kuairand"]
    assert "like" not in table["signal"].to_list(), "50 events judge nothing"
    ours = table.filter(method="tscac", signal="watch_seconds", estimator="dr").row(0, named=True)
    assert ours["above_bc"] == pytest.approx(value - 10 + 0.001)
    assert ours["above_bc_upper"] - ours["above_bc"] == pytest.approx(1.96 * error, rel=1e-2)
    assert ours["above_bc_by_seeds_upper"] - ours["above_bc"] < 0.01
    text = " ".join(found.verdict)
    assert clear in text
    assert popular in text
    assert "not measurable there: like, hate" in text
    said = "not told apart from" if error == 2.0 else "above" if value > 12 else "below"
    assert f"watch time of TSCAC is {said} joint critic's" in text
    published = found.tables["tscac_published"]
    assert published.filter(method="tscac", signal="watch_seconds")["ours"].item() == pytest.approx((value - 10) / 10, abs=1e-3)
    assert published.filter(method="rcpo", signal="watch_seconds")["ours"].item() == pytest.approx(0.2), "one critic, fixed multipliers"


def test_pooled_intervals_cover_with_users_that_all_seeds_share():
    """400 studies of 5 seeds: users move all alike (spread 1), seeds each (spread 0.5). At least nominal coverage, 95 %: fewer than 365
    covered has a false-alarm rate below 1e-3; seeds alone cover far less.
    """
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 1)) + 0.5 * rng.normal(size=(400, 5))
    ends = np.array([pooled([{"value": x, "standard_error": 1.0} for x in row]) for row in values])
    assert ((ends[:, 1] < 0) & (ends[:, 2] > 0)).sum() >= 365
    alone = 2.776 * values.std(1, ddof=1) / np.sqrt(5)
    assert (np.abs(values.mean(1)) < alone).mean() < 0.7


def judged(watch: float, like: float, half: float = 0.0, effective: float = 100.0) -> dict:
    held = {s: {"ncis": {"value": like, "upper": like + half, "effective_rows": effective}} for s in PROTECTED}
    return {"watch_seconds": {"ncis": {"value": watch, "effective_rows": effective}}, **held}


def test_options_are_chosen_by_constraints_first():
    logged = judged(10.0, 0.5)
    sure = [judged(20.0, 0.4), judged(12.0, 0.5), judged(11.0, 0.6)]
    assert chosen(sure, logged) == chosen(sure, logged, "value") == 1
    assert chosen([judged(20.0, 0.2), judged(12.0, 0.3)], logged) == 1, "where none keeps them, the least loss"
    unsure = [judged(20.0, 0.3, 0.1), judged(15.0, 0.45, 0.1), judged(11.0, 0.6, 0.1)]
    assert chosen(unsure, logged) == 1, "a loss within its interval is none"
    assert chosen(unsure, logged, "value") == 2


def test_ignorance_chooses_nothing():
    """Nine effective rows of a hundred tell nothing against an option, and nothing for it."""
    logged = judged(10.0, 0.5)
    options = [judged(40.0, 0.5, 0.9, effective=9.0), judged(12.0, 0.5, effective=10.0), judged(11.0, 0.5, effective=90.0)]
    assert qualified(options, logged) == [1, 2]
    assert chosen(options, logged) == chosen(options, logged, "value") == 1
    few = [judged(40.0, 0.5, effective=3.0), judged(12.0, 0.1, effective=5.0)]
    assert qualified(few, logged) == []
    assert chosen(few, logged) == 1, "where none has enough, the one with most"


def test_two_policies_are_set_beside_each_other_user_by_user():
    """The difference of two estimates, its error that of leaving out a user at a time, done by hand."""
    rng = torch.Generator().manual_seed(0)
    users, items = torch.arange(12).repeat_interleave(3), 4
    action, reward = torch.randint(items, (36,), generator=rng), torch.rand(36, 2, generator=rng)
    none = torch.zeros(36, dtype=torch.bool)
    part = Transitions(None, action, reward, None, none, none, none, cluster=users)
    one, other, logged = (torch.log_softmax(torch.randn(36, items, generator=rng), 1) for _ in range(3))
    held = Estimates(part, ("watch_seconds", "like"), logged, torch.zeros(36, items, 2))
    found = held.gains(held.told(one), held.told(other))["like"]["snips"]
    base = logged.gather(1, action[:, None]).double().numpy()[:, 0]

    def ncis(law, keep):
        weight = np.exp(law.gather(1, action[:, None]).double().numpy()[:, 0] - base)[keep]
        return float((weight * reward[:, 1].double().numpy()[keep]).sum() / weight.sum())

    everything = np.ones(36, dtype=bool)
    assert found["value"] == pytest.approx(ncis(one, everything) - ncis(other, everything))
    left = np.array([ncis(one, users.numpy() != u) - ncis(other, users.numpy() != u) for u in range(12)])
    expected = np.sqrt(11 / 12 * ((left - found["value"]) ** 2).sum())
    assert found["standard_error"] == pytest.approx(expected, rel=1e-6)
    assert held.gains(held.told(one), held.told(one))["like"]["ncis"] == dict.fromkeys(("value", "lower", "upper", "standard_error"), 0.0)
    sure = held.judged(held.told(one))["like"]
    weight = np.exp(one.gather(1, action[:, None]).double().numpy()[:, 0] - base)
    assert sure["snips"]["effective_rows"] == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    capped = np.minimum(weight, 10.0)
    assert sure["ncis"]["effective_rows"] == pytest.approx(capped.sum() ** 2 / (capped**2).sum())
    always = held.judged(held.always(2))["watch_seconds"]["snips"]["value"]
    shows = (action == 2).numpy()
    expected = offline_eval.snips(np.zeros(shows.sum()), base[shows], reward[:, 0].double().numpy()[shows], cluster=users.numpy()[shows])
    assert always == pytest.approx(expected.value)
    shown = torch.full((36, items), -torch.inf).scatter(1, ((action + 1) % items)[:, None], 0.0)
    never = held.judged(held.told(shown))["like"]["snips"]
    assert never == {"value": None, "lower": None, "upper": None, "effective_rows": 0.0}, "what never shows what was shown is not known"


def small_rows(folder) -> Rows:
    """40 users, two rows a day for ten days, 36 videos."""
    rng, (users, rows) = np.random.default_rng(3), (40, 20)
    user, place = np.repeat(np.arange(users, dtype=np.int32), rows), np.tile(np.arange(rows), users)
    columns = {
        "user": user,
        "item": rng.integers(0, 36, user.size).astype(np.int32),
        "timestamp_ms": 1_650_000_000_000 + (place // 2) * 86_400_000 + (place % 2) * 60_000 + user * 1_000,
        "watch_seconds": (rng.random(user.size) * 30).astype(np.float32),
        **{
            name: (rng.random(user.size) < p).astype(np.uint8)
            for name, p in (("click", 0.5), ("like", 0.2), ("long_view", 0.4), ("hate", 0.01))
        },
    }
    return Rows(
        Log.from_arrays(columns, n_users=users, n_items=36), discount=0.9, session_rule="day", updates=10, kept=folder / "rows.safetensors"
    )


def test_the_kuairand_half_runs_on_a_tiny_log(tmp_path, monkeypatch):
    monkeypatch.setattr(study_module, "kuairand_rows", lambda root, stores, updates, folder: small_rows(tmp_path))
    folder = tmp_path / "kept"
    small = TSCACStudy(Asked(seeds=1, secondary_seeds=1, root=tmp_path), replace(TINY, updates=4), ("kuairand",))
    rounds = small.bench("kuairand", 0, folder)
    names = ("logged", "bc", "tscac", "rcpo learned", "tscac_ddpg", "sac", *study_module._supervised()[:1])
    found = {name: json.loads(json.dumps(rounds(Cell("kuairand", name, 0)))) for name in names}
    assert all(set(found[name]["above"]) == {"logged", "bc", "tscac", "constant"} for name in names[3:])
    assert set(found["tscac"]["above"]) == {"logged", "bc", "constant"}
    assert 0 < found["logged"]["constants"]["least"] <= found["logged"]["constants"]["chosen_on_validation"] <= 30
    assert found["logged"]["test"]["click"]["snips"]["effective_rows"] == pytest.approx(found["logged"]["rows"]["test"])
    tscac = found["tscac"]
    gain = tscac["above"]["bc"]["click"]["ncis"]["value"]
    assert gain == pytest.approx(tscac["test"]["click"]["ncis"]["value"] - found["bc"]["test"]["click"]["ncis"]["value"], abs=1e-6)
    assert tscac["metrics"]["stage"] == 2.0
    assert any(name.startswith("slack_") for name in found["rcpo learned"]["metrics"]), "bounds are the training rows' means"
    again = small.bench("kuairand", 0, folder)(Cell("kuairand", "joint critic", 0))
    assert again["above"]["tscac"]["click"]["ncis"]["standard_error"] > 0, "what came before is read where it lies"
    done = [Done(Cell("kuairand", name, 0), one, 1.0) for name, one in found.items()]
    assert report(done, kuairand=True).tables["tscac_options"].filter(method="bc")["seeds"].to_list() == [1, 1]


def test_rows_of_the_videos_most_viewed_in_training(kuairand_root, tmp_path):
    rows = kuairand_rows(kuairand_root, tmp_path / "stores", 2, tmp_path)
    assert rows.log.n_items == 150
    assert sum(rows.counts.values()) == rows.log.n_rows
    assert rows.task.item_log_counts.min() > 0
    train = rows.buffer.reward[rows.train_rows].double().mean(0)
    assert [c.bound for c in rows.objective.constraints] == pytest.approx(train[1:].tolist(), rel=1e-5)
    assert rows.logged["test"]["watch_seconds"]["ncis"]["effective_rows"] == rows.counts["test"]


def test_rows_with_much_watch_time_weigh_most_in_wide_and_deep():
    reward = torch.tensor([[10.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0]])
    assert supervised.response_weights(reward).tolist() == pytest.approx([30.1, 0.3])


def test_wide_and_deep_shows_what_is_watched(tmp_path):
    """Videos are shown alike; one is watched ten times as long: its share under the learned law is far above a 36th."""
    pytest.importorskip("recbole")
    rows = small_rows(tmp_path)
    rows.buffer.reward[:, 0] = torch.where(rows.buffer.item == 5, 30.0, 3.0)
    scores = supervised.item_scores("wide&deep", rows, 200, 0)["test"]
    law = torch.softmax(scores, 1).mean(0)
    assert law.argmax() == 5
    assert law[5] > 0.12, "its share of all watch time is 10 / 45"


def test_kuairand_rows_are_a_part_where_their_folder_is_given(tmp_path):
    assert {c.part for c in study(Asked(root=tmp_path)).cells()} == {"simulator", "kuairand"}
    assert {c.part for c in study(Asked()).cells()} == {"simulator"}
    assert study(Asked(root=tmp_path)).budget() == study(Asked()).budget(), "one run takes the rows in later"


def test_cells_of_other_options_or_another_rule_are_of_another_budget(monkeypatch):
    held = study(Asked()).budget()
    assert json.loads(json.dumps(held))["grids"]["tscac"][0] == "tscac"
    assert all(len(options) == 6 for name, (_, options) in study_module.METHODS.items() if name not in ("stage one alone", "untrained"))
    monkeypatch.setattr(study_module, "LEAST_SHARE", 0.2)
    assert study(Asked()).budget() != held
    monkeypatch.undo()
    monkeypatch.setitem(study_module.METHODS, "bc", ("bc", ({"learning_rate": 1.0},)))
    assert study(Asked()).budget() != held
