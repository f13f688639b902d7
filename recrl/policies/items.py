"""Policies that show items: a score for each candidate, then a Plackett-Luce draw (or the top ones).

A slate of K items is drawn without replacement with probability
``prod_k softmax(score / temperature over what is left)[item_k]``; adding Gumbel noise to the scores and taking the top K draws
exactly from it. One item is the slate of size one.

**Source**: Plackett-Luce model; Gumbel-top-k, Kool, van Hoof, Welling, ICML 2019 (arXiv 1903.06059).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recrl.core.config import from_dict
from recrl.core.contracts import Action, ActionSpec, Observation
from recrl.core.errors import ConfigError
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.policies.boosted import BoostedScores
from recrl.policies.encoders import build_encoder
from recrl.policies.fusion import FusionScores
from recrl.policies.gaussian import AnyVectorPolicy, load_vector_policy, vector_policy_config
from recrl.policies.networks import draw_ids, initialise, mlp
from recrl.policies.ranked import FactorScores, SequenceScores
from recrl.policies.storage import save_policy
from recrl.policies.vector import ActorConfig


class TableScores(nn.Module):
    """The same score for every user: log counts give popularity, zeros give the uniform policy."""

    kind = "table"
    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table.to(torch.float32))

    @property
    def items(self) -> int:
        """Size of the catalogue."""
        return int(self.table.shape[0])

    def forward(self, observation: Observation, candidates: Tensor | None) -> Tensor:
        """Scores (B, C) of ``candidates`` (B, C), or of the whole catalogue."""
        if candidates is None:
            return self.table.expand(len(observation), -1)
        return self.table[candidates]

    def config(self) -> dict[str, Any]:
        """What :meth:`load` needs besides the tensors."""
        return {}

    @classmethod
    def load(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TableScores:
        """Build saved scores again."""
        return cls(tensors["table"])


class QueryScores(nn.Module):
    """Inner product of a vector policy's action with item vectors: (B, d) x (n_items, d) -> (B, C)."""

    kind = "query"

    def __init__(self, query: AnyVectorPolicy) -> None:
        super().__init__()
        if query.action_spec.kind != "embedding" or query.item_vectors is None:
            raise ConfigError(
                f"query scores need an embedding policy with item vectors, got {query.action_spec.kind!r}", where="QueryScores.query"
            )
        self.query = query

    @property
    def vectors(self) -> Tensor:
        """Vectors of the items, (n_items, d), wherever the query was moved to."""
        assert self.query.item_vectors is not None
        return self.query.item_vectors

    @property
    def items(self) -> int:
        """Size of the catalogue."""
        return int(self.vectors.shape[0])

    def forward(self, observation: Observation, candidates: Tensor | None) -> Tensor:
        """Scores (B, C) of ``candidates`` (B, C), or of the whole catalogue."""
        action, vectors = self.query.centre(observation), self.vectors
        if candidates is None:
            return action @ vectors.T
        # elementwise, so that a row's score does not depend on the batch it is in
        return (vectors[candidates] * action.unsqueeze(1)).sum(-1)

    def config(self) -> dict[str, Any]:
        """What :meth:`load` needs besides the tensors."""
        return vector_policy_config(self.query)

    @classmethod
    def load(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> QueryScores:
        """Build saved scores again."""
        return cls(load_vector_policy(config, {k.removeprefix("query."): v for k, v in tensors.items()}))


class SoftmaxScores(nn.Module):
    """A classifier over items: encoder -> MLP -> query, inner product with item vectors, plus a learned bias an item."""

    kind = "softmax"
    item_vectors: Tensor

    def __init__(self, config: ActorConfig, item_vectors: Tensor, log_counts: Tensor, seed: int = 0) -> None:
        super().__init__()
        self.actor_config = config
        self.register_buffer("item_vectors", item_vectors)
        self.encoder = build_encoder(config.encoder, item_vectors)
        self.body = mlp([self.encoder.width, *config.hidden, item_vectors.shape[1]])
        self.bias = nn.Parameter(torch.zeros(item_vectors.shape[0]))
        initialise(self, seed)
        with torch.no_grad():
            self.bias.copy_(log_counts)

    @property
    def items(self) -> int:
        """Size of the catalogue."""
        return int(self.item_vectors.shape[0])

    def forward(self, observation: Observation, candidates: Tensor | None) -> Tensor:
        """Scores (B, C) of ``candidates`` (B, C), or of the whole catalogue."""
        query = self.body(self.encoder(observation))
        if candidates is None:
            return torch.addmm(self.bias, query, self.item_vectors.T)
        return (self.item_vectors[candidates] * query.unsqueeze(1)).sum(-1) + self.bias[candidates]

    def config(self) -> dict[str, Any]:
        """What :meth:`load` needs besides the tensors."""
        return {"config": asdict(self.actor_config)}

    @classmethod
    def load(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SoftmaxScores:
        """Build saved scores again."""
        return cls(from_dict(ActorConfig, config["config"]), tensors["item_vectors"], tensors["bias"])


ItemScores = TableScores | QueryScores | FusionScores | SoftmaxScores | FactorScores | SequenceScores | BoostedScores
_SCORES: dict[str, type[ItemScores]] = {
    kind.kind: kind for kind in (TableScores, QueryScores, FusionScores, SoftmaxScores, FactorScores, SequenceScores, BoostedScores)
}


def item_spec(items: int, slate_size: int | None = None, pool: bool = False) -> ActionSpec:
    """The spec of showing one item (``slate_size=None``) or a slate, from the catalogue or from the observation's pool."""
    candidates: Literal["pool", "catalogue"] = "pool" if pool else "catalogue"
    if slate_size is None:
        return ActionSpec("item", choices=items, candidates=candidates)
    return ActionSpec("slate", (slate_size,), choices=items, candidates=candidates)


class ItemPolicy(nn.Module):
    """Shows items by their scores.

    Args:
        scores: a score for each candidate.
        action_spec: one item or a slate, from the catalogue or from ``Observation.candidates``.
        temperature: scores are divided by it; small is greedy, large is uniform.

    **Shapes**: value (B,) or (B, K) item indices, log_prob (B,).
    """

    kind = "items"

    def __init__(self, scores: ItemScores, action_spec: ActionSpec, temperature: float = 1.0) -> None:
        super().__init__()
        if action_spec.kind not in ("item", "slate") or action_spec.choices != scores.items:
            raise ConfigError(
                f"an item policy over {scores.items} items cannot take {action_spec.kind!r} actions with {action_spec.choices} choices",
                where="ItemPolicy.action_spec",
                mend="build the spec with item_spec(items)",
            )
        if not temperature > 0:
            raise ConfigError(f"temperature={temperature} must be positive", where="ItemPolicy.temperature")
        self.scores, self.action_spec, self.temperature = scores, action_spec, temperature

    def with_spec(self, action_spec: ActionSpec) -> ItemPolicy:
        """The same policy for another slate size or candidate set; networks are shared."""
        return ItemPolicy(self.scores, action_spec, self.temperature)

    def _logits(self, observation: Observation) -> tuple[Tensor | None, Tensor]:
        """The pool (``None`` for the whole catalogue) and the scores over the temperature, (B, C); padding has no chance."""
        if self.action_spec.candidates == "catalogue":
            return None, self.scores(observation, None) / self.temperature
        pool, size = observation.candidates, self._size
        if pool is None or pool.shape[1] < size:
            raise ConfigError(
                "the observation lists no candidates" if pool is None else f"a pool of {pool.shape[1]} cannot fill a slate of {size}",
                where="ItemPolicy.act",
                mend="use candidates='catalogue', or an environment with a pool" + ("" if pool is None else " that is large enough"),
            )
        logits = self.scores(observation, pool.clamp_min(0)) / self.temperature
        return pool, logits.masked_fill(pool < 0, -torch.inf)

    @property
    def _size(self) -> int:
        return self.action_spec.shape[0] if self.action_spec.shape else 1

    def log_probs(self, observation: Observation) -> Tensor:
        """Log-probability of every candidate as the first item, (B, C)."""
        return self.law(observation)[1]

    def law(self, observation: Observation) -> tuple[Tensor | None, Tensor]:
        """The candidates (B, C), or ``None`` for the whole catalogue in its order, and :meth:`log_probs` of them."""
        candidates, logits = self._logits(observation)
        return candidates, torch.log_softmax(logits, dim=1)

    @torch.no_grad()
    def act(self, observation: Observation, streams: TensorStreams, *, step: Tensor | int = 0, deterministic: bool = False) -> Action:
        """Show items; with ``deterministic=True`` the best-scored ones."""
        pool, logits = self._logits(observation)  # (B, C)
        keys = logits
        if not deterministic:
            keys = logits + streams.gumbel(draw_ids(observation, logits.device), step, Purpose.EXPLORATION, (logits.shape[1],))
        chosen = keys.topk(self._size, dim=1).indices  # (B, K)
        value = chosen if pool is None else pool.gather(1, chosen)
        return Action(value if self.action_spec.shape else value.squeeze(1), plackett_luce_log_prob(logits, chosen))

    def log_prob(self, observation: Observation, action: Tensor) -> Tensor:
        """Log-probability of showing ``action``, (B,); minus infinity where it repeats an item or holds one that is no candidate."""
        pool, logits = self._logits(observation)
        shown = action if self.action_spec.shape else action.unsqueeze(1)  # (B, K)
        if pool is None:
            listed = (shown >= 0) & (shown < logits.shape[1])
            place = torch.where(listed, shown, 0)
        else:
            match = (pool.unsqueeze(1) == shown.unsqueeze(2)) & (shown >= 0).unsqueeze(2)  # (B, K, C)
            listed, place = match.any(-1), match.to(torch.int8).argmax(-1)
        return torch.where(listed.all(-1), plackett_luce_log_prob(logits, place), -torch.inf)

    def save(self, folder: Path) -> None:
        """Write the policy to ``folder``."""
        config = {
            "scores": self.scores.kind,
            "scores_config": self.scores.config(),
            "action_spec": asdict(self.action_spec),
            "temperature": self.temperature,
        }
        texts = self.scores.texts() if isinstance(self.scores, BoostedScores) else None
        save_policy(folder, self.kind, config, self.scores.state_dict(), texts)

    @classmethod
    def load(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ItemPolicy:
        """Build a saved policy again."""
        scores = _SCORES[config["scores"]].load({**config["scores_config"], **config.get("texts", {})}, tensors)
        scores.load_state_dict(dict(tensors))
        return cls(scores, from_dict(ActionSpec, config["action_spec"]), config["temperature"])


def plackett_luce_log_prob(logits: Tensor, chosen: Tensor) -> Tensor:
    """Log-probability of drawing ``chosen`` (B, K) in this order without replacement from softmax(logits (B, C)), (B,).

    Each factor's denominator is the total mass less what was already drawn, in log space; drawing a column twice, or one whose logit is
    minus infinity, is impossible: minus infinity.
    """
    rest, log_prob = logits, torch.zeros_like(logits[:, 0])
    for k in range(chosen.shape[1]):
        if k > 0:
            rest = rest.scatter(1, chosen[:, k - 1 : k], -torch.inf)
        picked = rest.gather(1, chosen[:, k : k + 1]).squeeze(1)
        log_prob = log_prob + torch.where(torch.isneginf(picked), -torch.inf, picked - torch.logsumexp(rest, dim=1))
    return log_prob


def popularity_policy(counts: Tensor, action_spec: ActionSpec, *, temperature: float = 1.0) -> ItemPolicy:
    """Shows items in proportion to ``(counts + 1) ** (1 / temperature)``; counts come from training rows only."""
    return ItemPolicy(TableScores(torch.log(counts.to(torch.float32) + 1.0)), action_spec, temperature)


def random_policy(action_spec: ActionSpec) -> ItemPolicy:
    """Shows every candidate with the same probability."""
    return ItemPolicy(TableScores(torch.zeros(action_spec.choices or 0)), action_spec)
