r"""Joint critic: one actor-critic on the weighted sum of all responses, the baseline that multi-critic estimation is measured against.

    r     = w_1 r_1 + sum_i w_i r_i                  one reward, one discount (the main response's)
    L     = - mean [ rho A log pi(a|s) ] - b mean log pi(a|s)

Symbols and the two stages (a clone of the log, then this) are those of :mod:`recrl.algorithms.actor_critic`. A response to keep low enters
with a negative weight.

**Metrics**: ``stage``, ``cloning_loss``, ``critic_loss``, ``actor_loss``, ``rate_<response>``, ``slack_<response>``, ``effective_share``.

**Source**: V_joint of Cai et al., WWW 2023 (arXiv 2302.01680), table 1; the actor-critic is that of Degris, White, Sutton, "Off-Policy
Actor-Critic", ICML 2012.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from recrl.algorithms.actor_critic import ActorCritic, ActorCriticConfig, Look, MultiCritic, RunningScale, one_each
from recrl.algorithms.task import Task


@dataclass(frozen=True)
class JointCriticConfig(ActorCriticConfig):
    """Options of the constrained actor-critics, and ``weights``.

    Attributes:
        weights: of the protected responses in the sum: one for all, or one each in the order of the constraints; the main one has 1.
    """

    weights: tuple[float, ...] = (1.0,)


class JointCritic(ActorCritic):
    """One actor-critic on a weighted sum, for items, slates, discrete choices and vectors."""

    name: ClassVar[str] = "joint_critic"
    config_type: ClassVar[type[JointCriticConfig]] = JointCriticConfig

    def __init__(self, config: JointCriticConfig, task: Task, seed: int = 0) -> None:
        super().__init__(config, task, seed)
        self.config = config
        weights = (1.0, *one_each(config.weights, len(self.objective.constraints), "joint_critic.weights"))
        self._weights = torch.tensor([weights], device=task.device)
        self._critic = MultiCritic(task, config, [self.objective.main], seed + 1)
        self._scale = RunningScale(1, task.device)

    def _improve(self, look: Look) -> dict[str, Any]:
        log_prob = self._log_prob(self._policy, look)
        ratio = self._ratio(log_prob, self._behaviour_log_prob(look))
        advantage, losses = self._critic.learn(look, self._weights @ look.reward, ratio)
        loss = self._climb(log_prob, ratio, self._scaled(self._scale, advantage, look)[0])
        return {"critic_loss": losses[0], "actor_loss": loss, **self._rate_metrics(*self._rates(look, ratio))}

    def state_dict(self) -> dict[str, Any]:
        """That of the actor-critic, the critic and the scale of its advantages."""
        return {**super().state_dict(), "critic": self._critic.state_dict(), "scale": self._scale.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        super().load_state_dict(state)
        self._critic.load_state_dict(state["critic"])
        self._scale.load_state_dict(state["scale"])
