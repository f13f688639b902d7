"""The sequence-encoded user: its steps against torch's own GRU, its replay against a slow loop, its fit against planted habits."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recrl.core.behaviours import BEHAVIOURS, unpack
from recrl.core.errors import ConfigError, ContractError, DataError, StorageError
from recrl.core.torch.streams import TensorStreams
from recrl_datasets import Log
from simulators.leave import LeaveLaw
from simulators.response import WIDTH
from simulators.response_model import ResponseModel, load_response, replay
from simulators.retention import RetentionLaw
from simulators.sequence_fit import Lanes, SequenceConfig, fit_sequence
from simulators.sequence_response import SequenceResponse, gru_step
from simulators.toy import TOY_CONFIG, toy_response
from simulators.world import RetentionWorld

USERS, ITEMS, H = 50, 40, 16


def toy_sequence(h: int = H, seed: int = 0) -> SequenceResponse:
    """Random weights over the toy's catalogue; large enough ones that the past matters."""
    generator, head = torch.Generator().manual_seed(seed), toy_response()

    def draw(*shape: int, scale: float = 0.5) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    width = head.users.shape[1]
    gates = (draw(h, 3 * h, scale=h**-0.5), draw(3 * h, scale=0.1), draw(ITEMS + 1, 3 * h), draw(256, 3 * h))
    return SequenceResponse(head, *gates, draw(h), draw(USERS, h), draw(h, width))


@pytest.fixture(scope="module")
def model() -> SequenceResponse:
    return toy_sequence()


def history(users: int, length: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    items = torch.randint(0, ITEMS, (users, length), generator=generator)
    return items, torch.randint(0, 128, (users, length), generator=generator).to(torch.uint8)


# ---------------------------------------------------------------- the step


def test_advance_is_torchs_gru_over_item_and_feedback():
    torch.manual_seed(3)
    reference, embedding = nn.GRU(6 + 7, H, batch_first=True), torch.randn(ITEMS + 1, 6)
    bits = torch.from_numpy(unpack(np.arange(256, dtype=np.uint8)))
    weight = reference.weight_ih_l0
    model = SequenceResponse(
        toy_response(),
        reference.weight_hh_l0.T,
        reference.bias_hh_l0,
        embedding @ weight[:, :6].T + reference.bias_ih_l0,
        bits @ weight[:, 6:].T,
        torch.zeros(H),
        torch.zeros(USERS, H),
        torch.zeros(H, toy_response().users.shape[1]),
    )
    items, feedback = history(30, 50)
    expected = reference(torch.cat([embedding[items], bits[feedback.long()]], dim=2))[1][0]
    found = model.advance(model.initial_memory(torch.arange(30)), items, feedback)
    torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=0)


def test_one_step_by_hand():
    h, gates = torch.tensor([[0.5]]), torch.tensor([[0.1, -0.2, 0.3]])
    recurrent, bias = torch.tensor([[0.4, 0.6, -0.7]]), torch.tensor([0.01, 0.02, 0.03])
    g = 0.5 * recurrent[0] + bias
    r, z = torch.sigmoid(gates[0, 0] + g[0]), torch.sigmoid(gates[0, 1] + g[1])
    n = torch.tanh(gates[0, 2] + r * g[2])
    assert float(gru_step(h, gates, recurrent, bias)) == pytest.approx(float(n + z * (0.5 - n)), abs=1e-7)


def test_incremental_state_equals_encoding_the_whole_history_again(model):
    items, feedback = history(20, 60)
    start = model.initial_memory(torch.full((20,), -1))
    state, whole = start, model.advance(start, items, feedback)
    for k in range(0, 60, 6):
        state = model.advance(state, items[:, k : k + 6], feedback[:, k : k + 6])
        again = model.advance(start, items[:, : k + 6], feedback[:, : k + 6])
        torch.testing.assert_close(state, again, atol=1e-5, rtol=0)
    assert torch.equal(state, whole)


def test_a_users_bits_do_not_depend_on_the_batch(model):
    items, feedback = history(700, 6)
    user = torch.arange(700) % 53 - 1
    memory = model.initial_memory(user)
    after = model.advance(memory, items, feedback)
    logits = model.request_logits(user, after, items)
    for part in (slice(0, 1), slice(3, 10), slice(250, 263), slice(100, 700)):
        alone = model.advance(memory[part].clone(), items[part], feedback[part])
        assert torch.equal(alone, after[part])
        assert torch.equal(model.request_logits(user[part], alone, items[part]), logits[part])
    assert model.advance(memory[:0], items[:0], feedback[:0]).shape == (0, H)


def test_the_past_matters_and_unknown_items_are_the_last_row(model):
    items, feedback = history(4, 6)
    memory = model.initial_memory(torch.arange(4))
    assert float((model.advance(memory, items, feedback) - model.advance(memory, items, feedback ^ 1)).abs().max()) > 0.01
    for stranger in (-1, ITEMS, 10**9):
        unknown = torch.full((4, 1), stranger)
        assert torch.equal(
            model.advance(memory, unknown, feedback[:, :1]), model.advance(memory, torch.full((4, 1), ITEMS), feedback[:, :1])
        )


def test_users_as_the_log_left_them_are_the_platforms_table(model):
    users, items = torch.arange(-1, USERS), torch.arange(ITEMS).expand(USERS + 1, -1)
    torch.testing.assert_close(model.platform().scores(users, items), model.scores(users, items))
    assert torch.equal(model.initial_memory(torch.tensor([-1, USERS]))[0], model.start)
    assert model.request_logits(users, model.initial_memory(users), items).shape == (USERS + 1, ITEMS, WIDTH)


def test_every_kind_of_model_is_a_response_model(model):
    assert isinstance(model, ResponseModel)
    assert isinstance(toy_response(), ResponseModel)


def test_save_and_load_give_the_same_model(model, tmp_path):
    model.save(tmp_path)
    again = load_response(tmp_path)
    assert isinstance(again, SequenceResponse)
    items, feedback = history(USERS, 12)
    user = torch.arange(USERS)
    one, two = (m.advance(m.initial_memory(user), items, feedback) for m in (model, again))
    assert torch.equal(one, two)
    assert torch.equal(model.request_logits(user, one, items), again.request_logits(user, two, items))
    assert (again.watch, again.notes) == (model.watch, model.notes)
    path = tmp_path / "response.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(StorageError, match="cannot be read"):
        load_response(tmp_path)
    (tmp_path / "response.json").write_text(json.dumps({"kind": "oracle"}))
    with pytest.raises(StorageError, match="unknown kind 'oracle'"):
        load_response(tmp_path)


def test_tables_that_do_not_fit_are_refused(model):
    tables = [
        getattr(model, name) for name in ("recurrent", "recurrent_bias", "item_gates", "feedback_gates", "start", "memories", "read_out")
    ]
    with pytest.raises(ContractError, match="feedback_gates has shape"):
        SequenceResponse(model.head, *tables[:3], tables[3][:7], *tables[4:])
    with pytest.raises(ContractError, match="holds 8 numbers"):
        toy_sequence(h=8)


# ---------------------------------------------------------------- in the world


def world_of(model: SequenceResponse, **options) -> RetentionWorld:
    config = replace(TOY_CONFIG, truth=False, action_kind="slate", slate_size=3, **options)
    return RetentionWorld(config, model, LeaveLaw.synthetic(mean_depth=4.0, max_requests=30), RetentionLaw.published())


def lived(world: RetentionWorld, users: Tensor, steps: int = 12):
    streams, outcomes = TensorStreams(5), []
    state = world.initial_state(users, streams)
    for _ in range(steps):
        listed = world.observe(state).candidates
        state, outcome = world.transition(state, listed[:, :3], streams)
        outcomes.append(outcome)
    return state, outcomes


def test_a_life_in_the_world_is_the_same_in_any_population(model):
    world = world_of(model)
    users = torch.arange(70)
    everyone, told = lived(world, users)
    for part in (slice(0, 1), slice(5, 12), slice(0, 69)):
        some, heard = lived(world, users[part])
        assert torch.equal(some.memory, everyone.memory[part])
        assert torch.equal(some.history_feedback, everyone.history_feedback[part])
        for one, other in zip(heard, told, strict=True):
            assert torch.equal(one.feedback, other.feedback[part])


def test_the_worlds_memory_is_the_encoded_life(model):
    world = world_of(model, horizon_days=3)
    users = torch.arange(40)
    state, outcomes = lived(world, users, steps=25)
    memory = model.initial_memory(users)
    for outcome in outcomes:
        active = outcome.shown[:, 0] >= 0
        memory = torch.where(active.unsqueeze(1), model.advance(memory, outcome.shown, outcome.feedback), memory)
    assert not state.alive.all()
    assert torch.equal(state.memory, memory)


# ---------------------------------------------------------------- replay and fit


def habits(users: int = 160, days: int = 14, seed: int = 0) -> Log:
    """Users who click nearly always or nearly never, whatever is shown; two rows a request."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(1, days, users) * 4
    user = np.repeat(np.arange(users), rows)
    keen = (np.arange(users) % 2 == 0)[user]
    click = rng.random(user.size) < np.where(keen, 0.9, 0.1)
    within = np.arange(user.size) - np.repeat(rows.cumsum() - rows, rows)
    columns = {
        "user": user.astype(np.int32),
        "item": rng.integers(0, 30, user.size).astype(np.int32),
        "timestamp_ms": within // 2 * 60_000,
        "click": click.astype(np.uint8),
        "long_view": (click & (rng.random(user.size) < 0.6)).astype(np.uint8),
        "watch_seconds": np.where(click, 20.0, 2.0).astype(np.float32),
    }
    return Log.from_arrays(columns, n_users=users + 1, n_items=31)


SMALL = SequenceConfig(dim=4, memory=16, epochs=6, lanes=16, window=16, learning_rate=0.02)


@pytest.fixture(scope="module")
def fitted():
    log = habits()
    return log, fit_sequence(log, SMALL)


def test_replay_is_a_slow_loop_over_requests(fitted):
    log, model = fitted
    part = log.select(log.column("user") < 12)
    found, memories = replay(model, part)
    user, item, time, bits = (part.column("user"), part.column("item"), part.column("timestamp_ms"), part.feedback_bits())
    for u in range(12):
        memory = model.start.unsqueeze(0)
        for moment in np.unique(time[user == u]):
            rows = np.flatnonzero((user == u) & (time == moment))
            shown = torch.from_numpy(item[rows].astype(np.int64)).unsqueeze(0)
            expected = model.request_logits(torch.tensor([u]), memory, shown)[0]
            torch.testing.assert_close(found[rows], expected, atol=1e-6, rtol=1e-5)
            memory = model.advance(memory, shown, torch.from_numpy(bits[rows].copy()).unsqueeze(0))
        torch.testing.assert_close(memories[u], memory[0], atol=1e-6, rtol=1e-5)
    assert torch.equal(memories[12], model.start)


def test_known_users_start_with_the_memory_the_log_left_them(fitted):
    log, model = fitted
    _, memories = replay(model, log)
    torch.testing.assert_close(model.initial_memory(torch.arange(161)), memories)
    assert torch.equal(memories[160], model.start)


def test_a_habit_is_read_off_the_earlier_rows_of_users_never_seen(fitted):
    _, model = fitted
    log = habits(seed=9)
    p = model.marginals(replay(model, log)[0][:, :7])[:, 0].double().numpy()
    y = log.column("click").astype(float)
    loss = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    # a rate alone says .69, a user's habit .33
    assert loss < 0.5
    first = np.r_[True, np.diff(log.column("user")) > 0]
    assert p[first].std() < 0.1, "of a first row nothing is known but its item"


def test_fit_has_the_rates_of_its_rows(fitted):
    log, model = fitted
    p = model.marginals(replay(model, log)[0][:, :7]).double().mean(0)
    for k, name in ((0, "click"), (1, "long_view")):
        assert float(p[k]) == pytest.approx(float(log.column(name).mean()), rel=1e-3)
    assert float(p[2:].max()) < 1e-12
    assert set(model.notes.intercept_only) == set(BEHAVIOURS[2:])
    assert model.watch is not None


def test_fit_repeats_bit_for_bit_and_seeds_differ():
    log, quick = habits(40), replace(SMALL, epochs=1)
    one, two, other = fit_sequence(log, quick, seed=1), fit_sequence(log, quick, seed=1), fit_sequence(log, quick, seed=2)
    assert torch.equal(one.memories, two.memories)
    assert torch.equal(one.item_gates, two.item_gates)
    assert not torch.equal(one.memories, other.memories)


def test_weights_move_the_rates_towards_the_heavy_users():
    log = habits(60)
    weights = np.where(np.arange(61) % 2 == 0, 3.0, 1.0)
    model = fit_sequence(log, replace(SMALL, epochs=1), weights=weights)
    p = model.marginals(replay(model, log)[0][:, :7])[:, 0].double().numpy()
    share = weights[log.column("user")]
    assert np.average(p, weights=share) == pytest.approx(np.average(log.column("click"), weights=share), rel=1e-3)


def test_lanes_hold_every_row_once_and_whole_users():
    log = habits(30)
    order = np.random.default_rng(0).permutation(31)
    lanes = Lanes.of(log, order, 4)
    rows = lanes.row[lanes.row >= 0]
    assert sorted(rows.tolist()) == list(range(log.n_rows))
    user, time = log.column("user"), log.column("timestamp_ms")
    for lane in lanes.row.T:
        here = lane[lane >= 0].numpy()
        same = np.flatnonzero(user[here][1:] == user[here][:-1])
        assert (np.diff(here)[same] == 1).all(), "the rows of a user follow each other"
    starts = lanes.row[lanes.user_starts & (lanes.row >= 0)]
    assert sorted(starts.tolist()) == np.flatnonzero(np.r_[True, np.diff(user) > 0]).tolist()
    asked = lanes.row[lanes.request_starts & (lanes.row >= 0)]
    assert sorted(asked.tolist()) == np.flatnonzero(np.r_[True, (np.diff(user) > 0) | (np.diff(time) != 0)]).tolist()


def test_logs_and_options_that_cannot_be_fitted_are_refused():
    with pytest.raises(DataError, match="no rows"):
        fit_sequence(habits(5).select([]))
    for bad in ({"dim": 0}, {"memory": 20}, {"held_out": 1.0}, {"weight_decay": -1.0}, {"rates": "mine"}):
        with pytest.raises(ConfigError):
            SequenceConfig(**bad)
