"""Collectors: users or control tasks side by side, stepped by a policy, as transitions with their true next states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from recrl.core.contracts import Observation, Policy, Stateful, Transitions
from recrl.core.errors import ConfigError
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
        self._slots, self._lives = users, torch.zeros(users, dtype=torch.int64, device=world.device)
        self._state = world.initial_state(self._ids(), self._streams)

    def _ids(self) -> torch.Tensor:
        numbers = self._lives.cpu().numpy() * self._slots + np.arange(self._slots)
        return self.world.users_numbered(numbers, self._streams.seed)

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
    """Control tasks of a Gymnasium vector environment (autoreset ``SAME_STEP``) with flat observations and one reward.

    Its own state is not restored on resume: a resumed run goes on with fresh episodes.

    Args:
        env: the environment.
        seed: of its resets and of exploration.

    **Errors**: :class:`ConfigError` for another autoreset mode, which would hide final observations.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], seed: int) -> None:
        if env.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
            raise ConfigError(
                "the environment does not reset in the same step",
                where="GymCollector.env",
                mend="vectorise it with AutoresetMode.SAME_STEP",
            )
        self.env, self._streams = env, TensorStreams(seed)
        self._observation, _ = env.reset(seed=seed)
        self.returns: list[float] = []
        self._running = np.zeros(env.num_envs)

    def collect(self, policy: Policy, step: int) -> Transitions:
        """One step of every task."""
        observation = Observation(features=torch.as_tensor(self._observation, dtype=torch.float32))
        action = policy.act(observation, self._streams, step=step)
        following, reward, terminated, truncated, infos = self.env.step(action.value.numpy())
        final = following.copy()
        for k in np.flatnonzero(terminated | truncated):
            final[k] = infos["final_obs"][k]
        self._running += reward
        self.returns += self._running[terminated | truncated].tolist()
        self._running[terminated | truncated] = 0.0
        self._observation = following
        never = torch.zeros(len(reward), dtype=torch.bool)
        return Transitions(
            observation=observation,
            action=action.value,
            reward=torch.as_tensor(reward, dtype=torch.float32).unsqueeze(1),
            next_observation=Observation(features=torch.as_tensor(final, dtype=torch.float32)),
            terminated=torch.as_tensor(terminated),
            truncated=never,
            session_end=never,
            behaviour_log_prob=action.log_prob,
        )

    def state_dict(self) -> dict[str, Any]:
        """Returns of finished episodes."""
        return {"returns": list(self.returns)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.returns = list(state["returns"])
