r"""AWAC: advantage-weighted actor-critic. The actor imitates logged actions, the better ones more.

    y     = r + g (1 - terminated) min_e Q'_e(s', a'),   a' ~ pi(s')                    g = discount within or across sessions
    L_Q   = sum_e mean (Q_e(s, a) - y)^2
    A     = min_e Q_e(s, a) - mean_k min_e Q_e(s, b_k),  b_k ~ pi(s)
    L_pi  = - sum_rows softmax_rows(A / lambda) log pi(a|s)

Symbols: ``s`` encoded state, ``r`` the objective's main signal, ``Q'`` Polyak targets. ``pi`` is a Gaussian clipped to the bounds with a
learned spread a component (:class:`recrl.policies.clipped.ClippedGaussianPolicy`); a logged action beyond the bounds counts as one at
the bound. An encoder with parameters is trained by ``L_Q`` alone and encodes ``s'`` too; it has no target of its own.

**Differences from the authors' code**: two discounts; rows whose next state the record lacks are not learned from by the critics; the
likelihood of a clipped action is that of being clipped; advantages come from the critics as they were before the step of ``L_Q``.

**Metrics**: ``critic_loss``, ``actor_loss``, ``q_mean`` (of logged actions), ``target_mean``, ``advantage_mean``, ``effective_rows`` (rows
that the weights leave, of the batch), ``spread`` (mean over components).

**Source**: Nair, Gupta, Dalal, Levine, "AWAC: Accelerating Online Reinforcement Learning with Offline Datasets", 2020, equations 4 and 13;
the softmax over the batch is the authors' code.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from recrl.algorithms.adam import Adam
from recrl.algorithms.parts import ByParts, Noise, bootstrapped, check_ranges, check_task, critic_loss, known_weights, row_weights
from recrl.algorithms.task import Task
from recrl.core.contracts import Stateful, Transitions, Update
from recrl.policies.clipped import ClippedGaussianPolicy
from recrl.policies.networks import Critics, initialise, polyak
from recrl.policies.vector import ActorConfig


@dataclass(frozen=True)
class AWACConfig:
    """Options of AWAC.

    Attributes:
        actor: the policy network; ``exploration`` is the spread it starts with.
        critic_hidden: hidden sizes of the twin critics.
        actor_learning_rate: of Adam.
        critic_learning_rate: of Adam.
        tau: Polyak step of the targets.
        temperature: ``lambda``: the advantage that multiplies a row's weight by e; large is behaviour cloning.
        samples: actions whose mean value an advantage is counted from.
    """

    actor: ActorConfig = ActorConfig(exploration=0.3)
    critic_hidden: tuple[int, ...] = (128, 128)
    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    tau: float = 0.005
    temperature: float = 1.0
    samples: int = 1

    def __post_init__(self) -> None:
        check_ranges("awac", {"tau": self.tau}, most=1.0)
        check_ranges("awac", {"temperature": self.temperature, "samples": self.samples})


def advantage_softmax(advantage: Tensor, temperature: float, weights: Tensor) -> Tensor:
    """Weights of the rows (B,), which sum to 1: ``w exp(A / temperature)`` over its sum, with sampling weights ``w`` (B,).

    >>> advantage_softmax(torch.tensor([0.0, 0.0, 1.0]), 1.0, torch.ones(3)).numpy().round(3).tolist()
    [0.21199999749660492, 0.21199999749660492, 0.5759999752044678]
    """
    return torch.softmax(advantage / temperature + weights.log(), dim=0)


class AWAC(ByParts):
    """AWAC for vector actions: embeddings, fusion weights, continuous controls."""

    name: ClassVar[str] = "awac"
    config_type: ClassVar[type[AWACConfig]] = AWACConfig

    def __init__(self, config: AWACConfig, task: Task, seed: int = 0) -> None:
        check_task(self.name, task)
        self.config, self.action_spec, self.objective = config, task.action_spec, task.objective
        self._policy = ClippedGaussianPolicy(task.action_spec, config.actor, task.item_vectors, seed).to(task.device)
        self._encoder = self._policy.actor.encoder
        size = task.action_spec.shape[0]
        self._critics = Critics(self._encoder.width, size, config.critic_hidden)
        initialise(self._critics, seed + 1)
        self._critics.to(task.device)
        self._target_critics = deepcopy(self._critics)
        self._actor_optimiser = Adam([*self._policy.actor.body.parameters(), self._policy.raw_spread], config.actor_learning_rate)
        self._critic_optimiser = Adam([*self._critics.parameters(), *self._encoder.parameters()], config.critic_learning_rate)
        self._noise = Noise(seed, task.device, (1 + config.samples, size))
        self._step = 0

    def policy(self) -> ClippedGaussianPolicy:
        """The current actor."""
        return self._policy

    def collect_policy(self) -> ClippedGaussianPolicy:
        """The current actor, which explores by its own spread."""
        return self._policy

    def update(self, batch: Transitions) -> Update:
        """One step of critics, actor and targets."""
        self._step += 1
        noise = self._noise(len(batch), self._step)  # (B, 1 + samples, d)
        state = self._encoder(batch.observation)  # (B, width)
        with torch.no_grad():
            next_state = self._encoder(batch.next_observation)
            next_action = self._policy.head(next_state).draw(noise[:, 0])
            target = bootstrapped(batch, self.objective.main, self._target_critics(next_state, next_action).amin(0))
        law = self._policy.head(state.detach())
        values = self._critics(state, batch.action)  # (2, B)
        with torch.no_grad():
            advantage = values.amin(0) - self._value(state, law.mean, law.spread, noise[:, 1:])
        loss = critic_loss(values, target, known_weights(batch))
        self._critic_optimiser.descend(loss)
        weights = advantage_softmax(advantage, self.config.temperature, row_weights(batch))
        actor_loss = -(weights * law.log_prob(batch.action.clamp(law.low, law.high))).sum()
        self._actor_optimiser.descend(actor_loss)
        polyak(self._target_critics, self._critics, self.config.tau)
        return Update(
            {
                "critic_loss": loss.detach(),
                "target_mean": target.mean(),
                "actor_loss": actor_loss.detach(),
                "q_mean": values.detach().mean(),
                "advantage_mean": advantage.mean(),
                "effective_rows": 1.0 / (weights * weights).sum(),
                "spread": torch.as_tensor(law.spread).detach().mean(),
            }
        )

    def _value(self, state: Tensor, mean: Tensor, spread: Tensor | float, noise: Tensor) -> Tensor:
        """The value of the policy, (B,): a mean over its draws."""
        spec = self.action_spec
        actions = (mean.unsqueeze(1) + spread * noise).clamp(spec.low, spec.high)  # (B, samples, d)
        return self._critics.each(state, actions).amin(0).mean(1)

    def _parts(self) -> dict[str, Stateful]:
        return {
            "policy": self._policy,
            "critics": self._critics,
            "target_critics": self._target_critics,
            "actor_optimiser": self._actor_optimiser,
            "critic_optimiser": self._critic_optimiser,
            "noise": self._noise,
        }
