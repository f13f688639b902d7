r"""What AURO's released code does where it differs from its paper: for comparisons alone.

    L_abs = 0.003 [ 0.1 sum_i |phi_i - c_k(i)| - log det(R + 1e-6) ]   1e-6 in every entry; c_k means of the batch; bins by Q_1 of stored
    (z, a) a_E   = a_T + sqrt(2 delta) Sigma grad / sqrt(sum over batch and components of grad^2 Sigma) + U[0, 0.01] y     = r + g (1 -
    terminated) min_e Q'_e(z', pi'(z') + U[0, 0.01]) L_Q   = sum_e mean (Q_e(z, a) - y)^2        z as it was stored when it was collected
    L_pi  = - mean Q_1(z, pi(z))                 z encoded anew; its gradient reaches the encoder and phi, through the state slot too

``Sigma`` = 0.01 and ``delta`` = 30. Where centroids coincide the loss of the abstraction is infinite or NaN. The shift's norm is shared
by the batch: an action depends on who else is in it, so :class:`ShippedExplorer` has no law and fails the policy contract by design.
Dropout, the scrambled history and the missing padding mask are not reproduced; actions stay inside their bounds here.

**Source**: repository AIDefender/AURO as of October 2024, as documented by others.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from recrl.algorithms.abstraction import ALPHA, LAMBDA, AbstractionConfig, bin_means, value_bins
from recrl.algorithms.adam import Adam
from recrl.algorithms.auro import with_abstraction
from recrl.algorithms.task import Task
from recrl.core.contracts import Action, Observation, Transitions, Update
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.policies.abstraction import AbstractedEncoder
from recrl.policies.guarded import optimistic
from recrl.policies.networks import Critics, draw_ids, initialise, polyak
from recrl.policies.vector import ActorConfig, VectorPolicy

SIGMA, WEIGHT, NOISE = 0.01, 0.003, 0.01
"""Variance in the shift, weight of the abstraction's loss, width of the uniform noise."""


def shipped_abstraction_loss(phi: Tensor, values: Tensor, bins: int = 4) -> Tensor:
    """The abstraction's loss as released, of ``phi`` (B, d) and ``values`` (B,): infinite or NaN where centroids coincide."""
    labels = value_bins(values, bins)
    centroids, _ = bin_means(phi, labels, bins)
    pull = torch.linalg.vector_norm(phi - centroids[labels], dim=1).sum()
    relation = torch.exp(-ALPHA * torch.linalg.vector_norm(centroids.unsqueeze(0) - centroids.unsqueeze(1), dim=-1))
    return WEIGHT * (LAMBDA * pull - torch.log(torch.linalg.det(relation + 1e-6)))


def shipped_shift(gradient: Tensor, delta: float = 30.0, sigma: float = SIGMA) -> Tensor:
    """The shift of gradients (B, d): its Frobenius norm over the whole batch is ``sqrt(2 delta sigma)``."""
    return (2.0 * delta) ** 0.5 * sigma * gradient / (gradient.square() * sigma).sum().clamp_min(1e-24).sqrt()


class ShippedExplorer:
    """The actor shifted by :func:`shipped_shift` and jittered upwards; ``Action.notes["z"]`` is the state that the critics will learn from.

    Args:
        policy: the actor, whose networks it shares.
        critics: the twin critics, likewise.
        beta: weight of their disagreement.
        delta: size of the shift.
    """

    def __init__(self, policy: VectorPolicy, critics: Critics, beta: float = 30.0, delta: float = 30.0) -> None:
        self.action_spec, self._policy, self._critics, self._beta, self._delta = policy.action_spec, policy, critics, beta, delta

    def act(self, observation: Observation, streams: TensorStreams, *, step: Tensor | int = 0, deterministic: bool = False) -> Action:
        """Actions of a batch, which depend on the whole batch."""
        actor, spec = self._policy.actor, self.action_spec
        z = actor.encoder(observation).detach()
        start = actor.head(z).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(optimistic(self._critics(z, start), self._beta).sum(), start)
        moved = start.detach() + shipped_shift(gradient, self._delta)
        if not deterministic:
            moved = moved + NOISE * streams.uniform(draw_ids(observation, z.device), step, Purpose.EXPLORATION, spec.shape)
        return Action(moved.clamp(spec.low, spec.high), notes={"z": z})


@dataclass(frozen=True)
class ShippedAUROConfig:
    """Options as released.

    Attributes:
        actor: the policy network.
        critic_hidden: hidden sizes of the twin critics.
        abstraction: width and hidden sizes of ``phi``; the rest is fixed.
        actor_learning_rate: of Adam.
        late_learning_rate: of the actor after ``anneal_after`` updates.
        anneal_after: updates with the first rate.
        critic_learning_rate: of Adam.
        tau: Polyak step of the targets, at every update.
        beta: of the optimistic value.
        delta: of the shift.
    """

    actor: ActorConfig = ActorConfig()
    critic_hidden: tuple[int, ...] = (128, 32)
    abstraction: AbstractionConfig = AbstractionConfig()
    actor_learning_rate: float = 1e-4
    late_learning_rate: float = 1e-6
    anneal_after: int = 3_000
    critic_learning_rate: float = 1e-3
    tau: float = 0.01
    beta: float = 30.0
    delta: float = 30.0


class ShippedAURO:
    """AURO's released rules of learning and collecting; in no registry. It has no state for exact resume."""

    name: ClassVar[str] = "auro_shipped"

    def __init__(self, config: ShippedAUROConfig, task: Task, seed: int = 0) -> None:
        self.config = config = replace(config, actor=with_abstraction(config.actor, config.abstraction))
        self.action_spec, self.objective = task.action_spec, task.objective
        self._policy = VectorPolicy(task.action_spec, config.actor, task.item_vectors, seed).to(task.device)
        encoder = self._policy.actor.encoder
        assert isinstance(encoder, AbstractedEncoder)
        self._encoder = encoder
        self._critics = Critics(encoder.width, task.action_spec.shape[0], config.critic_hidden)
        initialise(self._critics, seed + 1)
        self._critics.to(task.device)
        self._target_policy, self._target_critics = deepcopy(self._policy), deepcopy(self._critics)
        # everything below the actor is trained by its loss; a second optimiser has the first one's place once the rate has fallen
        trained = list(self._policy.actor.parameters())
        self._actor_optimisers = [Adam(trained, rate) for rate in (config.actor_learning_rate, config.late_learning_rate)]
        self._critic_optimiser = Adam(self._critics.parameters(), config.critic_learning_rate)
        self._abstraction_optimiser = Adam(encoder.layers.parameters(), config.abstraction.learning_rate)
        self._streams, self._step = TensorStreams(seed, task.device), 0

    def policy(self) -> VectorPolicy:
        """The current actor."""
        return self._policy

    def collect_policy(self) -> ShippedExplorer:
        """The shifted actor."""
        return ShippedExplorer(self._policy, self._critics, self.config.beta, self.config.delta)

    def observe(self, transitions: Transitions) -> None:
        """Nothing to see."""

    def update(self, batch: Transitions) -> Update:
        """Critics and actor at every update, the abstraction at every tenth."""
        self._step += 1
        stored = batch.notes["z"]
        target = self._target(batch)
        values = self._critics(stored, batch.action)
        critic_loss = (values - target).square().mean(1).sum()
        self._critic_optimiser.descend(critic_loss)
        z = self._encoder(batch.observation)
        actor_loss = -self._critics.first(z, self._policy.actor.head(z)).mean()
        self._actor_optimisers[int(self._step > self.config.anneal_after)].descend(actor_loss)
        told = {"critic_loss": critic_loss.detach(), "actor_loss": actor_loss.detach(), "target_mean": target.mean()}
        if self._step % 10 == 1:
            loss = shipped_abstraction_loss(self._encoder.phi(stored[:, : self._encoder.base_width]), values[0].detach())
            self._abstraction_optimiser.descend(loss)
            told["abstraction_loss"] = loss.detach()
        polyak(self._target_policy, self._policy, self.config.tau)
        polyak(self._target_critics, self._critics, self.config.tau)
        return Update(told)

    @torch.no_grad()
    def _target(self, batch: Transitions) -> Tensor:
        main, actor = self.objective.main, self._target_policy.actor
        z = actor.encoder(batch.next_observation)
        rows = torch.arange(len(batch), device=z.device)
        action = actor.head(z) + NOISE * self._streams.uniform(rows, self._step, Purpose.EXPLORATION, self.action_spec.shape)
        discount = torch.where(batch.session_end, main.discount_across, main.discount_within) * ~batch.terminated
        return batch.reward[:, 0] * main.weight + discount * self._target_critics(z, action).amin(0)
