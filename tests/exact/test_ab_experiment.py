"""The A/B engine: against a loop over single users, pairing, tiles, tables and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import Action, ActionSpec, Observation, Policy
from recrl.core.errors import ConfigError
from recrl.core.runs import RunFolder
from recrl.core.torch.streams import TensorStreams
from simulators.ab import METRICS, Design, ExperimentResult, UserMetrics, run_experiment
from simulators.ab.experiment import act_in_blocks
from simulators.ab.results import SCHEMAS
from simulators.ab.statistics import compare, return_curve
from simulators.toy import TOY_CONFIG, toy_world
from simulators.world import RetentionWorld
from tests.support.arms import Constant, Network


@pytest.fixture(scope="module")
def world() -> RetentionWorld:
    return toy_world(replace(TOY_CONFIG, truth=False))


@pytest.fixture(scope="module")
def network(world: RetentionWorld) -> Network:
    return Network(world.action_spec, world.n_features)


def run(world: RetentionWorld, design: Design, *policies: Policy, **options: Any) -> ExperimentResult:
    named = dict(zip("abc", policies, strict=False))
    return run_experiment(dict.fromkeys(named, world), named, design, **options)


@pytest.fixture(scope="module")
def result(world: RetentionWorld, network: Network) -> ExperimentResult:
    return run(world, Design(users=250, days=6, seed=3), network, Constant(world.action_spec, 0.5))


def one_by_one(world: RetentionWorld, policy: Policy, uids: list[int], days: int, seed: int) -> list[dict[str, float]]:
    """What the engine sums, counted in plain Python, one user after the other."""
    streams, found = TensorStreams(seed), []
    for uid in uids:
        count: dict[str, float] = dict.fromkeys(
            ("requests", "sessions", "shown", "watch_seconds", *BEHAVIOURS, "returns", "gap_days", "churned", "first_return_day"), 0.0
        )
        state, active = world.initial_state(torch.tensor([uid]), streams), set()
        while bool(state.alive) and float(state.day) < days:
            active.add(int(state.day))
            action = policy.act(world.observe(state), streams, step=state.draw_step)
            state, outcome = world.transition(state, action.value, streams)
            count["requests"] += 1
            count["shown"] += outcome.shown.numel()
            count["watch_seconds"] += float(outcome.watch_seconds.double().sum())
            for k, name in enumerate(BEHAVIOURS):
                count[name] += sum((int(bits) >> k) & 1 for bits in outcome.feedback[0])
            if bool(outcome.session_end):
                count["sessions"] += 1
                if bool(outcome.terminated):
                    count["churned"] += 1
                else:
                    count["returns"] += 1
                    count["gap_days"] += float(outcome.gap_days)
                    if count["sessions"] == 1:
                        count["first_return_day"] = float(outcome.gap_days)
        found.append(count | {"active_days": len(active), "returned_next_day": float(count["first_return_day"] == 1)})
    return found


def test_engine_equals_a_loop_over_single_users(world: RetentionWorld, result: ExperimentResult) -> None:
    """On the arm with constant weights, whose actions do not depend on the batch."""
    arm = result.user_metrics["b"]
    expected = one_by_one(world, Constant(world.action_spec, 0.5), arm.uid[:25].tolist(), days=6, seed=3)
    for name in arm.columns:
        np.testing.assert_allclose(arm.columns[name][:25], [row[name] for row in expected], rtol=1e-12, err_msg=name)
    assert set(arm.columns) == set(expected[0])
    np.testing.assert_array_equal(arm.daily["requests"].sum(axis=1), arm.columns["requests"])
    np.testing.assert_allclose(arm.daily["watch_seconds"].sum(axis=1), arm.columns["watch_seconds"], rtol=1e-5)
    assert arm.columns["churned"].max() <= 1
    assert 0 < arm.columns["returned_next_day"].mean() < 1


@pytest.mark.parametrize("tile", [40, 10_000])
def test_tile_size_changes_no_bit(world: RetentionWorld, network: Network, result: ExperimentResult, tile: int) -> None:
    other = run(world, result.design, network, Constant(world.action_spec, 0.5), tile=tile)
    for arm in result.arms:
        first, second = result.user_metrics[arm], other.user_metrics[arm]
        assert all(np.array_equal(first.columns[name], second.columns[name]) for name in first.columns)
        assert np.array_equal(first.daily["requests"], second.daily["requests"])
        assert np.array_equal(first.daily["watch_seconds"], second.daily["watch_seconds"])
    tables, others = result.tables(), other.tables()
    assert all(tables[name].equals(others[name]) for name in ("ab_metrics", "ab_daily", "ab_retention"))


@pytest.mark.parametrize("rows", [slice(0, 1), slice(3, 9), slice(500, 1400)])
def test_actions_do_not_depend_on_the_batch_to_the_last_bit(world: RetentionWorld, network: Network, rows: slice) -> None:
    """A matrix product of one row differs in its last bits from the same row among many; asked for in blocks it does not."""
    features, user = torch.randn(1400, world.n_features, generator=torch.Generator().manual_seed(0)), torch.arange(1400)
    everybody, some = Observation(features=features, user=user), Observation(features=features[rows], user=user[rows])
    whole = act_in_blocks(network, everybody, TensorStreams(0), user * 7, False)
    assert whole.shape == (1400, *world.action_spec.shape)
    assert torch.equal(act_in_blocks(network, some, TensorStreams(0), user[rows] * 7, False), whole[rows])


def test_paired_twins_do_exactly_the_same(world: RetentionWorld, network: Network) -> None:
    found = run(world, Design(users=120, days=5), network, Network(world.action_spec, world.n_features))
    rows = [r for r in found.tables()["ab_metrics"].to_pylist() if r["arm"] == "b"]
    # five days tell nothing of day 7 and day 30
    assert len(rows) == len(METRICS) - 2
    for row in rows:
        assert (row["effect"], row["lower"], row["upper"], row["p_value"], row["relative_effect"]) == (0.0, 0.0, 0.0, 1.0, 0.0), row[
            "metric"
        ]
        assert row["verdict"] == "no difference shown"


def test_another_seed_gives_other_users_and_another_run(world: RetentionWorld, result: ExperimentResult) -> None:
    other = run(world, replace(result.design, seed=4), *(Constant(world.action_spec, 0.5),) * 2)
    assert not np.array_equal(other.user_metrics["b"].uid, result.user_metrics["b"].uid)
    assert not np.array_equal(other.user_metrics["b"].columns["requests"], result.user_metrics["b"].columns["requests"])


def test_unpaired_users_fall_into_one_arm_each(world: RetentionWorld) -> None:
    policies = [Constant(world.action_spec, w) for w in (0.5, 0.5, -0.5)]
    found = run(world, Design(users=300, days=3, paired=False, baseline="b"), *policies)
    uids = np.concatenate([arm.uid for arm in found.user_metrics.values()])
    assert len(set(uids.tolist())) == 300
    assert all(60 < arm.users < 140 for arm in found.user_metrics.values())
    design = found.tables()["ab_design"].to_pylist()[0]
    assert 0 < design["sample_ratio_p"] <= 1
    assert (design["arms"], design["baseline"], design["paired"], design["users"]) == ("a,b,c", "b", False, 300)
    assert found.baseline == "b"


def test_users_of_an_arm_do_not_feel_the_others(world: RetentionWorld) -> None:
    """A user randomised to an arm lives as in the paired run of the same seed."""
    policies = [Constant(world.action_spec, w) for w in (0.5, -0.5)]
    alone, both = (run(world, Design(users=100, days=3, paired=paired), *policies) for paired in (False, True))
    for arm in ("a", "b"):
        few, all_of_them = alone.user_metrics[arm], both.user_metrics[arm]
        where = np.searchsorted(all_of_them.uid, few.uid)
        np.testing.assert_array_equal(all_of_them.columns["requests"][where], few.columns["requests"])


def test_tables_have_the_documented_form(result: ExperimentResult, tmp_path: Path) -> None:
    tables = result.tables()
    folder = RunFolder.create(tmp_path / "run", kind="ab", config={}, seed=0)
    for name, table in tables.items():
        assert table.schema.equals(SCHEMAS[name])
        assert folder.write_table(name, table).is_file()
    metrics = tables["ab_metrics"].to_pylist()
    there = [m.name for m in METRICS if m.name not in ("day7_retention", "day30_retention")]
    assert [(r["metric"], r["arm"]) for r in metrics] == [(name, arm) for name in there for arm in ("a", "b")]
    base = [r for r in metrics if r["arm"] == "a"]
    assert all(r["baseline"] == "a" and r["effect"] == 0.0 and r["mean"] == r["baseline_mean"] for r in base)
    treated = [r for r in metrics if r["arm"] == "b"]
    assert all(r["lower"] <= r["effect"] <= r["upper"] and r["users"] == 250 for r in treated)
    daily = tables["ab_daily"].to_pylist()
    assert {(r["metric"], r["day"]) for r in daily} == {
        (m, d) for m in ("daily_active_share", "daily_active_users", "watch_seconds_per_user", "requests_per_user") for d in range(6)
    }
    assert all(r["lower"] <= r["value"] <= r["upper"] for r in daily)
    assert [r["day"] for r in tables["ab_retention"].to_pylist()] == [1, 2, 3, 4, 5] * 2
    design = tables["ab_design"].to_pylist()[0]
    assert design["sample_ratio_p"] is None
    assert design["user_steps"] == sum(arm.columns["requests"].sum() for arm in result.user_metrics.values())


def hand_made() -> ExperimentResult:
    """Four users an arm over three days, every number chosen."""

    def arm(requests: list[list[int]], first_return: list[int]) -> UserMetrics:
        daily = np.array(requests, dtype=np.float32)
        sessions = (daily > 0).sum(axis=1).astype(float)
        columns = {
            "requests": daily.sum(axis=1).astype(float),
            "sessions": sessions,
            "active_days": sessions,
            "first_return_day": np.array(first_return, dtype=float),
            "returned_next_day": (np.array(first_return) == 1).astype(float),
            "churned": (np.array(first_return) == 0).astype(float),
            "returns": np.array(first_return) > 0,
            "gap_days": np.array(first_return, dtype=float),
        }
        return UserMetrics(np.arange(4), {k: np.asarray(v, dtype=float) for k, v in columns.items()}, {"requests": daily})

    base = arm([[2, 0, 0], [1, 0, 3], [4, 0, 0], [1, 1, 0]], [0, 2, 5, 1])
    treated = arm([[2, 2, 2], [1, 3, 0], [4, 4, 1], [1, 1, 1]], [1, 1, 1, 1])
    return ExperimentResult(Design(users=4, days=3, eta_scenario="weak", eta=1.0), {"base": base, "new": treated}, 0.5)


def test_tables_by_hand() -> None:
    found = hand_made()
    rows = {(r["metric"], r["arm"]): r for r in found.tables()["ab_metrics"].to_pylist()}
    # no items, no watch time: those metrics are left out
    assert {m for m, _ in rows} == {"day1_retention", "return_gap", "churn_share", "active_days", "sessions", "session_depth", "requests"}
    assert rows["day1_retention", "base"]["mean"] == 0.25
    assert (rows["day1_retention", "new"]["effect"], rows["day1_retention", "new"]["relative_effect"]) == (0.75, 3.0)
    assert rows["return_gap", "base"]["mean"] == pytest.approx(8 / 3)  # gaps 2, 5, 1
    assert rows["session_depth", "base"]["mean"] == 12 / 6
    assert rows["session_depth", "new"]["mean"] == 22 / 11
    assert rows["requests", "new"]["effect"] == pytest.approx(2.5)  # differences 4, 0, 5, 1
    assert rows["requests", "new"]["upper"] - 2.5 == pytest.approx(3.182446 * np.std([4, 0, 5, 1], ddof=1) / 2, rel=1e-6)
    assert {r["scenario"] for r in rows.values()} == {"weak"}
    daily = {(r["arm"], r["metric"], r["day"]): r for r in found.tables()["ab_daily"].to_pylist()}
    assert [daily["base", "daily_active_share", day]["value"] for day in range(3)] == [1.0, 0.25, 0.25]
    assert [daily["new", "requests_per_user", day]["value"] for day in range(3)] == [2.0, 2.5, 1.0]
    # the return on day 5 lies behind the last day and is not seen
    retention = {(r["arm"], r["day"]): r["returned_share"] for r in found.tables()["ab_retention"].to_pylist()}
    assert retention == {("base", 1): 0.25, ("base", 2): 0.5, ("new", 1): 1.0, ("new", 2): 1.0}
    assert 0.0 < found.log_rank_p("new") < 0.1


def test_effects_follow_the_design(result: ExperimentResult) -> None:
    metric = next(m for m in METRICS if m.name == "session_depth")
    ratios = [result.user_metrics[arm].ratio(metric) for arm in ("b", "a")]
    assert ratios[0] is not None
    assert ratios[1] is not None
    assert result.effect("session_depth", "b") == compare(ratios[0], ratios[1], 0.95, same_users=True)
    curve = return_curve(*result.user_metrics["b"].first_returns(6), 5)
    shown = [r["returned_share"] for r in result.tables()["ab_retention"].to_pylist() if r["arm"] == "b"]
    np.testing.assert_array_equal(curve.returned_share, shown)


def test_verdicts_know_which_way_is_better() -> None:
    rng = np.random.default_rng(0)

    def arm(retention: float, churn: float) -> UserMetrics:
        columns = {
            "returned_next_day": rng.random(2000) < retention,
            "churned": rng.random(2000) < churn,
            "sessions": rng.poisson(5, 2000),
            "requests": rng.poisson(5, 2000),
        }
        return UserMetrics(
            np.arange(2000), {k: np.asarray(v, dtype=float) for k, v in columns.items()}, {"requests": np.ones((2000, 1), dtype=np.float32)}
        )

    arms = {"base": arm(0.5, 0.1), "good": arm(0.7, 0.02), "bad": arm(0.3, 0.3)}
    rows = ExperimentResult(Design(users=6000, days=1, paired=False), arms, 0.0).tables()["ab_metrics"].to_pylist()
    verdicts = {(r["metric"], r["arm"]): r["verdict"] for r in rows}
    assert verdicts["day1_retention", "good"] == verdicts["churn_share", "good"] == "better"
    assert verdicts["day1_retention", "bad"] == verdicts["churn_share", "bad"] == "worse"
    assert verdicts["sessions", "good"] == verdicts["day1_retention", "base"] == "no difference shown"


def test_verdicts_count_the_metrics() -> None:
    """One p-value of about 4 % among four metrics is no finding: Holm asks for more."""
    values, shift = np.random.default_rng(0).normal(size=1000), 2.0537 * np.sqrt(2 / 1000)
    columns = dict.fromkeys(("churned", "active_days", "sessions", "requests"), values)
    treated = columns | {"requests": np.roll(values, 1) + shift}
    arms = {
        name: UserMetrics(np.arange(1000), c, {"requests": np.ones((1000, 1), np.float32)})
        for name, c in (("base", columns), ("new", treated))
    }
    rows = ExperimentResult(Design(users=2000, days=1, paired=False), arms, 0.0).tables()["ab_metrics"].to_pylist()
    row = next(r for r in rows if r["metric"] == "requests" and r["arm"] == "new")
    assert 0.03 < row["p_value"] < 0.05
    assert row["lower"] > 0
    assert row["verdict"] == "no difference shown"


def test_deterministic_arms_draw_nothing(world: RetentionWorld, network: Network) -> None:
    found = run(world, Design(users=60, days=3, deterministic=("b",)), network, network)
    assert not np.array_equal(found.user_metrics["a"].columns["click"], found.user_metrics["b"].columns["click"])


def test_progress_grows_to_one(world: RetentionWorld) -> None:
    seen: list[tuple[float, str]] = []
    run(
        world,
        Design(users=100, days=3),
        *(Constant(world.action_spec, 0.5),) * 2,
        progress=lambda done, text: seen.append((done, text)),
        tile=20,
    )
    shares = [done for done, _ in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(seen) > 10
    assert seen[-1][1] == "100 users, 2 arms"


def test_interruption_passes_through(world: RetentionWorld) -> None:
    class Interrupted(Constant):
        calls = 0

        def act(self, *args: Any, **options: Any) -> Action:
            self.calls += 1
            if self.calls == 5:
                raise KeyboardInterrupt
            return super().act(*args, **options)

    with pytest.raises(KeyboardInterrupt):
        run(world, Design(users=50, days=3), Constant(world.action_spec, 0.5), Interrupted(world.action_spec, 0.5))


def test_one_simulated_day_has_no_retention_curve(world: RetentionWorld) -> None:
    found = run(world, Design(users=20, days=1), *(Constant(world.action_spec, 0.5),) * 2)
    assert found.tables()["ab_retention"].num_rows == 0
    assert found.user_metrics["a"].columns["active_days"].tolist() == [1.0] * 20


def refusals(world: RetentionWorld) -> Iterator[tuple[dict[str, Any], str]]:
    policy, other = Constant(world.action_spec, 0.5), Constant(ActionSpec("embedding", (3,)), 0.5)
    two = {"a": policy, "b": policy}
    worlds = {"a": world, "b": world}
    design = Design(users=10, days=3)
    yield {"worlds": {"a": world}, "policies": {"a": policy}, "design": design}, "at least two arms, got 1"
    yield {"worlds": {"a": world}, "policies": two, "design": design}, "worlds are given for ['a'], policies for ['a', 'b']"
    yield {"worlds": worlds, "policies": two, "design": replace(design, baseline="c")}, "baseline names an unknown arm 'c'"
    yield {"worlds": worlds, "policies": two, "design": replace(design, deterministic=("z",))}, "deterministic names an unknown arm 'z'"
    yield {"worlds": worlds, "policies": two | {"b": other}, "design": design}, "arm 'b': the policy's action is embedding (3,)"
    yield {"worlds": worlds, "policies": two, "design": replace(design, days=31)}, "the world ends after 30 days, the experiment after 31"
    yield {"worlds": worlds, "policies": two, "design": design, "tile": 0}, "tile is 0"
    yield {"worlds": worlds, "policies": two, "design": Design(users=2, days=3, paired=False, seed=1)}, "users leave fewer than 2 for arm"


def test_what_does_not_fit_is_refused_before_anything_runs(world: RetentionWorld) -> None:
    for arguments, what in refusals(world):
        with pytest.raises(ConfigError) as caught:
            run_experiment(**arguments)
        assert what in caught.value.what
        assert caught.value.where
        assert caught.value.mend


def test_worlds_of_other_users_are_refused(world: RetentionWorld) -> None:
    class Shifted(RetentionWorld):
        def population(self, n: int, seed: int = 0, *, first: int = 0) -> Tensor:
            return super().population(n, seed, first=first) + 1

    other = Shifted(world.config, world.response, world.leave, world.retention)
    policy = Constant(world.action_spec, 0.5)
    with pytest.raises(ConfigError, match="the world of arm 'b' has other users"):
        run_experiment({"a": world, "b": other}, {"a": policy, "b": policy}, Design(users=10, days=2))


@pytest.mark.parametrize(("options", "what"), [({"users": 1}, "users is 1"), ({"days": 0}, "days is 0"), ({"level": 1.0}, "level is 1.0")])
def test_designs_are_checked(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        Design(**options)


def test_unknown_metrics_and_arms_are_named(result: ExperimentResult) -> None:
    for metric, arm, what in (("magic", "b", "unknown metric 'magic'"), ("requests", "z", "unknown arm 'z'")):
        with pytest.raises(ConfigError, match=what):
            result.effect(metric, arm)
    with pytest.raises(ConfigError, match="watch_seconds has no value"):
        hand_made().effect("watch_seconds", "new")
