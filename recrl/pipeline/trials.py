"""Evaluations while a learner acts: fresh users or episodes, a policy that acts deterministically, streams of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FlattenObservation, RescaleAction
from torch import Tensor

from recrl.core.contracts import Observation, Outcome, Policy
from recrl.core.errors import ConfigError, MissingDependencyError
from recrl.core.torch.streams import TensorStreams
from simulators.ab import METRICS
from simulators.ab.experiment import simulate_arm
from simulators.state import UserState
from simulators.world import RetentionWorld

_SHOWN = ("day1_retention", "return_gap", "churn_share", "active_days", "session_depth")
_EPISODE_STEPS = 1_000
# the evaluated users and episodes are others than the training's, whatever its seed
_EVALUATION_SEED = 1_000_003


class UsersEvaluation:
    """What fresh users do with a policy that acts deterministically; the same users with the same luck every time.

    ``eval_return`` is the undiscounted sum of the objective's main signal over a user's life, averaged over users; the others are metrics
    of A/B tests.

    Args:
        world: where they live.
        users: how many.
        days: until when.
        seed: of training; evaluations have users of their own.
        deterministic: act without drawing; a policy over single items of the whole catalogue would show one item over and over.
    """

    def __init__(self, world: RetentionWorld, users: int, days: int, seed: int, deterministic: bool = True) -> None:
        self._world, self._days, self._seed, self._deterministic = world, days, seed + _EVALUATION_SEED, deterministic
        self._users = world.population(users, self._seed)

    def __call__(self, policy: Policy) -> dict[str, float]:
        """Metrics of ``policy``."""
        metered = _Metered(self._world)
        streams = TensorStreams(self._seed, self._world.device)
        found = simulate_arm(metered, policy, self._users, self._days, streams, deterministic=self._deterministic)
        out = {"eval_return": float(metered.total) / self._users.numel()}
        for metric in METRICS:
            ratio = found.ratio(metric) if metric.name in _SHOWN else None
            if ratio is not None:
                out[f"eval_{metric.name}"] = float(ratio[0].sum() / ratio[1].sum())
        return out


class _Metered:
    """A world that adds up the main signal."""

    def __init__(self, world: RetentionWorld) -> None:
        self._world = world
        self.config, self.device, self.action_spec = world.config, world.device, world.action_spec
        self.population, self.initial_state, self.observe = world.population, world.initial_state, world.observe
        self.total = torch.zeros((), dtype=torch.float64, device=world.device)

    def transition(self, state: UserState, action: Tensor, streams: TensorStreams) -> tuple[UserState, Outcome]:
        """As the world does."""
        after, outcome = self._world.transition(state, action, streams)
        self.total += outcome.reward[:, 0].double().sum()
        return after, outcome


class TaskEvaluation:
    """Returns of whole episodes under a policy that acts deterministically; the same starts every time.

    Args:
        env: Gymnasium id of the task.
        episodes: how many, side by side.
        seed: of training; evaluations have starts of their own.
        device: where the policy lives.
    """

    def __init__(self, env: str, episodes: int, seed: int, device: str = "cpu") -> None:
        self._env, self._seed, self._device = make_task(env, episodes), seed + _EVALUATION_SEED, device

    def __call__(self, policy: Policy) -> dict[str, float]:
        """Mean return and length, and the spread of returns."""
        streams = TensorStreams(self._seed, self._device)
        seen, _ = self._env.reset(seed=self._seed)
        running = np.ones(self._env.num_envs, dtype=bool)
        total, length = np.zeros(running.size), np.zeros(running.size)
        while running.any():
            observation = Observation(features=torch.as_tensor(seen, dtype=torch.float32, device=self._device))
            action = policy.act(observation, streams, deterministic=True).value
            seen, reward, terminated, truncated, _ = self._env.step(action.cpu().numpy())
            total += reward * running
            length += running
            running &= ~(terminated | truncated)
        return {"eval_return": float(total.mean()), "eval_return_spread": float(total.std()), "eval_episode_length": float(length.mean())}


def make_task(env: str, copies: int, autoreset: AutoresetMode = AutoresetMode.SAME_STEP) -> SyncVectorEnv:
    """Copies of a Gymnasium task side by side, with flat observations and actions in [-1, 1]; one without a time limit gets 1,000 steps.

    **Errors**: :class:`ConfigError` for an unknown task, or one whose actions are not bounded vectors; :class:`MissingDependencyError`
    where it needs a package that is not installed.
    """
    try:
        limit = gymnasium.spec(env).max_episode_steps or _EPISODE_STEPS
        first = gymnasium.make(env, max_episode_steps=limit)
    except gymnasium.error.DependencyNotInstalled as error:
        raise MissingDependencyError(f"{env} needs a package: {error}", where="--env", mend="install it, or choose another task") from None
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise ConfigError(
            f"no task {env!r}: {str(error).splitlines()[0]}", where="--env", mend="give an id that Gymnasium registers, such as Pendulum-v1"
        ) from None
    space = first.action_space
    if not (isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1 and np.isfinite([space.low, space.high]).all()):
        raise ConfigError(
            f"the actions of {env} are {space}, not bounded vectors", where="--env", mend="choose a task of continuous control"
        )
    first.close()

    def build() -> gymnasium.Env[Any, Any]:
        return RescaleAction(FlattenObservation(gymnasium.make(env, max_episode_steps=limit)), np.float32(-1.0), np.float32(1.0))

    makers: list[Callable[[], gymnasium.Env[Any, Any]]] = [build] * copies
    return SyncVectorEnv(makers, autoreset_mode=autoreset)
