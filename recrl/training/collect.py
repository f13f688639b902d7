"""Collectors: users or control tasks side by side, stepped by a policy, as transitions with their true next states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from recrl.core.contracts import Observation, Policy, Stateful, Transitions
from recrl.core.errors import CheckpointError, ConfigError
from recrl.core.streams import Purpose, Streams
from recrl.core.torch.streams import TensorStreams
from simulators.state import UserState
from simulators.world import RetentionWorld


class Collector(Stateful, Protocol):
    """Steps an environment with a policy."""

    def collect(self, policy: Policy, step: int) -> Transitions:
        """One transition of each user or task; ``step`` keys exploration where users have no clock of their own."""
        ...


class WorldCollector:
    """Users of a simulated world side by side; who churns or passes the horizon is replaced by a fresh user.

    Args:
        world: the world.
        users: how many side by side.
        seed: of users and their luck.
    """

    def __init__(self, world: RetentionWorld, users: int, seed: int) -> None:
        self.world = world
        self._streams = TensorStreams(seed, world.device)
        self._slots, self._lives = torch.arange(users, device=world.device), torch.zeros(users, dtype=torch.int64, device=world.device)
        self._state = world.initial_state(self._ids(), self._streams)

    def _ids(self) -> torch.Tensor:
        return self.world.users_numbered(self._lives * len(self._slots) + self._slots, self._streams.seed)

    def collect(self, policy: Policy, step: int) -> Transitions:
        """One request of every user."""
        state = self._state
        observation = self.world.observe(state)
        action = policy.act(observation, self._streams, step=state.draw_step)
        after, outcome = self.world.transition(state, action.value, self._streams)
        gone = outcome.terminated | outcome.truncated
        self._lives = self._lives + gone
        # fresh users are made for every slot and kept where one is gone: no wait for the device
        self._state = after.where(~gone, self.world.initial_state(self._ids(), self._streams))
        return Transitions(
            observation=observation,
            action=action.value,
            reward=outcome.reward,
            next_observation=self.world.observe(after),
            terminated=outcome.terminated,
            # the horizon cuts a life that would go on: its next state is known
            truncated=torch.zeros_like(outcome.truncated),
            session_end=outcome.session_end,
            behaviour_log_prob=action.log_prob,
            cluster=state.user,
            notes=action.notes,
        )

    def state_dict(self) -> dict[str, Any]:
        """Users and their clocks."""
        return {
            "state": {f.name: getattr(self._state, f.name) for f in fields(UserState)},
            "lives": self._lives,
            "seed": self._streams.seed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        device = self.world.device
        self._state = UserState(**{name: values.to(device) for name, values in state["state"].items()})
        self._lives = state["lives"].to(device)
        self._streams = TensorStreams(int(state["seed"]), self.world.device)


class GymCollector:
    """Control tasks of a Gymnasium vector environment (autoreset ``DISABLED``) with flat observations and one reward.

    Every episode begins with a reset under a seed of its own, a function of (seed, task, episode number). The state holds the
    episode numbers and the actions of the running episodes, and loading it plays them again: long episodes take a while to load.

    **Assumptions / when it fails**: what a task shows is a function of its reset's seed and of the actions since, bit for bit. A task
    that carries anything over a reset, or asks a clock or a random generator of its own, does not go on exactly; where the
    observation shows it, loading says so.

    Args:
        env: the environment.
        seed: of its resets and of exploration.
        device: where observations go.

    **Errors**: :class:`ConfigError` for another autoreset mode, which would begin episodes under seeds that nobody knows.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], seed: int, device: torch.device | str = "cpu") -> None:
        if env.metadata.get("autoreset_mode") != AutoresetMode.DISABLED:
            raise ConfigError(
                "the environment begins episodes by itself",
                where="GymCollector.env",
                mend="vectorise it with AutoresetMode.DISABLED",
            )
        self.env, self._streams = env, TensorStreams(seed, device)
        self.returns: list[float] = []
        self._episodes = np.zeros(env.num_envs, dtype=np.int64)
        self._running = np.zeros(env.num_envs)
        self._actions: list[list[NDArray[Any]]] = [[] for _ in range(env.num_envs)]
        self._observation = self._begin(np.ones(env.num_envs, dtype=np.bool_))

    def _begin(self, tasks: NDArray[np.bool_]) -> NDArray[Any]:
        """Begin the episodes of these tasks; returns what all tasks show."""
        seeds = Streams(self._streams.seed).bits(np.arange(tasks.size), self._episodes, Purpose.USERS) >> np.uint64(33)
        observation, _ = self.env.reset(seed=seeds.tolist(), options={"reset_mask": tasks})
        return np.array(observation)

    def collect(self, policy: Policy, step: int) -> Transitions:
        """One step of every task."""
        observation = self._seen(self._observation)
        action = policy.act(observation, self._streams, step=step)
        taken = action.value.cpu().numpy()
        following, reward, terminated, truncated, _ = self.env.step(taken)
        self._observation = np.array(following)
        next_observation = self._seen(following)
        self._running += reward
        for actions, row in zip(self._actions, taken, strict=True):
            actions.append(row)
        over = terminated | truncated
        if over.any():
            self.returns += self._running[over].tolist()
            self._running[over] = 0.0
            self._episodes += over
            self._actions = [[] if done else actions for actions, done in zip(self._actions, over, strict=True)]
            self._observation = self._begin(over)
        never = torch.zeros(len(reward), dtype=torch.bool, device=self._streams.device)
        return Transitions(
            observation=observation,
            action=action.value,
            reward=torch.tensor(reward, dtype=torch.float32, device=self._streams.device).unsqueeze(1),
            next_observation=next_observation,
            terminated=torch.tensor(terminated, device=self._streams.device),
            # a time limit cuts an episode that would go on: its next state is known
            truncated=never,
            session_end=never,
            behaviour_log_prob=action.log_prob,
        )

    def _seen(self, observation: NDArray[Any]) -> Observation:
        return Observation(features=torch.tensor(observation, dtype=torch.float32, device=self._streams.device))

    def state_dict(self) -> dict[str, Any]:
        """Episode numbers, the actions of the running episodes and what they led to, and returns of finished episodes."""
        shape = self.env.single_action_space.shape or ()
        return {
            "seed": self._streams.seed,
            "episodes": torch.tensor(self._episodes),
            "actions": [torch.tensor(np.array(actions)) if actions else torch.zeros(0, *shape) for actions in self._actions],
            "observation": torch.tensor(self._observation),
            "running": torch.tensor(self._running),
            "returns": list(self.returns),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict` by playing the running episodes again.

        **Errors**: :class:`CheckpointError` when the tasks do not come out where they were.
        """
        self._streams = TensorStreams(int(state["seed"]), self._streams.device)
        self._episodes, self._running = state["episodes"].numpy().copy(), state["running"].numpy().copy()
        self.returns = list(state["returns"])
        self._actions = [list(rows.numpy()) for rows in state["actions"]]
        if not np.array_equal(self._replay(), state["observation"].numpy(), equal_nan=True):
            raise CheckpointError(
                "the running episodes, played again, do not show what they showed",
                where="GymCollector.env",
                mend="resume with the same environment and version; if it is not a function of its seed and actions, start the run again",
            )
        self._observation = state["observation"].numpy().copy()

    def _replay(self) -> NDArray[Any]:
        longest = max(self._actions, key=len)
        start = np.array([len(longest) - len(actions) for actions in self._actions])
        for moment, idle in enumerate(longest):
            # who begins later is reset until then: what it does meanwhile leaves no trace
            if (start >= moment).any():
                self._begin(start >= moment)
            row = [actions[moment - s] if moment >= s else idle for actions, s in zip(self._actions, start, strict=True)]
            observation, _, terminated, truncated, _ = self.env.step(np.stack(row))
            if ((terminated | truncated) & (start <= moment)).any():
                return np.array([])
        return self._begin(start == len(longest)) if (start == len(longest)).any() else np.array(observation)
