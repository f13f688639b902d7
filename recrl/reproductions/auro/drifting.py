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
from recrl.core.contracts import Observation, Transitions
from recrl.core.files import read_json, write_json
from recrl.core.torch.streams import TensorStreams
from recrl.pipeline.data import DataOptions, load_store
from recrl.pipeline.setting import Setting
from recrl.pipeline.simulate import platform_world
from recrl.policies.abstraction import AbstractedEncoder
from recrl.replay.ring import RingBuffer
from recrl.replay.samplers import UniformSampler
from recrl.reproductions.auro.calendar import Calendar, Choose, Day, chooser, oracle, static
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
_DEPLOYED_SEED: Final = 1_000_003  # the same fresh users with the same luck for every method
_PROBED: Final = 500  # paths of their own for probes: many short segments
_SEARCHED_DAYS: Final = 3

Build = Callable[[str, str, int], RetentionWorld]
"""Worlds by action kind, drift and seed of the drift."""


def builder(data: str, stores: Path, folder: Path, budget: Budget) -> Build:
    """Worlds on a simulator fitted to a log, once; the toy without ``data``."""
    last = budget.days + budget.deployed_days + 60

    def options(base: WorldConfig, kind: str, drift: str, seed: int) -> WorldConfig:
        switching = seed >= _PROBED and drift in PERIOD
        path = DriftConfig(DRIFTS[drift], seed=seed, period_days=2 if switching else None)
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
        after = Calendar(world, self.budget.deployed_users, _DEPLOYED_SEED, self.budget.days)
        later = [after.live(self.budget.days + k, deployed) for k in range(self.budget.deployed_days)]
        return {**found, "deployed": later}

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
            learner.observe(batch)
            ring.add(batch)
            requests += len(batch)
            if "guard_step" in batch.notes:
                guarded.append(torch.stack([batch.notes["guard_step"], batch.notes["guard_gain"]]))
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
                "never_below": float((gain >= 0).float().mean()),
                "least_gain": float(gain.min()),
                "gain": float(gain.mean()),
                "kept": float((chosen == 0).float().mean()),
            }
        if cell.method == "auro":
            told["probe"] = probes(self.build, learner, cell.part, cell.seed, budget.probe_days)
        return told, chooser(learner.policy(), streams, True)

    def _fixed(self, world: RetentionWorld, cell: Cell) -> Choose:
        if cell.method == "oracle":
            return oracle(world)
        if cell.method == "random":
            return chooser(UniformActions(world.action_spec), TensorStreams(cell.seed))
        if cell.method == "predicted":
            # the stated worth of each behaviour, on the scale that the platform's scores are standardised by
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
            days = [users.live(day, static(weights)) for day in range(_SEARCHED_DAYS)]
            returns.append(sum(d["expected"] for d in days) / sum(d["sessions"] for d in days))
        cem.tell(torch.tensor(returns))
    return cem.mean


@torch.no_grad()
def probes(build: Build, learner: AURO, drift: str, seed: int, length: int) -> dict[str, float]:
    """Of the trained and of an untrained ``phi``, on a path of its own: R^2 of the daily mean for the drift, and how states lie by value.

    Segments, of two days or, where the drift has none, single days in a row of two, are foretold from the others.
    """
    world = build("fusion_weights", drift, seed + _PROBED)
    users, choose = Calendar(world, 64, seed + _PROBED), chooser(learner.policy(), TensorStreams(seed), True)
    fresh = learner_of("auro", world.n_features, world.action_spec, OBJECTIVE, seed + 77)
    daily_states: list[Tensor] = []
    truth, out = [], {}
    for today in range(length):
        users.live(today, choose)
        daily_states.append(world.observe(users.state).features)
        if world.drift is not None:
            truth.append(world.drift.truth(torch.tensor([float(today)]))[0].tolist())
    last = torch.cat(daily_states[-5:])[:400]
    value = learner.values(Observation(features=last)).numpy()
    for name, one in (("phi", learner), ("untrained", fresh)):
        encoder = one.policy().actor.encoder
        assert isinstance(encoder, AbstractedEncoder)
        phi = encoder.phi
        if truth:
            daily = np.stack([phi(x).mean(0).numpy() for x in daily_states])
            out[f"r2_{name}"] = linear_r2(daily, np.array(truth), groups=np.arange(length) // 2)
        out[f"spearman_{name}"] = value_correlation(phi(last).numpy(), value)
        out[f"silhouette_{name}"] = value_silhouette(phi(last).numpy(), value)
    return out
