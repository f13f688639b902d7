"""Transitions of a log: what a state may know, what a row costs, what training may not touch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recrl.core.behaviours import BEHAVIOURS, unpack
from recrl.core.errors import ConfigError, DataError
from recrl.core.objective import Constraint, Objective, Signal
from recrl.replay.logged import LoggedBuffer
from recrl.replay.samplers import UniformSampler
from recrl_datasets import Log, split_by_time
from tests.support import small


def reference_state(log: Log, row: int, history: int):
    """History of a row by a plain loop: the user's rows of earlier moments."""
    user, item, bits, time = log.column("user"), log.column("item"), log.feedback_bits(), log.column("timestamp_ms")
    before = [k for k in range(row) if user[k] == user[row] and time[k] < time[row]][-history:]
    pad = history - len(before)
    return [-1] * pad + [int(item[k]) for k in before], [0] * pad + [int(bits[k]) for k in before]


@settings(max_examples=25)
@given(seed=st.integers(0, 100), history=st.integers(1, 7), rows_per_user=st.integers(1, 9))
def test_states_agree_with_a_plain_loop(seed, history, rows_per_user):
    log = small.small_log(rows_per_user, seed)
    buffer = LoggedBuffer(log, Objective(), history=history)
    batch = buffer.gather(torch.arange(log.n_rows))
    for row in range(log.n_rows):
        items, bits = reference_state(log, row, history)
        assert batch.observation.history_items[row].tolist() == items
        assert batch.observation.history_feedback[row].tolist() == bits
        if not batch.truncated[row]:
            items, bits = reference_state(log, row + 1, history)
            assert batch.next_observation.history_items[row].tolist() == items


def test_a_state_does_not_know_its_own_action():
    """Changing a row's item and feedback changes no state up to that row."""
    log = small.small_log()
    row = 5
    columns = {name: log.column(name).copy() for name in log.columns}
    columns["item"][row] = (columns["item"][row] + 1) % small.N_ITEMS
    columns["click"][row] = 1 - columns["click"][row]
    changed = Log.from_arrays(columns, n_users=small.N_USERS, n_items=small.N_ITEMS)
    before, after = (LoggedBuffer(x, Objective()).observation(torch.arange(row + 2)) for x in (log, changed))
    assert torch.equal(before.history_items[: row + 1], after.history_items[: row + 1])
    assert torch.equal(before.history_feedback[: row + 1], after.history_feedback[: row + 1])
    assert not torch.equal(before.history_items[row + 1], after.history_items[row + 1])


def test_clock_and_session_ends_by_hand():
    minute, day = 60_000, 86_400_000
    times = np.array([0, minute, minute, 2 * day, 2 * day + minute]) + day // 4
    rows = {"user": np.zeros(5, np.int32), "item": np.arange(5, dtype=np.int32), "timestamp_ms": times, "long_view": np.ones(5, np.uint8)}
    buffer = LoggedBuffer(Log.from_arrays(rows, n_users=1, n_items=5), Objective(Signal("return")))
    # rows 1 and 2 share a time: one request
    assert buffer.clock[:, 1].tolist() == [0, 1, 1, 0, 1]
    assert buffer.clock[:, 2].tolist() == pytest.approx([0, 0, 0, np.log(2), np.log(2)])
    assert buffer.clock[3, 0].item() == pytest.approx(np.log1p(2 - 1 / 1440), rel=1e-5)
    assert buffer.clock[0, 3].item() == pytest.approx(0.25)
    assert buffer.session_end.tolist() == [False, True, True, False, True]
    assert buffer.reward[:, 0].tolist() == pytest.approx([0, -(2 - 1 / 1440), -(2 - 1 / 1440), 0, 0], rel=1e-5)
    batch = buffer.gather(torch.arange(5))
    # both rows of the request see the first row alone, and go on to the next request
    assert [[i for i in row if i >= 0] for row in batch.observation.history_items.tolist()] == [[], [0], [0], [0, 1, 2], [0, 1, 2, 3]]
    assert [[i for i in row if i >= 0] for row in batch.next_observation.history_items[:4].tolist()] == [
        [0],
        [0, 1, 2],
        [0, 1, 2],
        [0, 1, 2, 3],
    ]
    assert batch.truncated.tolist() == [False, False, False, False, True]


def test_rewards_follow_the_objective():
    log = small.small_log()
    objective = Objective(Signal("watch_seconds"), (Constraint(Signal("like"), "at_least"), Constraint(Signal("click"), "at_least")))
    reward = LoggedBuffer(log, objective).gather(torch.arange(log.n_rows)).reward
    expected = np.stack([log.column(n) for n in ("watch_seconds", "like", "click")], axis=1)
    assert np.allclose(reward.numpy(), expected)


def test_feedback_bits_unpack_to_the_columns():
    log = small.small_log()
    rows = unpack(log.feedback_bits())
    for name in ("click", "long_view", "like"):
        assert np.array_equal(rows[:, BEHAVIOURS.index(name)], log.column(name))


def test_training_rows_reach_into_nothing_else():
    log = small.small_log()
    split = split_by_time(log, (0.5, 0.25, 0.25))
    buffer = LoggedBuffer(log, Objective())
    rows = buffer.rows_of(split.train).numpy()
    time, user = log.column("timestamp_ms"), log.column("user")
    cut = split.valid.column("timestamp_ms").min()
    assert rows.size > 0
    assert (time[rows + 1] < cut).all()
    assert (user[rows + 1] == user[rows]).all()
    everything = torch.cat([buffer.rows_of(part, with_next=False) for part in (split.train, split.valid, split.test)])
    assert sorted(everything.tolist()) == list(range(log.n_rows))


def test_columns_are_shared_not_copied():
    log = small.small_log()
    buffer = LoggedBuffer(log, Objective())
    assert np.shares_memory(buffer.item.numpy(), log.column("item"))
    assert np.shares_memory(buffer.user.numpy(), log.column("user"))
    assert buffer.nbytes() / len(buffer) == 39


@pytest.mark.parametrize(
    ("build", "kind", "message"),
    [
        (lambda: LoggedBuffer(small.small_log().select(np.zeros(96, bool)), Objective()), DataError, "the log holds no rows"),
        (lambda: LoggedBuffer(small.small_log(), Objective(Signal("hate"))), DataError, "the log holds no 'hate'"),
        (lambda: LoggedBuffer(small.small_log(), Objective(Signal("happiness"))), ConfigError, "unknown signal 'happiness'"),
        (lambda: UniformSampler(small.buffer("item"), torch.arange(0), 0), DataError, "no rows to draw batches from"),
        (
            lambda: small.buffer("item", small.small_log().select(np.arange(10))).rows_of(small.small_log()),
            DataError,
            "not part of the buffer's log",
        ),
    ],
)
def test_bad_input_is_refused(build, kind, message):
    with pytest.raises(kind) as caught:
        build()
    assert message in str(caught.value)
    assert "mend:" in str(caught.value)
