"""Drift against its formulas, written out by hand from the same draws; seeds apart, tables as prefixes of longer ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recrl.checks import check_no_sync
from recrl.core.config import from_json, to_json
from recrl.core.errors import ConfigError, ContractError
from recrl.core.streams import Purpose, Streams
from recrl.core.torch.streams import TensorStreams
from simulators.drift import GLITCH_SHARE, Drift, DriftConfig

DAYS = torch.arange(60, dtype=torch.float32)
NAMES = ("none", "glitch", "held", "weekly", "regimes", "taste", "mix")
GROUPS = torch.tensor([0, 1, 1, 2, -1, 2, 2, 0, 1, 1])


def drift(kind="none", horizon=60, **options):
    return Drift(DriftConfig(kind, **options), horizon_days=horizon, dim=7, n_items=12, groups=GROUPS)


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize("name", NAMES)
def test_codes_and_names_are_one_kind_and_survive_json(name):
    code = f"N{NAMES.index(name)}"
    assert DriftConfig(code) == DriftConfig(name)
    assert DriftConfig(name).code == code
    config = DriftConfig(code, seed=4)
    assert from_json(DriftConfig, to_json(config)) == config


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"kind": "sometimes"}, "kind"),
        ({"kind": "N7"}, "kind"),
        ({"kind": "held", "amplitude": 1.0}, "amplitude"),
        ({"kind": "regimes", "amplitude": -0.1}, "amplitude"),
        ({"kind": "regimes", "amplitude": float("nan")}, "amplitude"),
        ({"kind": "held", "period_days": 0}, "period_days"),
        ({"kind": "weekly", "walk": -1.0}, "walk"),
        ({"kind": "weekly", "switch_days": (3,)}, "switch_days"),
        ({"kind": "regimes", "switch_days": (5, 5)}, "switch_days"),
        ({"kind": "regimes", "switch_days": (0, 5)}, "switch_days"),
        ({"newborn_share": 1.0}, "newborn_share"),
        ({"newborn_days": 0}, "newborn_days"),
        ({"item_life_days": -1.0}, "item_life_days"),
        ({"kind": "taste", "fade_half_life_days": 0.0}, "fade_half_life_days"),
    ],
)
def test_options_out_of_range_are_named(options, where):
    with pytest.raises(ConfigError) as caught:
        DriftConfig(**options)
    assert caught.value.where == f"DriftConfig.{where}"


@pytest.mark.parametrize(
    ("config", "where"),
    [(DriftConfig("taste"), "dim"), (DriftConfig("mix"), "groups"), (DriftConfig(item_life_days=3.0), "n_items")],
)
def test_what_a_kind_needs_is_asked_for(config, where):
    with pytest.raises(ConfigError) as caught:
        Drift(config)
    assert caught.value.where == f"Drift.{where}"


# ---------------------------------------------------------------- what every kind promises


def everything(d, day):
    items = torch.arange(12).expand(len(day), -1)
    rows = TensorStreams(1).normal(torch.arange(len(day)), 0, Purpose.USERS, (15,))
    draws = TensorStreams(1).uniform(torch.arange(len(day)), 0, Purpose.USERS, (2,))
    told = (d.factor(day), d.response_shift(day), d.return_shift(day), d.turned(day, rows), d.item_shift(day, items), d.live(day, items))
    return [x for x in (*told, d.live(day), d.user_mix(day), d.arriving(day, draws), d.truth(day)) if x is not None]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_path_is_the_seeds_alone_and_a_longer_one_goes_on(name):
    options = {"seed": 3, "newborn_share": 0.4, "item_life_days": 20.0}
    day = DAYS + 0.503
    path = everything(drift(name, **options), day)
    assert same(path, everything(drift(name, **options), day))
    assert same(path, everything(drift(name, horizon=400, **options), day)), "a longer horizon continues the same path"
    assert not same(path, everything(drift(name, **(options | {"seed": 4})), day))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    apart = drift(name, **options)
    assert torch.equal(apart.truth(day[order]), apart.truth(day)[order])
    assert torch.equal(apart.truth(day[:1]), apart.truth(day)[:1]), "whoever else asks"


@pytest.mark.parametrize("name", NAMES)
def test_only_what_drifts_is_told(name):
    d = drift(name)
    told = {
        "factor": d.factor(DAYS),
        "response": d.response_shift(DAYS),
        "return": d.return_shift(DAYS),
        "items": d.item_shift(DAYS, torch.zeros(60, 2, dtype=torch.int64)),
        "mix": d.user_mix(DAYS),
    }
    meant = {"glitch": {"factor"}, "held": {"factor"}, "weekly": {"response"}, "regimes": {"return"}, "taste": {"items"}, "mix": {"mix"}}
    assert {k for k, v in told.items() if v is not None} == meant.get(name, set())
    assert d.live(DAYS) is None
    rows = torch.rand(60, 15)
    assert torch.equal(d.turned(DAYS, rows), rows) == (name != "taste")
    assert d.truth(DAYS).shape == (60, {"none": 0, "weekly": 7, "mix": 4}.get(name, 1))
    assert d.truth(DAYS[:0]).shape[0] == 0


@pytest.mark.parametrize("name", NAMES[1:])
def test_without_amplitude_nothing_drifts(name):
    d = drift(name, amplitude=0.0, walk=0.0, fade=0.0)
    for value, neutral in ((d.factor(DAYS), 1.0), (d.response_shift(DAYS), 0.0), (d.return_shift(DAYS), 0.0)):
        assert value is None or torch.equal(value, torch.full_like(value, neutral))
    rows = torch.rand(60, 15)
    assert torch.equal(d.turned(DAYS, rows), rows)
    if name == "mix":
        torch.testing.assert_close(d.user_mix(DAYS)[0], torch.tensor([0.2, 0.4, 0.3, 0.1]))
        assert torch.equal(d.user_mix(DAYS), d.user_mix(DAYS)[:1].expand(60, -1))


@pytest.mark.parametrize("name", NAMES)
def test_no_look_up_waits_for_the_device(name):
    def build(device):
        config = DriftConfig(name, newborn_share=0.3, item_life_days=9.0)
        d = Drift(config, dim=7, n_items=12, groups=GROUPS, device=device)
        day, items, rows, draws = torch.rand(8), torch.zeros(8, 3, dtype=torch.int64), torch.zeros(8, 15), torch.rand(8, 2)
        day, items, rows, draws = (x.to(device) for x in (day, items, rows, draws))
        return lambda: (
            d.truth(day),
            d.live(day),
            d.live(day, items),
            d.item_shift(day, items),
            d.turned(day, rows),
            d.arriving(day, draws),
        )

    check_no_sync(build, name)


def test_days_beyond_the_horizon_count_as_its_last():
    d = drift("weekly", horizon=10)
    assert torch.equal(d.truth(torch.tensor([10.0, 11.0, 500.0])), d.truth(torch.tensor([10.0])).expand(3, -1))


def test_draws_are_those_of_the_drift_stream():
    """Users' streams of the same seed share nothing with it: the multiplier is the draw of Purpose.DRIFT, bit for bit."""
    m = 1 + 0.2 * (2 * Streams(8).uniform(0, np.arange(60) // 7, Purpose.DRIFT) - 1)
    np.testing.assert_array_equal(drift("held", seed=8).factor(DAYS).numpy(), m.astype(np.float32))


# ---------------------------------------------------------------- the formulas


def test_glitch_fills_a_thousandth_of_every_period():
    d = drift("glitch", seed=2, period_days=5)
    fine = torch.arange(0, 60, 1 / 8192, dtype=torch.float64)
    got = d.factor(fine)
    held = drift("held", seed=2, period_days=5).factor(fine)
    inside = (fine % 5 >= 2.5) & (fine % 5 < 2.505)
    assert torch.equal(got, torch.where(inside, held, 1.0))
    assert inside.float().mean() == pytest.approx(GLITCH_SHARE, rel=0.05)
    assert len(got[inside].unique()) == 12, "each period has its own multiplier"
    assert ((got[inside] - 1).abs() > 1e-4).all()


@given(st.integers(0, 2**40), st.integers(1, 30), st.floats(0, 0.99))
def test_held_multipliers_stay_in_their_band_for_a_whole_period(seed, period, amplitude):
    m = drift("held", seed=seed, period_days=period, amplitude=amplitude).factor(DAYS)
    assert ((m >= 1 - amplitude - 1e-6) & (m <= 1 + amplitude + 1e-6)).all()
    assert len(m.unique_consecutive()) <= -(-60 // period)
    for lo in range(0, 60, period):
        assert len(m[lo : lo + period].unique()) == 1


def test_weekly_is_a_sine_of_each_behaviour_plus_a_walk():
    d = drift("weekly", seed=6, amplitude=0.4, walk=0.1)
    streams = Streams(6)
    height, phase = streams.uniform(1, 0, Purpose.DRIFT, (2, 7))[0]
    walk = np.zeros(7)
    for day in range(60):
        if day:
            walk = walk + 0.1 * streams.normal(2, day, Purpose.DRIFT, (7,))[0]
        sine = 0.4 * (0.5 + height) * np.sin(2 * np.pi * day / 7 + 2 * np.pi * phase)
        got = d.response_shift(torch.tensor([day + 0.7]))[0].numpy()
        np.testing.assert_allclose(got, sine + walk, atol=1e-6)
    still = drift("weekly", seed=6, walk=0.0).response_shift(DAYS)
    torch.testing.assert_close(still[:7].repeat(8, 1), still[:56])
    assert torch.equal(d.truth(DAYS), d.response_shift(DAYS))


def test_regimes_turn_the_sign_every_period_or_on_the_days_named():
    turn = drift("regimes", seed=1, period_days=9).return_shift(DAYS)
    assert torch.equal(turn.abs(), torch.full((60,), 0.3))
    assert turn.diff().nonzero().squeeze(1).tolist() == [8, 17, 26, 35, 44, 53]
    named = drift("regimes", seed=1, switch_days=(4, 30, 31)).return_shift(DAYS)
    assert named.diff().nonzero().squeeze(1).tolist() == [3, 29, 30]
    firsts = {float(drift("regimes", seed=s).return_shift(DAYS[:1])) for s in range(12)}
    assert firsts == {np.float32(0.3), -np.float32(0.3)}, "the seed says which regime comes first"


@pytest.mark.parametrize("dim", [1, 2, 7, 8])
def test_taste_turns_by_an_orthogonal_map_as_far_as_the_day_says(dim):
    d = Drift(DriftConfig("taste", amplitude=0.5, period_days=4, seed=5), horizon_days=60, dim=dim)
    basis = torch.cat([torch.eye(dim), torch.full((dim, 8), 3.0)], dim=1)
    for day in (0, 1, 13, 60):
        out = d.turned(torch.full((dim,), float(day)), basis)
        assert torch.equal(out[:, dim:], basis[:, dim:]), "biases stay"
        turn = out[:, :dim]
        torch.testing.assert_close(turn @ turn.T, torch.eye(dim))
        expected = torch.tensor([np.cos(0.5 * day / 4)] * (dim - dim % 2) + [1.0] * (dim % 2), dtype=torch.float32)
        torch.testing.assert_close(turn.diagonal().sort().values, expected.sort().values)
        assert float(d.truth(torch.tensor([float(day)]))) == pytest.approx(0.5 * day / 4)
    two = d.turned(torch.full((dim,), 12.0), d.turned(torch.full((dim,), 8.0), basis))
    torch.testing.assert_close(two, d.turned(torch.full((dim,), 20.0), basis), msg="turns add up")


def test_turning_asks_for_rows_that_fit():
    with pytest.raises(ContractError, match="3 columns for vectors of 7"):
        drift("taste").turned(DAYS[:2], torch.rand(2, 3))


def test_items_are_born_fade_and_die_on_days_of_their_own():
    d = Drift(
        DriftConfig("taste", newborn_share=0.5, newborn_days=20, item_life_days=15.0, fade=0.8, fade_half_life_days=5.0, seed=9),
        horizon_days=60,
        dim=4,
        n_items=40,
    )
    late, when = Streams(9).uniform(6, np.arange(40), Purpose.DRIFT, (2,)).T
    life = np.ceil(-15.0 * np.log1p(-Streams(9).uniform(7, np.arange(40), Purpose.DRIFT))).astype(int)
    fade = 1.6 * Streams(9).uniform(8, np.arange(40), Purpose.DRIFT)
    birth = np.where(late < 0.5, 1 + np.floor(20 * when), 0).astype(int)
    live, some = d.live(DAYS), torch.arange(40).flip(0).expand(60, -1)
    fewest = 40
    for day in range(60):
        alive = [birth[i] <= day < birth[i] + life[i] for i in range(40)]
        assert live[day].tolist() == alive
        fewest = min(fewest, sum(alive))
    assert d.fewest_live == min(fewest, int(d.live(torch.tensor([60.0])).sum()))
    assert torch.equal(d.live(DAYS, some), live.flip(1))
    assert 8 < (birth > 0).sum() < 32
    assert birth.max() <= 20
    shift = d.item_shift(DAYS + 0.4, some).flip(1).numpy()
    age = np.clip(np.arange(60)[:, None] - birth, 0, None)
    np.testing.assert_allclose(shift, -fade * (1 - 0.5 ** (age / 5.0)), atol=1e-6)


def test_groups_arrive_in_the_proportions_told():
    d = drift("mix", seed=2, amplitude=1.0, period_days=10)
    mix = d.user_mix(DAYS)
    torch.testing.assert_close(mix.sum(1), torch.ones(60))
    tilt = 2 * Streams(2).uniform(5, np.arange(60) // 10, Purpose.DRIFT, (4,)) - 1
    weight = np.array([2, 4, 3, 1]) * np.exp(tilt)
    np.testing.assert_allclose(mix.numpy(), weight / weight.sum(1, keepdims=True), rtol=1e-6)
    # a grid of draws meets every user as often as its group's share says
    n = 400
    grid = (torch.cartesian_prod(torch.arange(n), torch.arange(12)).float() + 0.5) / torch.tensor([n, 12])
    for day in (0.0, 15.0):
        user = d.arriving(torch.full((len(grid),), day), grid)
        share = torch.bincount(user, minlength=10) / len(grid)
        group = torch.where(GROUPS < 0, 3, GROUPS)
        expected = mix[int(day)][group] / torch.bincount(group)[group]
        torch.testing.assert_close(share, expected, atol=2 / n, rtol=0)
    last = torch.tensor([[0.99999994, 0.99999994]])
    assert int(d.arriving(DAYS[:1], last)) == 4, "the user of no group, not one beyond the end"
