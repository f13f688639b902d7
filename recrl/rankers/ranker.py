"""What a trained ranker is good for beside acting: candidates for others to choose from, and item vectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recrl.core.contracts import Observation
from recrl.core.errors import ConfigError
from recrl.policies import load_policy
from recrl.policies.boosted import BoostedScores
from recrl.policies.items import ItemPolicy
from recrl.policies.ranked import FactorScores, SequenceScores


@dataclass(frozen=True)
class Ranker:
    """A trained ranker.

    Attributes:
        policy: the ranker as a policy over items.
    """

    policy: ItemPolicy

    def __post_init__(self) -> None:
        if not isinstance(self.policy, ItemPolicy) or not isinstance(self.policy.scores, FactorScores | SequenceScores | BoostedScores):
            raise ConfigError(
                "this policy is not a supervised ranker",
                where="Ranker",
                mend="train one: recrl train bpr, lightgcn, sasrec, gru4rec, lightgbm",
            )

    @classmethod
    def load(cls, folder: Path) -> Ranker:
        """The ranker that ``recrl train`` saved in ``folder``.

        **Errors**: those of :func:`recrl.policies.load_policy`; :class:`ConfigError` for another kind of policy.
        """
        return cls(load_policy(folder))  # type: ignore[arg-type]

    @torch.no_grad()
    def top_candidates(self, observation: Observation, k: int) -> Tensor:
        """The ``k`` items with the highest scores, best first, (B, k): a candidate pool for a policy that chooses among them.

        **Errors**: :class:`ConfigError` where the catalogue is smaller than ``k``.
        """
        if not 1 <= k <= self.policy.scores.items:
            raise ConfigError(f"{k} candidates of {self.policy.scores.items} items", where="Ranker.top_candidates", mend="ask for fewer")
        return self.policy.scores(observation, None).topk(k, dim=1).indices

    def item_vectors(self, *, bounded: bool = False) -> Tensor:
        """Vectors of the items, (n_items, d).

        Args:
            bounded: scaled by :func:`spread_evenly`.

        **Errors**: :class:`ConfigError` for a ranker without vectors (LightGBM).
        """
        scores = self.policy.scores
        if not isinstance(scores, FactorScores | SequenceScores):
            raise ConfigError("trees have no item vectors", where="Ranker.item_vectors", mend="use bpr, lightgcn, sasrec or gru4rec")
        vectors = scores.item_vectors.detach().clone()
        return spread_evenly(vectors) if bounded else vectors


def spread_evenly(vectors: Tensor) -> Tensor:
    """Columns scaled to one spread, so that they fill [-1, 1]: what an actor with bounded outputs can imitate; (n, d) -> (n, d)."""
    return (vectors / (2.5 * vectors.std(0, correction=0).clamp_min(1e-6))).clamp(-1.0, 1.0)
