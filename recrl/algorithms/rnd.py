r"""RND: random network distillation, a bonus for states that are seldom seen, as an add-on to the rewards of any learner.

    b(s') = mean_d (f(s') - f*(s'))^2 / m          f* random and fixed, f trained to equal it, m a running mean of the error
    r     <- r + weight b(s')

Use it as a transform of the training loop: it learns from each batch and changes the reward of its copy.

**Differences from the authors' code**: the bonus is divided by a running mean of itself instead of a running deviation of returns,
observations are not whitened (encoders give parts of comparable scale), and the bonus has the discount of the signal it is added to.

**Metrics**: ``rnd_error``, the unscaled error.

**Source**: Burda, Edwards, Storkey, Klimov, "Exploration by Random Network Distillation", ICLR 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recrl.algorithms.adam import Adam
from recrl.algorithms.task import Task
from recrl.core.contracts import Observation, Transitions, Update
from recrl.core.errors import ConfigError
from recrl.policies.encoders import EncoderConfig, build_encoder
from recrl.policies.networks import initialise, mlp


@dataclass(frozen=True)
class RNDConfig:
    """Options of RND.

    Attributes:
        encoder: of the states; it is drawn at random, like the layers above it.
        hidden: hidden sizes above the encoder.
        width: of what is predicted.
        learning_rate: of Adam.
        decay: weight of the past in the running mean of the error.
        weight: of the bonus, in units of the reward.
        column: of the reward that it is added to.
    """

    encoder: EncoderConfig = EncoderConfig()
    hidden: tuple[int, ...] = (128,)
    width: int = 32
    learning_rate: float = 1e-3
    decay: float = 0.99
    weight: float = 1.0
    column: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0 or self.width < 1 or self.column < 0:
            raise ConfigError(
                f"decay={self.decay}, width={self.width}, column={self.column} are out of range",
                where="rnd",
                mend="0 <= decay < 1, width >= 1, column >= 0",
            )


class _Features(nn.Module):
    """Encoder -> MLP: Observation (B) -> (B, width)."""

    def __init__(self, config: RNDConfig, task: Task, seed: int) -> None:
        super().__init__()
        self.encoder = build_encoder(config.encoder, task.item_vectors)
        self.body = mlp([self.encoder.width, *config.hidden, config.width])
        initialise(self, seed)

    def forward(self, observation: Observation) -> Tensor:
        out: Tensor = self.body(self.encoder(observation))
        return out


class RND:
    """A novelty bonus; a :class:`recrl.core.contracts.BatchTransform`."""

    name: ClassVar[str] = "rnd"
    config_type: ClassVar[type[RNDConfig]] = RNDConfig

    def __init__(self, config: RNDConfig, task: Task, seed: int = 0) -> None:
        self.config = config
        self._fixed = _Features(config, task, seed + 2).to(task.device).requires_grad_(False)
        self._learned = _Features(config, task, seed + 3).to(task.device)
        self._optimiser = Adam(self._learned.parameters(), config.learning_rate)
        self._mean = torch.ones((), device=task.device)

    def error(self, observation: Observation) -> Tensor:
        """How badly each state is predicted, (B,)."""
        return (self._learned(observation) - self._fixed(observation)).square().mean(1)

    @torch.no_grad()
    def bonus(self, observation: Observation) -> Tensor:
        """The bonus of each state over its running mean, (B,): about 1 for usual states."""
        return self.error(observation) / self._mean.clamp_min(1e-8)

    def apply(self, batch: Transitions) -> Transitions:
        """The batch with the bonus in its reward."""
        reward = batch.reward.clone()
        reward[:, self.config.column] += self.config.weight * self.bonus(batch.next_observation)
        return batch.with_reward(reward)

    def update(self, batch: Transitions) -> Update:
        """One step of the predictor."""
        loss = self.error(batch.next_observation).mean()
        self._optimiser.descend(loss)
        self._mean = torch.lerp(loss.detach(), self._mean, self.config.decay)
        return Update({"rnd_error": loss.detach()})

    def state_dict(self) -> dict[str, Any]:
        """Both networks, the optimiser and the running mean."""
        nets = {"fixed": self._fixed.state_dict(), "learned": self._learned.state_dict()}
        return {**deepcopy(nets), "optimiser": self._optimiser.state_dict(), "mean": self._mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._fixed.load_state_dict(state["fixed"])
        self._learned.load_state_dict(state["learned"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._mean = state["mean"].to(self._mean.device)
