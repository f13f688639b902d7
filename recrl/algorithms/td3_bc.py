r"""TD3+BC: TD3 with a behaviour-cloning term, for offline learning.

    L_pi  = -lam mean Q_1(s, pi(s)) + mean_d (pi(s) - a)^2,   lam = alpha / mean |Q_1|  (no gradient through lam)

Critics, targets and symbols are those of :mod:`recrl.algorithms.td3`; ``a`` is the logged action.

**Differences from the authors' code**: those of TD3; states are not standardised by the data, encoders give parts of comparable scale.

**Metrics**: those of TD3, ``bc_error`` (mean squared distance to the logged action) and ``lambda``.

**Source**: Fujimoto and Gu, "A Minimalist Approach to Offline Reinforcement Learning", NeurIPS 2021, equations 3-5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from recrl.algorithms.task import Task
from recrl.algorithms.td3 import TD3, TD3Config
from recrl.core.errors import ConfigError


@dataclass(frozen=True)
class TD3BCConfig(TD3Config):
    """Options of TD3, and ``alpha``.

    Attributes:
        alpha: weight of the value against imitation; 0 is behaviour cloning.
    """

    alpha: float = 2.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha < 0:
            raise ConfigError(f"alpha={self.alpha} is negative", where="td3_bc.alpha", mend="alpha >= 0; 2.5 is the published value")


class TD3BC(TD3):
    """TD3+BC for vector actions: embeddings, fusion weights, continuous controls."""

    name: ClassVar[str] = "td3_bc"
    config_type: ClassVar[type[TD3BCConfig]] = TD3BCConfig

    def __init__(self, config: TD3BCConfig, task: Task, seed: int = 0) -> None:
        super().__init__(config, task, seed)
        self._alpha = config.alpha

    def _actor_loss(self, value: Tensor, action: Tensor, logged_action: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        scale = self._alpha / value.detach().abs().mean().clamp_min(1e-6)
        imitation = ((action - logged_action) ** 2).mean()
        return -scale * value.mean() + imitation, {"bc_error": imitation.detach(), "lambda": scale}
