r"""Pareto: a multi-critic actor whose weights make a direction that hurts no response (multiple-gradient descent, MGDA).

    g_i   = gradient of L_i = - mean [ rho A_i log pi(a|s) ] in the policy's parameters, i = 1..m
    w     = argmin over the simplex of | sum_i w_i g_i |^2
    L     = sum_i w_i L_i - b mean log pi(a|s)

The least vector of the gradients' convex hull is 0 where the policy is Pareto-stationary, and descends on every ``L_i`` elsewhere. Two
responses have a closed form; more are solved by pairwise Frank-Wolfe steps of exact length on the Gram matrix (m x m), a fixed number of
them, so that nothing waits for the device. Symbols and the two stages are those of :mod:`recrl.algorithms.actor_critic`; a response to keep
low has its sign turned.

**Differences from the baseline of Cai et al.**: its weights start at the RCPO ones and move by 1e-10 a step, so that they hardly do.

**Metrics**: ``stage``, ``cloning_loss``, ``critic_loss_<response>``, ``actor_loss``, ``weight_<response>``, ``rate_<response>``,
``slack_<response>``, ``effective_share``.

**Source**: Sener and Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018; Desideri, C. R. Math. 2012; pairwise
steps, Lacoste-Julien and Jaggi, NeurIPS 2015.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from recrl.algorithms.actor_critic import ActorCritic, ActorCriticConfig, Look, MultiCritic, RunningScale
from recrl.algorithms.task import Task


def min_norm_weights(gram: Tensor, steps: int = 60) -> Tensor:
    """Weights ``w`` (m,) of the simplex that minimise ``w' G w`` for a Gram matrix ``G`` (m, m).

    Exact for one and two vectors; for more, ``steps`` pairwise Frank-Wolfe steps with exact line search.

    >>> min_norm_weights(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    tensor([0.7500, 0.2500])
    """
    count = len(gram)
    if count == 2:
        between = gram[0, 0] - 2.0 * gram[0, 1] + gram[1, 1]
        first = ((gram[1, 1] - gram[0, 1]) / between.clamp_min(1e-12)).clamp(0.0, 1.0)
        return torch.stack([first, 1.0 - first])
    weights, number = torch.full_like(gram[0], 1.0 / count), torch.arange(count, device=gram.device)
    for _ in range(steps if count > 1 else 0):
        slope = gram @ weights
        held = torch.where(weights > 0, slope, -torch.inf)
        # from the worst vector that is held to the best one
        way = (number == slope.argmin()).to(gram.dtype) - (number == held.argmax()).to(gram.dtype)
        most = (weights * (number == held.argmax())).sum()
        length = (-(way @ slope) / (way @ gram @ way).clamp_min(1e-12)).clamp_min(0.0)
        weights = (weights + torch.minimum(length, most) * way).clamp_min(0.0)
    return weights


@dataclass(frozen=True)
class ParetoConfig(ActorCriticConfig):
    """Options of the constrained actor-critics; the weights are not an option here."""


class Pareto(ActorCritic):
    """Min-norm actor-critic for items, slates, discrete choices and vectors."""

    name: ClassVar[str] = "pareto"
    config_type: ClassVar[type[ParetoConfig]] = ParetoConfig

    def __init__(self, config: ParetoConfig, task: Task, seed: int = 0) -> None:
        super().__init__(config, task, seed)
        self.config = config
        self._critic = MultiCritic(task, config, self.objective.signals, seed + 1)
        self._scale = RunningScale(len(self.objective.signals), task.device)

    def _improve(self, look: Look) -> dict[str, Any]:
        log_prob = self._log_prob(self._policy, look)
        ratio = self._ratio(log_prob, self._behaviour_log_prob(look))
        advantage, losses = self._critic.learn(look, look.reward, ratio)
        advantage = self._scaled(self._scale, advantage, look)
        weights = self._weights(-(ratio * advantage * log_prob).mean(1))
        loss = self._climb(log_prob, ratio, weights @ advantage)
        metrics: dict[str, Any] = {"actor_loss": loss, **self._rate_metrics(*self._rates(look, ratio))}
        for name, found, weight in zip(self._names, losses, weights, strict=True):
            metrics |= {f"critic_loss_{name}": found, f"weight_{name}": weight}
        return metrics

    def _weights(self, losses: Tensor) -> Tensor:
        """The min-norm weights of the gradients of ``losses`` (m,)."""
        parameters = list(self._policy.parameters())
        rows = []
        for loss in losses:
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
            rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
        stacked = torch.stack(rows)
        return min_norm_weights(stacked @ stacked.T)

    def state_dict(self) -> dict[str, Any]:
        """That of the actor-critic, the critics and the scales of their advantages."""
        return {**super().state_dict(), "critic": self._critic.state_dict(), "scale": self._scale.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        super().load_state_dict(state)
        self._critic.load_state_dict(state["critic"])
        self._scale.load_state_dict(state["scale"])
