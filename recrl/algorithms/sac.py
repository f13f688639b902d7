r"""SAC: soft actor-critic, which also earns the entropy of its policy; the temperature is learned.

    y     = r + g (1 - terminated) (min_e Q'_e(s', a') - alpha log pi(a'|s')),   a' ~ pi(s')     g = discount within or across sessions
    L_Q   = sum_e mean (Q_e(s, a) - y)^2
    L_pi  = mean (alpha log pi(b|s) - min_e Q_e(s, b)),                          b ~ pi(s), with gradients through the draw
    L_a   = - log alpha mean (log pi(b|s) + H),                                  H the entropy aimed at

Symbols: ``s`` encoded state, ``r`` the objective's main signal, ``Q'`` Polyak targets, ``alpha`` the temperature. ``pi`` is a squashed
Gaussian; its entropy is counted for actions scaled to [-1, 1], so that the unit of an action has no say. An encoder with parameters is
trained by ``L_Q`` alone and encodes ``s'`` too; it has no target of its own.

``L_a`` is linear in ``log alpha``, as in the authors' code (the paper has ``alpha``): where ``alpha`` is small it still moves.

**Differences from the authors' code**: two discounts; rows whose next state the record lacks are not learned from by the critics; the
logarithm of the spread is bounded softly to (-5, 2), not cut at (-20, 2).

**Metrics**: ``critic_loss``, ``actor_loss``, ``q_mean``, ``target_mean``, ``temperature``, ``entropy`` (of scaled actions, in nats).

**Source**: Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018, algorithm 1.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from recrl.algorithms.adam import Adam
from recrl.algorithms.parts import ByParts, Noise, bootstrapped, check_ranges, check_task, critic_loss, known_weights
from recrl.algorithms.task import Task
from recrl.core.contracts import Stateful, Transitions, Update
from recrl.policies.gaussian import GaussianPolicy
from recrl.policies.networks import Critics, initialise, polyak
from recrl.policies.vector import ActorConfig


@dataclass(frozen=True)
class SACConfig:
    """Options of SAC.

    Attributes:
        actor: the policy network; ``exploration`` is the spread it starts with, before squashing.
        critic_hidden: hidden sizes of the twin critics.
        actor_learning_rate: of Adam.
        critic_learning_rate: of Adam.
        temperature_learning_rate: of Adam; 0 keeps the temperature.
        tau: Polyak step of the targets.
        temperature: what the temperature starts with.
        entropy: aimed at, in nats a component of an action scaled to [-1, 1].
        backup_entropy: whether the targets of the critics earn entropy too.
    """

    actor: ActorConfig = ActorConfig(exploration=0.8)
    critic_hidden: tuple[int, ...] = (128, 128)
    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    temperature_learning_rate: float = 3e-4
    tau: float = 0.005
    temperature: float = 1.0
    entropy: float = -1.0
    backup_entropy: bool = True

    def __post_init__(self) -> None:
        check_ranges("sac", {"tau": self.tau}, most=1.0)
        check_ranges("sac", {"temperature": self.temperature})


class SAC(ByParts):
    """SAC for vector actions: embeddings, fusion weights, continuous controls."""

    name: ClassVar[str] = "sac"
    config_type: ClassVar[type[SACConfig]] = SACConfig

    def __init__(self, config: SACConfig, task: Task, seed: int = 0) -> None:
        check_task(self.name, task)
        self.config, self.action_spec, self.objective = config, task.action_spec, task.objective
        self._policy = GaussianPolicy(task.action_spec, config.actor, task.item_vectors, seed).to(task.device)
        self._encoder = self._policy.actor.encoder
        size = task.action_spec.shape[0]
        self._critics = Critics(self._encoder.width, size, config.critic_hidden)
        initialise(self._critics, seed + 1)
        self._critics.to(task.device)
        self._target_critics = deepcopy(self._critics)
        self._temperature = nn.ParameterDict({"log": nn.Parameter(torch.full((), math.log(config.temperature), device=task.device))})
        self._actor_optimiser = Adam(self._policy.actor.body.parameters(), config.actor_learning_rate)
        self._critic_optimiser = Adam([*self._critics.parameters(), *self._encoder.parameters()], config.critic_learning_rate)
        self._temperature_optimiser = Adam(self._temperature.parameters(), config.temperature_learning_rate)
        self._noise = Noise(seed, task.device, (2, size))
        # a log-density of an action, plus this, is that of the action scaled to [-1, 1]
        self._scaling = size * math.log((task.action_spec.high - task.action_spec.low) / 2.0)
        self._step = 0

    def policy(self) -> GaussianPolicy:
        """The current actor."""
        return self._policy

    def collect_policy(self) -> GaussianPolicy:
        """The current actor, which explores by its own spread."""
        return self._policy

    def update(self, batch: Transitions) -> Update:
        """One step of critics, actor, temperature and targets."""
        self._step += 1
        noise = self._noise(len(batch), self._step)  # (B, 2, d)
        alpha = self._temperature["log"].detach().exp()
        state = self._encoder(batch.observation)  # (B, width)
        with torch.no_grad():
            next_state = self._encoder(batch.next_observation)
            target = self._target(batch, next_state, noise[:, 0], alpha)
        loss, metrics = self._critic_loss(batch, state, next_state, target)
        self._critic_optimiser.descend(loss)
        metrics |= self._update_actor(state.detach(), noise[:, 1], alpha)
        polyak(self._target_critics, self._critics, self.config.tau)
        return Update({"critic_loss": loss.detach(), "target_mean": target.mean(), "temperature": alpha, **metrics})

    def _target(self, batch: Transitions, next_state: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
        """``y``, (B,)."""
        action, log_prob = self._policy.actor.head(next_state).draw(noise)
        value = self._target_critics(next_state, action).amin(0)
        if self.config.backup_entropy:
            value = value - alpha * (log_prob + self._scaling)
        return bootstrapped(batch, self.objective.main, value)

    def _critic_loss(self, batch: Transitions, state: Tensor, next_state: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return critic_loss(self._critics(state, batch.action), target, known_weights(batch)), {}

    def _update_actor(self, state: Tensor, noise: Tensor, alpha: Tensor) -> dict[str, Tensor]:
        action, log_prob = self._policy.actor.head(state).draw(noise)
        log_prob = log_prob + self._scaling
        value = self._critics(state, action).amin(0)
        loss = (alpha * log_prob - value).mean()
        self._actor_optimiser.descend(loss)
        entropy = -log_prob.detach().mean()
        if self.config.temperature_learning_rate > 0:
            aim = self.config.entropy * self.action_spec.shape[0]
            self._temperature_optimiser.descend(self._temperature["log"] * (entropy - aim))
        return {"actor_loss": loss.detach(), "q_mean": value.detach().mean(), "entropy": entropy}

    def _parts(self) -> dict[str, Stateful]:
        return {
            "policy": self._policy,
            "critics": self._critics,
            "target_critics": self._target_critics,
            "temperature": self._temperature,
            "actor_optimiser": self._actor_optimiser,
            "critic_optimiser": self._critic_optimiser,
            "temperature_optimiser": self._temperature_optimiser,
            "noise": self._noise,
        }
