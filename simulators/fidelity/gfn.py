"""GFN4Retention's environment: a bounded personal bias and a satisfaction that is never reset."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from simulators.fidelity.kuaisim import CrossSession, CrossSessionConfig
from simulators.fidelity.laws import GFN_EMA, gfn_return_probability, gfn_weights, slate_worth, truncated_geometric
from simulators.fidelity.users import StandInUsers
from simulators.fidelity.world import RETURN_DAYS, FidelityState


@dataclass(frozen=True)
class GfnConfig(CrossSessionConfig):
    """GFN4Retention; defaults as published.

    Attributes:
        scale: c_pers, the most that the personal term adds.
        weight_bug: hate's negative ratio makes it the heaviest weight.
        feed_probabilities: satisfaction grows by probabilities instead of by what happened, as published.
    """

    influence: float = 0.4
    scale: float = 0.1
    weight_bug: bool = True
    feed_probabilities: bool = True


class GfnWorld(CrossSession):
    """Return by ``P = clip(c_pers sigmoid(w'u + b) + f (c - .01) + p0, .001, .999)``, ``c <- .7 c + .3 worth`` over all requests.

    **Source**: GFN4Retention (its fork of KuaiSim).
    """

    config: GfnConfig

    def __init__(self, config: GfnConfig, users: StandInUsers, *, seed: int = 0) -> None:
        super().__init__(config, users, seed=seed)
        self._influence_weights = gfn_weights(bug=config.weight_bug).to(self.device)

    def satisfied(self, satisfaction: Tensor, responses: Tensor, probabilities: Tensor) -> Tensor:
        """``c <- .7 c + .3 worth``, over the ends of sessions."""
        worth = slate_worth(probabilities if self.config.feed_probabilities else responses, self._influence_weights)
        return GFN_EMA * satisfaction + (1.0 - GFN_EMA) * worth

    def return_days(self, after: FidelityState, responses: Tensor) -> Tensor:
        """All requests so far count, through the running satisfaction."""
        c = self.config
        personal = self.personal_term(after) if c.personal_bias else torch.full_like(after.satisfaction, -torch.inf)
        p = gfn_return_probability(personal, after.satisfaction, scale=c.scale, influence=c.influence, bias=c.bias)
        return truncated_geometric(p, RETURN_DAYS)
