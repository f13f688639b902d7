r"""Intervals over the users whom frozen policies meet, beside those over seeds.

A figure is a ratio of sums over users, ``R = sum N / sum D``; what a user adds to its error is ``i_u = (N_u - R D_u) / sum D`` (delta
method). For a mean of figures over parts and seeds, these are averaged over the parts of a seed, in which the same users live, and summed
over users and seeds as independent ones,

    se^2 = sum_seeds sum_users (mean_parts i_u)^2 / seeds^2

``i_u`` of a difference is that of the method less that of the other for the same user, who has the same luck in both; whoever arrived
under one of them alone counts for that one. It tells how far the figure would move with other users and the same trained policies, and
nothing of other trainings: that is what intervals over seeds are for.

**Source**: Deng, Knoblich and Lu, "Applying the delta method in metric analytics", KDD 2018.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from simulators.ab.statistics import linearised

Result = Mapping[str, Any]
RATIOS: Final = {"day_1": ("expected", "sessions"), "gap_days": ("gap_days", "returns")}
"""Numerator and denominator, over users, of the frozen policy's figures."""
_NORMAL: Final = 1.959964


def influence(result: Result, figure: str) -> NDArray[np.float64]:
    """What each user adds to the error of a figure of the frozen policy, by number: (users,), of sum 0."""
    top, bottom = (np.asarray(result["users"][name], dtype=np.float64) for name in RATIOS[figure])
    each = linearised(top, bottom)
    out: NDArray[np.float64] = (each - each.mean()) / each.size
    return out


def padded(parts: Sequence[NDArray[np.float64]], signs: Sequence[float]) -> NDArray[np.float64]:
    """``sum_k sign_k part_k`` of arrays of different lengths, users who are not in one counting 0."""
    out = np.zeros(max(len(part) for part in parts))
    for part, sign in zip(parts, signs, strict=True):
        out[: len(part)] += sign * part
    return out


def spread(seeds: Sequence[Sequence[Sequence[Result]]], figure: str) -> float | None:
    """Half of the 95 % interval over users of a mean figure over seeds.

    Args:
        seeds: of each seed its parts; of each part one result, or two whose difference it is.
        figure: ``day_1`` or ``gap_days``.

    Returns:
        ``None`` where users were not recorded, or nobody gave a denominator.
    """
    results = [result for parts in seeds for part in parts for result in part]
    if not results or not all("users" in r and sum(r["users"][RATIOS[figure][1]]) > 0 for r in results):
        return None
    variance = 0.0
    for parts in seeds:
        each = [influence(result, figure) for part in parts for result in part]
        signs = [sign / len(parts) for part in parts for sign in (1.0, -1.0)[: len(part)]]
        variance += float((padded(each, signs) ** 2).sum())
    return _NORMAL * variance**0.5 / len(seeds)


def user_bounds(seeds: Sequence[Sequence[Sequence[Result]]], figures: Mapping[str, float]) -> dict[str, float | None]:
    """Cells of the intervals over users around mean figures; see :func:`spread`."""
    halves = {name: spread(seeds, name) for name in RATIOS}
    cells: dict[str, float | None] = {}
    for name, half in halves.items():
        cells[f"{name}_users_low"] = None if half is None else figures[name] - half
        cells[f"{name}_users_high"] = None if half is None else figures[name] + half
    return cells
