r"""CQL: conservative Q-learning, CQL(H) over SAC. The critics learn to value what the log does not show below what it does.

    L_Q   = sum_e mean (Q_e(s, a) - y)^2 + w sum_e mean (log Z_e(s) - Q_e(s, a))
    Z_e   = 1 / (3 n) sum_k exp(Q_e(s, b_k)) / q(b_k),    b_k: n uniform, n of pi(s) and n of pi(s'), each with its own density q

``Z`` estimates the integral of ``exp Q`` over the actions by importance sampling. ``y`` has no entropy unless ``backup_entropy``; actor,
temperature and symbols are those of :mod:`recrl.algorithms.sac`. No gradient reaches the policy through the samples.

**Differences from the authors' code**: those of SAC; the weight ``w`` is fixed, there is no Lagrangian form; the mean over the samples,
where the code has their sum, which moves the penalty by a constant.

**Metrics**: those of SAC, with the penalty in ``critic_loss``, and ``penalty``: ``sum_e mean (log Z_e(s) - Q_e(s, a))``.

**Source**: Kumar, Zhou, Tucker, Levine, "Conservative Q-Learning for Offline Reinforcement Learning", NeurIPS 2020, equation 4 and
appendix F.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from recrl.algorithms.parts import check_ranges, critic_loss, known_weights, row_weights
from recrl.algorithms.sac import SAC, SACConfig
from recrl.core.contracts import Transitions
from recrl.core.streams import Purpose
from recrl.policies.laws import SquashedGaussian


@dataclass(frozen=True)
class CQLConfig(SACConfig):
    """Options of SAC, and of the penalty.

    Attributes:
        conservative_weight: of the penalty.
        samples: actions of each of the three kinds that estimate the integral.
    """

    backup_entropy: bool = False
    conservative_weight: float = 5.0
    samples: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges("cql", {"samples": self.samples, "conservative_weight": self.conservative_weight})


class CQL(SAC):
    """CQL for vector actions: embeddings, fusion weights, continuous controls."""

    name: ClassVar[str] = "cql"
    config_type: ClassVar[type[CQLConfig]] = CQLConfig
    config: CQLConfig

    def _critic_loss(self, batch: Transitions, state: Tensor, next_state: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        actions, log_density = self._proposals(state, next_state)
        logged = self._critics(state, batch.action)  # (E, B)
        mass = torch.logsumexp(self._values(state, actions) - log_density, dim=2) - math.log(log_density.shape[1])  # log Z, (E, B)
        penalty = ((mass - logged) @ row_weights(batch)).sum()
        loss = critic_loss(logged, target, known_weights(batch)) + self.config.conservative_weight * penalty
        return loss, {"penalty": penalty.detach()}

    def _values(self, state: Tensor, actions: Tensor) -> Tensor:
        """Values of all proposals, (E, B, 3 n): kind by kind and critic by critic, so that what one product writes stays in the cache."""
        n = self.config.samples
        rows = state.unsqueeze(1).expand(-1, n, -1).flatten(0, 1)  # (B n, width)
        kinds = [kind.flatten(0, 1) for kind in actions.split(n, dim=1)]
        values = [[self._critics.one(e, rows, kind).unflatten(0, (-1, n)) for kind in kinds] for e in range(self._critics.members)]
        return torch.stack([torch.cat(each, dim=1) for each in values])

    @torch.no_grad()
    def _proposals(self, state: Tensor, next_state: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (B, 3 n, d) and the logarithms of their densities (B, 3 n)."""
        spec, n, streams = self.action_spec, self.config.samples, self._noise.streams
        rows = torch.arange(state.shape[0], device=state.device)
        uniform = spec.low + (spec.high - spec.low) * streams.uniform(rows, self._step, Purpose.CANDIDATES, (n, *spec.shape))
        flat = torch.full(uniform.shape[:2], -spec.shape[0] * math.log(spec.high - spec.low), device=state.device)
        noise = streams.normal(rows, self._step, Purpose.EXPLORATION, (2, n, *spec.shape))
        here, there = (self._draw(s, noise[:, k]) for k, s in enumerate((state, next_state)))
        return torch.cat([uniform, here[0], there[0]], dim=1), torch.cat([flat, here[1], there[1]], dim=1)

    def _draw(self, state: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Several draws a state, (B, n, d) and (B, n), from one pass of the policy."""
        law = self._policy.actor.head(state)
        return SquashedGaussian(law.mean.unsqueeze(1), law.log_spread.unsqueeze(1), law.low, law.high).draw(noise)
