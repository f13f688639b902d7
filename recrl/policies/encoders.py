"""State encoders: an Observation becomes one vector a user.

Four kinds: ``flat`` features as they are, ``history`` pooled without learning, ``gru`` and ``transformer``
(:mod:`recrl.policies.sequence_encoders`). Each is a module with ``width`` and ``forward(observation) -> (B, width)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import Observation
from recrl.core.errors import ConfigError
from recrl.policies.abstraction import AbstractedEncoder
from recrl.policies.history import SITUATION_SIZE, ItemTable, behaviours, newest, situation
from recrl.policies.sequence_encoders import GRUEncoder, TransformerEncoder

FIXED = ("flat", "history")
"""Kinds without anything to learn."""
_POOLED = (BEHAVIOURS.index("long_view"), BEHAVIOURS.index("like"))


@dataclass(frozen=True)
class EncoderConfig:
    """How a state is encoded.

    Attributes:
        kind: ``history`` pools the vectors of recently shown items by what the user did with them; ``gru`` and ``transformer`` learn to
            read them in their order; ``flat`` takes ``Observation.features`` as they are (control tasks, generic environments).
        history: how many recent items are read.
        recency: weight of an item ``k`` places back is ``recency ** k`` (``history`` only).
        features: width of ``Observation.features`` (``flat`` only).
        width: of the learned state (``gru`` and ``transformer``).
        layers: stacked layers (``gru`` and ``transformer``).
        heads: attention heads (``transformer`` only).
        learned_items: learn a vector an item beside the given one (``gru`` and ``transformer``).
        abstraction: width of a learned abstraction beside the state, of any kind; 0 for none (AURO and ESCP set it themselves).
        abstraction_hidden: its hidden sizes.
        mean: of each component of the state over a log, by which ``flat`` and ``history`` states are standardised; empty: as they are.
        deviation: likewise, positive.
    """

    kind: Literal["history", "flat", "gru", "transformer"] = "history"
    history: int = 20
    recency: float = 0.9
    features: int = 0
    width: int = 64
    layers: int = 2
    heads: int = 4
    learned_items: bool = False
    abstraction: int = 0
    abstraction_hidden: tuple[int, ...] = (128, 128)
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

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
        if min(self.width, self.layers, self.heads) < 1 or (self.kind == "transformer" and self.width % self.heads):
            raise ConfigError(
                f"width={self.width}, layers={self.layers}, heads={self.heads} do not fit",
                where="encoder",
                mend="give positive numbers, and a width that the heads divide",
            )
        if len(self.mean) != len(self.deviation) or (self.mean and (self.kind not in FIXED or min(self.deviation) <= 0.0)):
            raise ConfigError(
                f"{len(self.mean)} means and {len(self.deviation)} deviations do not standardise a {self.kind} state",
                where="encoder.mean",
                mend=f"give one mean and one positive deviation a component, of a state that is not learned ({' or '.join(FIXED)})",
            )
        if self.abstraction < 0:
            raise ConfigError(f"abstraction={self.abstraction}", where="encoder.abstraction", mend="give a width, or 0 for none")


class FlatEncoder(nn.Module):
    """The feature vector itself: (B, D) -> (B, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, observation: Observation) -> Tensor:
        """Features as they are.

        **Errors**: :class:`ConfigError` for an observation without features, or with others than it was built for.
        """
        features: Tensor | None = observation.features
        if features is None or features.shape[1] != self.width:
            raise ConfigError(
                f"the observation holds {'no' if features is None else features.shape[1]} features, not {self.width}",
                where="encoder.kind",
                mend="use kind='history', 'gru' or 'transformer' on logs, and the number of features that the task has",
            )
        return features


class HistoryEncoder(nn.Module):
    """Recency-weighted means of recent item vectors, behaviour rates and the clock (position as a logarithm).

    Three means stand side by side: over all shown items, over long views, over likes. Nothing is learned here and no
    user id enters, so unknown users and new items (a zero vector) need no special case.

    **Shapes**: history (B, H) with vectors (n_items, d) -> (B, 3 d + 7 + 1 + 4).
    """

    decay: Tensor

    def __init__(self, item_vectors: Tensor, history: int, recency: float) -> None:
        super().__init__()
        self.table = ItemTable(item_vectors)
        self.register_buffer("decay", recency ** torch.arange(history - 1, -1, -1, dtype=torch.float32), persistent=False)
        self.history = history
        self.width = 3 * self.table.size + len(BEHAVIOURS) + SITUATION_SIZE

    def forward(self, observation: Observation) -> Tensor:
        """Encode a batch."""
        items, bits = newest(observation, self.history)  # (B, L)
        shown = self.table(items)  # (B, L, d)
        weight = self.decay[self.history - items.shape[1] :] * (items >= 0)  # (B, L)
        weighted = behaviours(bits).transpose(1, 2) * weight.unsqueeze(1)  # (B, 7, L)
        pools = torch.stack([weight, *(weighted[:, k] for k in _POOLED)], dim=1)  # (B, 3, L)
        total = pools.sum(-1, keepdim=True)
        means = torch.bmm(pools, shown) / total.clamp_min(1e-6)  # (B, 3, d)
        rates = weighted.sum(-1) / weight.sum(-1, keepdim=True).clamp_min(1e-6)  # (B, 7)
        return torch.cat([means.flatten(1), rates, situation(observation, items, self.history)], dim=1)


class StandardisedEncoder(nn.Module):
    """A fixed state in deviations from its mean over a log: Observation (B) -> (B, width).

    A rate, or days over ten, is small beside an item vector; networks learn both alike only where both have one scale. The numbers are the
    encoder's and travel with it into policies and checkpoints.

    **Errors**: :class:`ConfigError` for numbers of another width.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, base: FlatEncoder | HistoryEncoder, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        super().__init__()
        if len(mean) != base.width:
            raise ConfigError(f"{len(mean)} means for a state of {base.width}", where="encoder.mean", mend="fit them to this encoder")
        self.base, self.width = base, base.width
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("deviation", torch.tensor(deviation))

    def forward(self, observation: Observation) -> Tensor:
        """Encode a batch."""
        return (self.base(observation) - self.mean) / self.deviation


Encoder = FlatEncoder | HistoryEncoder | StandardisedEncoder | GRUEncoder | TransformerEncoder | AbstractedEncoder


def build_encoder(config: EncoderConfig, item_vectors: Tensor | None) -> Encoder:
    """The encoder that ``config`` asks for; :func:`recrl.policies.networks.initialise` fills its parameters.

    **Errors**: :class:`ConfigError` when an encoder of histories is given no item vectors.
    """
    base = _build_base(config, item_vectors)
    return AbstractedEncoder(base, base.width, config.abstraction, config.abstraction_hidden) if config.abstraction else base


def _build_base(
    config: EncoderConfig, item_vectors: Tensor | None
) -> FlatEncoder | HistoryEncoder | StandardisedEncoder | GRUEncoder | TransformerEncoder:
    if config.kind == "flat":
        return _standardised(FlatEncoder(config.features), config)
    if item_vectors is None:
        raise ConfigError(
            f"a {config.kind} encoder needs item vectors", where="encoder.kind", mend="pass a catalogue, or choose kind='flat'"
        )
    if config.kind == "history":
        return _standardised(HistoryEncoder(item_vectors, config.history, config.recency), config)
    sequence = GRUEncoder if config.kind == "gru" else partial(TransformerEncoder, heads=config.heads)
    return sequence(item_vectors, history=config.history, width=config.width, layers=config.layers, learned_items=config.learned_items)


def _standardised(base: FlatEncoder | HistoryEncoder, config: EncoderConfig) -> FlatEncoder | HistoryEncoder | StandardisedEncoder:
    return StandardisedEncoder(base, config.mean, config.deviation) if config.mean else base
