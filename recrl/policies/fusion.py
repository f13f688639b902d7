"""Ranking by fusion weights: a weighted sum of predicted behaviours, the action space of RLUR, AURO and PrefRec.

The score of item ``i`` for user ``u`` is ``sum_f a_f x_f(u, i)`` with the policy's weights ``a`` in [-1, 1]^7 and standardised predictions
``x_f = clip((logit P(f | u, i) - mean_f) / (2 std_f), -1, 1)``. Standardising makes a unit of weight mean the same for a click as
for a follow, whose rates differ by three orders of magnitude; means and spreads come from pairs of training users and any items.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recrl.core.behaviours import BEHAVIOURS
from recrl.policies.gaussian import AnyVectorPolicy, load_vector_policy, vector_policy_config
from simulators.response import LatentResponse

_TABLES = ("users", "items", "intercepts", "loadings", "off_click")


class PredictedBehaviours(nn.Module):
    """Standardised predicted behaviours of a response model, for some candidates or the whole catalogue.

    Args:
        responses: a response model fitted on training rows: the platform's own predictions, not the simulator's truth.
        mean: (7,) mean log-odds over pairs of users and items.
        spread: (7,) twice their standard deviation.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, responses: LatentResponse, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self._responses = responses
        for name in _TABLES:
            self.register_buffer(name, getattr(responses, name))
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)

    @classmethod
    def fit(cls, responses: LatentResponse, users: Tensor, items: Tensor) -> PredictedBehaviours:
        """Standardise over the pairs ``users``, ``items`` (n,)."""
        odds = torch.logit(responses.scores(users, items.unsqueeze(1))[:, 0].double(), eps=1e-9)
        # a behaviour that never varies keeps a spread of one and says nothing
        spread = 2.0 * odds.std(0)
        return cls(responses, odds.mean(0).float(), torch.where(spread > 1e-3, spread, 1.0).float())

    @property
    def responses(self) -> LatentResponse:
        """The response model, on the device of this module."""
        if self._responses.device != self.mean.device:
            self._responses = self._responses.to(self.mean.device)
        return self._responses

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> PredictedBehaviours:
        """Build from saved buffers."""
        users, items, intercepts, loadings, off_click = (tensors[name] for name in _TABLES)
        return cls(LatentResponse(users, items, intercepts, loadings, off_click), tensors["mean"], tensors["spread"])

    def forward(self, user: Tensor, candidates: Tensor | None) -> Tensor:
        """Predictions in [-1, 1]: ``user`` (B,), ``candidates`` (B, C) or ``None`` for the catalogue -> (B, C, 7)."""
        logits = self._catalogue(user) if candidates is None else self.responses.logits(user, candidates)
        odds = torch.logit(self.responses.marginals(logits), eps=1e-7)
        return ((odds - self.mean) / self.spread).clamp(-1.0, 1.0)

    def _catalogue(self, user: Tensor) -> Tensor:
        # the same numbers as LatentResponse.logits, by one matrix product instead of a gather of the catalogue for every user
        query, bias = self.responses.queries(user, list(range(len(BEHAVIOURS))))
        return torch.einsum("bfd,id->bif", query, self.responses.items[:-1]) + bias.unsqueeze(1)


class FusionScores(nn.Module):
    """Scores of items under the fusion weights that a vector policy chooses."""

    kind = "fusion"

    def __init__(self, query: AnyVectorPolicy, predictions: PredictedBehaviours) -> None:
        super().__init__()
        self.query, self.predictions = query, predictions

    @property
    def items(self) -> int:
        """Size of the catalogue."""
        return self.predictions.responses.n_items

    def forward(self, observation: Any, candidates: Tensor | None) -> Tensor:
        """Scores (B, C) of ``candidates`` (B, C), or of the whole catalogue."""
        weights = self.query.centre(observation)
        return (self.predictions(observation.user, candidates) * weights.unsqueeze(1)).sum(-1)

    def config(self) -> dict[str, Any]:
        """What :meth:`load` needs besides the tensors."""
        return vector_policy_config(self.query)

    @classmethod
    def load(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FusionScores:
        """Build saved scores again."""
        query = {k.removeprefix("query."): v for k, v in tensors.items() if k.startswith("query.")}
        predictions = {k.removeprefix("predictions."): v for k, v in tensors.items() if k.startswith("predictions.")}
        return cls(load_vector_policy(config, query), PredictedBehaviours.from_tensors(predictions))
