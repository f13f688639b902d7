"""A tiny self-made world of 50 users and 40 items that needs no data: for contract suites, tests and examples."""

from __future__ import annotations

import numpy as np
import torch

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.objective import Objective
from recrl.core.streams import Purpose, Streams
from simulators.config import WorldConfig
from simulators.leave import LeaveLaw
from simulators.response import WIDTH, LatentResponse, WatchLaw, calibrated
from simulators.retention import RetentionLaw
from simulators.satisfaction import Satisfaction
from simulators.world import RetentionWorld

TOY_CONFIG = WorldConfig(pool_size=20, exclude_recent=12, history=18, scenario="strong")
"""Options that fit the toy's catalogue."""

TOY_RATES = {"click": 0.46, "long_view": 0.33, "like": 0.1, "comment": 0.03, "follow": 0.02, "forward": 0.02, "hate": 0.02}
"""Rates over the whole toy catalogue: rare behaviours more often than in life, so that small runs see them."""

_CLICK_GIVEN = {"long_view": 0.996, "like": 0.845, "comment": 0.972, "follow": 0.889, "forward": 0.889, "hate": 0.451}


def toy_response(users: int = 50, items: int = 40, dim: int = 8, seed: int = 0) -> LatentResponse:
    """Random tastes, calibrated to :data:`TOY_RATES` over all pairs (of the first hundred, where there are more)."""
    streams, f = Streams(seed), len(BEHAVIOURS)

    def table(rows: int, step: int) -> torch.Tensor:
        values = streams.normal(np.arange(rows), step, Purpose.INITIALISATION, (dim + WIDTH,))
        values[:, :dim] *= (2.0 / dim) ** 0.5
        values[:, dim:] *= 0.5
        return torch.from_numpy(np.concatenate([values, values.mean(0, keepdims=True)])).float()

    loadings = torch.tensor([1.0, 1.0, 1.0, 0.7, 0.7, 0.7, -1.0])
    watch = WatchLaw(mean=(0.7, 2.0, 3.0, 3.3), spread=(0.5, 0.6, 0.5, 0.5))
    raw = LatentResponse(table(users, 0), table(items, 1), torch.zeros(f), loadings, torch.zeros(f), watch)
    pairs = torch.cartesian_prod(torch.arange(min(users, 100)), torch.arange(min(items, 100)))
    return calibrated(raw, pairs[:, 0], pairs[:, 1], TOY_RATES, _CLICK_GIVEN, "self-made")


def toy_world(config: WorldConfig = TOY_CONFIG, objective: Objective = Objective()) -> RetentionWorld:  # noqa: B008 - frozen
    """The toy with any options, for example ``replace(TOY_CONFIG, action_kind="slate")``."""
    return RetentionWorld(
        config,
        toy_response(),
        LeaveLaw.synthetic(mean_depth=4.0, max_requests=30),
        RetentionLaw.published(),
        satisfaction=Satisfaction(),
        objective=objective,
    )
