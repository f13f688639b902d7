"""AURO's environment: ten requests a session, ten sessions a user, and a return model that prefers users who do not respond."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from recrl.core.errors import ConfigError
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from simulators.fidelity.laws import auro_return_days, auro_return_table
from simulators.fidelity.users import StandInUsers
from simulators.fidelity.world import F, FidelityConfig, FidelityState, FidelityWorld

AuroDrift = Literal["none", "glitch", "held"]
_EVERY = 1000


@dataclass(frozen=True)
class AuroConfig(FidelityConfig):
    """AURO; defaults as shipped.

    Attributes:
        drift: ``glitch`` multiplies probabilities on one environment step in 1,000, as shipped; ``held`` for all 1,000, as evidently
            meant.
        amplitude: the multiplier is U[1 - amplitude, 1 + amplitude].
        dropout: the return model's dropout stays on, as shipped.
    """

    history: int = 50
    temper: float = 10.0
    sessions: int = 10
    drift: AuroDrift = "glitch"
    amplitude: float = 0.2
    dropout: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drift not in get_args(AuroDrift):
            raise ConfigError(f"drift is {self.drift!r}", where="AuroConfig.drift", mend=f"choose one of {', '.join(get_args(AuroDrift))}")


class AuroWorld(FidelityWorld):
    """Return by the mean rate of the last 50 items' responses: the more they respond, the later they return.

    The released network's weights are not to be had; a table through its published measurements stands in, so single behaviours
    count alike, whereas the network minds hate most.

    **Source**: AURO, measurements of its released return model.
    """

    config: AuroConfig

    def __init__(self, config: AuroConfig, users: StandInUsers, *, seed: int = 0) -> None:
        super().__init__(config, users, seed=seed)
        self._table = auro_return_table(config.dropout).to(self.device)
        self._draws = TensorStreams(self.env_seed, self.device)

    def multiplier(self, clock: Tensor) -> Tensor:
        """The drift at environment steps: ``(B,)`` -> ``(B,)``."""
        if self.config.drift == "none":
            return torch.ones(len(clock), device=clock.device)
        drawn = self._draws.uniform(torch.zeros_like(clock), clock // _EVERY, Purpose.DRIFT)
        m = 1.0 + self.config.amplitude * (2.0 * drawn - 1.0)
        return m if self.config.drift == "held" else torch.where(clock % _EVERY == 0, m, 1.0)

    def probabilities(self, state: FidelityState, shown: Tensor, scores: Tensor) -> Tensor:
        """``clip(sigmoid(score) m, 0, 1)``."""
        return (torch.sigmoid(scores) * self.multiplier(state.clock)[:, None, None]).clamp(0.0, 1.0)

    def return_days(self, after: FidelityState, responses: Tensor) -> Tensor:
        """The last 50 items' responses alone: a session of 60 overwrites them all."""
        bits = (after.history_feedback.unsqueeze(-1) >> torch.arange(F, dtype=torch.uint8, device=self.device)) & 1
        return auro_return_days(bits.float().mean((1, 2)), self._table)
