"""The vector environment behind Stable-Baselines3's own ``VecEnv``: thousands of users at the price of one call.

Stable-Baselines3 also takes :class:`simulators.env.RetentionEnv` as it is (``DummyVecEnv`` makes one environment a user); this is the same
contract for :class:`simulators.env.RetentionVectorEnv`, whose users share one tensor step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recrl.core.errors import ConfigError, MissingDependencyError
from simulators.env import RetentionVectorEnv
from simulators.world import RetentionWorld

try:
    from stable_baselines3.common.vec_env import VecEnv
except ImportError:
    raise MissingDependencyError(
        "Stable-Baselines3 is not installed", where="simulators.sb3", mend="pip install stable-baselines3"
    ) from None


class UsersVecEnv(VecEnv):
    """``users`` simulated users side by side, for Stable-Baselines3's algorithms.

    Where a life ends, ``infos`` carries ``terminal_observation`` and ``TimeLimit.truncated`` (the horizon cut it), as its learners read
    them, and the observation is the next user's first.

    Args:
        world: the world; its actions must be vectors, items or slates.
        users: users side by side.
    """

    def __init__(self, world: RetentionWorld, users: int) -> None:
        self.env = RetentionVectorEnv(world, users)
        self._actions: NDArray[Any] | None = None
        super().__init__(users, self.env.single_observation_space, self.env.single_action_space)

    def reset(self) -> NDArray[Any]:
        """New users in every slot; ``seed(n)`` before it sets who they are."""
        given = next((s for s in self._seeds if s is not None), None)
        self._reset_seeds()
        return self.env.reset(seed=given)[0]

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take the actions of the coming step."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
        """One request of every user."""
        seen, reward, terminated, truncated, told = self.env.step(self._actions)
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for k in np.flatnonzero(done):
            infos[k] = {"terminal_observation": told["final_obs"][k], "TimeLimit.truncated": bool(truncated[k] and not terminated[k])}
        return seen, reward.astype(np.float32), done, infos

    def close(self) -> None:
        """Nothing is held."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the environment, once for each user asked for."""
        return [getattr(self.env, attr_name)] * len(self._slots(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """All users share one environment: it cannot be told different things.

        **Errors**: :class:`ConfigError`.
        """
        raise ConfigError("users share one environment", where="UsersVecEnv.set_attr", mend="change the world before making it")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of the environment; its answer, once for each user asked for."""
        return [getattr(self.env, method_name)(*args, **kwargs)] * len(self._slots(indices))

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """No user is wrapped."""
        return [False] * len(self._slots(indices))

    def _slots(self, indices: Any) -> Sequence[int]:
        return list(self._get_indices(indices))
