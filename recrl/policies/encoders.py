"""State encoders: an Observation becomes one vector a user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import Observation
from recrl.core.errors import ConfigError

CLOCK_SIZE = 4
"""Columns of ``Observation.clock``."""

_POOLED = (BEHAVIOURS.index("long_view"), BEHAVIOURS.index("like"))


@dataclass(frozen=True)
class EncoderConfig:
    """How a state is encoded.

    Attributes:
        kind: ``history`` pools the vectors of recently shown items by what the user did with them; ``flat`` takes
            ``Observation.features`` as they are (control tasks, generic environments).
        history: how many recent items are read.
        recency: weight of an item ``k`` places back is ``recency ** k``.
        features: width of ``Observation.features`` (``flat`` only).
    """

    kind: Literal["history", "flat"] = "history"
    history: int = 20
    recency: float = 0.9
    features: int = 0

    def __post_init__(self) -> None:
        if self.kind == "flat" and self.features < 1:
            raise ConfigError(
                "a flat encoder needs the number of features", where="encoder.features", mend="give the width of Observation.features"
            )
        if self.history < 1 or not 0.0 < self.recency <= 1.0:
            raise ConfigError(
                f"history={self.history}, recency={self.recency} are out of range",
                where="encoder",
                mend="history >= 1 and 0 < recency <= 1",
            )


class FlatEncoder(nn.Module):
    """The feature vector itself: (B, D) -> (B, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, observation: Observation) -> Tensor:
        """Features as they are."""
        features: Tensor = observation.features
        return features


class HistoryEncoder(nn.Module):
    """Recency-weighted means of recent item vectors, behaviour rates and the clock (position as a logarithm).

    Three means stand side by side: over all shown items, over long views, over likes. Nothing is learned here and no
    user id enters, so unknown users and new items (a zero vector) need no special case.

    **Shapes**: history (B, H) with vectors (n_items, d) -> (B, 3 d + 7 + 1 + 4).
    """

    vectors: Tensor
    decay: Tensor

    def __init__(self, item_vectors: Tensor, history: int, recency: float) -> None:
        super().__init__()
        # unit mean square, so that no part of the state drowns another
        item_vectors = item_vectors / item_vectors.square().mean().sqrt().clamp_min(1e-6)
        padding = item_vectors.new_zeros(1, item_vectors.shape[1])
        # row 0 is the padding (and any unknown item): indices are shifted by one
        self.register_buffer("vectors", torch.cat([padding, item_vectors]), persistent=False)
        self.register_buffer("decay", recency ** torch.arange(history - 1, -1, -1, dtype=torch.float32), persistent=False)
        self.history = history
        self.width = 3 * item_vectors.shape[1] + len(BEHAVIOURS) + 1 + CLOCK_SIZE

    def forward(self, observation: Observation) -> Tensor:
        """Encode a batch."""
        items, bits = observation.history_items[:, -self.history :], observation.history_feedback[:, -self.history :]  # (B, H)
        if items.shape[1] < self.history:
            short = self.history - items.shape[1]
            items = nn.functional.pad(items, (short, 0), value=-1)
            bits = nn.functional.pad(bits, (short, 0))
        known = (items >= 0) & (items < self.vectors.shape[0] - 1)
        shown = self.vectors[torch.where(known, items + 1, 0)]  # (B, H, d)
        weight = self.decay * (items >= 0)  # (B, H)
        happened = torch.stack([(bits >> k) & 1 for k in range(len(BEHAVIOURS))], dim=1).to(shown.dtype)  # (B, 7, H)
        weighted = happened * weight.unsqueeze(1)
        pools = torch.stack([weight, *(weighted[:, k] for k in _POOLED)], dim=1)  # (B, 3, H)
        total = pools.sum(-1, keepdim=True)
        means = torch.bmm(pools, shown) / total.clamp_min(1e-6)  # (B, 3, d)
        rates = weighted.sum(-1) / weight.sum(-1, keepdim=True).clamp_min(1e-6)  # (B, 7)
        length = (items >= 0).sum(-1, keepdim=True).to(shown.dtype) / self.history
        gap, position, number, hour = observation.clock.to(shown.dtype).unbind(1)
        clock = torch.stack([gap, torch.log1p(position), number, hour], dim=1)
        return torch.cat([means.flatten(1), rates, length, clock], dim=1)


Encoder = FlatEncoder | HistoryEncoder


def build_encoder(config: EncoderConfig, item_vectors: Tensor | None) -> Encoder:
    """The encoder that ``config`` asks for.

    **Errors**: :class:`ConfigError` when a history encoder is given no item vectors.
    """
    if config.kind == "flat":
        return FlatEncoder(config.features)
    if item_vectors is None:
        raise ConfigError("a history encoder needs item vectors", where="encoder.kind", mend="pass a catalogue, or choose kind='flat'")
    return HistoryEncoder(item_vectors, config.history, config.recency)
