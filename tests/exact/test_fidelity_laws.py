"""Formulas of the published simulators against the numbers that were published of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simulators.fidelity.laws import (
    AURO_CURVE,
    AURO_RATES,
    RATIOS,
    auro_return_days,
    auro_return_table,
    drawn_day,
    gfn_return_probability,
    gfn_weights,
    kuaisim_return_probability,
    slate_correlation,
    slate_worth,
    temper_drop,
    truncated_geometric,
)

DAYS = torch.arange(1.0, 11.0)
# P -> mean and share of day 1, ten days
PUBLISHED = {
    0.2: (3.80, 0.224),
    0.3: (3.04, 0.309),
    0.4: (2.44, 0.402),
    0.5: (1.99, 0.500),
    0.6: (1.67, 0.600),
    0.7: (1.43, 0.700),
    0.75: (1.33, 0.750),
    0.8: (1.25, 0.800),
    0.9: (1.11, 0.900),
}


@pytest.mark.parametrize(("p", "expected"), PUBLISHED.items())
def test_truncated_geometric_law_has_the_published_means(p, expected):
    law = truncated_geometric(torch.tensor([p]))[0]
    assert float(law.sum()) == pytest.approx(1.0, abs=1e-6)
    assert float(law @ DAYS) == pytest.approx(expected[0], abs=0.0051)
    assert float(law[0]) == pytest.approx(expected[1], abs=0.00051)


@given(st.floats(1e-3, 0.999), st.integers(1, 15))
def test_truncated_geometric_law_is_the_geometric_one_cut_and_rescaled(p, days):
    law = truncated_geometric(torch.tensor(p, dtype=torch.float64), days)
    expected = p * (1 - p) ** np.arange(days)
    np.testing.assert_allclose(law.numpy(), expected / expected.sum(), rtol=1e-9)


def test_days_are_the_quantiles_of_one_draw():
    law = torch.tensor([[0.5, 0.25, 0.25]])
    drawn = drawn_day(law.expand(6, -1), torch.tensor([0.0, 0.49, 0.5, 0.74, 0.75, 0.9999]))
    assert drawn.tolist() == [1, 1, 2, 2, 3, 3]


def test_gfn_weighs_hate_most():
    names = dict(zip(("click", "long_view", "like", "comment", "follow", "forward", "hate"), gfn_weights().tolist(), strict=True))
    published = {"click": 0.0004, "long_view": 0.0006, "like": 0.015, "comment": 0.083, "follow": 0.158, "forward": 0.158, "hate": 0.585}
    assert names == pytest.approx(published, abs=1e-3)
    mended = gfn_weights(bug=False)
    assert float(mended[-1]) < 0
    assert (mended[:-1] > 0).all()


def test_return_probabilities_by_hand_and_their_clips():
    personal, worth = torch.tensor([0.2, -3.0, 3.0]), torch.tensor([0.5, 0.5, 0.5])
    kuaisim = kuaisim_return_probability(personal, worth, influence=0.1, bias=0.4)
    torch.testing.assert_close(kuaisim, torch.tensor([0.65, 0.001, 0.999]))
    gfn = gfn_return_probability(torch.zeros(1), torch.tensor([0.26]), scale=0.1, influence=0.4, bias=0.4)
    torch.testing.assert_close(gfn, torch.tensor([0.05 + 0.1 + 0.4]))


def test_worth_of_a_slate_is_a_mean_of_weighted_sums():
    responses = torch.zeros(1, 2, 7)
    responses[0, 0, :2] = 1.0
    responses[0, 1, 6] = 1.0
    assert float(slate_worth(responses, torch.tensor(RATIOS))) == pytest.approx((0.8417 + 0.4872 - 0.000486) / 2)


def test_similarity_is_divided_by_the_width():
    alike = torch.ones(1, 6, 64)
    torch.testing.assert_close(slate_correlation(alike), torch.full((1, 6), 1 / 64))
    apart = torch.eye(64)[:6].unsqueeze(0)
    torch.testing.assert_close(slate_correlation(apart), torch.full((1, 6), 1 / 384))


def test_patience_lost_lies_between_one_and_two_for_clicks_and_never_comes_back():
    assert temper_drop(torch.tensor([0.0, 0.5, 1.0, 2.5, -1.0])).tolist() == [2.0, 1.5, 1.0, 0.0, 2.0]
    assert temper_drop(torch.tensor([0.0, 1.0, -1.0]), discount=True).tolist() == [4.0, 2.0, 6.0]


@pytest.mark.parametrize("mode", ["eval", "dropout"])
def test_auro_table_passes_through_what_was_measured(mode):
    table = auro_return_table(dropout=mode == "dropout")
    means, first = AURO_CURVE[mode]
    torch.testing.assert_close(table.sum(1), torch.ones(11))
    assert (table > 0).all()
    at = auro_return_days(torch.tensor(AURO_RATES), table)
    np.testing.assert_allclose((at @ DAYS).numpy(), means, atol=1e-4)
    np.testing.assert_allclose(at[:, 0].numpy(), first, atol=1e-6)
    torch.testing.assert_close(auro_return_days(torch.tensor([0.65]), table)[0], 0.75 * at[6] + 0.25 * at[7])
    torch.testing.assert_close(auro_return_days(torch.tensor([0.95]), table)[0], 0.25 * at[7] + 0.75 * at[8])
