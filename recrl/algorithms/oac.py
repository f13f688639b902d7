r"""OAC: optimistic actor-critic, here on TD3.

    a_E = clip(pi(s) + sqrt(2 delta) spread g),   g = grad_a Q_UB / |grad_a Q_UB| at pi(s),   Q_UB = mu + beta sigma

Transitions are collected around ``a_E``, with the Gaussian of ``actor.exploration``, whose ``spread`` it is; the deployed policy and all
updates are those of TD3. For a covariance ``spread^2 I`` this is the authors' shift, the solution of ``max E Q_UB`` at most ``delta``
away in KL divergence.

**Differences from the authors' code**: theirs stands on soft actor-critic and shifts before the tanh, with the actor's own covariance;
this one on TD3, as AURO's paper compares it. Each sample has a gradient norm of its own (AURO's code has one for the batch:
:func:`recrl.algorithms.parity.auro.shipped_shift`).

**Metrics**: those of TD3; ``guard_gain``, the mean rise of the mean value, which nothing keeps from being negative here.

**Source**: Ciosek, Vuong, Loftin, Hofmann, "Better Exploration with Optimistic Actor-Critic", NeurIPS 2019, proposition 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from recrl.algorithms.auro import ExplorationConfig, guard_metrics
from recrl.algorithms.task import Task
from recrl.algorithms.td3 import TD3, TD3Config
from recrl.core.contracts import Transitions, Update
from recrl.core.errors import ConfigError
from recrl.policies.guarded import GuardedPolicy
from recrl.policies.vector import VectorPolicy


@dataclass(frozen=True)
class OACConfig(TD3Config):
    """Options of TD3, and those of the shift.

    Attributes:
        beta: weight of the critics' disagreement; the authors' value.
        delta: bound of the KL divergence from the unshifted Gaussian; the authors' value for their largest task is 23.53, a shift of 6.9
            spreads.
    """

    beta: float = 4.66
    delta: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta < 0 or self.delta < 0:
            raise ConfigError(f"beta={self.beta}, delta={self.delta} are out of range", where="oac", mend="beta >= 0, delta >= 0")


class OAC(TD3):
    """OAC for vector actions: embeddings, fusion weights, continuous controls."""

    name: ClassVar[str] = "oac"
    config_type: ClassVar[type[OACConfig]] = OACConfig
    config: OACConfig

    def __init__(self, config: OACConfig, task: Task, seed: int = 0) -> None:
        super().__init__(config, task, seed)
        shift = (2.0 * config.delta) ** 0.5 * config.actor.exploration
        explore = ExplorationConfig(config.beta, shift, candidates=2, guard=False, jitter=config.actor.exploration)
        self._explorer = GuardedPolicy.around(self._policy, self._critics, explore.around(config.actor, config.critic_hidden))
        self._guard_metrics: dict[str, Tensor] = {}

    def collect_policy(self) -> VectorPolicy:
        """The current actor, shifted."""
        return self._explorer

    def observe(self, transitions: Transitions) -> None:
        """Note what the shift did to the mean value."""
        self._guard_metrics = {name: value for name, value in guard_metrics(transitions, 2).items() if name == "guard_gain"}

    def update(self, batch: Transitions) -> Update:
        """A step of TD3."""
        return Update({**super().update(batch).metrics, **self._guard_metrics})
