"""What fusion weights mean: the one scale on which predicted behaviours are added up, in simulated worlds and for policies over logs.

With weights w in [-1, 1]^7, the action space of RLUR, AURO and PrefRec, an item i scores for a user u ::

    sum_f w_f (P_f(u, i) - mean_f) / (2 spread_f)

where P_f are the predicted marginals and mean and spread those over pairs of any user with any item. A unit of weight so means the
same for a click as for a follow, whose rates differ by three orders of magnitude. Means and the factor do not change a ranking.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recrl.core.streams import Purpose, Streams
from simulators.response import LatentResponse

_PAIRS = 20_000
# below it, a behaviour is predicted the same for all items and says nothing
_TOLD = 1e-6


@dataclass(frozen=True, eq=False)
class FusionScale:
    """Mean and standard deviation of each predicted marginal over random pairs of a user and an item, ``(7,)`` each."""

    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, scorer: LatentResponse) -> FusionScale:
        """That of a platform's predictions, on their device; the pairs are the same for models of the same size."""
        draws = Streams(0)
        users, items = (
            torch.from_numpy(draws.integers(n, range(_PAIRS), k, Purpose.USERS)) for k, n in enumerate((scorer.n_users, scorer.n_items))
        )
        found = scorer.scores(users.to(scorer.device), items.to(scorer.device).unsqueeze(1))[:, 0]
        return cls(found.mean(0), found.std(0))

    @property
    def told(self) -> Tensor:
        """Behaviours that tell items apart, ``(7,)`` bool."""
        return self.spread > _TOLD

    @property
    def unit(self) -> Tensor:
        """One over twice the spread, 0 for a behaviour that tells nothing: ``(7,)``."""
        return torch.where(self.told, 0.5 / self.spread.clamp_min(_TOLD), 0.0)

    def standardised(self, marginals: Tensor) -> Tensor:
        """What weights are multiplied with: ``(..., 7)`` -> ``(..., 7)``, within 1 for all but the outermost pairs."""
        return (marginals - self.mean) * self.unit
