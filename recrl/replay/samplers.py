"""Samplers: which rows make the next training batch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from recrl.core.contracts import Transitions
from recrl.core.errors import DataError
from recrl.core.streams import Purpose
from recrl.core.torch.streams import Ahead, TensorStreams


class Buffer(Protocol):
    """Anything that gives the transitions of row numbers."""

    device: torch.device

    def __len__(self) -> int: ...

    def gather(self, index: Tensor) -> Transitions:
        """Transitions of the rows ``index`` (B,)."""
        ...


class UniformSampler:
    """Rows drawn uniformly with replacement; batch ``step`` is a function of the seed and ``step`` alone.

    Args:
        buffer: where transitions come from.
        rows: row numbers to draw from, (n,) int64; ``None`` for all that the buffer holds when a batch is drawn.
        seed: of the BATCHES stream.

    **Errors**: :class:`DataError` when there is nothing to draw from.
    """

    def __init__(self, buffer: Buffer, rows: Tensor | None, seed: int) -> None:
        if rows is not None and rows.numel() == 0:
            raise DataError(
                "no rows to draw batches from",
                where="UniformSampler.rows",
                mend="the training part holds no user with two rows; use a longer log",
            )
        self.buffer, self.rows = buffer, None if rows is None else rows.to(buffer.device)
        self._streams = TensorStreams(seed, buffer.device)
        self._draws: dict[int, Ahead] = {}  # of the batch size at hand

    def sample(self, size: int, step: int) -> Transitions:
        """The batch of ``step``."""
        if size not in self._draws:
            self._draws = {size: Ahead(partial(self._uniform, size), self.buffer.device)}
        count = len(self.buffer) if self.rows is None else self.rows.numel()
        drawn = (self._draws[size](step) * count).to(torch.int64).clamp_max_(count - 1)
        return self.buffer.gather(drawn if self.rows is None else self.rows[drawn])

    def _uniform(self, size: int, steps: Tensor) -> Tensor:
        return self._streams.uniform(steps, 0, Purpose.BATCHES, (size,), torch.float64)

    def update_priorities(self, index: Tensor, priorities: Tensor) -> None:
        """Uniform sampling has no priorities."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the draw is counter-based."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""
