r"""RCPO: reward constrained policy optimisation, an actor-critic on the Lagrangian of the constrained problem.

    joint:     r = r_1 + sum_i lambda_i r_i,   one critic with the main response's discount,   A = A(r)
    separate:  one critic a response with its own discount (RCPO multi-critic),                A = A_1 + sum_i lambda_i A_i
    L          = - mean [ rho A log pi(a|s) ] - b mean log pi(a|s)
    lambda_i  <- clip( lambda_i - eta slack_i / |bound_i|, 0, lambda_max )      where multipliers are learned (eta > 0)

``slack_i`` is the estimated mean a request under the policy less its bound, with the sign that makes it positive where the constraint
holds. Symbols and the two stages are those of :mod:`recrl.algorithms.actor_critic`. A response to keep low enters with its sign turned.

**Differences from the paper**: multipliers move on the estimated mean a request of each batch, corrected for the policy's choices, where
the paper takes the discounted return of episodes; advantages of stochastic actions from a log need the ratio ``rho``.

**Metrics**: ``stage``, ``cloning_loss``, ``critic_loss_<critic>``, ``actor_loss``, ``lambda_<response>``, ``rate_<response>``,
``slack_<response>``, ``effective_share``.

**Source**: Tessler, Mankowitz, Mannor, "Reward Constrained Policy Optimization", ICLR 2019, algorithm 1; the multi-critic variant is the
baseline of Cai et al., WWW 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from recrl.algorithms.actor_critic import ActorCritic, ActorCriticConfig, Look, MultiCritic, RunningScale, one_each
from recrl.algorithms.task import Task
from recrl.core.errors import ConfigError


@dataclass(frozen=True)
class RCPOConfig(ActorCriticConfig):
    """Options of the constrained actor-critics, and of the multipliers.

    Attributes:
        critics: one critic of the weighted sum (``joint``), or one a response (``separate``: RCPO multi-critic).
        multipliers: where ``lambda`` starts: one for all, or one each in the order of the constraints.
        multiplier_learning_rate: ``eta``; 0 keeps the multipliers.
        largest_multiplier: ``lambda_max``.
    """

    critics: Literal["joint", "separate"] = "joint"
    multipliers: tuple[float, ...] = (1.0,)
    multiplier_learning_rate: float = 0.0
    largest_multiplier: float = 100.0


class RCPO(ActorCritic):
    """RCPO with fixed or learned multipliers, for items, slates, discrete choices and vectors."""

    name: ClassVar[str] = "rcpo"
    config_type: ClassVar[type[RCPOConfig]] = RCPOConfig

    def __init__(self, config: RCPOConfig, task: Task, seed: int = 0) -> None:
        super().__init__(config, task, seed)
        self.config = config
        constraints = self.objective.constraints
        self._multipliers = torch.tensor(one_each(config.multipliers, len(constraints), "rcpo.multipliers"), device=task.device)
        if config.multiplier_learning_rate > 0 and not all(c.bound for c in constraints):
            raise ConfigError(
                "learned multipliers need a bound other than 0 for each constraint",
                where="objective.constraints",
                mend="write like>=0.2, or keep the multipliers with multiplier_learning_rate=0",
            )
        # of slack over bound: positive where the constraint holds
        self._bounds = torch.tensor([c.bound or 1.0 for c in constraints], device=task.device)
        self._signs = torch.tensor([1.0 if c.direction == "at_least" else -1.0 for c in constraints], device=task.device)
        signals = self.objective.signals if config.critics == "separate" else (self.objective.main,)
        self._critic, self._scale = MultiCritic(task, config, signals, seed + 1), RunningScale(1, task.device)
        self._critic_names = [s.name for s in signals] if config.critics == "separate" else ["joint"]

    def _improve(self, look: Look) -> dict[str, Any]:
        log_prob = self._log_prob(self._policy, look)
        ratio = self._ratio(log_prob, self._behaviour_log_prob(look))
        rates, share = self._rates(look, ratio)
        separate = self.config.critics == "separate"
        advantage, losses = self._critic.learn(look, look.reward if separate else self._sum(look.reward), ratio)
        advantage = self._sum(advantage) if separate else advantage
        loss = self._climb(log_prob, ratio, self._scaled(self._scale, advantage, look)[0])
        metrics: dict[str, Any] = {f"critic_loss_{name}": found for name, found in zip(self._critic_names, losses, strict=True)}
        for name, multiplier in zip(self._names[1:], self._multipliers.clone(), strict=True):
            metrics[f"lambda_{name}"] = multiplier
        if self.config.multiplier_learning_rate > 0:
            slack = self._signs * (rates[1:] - self._bounds) / self._bounds.abs()
            self._multipliers.sub_(self.config.multiplier_learning_rate * slack).clamp_(0.0, self.config.largest_multiplier)
        return {**metrics, "actor_loss": loss, **self._rate_metrics(rates, share)}

    def _sum(self, rows: Tensor) -> Tensor:
        """The Lagrangian of rows (m, B), (1, B)."""
        return rows[:1] + self._multipliers.unsqueeze(0) @ rows[1:]

    def state_dict(self) -> dict[str, Any]:
        """That of the actor-critic, the critics, the scale of the advantages and the multipliers."""
        own = {"critic": self._critic.state_dict(), "scale": self._scale.state_dict(), "multipliers": self._multipliers}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        super().load_state_dict(state)
        self._critic.load_state_dict(state["critic"])
        self._scale.load_state_dict(state["scale"])
        self._multipliers.copy_(state["multipliers"])
