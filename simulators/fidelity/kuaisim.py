"""KuaiSim's three tasks: request level, whole session, cross session."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recrl.core.contracts import ActionSpec
from recrl.core.streams import Purpose, Streams
from simulators.fidelity.laws import (
    RATIOS,
    kuaisim_return_probability,
    slate_correlation,
    slate_worth,
    temper_drop,
    truncated_geometric,
)
from simulators.fidelity.users import StandInUsers
from simulators.fidelity.world import RETURN_DAYS, F, FidelityConfig, FidelityState, FidelityWorld


@dataclass(frozen=True)
class SessionConfig(FidelityConfig):
    """Request level and whole session.

    Attributes:
        similarity: rho, how much similarity within the slate takes from probabilities.
        double_sigmoid: a second sigmoid over the probability, as published: everything fires with .5 to .73.
        single_response: leaving and reward count clicks alone, as in every published whole-session script.
        discount: the TemperDiscount variant of leaving.
    """

    similarity: float = 0.2
    double_sigmoid: bool = True
    single_response: bool = True
    discount: bool = False


class RequestLevel(FidelityWorld):
    """Sessions of ``temper`` requests for everyone; the reward is the sum of six response rates.

    **Source**: KuaiSim, ``SlateRec``.
    """

    config: SessionConfig

    def __init__(self, config: SessionConfig, users: StandInUsers, *, seed: int = 0) -> None:
        super().__init__(config, users, seed=seed)

    def _action_spec(self) -> ActionSpec:
        return ActionSpec("slate", (self.config.slate_size,), choices=self.users.n_items)

    def probabilities(self, state: FidelityState, shown: Tensor, scores: Tensor) -> Tensor:
        """``max(0, sigmoid(sigmoid(score)) - rho similarity)``."""
        p = torch.sigmoid(scores)
        if self.config.double_sigmoid:
            p = torch.sigmoid(p)
        return (p - self.config.similarity * slate_correlation(self.users.items[shown]).unsqueeze(-1)).clamp_min(0.0)

    def weights(self) -> tuple[float, ...]:
        """One for each behaviour, 0 for hate."""
        return (1.0,) * (F - 1) + (0.0,)


class WholeSession(RequestLevel):
    """Sessions that end when patience runs out, faster for slates that please less; then another user takes the slot.

    **Source**: KuaiSim, ``WholeSession_GPU``.
    """

    def weights(self) -> tuple[float, ...]:
        """Clicks alone, or ratios of the log with hate negative."""
        return (1.0,) + (0.0,) * (F - 1) if self.config.single_response else RATIOS

    def cost(self, responses: Tensor) -> Tensor:
        """Between 1 and 2 with clicks alone, whatever the policy does."""
        return temper_drop(slate_worth(responses, self.reward_weights), discount=self.config.discount)


@dataclass(frozen=True)
class CrossSessionConfig(FidelityConfig):
    """Cross session; defaults of the published script.

    Attributes:
        influence: f, weight of the last slate in the return probability.
        bias: p0.
        personal_bias: the random, untrained linear map of the user's state.
    """

    temper: float = 5.0
    sessions: int = 6
    influence: float = 0.1
    bias: float = 0.4
    personal_bias: bool = True


class CrossSession(FidelityWorld):
    """Sessions of ``temper`` requests; return by a truncated geometric law with a random personal bias.

    The bias is a linear map as freshly initialised: never trained, never saved, another one for each seed.

    **Source**: KuaiSim, ``CrossSession_GPU``.
    """

    config: CrossSessionConfig

    def __init__(self, config: CrossSessionConfig, users: StandInUsers, *, seed: int = 0) -> None:
        super().__init__(config, users, seed=seed)
        width = users.state_dim
        drawn = 2.0 * Streams(self.env_seed).uniform(0, 0, Purpose.INITIALISATION, (width + 1,))[0] - 1.0
        # the uniform initialisation of a linear layer
        drawn = drawn / np.sqrt(width) if config.personal_bias else 0.0 * drawn
        self.personal = torch.from_numpy(drawn).float().to(self.device)

    def probabilities(self, state: FidelityState, shown: Tensor, scores: Tensor) -> Tensor:
        """One sigmoid; similarity is ignored."""
        return torch.sigmoid(scores)

    def weights(self) -> tuple[float, ...]:
        """Ratios of the log, hate negative."""
        return RATIOS

    def personal_term(self, state: FidelityState) -> Tensor:
        """``w'u + b`` after the session: ``(B,)``."""
        return self.users.state(state.user, state.memory) @ self.personal[:-1] + self.personal[-1]

    def return_days(self, after: FidelityState, responses: Tensor) -> Tensor:
        """The last slate counts, earlier ones do not."""
        c = self.config
        p = kuaisim_return_probability(
            self.personal_term(after), slate_worth(responses, self.reward_weights), influence=c.influence, bias=c.bias
        )
        return truncated_geometric(p, RETURN_DAYS)
