r"""DDPG: deep deterministic policy gradient, the ancestor of TD3.

    y     = r + g (1 - terminated) Q'(s', pi'(s'))          g = discount within or across sessions
    L_Q   = mean (Q(s, a) - y)^2
    L_pi  = - mean Q(s, pi(s))

Symbols: ``s`` encoded state, ``r`` the objective's main signal, ``Q'``, ``pi'`` Polyak targets; ``s'`` is encoded by a Polyak target of
the encoder. An encoder with parameters is trained by ``L_Q`` alone.

**Differences from the authors' experiments**: two discounts; rows whose next state the record lacks are not learned from by the critic;
exploration is Gaussian noise that the policy adds, not an Ornstein-Uhlenbeck process; no batch normalisation, no weight decay.

**Metrics**: ``critic_loss``, ``actor_loss``, ``q_mean``, ``target_mean``.

**Source**: Lillicrap et al., "Continuous control with deep reinforcement learning", ICLR 2016, algorithm 1.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from recrl.algorithms.adam import Adam
from recrl.algorithms.parts import ByParts, bootstrapped, check_ranges, check_task, critic_loss, known_weights
from recrl.algorithms.task import Task
from recrl.core.contracts import Stateful, Transitions, Update
from recrl.policies.networks import Critics, initialise, polyak
from recrl.policies.vector import ActorConfig, VectorPolicy


@dataclass(frozen=True)
class DDPGConfig:
    """Options of DDPG.

    Attributes:
        actor: the policy network.
        critic_hidden: hidden sizes of the critic.
        actor_learning_rate: of Adam.
        critic_learning_rate: of Adam.
        tau: Polyak step of the targets.
    """

    actor: ActorConfig = ActorConfig()
    critic_hidden: tuple[int, ...] = (128, 128)
    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    tau: float = 0.005

    def __post_init__(self) -> None:
        check_ranges("ddpg", {"tau": self.tau}, most=1.0)


class DDPG(ByParts):
    """DDPG for vector actions: embeddings, fusion weights, continuous controls."""

    name: ClassVar[str] = "ddpg"
    config_type: ClassVar[type[DDPGConfig]] = DDPGConfig

    def __init__(self, config: DDPGConfig, task: Task, seed: int = 0) -> None:
        check_task(self.name, task)
        self.config, self.action_spec, self.objective = config, task.action_spec, task.objective
        self._policy = VectorPolicy(task.action_spec, config.actor, task.item_vectors, seed).to(task.device)
        self._encoder = self._policy.actor.encoder
        self._critic = Critics(self._encoder.width, task.action_spec.shape[0], config.critic_hidden, members=1)
        initialise(self._critic, seed + 1)
        self._critic.to(task.device)
        self._target_policy, self._target_critic = deepcopy(self._policy), deepcopy(self._critic)
        self._actor_optimiser = Adam(self._policy.actor.body.parameters(), config.actor_learning_rate)
        self._critic_optimiser = Adam([*self._critic.parameters(), *self._encoder.parameters()], config.critic_learning_rate)
        self._step = 0

    def policy(self) -> VectorPolicy:
        """The current actor."""
        return self._policy

    def collect_policy(self) -> VectorPolicy:
        """The current actor with its Gaussian exploration."""
        return self._policy

    def update(self, batch: Transitions) -> Update:
        """One step of the critic, of the actor, and of their targets."""
        self._step += 1
        state = self._encoder(batch.observation)  # (B, width)
        target = self._target(batch)
        loss = critic_loss(self._critic(state, batch.action), target, known_weights(batch))
        self._critic_optimiser.descend(loss)
        state = state.detach()
        value = self._critic.first(state, self._policy.actor.head(state)).mean()
        self._actor_optimiser.descend(-value)
        polyak(self._target_policy, self._policy, self.config.tau)
        polyak(self._target_critic, self._critic, self.config.tau)
        value = value.detach()
        return Update({"critic_loss": loss.detach(), "target_mean": target.mean(), "actor_loss": -value, "q_mean": value})

    @torch.no_grad()
    def _target(self, batch: Transitions) -> Tensor:
        """``y``, (B,)."""
        actor = self._target_policy.actor
        next_state = actor.encoder(batch.next_observation)
        return bootstrapped(batch, self.objective.main, self._target_critic.first(next_state, actor.head(next_state)))

    def _parts(self) -> dict[str, Stateful]:
        return {
            "policy": self._policy,
            "critic": self._critic,
            "target_policy": self._target_policy,
            "target_critic": self._target_critic,
            "actor_optimiser": self._actor_optimiser,
            "critic_optimiser": self._critic_optimiser,
        }
