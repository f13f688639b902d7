"""The world behind Gymnasium's interfaces: one user as an ``Env``, many as a ``VectorEnv``."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from recrl.core.contracts import ActionSpec, Outcome
from recrl.core.errors import ConfigError, ContractError
from recrl.core.torch.streams import TensorStreams
from simulators.state import UserState
from simulators.world import RetentionWorld

Array = NDArray[Any]


def observation_space(world: RetentionWorld) -> Box:
    """The flat float view of an observation, ``(D + 11,)``."""
    return Box(-np.inf, np.inf, (world.n_features,), np.float32)


def action_space(spec: ActionSpec) -> Box | Discrete | MultiDiscrete:
    """The Gymnasium space of an action spec. A slate's space cannot say that items differ: one shown twice is simply seen twice."""
    if spec.is_vector:
        return Box(spec.low, spec.high, spec.shape, np.float32)
    assert spec.choices is not None
    return MultiDiscrete([spec.choices] * spec.shape[0]) if spec.shape else Discrete(spec.choices)


class RetentionVectorEnv(VectorEnv):
    """``num_envs`` users side by side, each on a clock of its own; an episode is a user's life until churn or the horizon.

    Autoreset is ``SAME_STEP``: where an episode ends, the returned observation is the next user's first, and
    ``infos["final_obs"]`` (with mask ``infos["_final_obs"]``) holds the true last one. The reward is the objective's signals
    in their weights; ``infos`` carries ``reward_vector`` (B, m), ``session_end``, ``gap_days``, ``shown``, ``feedback``, and
    ``truth`` where the world's configuration asks for it.

    Args:
        world: the world.
        num_envs: users side by side.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012 - Gymnasium's own attribute

    def __init__(self, world: RetentionWorld, num_envs: int) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs is {num_envs}", where="RetentionVectorEnv.num_envs", mend="it must be at least 1")
        self.world, self.num_envs = world, num_envs
        self.single_observation_space = observation_space(world)
        self.single_action_space = action_space(world.action_spec)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._weights = np.array([s.weight for s in world.objective.signals])
        self._lives = np.zeros(num_envs, dtype=np.int64)
        self._streams: TensorStreams | None = None
        self._state: UserState | None = None

    @property
    def state(self) -> UserState:
        """State of the users now in the slots."""
        if self._state is None:
            raise ContractError("the environment was not reset", where="RetentionVectorEnv", mend="call reset() first")
        return self._state

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """New users in every slot; the same seed gives the same users and the same luck."""
        super().reset(seed=seed)
        self._streams = TensorStreams(int(self.np_random.integers(2**62)), self.world.device)
        self._lives[:] = 0
        self._state = self.world.initial_state(self._ids(np.arange(self.num_envs)), self._streams)
        return self._features(self._state), {}

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One request for every user."""
        state, streams = self.state, self._streams
        assert streams is not None
        after, outcome = self.world.transition(state, np.asarray(actions), streams)
        terminated, truncated = outcome.terminated.cpu().numpy(), outcome.truncated.cpu().numpy()
        reward, infos = _told(outcome, self._weights)
        done = np.flatnonzero(terminated | truncated)
        observation = self._features(after)
        if done.size:
            final = np.full(self.num_envs, None, dtype=object)
            for k in done:
                final[k] = observation[k].copy()
            infos |= {"final_obs": final, "_final_obs": terminated | truncated}
            self._lives[done] += 1
            fresh = self.world.initial_state(self._ids(done), streams)
            place = torch.from_numpy(done).to(self.world.device)
            after = UserState.concatenate([after, fresh])[self._placed(place)]
            observation = self._features(after)
        self._state = after
        return observation, reward, terminated, truncated, infos

    def _placed(self, place: torch.Tensor) -> torch.Tensor:
        source = torch.arange(self.num_envs, device=place.device)
        source[place] = self.num_envs + torch.arange(len(place), device=place.device)
        return source

    def _ids(self, slots: NDArray[np.int64]) -> torch.Tensor:
        assert self._streams is not None
        return self.world.users_numbered(self._lives[slots] * self.num_envs + slots, self._streams.seed)

    def _features(self, state: UserState) -> Array:
        return np.asarray(self.world.observe(state).features.cpu().numpy())


class RetentionEnv(gymnasium.Env):
    """One user; an episode is a life until churn or the horizon. Rewards and ``info`` as in :class:`RetentionVectorEnv`.

    Args:
        world: the world.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own attribute

    def __init__(self, world: RetentionWorld) -> None:
        self.world = world
        self.observation_space = observation_space(world)
        self.action_space = action_space(world.action_spec)
        self._weights = np.array([s.weight for s in world.objective.signals])
        self._streams: TensorStreams | None = None
        self._state: UserState | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """A new user; the same seed gives the same user and the same luck."""
        super().reset(seed=seed)
        self._streams = TensorStreams(int(self.np_random.integers(2**62)), self.world.device)
        self._state = self.world.initial_state(self.world.population(1, self._streams.seed), self._streams)
        return self._features(), {}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One request.

        **Errors**: :class:`ContractError` before the first reset and after the end of an episode.
        """
        if self._state is None or self._streams is None or not bool(self._state.alive):
            raise ContractError("there is no user to show anything to", where="RetentionEnv.step", mend="call reset() first")
        self._state, outcome = self.world.transition(self._state, np.asarray(action)[None], self._streams)
        reward, info = _told(outcome, self._weights)
        first = {name: value[0] for name, value in info.items() if name != "truth"}
        if "truth" in info:
            first["truth"] = {name: value[0] for name, value in info["truth"].items()}
        return self._features(), float(reward[0]), bool(outcome.terminated), bool(outcome.truncated), first

    def _features(self) -> Array:
        assert self._state is not None
        return np.asarray(self.world.observe(self._state).features[0].cpu().numpy())


def _told(outcome: Outcome, weights: NDArray[np.float64]) -> tuple[Array, dict[str, Any]]:
    vector = outcome.reward.cpu().numpy()
    info: dict[str, Any] = {"reward_vector": vector}
    for name in ("session_end", "gap_days", "shown", "feedback"):
        info[name] = getattr(outcome, name).cpu().numpy()
    if outcome.truth:
        info["truth"] = {name: value.cpu().numpy() for name, value in outcome.truth.items()}
    return vector @ weights, info
