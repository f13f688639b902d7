"""The calibrated simulator, scenario ``strong``, under drift: one method acts, and learns on the way, while the calendar goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from recrl.algorithms.auro import AURO
from recrl.algorithms.cem import CEM, CEMConfig
from recrl.algorithms.probes import linear_r2, value_correlation, value_silhouette
from recrl.algorithms.task import Task
from recrl.core.behaviours import BEHAVIOURS, unpack
from recrl.core.contracts import Observation, Transitions
from recrl.core.files import read_json, write_json
from recrl.core.torch.streams import TensorStreams
from recrl.pipeline.data import DataOptions, load_store
from recrl.pipeline.setting import Setting
from recrl.pipeline.simulate import platform_world
from recrl.policies.abstraction import AbstractedEncoder
from recrl.replay.ring import RingBuffer
from recrl.replay.samplers import UniformSampler
from recrl.reproductions.auro.calendar import Calendar, Choose, Day, chooser, flat, oracle, static
from recrl.reproductions.auro.learners import LEARNED, OBJECTIVE, Budget, learner_of
from recrl.reproductions.study import Cell
from recrl.training.online import UniformActions
from recrl_datasets import sessions
from simulators.config import WorldConfig
from simulators.drift import DriftConfig, DriftKind
from simulators.fit import FitConfig, FittedWorld, fit_world
from simulators.fusion import FusionScale
from simulators.toy import TOY_CONFIG, toy_world
from simulators.world import RetentionWorld

DRIFTS: Final[dict[str, DriftKind]] = {"none": "N0", "held": "N2", "weekly": "N3", "regimes": "N4"}
PERIOD: Final = {"held": 7, "regimes": 14}
_STATES: Final = 400
DEPLOYED: Final = 1_000_003
"""Added to a cell's seed: of the fresh users and the luck of the frozen policy, the same for every method of a seed."""
PROBED: Final = 500
"""Added to a cell's seed: of the drift's path and the users that ``phi`` is looked at with."""
SEARCHED_DAYS: Final = 3
LOGGED_SEED: Final = 2_000_003
"""Added to a cell's seed: of the users that the supervised ranker is fitted to."""
LEARNT_FROM: Final = {"click": 1.0, "long_view": 1.0, "like": 1.0, "hate": -1.0}
"""What an item's feedback counts for the supervised ranker: the signals that RLUR looks at, too."""
NOT_BELOW: Final = 1e-4
"""Days: by so little the recomputed mean value of an executed action may miss the actor's own, for float32."""

Build = Callable[[str, str, int], RetentionWorld]
"""Worlds by action kind, drift and seed of the drift."""


def builder(data: str, stores: Path, folder: Path, budget: Budget) -> Build:
    """Worlds on a simulator fitted to a log, once; the toy without ``data``."""
    last = max(budget.days + budget.deployed_days, budget.probe_days) + 60

    def options(base: WorldConfig, kind: str, drift: str, seed: int) -> WorldConfig:
        path = DriftConfig(DRIFTS[drift], seed=seed, period_days=PERIOD.get(drift))
        return replace(base, action_kind=kind, scenario="strong", horizon_days=last, truth=True, drift=path)  # type: ignore[arg-type]

    if not data:
        return lambda kind, drift, seed: toy_world(options(TOY_CONFIG, kind, drift, seed), OBJECTIVE)
    asked = DataOptions(data, stores=stores)
    setting = Setting(load_store(asked), asked)
    kept = folder / "simulator"
    if not (kept / "world.json").is_file():
        config = FitConfig.ratings() if setting.log.has("rating") else FitConfig()
        fit_world(setting.log, sessions=sessions(setting.log, rule=setting.session_rule), config=config).save(kept)
    fitted = FittedWorld.load(kept)
    return lambda kind, drift, seed: platform_world(
        setting, fitted, options(WorldConfig(pool_size=100), kind, drift, seed), objective=OBJECTIVE
    )


@dataclass(frozen=True)
class Drifting:
    """Cells of one drift and seed.

    Attributes:
        build: worlds.
        budget: what a cell may spend.
        folder: where what CEM has found is kept.
    """

    build: Build
    budget: Budget
    folder: Path

    def __call__(self, cell: Cell) -> dict[str, Any]:
        """What happened each day, the frozen policy's days with fresh users, what the guard did, and probes of AURO's ``phi``."""
        world = self.build("slate" if cell.method == "oracle" else "fusion_weights", cell.part, cell.seed)
        users = Calendar(world, self.budget.users, cell.seed)
        if cell.method in LEARNED:
            found, deployed = self._learned(world, users, cell)
        else:
            deployed = self._fixed(world, cell)
            found = {"days": [users.live(today, deployed) for today in range(self.budget.days)]}
        after = Calendar(world, self.budget.deployed_users, DEPLOYED + cell.seed, self.budget.days)
        later = [after.live(self.budget.days + k, deployed) for k in range(self.budget.deployed_days)]
        return {**found, "deployed": later, "users": after.by_user()}

    def _learned(self, world: RetentionWorld, users: Calendar, cell: Cell) -> tuple[dict[str, Any], Choose]:
        budget, streams = self.budget, TensorStreams(cell.seed)
        learner = learner_of(cell.method, world.n_features, world.action_spec, OBJECTIVE, cell.seed)
        warm, acting = chooser(UniformActions(world.action_spec), streams), chooser(learner.collect_policy(), streams)
        ring = RingBuffer(60_000)
        sampler, requests, updates = UniformSampler(ring, None, cell.seed), 0, 0
        metrics: dict[str, Tensor] = {}
        guarded: list[Tensor] = []
        days: list[Day] = []

        def take(batch: Transitions) -> None:
            nonlocal requests, updates
            if isinstance(learner, AURO) and len(days) >= budget.warmup_days:
                # of what was executed, whatever the guard says of itself
                chosen = batch.notes.get("guard_step", torch.full((len(batch),), torch.nan))
                guarded.append(torch.stack([chosen, learner.rise(batch.observation, batch.action)]))
            learner.observe(batch)
            ring.add(batch)
            requests += len(batch)
            while updates < requests // budget.per_update and len(days) >= budget.warmup_days:
                updates += 1
                with torch.enable_grad():
                    metrics.update(learner.update(sampler.sample(budget.batch, updates)).metrics)

        for today in range(budget.days):
            days.append(users.live(today, warm if today < budget.warmup_days else acting, take))
        told = {"days": days, "updates": updates, "metrics": {name: float(value) for name, value in metrics.items()}}
        if guarded:
            chosen, gain = torch.cat(guarded, dim=1)
            told["guard"] = {
                "acts": len(gain),
                "never_below": float((gain >= -NOT_BELOW).float().mean()),
                "least_gain": float(gain.min()),
                "gain": float(gain.mean()),
            } | ({} if chosen.isnan().any() else {"kept": float((chosen == 0).float().mean())})
        if cell.method == "auro":
            told["probe"] = probes(self.build, learner, cell.part, cell.seed, budget)
        return told, chooser(learner.policy(), streams, True)

    def _fixed(self, world: RetentionWorld, cell: Cell) -> Choose:
        if cell.method == "oracle":
            return oracle(world)
        if cell.method == "random":
            return chooser(UniformActions(world.action_spec), TensorStreams(cell.seed))
        if cell.method == "supervised":
            return static(supervised(self.build("fusion_weights", "none", 0), self.budget, cell.seed))
        if cell.method == "true worth":
            # what satisfaction is made of, which nobody outside knows, on the scale that the platform's scores are standardised by
            worth = torch.tensor(world.satisfaction.weights) * FusionScale.of(world.scorer).spread
            return static(worth / worth.abs().max())
        path = self.folder / f"cem-{cell.seed}.json"
        if not path.is_file():
            write_json(path, searched(self.build("fusion_weights", "none", 0), self.budget, cell.seed).tolist())
        return static(torch.tensor(read_json(path)))


def searched(world: RetentionWorld, budget: Budget, seed: int) -> Tensor:
    """Static weights by CEM on day-1 hazards, without drift; candidates of a generation share users and luck."""
    cem = CEM(CEMConfig(), Task(world.action_spec, item_vectors=torch.zeros(1, 2)), seed)
    for generation in range(budget.generations):
        cem.ask(budget.candidates, generation)
        returns = []
        for weights in cem.asked:
            users = Calendar(world, budget.search_users, 1_000 * seed + generation)
            days = [users.live(day, static(weights)) for day in range(SEARCHED_DAYS)]
            returns.append(sum(d["expected"] for d in days) / sum(d["sessions"] for d in days))
        cem.tell(torch.tensor(returns))
    return cem.mean


@torch.no_grad()
def supervised(world: RetentionWorld, budget: Budget, seed: int) -> Tensor:
    """Static weights of a ranker trained on feedback that random weights got before the first day, without drift.

    Ridge regression of what an item's feedback counts (``LEARNT_FROM``) on the platform's standardised predictions for it, the scores that
    fusion weights add up; the weights are the coefficients, the largest one 1 or -1.
    """
    streams, warm = TensorStreams(LOGGED_SEED + seed), UniformActions(world.action_spec)
    state = world.initial_state(world.users_numbered(torch.arange(budget.users), streams.seed), streams)
    scale, counts = FusionScale.of(world.scorer), torch.tensor([LEARNT_FROM.get(name, 0.0) for name in BEHAVIOURS])
    scores, labels = [], []
    for _ in range(budget.logged_requests):
        state = state[state.alive]
        action = warm.act(flat(world.observe(state)), streams, step=state.draw_step)
        after, outcome = world.transition(state, action.value, streams)
        scores.append(scale.standardised(world.scorer.scores(state.user, outcome.shown)).flatten(0, 1))
        labels.append(torch.from_numpy(unpack(outcome.feedback.numpy())).flatten(0, 1) @ counts)
        state = after
    x, y = torch.cat(scores).double(), torch.cat(labels).double()
    x, y = x - x.mean(0), y - y.mean()
    weights = torch.linalg.solve(x.T @ x + 1e-3 * len(x) * torch.eye(x.shape[1]), x.T @ y)
    return (weights / weights.abs().max()).float()


@torch.no_grad()
def probes(build: Build, learner: AURO, drift: str, seed: int, budget: Budget) -> dict[str, float]:
    """Of the trained and of an untrained ``phi``, on a path of its own: R^2 for the drift, and how states lie by value.

    The drift of a day is foretold from the mean of ``phi`` over that day's requests, so over users who acted, and whole periods from
    the others.
    """
    world = build("fusion_weights", drift, seed + PROBED)
    users, choose = Calendar(world, budget.probe_users, seed + PROBED), chooser(learner.policy(), TensorStreams(seed), True)
    fresh = learner_of("auro", world.n_features, world.action_spec, OBJECTIVE, seed + 77)
    acted: list[tuple[int, Tensor]] = []
    for today in range(budget.probe_days):
        seen: list[Tensor] = []
        users.live(today, choose, lambda batch, seen=seen: seen.append(batch.observation.features))  # type: ignore[misc]
        if seen:
            acted.append((today, torch.cat(seen)))
    days = np.array([day for day, _ in acted])
    some = torch.cat([states for _, states in acted])
    some = some[torch.linspace(0, len(some) - 1, min(_STATES, len(some))).long()]
    value, out = learner.values(Observation(features=some)).numpy(), {}
    for name, one in (("phi", learner), ("untrained", fresh)):
        encoder = one.policy().actor.encoder
        assert isinstance(encoder, AbstractedEncoder)
        if world.drift is not None:
            daily = np.stack([encoder.phi(states).mean(0).numpy() for _, states in acted])
            truth = world.drift.truth(torch.from_numpy(days).float()).numpy()
            out[f"r2_{name}"] = linear_r2(daily, truth, groups=days // world.config.drift.period)
        phi = encoder.phi(some).numpy()
        out[f"spearman_{name}"], out[f"silhouette_{name}"] = value_correlation(phi, value), value_silhouette(phi, value)
    return out
