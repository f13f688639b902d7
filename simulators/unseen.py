"""Simulated users whom no log has shown: drawn from the law of the fitted ones, without a past, unknown to the platform."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recrl.core.streams import Purpose, Streams
from simulators.drift import DriftConfig
from simulators.response_model import ResponseModel
from simulators.satisfaction import Satisfaction, mean_satisfaction

_SAMPLE = 512


def with_unseen(
    drift: DriftConfig, response: ResponseModel, satisfaction: Satisfaction, baseline: Tensor, groups: Tensor | None
) -> tuple[ResponseModel, Tensor, Tensor | None]:
    """Response model, baselines and groups of a population of which ``drift.unseen_share`` was never logged.

    So many users are added that a user drawn at random is one of them with that probability. Their activity group is that of a random
    fitted user; their baseline is what they expect of the catalogue, moved by as much as the mean baseline of fitted users lies above
    what those expect of it.
    """
    share, known = drift.unseen_share, response.n_users
    count = round(known * share / (1.0 - share))
    if not count:
        return response, baseline, groups
    streams = Streams(drift.seed)
    joined = response.with_unseen(count, streams)
    some = torch.from_numpy(streams.integers(known, np.arange(_SAMPLE), 1, Purpose.USERS))
    items = torch.from_numpy(streams.integers(response.n_items, np.arange(_SAMPLE), 2, Purpose.USERS))
    above = (baseline[some.to(baseline.device)].float() - mean_satisfaction(joined, satisfaction, items, some).to(baseline.device)).mean()
    theirs = mean_satisfaction(joined, satisfaction, items, torch.arange(known, known + count))
    if groups is not None:
        like = torch.from_numpy(streams.integers(known, np.arange(count), 3, Purpose.USERS))
        groups = torch.cat([groups, groups[like.to(groups.device)]])
    return joined, torch.cat([baseline.float(), theirs.to(baseline.device) + above]), groups
