r"""CEM: the cross-entropy method over one vector for everybody, the static baseline of every policy that looks at the state.

    x_k   ~ clip(N(m, s^2))                        k = 1 .. count
    m, s <- smoothing (m, s) + (1 - smoothing) (mean, std of the x_k with the highest returns)         s >= least_spread

What a vector returns (for fusion weights: the sessions of users who are shown what it ranks) is the caller's to measure, best on the same
users with the same luck for every candidate of a generation.

**Metrics**: ``best_return``, ``elite_return``, ``mean_return`` of the generation; ``spread``, the mean of ``s``.

**Source**: Rubinstein, "The cross-entropy method for combinatorial and continuous optimization", 1999; smoothing and a least spread: de
Boer et al., "A tutorial on the cross-entropy method", 2005.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from recrl.algorithms.task import Task
from recrl.core.contracts import Array, Update
from recrl.core.errors import ConfigError, ContractError
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.policies.encoders import EncoderConfig
from recrl.policies.static import static_policy
from recrl.policies.vector import ActorConfig, VectorPolicy


@dataclass(frozen=True)
class CEMConfig:
    """Options of CEM.

    Attributes:
        actor: encoder and exploration of the policies (their hidden layers go unused); tasks without item vectors need a ``flat`` one.
        elite: share of a generation that the next one is drawn around, at least 2 candidates.
        spread: standard deviation of the first generation, as a share of half the action range.
        least_spread: what it never falls below, likewise.
        smoothing: weight of the last mean and spread.
    """

    actor: ActorConfig = ActorConfig(EncoderConfig(history=1))
    elite: float = 0.25
    spread: float = 0.6
    least_spread: float = 0.02
    smoothing: float = 0.2

    def __post_init__(self) -> None:
        if not (0.0 < self.elite <= 1.0 and 0.0 <= self.smoothing < 1.0 and 0.0 <= self.least_spread <= self.spread):
            raise ConfigError(
                f"elite={self.elite}, smoothing={self.smoothing}, spreads {self.least_spread} to {self.spread} are out of range",
                where="cem",
                mend="0 < elite <= 1, 0 <= smoothing < 1, 0 <= least_spread <= spread",
            )


class CEM:
    """The cross-entropy method for static vectors; a :class:`recrl.core.contracts.PopulationAlgorithm`.

    **Errors**: :class:`ConfigError` for actions that are no vectors; :class:`ContractError` for returns that answer to no candidates.
    """

    name: ClassVar[str] = "cem"
    config_type: ClassVar[type[CEMConfig]] = CEMConfig

    def __init__(self, config: CEMConfig, task: Task, seed: int = 0) -> None:
        spec = task.action_spec
        if not spec.is_vector:
            raise ConfigError(
                f"cem searches vectors, not {spec.kind!r}",
                where="cem.action_spec",
                mend="use embedding, fusion_weights or continuous actions",
            )
        self.config, self.action_spec, self._task = config, spec, task
        self._half = (spec.high - spec.low) / 2.0
        self._streams = TensorStreams(seed)
        self.mean = torch.full(spec.shape, (spec.high + spec.low) / 2.0)
        self.spread = torch.full(spec.shape, config.spread * self._half)
        self.asked = torch.empty(0, *spec.shape)
        """The vectors of the generation at hand, (count, d)."""

    def ask(self, count: int, generation: int) -> Sequence[VectorPolicy]:
        """``count`` policies to try; a function of what was told, the seed and ``generation``."""
        noise = self._streams.normal(torch.arange(count), generation, Purpose.EXPLORATION, self.action_spec.shape)
        self.asked = (self.mean + self.spread * noise).clamp(self.action_spec.low, self.action_spec.high)
        return [self._policy(value) for value in self.asked]

    def tell(self, returns: Array) -> Update:
        """Returns (count,) of the policies asked for last, in order."""
        told = torch.as_tensor(returns, dtype=torch.float64).cpu()
        if told.shape != (len(self.asked),) or not len(told) or not bool(torch.isfinite(told).all()):
            raise ContractError(
                f"returns of shape {tuple(told.shape)} for {len(self.asked)} policies, or not finite",
                where="CEM.tell",
                mend="give one finite number for each policy that ask() gave last",
            )
        best = told.topk(min(len(told), max(2, round(self.config.elite * len(told))))).indices
        elite, old = self.asked[best], self.config.smoothing
        self.mean = old * self.mean + (1.0 - old) * elite.mean(0)
        found = old * self.spread + (1.0 - old) * elite.std(0, correction=0)
        self.spread = found.clamp_min(self.config.least_spread * self._half)
        metrics = {"best_return": told.max(), "elite_return": told[best].mean(), "mean_return": told.mean(), "spread": self.spread.mean()}
        return Update(metrics)

    def policy(self) -> VectorPolicy:
        """The mean of the search."""
        return self._policy(self.mean)

    def _policy(self, value: Tensor) -> VectorPolicy:
        return static_policy(self.action_spec, value, self._task.item_vectors, self.config.actor).to(self._task.device)

    def state_dict(self) -> dict[str, Any]:
        """Mean, spread, the generation at hand and the seed."""
        return {"mean": self.mean, "spread": self.spread, "asked": self.asked, "seed": self._streams.seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.mean, self.spread, self.asked = (state[name].cpu() for name in ("mean", "spread", "asked"))
        self._streams = TensorStreams(int(state["seed"]))
