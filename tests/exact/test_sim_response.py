"""The response model: probabilities against hand-computed ones, calibration, fallbacks, storage, and its fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.errors import ConfigError, ContractError, DataError, StorageError
from recrl_datasets import Log
from simulators.published import CLICK_GIVEN, RATES
from simulators.rates import rate_shifts
from simulators.response import WIDTH, LatentResponse, calibrated, normal_quantiles
from simulators.response_fit import ResponseConfig, fit_response
from simulators.toy import TOY_RATES, toy_response


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + np.exp(-x))


def small(users: int = 2, items: int = 3, dim: int = 2) -> LatentResponse:
    torch.manual_seed(0)
    return LatentResponse(
        torch.randn(users + 1, dim + WIDTH),
        torch.randn(items + 1, dim + WIDTH),
        torch.linspace(-1, 1, 7),
        torch.tensor([1.0, 0.8, 0.5, 0.0, -0.5, 1.2, -1.0]),
        torch.tensor([0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06]),
    )


def test_probabilities_by_hand():
    model, u, i = small(), 1, 2
    user, item = model.users[u].double().numpy(), model.items[i].double().numpy()
    taste = user[0] * item[0] + user[1] * item[1]
    logit = [float(model.intercepts[k]) + user[2 + k] + item[2 + k] + float(model.loadings[k]) * taste for k in range(7)]
    click = sigmoid(logit[0])
    scores = model.scores(torch.tensor([u]), torch.tensor([[i]]))[0, 0]
    assert float(scores[0]) == pytest.approx(click, abs=1e-6)
    for k in range(1, 7):
        marginal = click * sigmoid(logit[k]) + (1 - click) * float(model.off_click[k])
        assert float(scores[k]) == pytest.approx(marginal, abs=1e-6)
    assert float(model.click_probability(torch.tensor([u]), torch.tensor([[i]]))) == pytest.approx(click, abs=1e-6)


def test_linear_form_gives_the_logits():
    model = small(5, 9, 4)
    user, item = torch.tensor([0, 3, -1]), torch.arange(9).expand(3, -1)
    query, bias = model.queries(user, [0, 2, 6])
    logits = torch.einsum("bad,bcd->bca", query, model.item_rows(item)) + bias.unsqueeze(1)
    torch.testing.assert_close(logits, model.logits(user, item)[..., [0, 2, 6]])


def test_unknown_users_and_items_are_the_last_row():
    model = small()
    known = model.scores(torch.tensor([0]), torch.tensor([[1]]))
    for stranger in (-1, 2, 10**9):
        assert torch.equal(model.user_rows(torch.tensor([stranger]))[0, :2], model.users[-1, :2])
        assert torch.equal(model.item_rows(torch.tensor([[stranger if stranger != 2 else 3]]))[0, 0], model.items[-1])
        assert not torch.equal(model.scores(torch.tensor([stranger]), torch.tensor([[1]])), known)


def test_calibration_reaches_rates_and_dependencies():
    model = toy_response()
    pairs = torch.cartesian_prod(torch.arange(50), torch.arange(40))
    model = calibrated(model, pairs[:, 0], pairs[:, 1], RATES, CLICK_GIVEN, "published")
    scores = model.scores(pairs[:, 0], pairs[:, 1:])[:, 0].double()
    logits = model.logits(pairs[:, 0], pairs[:, 1:])[:, 0].double()
    joint = torch.sigmoid(logits) * torch.sigmoid(logits[:, :1])
    for k, name in enumerate(BEHAVIOURS):
        assert float(scores[:, k].mean()) == pytest.approx(RATES[name], rel=1e-4)
        if k:
            assert float(joint[:, k].sum() / scores[:, k].sum()) == pytest.approx(CLICK_GIVEN[name], rel=1e-4)
    assert model.notes.rates_from == "published"


def test_a_behaviour_of_rate_zero_is_switched_off():
    model = toy_response()
    users, items = torch.arange(50), torch.arange(40).expand(50, -1)
    off = calibrated(model, users, items[:, 0], {"click": 0.5}, {}, "log")
    assert float(off.scores(users, items)[..., 1:].max()) < 1e-12


@pytest.mark.parametrize("rates", [{"click": 1.0}, {"click": 0.3, "like": 0.4}, {"click": 0.0 + 1e-30, "like": 0.2}])
def test_rates_that_no_model_has_are_refused(rates):
    with pytest.raises(ContractError, match="cannot be reached"):
        calibrated(toy_response(), torch.arange(50), torch.arange(50) % 40, rates, {}, "log")


def test_save_and_load_give_the_same_model(tmp_path):
    model = toy_response()
    model.save(tmp_path)
    again = LatentResponse.load(tmp_path)
    users, items = torch.arange(-1, 50), torch.arange(40).expand(51, -1)
    assert torch.equal(again.scores(users, items), model.scores(users, items))
    assert (again.watch, again.notes) == (model.watch, model.notes)


def test_broken_files_are_named(tmp_path):
    with pytest.raises(StorageError, match="is missing"):
        LatentResponse.load(tmp_path)
    toy_response().save(tmp_path)
    path = tmp_path / "response.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(StorageError, match="cannot be read"):
        LatentResponse.load(tmp_path)
    toy_response().save(tmp_path)
    data = json.loads((tmp_path / "response.json").read_text())
    data["notes"]["colour"] = "blue"
    (tmp_path / "response.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="unknown key 'colour'"):
        LatentResponse.load(tmp_path)


def test_tables_that_do_not_fit_are_refused():
    good = small()
    with pytest.raises(ContractError, match="do not fit"):
        LatentResponse(good.users[:, :-1], good.items, good.intercepts, good.loadings, good.off_click)
    with pytest.raises(ContractError, match="7 values each"):
        LatentResponse(good.users, good.items, good.intercepts[:3], good.loadings, good.off_click)


def test_no_gradient_reaches_the_parameters():
    users = torch.randn(3, 10, requires_grad=True)
    model = LatentResponse(users, torch.randn(4, 10), torch.zeros(7), torch.ones(7), torch.zeros(7))
    assert not model.scores(torch.tensor([0]), torch.tensor([[1]])).requires_grad


def test_normal_quantiles_have_the_moments_of_the_normal_law():
    z = normal_quantiles().double()
    assert float(z.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(z.std(correction=0)) == pytest.approx(1.0, abs=1e-6)
    assert float((z**4).mean()) == pytest.approx(3.0, abs=0.05)


# ---------------------------------------------------------------- fitting


def logged(rows: int = 20_000, seed: int = 0, *, watch: bool = False) -> Log:
    """Rows drawn from the toy model: every user meets random items."""
    model, rng = toy_response(), np.random.default_rng(seed)
    user = np.sort(rng.integers(0, 48, rows)).astype(np.int32)  # users 48 and 49 have no rows
    item = rng.integers(0, 39, rows).astype(np.int32)  # nor has item 39
    logits = model.logits(torch.from_numpy(user.astype(np.int64)), torch.from_numpy(item.astype(np.int64)).unsqueeze(1))[:, 0].double()
    click = rng.random(rows) < torch.sigmoid(logits[:, 0]).numpy()
    columns = {"user": user, "item": item, "timestamp_ms": np.arange(rows, dtype=np.int64), "click": click.astype(np.uint8)}
    for k, name in enumerate(BEHAVIOURS[1:], start=1):
        p = np.where(click, torch.sigmoid(logits[:, k]).numpy(), float(model.off_click[k]))
        columns[name] = (rng.random(rows) < p).astype(np.uint8)
    if watch:
        columns["watch_seconds"] = np.exp(rng.normal(1.0 + 2.0 * click + 0.05 * (item % 5), 0.5)).astype(np.float32)
    return Log.from_arrays(columns, n_users=50, n_items=40)


def scores_of_rows(model: LatentResponse, log: Log) -> torch.Tensor:
    user, item = (torch.from_numpy(log.column(name).astype(np.int64)) for name in ("user", "item"))
    return model.scores(user, item.unsqueeze(1))


@pytest.fixture(scope="module")
def fitted():
    log = logged(watch=True)
    return log, fit_response(log)


def test_fit_is_calibrated_on_its_rows(fitted):
    log, model = fitted
    scores = scores_of_rows(model, log)
    for k, name in enumerate(BEHAVIOURS):
        assert float(scores[:, 0, k].double().mean()) == pytest.approx(float(log.column(name).mean()), rel=1e-3)


def test_fit_finds_the_truth_behind_the_rows(fitted):
    _, model = fitted
    truth = toy_response().scores(torch.arange(48), torch.arange(39).expand(48, -1))
    found = model.scores(torch.arange(48), torch.arange(39).expand(48, -1))
    for k in range(2):
        a, b = truth[..., k].flatten(), found[..., k].flatten()
        assert float(torch.corrcoef(torch.stack([a, b]))[0, 1]) > 0.9
        # better by far than what a rate alone says
        assert float(((a - b) ** 2).mean()) < 0.25 * float(a.var())


def test_fit_repeats_bit_for_bit_and_seeds_differ():
    log = logged(3_000)
    config = ResponseConfig(epochs=2)
    one, two, other = fit_response(log, config, seed=1), fit_response(log, config, seed=1), fit_response(log, config, seed=2)
    assert torch.equal(one.users, two.users)
    assert torch.equal(one.items, two.items)
    assert not torch.equal(one.users, other.users)


def test_users_and_items_without_rows_get_the_mean_row(fitted):
    _, model = fitted
    assert torch.equal(model.users[48], model.users[-1])
    assert torch.equal(model.users[49], model.users[-1])
    assert torch.equal(model.items[39], model.items[-1])
    torch.testing.assert_close(model.users[-1, :32], model.users[:48, :32].mean(0))


def test_rare_behaviours_get_an_intercept_only_and_it_is_said():
    log = logged(4_000)
    rare = [name for name in BEHAVIOURS[1:] if log.column(name)[log.column("click") == 1].sum() < 90]
    assert rare, "the planted log has rare behaviours"
    model = fit_response(log, ResponseConfig(epochs=2, min_positives=90))
    assert set(model.notes.intercept_only) == set(rare)
    conditional = torch.sigmoid(model.logits(torch.arange(50), torch.arange(40).expand(50, -1)))
    for name in rare:
        k = BEHAVIOURS.index(name)
        assert float(conditional[..., k].std()) < 1e-6
        assert model.notes.positives[k] == int(log.column(name).sum())


def test_watch_time_keeps_its_mean_and_its_dependence_on_the_click(fitted):
    log, model = fitted
    assert model.watch is not None
    clicked = log.column("click") == 1
    state = (log.feedback_bits() & 3).astype(int)
    bias = model.users[log.column("user").astype(int), -1] + model.items[log.column("item").astype(int), -1]
    expected = np.expm1(np.array(model.watch.mean)[state] + bias.double().numpy() + np.array(model.watch.spread)[state] ** 2 / 2)
    assert expected.mean() == pytest.approx(float(log.column("watch_seconds").mean()), rel=0.01)
    assert expected[clicked].mean() > 4 * expected[~clicked].mean()


def test_published_rates_serve_a_log_that_has_none():
    log = logged(3_000)
    ratings = Log.from_arrays({name: log.column(name) for name in ("user", "item", "timestamp_ms", "click")}, n_users=50, n_items=40)
    model = fit_response(ratings, ResponseConfig(epochs=2, rates="published"))
    scores = scores_of_rows(model, log)
    for k, name in enumerate(BEHAVIOURS):
        assert float(scores[:, 0, k].double().mean()) == pytest.approx(RATES[name], rel=1e-3)
    assert model.notes.rates_from == "published"


def test_a_behaviour_that_comes_with_every_click_is_no_obstacle():
    log = logged(3_000)
    columns = {name: log.column(name) for name in ("user", "item", "timestamp_ms", "click")}
    model = fit_response(Log.from_arrays(columns | {"long_view": columns["click"]}, n_users=50, n_items=40), ResponseConfig(epochs=2))
    scores = model.scores(torch.arange(50), torch.arange(40).expand(50, -1))
    torch.testing.assert_close(scores[..., 1], scores[..., 0])
    assert float(scores[..., 2:].max()) < 1e-12


def test_logs_that_cannot_be_fitted_are_refused():
    log = logged(3_000)
    with pytest.raises(DataError, match="no rows"):
        fit_response(log.select(np.zeros(log.n_rows, dtype=bool)))
    columns = {name: log.column(name) for name in ("user", "item", "timestamp_ms", "like")}
    with pytest.raises(DataError, match="no column 'click'"):
        fit_response(Log.from_arrays(columns, n_users=50, n_items=40))
    with pytest.raises(DataError, match="too few to fit"):
        fit_response(log.select(log.column("click") == 1))
    for bad in ({"dim": 0}, {"epochs": 0}, {"learning_rate": -1.0}, {"rates": "mine"}):
        with pytest.raises(ConfigError):
            ResponseConfig(**bad)


def test_unknown_users_of_the_latent_model_have_the_logs_rates():
    """Users with many rows click less here: the average user is not the average row, but a log of unknown users has the log's rates."""
    rng = np.random.default_rng(0)
    rows = np.repeat([3, 40], 60)
    user = np.repeat(np.arange(120), rows)
    click = rng.random(user.size) < np.where(rows[user] == 3, 0.8, 0.3)
    columns = {"user": user.astype(np.int32), "item": rng.integers(0, 20, user.size).astype(np.int32)}
    columns |= {"timestamp_ms": np.arange(user.size), "click": click.astype(np.uint8)}
    log = Log.from_arrays(columns, n_users=121, n_items=20)
    model = fit_response(log, ResponseConfig(dim=2, epochs=10, batch=128))
    item = torch.from_numpy(columns["item"].astype(np.int64)).unsqueeze(1)
    for user_index in (-1, 120):
        p = model.scores(torch.full((log.n_rows,), user_index), item)[:, 0, 0].double().mean()
        assert float(p) == pytest.approx(click.mean(), rel=1e-3)
    assert float(torch.sigmoid(model.users[:120, 2] + model.intercepts[0]).mean()) > click.mean() + 0.05


def test_weights_count_users_and_leave_their_own_rows_alone():
    log = logged(6_000)
    weights = np.random.default_rng(1).exponential(size=50) + 0.01
    config = ResponseConfig(epochs=2)
    plain, same, other = (fit_response(log, config, weights=w) for w in (None, np.full(50, 7.0), weights))
    torch.testing.assert_close(plain.users, same.users, atol=2e-4, rtol=1e-3)
    share = weights[log.column("user")]
    for k, name in enumerate(BEHAVIOURS):
        p = scores_of_rows(other, log)[:, 0, k].double().numpy()
        assert np.average(p, weights=share) == pytest.approx(np.average(log.column(name), weights=share), rel=1e-3)
    with pytest.raises(DataError, match="weights of shape"):
        fit_response(log, config, weights=np.ones(3))


def test_shifts_of_weighted_rows_are_those_of_repeated_rows():
    logits, times = torch.randn(60, 7, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 4
    given = {name: 0.9 for name in BEHAVIOURS[1:]}
    rates = dict.fromkeys(BEHAVIOURS, 0.05) | {"click": 0.4}
    weighted, off = rate_shifts(logits, rates, given, times)
    repeated, also = rate_shifts(logits.repeat_interleave(times, dim=0), rates, given)
    torch.testing.assert_close(weighted, repeated)
    assert torch.equal(off, also)
    assert float(off[1]) == pytest.approx(0.05 * 0.1 / 0.6)


def test_toy_rates():
    model = toy_response()
    scores = model.scores(torch.arange(50), torch.arange(40).expand(50, -1)).double().mean((0, 1))
    np.testing.assert_allclose(scores.numpy(), [TOY_RATES[name] for name in BEHAVIOURS], rtol=1e-4)
