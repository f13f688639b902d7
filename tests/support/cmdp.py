"""A tiny constrained decision process with known values, its linear-programming optimum, and a log of it."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linprog

from recrl.core.contracts import Observation, Transitions

STATES, ACTIONS, DISCOUNT = 3, 3, 0.8


class CMDP:
    """Transition law (S, A, S), rewards (m, S, A) of which the first is the main one, and a start law (S,)."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.law = rng.dirichlet(np.full(STATES, 0.7), (STATES, ACTIONS))
        main = rng.uniform(0, 1, (STATES, ACTIONS))
        # what the main response likes, the protected one dislikes, but for some noise
        self.reward = np.stack([main, 1.0 - main + 0.4 * rng.uniform(-1, 1, (STATES, ACTIONS))])
        self.start = np.full(STATES, 1.0 / STATES)

    def values(self, policy: np.ndarray, response: int) -> tuple[np.ndarray, np.ndarray]:
        """State values (S,) and advantages (S, A) of ``policy`` (S, A)."""
        law = np.einsum("sa,sat->st", policy, self.law)
        value = np.linalg.solve(np.eye(STATES) - DISCOUNT * law, (policy * self.reward[response]).sum(1))
        return value, self.reward[response] + DISCOUNT * self.law @ value - value[:, None]

    def earned(self, policy: np.ndarray) -> np.ndarray:
        """Both responses from the start law, (2,)."""
        return np.array([self.start @ self.values(policy, k)[0] for k in range(2)])

    def optimum(self, least: float | None = None, response: int = 0) -> tuple[float, np.ndarray]:
        """The largest value of a response, where the protected one earns at least ``least``, and a policy (S, A), by linear programming."""
        flow = np.repeat(np.eye(STATES), ACTIONS, axis=1) - DISCOUNT * self.law.reshape(-1, STATES).T
        bound = {} if least is None else {"A_ub": -self.reward[1].reshape(1, -1), "b_ub": [-least]}
        found = linprog(-self.reward[response].ravel(), A_eq=flow, b_eq=self.start, **bound)
        assert found.success
        visits = found.x.reshape(STATES, ACTIONS)
        return -found.fun, visits / visits.sum(1, keepdims=True)

    def log(self, rows: int, seed: int = 0, behaviour: np.ndarray | None = None) -> Transitions:
        """Independent transitions from uniformly drawn states, states one-hot."""
        rng = np.random.default_rng(seed)
        law = np.full((STATES, ACTIONS), 1.0 / ACTIONS) if behaviour is None else behaviour
        state = rng.integers(0, STATES, rows)
        action = (rng.random((rows, 1)) > law[state].cumsum(1)).sum(1).clip(max=ACTIONS - 1)
        following = (rng.random((rows, 1)) > self.law[state, action].cumsum(1)).sum(1).clip(max=STATES - 1)
        seen, none = torch.eye(STATES), torch.zeros(rows, dtype=torch.bool)
        return Transitions(
            observation=Observation(features=seen[torch.from_numpy(state)]),
            action=torch.from_numpy(action),
            reward=torch.from_numpy(self.reward[:, state, action].T.astype(np.float32)),
            next_observation=Observation(features=seen[torch.from_numpy(following)]),
            terminated=none,
            truncated=none,
            session_end=none,
        )
