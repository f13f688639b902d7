r"""BCQ: batch-constrained Q-learning. A generator proposes actions like the logged ones, a small perturbation moves them, a critic picks.

    L_G   = mean_d (G(s, z) - a)^2 + k mean KL(E(s, a) || N(0, 1)),   z ~ E(s, a)                  both for actions scaled to [-1, 1]
    y     = r + g (1 - terminated) max_i [l min_e Q'_e + (1 - l) max_e Q'_e](s', b_i)               g = discount within or across sessions
    b_i   = clip(a_i + p xi'(s', a_i)),  a_i = G(s', z_i),  z_i ~ N(0, 1) clipped to +-0.5
    L_Q   = sum_e mean (Q_e(s, a) - y)^2
    L_xi  = - mean Q_1(s, clip(c + p xi(s, c))),  c = G(s, z)

Symbols: ``s`` encoded state, ``r`` the objective's main signal, ``G`` decoder and ``E`` encoder of a variational autoencoder of logged
actions, ``xi`` the perturbation (tanh), ``p`` its reach, ``Q'``, ``xi'`` Polyak targets. The policy takes the best of ``candidates``
proposals by ``Q_1`` (:class:`recrl.policies.generated.GeneratedPolicy`). A state encoder with parameters is trained by ``L_Q`` alone.

**Differences from the authors' code**: two discounts; rows whose next state the record lacks are not learned from by the critics; the
policy picks from as many candidates as the targets do (theirs: 100 and 10), whose latents are drawn once and for all.

**Metrics**: ``critic_loss``, ``generator_loss``, ``reconstruction``, ``kl``, ``perturbation_loss``, ``target_mean``.

**Source**: Fujimoto, Meger, Precup, "Off-Policy Deep Reinforcement Learning without Exploration", ICML 2019, algorithm 1.
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
from recrl.policies.generated import LATENT_REACH, GeneratedConfig, GeneratedPolicy
from recrl.policies.networks import initialise, mlp, polyak
from recrl.policies.vector import ActorConfig

LOG_SPREADS = (-4.0, 15.0)
"""Bounds of the logarithm of a latent's spread, as the authors have them."""


@dataclass(frozen=True)
class BCQConfig:
    """Options of BCQ.

    Attributes:
        actor: hidden sizes of decoder and perturbation, the state encoder, and the spread of what the policy draws.
        critic_hidden: hidden sizes of the twin critics and of the generator's encoder.
        actor_learning_rate: of Adam, for the perturbation.
        critic_learning_rate: of Adam.
        generator_learning_rate: of Adam.
        tau: Polyak step of the targets.
        candidates: actions that are proposed a state.
        perturbation: how far a proposal is moved at most, as a share of half the action range.
        pessimism: ``l``: weight of the lower of the two critics.
        kl_weight: ``k``.
    """

    actor: ActorConfig = ActorConfig()
    critic_hidden: tuple[int, ...] = (128, 128)
    actor_learning_rate: float = 1e-3
    critic_learning_rate: float = 1e-3
    generator_learning_rate: float = 1e-3
    tau: float = 0.005
    candidates: int = 10
    perturbation: float = 0.05
    pessimism: float = 0.75
    kl_weight: float = 0.5

    def __post_init__(self) -> None:
        check_ranges("bcq", {"tau": self.tau}, most=1.0)
        check_ranges("bcq", {"pessimism": self.pessimism}, least=-1e-12, most=1.0)
        self.proposing()

    def proposing(self) -> GeneratedConfig:
        """Shape of the policy.

        **Errors**: :class:`ConfigError` for candidates or a perturbation out of range.
        """
        return GeneratedConfig(
            **vars(self.actor), critic_hidden=self.critic_hidden, candidates=self.candidates, perturbation=self.perturbation
        )


class BCQ(ByParts):
    """BCQ for vector actions: embeddings, fusion weights, continuous controls."""

    name: ClassVar[str] = "bcq"
    config_type: ClassVar[type[BCQConfig]] = BCQConfig

    def __init__(self, config: BCQConfig, task: Task, seed: int = 0) -> None:
        check_task(self.name, task)
        self.config, self.action_spec, self.objective = config, task.action_spec, task.objective
        self._policy = GeneratedPolicy(task.action_spec, config.proposing(), task.item_vectors, seed).to(task.device)
        self._actor = actor = self._policy.actor
        size, width = task.action_spec.shape[0], actor.encoder.width
        self._recognition = mlp([width + size, *config.critic_hidden, 4 * size])  # mean and logarithm of the spread of a latent
        initialise(self._recognition, seed + 1)
        self._recognition.to(task.device)
        self._target_critics, self._target_perturbation = deepcopy(actor.critics), deepcopy(actor.perturbation)
        generator = [*self._recognition.parameters(), *actor.decoder.parameters()]
        self._generator_optimiser = Adam(generator, config.generator_learning_rate)
        self._critic_optimiser = Adam([*actor.critics.parameters(), *actor.encoder.parameters()], config.critic_learning_rate)
        self._actor_optimiser = Adam(actor.perturbation.parameters(), config.actor_learning_rate)
        self._noise = Noise(seed, task.device, (2 + config.candidates, 2 * size))
        self._step = 0

    def policy(self) -> GeneratedPolicy:
        """The best candidate."""
        return self._policy

    def collect_policy(self) -> GeneratedPolicy:
        """The best candidate with Gaussian exploration."""
        return self._policy

    def update(self, batch: Transitions) -> Update:
        """One step of generator, critics, perturbation and targets."""
        self._step += 1
        noise = self._noise(len(batch), self._step)  # (B, 2 + candidates, 2 d)
        latents = noise[:, 1:].clamp(-LATENT_REACH, LATENT_REACH)
        state = self._actor.encoder(batch.observation)  # (B, width)
        fixed = state.detach()
        metrics = self._update_generator(batch, fixed, noise[:, 0])
        target = self._target(batch, latents[:, 1:])
        loss = critic_loss(self._actor.critics(state, batch.action), target, known_weights(batch))
        self._critic_optimiser.descend(loss)
        with torch.no_grad():
            proposal = self._actor.decode(fixed, latents[:, 0])
        perturbation_loss = -self._actor.critics.first(fixed, self._actor.perturb(fixed, proposal, self._actor.perturbation)).mean()
        self._actor_optimiser.descend(perturbation_loss)
        polyak(self._target_critics, self._actor.critics, self.config.tau)
        polyak(self._target_perturbation, self._actor.perturbation, self.config.tau)
        metrics |= {"critic_loss": loss.detach(), "target_mean": target.mean(), "perturbation_loss": perturbation_loss.detach()}
        return Update(metrics)

    def _update_generator(self, batch: Transitions, state: Tensor, noise: Tensor) -> dict[str, Tensor]:
        rows, spec = row_weights(batch), self.action_spec
        scaled = (batch.action - self._actor.centre) / self._actor.half_range
        mean, log_spread = self._recognition(torch.cat([state, scaled], dim=1)).chunk(2, dim=1)
        log_spread = log_spread.clamp(*LOG_SPREADS)
        spread = log_spread.exp()
        decoded = self._actor.decode(state, mean + spread * noise)
        reconstruction = rows @ ((decoded - batch.action.clamp(spec.low, spec.high)) / self._actor.half_range).square().mean(1)
        kl = rows @ (0.5 * (mean * mean + spread * spread - 1.0) - log_spread).mean(1)
        loss = reconstruction + self.config.kl_weight * kl
        self._generator_optimiser.descend(loss)
        return {"generator_loss": loss.detach(), "reconstruction": reconstruction.detach(), "kl": kl.detach()}

    @torch.no_grad()
    def _target(self, batch: Transitions, latents: Tensor) -> Tensor:
        """``y``, (B,), over ``latents`` (B, n, 2 d)."""
        count, pessimism = latents.shape[1], self.config.pessimism
        next_state = self._actor.encoder(batch.next_observation)
        rows = next_state.unsqueeze(1).expand(-1, count, -1).flatten(0, 1)  # (B n, width)
        proposed = self._actor.decode(rows, latents.flatten(0, 1))
        actions = self._actor.perturb(rows, proposed, self._target_perturbation).unflatten(0, (-1, count))
        values = self._target_critics.each(next_state, actions)  # (2, B, n)
        best = (pessimism * values.amin(0) + (1.0 - pessimism) * values.amax(0)).amax(1)
        return bootstrapped(batch, self.objective.main, best)

    def _parts(self) -> dict[str, Stateful]:
        return {
            "policy": self._policy,
            "recognition": self._recognition,
            "target_critics": self._target_critics,
            "target_perturbation": self._target_perturbation,
            "generator_optimiser": self._generator_optimiser,
            "critic_optimiser": self._critic_optimiser,
            "actor_optimiser": self._actor_optimiser,
            "noise": self._noise,
        }
