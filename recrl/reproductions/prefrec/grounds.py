"""Where PrefRec is tried: the reference environment of its checks, and the retention simulator; both seen as flat features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recrl.core.contracts import ActionSpec, Observation, Outcome, Transitions, World
from recrl.core.objective import Constraint, Objective, Signal
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.pipeline.data import DataOptions, load_store
from recrl.pipeline.setting import Setting
from recrl.replay.sessions import Int64, Segments
from recrl_datasets import sessions
from simulators.config import WorldConfig
from simulators.fidelity.prefrec import PrefRecConfig, PrefRecWorld
from simulators.fit import FitConfig, FittedWorld, fit_world
from simulators.toy import TOY_CONFIG, toy_world

NOISE = 0.3
"""Spread of the logging policies around their means."""
_FIRST_FRESH = 1_000_000
_LEAST_DEVIATION = 1e-3


@dataclass(eq=False)
class Ground:
    """A world whose users leave a log, and in which fresh ones try policies.

    Attributes:
        world: where they live.
        centre: mean of the logging policy in a state, ``(B, d)``; its noise is Gaussian with :data:`NOISE`.
        logged: ids of the users who left the log.
        fresh: those who try policies.
        features: width of what is seen of a state.
        click: column of the click rate in the world's rewards.
        returns: column of minus the return gap.
        best: the action that suits users best in a state, where the world tells, ``(B, d)``.
        action_spec: what a policy decides.
    """

    world: World
    centre: Callable[[Any], Tensor]
    logged: Tensor
    fresh: Tensor
    features: int
    click: int
    returns: int
    best: Callable[[Any], Tensor] | None = None
    action_spec: ActionSpec = field(init=False)

    def __post_init__(self) -> None:
        self.action_spec = self.world.action_spec

    def initial_state(self, users: Any, streams: Any) -> Any:
        """State of users."""
        return self.world.initial_state(users, streams)

    def observe(self, state: Any) -> Observation:
        """Flat features and the user, without history."""
        seen = self.world.observe(state)
        return Observation(features=seen.features, user=seen.user)

    def transition(self, state: Any, action: Any, streams: Any) -> tuple[Any, Outcome]:
        """One request."""
        return self.world.transition(state, action, streams)

    def act(self, state: Any, streams: TensorStreams) -> Tensor:
        """The logging policy: its mean and noise, within the bounds."""
        spec = self.action_spec
        noise = streams.normal(state.uid, state.counter, Purpose.EXPLORATION, spec.shape)
        return (self.centre(state) + NOISE * noise).clamp(spec.low, spec.high)


def environment(seed: int, users: int, fresh: int) -> Ground:
    """:class:`simulators.fidelity.prefrec.PrefRecWorld` with a seed's two maps."""
    world = PrefRecWorld(PrefRecConfig(seed=seed, noise=NOISE))
    return Ground(
        world,
        lambda state: world.logging_mean(state.taste),
        world.population(users),
        world.population(fresh, first=_FIRST_FRESH),
        features=14,
        click=0,
        returns=3,
        best=lambda state: world.suiting(state.taste),
    )


def simulator(seed: int, users: int, fresh: int, data: str, stores: Path, kept: Path) -> Ground:
    """The retention simulator with fusion weights as actions, satisfaction mattering much (``strong``).

    The log's policy ranks by predicted clicks (weight .6) and a little by long views (.2). The platform's predictions are those of the
    fitted model itself.

    Args:
        seed: of users.
        users: who left the log.
        fresh: who try policies.
        data: the log that tastes are fitted to, once; ``toy`` for a self-made catalogue.
        stores: where prepared logs live.
        kept: where the fit is kept.
    """
    objective = Objective(Signal("return"), (Constraint(Signal("click"), "at_least"),))
    if data == "toy":
        world = toy_world(replace(TOY_CONFIG, truth=False), objective)
    else:
        config = WorldConfig(pool_size=100, scenario="strong", truth=False)
        world = _fitted(data, stores, kept / f"world-{data}").world(config, objective=objective)
    centre = torch.zeros(world.action_spec.shape)
    centre[:2] = torch.tensor([0.6, 0.2])
    return Ground(
        world,
        lambda state: centre.expand(len(state), -1),
        world.population(users, seed),
        world.population(fresh, seed, first=_FIRST_FRESH),
        features=world.n_features,
        click=1,
        returns=0,
    )


def _fitted(data: str, stores: Path, folder: Path) -> FittedWorld:
    if not (folder / "world.json").is_file():
        options = DataOptions(data, stores=stores)
        setting = Setting(load_store(options), options)
        config = FitConfig.ratings() if setting.log.has("rating") else FitConfig()
        fit_world(setting.log, sessions=sessions(setting.log, rule=setting.session_rule), config=config).save(folder)
    return FittedWorld.load(folder)


@dataclass(frozen=True, eq=False)
class Scale:
    """Features in deviations from their means over a log, ``(features,)`` each; the deviations are at least .001."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Scale:
        """That of rows of features, ``(n, features)``."""
        return cls(features.mean(0), features.std(0) + _LEAST_DEVIATION)

    def __call__(self, observation: Observation) -> Observation:
        """The same observation, its features standardised."""
        assert observation.features is not None
        return replace(observation, features=(observation.features - self.mean) / self.deviation)


class Seen:
    """A log as learners see it: standardised features, and where asked for the actions of other rows.

    Args:
        log: trajectories of users.
        scale: of the features.
        action: of every row, ``(n, d)``, instead of its own.
    """

    def __init__(self, log: Segments, scale: Scale, action: Tensor | None = None) -> None:
        self._log, self._scale, self._action = log, scale, action

    def lengths(self) -> Int64:
        """Rows of each user."""
        return self._log.lengths()

    def gather(self, segment: Int64, start: Int64, length: Int64) -> Transitions:
        """Stretches of the log."""
        batch = self._log.gather(segment, start, length)
        action = batch.action if self._action is None else self._action[batch.index]
        return replace(
            batch, observation=self._scale(batch.observation), next_observation=self._scale(batch.next_observation), action=action
        )
