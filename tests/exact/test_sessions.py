"""Whole sessions and trajectories as batches: of a log against polars, of collected steps against a plain loop over them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recrl.checks.clauses import same
from recrl.core.contracts import Observation, Transitions
from recrl.core.errors import ConfigError, ContractError, DataError
from recrl.core.objective import Objective, Signal
from recrl.replay.logged import LoggedBuffer
from recrl.replay.session_buffer import SessionBuffer
from recrl.replay.sessions import LoggedSessions, SessionSampler
from recrl.training.checkpoints import load_latest, save_checkpoint
from recrl.training.collect import WorldCollector
from recrl.training.online import UniformActions
from recrl_datasets import Log, split_by_time
from simulators.toy import TOY_CONFIG, toy_world
from tests.support import small

HISTORY = 4


def random_log(seed: int, users: int = 6, rows: int = 60) -> Log:
    """Users with sessions of any depth; some requests show several items at once."""
    rng = np.random.default_rng(seed)
    user = np.sort(rng.integers(0, users, rows)).astype(np.int32)
    minutes = rng.choice([0, 1, 5, 29, 31, 600, 3000], rows)
    time = np.concatenate([np.cumsum(minutes[user == u]) for u in range(users)]) * 60_000 + 1_650_000_000_000
    columns = {"user": user, "item": rng.integers(0, small.N_ITEMS, rows).astype(np.int32), "timestamp_ms": time}
    columns["long_view"] = rng.integers(0, 2, rows).astype(np.uint8)
    return Log.from_arrays(columns, n_users=users, n_items=small.N_ITEMS)


def polars_segments(log: Log, unit: str) -> list[list[tuple[int, int]]]:
    """(position, item) of each session (a gap of more than 30 minutes ends one) or user, by polars."""
    frame = pl.DataFrame({name: log.column(name) for name in ("user", "item", "timestamp_ms")}).with_columns(row=pl.Series(log.positions))
    gap = pl.col("timestamp_ms").diff().over("user").fill_null(0) > 30 * 60_000
    frame = frame.with_columns(session=gap.cum_sum().over("user") if unit == "session" else pl.lit(0))
    groups = frame.group_by("user", "session", maintain_order=True).agg("row", "item")
    return [list(zip(rows, items, strict=True)) for rows, items in groups.select("row", "item").iter_rows()]


def everything(source) -> Transitions:
    lengths = source.lengths()
    return source.gather(np.arange(lengths.size), np.zeros(lengths.size, dtype=np.int64), lengths)


def split(batch: Transitions, of) -> list:
    """One list entry a segment."""
    return [of[batch.segments[k]] for k in range(batch.segments.count)]


@pytest.mark.parametrize("unit", ["session", "user"])
@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_segments_of_a_log_are_its_sessions_row_by_row(unit, seed):
    log = random_log(seed)
    buffer = LoggedBuffer(log, Objective(), history=HISTORY)
    batch = everything(LoggedSessions(buffer, log, unit))
    pairs = list(zip(batch.index.tolist(), batch.item.tolist(), strict=True))
    assert split(batch, pairs) == polars_segments(log, unit)
    assert all(len(set(users)) == 1 for users in split(batch, batch.cluster.tolist()))
    # the rows are the buffer's own
    assert same(replace(batch, segments=None), buffer.gather(batch.index))


def test_training_trajectories_end_where_the_training_part_does():
    log = small.small_log()
    train = split_by_time(log, (0.5, 0.25, 0.25)).train
    objective = Objective(Signal("return"))
    buffer = LoggedBuffer(log, objective, history=HISTORY)
    batch = everything(LoggedSessions(buffer, train, "user"))
    assert sorted(batch.index.tolist()) == train.positions.tolist()
    assert split(batch, batch.index.tolist()) == [[r for r, _ in rows] for rows in polars_segments(train, "user")]
    last = [rows[-1] for rows in split(batch, list(range(len(batch))))]
    # some users come back after the cut: the buffer knows, the trajectory does not
    known = buffer.gather(batch.index[last])
    assert not known.truncated.all()
    assert (known.reward < 0).any()
    assert batch.truncated[last].all()
    assert (batch.reward[last] == 0).all()
    assert same(batch.next_observation[torch.tensor(last)], batch.observation[torch.tensor(last)])
    inner = np.setdiff1d(np.arange(len(batch)), last)
    assert same(replace(batch, segments=None).reward[inner], buffer.gather(batch.index[inner]).reward)


def test_where_a_view_skips_rows_a_segment_ends():
    log = small.small_log()
    view = log.select(np.setdiff1d(np.arange(log.n_rows), [2, 9, 10]))
    batch = everything(LoggedSessions(LoggedBuffer(log, Objective()), view))
    assert split(batch, batch.index.tolist())[:5] == [[0, 1], [3], [4, 5, 6, 7], [8], [11]]


def test_windows_have_the_length_asked_for_and_lie_inside_their_segment():
    log = random_log(3, users=4, rows=120)
    source = LoggedSessions(LoggedBuffer(log, Objective()), log, "user")
    sampler = SessionSampler(source, 0, min_length=5, max_length=5)
    batch = sampler.sample(400, 1)
    assert batch.segments.lengths.tolist() == [5] * 400
    rows = batch.index.reshape(400, 5)
    assert (rows[:, 1:] - rows[:, :-1] == 1).all()
    assert (batch.cluster.reshape(400, 5) == batch.cluster.reshape(400, 5)[:, :1]).all()
    # every user and every window has its turn: 116 - 4 * 4 windows, each missed with probability below (1 - 1 / 200)^4000 < 1e-8
    more = torch.cat([sampler.sample(400, step).index[::5] for step in range(10)])
    assert len(more.unique()) == 120 - 4 * 4
    mixed = SessionSampler(source, 0, max_length=25).sample(50, 1).segments.lengths
    assert mixed.max() == 25
    assert set(mixed) <= set(np.minimum(source.lengths(), 25).tolist())


@pytest.mark.parametrize(
    ("build", "kind", "message"),
    [
        (lambda s: SessionSampler(s, 0, min_length=5, max_length=4), ConfigError, "min_length=5 and max_length=4 leave nothing"),
        (lambda s: SessionSampler(s, 0, min_length=9).sample(2, 0), DataError, "none of 24 segments has 9 rows"),
        (lambda s: SessionBuffer(10, max_length=11), ConfigError, "capacity=10, max_length=11"),
    ],
)
def test_bad_input_is_refused(build, kind, message):
    log = small.small_log()
    with pytest.raises(kind) as caught:
        build(LoggedSessions(LoggedBuffer(log, Objective()), log))
    assert message in str(caught.value)
    assert "mend:" in str(caught.value)


def steps(seed: int, lanes: int, count: int, shown: int, flagged: bool = True) -> list[Transitions]:
    """Steps of users side by side: histories move on by ``shown`` items, users end sessions, leave and are replaced.

    With ``flagged=False`` users are replaced without a word, as where a time limit cuts an episode.
    """
    rng = np.random.default_rng(seed)
    items = rng.integers(-1, small.N_ITEMS, (lanes, HISTORY))
    items.sort(axis=1)
    user, clock, batches = np.arange(lanes), rng.random((lanes, 4)), []
    for step in range(count):
        new = rng.integers(0, small.N_ITEMS, (lanes, shown))
        after, later = np.concatenate([items, new], axis=1)[:, -HISTORY:], rng.random((lanes, 4))

        def observation(items, clock, user=user):
            bits = np.where(items >= 0, (items * 31 + 5) % 128, 0).astype(np.uint8)
            arrays = (user.copy(), items.copy(), bits, clock.astype(np.float32))
            user_now, items_now, bits_now, clock_now = map(torch.from_numpy, arrays)
            return Observation(user=user_now, history_items=items_now, history_feedback=bits_now, clock=clock_now)

        ends, gone = rng.random(lanes) < 0.3, rng.random(lanes) < 0.15
        batches.append(
            Transitions(
                observation=observation(items, clock),
                action=torch.from_numpy(rng.random((lanes, 2), dtype=np.float32)),
                reward=torch.from_numpy(rng.random((lanes, 1), dtype=np.float32)),
                next_observation=observation(after, later),
                terminated=torch.from_numpy(gone & flagged),
                truncated=torch.zeros(lanes, dtype=torch.bool),
                session_end=torch.from_numpy((ends | gone) & flagged),
                # the first steps draw without probabilities
                behaviour_log_prob=None if step < 3 else torch.from_numpy(rng.random(lanes)),
                cluster=torch.from_numpy(user.copy()),
                notes={"intervened": torch.from_numpy(rng.random(lanes) < 0.5)},
            )
        )
        items = np.where(gone[:, None], -1, after)
        user, clock = np.where(gone, user + lanes, user), np.where(gone[:, None], rng.random((lanes, 4)), later)
    return batches


def plain_segments(batches: list[Transitions], unit: str, max_length: int, capacity: int) -> list[list[tuple[int, int]]]:
    """(step, lane) of each closed segment that is kept, oldest first, by a plain loop."""
    lanes = len(batches[0])
    running: list[list[tuple[int, int]]] = [[] for _ in range(lanes)]
    closed: list[list[tuple[int, int]]] = []
    for step, batch in enumerate(batches):
        for lane in range(lanes):
            moved = step > 0 and not all(
                torch.equal(getattr(batches[step - 1].next_observation, n)[lane], getattr(batch.observation, n)[lane])
                for n in ("user", "history_items", "clock")
            )
            if moved and running[lane]:
                closed.append(running[lane])
                running[lane] = []
        for lane in range(lanes):
            running[lane].append((step, lane))
            ends = batch.terminated[lane] or batch.truncated[lane] or (unit == "session" and batch.session_end[lane])
            if ends or len(running[lane]) == max_length:
                closed.append(running[lane])
                running[lane] = []
        while sum(map(len, closed)) > capacity:
            closed.pop(0)
    return closed


def rows_of(batches: list[Transitions], at: list[tuple[int, int]]) -> Transitions:
    """The given (step, lane) rows as one batch."""
    parts = [_row(batches[step], lane) for step, lane in at]

    def join(values):
        return torch.cat(values)

    def observation(name):
        pieces = [getattr(part, name) for part in parts]
        return Observation(**{n: join([getattr(p, n) for p in pieces]) for n in ("user", "history_items", "history_feedback", "clock")})

    unknown = torch.full((1,), torch.nan, dtype=torch.float64)
    return Transitions(
        observation=observation("observation"),
        next_observation=observation("next_observation"),
        behaviour_log_prob=join([unknown if p.behaviour_log_prob is None else p.behaviour_log_prob for p in parts]),
        notes={"intervened": join([p.notes["intervened"] for p in parts])},
        **{n: join([getattr(p, n) for p in parts]) for n in ("action", "reward", "terminated", "truncated", "session_end", "cluster")},
    )


def _row(batch: Transitions, lane: int) -> Transitions:
    at = slice(lane, lane + 1)
    names = ("observation", "next_observation", "action", "reward", "terminated", "truncated", "session_end", "cluster")
    log_prob = None if batch.behaviour_log_prob is None else batch.behaviour_log_prob[at]
    notes = {name: values[at] for name, values in batch.notes.items()}
    return Transitions(**{n: getattr(batch, n)[at] for n in names}, behaviour_log_prob=log_prob, notes=notes)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    lanes=st.integers(1, 4),
    shown=st.integers(1, HISTORY),
    unit=st.sampled_from(["session", "user"]),
    flagged=st.booleans(),
    max_length=st.sampled_from([1, 3, 20]),
    capacity=st.sampled_from([20, 40, 1000]),
)
def test_collected_segments_are_what_was_collected(seed, lanes, shown, unit, flagged, max_length, capacity):
    batches = steps(seed, lanes, 30, shown, flagged)
    buffer = SessionBuffer(capacity, unit=unit, shown=shown, max_length=max_length)
    for batch in batches:
        buffer.add(batch)
    expected = plain_segments(batches, unit, max_length, capacity)
    assert buffer.lengths().tolist() == list(map(len, expected))
    assert len(buffer) == sum(map(len, expected)) <= capacity
    if expected:
        found = everything(buffer)
        rows = rows_of(batches, [place for segment in expected for place in segment])
        assert same(replace(found, segments=None, index=None), rows)
        # a window of each segment
        lengths = buffer.lengths()
        start = (lengths - 1) // 2
        window = buffer.gather(np.arange(lengths.size), start, lengths - start)
        assert same(
            replace(window, segments=None, index=None),
            rows_of(batches, [place for s, k in zip(expected, start, strict=True) for place in s[k:]]),
        )


def test_a_restored_buffer_goes_on_exactly(tmp_path):
    batches = steps(7, 3, 60, 2)
    buffer, restored = SessionBuffer(50, shown=2), SessionBuffer(50, shown=2)
    for batch in batches[:35]:
        buffer.add(batch)
    save_checkpoint(tmp_path, 1, buffer.state_dict())
    restored.load_state_dict(load_latest(tmp_path)[1])
    for batch in batches[35:]:
        for one in (buffer, restored):
            one.add(batch)
        drawn, again = (SessionSampler(one, 3, max_length=4).sample(8, 5) for one in (buffer, restored))
        assert same(drawn, again)
    assert same(buffer.state_dict(), restored.state_dict())


def test_control_tasks_keep_their_features():
    """Two tasks, episodes of 3 steps that are cut without a flag: features start anew."""
    buffer, never = SessionBuffer(100, unit="user"), torch.zeros(2, dtype=torch.bool)
    start = torch.tensor([[0.0], [100.0]])
    for step in range(7):
        now = start + step + 1000 * (step // 3)
        batch = Transitions(Observation(features=now), now, now, Observation(features=now + 1), never, never, never)
        buffer.add(batch)
    assert buffer.lengths().tolist() == [3, 3, 3, 3]
    found = everything(buffer)
    assert found.observation.features.flatten().tolist() == [0, 1, 2, 100, 101, 102, 1003, 1004, 1005, 1103, 1104, 1105]
    assert torch.equal(found.next_observation.features, found.observation.features + 1)
    assert found.observation.history_items is None


def test_a_history_that_moves_otherwise_is_refused():
    batch = steps(0, 3, 1, 2)[0]
    for shown in (1, 3, HISTORY + 1):
        with pytest.raises(ContractError, match=f"not that of the state with {shown} more items"):
            SessionBuffer(100, shown=shown).add(batch)
    buffer = SessionBuffer(100, shown=2)
    buffer.add(batch)
    with pytest.raises(ConfigError, match="a batch of 2 after batches of 3"):
        buffer.add(steps(0, 2, 1, 2)[0])


@pytest.mark.parametrize("max_length", [1, 100])
def test_a_step_of_the_simulator_takes_few_bytes_at_history_50(max_length):
    """Even where every step is a segment of its own and brings its history along."""
    world = toy_world(replace(TOY_CONFIG, history=50), Objective(Signal("long_view")))
    collector, policy = WorldCollector(world, 16, seed=3), UniformActions(world.action_spec)
    buffer = SessionBuffer(2_000, shown=TOY_CONFIG.slate_size, max_length=max_length)
    for step in range(45):
        buffer.add(collector.collect(policy, step))
    assert len(buffer) > 500
    assert buffer.bytes_per_transition() < 600
    assert buffer.nbytes() / len(buffer) < 600
    if max_length > 1:
        assert buffer.bytes_per_transition() < 200
