"""Scores of trained rankers: user vectors times item vectors, or an encoded history times item vectors.

The networks are those of RecBole 1.2.1, rebuilt here for acting alone (no dropout, no loss) with RecBole's weights inside: a saved
policy is JSON and safetensors, and loads where RecBole is not installed. Users and histories that the ranker knows nothing about get the
log of the training counts: the popularity policy.

**Source**: BPR, Rendle et al., UAI 2009; LightGCN, He et al., SIGIR 2020; SASRec, Kang and McAuley, ICDM 2018; GRU4Rec, Hidasi et al.,
ICLR 2016, in the variant of Tan et al., DLRS 2016.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recrl.core.config import from_dict
from recrl.core.contracts import Observation
from recrl.core.errors import ConfigError


class FactorScores(nn.Module):
    """Inner product of a user's vector with item vectors; popularity for users without one.

    **Shapes**: ``users`` (n_users, d), ``known`` (n_users,) bool, ``item_vectors`` (n_items, d), ``log_counts`` (n_items,).
    """

    kind = "factors"
    users: Tensor
    known: Tensor
    item_vectors: Tensor
    log_counts: Tensor

    def __init__(self, users: Tensor, known: Tensor, item_vectors: Tensor, log_counts: Tensor) -> None:
        super().__init__()
        for name, value in {"users": users, "known": known, "item_vectors": item_vectors, "log_counts": log_counts}.items():
            self.register_buffer(name, value)

    @property
    def items(self) -> int:
        """Size of the catalogue."""
        return int(self.item_vectors.shape[0])

    def forward(self, observation: Observation, candidates: Tensor | None) -> Tensor:
        """Scores (B, C) of ``candidates`` (B, C), or of the whole catalogue."""
        if observation.user is None:
            raise ConfigError(
                "the observation names no users", where="FactorScores", mend="use a sequential ranker, or give Observation.user"
            )
        inside = (observation.user >= 0) & (observation.user < self.users.shape[0])
        row = torch.where(inside, observation.user, 0)
        return _scores(self.users[row], inside & self.known[row], self.item_vectors, self.log_counts, candidates)

    def config(self) -> dict[str, Any]:
        """What :meth:`load` needs besides the tensors."""
        return {}

    @classmethod
    def load(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FactorScores:
        """Build saved scores again."""
        return cls(tensors["users"], tensors["known"], tensors["item_vectors"], tensors["log_counts"])


@dataclass(frozen=True)
class SequenceConfig:
    """Shape of a history network.

    Attributes:
        network: ``sasrec`` or ``gru4rec``.
        length: most recent items that are read.
        size: length of item vectors.
        inner: width of SASRec's feed-forward layers, or of GRU4Rec's hidden state.
        layers: transformer or GRU layers.
        heads: attention heads of SASRec.
        epsilon: of SASRec's layer norms.
        feedback: bits of :mod:`recrl.core.behaviours`; items of the history with none of them are skipped, 0 reads all.
    """

    network: Literal["sasrec", "gru4rec"]
    length: int
    size: int
    inner: int
    layers: int
    heads: int = 1
    epsilon: float = 1e-12
    feedback: int = 0


class SequenceScores(nn.Module):
    """Inner product of an encoded history with item vectors; popularity where the history is empty.

    **Shapes**: the item table (n_items + 1, d) has RecBole's padding as its row 0; ``log_counts`` (n_items,).
    """

    kind = "sequence"
    log_counts: Tensor

    def __init__(self, config: SequenceConfig, log_counts: Tensor) -> None:
        super().__init__()
        self.shape = config
        self.history = config.length
        self.register_buffer("log_counts", log_counts)
        self.table = nn.Embedding(log_counts.shape[0] + 1, config.size, padding_idx=0)
        self.encoder = SASRecEncoder(config) if config.network == "sasrec" else GRU4RecEncoder(config)

    @property
    def items(self) -> int:
        """Size of the catalogue."""
        return int(self.log_counts.shape[0])

    @property
    def item_vectors(self) -> Tensor:
        """Vectors of the items, (n_items, d)."""
        return self.table.weight[1:]

    def forward(self, observation: Observation, candidates: Tensor | None) -> Tensor:
        """Scores (B, C) of ``candidates`` (B, C), or of the whole catalogue."""
        if observation.history_items is None:
            raise ConfigError("the observation holds no history", where="SequenceScores", mend="use a world or a log of shown items")
        ids, count = self.sequences(observation)
        states = self.encoder(self.table(ids))  # (B, L, d)
        last = states[torch.arange(len(ids), device=ids.device), (count - 1).clamp_min(0)]
        return _scores(last, count > 0, self.item_vectors, self.log_counts, candidates)

    def sequences(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """RecBole's view of a history: ids from 1, oldest first, padded on the right with 0; and how many there are, (B, L) and (B,)."""
        items = observation.history_items  # (B, H), padded on the left with -1
        read = (items >= 0) & (items < self.items)
        if self.shape.feedback:
            read &= (observation.history_feedback & self.shape.feedback) != 0
        length = min(self.shape.length, items.shape[1])
        found = read.sum(1, keepdim=True)
        place = read.cumsum(1) - 1 - (found - length).clamp_min(0)
        # one column more takes what is not read
        place = torch.where(read & (place >= 0), place, length)
        ids = items.new_zeros(items.shape[0], length + 1, dtype=torch.int64)
        ids.scatter_(1, place, items.to(torch.int64) + 1)
        return ids[:, :length], found.squeeze(1).clamp_max(length)

    def config(self) -> dict[str, Any]:
        """What :meth:`load` needs besides the tensors."""
        return asdict(self.shape)

    @classmethod
    def load(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SequenceScores:
        """Build saved scores again."""
        return cls(from_dict(SequenceConfig, config), tensors["log_counts"])


class SASRecEncoder(nn.Module):
    """Causal self-attention over item vectors with learned positions: (B, L, d) -> (B, L, d)."""

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        self.positions = nn.Embedding(config.length, config.size)
        self.norm = nn.LayerNorm(config.size, eps=config.epsilon)
        self.layers = nn.ModuleList(_SASRecLayer(config) for _ in range(config.layers))

    def forward(self, vectors: Tensor) -> Tensor:
        """States after each item; padding on the right is never looked at by what stands before it."""
        state = self.norm(vectors + self.positions.weight[: vectors.shape[1]])
        for layer in self.layers:
            state = layer(state)
        return state


class _SASRecLayer(nn.Module):
    """Attention, then a feed-forward layer, each with a residual and a norm after it."""

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query, self.key, self.value, self.dense = (nn.Linear(config.size, config.size) for _ in range(4))
        self.attention_norm, self.output_norm = (nn.LayerNorm(config.size, eps=config.epsilon) for _ in range(2))
        self.wide, self.narrow = nn.Linear(config.size, config.inner), nn.Linear(config.inner, config.size)

    def forward(self, state: Tensor) -> Tensor:
        """(B, L, d) -> (B, L, d)."""
        parts = (part(state).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        query, key, value = parts  # (B, heads, L, d / heads)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)
        state = self.attention_norm(self.dense(seen) + state)
        return self.output_norm(self.narrow(nn.functional.gelu(self.wide(state))) + state)


class GRU4RecEncoder(nn.Module):
    """A GRU over item vectors and a linear map back to their space: (B, L, d) -> (B, L, d)."""

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        self.gru = nn.GRU(config.size, config.inner, config.layers, bias=False, batch_first=True)
        self.dense = nn.Linear(config.inner, config.size)

    def forward(self, vectors: Tensor) -> Tensor:
        """States after each item."""
        out: Tensor = self.dense(self.gru(vectors)[0])
        return out


def _scores(query: Tensor, known: Tensor, vectors: Tensor, log_counts: Tensor, candidates: Tensor | None) -> Tensor:
    if candidates is None:
        return torch.where(known.unsqueeze(1), query @ vectors.T, log_counts)
    # elementwise, so that a row's score does not depend on the batch it is in
    return torch.where(known.unsqueeze(1), (vectors[candidates] * query.unsqueeze(1)).sum(-1), log_counts[candidates])
