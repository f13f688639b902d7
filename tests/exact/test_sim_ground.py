"""Models on a ground of boosted trees: levels reach users never seen; users of a latent model inferred from their own rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.errors import ContractError, DataError
from recrl_datasets import Log
from simulators.fold_in import FoldedUsers, folded_logits
from simulators.past import PastEffect
from simulators.response import WIDTH, LatentResponse, ResponseNotes
from simulators.response_fit import ResponseConfig, fit_response
from simulators.response_model import load_response, replay
from simulators.sequence_fit import SequenceConfig, fit_sequence
from simulators.toy import toy_response
from simulators.trees import BoostedConfig, SideFeatures, fit_ground

USERS, ITEMS, F = 240, 12, len(BEHAVIOURS)
QUICK = BoostedConfig(trees=40, leaves=7, learning_rate=0.2, min_leaf_rows=20)


def groups(part: int, seed: int = 0) -> Log:
    """Users of an even number click twice as often, even items likewise; the rows of every third user are kept apart (``part`` 1)."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(4, 24, USERS)
    user = np.repeat(np.arange(USERS), rows)
    item = rng.integers(0, ITEMS, user.size)
    click = rng.random(user.size) < 0.2 * np.where(user % 2 == 0, 2.0, 1.0) * np.where(item % 2 == 0, 2.0, 1.0)
    columns = {"user": user.astype(np.int32), "item": item.astype(np.int32), "click": click.astype(np.uint8)}
    columns["timestamp_ms"] = np.arange(user.size) * 60_000
    columns["long_view"] = (click & (rng.random(user.size) < 0.6)).astype(np.uint8)
    log = Log.from_arrays(columns, n_users=USERS, n_items=ITEMS)
    return log.select((user % 3 == 0) == (part == 1))


@pytest.fixture(scope="module")
def known():
    rng = np.random.default_rng(1)
    sides = SideFeatures(*(np.column_stack([np.arange(n) % 2, rng.random(n)]).astype(np.float32) for n in (USERS, ITEMS)))
    log = groups(0)
    return log, sides, fit_ground(log, sides, QUICK)


def clicks(logits: torch.Tensor, log: Log) -> dict[tuple[int, int], float]:
    """Mean P(click) of a log's rows by parity of user and item."""
    p, user, item = torch.sigmoid(logits[:, 0]).numpy(), log.column("user"), log.column("item")
    return {(a, b): float(p[(user % 2 == a) & (item % 2 == b)].mean()) for a in (0, 1) for b in (0, 1)}


def test_levels_tell_groups_apart_and_leave_the_intercept_alone(known):
    log, _, ground = known
    assert float(ground.users[0::2, 0].mean() - ground.users[1::2, 0].mean()) > 0.5
    assert float(ground.items[0:12:2, 0].mean() - ground.items[1:12:2, 0].mean()) > 0.5
    assert float(ground.logged.mean(0).abs().max()) < 1e-5
    assert ground.logged.shape == (log.n_rows, F)
    assert float(ground.logged[:, 2:].abs().max()) == 0.0, "behaviours that never happened have no trees"


@pytest.mark.parametrize("model", ["latent", "sequence"])
def test_users_never_seen_get_the_level_of_their_features(known, model, tmp_path):
    log, _, ground = known
    if model == "latent":
        fitted = fit_response(log, ResponseConfig(dim=4, epochs=8), ground=ground)
    else:
        fitted = fit_sequence(log, SequenceConfig(dim=4, memory=16, epochs=3, lanes=16), ground=ground)
    found = clicks(replay(fitted, groups(1))[0], groups(1))
    for (a, b), truth in {(0, 0): 0.8, (0, 1): 0.4, (1, 0): 0.4, (1, 1): 0.2}.items():
        assert found[a, b] == pytest.approx(truth, abs=0.1)
    p = fitted.marginals(replay(fitted, log)[0][:, :F])[:, 0].double().mean()
    assert float(p) == pytest.approx(float(log.column("click").mean()), rel=1e-3)
    fitted.save(tmp_path)
    again = load_response(tmp_path)
    assert torch.equal(replay(again, groups(1))[0], replay(fitted, groups(1))[0])


def test_without_a_level_a_latent_stranger_is_the_average_user(known):
    log, _, ground = known
    fitted = fit_response(log, ResponseConfig(dim=4, epochs=8), ground=replace(ground, users=torch.zeros(USERS + 1, F)))
    strangers = fitted.users[0::3][:-1]
    assert torch.equal(strangers, strangers[:1].expand_as(strangers))


# ---------------------------------------------------------------- inferred users


def test_a_users_row_is_inferred_as_by_bayes():
    """One bias of a click, known item biases: against the posterior on a grid."""
    items = torch.zeros(4, 1 + WIDTH)
    items[:, 1] = torch.tensor([-1.0, 0.0, 1.0, 0.0])
    loadings = torch.zeros(F)
    loadings[0] = 1e-6
    notes = ResponseNotes(user_precision=(14.0, 1.5))
    model = LatentResponse(torch.zeros(2, 1 + WIDTH), items, torch.full((F,), -0.3), loadings, torch.zeros(F), notes=notes)
    folded, rng = FoldedUsers(model), np.random.default_rng(0)
    grid = np.linspace(-6, 6, 4001)
    weight, memory = np.exp(-0.75 * grid**2), folded.initial_memory(torch.tensor([0]))
    for k in range(12):
        shown = int(rng.integers(0, 3))
        p = 1 / (1 + np.exp(-(grid - 0.3 + float(items[shown, 1]))))
        told = folded.request_logits(torch.tensor([0]), memory, torch.tensor([[shown]]))[0, 0, 0]
        assert float(torch.sigmoid(told)) == pytest.approx((weight * p).sum() / weight.sum(), abs=0.015)
        click = int(k % 4 == 0)
        weight = weight * np.where(click, p, 1 - p)
        memory = folded.advance(memory, torch.tensor([[shown]]), torch.tensor([[click]], dtype=torch.uint8))
    assert float(memory[0, 1]) + 0.3 == pytest.approx((weight * grid).sum() / weight.sum(), abs=0.1)


def test_of_users_with_rows_folding_knows_nothing_before_them():
    model = toy_response()
    model.notes = ResponseNotes(user_precision=(1.0, 1.0))
    rng = np.random.default_rng(0)
    columns = {"user": np.repeat(np.arange(50), 8).astype(np.int32), "item": rng.integers(0, 40, 400).astype(np.int32)}
    columns |= {"timestamp_ms": np.arange(400) * 1000, "click": rng.integers(0, 2, 400).astype(np.uint8)}
    log = Log.from_arrays(columns, n_users=50, n_items=40)
    logits, item = folded_logits(model, log), torch.from_numpy(log.column("item").astype(np.int64))
    first = torch.arange(0, 400, 8)
    alone = FoldedUsers(model).request_logits(first, FoldedUsers(model).initial_memory(torch.full((50,), -1)), item[first].unsqueeze(1))
    torch.testing.assert_close(logits[first], alone[:, 0])
    later = torch.arange(7, 400, 8)
    blank = FoldedUsers(model).request_logits(later, FoldedUsers(model).initial_memory(torch.full((50,), -1)), item[later].unsqueeze(1))
    assert float((logits[later] - blank[:, 0])[:, 0].abs().min()) > 0


def test_effects_and_features_that_do_not_fit_are_refused(known):
    log, sides, _ = known
    with pytest.raises(ContractError, match="edges"):
        PastEffect(torch.zeros(2), torch.zeros(7, 3), torch.zeros(7), torch.zeros(7, 2, 4, 7))
    with pytest.raises(DataError, match="features of 3 users"):
        fit_ground(log, SideFeatures(sides.user[:3], sides.item), QUICK)
