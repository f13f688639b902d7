"""Formulas of the published simulators, as pure functions on tensors; quirks kept."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS

RATIOS: Final = (0.8417, 0.4872, 0.01856, 0.00264, 0.000895, 0.000898, -0.000486)
"""Positives over negatives of each behaviour in KuaiRand-Pure (older 20-core cut), hate negative: the published reward weights."""

P_FLOOR, P_CEILING = 1e-3, 0.999
"""Where the published return probabilities are clipped."""

GFN_EMA: Final = 0.7
"""Weight of the past in GFN4Retention's running satisfaction."""

AURO_RATES: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
"""Response rates at which AURO's return model was measured."""

AURO_CURVE: Final = {
    "eval": (
        (1.181, 1.303, 1.428, 1.542, 1.641, 1.736, 1.816, 1.934, 1.998),
        (0.942, 0.903, 0.863, 0.826, 0.793, 0.763, 0.738, 0.707, 0.693),
    ),
    "dropout": (
        (1.345, 1.477, 1.597, 1.712, 1.795, 1.881, 1.945, 2.051, 2.129),
        (0.884, 0.840, 0.798, 0.759, 0.732, 0.705, 0.686, 0.658, 0.639),
    ),
}
"""Mean return day and share of next-day returns at those rates, measured on the released weights, without and with dropout."""


def truncated_geometric(p: Tensor, days: int = 10) -> Tensor:
    """P(day 1..K) of KuaiSim's return law: softmax of ``log P + k log(1 - P)``, k = 0..K-1: ``(...)`` -> ``(..., K)``."""
    k = torch.arange(days, dtype=p.dtype, device=p.device)
    return torch.softmax(p.log().unsqueeze(-1) + k * torch.log1p(-p).unsqueeze(-1), dim=-1)


def drawn_day(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """A day 1..K for each row by one uniform draw: ``(B, K)``, ``(B,)`` -> ``(B,)`` float."""
    bounds = probabilities.cumsum(-1)[..., :-1]
    return 1.0 + (uniform.unsqueeze(-1) >= bounds).sum(-1).to(probabilities.dtype)


def slate_worth(responses: Tensor, weights: Tensor) -> Tensor:
    """``mean over the slate of sum_f w_f resp_f``: ``(B, K, 7)``, ``(7,)`` -> ``(B,)``."""
    return (responses * weights).sum(-1).mean(-1)


def slate_correlation(items: Tensor) -> Tensor:
    """KuaiSim's similarity of each item to its slate, divided by the width of the encoding: a cosine of 1 counts ``1 / d``.

    The item itself is counted in. ``(B, K, d)`` -> ``(B, K)``; their "ILD" is 1 minus its mean.
    """
    unit = torch.nn.functional.normalize(items, dim=-1)
    return (unit @ unit.transpose(1, 2)).mean(-1) / items.shape[-1]


def temper_drop(worth: Tensor, *, discount: bool = False) -> Tensor:
    """How much patience a request costs: ``-clip(worth - 2, -2, 0)``, or ``2 (2 - worth)`` in the TemperDiscount variant."""
    return 2.0 * (2.0 - worth) if discount else (2.0 - worth).clamp(0.0, 2.0)


def kuaisim_return_probability(personal: Tensor, worth: Tensor, *, influence: float, bias: float) -> Tensor:
    """KuaiSim: ``P = clip(w'u + b + f worth + p0, .001, .999)``, worth of the last slate only: ``(B,)``, ``(B,)`` -> ``(B,)``."""
    return (personal + influence * worth + bias).clamp(P_FLOOR, P_CEILING)


def gfn_return_probability(personal: Tensor, satisfaction: Tensor, *, scale: float, influence: float, bias: float) -> Tensor:
    """GFN4Retention: ``P = clip(c_pers sigmoid(w'u + b) + f (c - .01) + p0, .001, .999)``: ``(B,)``, ``(B,)`` -> ``(B,)``."""
    return (scale * torch.sigmoid(personal) + influence * (satisfaction - 0.01) + bias).clamp(P_FLOOR, P_CEILING)


def gfn_weights(*, bug: bool = True) -> Tensor:
    """GFN4Retention's weights ``softmax(1 - log(r_f + .001))``, (7,): hate's negative ratio makes it weigh most (the bug).

    Without the bug the softmax is taken over ``|r_f|`` and hate counts against retention.
    """
    r = torch.tensor(RATIOS)
    if bug:
        return torch.softmax(1.0 - torch.log(r + 0.001), dim=0)
    sign = torch.ones(len(BEHAVIOURS))
    sign[-1] = -1.0
    return sign * torch.softmax(1.0 - torch.log(r.abs() + 0.001), dim=0)


def auro_return_table(dropout: bool = True) -> Tensor:
    """P(day 1..10) at response rates 0, .1, ... 1: the measured share of day 1, and a geometric tail that gives the measured mean.

    ``(11, 10)``; the two rates that were not measured lie half-way. The released network itself is not to be had: this passes through
    all that was published of it.
    """
    means, first = (torch.tensor(x, dtype=torch.float64) for x in AURO_CURVE["dropout" if dropout else "eval"])
    later = torch.arange(9, dtype=torch.float64)
    wanted = (means - first) / (1.0 - first) - 2.0
    low, high = torch.full((9,), 1e-6, dtype=torch.float64), torch.full((9,), 2.0, dtype=torch.float64)
    for _ in range(60):
        ratio = (low + high) / 2
        tail = ratio.unsqueeze(1) ** later
        short = (tail * later).sum(1) / tail.sum(1) < wanted
        low, high = torch.where(short, ratio, low), torch.where(short, high, ratio)
    tail = tail / tail.sum(1, keepdim=True) * (1.0 - first).unsqueeze(1)
    law = torch.cat([first.unsqueeze(1), tail], dim=1).float()
    return torch.cat([law[:7], law[6:8].mean(0, keepdim=True), law[7:8], law[7:9].mean(0, keepdim=True), law[8:]])


def auro_return_days(rate: Tensor, table: Tensor) -> Tensor:
    """P(day 1..10) at mean response rates in [0, 1], by straight lines: ``(B,)``, :func:`auro_return_table` -> ``(B, 10)``."""
    place = rate * (len(table) - 1)
    left = place.to(torch.int64).clamp(0, len(table) - 2)
    return torch.lerp(table[left], table[left + 1], (place - left).unsqueeze(-1))
