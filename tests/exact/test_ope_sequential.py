"""Sequential estimators against loops written from the formulas, and against the exact value of a small decision process."""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import offline_eval
from offline_eval import sequential
from offline_eval.trajectories import running_sum, step_discounts, trajectories
from recrl.core.contracts import LoggedFeedback
from recrl.core.errors import DataError
from recrl.core.objective import Signal
from recrl.core.ragged import Offsets

NAMES = sorted(sequential.REGISTRY)
VALUES = st.floats(-5, 5, allow_nan=False, width=32)


@st.composite
def logs(draw: st.DrawFn) -> LoggedFeedback:
    """Up to five trajectories of up to four rows, some of them empty; the first row's action is always possible."""
    lengths = [draw(st.integers(1, 4)), *draw(st.lists(st.integers(0, 4), max_size=4))]
    n = sum(lengths)

    def column(values: st.SearchStrategy[float], size: int = n) -> np.ndarray:
        return np.array(draw(st.lists(values, min_size=size, max_size=size)), dtype=np.float64)

    target = column(st.one_of(st.floats(-3, 0), st.just(-math.inf)))
    target[: lengths[0]] = -0.5  # one trajectory that the target may follow, so that every step has weight
    owner = column(st.integers(0, 2), len(lengths)).astype(np.int64)
    longest = int(np.argmax(lengths))
    target[sum(lengths[:longest]) : sum(lengths[: longest + 1])] = -1.0
    return LoggedFeedback(
        reward=column(VALUES),
        target_log_prob=target,
        behaviour_log_prob=column(st.floats(-3, 0)),
        cluster=np.repeat(owner, lengths),
        target_value=column(VALUES),
        logged_value=column(VALUES),
        trajectory=Offsets.from_lengths(lengths),
        discount=column(st.one_of(st.floats(0, 1), st.just(0.0))),
        final_value=column(VALUES, len(lengths)),
    )


def by_hand(name: str, log: LoggedFeedback, cap: float = 10.0) -> float:
    """The formulas of the docstrings, one step at a time."""
    paths = []
    for k in range(log.trajectory.count):
        part = log.trajectory[k]
        rows = range(part.start, part.stop)
        ratio, present, steps = 1.0, 1.0, []
        for i in rows:
            ratio *= math.exp(log.target_log_prob[i]) / math.exp(log.behaviour_log_prob[i])
            following = log.target_value[i + 1] if i + 1 < part.stop else log.final_value[k]
            error = log.reward[i] + log.discount[i] * following - log.logged_value[i]
            steps.append((ratio, present * log.reward[i], present * error))
            present *= log.discount[i]
        if steps:
            paths.append((log.target_value[part.start], steps))
    count, horizon = len(paths), max(len(steps) for _, steps in paths)
    returns = [math.fsum(r for _, r, _ in steps) for _, steps in paths]
    final = [steps[-1][0] for _, steps in paths]
    first = sum(v for v, _ in paths) / count
    stepwise = {1: 0.0, 2: 0.0}
    for t in range(horizon):
        held = sum(steps[min(t, len(steps) - 1)][0] for _, steps in paths)
        for what in stepwise:
            stepwise[what] += sum(steps[t][0] * steps[t][what] for _, steps in paths if t < len(steps)) / held
    capped = [min(w, cap) for w in final]
    return {
        "mean_return": sum(returns) / count,
        "tis": sum(w * r for w, r in zip(final, returns, strict=True)) / count,
        "wis": sum(w * r for w, r in zip(final, returns, strict=True)) / sum(final),
        "capped_wis": sum(w * r for w, r in zip(capped, returns, strict=True)) / sum(capped),
        "pdis": sum(w * r for _, steps in paths for w, r, _ in steps) / count,
        "wpdis": stepwise[1],
        "seq_dm": first,
        "seq_dr": first + sum(w * e for _, steps in paths for w, _, e in steps) / count,
        "seq_wdr": first + stepwise[2],
    }[name]


@pytest.mark.parametrize("name", NAMES)
@given(log=logs())
@settings(max_examples=25)
def test_every_estimator_equals_its_formula(name: str, log: LoggedFeedback) -> None:
    found = offline_eval.value(sequential.REGISTRY[name].contributions(log))
    expected = by_hand(name, log)
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-10 * max(1.0, math.exp(12)) if abs(expected) > 1e6 else 1e-9)


@pytest.mark.parametrize(
    ("name", "single"),
    [
        ("mean_return", "mean"),
        ("tis", "ips"),
        ("pdis", "ips"),
        ("wis", "snips"),
        ("wpdis", "snips"),
        ("capped_wis", "ncis"),
        ("seq_dm", "dm"),
        ("seq_dr", "dr"),
        ("seq_wdr", "sndr"),
    ],
)
def test_on_trajectories_of_one_row_each_is_its_single_row_sibling(name: str, single: str) -> None:
    rng = np.random.default_rng(3)
    n = 300
    log = LoggedFeedback(
        *(rng.normal(size=n), rng.normal(-1, 0.5, n), rng.normal(-1, 0.5, n), rng.integers(0, 40, n)),
        *(rng.normal(size=n), rng.normal(size=n), Offsets.from_lengths(np.ones(n, dtype=int))),
    )
    sequence, row = (offline_eval.REGISTRY[x].contributions(log) for x in (name, single))
    assert offline_eval.value(sequence) == pytest.approx(offline_eval.value(row), rel=1e-12)
    np.testing.assert_allclose(sequence.weights, row.weights, rtol=1e-12)
    exact = name not in ("wpdis", "seq_wdr")  # these linearise; the difference is of second order
    assert offline_eval.standard_error(sequence) == pytest.approx(offline_eval.standard_error(row), rel=1e-9 if exact else 0.05)


# A process small enough to list: two states, two actions, at most three steps, a chance to leave after each. All probabilities are
# multiples of 1/4, so that a log of 16 ** 3 trajectories holds each in its exact proportion.
START = np.array([0.5, 0.5])
LOGGER = np.array([[0.25, 0.75], [0.5, 0.5]])
TARGET = np.array([[0.8, 0.2], [0.35, 0.65]])
LEAVE = np.array([[0.0, 0.5], [0.5, 0.0]])  # by state and action
MOVE = np.array([[0.5, 0.5], [0.0, 1.0]])  # chance of state 1 next, by state and action
REWARD = np.array([[1.0, 0.2], [-0.5, 2.0]])
WITHIN, HORIZON = 0.9, 3


@dataclass(frozen=True)
class Path:
    """One trajectory with its probability under the logger."""

    chance: float
    steps: tuple[tuple[int, int], ...]
    left: bool


def paths() -> Iterator[Path]:
    """Every trajectory that can be logged."""

    def grow(chance: float, steps: tuple[tuple[int, int], ...], state: int) -> Iterator[Path]:
        for action in range(2):
            here, p = (*steps, (state, action)), chance * LOGGER[state, action]
            leave = LEAVE[state, action]
            if len(here) == HORIZON:
                yield Path(p, here, False)
                continue
            if leave:
                yield Path(p * leave, here, True)
            for following, q in enumerate((1 - MOVE[state, action], MOVE[state, action])):
                if q * (1 - leave):
                    yield from grow(p * (1 - leave) * q, here, following)

    for state in range(2):
        yield from grow(START[state], (), state)


def exact_values() -> tuple[np.ndarray, np.ndarray]:
    """Action values (HORIZON, 2, 2) and state values (HORIZON + 1, 2) of the target policy by backward induction."""
    q, v = np.zeros((HORIZON, 2, 2)), np.zeros((HORIZON + 1, 2))
    for t in reversed(range(HORIZON)):
        following = (1 - MOVE) * v[t + 1, 0] + MOVE * v[t + 1, 1]
        q[t] = REWARD + WITHIN * (1 - LEAVE) * following
        v[t] = (TARGET * q[t]).sum(axis=1)
    return q, v


Q, V = exact_values()
TRUTH = float(START @ V[0])
WRONG_Q = Q + np.random.default_rng(8).normal(size=Q.shape)


def logged(chosen: list[Path], q: np.ndarray, logger: np.ndarray = LOGGER) -> LoggedFeedback:
    """The feedback of these trajectories, one user each, with predictions from ``q``."""
    state, action = (np.array([step[k] for path in chosen for step in path.steps]) for k in range(2))
    lengths = [len(path.steps) for path in chosen]
    offsets = Offsets.from_lengths(lengths)
    t = offsets.positions()
    return LoggedFeedback(
        REWARD[state, action],
        np.log(TARGET[state, action]),
        np.log(logger[state, action]),
        np.repeat(np.arange(len(chosen)), lengths),
        (TARGET[state] * q[t, state]).sum(axis=1),
        q[t, state, action],
        offsets,
        np.full(len(state), WITHIN),
    )


def expectation(name: str, q: np.ndarray, logger: np.ndarray = LOGGER) -> float:
    return sum(p.chance * offline_eval.value(sequential.REGISTRY[name].contributions(logged([p], q, logger))) for p in paths())


def test_the_listed_paths_are_all_paths() -> None:
    assert sum(p.chance for p in paths()) == pytest.approx(1.0, abs=1e-15)
    assert {len(p.steps) for p in paths()} == {1, 2, 3}


@pytest.mark.parametrize("name", ["tis", "pdis", "seq_dr"])
def test_unbiased_over_every_possible_trajectory(name: str) -> None:
    assert expectation(name, WRONG_Q) == pytest.approx(TRUTH, abs=1e-12)


def test_dr_is_unbiased_with_right_predictions_whatever_the_propensities() -> None:
    wrong = np.array([[0.6, 0.4], [0.1, 0.9]])
    assert expectation("seq_dr", Q, wrong) == pytest.approx(TRUTH, abs=1e-12)
    assert expectation("seq_dm", Q, wrong) == pytest.approx(TRUTH, abs=1e-12)
    assert abs(expectation("pdis", Q, wrong) - TRUTH) > 0.1


def exhaustive() -> list[Path]:
    """A log that holds each trajectory in its exact proportion."""
    found = [path for p in paths() for path in itertools.repeat(p, round(p.chance * 2 * 16**3))]
    assert len(found) == 2 * 16**3
    return found


@pytest.mark.parametrize("name", ["tis", "wis", "pdis", "wpdis", "seq_dr", "seq_wdr"])
def test_consistent_estimators_are_exact_on_an_exhaustive_log(name: str) -> None:
    log = logged(exhaustive(), WRONG_Q)
    assert offline_eval.value(sequential.REGISTRY[name].contributions(log)) == pytest.approx(TRUTH, abs=1e-10)


def test_normalising_over_the_living_alone_would_be_wrong() -> None:
    """Why finished trajectories keep their weight: on the same exhaustive log the other rule misses by far more than rounding."""
    log = logged(exhaustive(), Q)
    found = trajectories(log)
    ratio = found.ratio()
    living = sum(
        float((ratio * found.present * log.reward)[found.position == t].sum() / ratio[found.position == t].sum()) for t in range(HORIZON)
    )
    assert abs(living - TRUTH) > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_policy_equal_to_the_logger_gives_unit_weights_and_the_mean_return(name: str) -> None:
    log = logged([p for p in paths() if p.chance > 0.01], WRONG_Q)
    prediction = np.random.default_rng(0).normal(size=log.reward.size)
    same = replace(log, target_log_prob=log.behaviour_log_prob, target_value=prediction, logged_value=prediction)
    contributions = sequential.REGISTRY[name].contributions(same)
    np.testing.assert_allclose(contributions.weights, 1.0, rtol=0, atol=1e-14)
    if name != "seq_dm":  # v = q: the predictions cancel along a trajectory
        assert offline_eval.value(contributions) == pytest.approx(
            by_hand("mean_return", replace(same, final_value=np.zeros(99))), rel=1e-12
        )


def test_a_record_that_is_cut_off_continues_with_its_final_value() -> None:
    """The listed process cut after two steps, its third predicted exactly: DR is still unbiased for three."""
    total = 0.0
    for p in paths():
        log = logged([p], WRONG_Q)
        if len(p.steps) == HORIZON:
            state = p.steps[-1][0]
            keep = slice(0, HORIZON - 1)
            log = LoggedFeedback(
                *(getattr(log, f)[keep] for f in ("reward", "target_log_prob", "behaviour_log_prob", "cluster")),
                *(log.target_value[keep], log.logged_value[keep], Offsets.from_lengths([HORIZON - 1]), log.discount[keep]),
                final_value=V[HORIZON - 1, state : state + 1],
            )
            # the logger's last action is drawn and then not seen
            total += p.chance * offline_eval.value(sequential.SequentialDR().contributions(log))
        else:
            total += p.chance * offline_eval.value(sequential.SequentialDR().contributions(log))
    assert total == pytest.approx(TRUTH, abs=1e-12)


def random_log(trajectories_of_user: int, users: int = 150, seed: int = 0, spread: float = 0.3) -> LoggedFeedback:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 8, users * trajectories_of_user)
    n = int(lengths.sum())
    return LoggedFeedback(
        *(rng.normal(1.0, 1.0, n), rng.normal(-(spread**2) / 2, spread, n), np.zeros(n)),
        np.repeat(np.repeat(np.arange(users), trajectories_of_user), lengths),
        *(rng.normal(size=n), rng.normal(size=n), Offsets.from_lengths(lengths), np.full(n, 0.95)),
    )


def without(log: LoggedFeedback, user: int) -> LoggedFeedback:
    keep = log.cluster != user
    kept = np.array([k for k in range(log.trajectory.count) if log.cluster[log.trajectory.values[k]] != user])
    columns = ("reward", "target_log_prob", "behaviour_log_prob", "cluster", "target_value", "logged_value", "discount")
    changes: dict[str, Any] = {name: getattr(log, name)[keep] for name in columns}
    return replace(log, **changes, trajectory=Offsets.from_lengths(log.trajectory.lengths[kept]))


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("name", ["wpdis", "seq_wdr"])
def test_linearised_standard_error_is_the_delete_one_user_jackknife_and_a_little_more(name: str, each: int) -> None:
    log = random_log(each)
    estimator = sequential.REGISTRY[name]
    left_out = np.array([offline_eval.value(estimator.contributions(without(log, user))) for user in range(150)])
    jackknife = math.sqrt(149 / 150 * float(((left_out - left_out.mean()) ** 2).sum()))
    found = offline_eval.standard_error(estimator.contributions(log))
    assert jackknife * 0.999 < found < jackknife * 1.1


def fixed_length(users: int, length: int) -> LoggedFeedback:
    rng = np.random.default_rng(2)
    n = users * length
    columns = (rng.normal(size=n), np.zeros(n), np.zeros(n), np.repeat(np.arange(users), length), rng.normal(size=n), rng.normal(size=n))
    return LoggedFeedback(*columns, Offsets.from_lengths(np.full(users, length)))


@pytest.mark.parametrize("name", ["wis", "wpdis", "seq_wdr"])
def test_a_user_who_carries_all_weight_at_a_step_leaves_the_value_uncertain(name: str) -> None:
    log = fixed_length(users=20, length=4)
    followed = (log.cluster == 7) | (trajectories(log).position < 2)
    contributions = sequential.REGISTRY[name].contributions(replace(log, target_log_prob=np.where(followed, 0.0, -np.inf)))
    assert math.isfinite(offline_eval.value(contributions))
    assert math.isinf(offline_eval.standard_error(contributions))


@pytest.mark.parametrize("name", ["wis", "wpdis", "seq_wdr", "capped_wis"])
def test_a_step_without_any_weight_is_undefined(name: str) -> None:
    log = fixed_length(users=20, length=4)
    nowhere = replace(log, target_log_prob=np.where(trajectories(log).position == 0, -np.inf, 0.0))
    with pytest.raises(DataError, match="every importance weight is zero"):
        offline_eval.value(sequential.REGISTRY[name].contributions(nowhere))
    assert offline_eval.value(sequential.PDIS().contributions(nowhere)) == 0.0


def test_trajectories_without_rows_are_dropped_and_single_rows_are_fine() -> None:
    log = LoggedFeedback(
        np.array([2.0]), np.array([0.0]), np.array([math.log(0.5)]), np.array([4]), trajectory=Offsets.from_lengths([0, 1, 0])
    )
    found = sequential.PDIS().contributions(log)
    assert (offline_eval.value(found), found.cluster.tolist(), found.weights.tolist()) == (4.0, [4], [pytest.approx(2.0)])


def test_running_sums_keep_their_digits_over_many_trajectories() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 60, 20_000)
    values = rng.normal(-3, 1, int(lengths.sum()))
    offsets = Offsets.from_lengths(lengths)
    found = running_sum(values, offsets.values[:-1])
    for k in (0, 1, 9_999, 19_999):
        np.testing.assert_allclose(found[offsets[k]], np.cumsum(values[offsets[k]]), rtol=0, atol=1e-11)
    values[offsets[5].start + 0] = -np.inf
    values[offsets[9_999].stop - 1] = -np.inf
    again = running_sum(values, offsets.values[:-1])
    assert np.all(np.isneginf(again[offsets[5]]))
    assert np.isneginf(again).sum() == lengths[5] + 1
    np.testing.assert_allclose(again[offsets[19_999]], np.cumsum(values[offsets[19_999]]), rtol=0, atol=1e-11)


def test_discounts_follow_the_objective_within_and_across_sessions() -> None:
    signal = Signal("long_view", discount_within=0.5, discount_across=0.1)
    ends = [False, True, False, True]
    log = LoggedFeedback(
        np.array([1.0, 1.0, 1.0, 1.0]),
        *(np.zeros(4), np.zeros(4), np.zeros(4, dtype=int)),
        trajectory=Offsets.from_lengths([4]),
        discount=step_discounts(signal, ends),
    )
    assert offline_eval.value(sequential.PDIS().contributions(log)) == pytest.approx(1 + 0.5 + 0.05 + 0.025, rel=1e-14)
    rule = step_discounts(Signal("return", discount_within=1.0, discount_across=0.0), ends)
    assert offline_eval.value(sequential.PDIS().contributions(replace(log, discount=rule))) == 2.0
    assert offline_eval.value(sequential.PDIS().contributions(replace(log, discount=None))) == 4.0


def test_long_trajectories_agree_with_a_loop() -> None:
    rng = np.random.default_rng(1)
    lengths = [400, 3, 250]
    n = sum(lengths)
    log = LoggedFeedback(
        *(rng.normal(size=n), rng.normal(-0.005, 0.1, n), np.zeros(n), np.repeat([0, 1, 2], lengths)),
        *(rng.normal(size=n), rng.normal(size=n), Offsets.from_lengths(lengths), rng.uniform(0.9, 1.0, n), np.zeros(3)),
    )
    for name in NAMES:
        assert offline_eval.value(sequential.REGISTRY[name].contributions(log)) == pytest.approx(by_hand(name, log), rel=1e-10), name


def test_segments_beat_a_loop() -> None:
    """About five times; twice leaves room for a busy machine. Core time of this process, least of several runs."""
    log = random_log(4, users=2500)
    columns = [x.tolist() for x in (log.target_log_prob, log.behaviour_log_prob, log.reward, log.discount, log.trajectory.values)]

    def loop() -> float:
        target, behaviour, reward, discount, starts = columns
        total = 0.0
        for k in range(len(starts) - 1):
            weight, present = 0.0, 1.0
            for i in range(starts[k], starts[k + 1]):
                weight += target[i] - behaviour[i]
                total += math.exp(weight) * present * reward[i]
                present *= discount[i]
        return total / (len(starts) - 1)

    def cost(work: Any) -> float:
        took = []
        for _ in range(5):
            started = time.process_time()
            work()
            took.append(time.process_time() - started)
        return min(took)

    assert offline_eval.value(sequential.PDIS().contributions(log)) == pytest.approx(loop(), rel=1e-10)
    assert cost(loop) > 2 * cost(lambda: sequential.PDIS().contributions(log))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"trajectory": None}, "the log names no trajectories"),
    ({"trajectory": Offsets.from_lengths([2])}, "trajectories cover 2 of 3 rows"),
    ({"cluster": np.array([0, 1, 1])}, "users 0 and 1 share a trajectory"),
    ({"final_value": np.zeros(3)}, "final_value holds 3 values for 2 trajectories"),
    ({"final_value": np.array([0.0, np.nan])}, "final_value is nan in row 1"),
    ({"discount": np.array([0.9, 1.1, 0.9])}, "discount is 1.1 in row 1"),
    ({"discount": np.array([0.9, 0.9])}, "discount holds 2 values for 3 rows"),
    ({"reward": np.array([0.9, np.nan, 0.0])}, "reward is nan in row 1"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("changes", "what"), BAD, ids=[what for _, what in BAD])
def test_bad_sequences_are_refused_by_every_estimator(name: str, changes: dict[str, Any], what: str) -> None:
    columns: dict[str, Any] = {
        "reward": np.ones(3),
        "target_log_prob": np.zeros(3),
        "behaviour_log_prob": np.zeros(3),
        "cluster": np.array([0, 0, 1]),
        "target_value": np.ones(3),
        "logged_value": np.ones(3),
        "trajectory": Offsets.from_lengths([2, 1]),
    }
    with pytest.raises(DataError, match=re.escape(what)) as caught:
        sequential.REGISTRY[name].contributions(LoggedFeedback(**(columns | changes)))
    assert caught.value.mend


def test_a_meaningless_trajectory_weight_is_refused_unless_capped() -> None:
    log = LoggedFeedback(np.ones(3), np.full(3, 200.0), np.zeros(3), np.zeros(3, dtype=int), trajectory=Offsets.from_lengths([3]))
    with pytest.raises(DataError, match=re.escape("log of the trajectory's weight is 400.0 in row 1 (2 such rows)")):
        sequential.WIS().contributions(log)
    assert offline_eval.value(sequential.CappedWIS().contributions(log)) == 3.0
