"""A policy over bounded vectors whose spread is learned and depends on the state: what SAC-type learners and likelihood need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recrl.core.config import from_dict
from recrl.core.contracts import Action, ActionSpec, Observation
from recrl.core.errors import ConfigError
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.policies.clipped import ClippedGaussianPolicy
from recrl.policies.encoders import Encoder, build_encoder
from recrl.policies.generated import GeneratedPolicy
from recrl.policies.laws import SquashedGaussian
from recrl.policies.networks import draw_ids, initialise, mlp
from recrl.policies.storage import save_policy
from recrl.policies.vector import ActorConfig, VectorPolicy

LOG_SPREADS = (-5.0, 2.0)
"""Bounds of the logarithm of the spread before squashing."""


class GaussianActor(nn.Module):
    """Encoder -> MLP -> a squashed Gaussian: Observation (B) -> law over (B, d).

    The spread starts near ``spread`` and stays between ``exp(-5)`` and ``exp(2)``, softly.
    """

    def __init__(self, encoder: Encoder, hidden: Sequence[int], action_spec: ActionSpec, spread: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.body = mlp([encoder.width, *hidden, 2 * action_spec.shape[0]])
        self.low, self.high = action_spec.low, action_spec.high
        least, most = LOG_SPREADS
        share = (math.log(spread) - least) / (most - least)
        self._start = math.log(share / (1.0 - share))

    def forward(self, observation: Observation) -> SquashedGaussian:
        """The law of the actions."""
        return self.head(self.encoder(observation))

    def head(self, state: Tensor) -> SquashedGaussian:
        """The law of the actions in encoded states (B, width)."""
        mean, raw = self.body(state).chunk(2, dim=-1)
        least, most = LOG_SPREADS
        return SquashedGaussian(mean, least + (most - least) * torch.sigmoid(raw + self._start), self.low, self.high)


class GaussianPolicy(nn.Module):
    """A squashed Gaussian with learned mean and spread.

    ``ActorConfig.exploration`` is the spread it starts with, before squashing.

    **Shapes**: Observation (B) -> value (B, d), log_prob (B,).
    """

    kind = "gaussian"
    point_masses = False
    item_vectors: Tensor | None

    def __init__(self, action_spec: ActionSpec, config: ActorConfig, item_vectors: Tensor | None = None, seed: int = 0) -> None:
        super().__init__()
        if not action_spec.is_vector:
            raise ConfigError(
                f"a Gaussian policy cannot take {action_spec.kind!r} actions",
                where="GaussianPolicy.action_spec",
                mend="use a discrete or an item policy",
            )
        least, most = (math.exp(bound) for bound in LOG_SPREADS)
        if not least < config.exploration < most:
            raise ConfigError(
                f"exploration={config.exploration} lies outside ({least:.4f}, {most:.2f})",
                where="actor.exploration",
                mend="a Gaussian policy learns its spread between these; start it inside",
            )
        self.action_spec, self.config = action_spec, config
        self.register_buffer("item_vectors", item_vectors)
        self.actor = GaussianActor(build_encoder(config.encoder, item_vectors), config.hidden, action_spec, config.exploration)
        initialise(self, seed)

    def centre(self, observation: Observation) -> Tensor:
        """The deterministic actions, (B, d), with gradients."""
        return self.actor(observation).centre

    @torch.no_grad()
    def act(self, observation: Observation, streams: TensorStreams, *, step: Tensor | int = 0, deterministic: bool = False) -> Action:
        """Actions; the draw of a user depends on its id and ``step`` alone."""
        law = self.actor(observation)
        if deterministic:
            return Action(law.centre)
        noise = streams.normal(draw_ids(observation, law.mean.device), step, Purpose.EXPLORATION, self.action_spec.shape)
        value, _ = law.draw(noise)
        # of the rounded action, so that it is what log_prob says of it later
        return Action(value, law.log_prob(value))

    def sample(self, observation: Observation, streams: TensorStreams, step: Tensor | int) -> tuple[Tensor, Tensor]:
        """Actions (B, d) and log-densities (B,) with gradients, one draw a row: for losses over a batch that may hold a user twice."""
        law = self.actor(observation)
        rows = torch.arange(law.mean.shape[0], device=law.mean.device)
        return law.draw(streams.normal(rows, step, Purpose.EXPLORATION, self.action_spec.shape))

    def log_prob(self, observation: Observation, action: Tensor) -> Tensor:
        """Log-density of ``action``, (B,)."""
        return self.actor(observation).log_prob(action)

    def save(self, folder: Path) -> None:
        """Write the policy to ``folder``."""
        save_policy(folder, self.kind, {"action_spec": asdict(self.action_spec), "config": asdict(self.config)}, self.state_dict())

    @classmethod
    def load(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> GaussianPolicy:
        """Build a saved policy again."""
        policy = cls(from_dict(ActionSpec, config["action_spec"]), from_dict(ActorConfig, config["config"]), tensors.get("item_vectors"))
        policy.load_state_dict(dict(tensors))
        return policy


AnyVectorPolicy = VectorPolicy | GaussianPolicy
"""The policies over vectors; ``centre(observation)`` is what either does without exploring."""


def vector_policy_config(policy: AnyVectorPolicy) -> dict[str, Any]:
    """What :func:`load_vector_policy` needs besides the tensors."""
    return {"query": policy.kind, "action_spec": asdict(policy.action_spec), "config": asdict(policy.config)}


def load_vector_policy(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> AnyVectorPolicy:
    """A vector policy that was saved as a part of another one."""
    known: tuple[type[AnyVectorPolicy], ...] = (VectorPolicy, ClippedGaussianPolicy, GeneratedPolicy, GaussianPolicy)
    kind = {policy.kind: policy for policy in known}[config["query"]]
    return kind.load(config, tensors)
