"""Encoders that read a history in its order: a GRU and a transformer.

Both skip the padding on the left whatever its length, read each row alone, and never wait for the device. No dropout: it would need a
random state outside the counter-based streams, and replayed data is large against these networks.

**Source**: GRU, Cho et al., EMNLP 2014, as in GRU4Rec (Hidasi et al., ICLR 2016); transformer, Vaswani et al., NeurIPS 2017, with norms
before the layers (Xiong et al., ICML 2020) and a state token that attends to the history in both directions, as BERT's [CLS].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from recrl.core.contracts import Observation
from recrl.policies.history import SITUATION_SIZE, HistoryTokens, newest, situation


class GRUEncoder(nn.Module):
    """The last state of a GRU over the history; zero where there is none yet.

    **Shapes**: history (B, H) -> (B, width + 5): the state, then :func:`recrl.policies.history.situation`.
    """

    def __init__(self, item_vectors: Tensor, *, history: int, width: int, layers: int, learned_items: bool) -> None:
        super().__init__()
        self.history, self.width = history, width + SITUATION_SIZE
        self.tokens = HistoryTokens(item_vectors, width, learned_items)
        self.gru = nn.GRU(width, width, layers, batch_first=True)

    def forward(self, observation: Observation) -> Tensor:
        """Encode a batch."""
        items, bits = newest(observation, self.history)  # (B, L)
        count, length = (items >= 0).sum(1, keepdim=True), items.shape[1]
        # items first, padding last: what comes after the newest item is run over but not read
        place = (torch.arange(length, device=items.device) + length - count).clamp_max(length - 1)
        states, _ = self.gru(self.tokens(items.gather(1, place), bits.gather(1, place)))  # (B, L, width)
        last = (count - 1).clamp_min(0).unsqueeze(2).expand(-1, 1, states.shape[2])
        state = torch.where(count > 0, states.gather(1, last).squeeze(1), 0.0)
        return torch.cat([state, situation(observation, items, self.history)], dim=1)


class TransformerEncoder(nn.Module):
    """A state token that attends to the history; positions count back from the newest item.

    **Shapes**: history (B, H) -> (B, width + 5): the state, then :func:`recrl.policies.history.situation`.
    """

    def __init__(self, item_vectors: Tensor, *, history: int, width: int, layers: int, heads: int, learned_items: bool) -> None:
        super().__init__()
        self.history, self.width = history, width + SITUATION_SIZE
        self.tokens = HistoryTokens(item_vectors, width, learned_items)
        # row 0 is the state token, row k the k-th newest item
        self.places = nn.Embedding(history + 1, width)
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, observation: Observation) -> Tensor:
        """Encode a batch."""
        items, bits = newest(observation, self.history)  # (B, L)
        # rows of an embedding are drawn with variance 1 / (3 width), tokens with about 1/3: scale to the same size
        places = self.places.weight[: items.shape[1] + 1].flip(0) * math.sqrt(self.places.embedding_dim)  # oldest first
        tokens = nn.functional.pad(self.tokens(items, bits), (0, 0, 0, 1)) + places  # (B, L + 1, width), the state token last
        seen = nn.functional.pad(items >= 0, (0, 1), value=True).unsqueeze(1).unsqueeze(1)  # (B, 1, 1, L + 1)
        for layer in self.layers[:-1]:
            tokens = layer(tokens, tokens, seen)
        # of the last layer the state token alone is read
        state = self.norm(self.layers[-1](tokens[:, -1:], tokens, seen)).squeeze(1)
        return torch.cat([state, situation(observation, items, self.history)], dim=1)


class _Layer(nn.Module):
    """Attention, then a feed-forward part, each added to its input after a norm: readers (B, R, w) of rows (B, L, w) -> (B, R, w)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, readers: Tensor, rows: Tensor, seen: Tensor) -> Tensor:
        """Read the rows where ``seen`` (B, 1, 1, L)."""
        asking, asked = self.attention_norm(readers), self.attention_norm(rows)
        parts = (self.query(asking), self.key(asked), self.value(asked))
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)  # (B, heads, R or L, w / heads)
        read = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        readers = readers + self.output(read.transpose(1, 2).flatten(2))
        out: Tensor = readers + self.narrow(nn.functional.gelu(self.wide(self.feed_norm(readers))))
        return out
