"""Satisfaction: one number a request from what the user did, and its running average over requests and days."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS, unpack
from recrl.core.errors import ConfigError
from simulators.response_model import ResponseModel


@dataclass(frozen=True)
class Satisfaction:
    """How feedback becomes satisfaction.

    A shown item is worth ``sum_f weight_f * happened_f``; a request is worth the mean over its items, ``s``. The running
    satisfaction follows ``c <- decay * c + (1 - decay) * s`` at each request and falls back to the user's own baseline
    over a gap of ``g`` days: ``c <- baseline + decay_per_day ** g * (c - baseline)``. It is never reset, so earlier sessions count.

    Attributes:
        click: worth of a click alone.
        long_view: worth of a long view, on top of its click.
        like: worth of a like.
        comment: worth of a comment.
        follow: worth of a follow.
        forward: worth of a forward.
        hate: worth of a hate; not above 0.
        decay: weight of the past at each request.
        decay_per_day: share of the deviation from the baseline that outlasts a day away.
    """

    click: float = 0.2
    long_view: float = 0.5
    like: float = 0.5
    comment: float = 0.5
    follow: float = 1.0
    forward: float = 0.5
    hate: float = -2.0
    decay: float = 0.8
    decay_per_day: float = 0.9

    def __post_init__(self) -> None:
        for name in ("decay", "decay_per_day"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)}", where=f"Satisfaction.{name}", mend="a decay lies in [0, 1)")
        for name in BEHAVIOURS:
            value = getattr(self, name)
            if (value > 0) if name == "hate" else (value < 0):
                raise ConfigError(
                    f"worth of {name} is {value}", where=f"Satisfaction.{name}", mend="hate may not please and nothing else may displease"
                )

    @property
    def weights(self) -> tuple[float, ...]:
        """Worth of each behaviour, in the order of ``BEHAVIOURS``."""
        return tuple(float(getattr(self, name)) for name in BEHAVIOURS)

    def of_bits(self) -> NDArray[np.float32]:
        """Worth of every possible feedback byte: ``(256,)``."""
        return (unpack(np.arange(256, dtype=np.uint8)) @ np.asarray(self.weights, dtype=np.float32)).astype(np.float32)


@torch.no_grad()
def mean_satisfaction(
    response: ResponseModel, satisfaction: Satisfaction, items: Tensor | None = None, users: Tensor | None = None
) -> Tensor:
    """Expected satisfaction with ``items`` (n,), or with the whole catalogue, of ``users`` (m,), or of all: ``(m,)``."""
    device = response.device
    pool = torch.arange(response.n_items, device=device) if items is None else items.to(device)
    everyone = torch.arange(response.n_users, device=device) if users is None else users.to(device)
    worth = torch.tensor(satisfaction.weights, dtype=torch.float32, device=device)
    tile = max(1, 200_000 // len(pool))
    parts = [(response.scores(part, pool.expand(len(part), -1)) * worth).sum(-1).mean(1) for part in everyone.split(tile)]
    return torch.cat(parts)
