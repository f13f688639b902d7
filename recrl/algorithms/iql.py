r"""IQL: implicit Q-learning. No action outside the log is ever valued: the value of a state is an upper expectile over the logged ones.

    L_V   = mean |tau - 1{u < 0}| u^2,       u = min_e Q'_e(s, a) - V(s)
    y     = r + g (1 - terminated) V(s')                                           g = discount within or across sessions
    L_Q   = sum_e mean (Q_e(s, a) - y)^2
    L_pi  = - mean min(exp(beta u), w_max) log pi(a|s)

Symbols: ``s`` encoded state, ``r`` the objective's main signal, ``tau`` the expectile, ``Q'`` Polyak targets. ``pi`` is a Gaussian clipped
to the bounds with a learned spread a component (:class:`recrl.policies.clipped.ClippedGaussianPolicy`); a logged action beyond the
bounds counts as one at the bound. An encoder with parameters is trained by ``L_Q + L_V`` and encodes ``s'`` too.

**Differences from the authors' code**: two discounts; rows whose next state the record lacks are not learned from by ``L_Q`` (``L_V`` and
``L_pi`` need none); the three losses look at the same ``u``, before any of their steps; the likelihood of a clipped action is that of
being clipped; the actor's learning rate is constant, not annealed.

**Metrics**: ``critic_loss``, ``value_loss``, ``actor_loss``, ``q_mean`` (of logged actions), ``v_mean``, ``target_mean``,
``weight_mean`` (of ``min(exp(beta u), w_max)``), ``spread`` (mean over components).

**Source**: Kostrikov, Nair, Levine, "Offline Reinforcement Learning with Implicit Q-Learning", ICLR 2022, equations 5-7.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from recrl.algorithms.adam import Adam
from recrl.algorithms.parts import ByParts, bootstrapped, check_ranges, check_task, critic_loss, known_weights, row_weights
from recrl.algorithms.task import Task
from recrl.core.contracts import Stateful, Transitions, Update
from recrl.policies.clipped import ClippedGaussianPolicy
from recrl.policies.networks import Critics, StateValue, initialise, polyak
from recrl.policies.vector import ActorConfig


@dataclass(frozen=True)
class IQLConfig:
    """Options of IQL.

    Attributes:
        actor: the policy network; ``exploration`` is the spread it starts with.
        critic_hidden: hidden sizes of the twin critics and of the state value.
        actor_learning_rate: of Adam.
        critic_learning_rate: of Adam, for critics and state value.
        tau: Polyak step of the targets.
        expectile: 0.5 is the mean over logged actions, 1 their best.
        inverse_temperature: ``beta``; 0 is behaviour cloning.
        largest_weight: ``w_max``.
    """

    actor: ActorConfig = ActorConfig(exploration=0.3)
    critic_hidden: tuple[int, ...] = (128, 128)
    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    tau: float = 0.005
    expectile: float = 0.7
    inverse_temperature: float = 3.0
    largest_weight: float = 100.0

    def __post_init__(self) -> None:
        check_ranges("iql", {"tau": self.tau, "expectile": self.expectile}, most=1.0)
        check_ranges("iql", {"largest_weight": self.largest_weight})
        check_ranges("iql", {"inverse_temperature": self.inverse_temperature}, least=-1e-12)


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """``|expectile - 1{u < 0}| u^2`` of each ``u``: least for the expectile of what the ``u`` are counted from.

    >>> expectile_loss(torch.tensor([2.0, -2.0]), 0.75).tolist()
    [3.0, 1.0]
    """
    return torch.where(difference < 0, 1.0 - expectile, expectile) * difference * difference


class IQL(ByParts):
    """IQL for vector actions: embeddings, fusion weights, continuous controls."""

    name: ClassVar[str] = "iql"
    config_type: ClassVar[type[IQLConfig]] = IQLConfig

    def __init__(self, config: IQLConfig, task: Task, seed: int = 0) -> None:
        check_task(self.name, task)
        self.config, self.action_spec, self.objective = config, task.action_spec, task.objective
        self._policy = ClippedGaussianPolicy(task.action_spec, config.actor, task.item_vectors, seed).to(task.device)
        self._encoder = self._policy.actor.encoder
        self._critics = Critics(self._encoder.width, task.action_spec.shape[0], config.critic_hidden)
        self._value = StateValue(self._encoder.width, config.critic_hidden)
        for k, network in enumerate((self._critics, self._value)):
            initialise(network, seed + 1 + k)
            network.to(task.device)
        self._target_critics = deepcopy(self._critics)
        self._actor_optimiser = Adam([*self._policy.actor.body.parameters(), self._policy.raw_spread], config.actor_learning_rate)
        learned = [*self._critics.parameters(), *self._value.parameters(), *self._encoder.parameters()]
        self._critic_optimiser = Adam(learned, config.critic_learning_rate)
        self._step = 0

    def policy(self) -> ClippedGaussianPolicy:
        """The current actor."""
        return self._policy

    def collect_policy(self) -> ClippedGaussianPolicy:
        """The current actor, which explores by its own spread."""
        return self._policy

    def update(self, batch: Transitions) -> Update:
        """One step of critics and state value, of the actor, and of the targets."""
        self._step += 1
        state, rows = self._encoder(batch.observation), row_weights(batch)  # (B, width), (B,)
        with torch.no_grad():
            logged = self._target_critics(state, batch.action).amin(0)
            target = bootstrapped(batch, self.objective.main, self._value(self._encoder(batch.next_observation)))
        values, value = self._critics(state, batch.action), self._value(state)
        difference = logged - value
        loss = critic_loss(values, target, known_weights(batch))
        value_loss = (rows * expectile_loss(difference, self.config.expectile)).sum()
        self._critic_optimiser.descend(loss + value_loss)
        weight = (self.config.inverse_temperature * difference.detach()).exp().clamp_max(self.config.largest_weight)
        law = self._policy.head(state.detach())
        actor_loss = -(rows * weight * law.log_prob(batch.action.clamp(law.low, law.high))).sum()
        self._actor_optimiser.descend(actor_loss)
        polyak(self._target_critics, self._critics, self.config.tau)
        return Update(
            {
                "critic_loss": loss.detach(),
                "value_loss": value_loss.detach(),
                "actor_loss": actor_loss.detach(),
                "q_mean": values.detach().mean(),
                "v_mean": value.detach().mean(),
                "target_mean": target.mean(),
                "weight_mean": weight.mean(),
                "spread": torch.as_tensor(law.spread).detach().mean(),
            }
        )

    def _parts(self) -> dict[str, Stateful]:
        return {
            "policy": self._policy,
            "critics": self._critics,
            "value": self._value,
            "target_critics": self._target_critics,
            "actor_optimiser": self._actor_optimiser,
            "critic_optimiser": self._critic_optimiser,
        }
