"""Ranking by fusion weights: a weighted sum of predicted behaviours, on the scale of :mod:`simulators.fusion`.

A policy ranks as a simulated platform does that is given the same weights and the same predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recrl.core.behaviours import BEHAVIOURS
from recrl.policies.gaussian import AnyVectorPolicy, load_vector_policy, vector_policy_config
from simulators.fusion import FusionScale
from simulators.response import LatentResponse

_TABLES = ("users", "items", "intercepts", "loadings", "off_click")


class PredictedBehaviours(nn.Module):
    """Standardised predicted behaviours of a response model, for some candidates or the whole catalogue.

    Args:
        responses: a response model fitted on training rows: the platform's own predictions, not the simulator's truth.
        mean: (7,) mean probabilities over pairs of users and items.
        spread: (7,) their standard deviations.
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
    def of(cls, responses: LatentResponse) -> PredictedBehaviours:
        """The predictions of a model on their own scale."""
        scale = FusionScale.of(responses)
        return cls(responses, scale.mean, scale.spread)

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
        """Standardised predictions: ``user`` (B,), ``candidates`` (B, C) or ``None`` for the catalogue -> (B, C, 7)."""
        logits = self._catalogue(user) if candidates is None else self.responses.logits(user, candidates)
        return FusionScale(self.mean, self.spread).standardised(self.responses.marginals(logits))

    def as_weights(self, user: Tensor, items: Tensor) -> Tensor:
        """Weights in [-1, 1] that stand for shown items, because ranking by them favours items alike: ``(B,)``, ``(B,)`` -> ``(B, 7)``."""
        return self(user, items.unsqueeze(1)).squeeze(1).clamp(-1.0, 1.0)

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
