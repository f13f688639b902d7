"""A policy over a fixed set of choices without features of their own: a softmax over encoder -> MLP -> one score a choice."""

from __future__ import annotations

from collections.abc import Mapping
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
from recrl.policies.encoders import build_encoder
from recrl.policies.networks import draw_ids, initialise, mlp
from recrl.policies.storage import save_policy
from recrl.policies.vector import ActorConfig


class DiscretePolicy(nn.Module):
    """A categorical law over ``action_spec.choices``; ``ActorConfig.exploration`` has no say, the softmax explores by itself.

    **Shapes**: Observation (B) -> value (B,) int64, log_prob (B,).
    """

    kind = "discrete"
    item_vectors: Tensor | None

    def __init__(self, action_spec: ActionSpec, config: ActorConfig, item_vectors: Tensor | None = None, seed: int = 0) -> None:
        super().__init__()
        if action_spec.kind != "discrete" or action_spec.choices is None:
            raise ConfigError(
                f"a discrete policy cannot take {action_spec.kind!r} actions",
                where="DiscretePolicy.action_spec",
                mend="use an item or a vector policy",
            )
        self.action_spec, self.config = action_spec, config
        self.register_buffer("item_vectors", item_vectors)
        self.encoder = build_encoder(config.encoder, item_vectors)
        self.body = mlp([self.encoder.width, *config.hidden, action_spec.choices])
        initialise(self, seed)

    def log_probs(self, observation: Observation) -> Tensor:
        """Log-probability of every choice, (B, choices)."""
        return torch.log_softmax(self.body(self.encoder(observation)), dim=1)

    @torch.no_grad()
    def act(self, observation: Observation, streams: TensorStreams, *, step: Tensor | int = 0, deterministic: bool = False) -> Action:
        """Choices; the draw of a user depends on its id and ``step`` alone; ``deterministic`` takes the likeliest."""
        keys = log_probs = self.log_probs(observation)
        if not deterministic:
            # the largest of log-probability plus Gumbel noise is a draw from the softmax
            keys = log_probs + streams.gumbel(
                draw_ids(observation, log_probs.device), step, Purpose.EXPLORATION, (self.action_spec.choices or 0,)
            )
        value = keys.argmax(dim=1)
        return Action(value, log_probs.gather(1, value.unsqueeze(1)).squeeze(1))

    def log_prob(self, observation: Observation, action: Tensor) -> Tensor:
        """Log-probability of ``action`` (B,); minus infinity for what is no choice."""
        log_probs = self.log_probs(observation)
        possible = (action >= 0) & (action < log_probs.shape[1])
        picked = log_probs.gather(1, torch.where(possible, action, 0).unsqueeze(1)).squeeze(1)
        return torch.where(possible, picked, -torch.inf)

    def save(self, folder: Path) -> None:
        """Write the policy to ``folder``."""
        save_policy(folder, self.kind, {"action_spec": asdict(self.action_spec), "config": asdict(self.config)}, self.state_dict())

    @classmethod
    def load(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> DiscretePolicy:
        """Build a saved policy again."""
        policy = cls(from_dict(ActionSpec, config["action_spec"]), from_dict(ActorConfig, config["config"]), tensors.get("item_vectors"))
        policy.load_state_dict(dict(tensors))
        return policy
