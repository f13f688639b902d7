"""Retention with censoring: against loops, statsmodels, and a process listed with all its probabilities."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from statsmodels.duration.survfunc import SurvfuncRight

import offline_eval
from offline_eval.censoring import RetentionLog
from offline_eval.hazards import cross_fit_hazards
from offline_eval.retention import IPCW, REGISTRY, KaplanMeier, NaiveRetention, SurvivalDR, retention_curve
from recrl.core.errors import ConfigError, DataError
from recrl_datasets import Log, sessions

K = 4


def log_of(days: Any, returned: Any, w: Any = 1.0, cluster: Any = None, **extra: Any) -> RetentionLog:
    days = np.asarray(days)
    w = np.broadcast_to(np.asarray(w, dtype=float), days.shape)
    with np.errstate(divide="ignore"):
        return RetentionLog(
            days, np.asarray(returned), np.log(w), np.zeros(days.size), np.arange(days.size) if cluster is None else cluster, **extra
        )


def random_log(seed: int, sessions: int = 60, weighted: bool = True, strata: int = 1, users: int | None = None) -> RetentionLog:
    rng = np.random.default_rng(seed)
    back, seen = rng.geometric(0.3, sessions), rng.integers(0, 9, sessions)
    seen[:3] = 9  # somebody is observed to the end
    returned = back <= seen
    w = rng.lognormal(0, 0.6, sessions) if weighted else np.ones(sessions)
    cluster = None if users is None else rng.integers(0, users, sessions)
    return log_of(np.where(returned, back, seen), returned, w, cluster, stratum=None if strata == 1 else rng.integers(0, strata, sessions))


def weights_of(log: RetentionLog) -> np.ndarray:
    return np.exp(log.target_log_prob - log.behaviour_log_prob)


def km_by_hand(log: RetentionLog, k: int) -> float:
    w, stays = weights_of(log), 1.0
    for j in range(1, k + 1):
        risk = sum(w[i] for i in range(w.size) if log.days[i] >= j)
        events = sum(w[i] for i in range(w.size) if log.days[i] == j and log.returned[i])
        if stays > 0:
            stays *= 1 - events / risk
    return 1 - stays


def observed_by_hand(log: RetentionLog, s: int, j: int) -> float:
    """Product-limit chance that a session of stratum ``s`` is observed for ``j`` days."""
    stratum, share = np.zeros(len(log.days), dtype=int) if log.stratum is None else log.stratum, 1.0
    for day in range(j):
        # at the end of the day: not returned by then, observed through it
        mine = [i for i in range(len(log.days)) if stratum[i] == s]
        here = [i for i in mine if log.days[i] > day or (log.days[i] == day and not log.returned[i])]
        if here:
            share *= 1 - sum(1 for i in here if log.days[i] == day and not log.returned[i]) / len(here)
    return share


def ipcw_by_hand(log: RetentionLog, k: int) -> float:
    w = weights_of(log)
    stratum = np.zeros(w.size, dtype=int) if log.stratum is None else log.stratum
    above = below = 0.0
    for i in range(w.size):
        if log.returned[i] and log.days[i] <= k:
            above += w[i] / observed_by_hand(log, stratum[i], log.days[i])
            below += w[i] / observed_by_hand(log, stratum[i], log.days[i])
        elif log.days[i] >= k:
            below += w[i] / observed_by_hand(log, stratum[i], k)
    return above / below


@given(seed=st.integers(0, 200), k=st.integers(1, 8), strata=st.integers(1, 3))
@settings(max_examples=40)
def test_estimators_equal_their_formulas(seed: int, k: int, strata: int) -> None:
    log = random_log(seed, sessions=25, strata=strata)
    assume(log.days.max() >= k)
    w = weights_of(log)
    assert offline_eval.value(KaplanMeier(k).contributions(log)) == pytest.approx(km_by_hand(log, k), abs=1e-10)
    if min(observed_by_hand(log, s, k) for s in range(strata)) > 0:
        assert offline_eval.value(IPCW(k).contributions(log)) == pytest.approx(ipcw_by_hand(log, k), abs=1e-10)
    else:
        with pytest.raises(DataError, match="no session is observed"):
            IPCW(k).contributions(log)
    naive = float((w * (log.returned & (log.days <= k))).sum() / w.sum())
    assert offline_eval.value(NaiveRetention(k).contributions(log)) == pytest.approx(naive, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_unweighted_it_is_the_textbook_curve_with_greenwoods_error(seed: int) -> None:
    log = random_log(seed, weighted=False)
    textbook = SurvfuncRight(log.days + 1e-9 * ~log.returned, log.returned.astype(int))  # a return on a day comes before its end
    for k in (1, 3, 6):
        position = np.flatnonzero(textbook.surv_times <= k)[-1]
        for estimator in (KaplanMeier(k), IPCW(k)):
            found = estimator.contributions(log)
            assert offline_eval.value(found) == pytest.approx(1 - textbook.surv_prob[position], abs=1e-10)
        # the linear part alone is Greenwood's; leverage and G / (G - 1) come on top
        influence = linear_part(KaplanMeier(k), log)
        assert math.sqrt(float((influence**2).sum())) == pytest.approx(textbook.surv_prob_se[position], rel=1e-9)
        np.testing.assert_allclose(linear_part(IPCW(k), log), influence, rtol=0, atol=1e-12)


def linear_part(estimator: Any, log: RetentionLog) -> np.ndarray:
    """Influence of each session, without the division by 1 minus its leverage."""
    seen: list[np.ndarray] = []
    module = offline_eval.retention
    original = module.linearised

    def spy(value: Any, influence: np.ndarray, *rest: Any) -> Any:
        seen.append(influence)
        return original(value, influence, *rest)

    module.linearised = spy
    try:
        estimator.contributions(log)
    finally:
        module.linearised = original
    return seen[0]


@pytest.mark.parametrize("estimator", [KaplanMeier(4), IPCW(4)])
@pytest.mark.parametrize("strata", [1, 2])
def test_standard_error_is_the_delete_one_user_jackknife(estimator: Any, strata: int) -> None:
    log = random_log(3, sessions=400, strata=strata, users=120)
    users = np.unique(log.cluster)

    def without(user: int) -> float:
        keep = log.cluster != user
        names = ("days", "returned", "target_log_prob", "behaviour_log_prob", "cluster", *(("stratum",) if strata > 1 else ()))
        return offline_eval.value(estimator.contributions(replace(log, **{name: getattr(log, name)[keep] for name in names})))

    left_out = np.array([without(user) for user in users])
    jackknife = math.sqrt((users.size - 1) / users.size * float(((left_out - left_out.mean()) ** 2).sum()))
    found = offline_eval.standard_error(estimator.contributions(log))
    assert 0.99 * jackknife < found < 1.08 * jackknife


# A process listed with all its probabilities: two contexts, two actions, hazards by day, observation that stops independently
CONTEXT = np.array([0.5, 0.5])
LOGGER = np.array([[0.25, 0.75], [0.5, 0.5]])
TARGET = np.array([[0.9, 0.1], [0.2, 0.8]])
HAZARD = np.array([[[0.5, 0.25, 0.5, 0.25], [0.25, 0.25, 0.25, 0.5]], [[0.75, 0.5, 0.25, 0.5], [0.25, 0.5, 0.0, 0.25]]])
OBSERVED = np.array([0.125, 0.125, 0.25, 0.0, 0.5])  # P(C = 0), ..., P(C = 3), P(C >= 4)
SURVIVAL = np.cumprod(1 - HAZARD, axis=2)
TRUTH = 1 - np.einsum("x,xa,xak->k", CONTEXT, TARGET, SURVIVAL)
G = 1 - np.concatenate([[0.0], np.cumsum(OBSERVED)[:-1]])  # P(C >= j), j = 0..4


def cells() -> list[tuple[float, int, int, int, int]]:
    """Probability, context, action, day of return (5: later) and days observed."""
    law = np.concatenate([-np.diff(np.concatenate([np.ones((2, 2, 1)), SURVIVAL], axis=2), axis=2), SURVIVAL[:, :, -1:]], axis=2)
    return [
        (float(CONTEXT[x] * LOGGER[x, a] * law[x, a, t] * OBSERVED[c]), x, a, t + 1, c)
        for x, a, t, c in itertools.product(range(2), range(2), range(5), range(5))
    ]


def exhaustive(hazard: np.ndarray = HAZARD, logger: np.ndarray = LOGGER) -> RetentionLog:
    """A log that holds every cell in its exact proportion, with predictions from ``hazard``."""
    counts = [round(p * 2 * 4 * 4**4 * 8) for p, *_ in cells()]
    np.testing.assert_allclose(counts, [p * 2 * 4 * 4**4 * 8 for p, *_ in cells()], atol=1e-9)
    x, a, t, c = (np.repeat([cell[k] for cell in cells()], counts) for k in (1, 2, 3, 4))
    returned = t <= c
    survival = np.cumprod(1 - hazard, axis=2)
    return RetentionLog(
        np.where(returned, t, c),
        returned,
        np.log(TARGET[x, a]),
        np.log(logger[x, a]),
        np.arange(x.size),
        logged_hazard=hazard[x, a],
        target_survival=np.einsum("na,nak->nk", TARGET[x], survival[x]),
    )


@pytest.mark.parametrize("kind", [IPCW, KaplanMeier, SurvivalDR])
def test_exact_on_an_exhaustive_log_for_every_day(kind: Any) -> None:
    rng = np.random.default_rng(0)
    log = exhaustive(hazard=rng.uniform(0.1, 0.9, HAZARD.shape))
    found = [offline_eval.value(kind(day).contributions(log)) for day in range(1, K + 1)]
    np.testing.assert_allclose(found, TRUTH, rtol=0, atol=1e-10)


def test_dr_needs_right_predictions_or_right_weights_not_both() -> None:
    wrong = np.array([[0.5, 0.5], [0.8, 0.2]])
    for day in range(1, K + 1):
        assert offline_eval.value(SurvivalDR(day).contributions(exhaustive(logger=wrong))) == pytest.approx(TRUTH[day - 1], abs=1e-10)
    assert abs(offline_eval.value(KaplanMeier(2).contributions(exhaustive(logger=wrong))) - TRUTH[1]) > 0.01


def test_the_naive_share_falls_short_by_what_was_not_observed() -> None:
    """It misses each return on day t with probability P(C < t): the bias in closed form."""
    lost = np.cumsum(np.diff(np.concatenate([[0.0], TRUTH])) * (1 - G[1:]))
    assert lost[-1] > 0.19
    for day in range(1, K + 1):
        found = offline_eval.value(NaiveRetention(day).contributions(exhaustive()))
        assert found == pytest.approx(TRUTH[day - 1] - lost[day - 1], abs=1e-10)


def test_strata_mend_censoring_that_goes_with_the_return() -> None:
    """Two groups in proportion: fast returners observed for 1 or 4 days, slow ones for 4. Without strata the curve is wrong."""
    rows = []
    for group, (daily, short) in enumerate([(0.5, 0.5), (0.25, 0.0)]):
        law = [daily * (1 - daily) ** j for j in range(4)] + [(1 - daily) ** 4]
        for t, c in itertools.product(range(5), (1, 4)):
            count = round(law[t] * (short if c == 1 else 1 - short) * 2 * 4**4)
            rows += [(group, t + 1, c)] * count
    group, t, c = np.array(rows).T
    returned = t <= c
    log = log_of(np.where(returned, t, c), returned)
    truth = 1 - 0.5 * (0.5**4 + 0.75**4)
    assert offline_eval.value(IPCW(4).contributions(replace(log, stratum=group))) == pytest.approx(truth, abs=1e-10)
    assert abs(offline_eval.value(IPCW(4).contributions(log)) - truth) > 0.02


def test_predicted_hazards_with_one_column_a_cell_are_the_observed_shares() -> None:
    log = exhaustive()
    keep = np.arange(log.days.size) % 4 == 0
    log = replace(log, **{f: getattr(log, f)[keep] for f in ("days", "returned", "target_log_prob", "behaviour_log_prob", "cluster")})
    log = replace(log, logged_hazard=None, target_survival=None)
    ratio = np.round(np.exp(log.target_log_prob - log.behaviour_log_prob), 6)
    cell = np.unique(ratio, return_inverse=True)[1]
    context, action = np.array([0, 1, 1, 0])[cell], np.array([1, 0, 1, 0])[cell]
    assert np.allclose(TARGET[context, action] / LOGGER[context, action], ratio, atol=1e-5)
    eye = np.eye(4)
    listed = np.stack([eye[context * 2], eye[context * 2 + 1]], axis=1)
    free = LogisticRegression(C=1e6, max_iter=2000)
    fitted = cross_fit_hazards(log, eye[context * 2 + action], lambda rows: (listed[rows], TARGET[context[rows]]), K, model=free, folds=2)
    assert fitted.logged_hazard.shape == (log.days.size, K)
    assert np.abs(fitted.logged_hazard - HAZARD[context, action]).mean() < 0.15  # cells and days add up in logits, without interactions
    for day in (1, 4):
        found = offline_eval.estimate(fitted, SurvivalDR(day))
        assert abs(found.value - TRUTH[day - 1]) < 5 * found.interval.standard_error


@pytest.mark.parametrize("model", ["lightgbm", "logistic"])
def test_hazards_of_a_user_are_never_learnt_from_it(model: str) -> None:
    log = random_log(1, sessions=80, users=10)
    x = np.random.default_rng(0).normal(size=(80, 2))
    same = lambda rows: (x[rows][:, None], np.ones((rows.size, 1)))  # noqa: E731
    first = cross_fit_hazards(log, x, same, K, model=model, folds=3)
    mine = log.cluster == log.cluster[0]
    other = cross_fit_hazards(
        replace(log, days=np.where(mine, 1, log.days), returned=log.returned | mine), x, same, K, model=model, folds=3
    )
    np.testing.assert_array_equal(other.logged_hazard[mine], first.logged_hazard[mine])
    np.testing.assert_allclose(first.target_survival, np.cumprod(1 - first.logged_hazard, axis=1), atol=1e-12)
    with pytest.raises(ConfigError, match="unknown model 'magic'"):
        cross_fit_hazards(log, x, same, K, model="magic")


def test_degenerate_logs_are_defined() -> None:
    everybody = log_of([1, 1, 2], [True, True, True])
    for name, estimator in REGISTRY.items():
        if name != "survival_dr":
            found = offline_eval.interval(replace_day(estimator, 3).contributions(everybody))
            assert (found.value, found.standard_error) == (1.0, 0.0), name
    nobody = log_of([9, 9, 9], [False, False, False])
    for name in ("naive_retention", "ipcw", "kaplan_meier"):
        assert offline_eval.value(replace_day(REGISTRY[name], 3).contributions(nobody)) == 0.0
    single = KaplanMeier(1).contributions(log_of([1], [True]))
    assert offline_eval.value(single) == 1.0
    assert math.isinf(offline_eval.standard_error(single))
    alone = KaplanMeier(3).contributions(log_of([5, 1, 1, 1], [False, False, False, False]))
    assert math.isinf(offline_eval.standard_error(alone))
    curve = retention_curve(everybody, KaplanMeier, [1, 2], level=0.9)
    assert [round(point.value, 6) for point in curve] == [0.666667, 1.0]
    assert {point.level for point in curve} == {0.9}


def replace_day(estimator: Any, day: int) -> Any:
    return replace(estimator, day=day)


def test_sessions_of_a_log_with_their_whole_log_probabilities() -> None:
    """Two users: one with sessions on days 0, 0 and 3, one with a single session on day 1; the log ends on day 3."""
    hour, day = 3_600_000, 86_400_000
    times = np.array([0, 1, 5 * hour, 3 * day, day])
    columns = {"user": np.array([0, 0, 0, 0, 1], dtype=np.int32), "item": np.zeros(5, dtype=np.int32), "timestamp_ms": times}
    cut = sessions(Log.from_arrays(columns, n_users=2, n_items=1))
    log = RetentionLog.from_sessions(cut, np.log([0.5, 0.5, 0.2, 0.1, 0.3]), np.log([0.25, 0.5, 0.4, 0.1, 0.1]))
    assert log.days.tolist() == [1, 3, 0, 2]
    assert log.returned.tolist() == [True, True, False, False]
    assert log.cluster.tolist() == [0, 0, 0, 1]
    np.testing.assert_allclose(weights_of(log), [2.0, 0.5, 1.0, 3.0])
    assert 0.0 < offline_eval.value(KaplanMeier(2).contributions(log)) < 1.0


BAD: list[tuple[RetentionLog, int, type[Exception], str]] = [
    (log_of([1, 2], [True, False]), 0, ConfigError, "day is 0"),
    (log_of([0, 2], [True, False]), 1, DataError, "days is 0.0 in row 0"),
    (log_of([1.5, 2], [True, False]), 1, DataError, "days is 1.5 in row 0"),
    (log_of([np.nan, 2], [True, False]), 1, DataError, "days is nan in row 0"),
    (log_of([-1, 2], [False, False]), 1, DataError, "days is -1.0 in row 0"),
    (log_of([1, 2], [True]), 1, DataError, "returned holds 1 values for 2 rows"),
    (log_of([1, 2], [True, False], w=0.0), 1, DataError, "every importance weight is zero"),
    (log_of([1, 2], [True, False], cluster=np.array([0.0, 1.0])), 1, DataError, "clusters are float64, not integers"),
    (log_of([], []), 1, DataError, "there are no sessions to evaluate"),
]


@pytest.mark.parametrize("name", sorted(REGISTRY))
@pytest.mark.parametrize(("log", "day", "kind", "what"), BAD, ids=[what for *_, what in BAD])
def test_bad_sessions_are_refused(name: str, log: RetentionLog, day: int, kind: type[Exception], what: str) -> None:
    with pytest.raises(kind, match=re.escape(what)):
        replace_day(REGISTRY[name], day).contributions(log)


def test_days_that_the_log_does_not_reach_are_refused() -> None:
    short = log_of([2, 3, 1], [False, False, True])
    with pytest.raises(DataError, match="no session is at risk on day 4"):
        KaplanMeier(4).contributions(short)
    with pytest.raises(DataError, match="no session is observed on day 4"):
        IPCW(4).contributions(log_of([2, 3], [False, False]))
    with pytest.raises(DataError, match="survival_dr needs predicted curves"):
        SurvivalDR(2).contributions(short)
    few = replace(short, logged_hazard=np.full((3, 1), 0.5), target_survival=np.full((3, 1), 0.5))
    with pytest.raises(DataError, match=re.escape("logged_hazard has shape (3, 1) for 3 sessions and day 2")):
        SurvivalDR(2).contributions(few)
    with pytest.raises(DataError, match=re.escape("target_survival is 1.5 in row 0")):
        SurvivalDR(1).contributions(replace(few, target_survival=np.full((3, 1), 1.5)))
