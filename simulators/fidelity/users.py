"""Stand-in for the published user-response network: random users, items and heads in its shapes and scales."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.errors import ConfigError
from recrl.core.streams import Purpose, Streams

WIDTH = 64
"""Width of an item encoding; the history takes two of them, the user one."""
_KEPT = 0.9


class StandInUsers:
    """Users and items drawn at random, because the published networks' weights are not to be had.

    A user's state is ``u = sqrt(shared) common + sqrt(1 - shared) [user | history]``, 192 numbers of about unit variance as behind the
    network's layer norms; the history part takes in what was shown and how it was met. Behaviour f of an item scores
    ``gain * mean_d(attention_f,d(u) * item_d)``, both layer-normed: the mean over 64 dimensions, so that logits stay small.

    Args:
        n_users: users.
        n_items: items.
        gain: what training would have added to the scores.
        shared: share of the variance of states that all users have in common.
        seed: of the draws.
        device: where the tables live.

    **Errors**: :class:`ConfigError` for a share outside [0, 1] or an empty table.
    """

    def __init__(
        self,
        n_users: int = 1000,
        n_items: int = 500,
        *,
        gain: float = 3.0,
        shared: float = 0.5,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 0.0 <= shared <= 1.0:
            raise ConfigError(f"shared is {shared}", where="StandInUsers.shared", mend="a share lies in [0, 1]")
        if n_users < 1 or n_items < 1:
            raise ConfigError(f"{n_users} users and {n_items} items", where="StandInUsers", mend="give at least one of each")
        self.n_users, self.n_items, self.gain, self.shared = n_users, n_items, gain, shared
        self.device = torch.device(device)
        streams, f = Streams(seed), len(BEHAVIOURS)

        def normal(rows: int, step: int, width: int) -> Tensor:
            values = streams.normal(np.arange(rows), step, Purpose.INITIALISATION, (width,))
            return torch.from_numpy(values).float().to(self.device)

        self.users, self.common = normal(n_users, 0, 3 * WIDTH), normal(1, 1, 3 * WIDTH)[0]
        self.items = torch.nn.functional.layer_norm(normal(n_items, 2, WIDTH), (WIDTH,))
        self._heads = normal(3 * WIDTH, 3, f * WIDTH) / (3 * WIDTH) ** 0.5
        self._feedback = normal(f, 4, WIDTH) / f**0.5

    @property
    def state_dim(self) -> int:
        """Length of a user's state."""
        return 3 * WIDTH

    def fresh_memory(self, user: Tensor) -> Tensor:
        """What a fresh user remembers of the time before: ``(B,)`` -> ``(B, 128)``."""
        return self.users[user, WIDTH:]

    def state(self, user: Tensor, memory: Tensor) -> Tensor:
        """State of users: ``(B,)``, ``(B, 128)`` -> ``(B, 192)``."""
        own = torch.cat([self.users[user, :WIDTH], memory], dim=1)
        return self.shared**0.5 * self.common + (1.0 - self.shared) ** 0.5 * own

    def scores(self, state: Tensor, items: Tensor | None = None) -> Tensor:
        """Scores of the seven behaviours: state ``(B, 192)``, items ``(B, C)`` or the whole catalogue -> ``(B, C, 7)``."""
        heads = (state @ self._heads).view(len(state), len(BEHAVIOURS), WIDTH)
        heads = torch.nn.functional.layer_norm(heads, (WIDTH,)) * (self.gain / WIDTH)
        table = self.items if items is None else self.items[items]
        return table @ heads.transpose(1, 2)

    def remembered(self, memory: Tensor, shown: Tensor, responses: Tensor) -> Tensor:
        """Memory after a slate: ``(B, 128)``, items ``(B, K)``, responses ``(B, K, 7)`` -> ``(B, 128)``."""
        seen = self.items[shown].sum(1) / shown.shape[1] ** 0.5
        told = (2.0 * responses.mean(1) - 1.0) @ self._feedback
        return _KEPT**0.5 * memory + (1.0 - _KEPT) ** 0.5 * torch.cat([seen, told], dim=1)


class UniformUsers(StandInUsers):
    """Users and items whom nothing tells apart: every behaviour has one score, so that published formulas can be checked.

    Args:
        scores: one score, or one for each of the seven behaviours; infinite ones are certain.
        n_users: users.
        n_items: items.
    """

    def __init__(self, scores: Tensor | float, n_users: int = 20, n_items: int = 12) -> None:
        super().__init__(n_users, n_items)
        self.fixed = torch.as_tensor(scores, dtype=torch.float32).expand(len(BEHAVIOURS))

    def scores(self, state: Tensor, items: Tensor | None = None) -> Tensor:
        """The same everywhere."""
        shape = (len(state), self.n_items) if items is None else items.shape
        return self.fixed.expand(*shape, len(BEHAVIOURS))
