"""A policy over bounded vectors that is fitted by likelihood: its mean depends on the state, its learned spread does not."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from recrl.core.contracts import ActionSpec, Observation
from recrl.core.errors import ConfigError
from recrl.policies.laws import ClippedGaussian
from recrl.policies.vector import ActorConfig, VectorPolicy

SPREADS = (0.01, 2.0)
"""Bounds of the spread, as shares of half the action range."""


class ClippedGaussianPolicy(VectorPolicy):
    """A Gaussian clipped to the bounds whose spread, one a component, is learned.

    What lies at a bound counts with its probability, so that a log full of clipped actions is fitted as what it is (a squashed
    Gaussian never reaches its bounds). ``ActorConfig.exploration`` is the spread it starts with; it stays within :data:`SPREADS`, softly.

    **Source**: censored regression, Tobin, Econometrica 1958; a mean within the bounds beside a spread that knows no state is what Nair,
    Gupta, Dalal, Levine (AWAC, 2020) and Kostrikov, Nair, Levine (IQL, 2022) learn.
    """

    kind = "clipped_gaussian"

    def __init__(self, action_spec: ActionSpec, config: ActorConfig, item_vectors: Tensor | None = None, seed: int = 0) -> None:
        super().__init__(action_spec, config, item_vectors, seed)
        least, most = SPREADS
        if not least < config.exploration < most:
            raise ConfigError(
                f"exploration={config.exploration} lies outside {SPREADS}",
                where="actor.exploration",
                mend="the spread is learned between these; start it inside",
            )
        share = math.log(config.exploration / least) / math.log(most / least)
        self._start = math.log(share / (1.0 - share))
        self.raw_spread = nn.Parameter(torch.zeros(action_spec.shape))

    def head(self, state: Tensor) -> ClippedGaussian:
        """The law of the actions in encoded states (B, width)."""
        least, most = SPREADS
        spread = least * torch.exp(math.log(most / least) * torch.sigmoid(self.raw_spread + self._start)) * self.actor.half_range
        return ClippedGaussian(self.actor.head(state), spread, self.action_spec.low, self.action_spec.high)

    def _law(self, observation: Observation) -> ClippedGaussian:
        return self.head(self.actor.encoder(observation))
