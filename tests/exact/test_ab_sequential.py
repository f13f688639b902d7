"""Always-valid intervals, effects by day, simulators' uncertainty, segments and guardrails: every formula by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from recrl.core.errors import ConfigError, DataError
from simulators.ab import Comparison, Design, ExperimentResult, Facts, Groups, MetricSpec, UserMetrics
from simulators.ab.breakdown import concentration, cuped_rows, exposure_rows, guardrail_rows, heterogeneity_p, segment_rows
from simulators.ab.light import LightUsers
from simulators.ab.results import SCHEMAS
from simulators.ab.sequential import (
    DailyEffects,
    confidence_sequence,
    daily_effects,
    looking_costs,
    mixture_variance,
    normal_p,
    sequential_rows,
    slope,
    tightest,
)
from simulators.ab.statistics import Effect, compare, cuped, linearised, welch
from simulators.ab.uncertainty import combined, uncertainty_table
from tests.support.arms import toy_experiment

REQUESTS = MetricSpec("requests", "requests a user", True, "requests")
DEPTH = MetricSpec("session_depth", "requests a session", True, "requests", "sessions")


def users(requests: list[list[int]], sessions: list[list[int]] | None = None) -> UserMetrics:
    """Users of whom only days are known."""
    daily = {"requests": np.array(requests), "sessions": np.array(sessions or requests)}
    return UserMetrics(np.arange(len(requests)), {}, daily)


def test_effects_of_sums_so_far_by_hand() -> None:
    treated, base = users([[1, 2], [3, 0], [2, 4]]), users([[1, 0], [1, 1], [4, 0]])
    found = daily_effects(treated, base, REQUESTS, same_users=False)
    assert found is not None
    np.testing.assert_allclose(found.effect, [2 - 2, 4 - 7 / 3])  # sums until day 1: 3, 3, 6 against 1, 2, 4
    # var([1, 3, 2]) = 1, var([1, 1, 4]) = 3; var([3, 3, 6]) = 3, var([1, 2, 4]) = 7/3
    np.testing.assert_allclose(found.error**2, [(1 + 3) / 3, (3 + 7 / 3) / 3])
    # cov([1, 3, 2], [3, 3, 6]) = 0; cov([1, 1, 4], [1, 2, 4]) = 5/2
    assert found.covariance[0, 1] == pytest.approx((0 + 5 / 2) / 3)
    alone = daily_effects(treated, base, REQUESTS, same_users=False, cumulative=False)
    assert alone is not None
    np.testing.assert_allclose(alone.effect, [0.0, 2 - 1 / 3])


def test_daily_effects_agree_with_the_tests_of_the_whole() -> None:
    """The last day's effect and error are those of the delta method on whole sums, paired and not."""
    rng = np.random.default_rng(0)
    everybody = LightUsers.draw(60, rng)
    arms = [everybody.live(8, rng, lift=0.1), everybody.live(8, rng)]
    for same_users in (False, True):
        for metric in (REQUESTS, DEPTH):
            found = daily_effects(*arms, metric, same_users=same_users)
            assert found is not None
            ratios = [arm.ratio(metric) for arm in arms]
            assert ratios[0] is not None
            assert ratios[1] is not None
            whole = compare(ratios[0], ratios[1], same_users=same_users)
            assert found.effect[-1] == pytest.approx(whole.effect)
            assert found.error[-1] == pytest.approx(whole.standard_error)
    assert daily_effects(*arms, MetricSpec("x", "", True, "absent"), same_users=True) is None


def test_the_boundary_by_hand() -> None:
    """Two looks with variances 1 and 4: rho is the variance expected at the end, 1 * 2^1.5, over the tightest ratio."""
    found = DailyEffects(np.zeros(2), np.zeros(2), np.array([1.0, 8.0]), np.array([[1.0, 2.0], [2.0, 4.0]]), np.ones(2))
    rho = 2**1.5 / tightest(0.05)
    assert mixture_variance(np.array([1.0, 4.0]), 0.05) == pytest.approx(rho)
    sequence = confidence_sequence(found)
    reach = math.sqrt((1 + rho) * math.log((1 + rho) / (rho * 0.05**2)))
    assert (sequence.lower[0], sequence.upper[0]) == pytest.approx((1 - reach, 1 + reach))
    assert sequence.p_value[0] == pytest.approx(min(1.0, math.sqrt((1 + rho) / rho) * math.exp(-1 / (2 * (1 + rho)))))
    assert sequence.p_value[1] == pytest.approx(math.sqrt((4 + rho) / rho) * math.exp(-64 / (2 * (4 + rho))))
    np.testing.assert_allclose(sequence.information_ratio, [1.0, 2.0])  # nothing before day 0; Cov / V_0 = 2


def test_interval_and_p_value_say_the_same() -> None:
    """At the edge of the interval the p-value is 5 %: what excludes 0 on a first look is significant, and the other way round."""
    for effect in (2.9, 3.0, 3.1, 3.5, 4.5):
        found = DailyEffects(np.zeros(1), np.zeros(1), np.array([effect]), np.ones((1, 1)), np.ones(1))
        sequence = confidence_sequence(found)
        assert (sequence.lower[0] > 0) == (sequence.p_value[0] < 0.05)


def test_the_tightest_point_of_the_boundary() -> None:
    """Against a fine grid; and what looking costs: 3.04 standard errors instead of 1.96."""
    grid = np.geomspace(0.1, 100, 20_001)
    bound = np.sqrt((1 + 1 / grid) * np.log((1 + grid) / 0.05**2))
    assert tightest(0.05) == pytest.approx(grid[bound.argmin()], rel=1e-3)
    assert bound.min() == pytest.approx(3.035, abs=0.001)
    assert looking_costs() == pytest.approx(((bound.min() + 0.8416) / (1.96 + 0.8416)) ** 2, rel=1e-3)


def test_looks_without_variance_claim_nothing() -> None:
    same = users([[1, 2], [1, 0], [1, 4]])
    found = daily_effects(same, users([[1, 0], [1, 1], [1, 0]]), REQUESTS, same_users=False)
    assert found is not None
    sequence = confidence_sequence(found)
    assert (sequence.lower[0], sequence.upper[0], sequence.p_value[0]) == (0.0, 0.0, 1.0)
    twins = daily_effects(same, same, REQUESTS, same_users=True)
    assert twins is not None
    assert confidence_sequence(twins).p_value.tolist() == [1.0, 1.0]
    assert not confidence_sequence(twins).upper.any()


def test_users_who_go_against_themselves_are_told() -> None:
    """Who was active early is not later: the sums' paths are less than Brownian, and the ratio falls below 1."""
    rng = np.random.default_rng(1)
    first = rng.poisson(5, (200, 1))
    crossed = np.hstack([first, 20 - first])
    found = daily_effects(users(crossed[:100].tolist()), users(crossed[100:].tolist()), REQUESTS, same_users=False)
    assert found is not None
    assert confidence_sequence(found).information_ratio[-1] < 0.1


def test_trend_by_hand() -> None:
    """Effects 9 (day 0, left out), 1, 2, 3: slope 1; with independent errors of variance 1 its variance is 1 / sum (d - 2)^2 = 1/2."""
    found = DailyEffects(np.zeros(4), np.zeros(4), np.array([9.0, 1.0, 2.0, 3.0]), np.eye(4), np.ones(4))
    assert slope(found) == pytest.approx((1.0, math.sqrt(0.5)))
    assert slope(replace(found, effect=np.zeros(3), covariance=np.eye(3))) is None
    assert normal_p(1.959964, 1.0) == pytest.approx(0.05, abs=1e-6)
    assert (normal_p(0.0, 0.0), normal_p(1.0, 0.0)) == (1.0, 0.0)


def light_result(lift: float, *, paired: bool = False, n: int = 400, days: int = 10, facts: Facts = Facts()) -> ExperimentResult:  # noqa: B008
    rng = np.random.default_rng(2)
    arms = {}
    for name, extra in (("base", 0.0), ("new", lift)):
        people = LightUsers.draw(n, rng)
        arms[name] = people.live(days, rng, lift=extra, earlier=people.live(days, rng))
    return ExperimentResult(Design(users=2 * n, days=days, paired=paired), arms, 0.0, facts, n)


def test_sequential_rows_narrow_and_find() -> None:
    rows = [r for r in sequential_rows(light_result(0.2)) if r["metric"] == "active_days"]
    assert [r["day"] for r in rows] == list(range(10))
    assert all(r["lower"] <= r["fixed_lower"] <= r["effect"] <= r["fixed_upper"] <= r["upper"] for r in rows)
    assert rows[-1]["verdict"] == "better"
    assert np.all(np.diff([r["p_value"] for r in rows]) <= 0)
    assert rows[0]["verdict"] == "no difference shown"


def test_cuped_in_the_experiment_is_the_formula() -> None:
    found = light_result(0.1)
    row = next(r for r in cuped_rows(found) if r["metric"] == "active_days")
    new, base = (found.user_metrics[name] for name in ("new", "base"))
    y, x = ([arm.columns["active_days"] for arm in (new, base)], [arm.covariates["pre_active_days"] for arm in (new, base)])
    by_hand = cuped(y[0], y[1], x[0], x[1])
    effect = welch(by_hand.treatment, by_hand.baseline)
    assert (row["effect"], row["lower"], row["covariate"]) == (effect.effect, effect.lower, "pre_active_days")
    assert row["predicted_reduction"] == by_hand.variance_reduction
    assert row["variance_reduction"] == pytest.approx(row["predicted_reduction"], abs=0.01)
    assert 0.05 < row["predicted_reduction"] < 0.9
    depth = next(r for r in cuped_rows(found) if r["metric"] == "session_depth")
    # a ratio's covariate is linearised over both arms together
    together = linearised(*(np.concatenate([arm.covariates[f"pre_{name}"] for arm in (new, base)]) for name in ("requests", "sessions")))
    values = [linearised(arm.columns["requests"], arm.columns["sessions"]) for arm in (new, base)]
    sharp = cuped(*values, together[:400], together[400:])
    assert depth["effect"] == pytest.approx(welch(sharp.treatment, sharp.baseline).effect)
    assert cuped_rows(light_result(0.1, paired=True)) == []


def test_segments_are_the_test_of_their_users() -> None:
    halves = Groups(np.arange(400) % 2, ("even", "odd"))
    found = light_result(0.1, facts=Facts(segments={"half": halves, "empty": Groups(np.full(400, -1), ("none",))}))
    rows = segment_rows(found)
    row = next(r for r in rows if r["metric"] == "sessions" and r["group"] == "odd")
    new, base = (found.user_metrics[name].columns["sessions"][1::2] for name in ("new", "base"))
    assert (row["effect"], row["users"]) == (welch(new, base).effect, 200)
    assert {r["segment"] for r in rows} == {"half"}
    effects = [compare((a, np.ones(200)), (b, np.ones(200))) for a, b in ((new, base), *[_even(found)])]
    q = (effects[0].effect - effects[1].effect) ** 2 / (effects[0].standard_error ** 2 + effects[1].standard_error ** 2)
    assert row["heterogeneity_p"] == pytest.approx(stats.chi2.sf(q, 1))
    assert heterogeneity_p([1.0], [1.0]) == 1.0
    assert all(r["p_adjusted"] >= r["p_value"] for r in rows)


def _even(found: Comparison) -> tuple[np.ndarray, np.ndarray]:
    new, base = (found.user_metrics[name].columns["sessions"][::2] for name in ("new", "base"))
    return new, base


def test_groups_of_features() -> None:
    numbers = Groups.of(np.arange(100.0))
    assert numbers.names == (".. to 24.75", "24.75 to 49.5", "49.5 to 74.25", "74.25 to ..")
    assert np.bincount(numbers.codes).tolist() == [25, 25, 25, 25]
    words = Groups.of([*"aaabbc", None, "d"], most=3)
    assert words.names == ("a", "b", "other")
    assert words.codes.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    with pytest.raises(ConfigError, match="codes run from 0 to 5 for 2 names"):
        Groups(np.array([0, 5]), ("a", "b"))


def test_guardrails_against_a_count_by_hand() -> None:
    """Novelty, diversity and provider shares of the toy's users from the items they were shown, one item after the other."""
    experiment = toy_experiment(30)
    arms = experiment.simulate(0, 30)
    result = experiment.result(arms, 0.0)
    shown = result.user_metrics["constant"].item_exposures
    columns = result.user_metrics["constant"].columns
    assert shown.sum() == columns["shown"].sum()
    bits = -np.log2((np.arange(40) + 1) / (np.arange(40) + 1).sum())
    assert columns["novelty_bits"].sum() == pytest.approx((bits * shown).sum())
    for k in range(3):
        assert columns[f"provider_{k}"].sum() == shown[k::3].sum()
    assert np.all(columns["diversity"] <= 2 * columns["requests"])
    rows = {r["metric"]: r for r in guardrail_rows(result)}
    assert rows["coverage"]["mean"] == np.mean(shown > 0)
    assert rows["coverage"]["verdict"] == "not tested"
    assert rows["novelty"]["mean"] == pytest.approx((bits * shown).sum() / shown.sum())
    exposed = [r for r in exposure_rows(result) if r["segment"] == "all"]
    assert sum(r["mean"] for r in exposed) == pytest.approx(1.0)
    parts = [r for r in exposure_rows(result) if r["segment"] == "half" and r["provider"] == "x"]
    assert {r["group"] for r in parts} == {"even", "odd"}
    assert all(table.schema.equals(SCHEMAS[name]) for name, table in result.tables().items())


def test_concentration_by_hand() -> None:
    assert concentration(np.array([4, 0, 0, 0])) == pytest.approx({"coverage": 0.25, "effective_items": 1.0, "gini": 0.75})
    assert concentration(np.array([5, 5, 5, 5])) == pytest.approx({"coverage": 1.0, "effective_items": 4.0, "gini": 0.0})
    assert concentration(np.array([1, 3]))["gini"] == pytest.approx(0.25)


def test_rubins_rules_by_hand() -> None:
    """Three simulators: W = (.01 + .04 + .04) / 3 = .03, B = var(1, 2, 3) = 1, T = .03 + 4/3."""
    found = combined([1.0, 2.0, 3.0], [0.1, 0.2, 0.2], level=0.9)
    total, spread = 0.03 + 4 / 3, 4 / 3
    freedom = 2 * (1 + 0.03 / spread) ** 2
    assert found.upper - found.effect == pytest.approx(stats.t.ppf(0.95, freedom) * math.sqrt(total))
    assert (found.effect, found.within, found.between) == pytest.approx((2.0, math.sqrt(0.03), 1.0))
    # simulators that agree: the plain normal interval
    same = combined([1.0, 1.0], [0.5, 0.5])
    assert same.upper == pytest.approx(1 + 1.959964 * 0.5, rel=1e-6)
    assert combined([0.0, 0.0], [0.0, 0.0]).p_value == 1.0
    with pytest.raises(DataError, match="1 effects, 1 errors"):
        combined([1.0], [1.0])


def plain_rows() -> list[dict[str, object]]:
    common = {"metric": "sessions", "unit": "", "baseline": "a", "level": 0.95, "higher_is_better": True, "p_value": 1e-9}
    return [
        {**common, "scenario": "weak", "arm": "b", "effect": 1.0, "lower": 0.9, "upper": 1.1},
        {**common, "scenario": "strong", "arm": "b", "effect": 2.0, "lower": 1.8, "upper": 2.2},
        {**common, "scenario": "strong", "arm": "a", "effect": 0.0, "lower": 0.0, "upper": 0.0},
    ]


def test_uncertainty_spans_scenarios_and_stands_beside_the_plain_interval() -> None:
    def effect(value: float) -> Effect:
        return Effect(value, 0.0, value, value - 0.1, value + 0.1, 0.95, 0.0, 0.05)

    members = {name: [[("sessions", "b", effect(value))] for value in (x - 1, x, x + 1)] for name, x in (("weak", 1.0), ("strong", 2.0))}
    rows = uncertainty_table(plain_rows(), members, {"weak": 1.0, "strong": 5.0}).to_pylist()
    weak, strong, span = rows
    assert (weak["eta"], strong["eta"], span["eta"]) == (1.0, 5.0, None)
    assert (weak["plain_lower"], weak["members"], weak["between"]) == (0.9, 3, 1.0)
    assert weak["lower"] < 0.9 < 1.1 < weak["upper"]
    assert (span["scenario"], span["lower"], span["upper"]) == ("all", weak["lower"], strong["upper"])
    alone = uncertainty_table(plain_rows(), {}, {"weak": 1.0, "strong": 5.0}).to_pylist()
    assert (alone[0]["lower"], alone[0]["members"], alone[0]["verdict"]) == (0.9, 0, "better")
    assert alone[2]["verdict"] == "better"
