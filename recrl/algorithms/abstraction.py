r"""State abstraction: what makes distances between ``phi(s)`` mirror differences of value, and what trains it.

States of a batch are sorted by value and cut into ``n`` bins; ``C_k`` are the members of bin ``k``, ``c_k`` its centroid. With ``B`` rows,

    distance      J / B^2 = 2 / (n B) sum_k sum_{i in C_k} |phi_i - c_k|^2 - 1 / n^2 sum_{k < m} |c_k - c_m|^2
    determinant   lambda sum_i |phi_i - c_k(i)| - log det(R + eps I),   R_km = exp(-alpha |c_k - c_m|)

The first sum of ``J`` is that over ordered pairs of one bin; the second stands for all pairs of two bins, their points replaced by
centroids. So ``J`` costs O(B). For equal bins ``J / B^2 = 2/n W - V``, with ``W`` the mean variance within bins and ``V`` that of the
centroids: it has no lower bound, unless ``phi`` is bounded (:class:`recrl.policies.abstraction.AbstractedEncoder` is) or distances
between centroids count no further than a ``margin``.

Centroids may be running means: their values are ``momentum old + (1 - momentum) mean``, their gradient is that of the batch's mean,
whole. A buffer without gradient would take the repulsion out of the loss; one that passes ``1 - momentum`` of it, as ``c <- momentum
stop(c) + (1 - momentum) mean`` does, leaves so little that the attraction wins and ``phi`` collapses to a point
(``tests/learning/test_auro.py``).

**Source**: AURO (arXiv 2310.03984); the determinant loss is that of ESCP (Luo et al., AAAI 2022) and of AURO's code, which adds ``eps``
to every entry and so has an infinite loss where centroids coincide (:mod:`recrl.algorithms.parity.auro`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from recrl.algorithms.adam import Adam
from recrl.core.errors import ConfigError
from recrl.policies.abstraction import AbstractedEncoder

LossKind = Literal["distance", "determinant"]
ALPHA, LAMBDA, EPSILON = 0.1, 0.1, 1e-3
"""Of the determinant loss; the first two as published."""
_TINY = 1e-12


def value_bins(values: Tensor, bins: int = 4) -> Tensor:
    """The bin of each value by its rank, lowest first: (B,) -> (B,) int64; sizes differ by at most 1.

    Equal values are cut in the order they stand in.

    >>> value_bins(torch.tensor([0.3, -2.0, 9.0, 0.1]), bins=2).tolist()
    [1, 0, 1, 0]
    """
    rank = values.argsort(stable=True).argsort(stable=True)
    return torch.div(rank * bins, values.shape[0], rounding_mode="floor")


def cluster_bins(points: Tensor, bins: int = 4, iterations: int = 8) -> Tensor:
    """K-means labels of ``points`` (B, D), the grouping that knows no value: (B,) int64. Starts from points far apart; draws nothing."""
    points = points.detach()
    centres = [points[torch.linalg.vector_norm(points - points.mean(0), dim=1).argmax().reshape(1)]]
    for _ in range(bins - 1):
        centres.append(points[torch.cdist(points, torch.cat(centres)).amin(1).argmax().reshape(1)])
    centre = torch.cat(centres)
    for _ in range(iterations):
        centre, _ = bin_means(points, torch.cdist(points, centre).argmin(1), bins, centre)
    return torch.cdist(points, centre).argmin(1)


def bin_means(points: Tensor, labels: Tensor, bins: int, absent: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean of each bin, (n, d), and whether it has members, (n,); empty ones take ``absent`` (n, d), or 0."""
    member = (labels == torch.arange(bins, device=labels.device).unsqueeze(1)).to(points.dtype)  # (n, B)
    count = member.sum(1)
    mean = member @ points / count.clamp_min(1.0).unsqueeze(1)
    return mean if absent is None else torch.where((count > 0).unsqueeze(1), mean, absent), count > 0


def distance_loss(phi: Tensor, labels: Tensor, centroids: Tensor, margin: float = float("inf")) -> Tensor:
    """``J / B^2`` of ``phi`` (B, d) in bins ``labels`` (B,) with ``centroids`` (n, d)."""
    bins = centroids.shape[0]
    within = (phi - centroids[labels]).square().sum() * (2.0 / (bins * phi.shape[0]))
    apart = (centroids.unsqueeze(0) - centroids.unsqueeze(1)).square().sum(-1).clamp_max(margin**2)
    return within - apart.sum() / (2.0 * bins**2)


def determinant_loss(phi: Tensor, labels: Tensor, centroids: Tensor, present: Tensor) -> Tensor:
    """The relational determinant loss, finite in value and gradient where centroids coincide; bins not ``present`` (n,) are far away."""
    pull = ((phi - centroids[labels]).square().sum(1) + _TINY).sqrt().sum()
    distance = ((centroids.unsqueeze(0) - centroids.unsqueeze(1)).square().sum(-1) + _TINY).sqrt()
    one = torch.eye(centroids.shape[0], device=phi.device, dtype=phi.dtype)
    both = (present.unsqueeze(0) & present.unsqueeze(1)).to(phi.dtype)
    relation = one + (1.0 - one) * both * torch.exp(-ALPHA * distance)
    return LAMBDA * pull - torch.linalg.slogdet(relation + EPSILON * one).logabsdet


def abstraction_loss(
    phi: Tensor,
    values: Tensor,
    *,
    bins: int = 4,
    kind: LossKind = "distance",
    previous: Tensor | None = None,
    momentum: float = 0.9,
    margin: float = float("inf"),
    labels: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss of an abstraction, and the centroids for the next batch.

    Args:
        phi: (B, d).
        values: (B,) estimated values of the states; only their order counts.
        bins: how many.
        kind: AURO's ``distance`` loss ``J / B^2``, or the ``determinant``.
        previous: (n, d) centroids of the batches before; without them, those of this batch count whole.
        momentum: weight of ``previous``.
        margin: distance at which bins stop to push each other away (``distance`` only).
        labels: (B,) other groups than those by value, numbered ``0 .. bins - 1``.

    >>> loss, centroids = abstraction_loss(torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]), torch.tensor([4.0, 3.0, 2.0, 1.0]), bins=2)
    >>> float(loss), centroids.flatten().tolist()
    (-1.0, [-1.0, 1.0])
    """
    groups = value_bins(values, bins) if labels is None else labels
    centroids, present = bin_means(phi, groups, bins, previous)
    if previous is not None:
        # the value of the running mean, the whole gradient of the batch's; a bin without members stays where it was
        centroids = centroids + momentum * (previous - centroids).detach()
    if kind == "distance":
        return distance_loss(phi, groups, centroids, margin), centroids.detach()
    return determinant_loss(phi, groups, centroids, present), centroids.detach()


@dataclass(frozen=True)
class AbstractionConfig:
    """How an abstraction is trained.

    Attributes:
        size: width of ``phi(s)``; 0 leaves it out, and the state is ``s`` alone.
        hidden: hidden sizes of ``phi``.
        loss: AURO's ``distance`` loss, the ``determinant``, or ``none``: ``phi`` is then trained by the critics alone.
        bins: groups of a batch.
        momentum: weight of earlier centroids; 0 takes those of the batch.
        margin: distance at which groups stop to push each other away (``distance`` only).
        learning_rate: of this loss's own Adam; the scale of the loss does not matter to it.
        every: updates a step of this loss.
    """

    size: int = 8
    hidden: tuple[int, ...] = (128, 128)
    loss: Literal["distance", "determinant", "none"] = "distance"
    bins: int = 4
    momentum: float = 0.9
    margin: float = 2.0
    learning_rate: float = 3e-4
    every: int = 10

    def __post_init__(self) -> None:
        if self.size < 0 or self.bins < 2 or not 0.0 <= self.momentum < 1.0 or self.margin <= 0 or self.every < 1:
            raise ConfigError(
                f"size={self.size}, bins={self.bins}, momentum={self.momentum}, margin={self.margin}, every={self.every} are out of range",
                where="abstraction",
                mend="size >= 0, bins >= 2, 0 <= momentum < 1, margin > 0, every >= 1",
            )


class Abstraction:
    """Trains the ``phi`` of an encoder by a loss over groups of states; the state below it is left alone.

    Args:
        encoder: whose ``phi``.
        config: loss and rate.
        bins: groups; by default those of ``config``.
    """

    def __init__(self, encoder: AbstractedEncoder, config: AbstractionConfig, bins: int | None = None) -> None:
        self.encoder, self._config, self._bins = encoder, config, bins or config.bins
        self._optimiser = Adam(encoder.layers.parameters(), config.learning_rate)
        self._centroids: Tensor | None = None

    def learn(self, state: Tensor, values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """One step on states (B, width of the encoder's base), grouped by ``values`` (B,) or by ``labels`` (B,)."""
        config = self._config
        assert config.loss != "none"
        phi = self.encoder.phi(state.detach())
        loss, centroids = abstraction_loss(
            phi,
            values,
            bins=self._bins,
            kind=config.loss,
            previous=self._centroids,
            momentum=config.momentum,
            margin=config.margin,
            labels=labels,
        )
        self._optimiser.descend(loss)
        self._centroids = centroids
        spread, between = phi.detach().var(0, correction=0).sum(), centroids.var(0, correction=0).sum()
        return {"abstraction_loss": loss.detach(), "abstraction_spread": spread, "abstraction_between": between}

    def state_dict(self) -> dict[str, Any]:
        """Optimiser and centroids; ``phi`` belongs to the policy."""
        return {"optimiser": self._optimiser.state_dict(), "centroids": self._centroids}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._optimiser.load_state_dict(state["optimiser"])
        held = state["centroids"]
        self._centroids = None if held is None else held.to(next(self.encoder.parameters()).device)
