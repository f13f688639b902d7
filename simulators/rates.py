"""Intercepts that make a response model's mean rates those of a log."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.errors import ContractError

# log-odds at which single precision tells no event from a sure one
_ALWAYS = 40.0


def rate_shifts(
    logits: Tensor, rates: Mapping[str, float], click_given: Mapping[str, float], weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What to add to each head's log-odds, and P(f | no click), so that mean marginals equal ``rates`` and P(click | f) ``click_given``.

    A behaviour of rate 0 is switched off; one that comes with every click is made sure.

    **Shapes**: ``logits`` (n, 7) of click and, given a click, of the others; ``weights`` (n,) of the rows, equal without; -> (7,), (7,)
    float64.

    **Errors**: :class:`ContractError` where no model has these rates, such as more clicks with a like than clicks.
    """
    z = logits.double()
    share = torch.ones_like(z[:, 0]) if weights is None else weights.double()
    share = share / share.sum()
    shifts, off_click = torch.zeros(len(BEHAVIOURS), dtype=torch.float64), torch.zeros(len(BEHAVIOURS), dtype=torch.float64)
    shifts[0] = _shift_to(z[:, 0], share, rates["click"], "click")
    clicked = share * torch.sigmoid(z[:, 0] + shifts[0])
    for k, name in enumerate(BEHAVIOURS[1:], start=1):
        rate, given = rates.get(name, 0.0), click_given.get(name, 1.0)
        off_click[k] = rate * (1.0 - given) / (1.0 - rates["click"])
        # a behaviour that comes with every click has no finite log-odds
        always = abs(rate * given - rates["click"]) < 1e-9
        shifts[k] = _ALWAYS if always else _shift_to(z[:, k], clicked, rate * given, name)
    return shifts, off_click


def _shift_to(logits: Tensor, weight: Tensor, target: float, name: str) -> float:
    """The shift for which ``sum(weight * sigmoid(logits + shift))`` is ``target``."""
    if target == 0.0:
        return -_ALWAYS - float(logits.max())
    ceiling = float(weight.sum())
    if not 0.0 < target < ceiling:
        raise ContractError(
            f"rate {target:.3g} of {name} (with its click) cannot be reached: the ceiling is {ceiling:.3g}",
            where="rate_shifts: rates",
            mend="rates must lie in (0, 1), and a behaviour cannot meet more clicks than there are",
        )
    low, high = -60.0, 60.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if float((weight * torch.sigmoid(logits + middle)).sum()) < target else (low, middle)
    return (low + high) / 2
