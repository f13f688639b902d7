"""A policy over bounded vectors that picks from what a generator of logged actions proposes: what BCQ learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from recrl.core.contracts import ActionSpec, Observation
from recrl.core.errors import ConfigError
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.policies.encoders import Encoder
from recrl.policies.networks import Critics, mlp
from recrl.policies.vector import ActorConfig, VectorPolicy

LATENT_REACH = 0.5
"""Latents are clipped to this before they are decoded: what lies further out was seldom seen."""


@dataclass(frozen=True)
class GeneratedConfig(ActorConfig):
    """An actor, and what it proposes.

    Attributes:
        critic_hidden: hidden sizes of the critics that pick.
        candidates: actions proposed a state.
        perturbation: how far a proposal is moved at most, as a share of half the action range.
    """

    critic_hidden: tuple[int, ...] = (128, 128)
    candidates: int = 10
    perturbation: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1 or not 0.0 <= self.perturbation <= 1.0:
            raise ConfigError(
                f"candidates={self.candidates}, perturbation={self.perturbation} are out of range",
                where="bcq",
                mend="candidates >= 1 and 0 <= perturbation <= 1",
            )


class GeneratedActor(nn.Module):
    """Decodes latents into actions like the logged ones, moves them a little, and takes the one that the first critic likes best.

    **Shapes**: Observation (B) -> (B, d); a latent has length ``2 d``.
    """

    latents: Tensor

    def __init__(self, encoder: Encoder, config: GeneratedConfig, spec: ActionSpec) -> None:
        super().__init__()
        size, width = spec.shape[0], encoder.width
        self.encoder = encoder
        self.decoder = mlp([width + 2 * size, *config.hidden, size])
        self.perturbation = mlp([width + size, *config.hidden, size])
        self.critics = Critics(width, size, config.critic_hidden)
        self.register_buffer("latents", torch.zeros(config.candidates, 2 * size))
        self.low, self.high, self.reach = spec.low, spec.high, config.perturbation
        self.centre, self.half_range = (spec.high + spec.low) / 2.0, (spec.high - spec.low) / 2.0

    def forward(self, observation: Observation) -> Tensor:
        """Deterministic actions."""
        return self.head(self.encoder(observation))

    def head(self, state: Tensor) -> Tensor:
        """Actions of encoded states (B, width): the best of the candidates, whose latents are the same for every state."""
        count = self.latents.shape[0]
        rows = state.unsqueeze(1).expand(-1, count, -1).flatten(0, 1)  # (B n, width)
        actions = self.perturb(rows, self.decode(rows, self.latents.repeat(state.shape[0], 1)), self.perturbation)
        best = self.critics.first(rows, actions).unflatten(0, (-1, count)).argmax(1)
        return actions.unflatten(0, (-1, count)).take_along_dim(best[:, None, None], 1).squeeze(1)

    def decode(self, state: Tensor, latent: Tensor) -> Tensor:
        """Actions like the logged ones: (n, width), (n, 2 d) -> (n, d)."""
        out: Tensor = self.centre + self.half_range * torch.tanh(self.decoder(torch.cat([state, latent], dim=1)))
        return out

    def perturb(self, state: Tensor, action: Tensor, network: nn.Module) -> Tensor:
        """Actions moved by ``network``, at most by ``perturbation`` of half the range: (n, width), (n, d) -> (n, d)."""
        moved = action + self.reach * self.half_range * torch.tanh(network(torch.cat([state, action], dim=1)))
        return moved.clamp(self.low, self.high)


class GeneratedPolicy(VectorPolicy):
    """The best of ``candidates`` generated actions, with a Gaussian of fixed spread around it, clipped to the bounds.

    The latents of the candidates are drawn once, from the seed, so that equal states get equal actions and ``log_prob`` is exact.

    **Source**: Fujimoto, Meger, Precup, "Off-Policy Deep Reinforcement Learning without Exploration", ICML 2019, where latents are drawn
    anew for each decision.
    """

    kind = "generated"
    config_type: ClassVar[type[ActorConfig]] = GeneratedConfig
    config: GeneratedConfig
    actor: GeneratedActor  # type: ignore[assignment]  # stands where VectorPolicy has its Actor, and does what that does

    def __init__(self, action_spec: ActionSpec, config: GeneratedConfig, item_vectors: Tensor | None = None, seed: int = 0) -> None:
        super().__init__(action_spec, config, item_vectors, seed)
        latents = self.actor.latents
        drawn = TensorStreams(seed).normal(torch.arange(latents.shape[0]), 0, Purpose.CANDIDATES, latents.shape[1:])
        latents.copy_(drawn.clamp_(-LATENT_REACH, LATENT_REACH))

    def _build_actor(self, encoder: Encoder) -> GeneratedActor:  # type: ignore[override]
        return GeneratedActor(encoder, self.config, self.action_spec)
