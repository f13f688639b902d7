"""The truth harness itself: values by linear algebra against listed paths and against logs, scores against a hand-made estimator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import offline_eval
from offline_eval.scoring import score
from offline_eval.truth import Bandit, RetentionProcess, softmax_policy
from recrl.core.contracts import Contributions, LoggedFeedback
from recrl.core.errors import ConfigError
from recrl.core.objective import Signal

SIGNAL = Signal("reward", discount_within=0.9, discount_across=0.6)


def tiny(seed: int = 3) -> RetentionProcess:
    return RetentionProcess.random(seed, states=2, actions=2, days=2)


def test_value_by_backward_induction_is_the_sum_over_all_paths() -> None:
    process, policy = tiny(), softmax_policy(1, 2, 2)
    total = worth = 0.0
    for chance, log in process.paths(policy, 3):
        feedback = log.feedback(policy, SIGNAL)
        total += chance
        worth += chance * offline_eval.value(offline_eval.MeanReturn().contributions(feedback))
    assert total == pytest.approx(1.0, abs=1e-12)
    assert worth == pytest.approx(process.value(policy, SIGNAL, horizon=3), abs=1e-12)


@pytest.mark.parametrize("name", ["tis", "pdis", "seq_dr"])
def test_sequential_estimators_are_unbiased_on_every_path_of_the_process(name: str) -> None:
    process, logger, target = tiny(), softmax_policy(1, 2, 2), softmax_policy(2, 2, 2)
    table = np.random.default_rng(0).normal(size=(2, 2))
    found = 0.0
    for chance, log in process.paths(logger, 3):
        found += chance * offline_eval.value(offline_eval.REGISTRY[name].contributions(log.predicted(target, SIGNAL, table)))
    assert found == pytest.approx(process.value(target, SIGNAL, horizon=3), abs=1e-10)


def test_long_horizons_approach_the_endless_one() -> None:
    process, policy = RetentionProcess.random(0), softmax_policy(1, 3, 3)
    q, v = process.values(policy, SIGNAL)
    np.testing.assert_allclose(q, process.values(policy, SIGNAL, horizon=400)[0], rtol=1e-10)
    np.testing.assert_allclose(v, (policy * q).sum(axis=1), rtol=1e-12)
    faithful = replace(process, hazard=np.ones_like(process.hazard))
    with pytest.raises(ConfigError, match="the value of users who never leave is infinite"):
        faithful.value(policy, Signal("reward", discount_within=1.0, discount_across=1.0))


def test_logs_follow_the_process() -> None:
    """40,000 users on policy: every mean within 5 standard errors of the truth; false alarm below 1e-5."""
    process, policy = RetentionProcess.random(0), softmax_policy(1, 3, 3)
    log = process.draw(policy, users=40_000, horizon=8, seed=5)
    feedback = log.feedback(policy, SIGNAL)
    found = offline_eval.estimate(feedback, offline_eval.MeanReturn())
    assert abs(found.value - process.value(policy, SIGNAL, horizon=8)) < 5 * found.interval.standard_error
    assert log.users.lengths.max() == 8
    assert np.all(log.left[log.users.values[1:][log.users.lengths < 8] - 1])
    assert np.all((log.gap_days > 0) == log.session_end)
    assert np.all(log.session_end[log.left])
    long = process.draw(policy, users=20_000, horizon=40, seed=6)
    sessions = long.first_sessions(policy, np.full(20_000, 99))
    truth = process.retention(policy)
    for day in (1, 3, 7):
        share = float((sessions.returned & (sessions.days <= day)).mean())
        assert share == pytest.approx(truth[day - 1], abs=5 * 0.5 / np.sqrt(20_000))
    # sessions are cut at their end: their log-probabilities are sums over their rows alone
    first = slice(*long.users.values[:2].tolist())
    end = first.start + int(np.argmax(long.session_end[first])) + 1
    rows = slice(first.start, end)
    assert sessions.behaviour_log_prob[0] == pytest.approx(np.log(policy[long.state[rows], long.action[rows]]).sum())


def test_bandit_logs_follow_the_bandit_and_depend_within_users() -> None:
    """20,000 users on policy: within 5 clustered standard errors; rows of one user agree more than chance."""
    world = Bandit.random(2)
    logger, target = softmax_policy(1, 4, 5), softmax_policy(2, 4, 5)
    log = world.draw(logger, users=20_000, rows=5, seed=9)
    for policy, estimator in ((logger, offline_eval.Mean()), (target, offline_eval.IPS())):
        found = offline_eval.estimate(log.feedback(policy), estimator)
        assert abs(found.value - world.value(policy)) < 5 * found.interval.standard_error
    as_rows = replace(log.feedback(logger), cluster=np.arange(log.user.size))
    by_user, by_row = (offline_eval.standard_error(offline_eval.Mean().contributions(x)) for x in (log.feedback(logger), as_rows))
    assert by_user > 1.1 * by_row
    again = world.draw(logger, users=20_000, rows=5, seed=9)
    np.testing.assert_array_equal(again.reward, log.reward)


def test_table_models_recover_the_bandit() -> None:
    world = Bandit.random(2)
    logger, target = softmax_policy(1, 4, 5, 0.5), softmax_policy(2, 4, 5)
    log = world.draw(logger, users=4000, rows=5, seed=1)
    fitted = offline_eval.cross_fit(log.feedback(target), *log.features(target), model="ridge")
    assert offline_eval.value(offline_eval.DM().contributions(fitted)) == pytest.approx(world.value(target), abs=0.03)


class Off:
    """Says the truth plus one tenth; undefined on every fourth log."""

    name = "off"

    def contributions(self, log: LoggedFeedback) -> Contributions:
        ones = np.ones((1, 4))
        return Contributions(0.6 * ones + np.array([[-0.1, 0.1, -0.1, 0.1]]), ones * (log.reward[0] % 4 != 3), np.arange(4), ones[0])


def test_scores_by_hand() -> None:
    def draw(number: int) -> Any:
        return LoggedFeedback(np.array([float(number)]), np.zeros(1), np.zeros(1), np.zeros(1, dtype=int))

    exact, wide = score(draw, 0.5, [Off()], ["delta", "hoeffding"], replications=8)
    assert (exact.estimator, exact.method, exact.undefined, exact.replications) == ("off", "delta", 2, 8)
    assert (exact.bias, exact.rmse) == pytest.approx((0.1, 0.1))
    assert exact.bias_error == pytest.approx(0.0, abs=1e-12)
    # t with 3 degrees: 3.18 * .0577 = .18 > .1, so each defined one holds the truth
    assert (exact.coverage, exact.width) == pytest.approx((0.75, 2 * 3.182446 * 0.2 / np.sqrt(12)), rel=1e-5)
    assert wide.method == "hoeffding"
