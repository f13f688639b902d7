"""What every encoder of histories reads: the newest items, their feedback, the clock."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import Observation
from recrl.core.errors import ConfigError

CLOCK_SIZE = 4
"""Columns of ``Observation.clock``."""


def newest(observation: Observation, length: int) -> tuple[Tensor, Tensor]:
    """The newest ``length`` columns of the history (fewer where it has fewer, at least one): items and feedback, (B, L) each.

    **Errors**: :class:`ConfigError` for an observation without a history or a clock.
    """
    for name in ("history_items", "history_feedback", "clock"):
        if getattr(observation, name) is None:
            raise ConfigError(
                f"the observation holds no {name}",
                where="encoder.kind",
                mend="use a world or a log of shown items, or kind='flat' for tasks of features",
            )
    items, bits = observation.history_items[:, -length:], observation.history_feedback[:, -length:]
    # a history without columns reads like one of padding
    return (items, bits) if items.shape[1] else (nn.functional.pad(items, (1, 0), value=-1), nn.functional.pad(bits, (1, 0)))


def behaviours(bits: Tensor) -> Tensor:
    """Feedback bytes (...) as 0/1 floats (..., 7)."""
    return torch.stack([(bits >> k) & 1 for k in range(len(BEHAVIOURS))], dim=-1).to(torch.float32)


def situation(observation: Observation, items: Tensor, length: int) -> Tensor:
    """How full the history is and what the clock shows, (B, 1 + 4); the position in the session enters as a logarithm."""
    gap, position, number, hour = observation.clock.to(torch.float32).unbind(1)
    filled = (items >= 0).sum(1).to(torch.float32) / length
    return torch.stack([filled, gap, torch.log1p(position), number, hour], dim=1)


SITUATION_SIZE = 1 + CLOCK_SIZE
"""Columns of :func:`situation`."""


class ItemTable(nn.Module):
    """Frozen item vectors, scaled to unit mean square so that no part of a state drowns another: items (...) -> (..., d).

    Padding (-1) and ids beyond the catalogue have the zero vector.
    """

    vectors: Tensor

    def __init__(self, item_vectors: Tensor) -> None:
        super().__init__()
        self.items, self.size = item_vectors.shape
        scaled = item_vectors / item_vectors.square().mean().sqrt().clamp_min(1e-6)
        # row 0 is the zero vector: indices are shifted by one
        self.register_buffer("vectors", torch.cat([scaled.new_zeros(1, self.size), scaled]), persistent=False)

    def rows(self, items: Tensor) -> Tensor:
        """Rows of the table, 0 for what it does not hold."""
        return torch.where((items >= 0) & (items < self.items), items + 1, 0)

    def forward(self, items: Tensor) -> Tensor:
        """Look vectors up."""
        return self.vectors[self.rows(items)]


class HistoryTokens(nn.Module):
    """One vector a shown item: its projected item vector plus its projected feedback (B, L) -> (B, L, width).

    Args:
        item_vectors: (n_items, d).
        width: of a token.
        learned_items: add a learned vector an item, for catalogues whose item vectors say too little.
    """

    def __init__(self, item_vectors: Tensor, width: int, learned_items: bool) -> None:
        super().__init__()
        self.table = ItemTable(item_vectors)
        self.item = nn.Linear(self.table.size, width)
        self.feedback = nn.Linear(len(BEHAVIOURS), width, bias=False)
        self.learned = nn.Embedding(self.table.items + 1, width) if learned_items else None

    def forward(self, items: Tensor, bits: Tensor) -> Tensor:
        """Tokens; those of padding are finite and mean nothing."""
        token: Tensor = self.item(self.table(items)) + self.feedback(behaviours(bits))
        if self.learned is None:
            return token
        rows = self.table.rows(items)
        return token + self.learned(rows) * (rows > 0).unsqueeze(-1)
