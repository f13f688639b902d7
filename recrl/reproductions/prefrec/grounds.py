"""Worlds in which PrefRec is tried: the reference environment of its checks, and the retention simulator; both seen as flat features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recrl.algorithms.cem import CEM, CEMConfig
from recrl.algorithms.task import Task
from recrl.core.contracts import ActionSpec, Observation, Outcome, Transitions, World
from recrl.core.files import read_json, write_json
from recrl.core.objective import Constraint, Objective, Signal
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.pipeline.data import DataOptions, load_store
from recrl.pipeline.setting import Setting
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig
from recrl.replay.sessions import Int64, Segments
from recrl_datasets import sessions
from simulators.config import WorldConfig
from simulators.fidelity.prefrec import PrefRecConfig, PrefRecWorld
from simulators.fit import FitConfig, FittedWorld, fit_world
from simulators.toy import TOY_CONFIG, toy_world

NOISE = 0.3
"""Spread of the logging policies around their means."""
LONG_VIEWS, MARKED_DOWN, HEADROOM = 0.6, (0.0, 0.2, 0.4, 0.6, 0.8), 0.1
"""The platform of :func:`retention`: its weight of predicted long views, what it may take from clicks, and what must be there to gain."""
_CANDIDATES, _TRIERS = 25, 5
_CHOOSERS, _CHOOSING_REQUESTS = 150, 150_000
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


def retention(seed: int, users: int, fresh: int, data: str, stores: Path, kept: Path) -> Ground:
    """The retention simulator with fusion weights as actions, satisfaction mattering much (``strong``), and headroom.

    The platform's predictions are those of the fitted model itself, so that ranking by predicted clicks or long views leaves nothing to
    gain. This platform ranks by long views and marks clicks down, as one does that is afraid of click bait; how much, is the first of
    :data:`MARKED_DOWN` that leaves :data:`HEADROOM` (:func:`marked_down`).

    Args:
        seed: of users.
        users: who left the log.
        fresh: who try policies.
        data: the log that tastes are fitted to, once; ``toy`` for a self-made catalogue.
        stores: where prepared logs live.
        kept: where the fit and the choice of the platform's weights are kept.
    """
    objective = Objective(Signal("return"), (Constraint(Signal("click"), "at_least"),))
    if data == "toy":
        world = toy_world(replace(TOY_CONFIG, truth=False), objective)
    else:
        config = WorldConfig(pool_size=100, scenario="strong", truth=False)
        world = _fitted(data, stores, kept / f"world-{data}").world(config, objective=objective)
    ground = Ground(
        world,
        constant(_weights(0.0)),
        world.population(users, seed),
        world.population(fresh, seed, first=_FIRST_FRESH),
        features=world.n_features,
        click=1,
        returns=0,
    )
    file = kept / f"headroom-{data}.json"
    if not file.is_file():
        write_json(file, marked_down(ground, world.population(_CHOOSERS, first=2 * _FIRST_FRESH)))
    return replace(ground, centre=constant(_weights(read_json(file)["marked_down"])))


def constant(action: Tensor) -> Callable[[Any], Tensor]:
    """The same action (d,) in every state, or one for each of the states (B, d)."""
    return lambda state: action.expand(len(state), -1)


def marked_down(ground: Ground, users: Tensor) -> dict[str, Any]:
    """How much a platform marks clicks down whose mean action leaves headroom: the first of :data:`MARKED_DOWN` beside which the best
    static weights (CEM for the shortest gap) make sessions deeper and gaps shorter, both by :data:`HEADROOM`; the last where none does.

    No learner is asked. Returns ``marked_down``, ``best`` (weights) with ``best_reaches``, and ``tried`` (what each one reaches).
    """
    streams = TensorStreams(0)
    best, requests = best_static(ground, users, lambda sums: -means(sums)["gap_days"], _CHOOSING_REQUESTS, 0)
    reached = means(lives(ground, constant(best), users, streams).sum(0))
    tried: dict[str, dict[str, float]] = {}
    for weight in MARKED_DOWN:
        found = means(lives(ground, constant(_weights(weight)), users, streams).sum(0))
        tried[str(weight)] = {name: float(value) for name, value in found.items()}
        if reached["depth"] >= (1 + HEADROOM) * found["depth"] and reached["gap_days"] <= (1 - HEADROOM) * found["gap_days"]:
            break
    told = {name: float(value) for name, value in reached.items()}
    return {"marked_down": weight, "best": best.tolist(), "best_reaches": told, "requests": requests, "tried": tried}


def _weights(marked_down: float) -> Tensor:
    """Of clicks and long views; 0 for the other predictions."""
    weights = torch.zeros(7)
    weights[0], weights[1] = -marked_down, LONG_VIEWS
    return weights


@torch.no_grad()
def lives(ground: Ground, act: Callable[[Any], Tensor], users: Tensor, streams: TensorStreams) -> Tensor:
    """What users (B,) do with the actions of ``act(state)``, (B, 6) float64: sessions, requests in them, days away, returns on the next
    day, click rates, requests.
    """
    state = ground.initial_state(users, streams)
    total = torch.zeros(len(users), 6, dtype=torch.float64)
    while bool(state.alive.any()):
        before = state
        state, outcome = ground.transition(state, act(state), streams)
        ended, gap, click = outcome.session_end, outcome.gap_days, outcome.reward[:, ground.click]
        counts = (ended, ended * (before.requests + 1), ended * gap, ended & (gap == 1.0), before.alive * click, before.alive)
        total += torch.stack([part.double() for part in counts], dim=1)
    return total


def means(sums: Tensor) -> dict[str, Tensor]:
    """Requests a session, days away, share of sessions after which the user is back the next day, click rate, of sums (..., 6)."""
    ended, deep, away, back, clicks, made = sums.unbind(-1)
    return {"depth": deep / ended, "gap_days": away / ended, "day1": back / ended, "click_rate": clicks / made}


def best_static(ground: Ground, users: Tensor, value: Callable[[Tensor], Tensor], requests: int, seed: int) -> tuple[Tensor, int]:
    """The best action for everybody as CEM finds it with so many ``requests`` of ``users``; 25 candidates a generation, the same five users
    with the same luck for each, other users in the next.

    Args:
        ground: where they live.
        users: who try candidates, in turn.
        value: from sums of lives (C, 6) to what counts (C,).
        requests: no generation is begun once so many have been made.
        seed: of the search and of the users' luck.

    Returns:
        The action (d,), and the requests made.
    """
    flat = ActorConfig(EncoderConfig("flat", features=ground.features))
    search = CEM(CEMConfig(flat, elite=0.2), Task(ground.action_spec, Objective(Signal("return"))), seed)
    streams, made, generation = TensorStreams(20_000 + seed), 0, 0
    while made < requests:
        search.ask(_CANDIDATES, generation)
        who = users[(generation * _TRIERS + torch.arange(_TRIERS)) % len(users)]
        action = search.asked.repeat_interleave(_TRIERS, 0)
        found = lives(ground, constant(action), who.repeat(_CANDIDATES), streams).view(_CANDIDATES, _TRIERS, 6).sum(1)
        search.tell(value(found).numpy())
        made, generation = made + int(found[:, 5].sum()), generation + 1
    return search.mean, made


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
