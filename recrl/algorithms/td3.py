r"""TD3: twin delayed deterministic policy gradient.

    y     = r + g (1 - terminated) min_e Q'_e(s', pi'(s') + clip(noise))          g = discount within or across sessions
    L_Q   = sum_e mean (Q_e(s, a) - y)^2
    L_pi  = - mean Q_1(s, pi(s))

Symbols: ``s`` encoded state, ``r`` the objective's main signal, ``Q'``, ``pi'`` Polyak targets; ``s'`` is encoded by a Polyak target of
the encoder. An encoder with parameters is trained by ``L_Q`` alone: ``L_pi`` stops at ``s``, as it was encoded for ``L_Q``.

**Differences from the authors' code**: the discount of a transition is the one within a session or across its end; truncated rows
without a next state in the record are not learned from by the critics; exploration noise is added by the policy.

**Metrics**: ``critic_loss``, ``actor_loss``, ``q_mean``, ``target_mean``.

**Source**: Fujimoto, van Hoof, Meger, "Addressing Function Approximation Error in Actor-Critic Methods", ICML 2018, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from recrl.algorithms.adam import Adam
from recrl.algorithms.parts import bootstrapped, check_task, critic_loss, known_weights
from recrl.algorithms.task import Task
from recrl.core.contracts import Transitions, Update
from recrl.core.errors import ConfigError
from recrl.core.streams import Purpose
from recrl.core.torch.streams import Ahead, TensorStreams
from recrl.policies.networks import Critics, initialise, polyak
from recrl.policies.vector import ActorConfig, VectorPolicy


@dataclass(frozen=True)
class TD3Config:
    """Options of TD3.

    Attributes:
        actor: the policy network.
        critic_hidden: hidden sizes of the twin critics.
        actor_learning_rate: of Adam.
        critic_learning_rate: of Adam.
        tau: Polyak step of the targets.
        policy_delay: critic steps an actor step.
        target_noise: spread of the smoothing noise, as a share of half the action range.
        target_clip: bound of the smoothing noise, likewise.
    """

    actor: ActorConfig = ActorConfig()
    critic_hidden: tuple[int, ...] = (128, 128)
    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    tau: float = 0.005
    policy_delay: int = 2
    target_noise: float = 0.2
    target_clip: float = 0.5

    def __post_init__(self) -> None:
        if self.policy_delay < 1 or not 0 < self.tau <= 1:
            raise ConfigError(
                f"policy_delay={self.policy_delay}, tau={self.tau} are out of range", where="td3", mend="policy_delay >= 1, 0 < tau <= 1"
            )


class TD3:
    """TD3 for vector actions: embeddings, fusion weights, continuous controls."""

    name: ClassVar[str] = "td3"
    config_type: ClassVar[type[TD3Config]] = TD3Config

    def __init__(self, config: TD3Config, task: Task, seed: int = 0) -> None:
        check_task(self.name, task)
        self.config, self.action_spec, self.objective = config, task.action_spec, task.objective
        self._policy = VectorPolicy(task.action_spec, config.actor, task.item_vectors, seed).to(task.device)
        self._encoder = self._policy.actor.encoder
        self._critics = Critics(self._encoder.width, task.action_spec.shape[0], config.critic_hidden)
        initialise(self._critics, seed + 1)
        self._critics.to(task.device)
        self._target_policy, self._target_critics = deepcopy(self._policy), deepcopy(self._critics)
        self._actor_optimiser = Adam(self._policy.actor.body.parameters(), config.actor_learning_rate)
        self._critic_optimiser = Adam([*self._critics.parameters(), *self._encoder.parameters()], config.critic_learning_rate)
        self._streams = TensorStreams(seed, task.device)
        self._step = 0
        self._noise: dict[int, Ahead] = {}  # of the batch size at hand
        self._actor_metrics: dict[str, Tensor] = {}

    def policy(self) -> VectorPolicy:
        """The current actor."""
        return self._policy

    def collect_policy(self) -> VectorPolicy:
        """The current actor with its Gaussian exploration."""
        return self._policy

    def observe(self, transitions: Transitions) -> None:
        """Nothing to see: learning is from batches alone."""

    def update(self, batch: Transitions) -> Update:
        """One critic step; every ``policy_delay``-th call an actor step and a target step."""
        self._step += 1
        state = self._encoder(batch.observation)  # (B, width)
        target = self._target(batch)
        critic_loss = self._update_critics(batch, state, target)
        if (self._step - 1) % self.config.policy_delay == 0:
            self._actor_metrics = self._update_actor(state.detach(), batch.action)
            polyak(self._target_policy, self._policy, self.config.tau)
            polyak(self._target_critics, self._critics, self.config.tau)
        return Update({"critic_loss": critic_loss, "target_mean": target.mean(), **self._actor_metrics})

    @torch.no_grad()
    def _target(self, batch: Transitions) -> Tensor:
        """``y``, (B,)."""
        actor, spec = self._target_policy.actor, self.action_spec
        size = len(batch)
        if size not in self._noise:
            self._noise = {size: Ahead(partial(self._smoothing, size), self._streams.device)}
        next_state = actor.encoder(batch.next_observation)
        next_action = actor.head(next_state).add_(self._noise[size](self._step)).clamp_(spec.low, spec.high)
        next_value = self._target_critics(next_state, next_action).amin(0)
        return bootstrapped(batch, self.objective.main, next_value)

    def _smoothing(self, size: int, steps: Tensor) -> Tensor:
        """Noise of the target actions at ``steps`` (n,): (n, size, d)."""
        half = self._policy.actor.half_range
        noise = self._streams.normal(steps, 0, Purpose.EXPLORATION, (size, *self.action_spec.shape))
        return noise.mul_(self.config.target_noise * half).clamp_(-self.config.target_clip * half, self.config.target_clip * half)

    def _update_critics(self, batch: Transitions, state: Tensor, target: Tensor) -> Tensor:
        loss = critic_loss(self._critics(state, batch.action), target, known_weights(batch))
        self._critic_optimiser.descend(loss)
        return loss.detach()

    def _update_actor(self, state: Tensor, logged_action: Tensor) -> dict[str, Tensor]:
        action = self._policy.actor.head(state)
        value = self._critics.first(state, action)
        loss, metrics = self._actor_loss(value, action, logged_action)
        self._actor_optimiser.descend(loss)
        return {"actor_loss": loss.detach(), "q_mean": value.detach().mean(), **metrics}

    def _actor_loss(self, value: Tensor, action: Tensor, logged_action: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return -value.mean(), {}

    def state_dict(self) -> dict[str, Any]:
        """Networks, targets, optimisers, and the seed and step that key the noise."""
        return {
            "policy": self._policy.state_dict(),
            "critics": self._critics.state_dict(),
            "target_policy": self._target_policy.state_dict(),
            "target_critics": self._target_critics.state_dict(),
            "actor_optimiser": self._actor_optimiser.state_dict(),
            "critic_optimiser": self._critic_optimiser.state_dict(),
            "actor_metrics": self._actor_metrics,
            "step": self._step,
            "seed": self._streams.seed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._policy.load_state_dict(state["policy"])
        self._critics.load_state_dict(state["critics"])
        self._target_policy.load_state_dict(state["target_policy"])
        self._target_critics.load_state_dict(state["target_critics"])
        self._actor_optimiser.load_state_dict(state["actor_optimiser"])
        self._critic_optimiser.load_state_dict(state["critic_optimiser"])
        self._actor_metrics = {name: value.to(self._streams.device) for name, value in state["actor_metrics"].items()}
        self._step = int(state["step"])
        self._streams = TensorStreams(int(state["seed"]), self._streams.device)
        self._noise.clear()
