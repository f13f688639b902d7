"""Policies over real vectors: continuous controls, fusion weights, item embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recrl.core.config import from_dict
from recrl.core.contracts import Action, ActionSpec, Observation
from recrl.core.errors import ConfigError
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.policies.encoders import Encoder, EncoderConfig, build_encoder
from recrl.policies.laws import ClippedGaussian
from recrl.policies.networks import Actor, draw_ids, initialise
from recrl.policies.storage import save_policy


@dataclass(frozen=True)
class ActorConfig:
    """Shape of an actor network and the spread of the Gaussian around it.

    ``exploration`` is the standard deviation as a share of half the action range.
    """

    encoder: EncoderConfig = EncoderConfig()
    hidden: tuple[int, ...] = (128, 128)
    exploration: float = 0.1

    def __post_init__(self) -> None:
        if self.exploration <= 0:
            raise ConfigError(f"exploration={self.exploration} must be positive", where="actor.exploration")


class VectorPolicy(nn.Module):
    """A deterministic actor with a Gaussian of fixed spread around it, clipped to the bounds.

    ``log_prob`` is exact: a density inside, a log-probability at a bound (:class:`recrl.policies.laws.ClippedGaussian`).

    **Shapes**: Observation (B) -> value (B, d), log_prob (B,).
    """

    kind = "vector"
    config_type: ClassVar[type[ActorConfig]] = ActorConfig
    point_masses = True
    item_vectors: Tensor | None

    def __init__(self, action_spec: ActionSpec, config: ActorConfig, item_vectors: Tensor | None = None, seed: int = 0) -> None:
        super().__init__()
        if not action_spec.is_vector:
            raise ConfigError(
                f"a vector policy cannot take {action_spec.kind!r} actions", where="VectorPolicy.action_spec", mend="use an item policy"
            )
        self.action_spec, self.config = action_spec, config
        self.register_buffer("item_vectors", item_vectors)
        self.actor = self._build_actor(build_encoder(config.encoder, item_vectors))
        self.spread = config.exploration * self.actor.half_range
        initialise(self, seed)

    def _build_actor(self, encoder: Encoder) -> Actor:
        spec = self.action_spec
        return Actor(encoder, self.config.hidden, spec.shape[0], spec.low, spec.high)

    def centre(self, observation: Observation) -> Tensor:
        """The deterministic actions, (B, d), with gradients."""
        return self.actor(observation)

    @torch.no_grad()
    def act(self, observation: Observation, streams: TensorStreams, *, step: Tensor | int = 0, deterministic: bool = False) -> Action:
        """Actions; the draw of a user depends on its id and ``step`` alone."""
        law = self._law(observation)
        if deterministic:
            return Action(law.mean)
        value = law.draw(streams.normal(draw_ids(observation, law.mean.device), step, Purpose.EXPLORATION, self.action_spec.shape))
        return Action(value, law.log_prob(value))

    def log_prob(self, observation: Observation, action: Tensor) -> Tensor:
        """Log-density of ``action`` around the actor's output, (B,); each component at a bound counts with its probability."""
        return self._law(observation).log_prob(action)

    def _law(self, observation: Observation) -> ClippedGaussian:
        return ClippedGaussian(self.actor(observation), self.spread, self.action_spec.low, self.action_spec.high)

    def save(self, folder: Path) -> None:
        """Write the policy to ``folder``."""
        save_policy(folder, self.kind, {"action_spec": asdict(self.action_spec), "config": asdict(self.config)}, self.state_dict())

    @classmethod
    def load(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> VectorPolicy:
        """Build a saved policy again."""
        policy = cls(
            from_dict(ActionSpec, config["action_spec"]),
            from_dict(cls.config_type, config["config"]),
            tensors.get("item_vectors"),
        )
        policy.load_state_dict(dict(tensors))
        return policy
