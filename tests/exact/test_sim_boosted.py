"""Boosted trees as a response model: features without a leak, the table against the trees themselves, storage, life in the world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

import recrl_datasets as rd
from recrl.core.behaviours import BEHAVIOURS, unpack
from recrl.core.errors import ConfigError, ContractError, DataError, StorageError
from recrl.core.streams import Purpose, Streams
from recrl.core.torch.streams import TensorStreams
from recrl_datasets import Log
from simulators.boosted_fit import fit_boosted
from simulators.boosted_response import BoostedResponse
from simulators.leave import LeaveLaw
from simulators.response_fit import LoggedRows
from simulators.response_model import ResponseModel, load_response, replay
from simulators.retention import RetentionLaw
from simulators.toy import TOY_CONFIG
from simulators.trees import BoostedConfig, SideFeatures, Trees, earlier_counts
from simulators.world import RetentionWorld

USERS, ITEMS, F = 40, 12, len(BEHAVIOURS)
SMALL = BoostedConfig(trees=12, leaves=7, learning_rate=0.3, min_leaf_rows=20, groups=500, min_positives=30)


def tastes(seed: int = 0) -> tuple[Log, SideFeatures]:
    """Even users like even items, nobody else likes anything much; user 39 and item 11 have no rows; one or two rows a request."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(20, 80, USERS - 1)
    user = np.repeat(np.arange(USERS - 1), rows)
    item = rng.integers(0, ITEMS - 1, user.size)
    click = rng.random(user.size) < np.where((user % 2 == 0) & (item % 2 == 0), 0.8, 0.25)
    columns = {"user": user.astype(np.int32), "item": item.astype(np.int32), "click": click.astype(np.uint8)}
    columns["timestamp_ms"] = np.arange(user.size) // 2 * 60_000
    columns["long_view"] = (click & (rng.random(user.size) < 0.6)).astype(np.uint8)
    columns["hate"] = (rng.random(user.size) < 0.01).astype(np.uint8)
    columns["watch_seconds"] = np.where(click, 20.0, 2.0).astype(np.float32)
    log = Log.from_arrays(columns, n_users=USERS, n_items=ITEMS)
    sides = (np.column_stack([np.arange(n) % 2, rng.random(n)]).astype(np.float32) for n in (USERS, ITEMS))
    return log, SideFeatures(*sides)


def planted(log: Log, sides: SideFeatures, mixing: str = "crossed") -> Trees:
    return Trees(log, LoggedRows.of(log), sides, SMALL, 0, lambda share, what: None, mixing)


@pytest.fixture(scope="module")
def fitted():
    log, sides = tastes()
    trees = planted(log, sides)
    return log, sides, trees, fit_boosted(log, SMALL, sides=sides)


# ---------------------------------------------------------------- features


def test_a_users_counts_are_those_of_earlier_requests():
    log, _ = tastes()
    y = LoggedRows.of(log).happened.numpy()
    found = earlier_counts(log, y)
    user, time = log.column("user"), log.column("timestamp_ms")
    for k in np.random.default_rng(0).integers(0, log.n_rows, 200):
        before = (user == user[k]) & (time < time[k])
        np.testing.assert_array_equal(found[k], [before.sum(), *y[before].sum(0)])


def test_an_items_counts_hold_no_row_of_the_users_fold(fitted):
    log, _, trees, _ = fitted
    y = LoggedRows.of(log).happened.numpy()
    found = trees._crossed_counts(log, y, 0)
    user, item = log.column("user"), log.column("item")
    fold = Streams(0).permutation(USERS, 0, Purpose.SPLITS)[user] % 5
    for k in range(0, log.n_rows, 37):
        others = (item == item[k]) & (fold != fold[k])
        np.testing.assert_allclose(found[k], [others.sum(), *y[others].sum(0)])


def test_features_of_a_store_hold_no_counts_and_no_leaky_columns(tmp_path):
    frame = pl.DataFrame(
        {"user_id": [0, 0, 1, 2], "item_id": [0, 1, 1, 0], "timestamp_ms": [1_600_000_000_000 + k for k in range(4)], "click": [1, 0, 1, 0]}
    )
    users = pl.DataFrame({"user_id": [0, 1, 2], "age": [20.0, 30.0, 45.0]})
    store = rd.from_frame(frame, name="mine", users=users, stores=tmp_path)
    sides = SideFeatures.of(store, store.log())
    assert (sides.user.shape, sides.item.shape) == ((3, 1), (2, 0))
    assert np.argsort(sides.user[:, 0]).tolist() == [0, 1, 2]


# ---------------------------------------------------------------- the table


def test_with_a_group_a_user_the_table_is_lightgbms_own_prediction(fitted):
    _, _, trees, model = fitted
    user, item = (x.ravel() for x in np.meshgrid(np.arange(USERS - 1), np.arange(ITEMS), indexing="ij"))
    raw = trees.pair_logits(user, item)
    features = trees.rows(user, item, np.zeros((user.size, 8), np.float32), trees.item_counts[item])
    for k in (0, 1):
        np.testing.assert_allclose(raw[:, k], trees.boosters[k].predict(features, raw_score=True), rtol=1e-6)
    found = cold(model, user, item)
    # what is left is the shift of the calibration, one number a head
    np.testing.assert_allclose(np.ptp(found - raw, axis=0)[:2], 0.0, atol=2e-5)
    assert model.table_error < 1e-5
    assert model.notes.intercept_only == ("like", "comment", "follow", "forward", "hate")


def test_groups_cost_what_is_said_and_keep_each_users_level():
    log, sides = tastes()
    model = fit_boosted(log, replace(SMALL, groups=4), sides=sides)
    trees = planted(log, sides)
    user, item = (x.ravel() for x in np.meshgrid(np.arange(USERS - 1), np.arange(ITEMS), indexing="ij"))
    raw = trees.pair_logits(user, item)[:, 0]
    found = cold(model, user, item)[:, 0]
    shift = (found - raw).reshape(USERS - 1, ITEMS)
    probes = log.column("item")[Streams(0).integers(log.n_rows, np.arange(16), 0, Purpose.CANDIDATES)]
    assert 1 < len(model.table) <= 4
    assert np.ptp(shift[:, probes].mean(1)) < 1e-5
    exact = raw + shift[:, probes].mean()
    error = np.sqrt(((1 / (1 + np.exp(-exact)) - 1 / (1 + np.exp(-found))) ** 2).mean())
    # 20,000 pairs drawn with replacement from 468
    assert model.table_error == pytest.approx(error, rel=0.05)


def test_fit_finds_the_planted_tastes_and_the_rates(fitted):
    log, _, _, model = fitted
    scores = model.scores(torch.arange(USERS - 1), torch.arange(ITEMS - 1).expand(USERS - 1, -1))[..., 0]
    match = (torch.arange(USERS - 1).unsqueeze(1) % 2 == 0) & (torch.arange(ITEMS - 1) % 2 == 0)
    assert float(scores[match].mean()) > 0.65
    assert float(scores[~match].mean()) < 0.4
    p = model.marginals(replay(model, log)[0][:, :F])[:, :].double().mean(0)
    for k, name in ((0, "click"), (1, "long_view"), (6, "hate")):
        assert float(p[k]) == pytest.approx(float(log.column(name).mean()), rel=1e-3)
    assert model.watch is not None


def cold(model: BoostedResponse, user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Log-odds of pairs, had nothing been seen of the users."""
    nothing = model.initial_memory(torch.full((user.size,), -1))
    return model.request_logits(torch.from_numpy(user), nothing, torch.from_numpy(item).unsqueeze(1))[:, 0].numpy()[:, :F]


def test_logits_by_hand_and_strangers():
    table = torch.arange(2 * 3 * 8, dtype=torch.float32).view(2, 3, 8)
    offsets = torch.tensor([[0.5] * 8, [-1.0] * 8, [0.0] * 8])
    model = BoostedResponse(table, offsets, torch.tensor([1, 0, 1]), torch.zeros(7))
    logits = model.request_logits(torch.tensor([0, 1, -1, 9]), torch.zeros(4, 0), torch.tensor([[0, 1], [1, 0], [5, -1], [0, 0]]))
    assert torch.equal(logits[0], table[1, :2] + 0.5)
    assert torch.equal(logits[1], table[0, [1, 0]] - 1.0)
    assert torch.equal(logits[2], table[1, [2, 2]])
    assert torch.equal(logits[3], table[1, [0, 0]])


def test_a_table_of_few_directions_is_its_platform():
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(6, 2, generator=generator), torch.randn(9, 2, generator=generator)
    loadings = torch.tensor([1.0, 0.5, -1.0, 0.0, 2.0, 0.3, 0.1])
    biases = torch.randn(6, 1, 7, generator=generator) + torch.randn(1, 9, 7, generator=generator)
    table = torch.cat([biases + (left @ right.T).unsqueeze(2) * loadings, torch.zeros(6, 9, 1)], dim=2)
    group = torch.tensor([0, 3, 3, 5, 1])
    model = BoostedResponse(table, torch.randn(5, 8, generator=generator), group, torch.full((7,), 0.01) * (torch.arange(7) > 0))
    users, items = torch.arange(-1, 4), torch.arange(8).expand(5, -1)
    torch.testing.assert_close(model.platform().scores(users, items), model.scores(users, items), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mixing", ["crossed", "apart"])
def test_what_the_past_adds_is_lightgbms_own_difference(mixing):
    log, sides = tastes()
    trees = planted(log, sides, mixing)
    past, rng = trees.past_effect(), np.random.default_rng(0)
    counts = rng.integers(0, 90, 400)
    seen = np.column_stack([counts, rng.binomial(counts[:, None], rng.random((400, 7)))]).astype(np.float32)
    user, item = rng.integers(-1, USERS, 400), rng.integers(0, ITEMS, 400)
    with_past = trees.logits(trees.rows(user, item, seen, trees.item_counts[item]))
    effect = past.logits(torch.from_numpy(seen)).numpy()
    assert np.abs(effect[:, 0]).max() > 0.1
    np.testing.assert_allclose(effect, with_past - trees.pair_logits(user, item), atol=1e-5)
    assert past.logits(past.nothing(1)).abs().max() < 1e-6


def test_apart_users_and_items_add_up():
    log, sides = tastes()
    trees = planted(log, sides, "apart")
    of_user, of_item = trees.levels(log)
    user, item = np.random.default_rng(0).integers(0, (USERS, ITEMS), (300, 2)).T
    np.testing.assert_allclose((of_user[user] + of_item[item]).numpy(), trees.pair_logits(user, item), atol=1e-5)
    share = np.bincount(log.column("item"), minlength=ITEMS) / log.n_rows
    np.testing.assert_allclose(of_item[-1].numpy(), share @ of_item[:-1].numpy(), atol=1e-5)


def test_a_life_is_counted_and_a_users_bits_do_not_depend_on_the_batch(fitted):
    log, _, _, model = fitted
    rng = np.random.default_rng(0)
    items, feedback = torch.from_numpy(rng.integers(0, ITEMS, (70, 6))), torch.from_numpy(rng.integers(0, 128, (70, 6), dtype=np.uint8))
    users = torch.arange(70) % (USERS + 1) - 1
    before = model.initial_memory(users)
    before[:, -1] = np.inf
    bits = unpack(feedback.numpy()).sum(1)
    after = model.advance(before, items, feedback)
    np.testing.assert_array_equal((after - before)[:, :-1].numpy(), np.column_stack([np.full(70, 6), bits]))
    y, user = LoggedRows.of(log).happened.numpy(), log.column("user")
    mine = user == 3
    np.testing.assert_array_equal(model.memories[3].numpy(), [mine.sum(), *y[mine].sum(0), mine.sum()])
    logits = model.request_logits(users, after, items)
    for part in (slice(0, 1), slice(3, 10), slice(20, 69)):
        assert torch.equal(model.advance(before[part], items[part], feedback[part]), after[part])
        assert torch.equal(model.request_logits(users[part], after[part], items[part]), logits[part])


def test_older_rows_fade_where_a_user_was_shown_more_than_the_log_had_of_it(fitted):
    log, _, _, model = fitted
    past, n = model.past, np.bincount(log.column("user"), minlength=USERS)
    assert model.memories[39, -1] == round(n[n > 0].mean()), "without rows: as many as the mean user had"
    memory = model.initial_memory(torch.tensor([3, -1]))
    clicks = torch.ones(2, 6, dtype=torch.uint8)
    for _ in range(200):
        memory = past.counted(memory, clicks)
    assert memory[0, 0] == n[3]
    assert memory[1, 0] == 1200, "nobody in the log: without limit"
    assert memory[0, 1] == pytest.approx(n[3], rel=1e-3), "a share of clicks of 1, whatever it was"
    once = past.counted(torch.tensor([[10.0, 4, 2, 0, 0, 0, 0, 0, 12]]), torch.tensor([[1, 0, 0, 3]], dtype=torch.uint8))
    np.testing.assert_allclose(once[0].numpy(), [12, 6 * 12 / 14, 3 * 12 / 14, 0, 0, 0, 0, 0, 12], rtol=1e-6)
    never = past.unseen(model.memories, torch.tensor([3, 39]))
    np.testing.assert_array_equal(never.numpy(), [[0.0] * 8 + [n[3]], [0.0] * 8 + [model.memories[39, -1]]])


# ---------------------------------------------------------------- as any other model


def test_fit_repeats_bit_for_bit(fitted):
    log, sides, _, model = fitted
    again = fit_boosted(log, SMALL, sides=sides)
    assert torch.equal(again.table, model.table)
    assert torch.equal(again.offsets, model.offsets)


def test_weights_count_users():
    log, sides = tastes()
    weights = np.where(np.arange(USERS) < 10, 5.0, 1.0)
    model = fit_boosted(log, SMALL, sides=sides, weights=weights)
    p = model.marginals(replay(model, log)[0][:, :F])[:, 0].double().numpy()
    share = weights[log.column("user")]
    assert np.average(p, weights=share) == pytest.approx(np.average(log.column("click"), weights=share), rel=1e-3)


def test_save_and_load_give_the_same_model(fitted, tmp_path):
    model = fitted[3]
    model.save(tmp_path)
    again = load_response(tmp_path)
    assert isinstance(again, BoostedResponse)
    assert isinstance(again, ResponseModel)
    users, items = torch.arange(-1, USERS), torch.arange(ITEMS).expand(USERS + 1, -1)
    assert torch.equal(again.scores(users, items), model.scores(users, items))
    assert (again.watch, again.notes, again.table_error) == (model.watch, model.notes, model.table_error)
    (tmp_path / "response.safetensors").write_bytes(b"x")
    with pytest.raises(StorageError, match="cannot be read"):
        load_response(tmp_path)


def test_its_users_live_in_the_world_alike_in_any_population(fitted):
    config = replace(TOY_CONFIG, pool_size=8, exclude_recent=3, history=6, truth=False, slate_size=2)
    world = RetentionWorld(
        config, fitted[3], LeaveLaw.synthetic(mean_depth=4.0, max_requests=30), RetentionLaw.published(), scorer=fitted[3].platform()
    )
    ends = []
    for users in (torch.arange(40), torch.arange(7)):
        streams = TensorStreams(1)
        state = world.initial_state(users, streams)
        for _ in range(8):
            state, outcome = world.transition(state, torch.ones(len(users), 7), streams)
        ends.append((state, outcome))
    assert torch.equal(ends[0][0].satisfaction[:7], ends[1][0].satisfaction)
    assert torch.equal(ends[0][1].feedback[:7], ends[1][1].feedback)


def test_tables_options_and_logs_that_do_not_fit_are_refused():
    log, _ = tastes()
    with pytest.raises(ContractError, match="do not fit"):
        BoostedResponse(torch.zeros(2, 3, 7), torch.zeros(3, 8), torch.zeros(3, dtype=torch.int64), torch.zeros(7))
    with pytest.raises(DataError, match="features of 3 users"):
        fit_boosted(log, SMALL, sides=SideFeatures(np.zeros((3, 1), np.float32), np.zeros((ITEMS, 1), np.float32)))
    with pytest.raises(DataError, match="no rows"):
        fit_boosted(log.select([]), SMALL)
    for bad in ({"trees": 0}, {"leaves": 1}, {"groups": 0}, {"rates": "mine"}):
        with pytest.raises(ConfigError):
            BoostedConfig(**bad)
