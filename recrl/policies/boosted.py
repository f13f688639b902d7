"""Scores of a LightGBM ranker over user and item features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recrl.core.contracts import Observation
from recrl.core.errors import CheckpointError, ConfigError

MODEL_FILE = "booster.txt"
"""The booster in LightGBM's own text format, beside ``policy.json``."""
_ROWS_AT_ONCE = 200_000


class BoostedScores(nn.Module):
    """A LightGBM ranker: the score of (user, item) depends on their features alone, not on the history.

    Pairs are scored in portions, a user that stands several times in a batch once. Unknown users have the mean features of all users.

    **Shapes**: ``user_features`` (n_users, Du), ``item_features`` (n_items, Di); the booster reads (rows, Du + Di).

    **When it fails**: trees are walked on the CPU, about a million pairs in a second or two; a large catalogue wants a candidate set.
    """

    kind = "boosted"
    user_features: Tensor
    item_features: Tensor

    def __init__(self, model: str, user_features: Tensor, item_features: Tensor) -> None:
        super().__init__()
        # half a second of import that other policies need not pay
        import lightgbm

        try:
            self._booster = lightgbm.Booster(model_str=model)
        except lightgbm.basic.LightGBMError as error:
            raise CheckpointError(f"LightGBM cannot read {MODEL_FILE}: {error}", mend="train and save the policy again") from None
        self._model = model
        self.register_buffer("user_features", user_features)
        self.register_buffer("item_features", item_features)

    @property
    def items(self) -> int:
        """Size of the catalogue."""
        return int(self.item_features.shape[0])

    def forward(self, observation: Observation, candidates: Tensor | None) -> Tensor:
        """Scores (B, C) of ``candidates`` (B, C), or of the whole catalogue."""
        if observation.user is None:
            raise ConfigError("the observation names no users", where="BoostedScores", mend="give Observation.user")
        device = self.item_features.device
        user = observation.user.cpu().numpy()
        if candidates is None:
            distinct, back = np.unique(user, return_inverse=True)
            return torch.from_numpy(self._predict(distinct, np.broadcast_to(np.arange(self.items), (distinct.size, self.items)))[back]).to(
                device
            )
        return torch.from_numpy(self._predict(user, candidates.cpu().numpy())).to(device)

    def _predict(self, user: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores of ``items`` (B, C) for ``user`` (B,)."""
        users, catalogue = self.user_features.cpu().numpy(), self.item_features.cpu().numpy()
        inside = (user >= 0) & (user < len(users))
        rows = np.where(inside[:, None], users[np.where(inside, user, 0)], users.mean(axis=0))
        out = np.empty(items.shape, dtype=np.float32)
        step = max(1, _ROWS_AT_ONCE // items.shape[1])
        for start in range(0, user.size, step):
            part = slice(start, start + step)
            pairs = np.concatenate([np.repeat(rows[part], items.shape[1], axis=0), catalogue[items[part].ravel()]], axis=1)
            out[part] = np.asarray(self._booster.predict(pairs, num_threads=1)).reshape(-1, items.shape[1])
        return out

    def config(self) -> dict[str, Any]:
        """What :meth:`load` needs besides the tensors and texts."""
        return {}

    def texts(self) -> dict[str, str]:
        """The booster as LightGBM writes it."""
        return {MODEL_FILE: self._model}

    @classmethod
    def load(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BoostedScores:
        """Build saved scores again; ``config`` holds the text of the booster."""
        return cls(config[MODEL_FILE], tensors["user_features"], tensors["item_features"])
