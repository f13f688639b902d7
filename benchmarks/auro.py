"""AURO under drift in the calibrated simulator (`strong`), and in its own published environment, beside baselines and ablations.

Users share one calendar: each day those who are back live through their sessions, the churned are replaced the next day. Drift `held`
(N2), `weekly` (N3), `regimes` (N4), and none. A learner acts from day 3 on (random before) and learns on the way, an update every 16
requests; the reward is minus the days away, undiscounted within a session and .9 across. It sees the flat observation: the platform's user
vector, running rates of the seven behaviours, the clock. After the last day its policy, frozen and without exploring, lives 14 more days
with fresh users, the same ones with the same luck for every method.

    td3, oac, escp    no abstraction; optimistic shift; context by the determinant loss with the calendar week as environment
    rlur              immediate critic too (click, long view, like, hate) and novelty
    auro              all of it; `-phi` without the abstraction, `-loss` with phi trained by the critics alone, `-guard` with Gaussian noise
    cem               static weights found on sessions without drift; `predicted`: static, the stated worth of each behaviour
    oracle            each slate greedy in the true expected satisfaction of the day; no proved bound over whole lives

P(1) is the mean of the day-1 hazards that returns are drawn from. Regret: the oracle's P(1) of a day less the method's.
Recovery: days after a switch until the mean regret of three days is back within .01 of that of the five days before, 5 at most; area: the
sum over 7 days of what it is above.

The published environment: 64 users in step, sessions of 10 requests, m held for 1,000 steps, ARD = expected return day; `least`: weights -1
for all behaviours, which elicits the least feedback. Cells are JSON files under --out; a run that was stopped goes on.

python benchmarks/auro.py --json
python benchmarks/auro.py --speed 20          # updates a core-second
python benchmarks/auro.py --quick --json      # the toy world, one seed, a minute or two
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from recrl.algorithms.abstraction import AbstractionConfig
from recrl.algorithms.auro import AURO, AUROConfig, ExplorationConfig
from recrl.algorithms.cem import CEM, CEMConfig
from recrl.algorithms.escp import ESCP, ESCPConfig
from recrl.algorithms.oac import OAC, OACConfig
from recrl.algorithms.parity.auro import ShippedAURO, ShippedAUROConfig
from recrl.algorithms.probes import linear_r2, value_correlation, value_silhouette
from recrl.algorithms.rlur import RLUR, RLURConfig
from recrl.algorithms.task import Task
from recrl.algorithms.td3 import TD3, TD3Config
from recrl.core.contracts import Action, ActionSpec, Observation, Transitions
from recrl.core.files import read_json, write_json
from recrl.core.objective import Constraint, Objective, Signal
from recrl.core.torch.streams import TensorStreams
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig
from recrl.replay.ring import RingBuffer
from recrl.replay.samplers import UniformSampler
from recrl.training.online import UniformActions
from simulators.config import WorldConfig
from simulators.drift import DriftConfig
from simulators.fidelity.auro import AuroConfig, AuroWorld
from simulators.fidelity.users import StandInUsers
from simulators.state import UserState
from simulators.toy import TOY_CONFIG, toy_world
from simulators.world import RetentionWorld

DRIFTS = {"none": "N0", "held": "N2", "weekly": "N3", "regimes": "N4"}
PERIOD = {"held": 7, "regimes": 14}
FIXED = ("random", "predicted", "cem", "oracle")
LEARNED = ("td3", "rlur", "auro", "auro-phi", "auro-loss", "auro-guard", "oac", "escp")
PUBLISHED = ("least", "cem", "td3", "rlur", "auro", "auro-phi", "auro-loss", "auro-guard", "oac", "escp", "shipped")
PUBLISHED_DRIFTS, PROBED = ("held",), 500
RETURN = Signal("return", discount_within=1.0, discount_across=0.9)
NOW = {"click": "at_least", "long_view": "at_least", "like": "at_least", "hate": "at_most"}
OBJECTIVE = Objective(RETURN, tuple(Constraint(Signal(n, 1.0, 0.9, 0.9), d) for n, d in NOW.items()))  # type: ignore[arg-type]
DEPLOYED_SEED, WARMUP_DAYS, WARMUP_STEPS, DEPLOYED_DAYS, PER_UPDATE = 1_000_003, 3, 20, 14, 16
Choose = Callable[[UserState, Observation], Action]


@dataclass(frozen=True)
class Budget:
    """What each cell may spend."""

    users: int = 64
    days: int = 56
    deployed_users: int = 150
    steps: int = 2_000
    generations: int = 6
    candidates: int = 10


QUICK = Budget(users=24, days=10, deployed_users=24, steps=60, generations=2, candidates=4)


# ---------------------------------------------------------------- learners


def learner_of(name: str, features: int, spec: Any, objective: Objective, seed: int) -> Any:
    """A learner by its name in the tables, all with the same networks and rates."""
    actor = ActorConfig(EncoderConfig("flat", features=features), (64, 64), exploration=0.1)
    common: dict[str, Any] = {"actor": actor, "critic_hidden": (64, 64), "actor_learning_rate": 3e-4, "critic_learning_rate": 1e-3}
    alone = Task(spec, Objective(objective.main))
    abstraction = AbstractionConfig(hidden=(64,), every=2, learning_rate=1e-3)
    variants = {
        "auro": {},
        "auro-phi": {"abstraction": replace(abstraction, size=0)},
        "auro-loss": {"abstraction": replace(abstraction, loss="none")},
        "auro-guard": {"explore": ExplorationConfig(candidates=1)},
    }
    if name in variants:
        return AURO(AUROConfig(**common, **{"abstraction": abstraction, **variants[name]}), alone, seed)
    if name == "rlur":
        return RLUR(RLURConfig(**common), Task(spec, objective), seed)
    if name == "escp":
        return ESCP(ESCPConfig(**common, context=replace(abstraction, loss="determinant")), alone, seed)
    if name == "shipped":
        return ShippedAURO(ShippedAUROConfig(actor, (64, 64), abstraction), alone, seed)
    return (OAC(OACConfig(**common), alone, seed)) if name == "oac" else TD3(TD3Config(**common), alone, seed)


def flat(observation: Observation) -> Observation:
    """The flat view alone."""
    return Observation(features=observation.features, user=observation.user)


# ---------------------------------------------------------------- the calibrated simulator


class Calendar:
    """Users side by side on one calendar.

    Args:
        world: where they live.
        users: how many.
        seed: of users and luck.
        today: the first day.
    """

    def __init__(self, world: RetentionWorld, users: int, seed: int, today: int = 0) -> None:
        self.world, self._streams, self._next = world, TensorStreams(seed), users
        self.state = self._fresh(torch.arange(users), today)

    def _fresh(self, numbers: Tensor, today: int) -> UserState:
        state = self.world.initial_state(self.world.users_numbered(numbers, self._streams.seed), self._streams)
        return replace(state, day=state.day + today)

    def _put(self, index: Tensor, rows: UserState) -> None:
        self.state = UserState(*(getattr(self.state, f.name).index_copy(0, index, getattr(rows, f.name)) for f in fields(UserState)))

    @torch.no_grad()
    def live(self, today: int, choose: Choose, take: Callable[[Transitions], None] | None = None) -> dict[str, float]:
        """One day of everybody; ``take`` gets the transitions of each request."""
        told = dict.fromkeys(("requests", "sessions", "next_day", "expected", "returns", "gap_days"), 0.0)
        while len(index := (self.state.alive & (self.state.day < today + 1)).nonzero().squeeze(1)):
            before = self.state[index]
            seen = self.world.observe(before)
            action = choose(before, seen)
            after, outcome = self.world.transition(before, action.value, self._streams)
            self._put(index, after)
            ends, back = outcome.session_end, outcome.session_end & ~outcome.terminated
            hazard = outcome.truth["return_hazards"][:, 0]
            counts = (torch.ones_like(hazard), ends, outcome.gap_days == 1, torch.where(ends, hazard, 0.0), back, back * outcome.gap_days)
            for name, values in zip(told, counts, strict=True):
                told[name] += float(values.sum())
            if take is not None:
                never, notes = torch.zeros_like(ends), {**action.notes, "environment": torch.full_like(index, today // 7)}
                then = flat(self.world.observe(after))
                take(
                    Transitions(
                        flat(seen), action.value, outcome.reward, then, outcome.terminated, never, ends, action.log_prob, notes=notes
                    )
                )
        if len(gone := (~self.state.alive).nonzero().squeeze(1)):
            self._put(gone, self._fresh(torch.arange(self._next, self._next + len(gone)), today + 1))
            self._next += len(gone)
        return told


def chooser(policy: Any, streams: TensorStreams, deterministic: bool = False) -> Choose:
    return lambda state, seen: policy.act(flat(seen), streams, step=state.draw_step, deterministic=deterministic)


def static(weights: Tensor) -> Choose:
    return lambda state, seen: Action(weights.expand(len(state), -1))


def oracle(world: RetentionWorld) -> Choose:
    """The slate of the highest true expected satisfaction on the day."""
    response, worth = world.response, torch.tensor(world.satisfaction.weights)

    def choose(state: UserState, seen: Observation) -> Action:
        logits = response.logits(state.user, seen.candidates)
        shift = None if world.drift is None else world.drift.response_shift(state.day)
        chances = response.marginals(logits if shift is None else logits + shift.unsqueeze(1))
        return Action(seen.candidates.gather(1, (chances @ worth).topk(world.config.shown, dim=1).indices))

    return choose


Build = Callable[[str, str, int], RetentionWorld]


def builder(data: str, out: Path, budget: Budget) -> Build:
    """Worlds by action kind, drift and drift seed; the toy without ``data``."""
    last = budget.days + DEPLOYED_DAYS + 60

    def options(base: WorldConfig, kind: str, drift: str, seed: int) -> WorldConfig:
        # paths of their own for probes: many short segments
        switching = seed >= PROBED and drift in PERIOD
        path = DriftConfig(drift, seed=seed, period_days=2 if switching else None)  # type: ignore[arg-type]
        return replace(base, action_kind=kind, scenario="strong", horizon_days=last, truth=True, drift=path)  # type: ignore[arg-type]

    if not data:
        return lambda kind, drift, seed: toy_world(options(TOY_CONFIG, kind, drift, seed), OBJECTIVE)
    from recrl.pipeline.data import DataOptions, load_store
    from recrl.pipeline.setting import Setting
    from recrl.pipeline.simulate import platform_world
    from recrl_datasets import sessions
    from simulators.fit import FitConfig, FittedWorld, fit_world

    setting = Setting(load_store(DataOptions(data)), DataOptions(data))
    if not (out / "simulator" / "world.json").is_file():
        config = FitConfig.ratings() if setting.log.has("rating") else FitConfig()
        fit_world(setting.log, sessions=sessions(setting.log, rule=setting.session_rule), config=config).save(out / "simulator")
    fitted = FittedWorld.load(out / "simulator")
    return lambda kind, drift, seed: platform_world(
        setting, fitted, options(WorldConfig(pool_size=100), kind, drift, seed), objective=OBJECTIVE
    )


def searched(world: RetentionWorld, budget: Budget, seed: int) -> Tensor:
    """Static weights by CEM on day-1 hazards over 4 days, every candidate with the same users and luck."""
    cem = CEM(CEMConfig(), Task(world.action_spec, item_vectors=torch.zeros(1, 2)), seed)
    for generation in range(budget.generations):
        cem.ask(budget.candidates, generation)
        returns = []
        for weights in cem.asked:
            users = Calendar(world, 48, 1_000 * seed + generation)
            days = [users.live(day, static(weights)) for day in range(4)]
            returns.append(sum(d["expected"] for d in days) / sum(d["sessions"] for d in days))
        cem.tell(torch.tensor(returns))
    return cem.mean


def fixed(build: Build, drift: str, method: str, seed: int, budget: Budget, out: Path) -> Choose:
    """What acts without learning on the way; CEM searches once a seed."""
    world = build("fusion_weights", "none", 0)
    if method == "random":
        return chooser(UniformActions(world.action_spec), TensorStreams(seed))
    if method == "oracle":
        return oracle(build("slate", drift, seed))
    if method == "predicted":
        worth = torch.tensor(world.satisfaction.weights) * world._ranker.spread
        return static(worth / worth.abs().max())
    path = out / f"cem-{seed}.json"
    if not path.is_file():
        write_json(path, searched(world, budget, seed).tolist())
    return static(torch.tensor(read_json(path)))


def drift_cell(build: Build, drift: str, method: str, seed: int, budget: Budget, out: Path) -> dict[str, Any]:
    """One method under one path of the drift: what happened each day, the frozen policy's 14 days, probes of phi."""
    world = build("slate" if method == "oracle" else "fusion_weights", drift, seed)
    users, streams = Calendar(world, budget.users, seed), TensorStreams(seed)
    learner = None
    if method in FIXED:
        acting = deployed = fixed(build, drift, method, seed, budget, out)
    else:
        learner = learner_of(method, world.n_features, world.action_spec, OBJECTIVE, seed)
        acting, deployed = chooser(learner.collect_policy(), streams), chooser(learner.policy(), streams, True)
    ring = RingBuffer(60_000)
    sampler, count = UniformSampler(ring, None, seed), [0, 0]
    metrics: dict[str, Any] = {}
    guarded: list[Tensor] = []

    def take(batch: Transitions) -> None:
        learner.observe(batch)
        ring.add(batch)
        count[0] += len(batch)
        if "guard_step" in batch.notes:
            guarded.append(torch.stack([batch.notes["guard_step"], batch.notes["guard_gain"]]))
        while count[1] < count[0] // PER_UPDATE and today >= WARMUP_DAYS:
            count[1] += 1
            with torch.enable_grad():
                metrics.update(learner.update(sampler.sample(256, count[1])).metrics)

    days = []
    warm = chooser(UniformActions(world.action_spec), streams)
    for today in range(budget.days):
        days.append(users.live(today, warm if learner and today < WARMUP_DAYS else acting, take if learner else None))
    probe = probes(build, learner, drift, seed, 40 if budget is not QUICK else 12) if method == "auro" else {}
    after = Calendar(world, budget.deployed_users, DEPLOYED_SEED, budget.days)
    later = [after.live(budget.days + k, deployed) for k in range(DEPLOYED_DAYS if budget is not QUICK else 3)]
    told = {name: float(value) for name, value in metrics.items()}
    if guarded:
        chosen, gain = torch.cat(guarded, dim=1)
        told |= {"guard_step": float(chosen.mean()), "guard_kept": float((chosen == 0).float().mean()), "guard_gain": float(gain.mean())}
        told["guard_least_gain"] = float(gain.min())
    return {"days": days, "deployed": later, "probe": probe, "metrics": told, "updates": count[1]}


@torch.no_grad()
def probes(build: Build, learner: AURO, drift: str, seed: int, length: int) -> dict[str, float]:
    """Of the trained and of an untrained phi, on a path of its own: R^2 of the daily mean for the drift, and how states lie by value.

    Segments, of two days or, where the drift has none, single days in a row of two, are foretold from the others.
    """
    world = build("fusion_weights", drift, seed + PROBED)
    users, choose = Calendar(world, 64, seed + PROBED), chooser(learner.policy(), TensorStreams(seed), True)
    fresh = learner_of("auro", world.n_features, world.action_spec, OBJECTIVE, seed + 77)
    daily_states, truth, out = [], [], {}
    for today in range(length):
        users.live(today, choose)
        daily_states.append(world.observe(users.state).features.clone())
        if world.drift is not None:
            truth.append(world.drift.truth(torch.tensor([float(today)]))[0].tolist())
    last = torch.cat(daily_states[-5:])[:400]
    value = learner.values(Observation(features=last)).numpy()
    for name, one in (("phi", learner), ("untrained", fresh)):
        phi = one.policy().actor.encoder.phi
        if truth:
            out[f"r2_{name}"] = linear_r2(
                np.stack([phi(x).mean(0).numpy() for x in daily_states]), np.array(truth), groups=np.arange(length) // 2
            )
        out[f"spearman_{name}"] = value_correlation(phi(last).numpy(), value)
        out[f"silhouette_{name}"] = value_silhouette(phi(last).numpy(), value)
    return out


# ---------------------------------------------------------------- the published environment


DAYS = torch.arange(1.0, 11.0)
Curve = list[tuple[float, float]]


def published_run(
    world: AuroWorld, choose: Choose, steps: int, lanes: int, luck: int, take: Callable[[Transitions], None] | None = None
) -> Curve:
    """Expected return day and P(1) of each session of ``lanes`` users, who are replaced every 100 steps."""
    streams, curve, state = TensorStreams(luck), [], None
    for step in range(steps):
        if step % 100 == 0:
            state = world.initial_state(world.population(lanes, luck + step), streams, clock=step)
        seen = world.observe(state)
        action = choose(state, seen)
        state, outcome = world.transition(state, action.value, streams)
        if bool(outcome.session_end.all()):
            law = outcome.truth["return_days"].mean(0)
            curve.append((float(law @ DAYS), float(law[0])))
        if take is not None:
            never, notes = torch.zeros_like(outcome.terminated), {**action.notes, "environment": torch.full((lanes,), step // 1_000)}
            reward, then = outcome.reward.flip(1), flat(world.observe(state))
            take(Transitions(flat(seen), action.value, reward, then, never, never, outcome.session_end, action.log_prob, notes=notes))
    return curve


def published_learner(world: AuroWorld, method: str, seed: int, budget: Budget) -> tuple[Choose, Curve]:
    """The policy of a learner that has acted and learned, an update a step, and its curve."""
    objective, streams = Objective(RETURN, (Constraint(Signal("click", 1.0, 0.9, 0.9), "at_least"),)), TensorStreams(seed)
    learner = learner_of(method, world.users.state_dim, world.action_spec, objective, seed)
    ring = RingBuffer(50_000)
    sampler, count = UniformSampler(ring, None, seed), [0]
    warm, act = chooser(UniformActions(world.action_spec), streams), chooser(learner.collect_policy(), streams)

    def choose(state: Any, seen: Observation) -> Action:
        if count[0] >= WARMUP_STEPS:
            return act(state, seen)
        # what the released rules learn from is stored in warm-up too
        z = {"z": learner.policy().actor.encoder(flat(seen)).detach()} if method == "shipped" else {}
        return replace(warm(state, seen), notes=z)

    def take(batch: Transitions) -> None:
        count[0] += 1
        learner.observe(batch)
        ring.add(batch)
        if count[0] > WARMUP_STEPS:
            learner.update(sampler.sample(256, count[0]))

    curve = published_run(world, choose, budget.steps, 64, seed + 1, take)
    return chooser(learner.policy(), streams, True), curve


def published_cell(drift: str, method: str, seed: int, budget: Budget) -> dict[str, Any]:
    """One method in AURO's environment: expected return day while learning, and of the frozen policy."""
    world = AuroWorld(AuroConfig(drift=drift), StandInUsers(n_users=500, n_items=300), seed=seed)  # type: ignore[arg-type]
    curve: Curve = []
    if method == "least":
        acting = static(-torch.ones(7))
    elif method == "cem":
        cem = CEM(CEMConfig(), Task(world.action_spec, item_vectors=torch.zeros(1, 2)), seed)
        for generation in range(budget.generations):
            cem.ask(budget.candidates, generation)
            cem.tell(torch.tensor([-np.mean([day for day, _ in published_run(world, static(w), 10, 128, generation)]) for w in cem.asked]))
        acting = static(cem.mean)
    else:
        acting, curve = published_learner(world, method, seed, budget)
    frozen = published_run(world, acting, 100, 256, DEPLOYED_SEED)
    return {"curve": curve, "deployed": [float(np.mean(x)) for x in zip(*frozen, strict=True)]}


# ---------------------------------------------------------------- speed


def speed(rounds: int, kept: int = 10_000, count: int = 20) -> dict[str, Any]:
    """Updates a core-second: batch 256, layers of 256 and 256, 17 features, 7 actions, sampling included; seconds of both kinds of acts."""
    draw, never = torch.Generator().manual_seed(0), torch.zeros(kept, dtype=torch.bool)
    seen, then = (Observation(features=torch.randn(kept, 17, generator=draw)) for _ in range(2))
    action, notes = torch.rand(kept, 7, generator=draw) * 2 - 1, {"environment": torch.arange(kept) // 100}
    ring = RingBuffer(kept)
    ring.add(Transitions(seen, action, torch.zeros(kept, 1), then, never, never, never, notes=notes))
    sampler, actor = UniformSampler(ring, None, 0), ActorConfig(EncoderConfig("flat", features=17), (256, 256))
    task = Task(ActionSpec("fusion_weights", (7,)), Objective(RETURN))
    learners = {k.name: k(k.config_type(actor=actor, critic_hidden=(256, 256)), task, 0) for k in (TD3, AURO, RLUR, OAC, ESCP)}
    rates: dict[str, list[float]] = {name: [] for name in learners}
    acts: dict[str, list[float]] = {"plain": [], "guarded": []}
    for step in range(rounds):
        for name, learner in learners.items():
            started = time.process_time()
            for k in range(count):
                learner.update(sampler.sample(256, count * step + k))
            rates[name].append(count / (time.process_time() - started))
        auro = learners["auro"]
        for name, policy in (("plain", auro.policy()), ("guarded", auro.collect_policy())):
            started = time.process_time()
            for k in range(count):
                policy.act(seen[:256], TensorStreams(0), step=k)
            acts[name].append((time.process_time() - started) / count)
    with profile(activities=[ProfilerActivity.CPU]) as looked:
        for k in range(count):
            learners["auro"].update(sampler.sample(256, k))
    events = looked.key_averages()
    products = sum(e.self_cpu_time_total for e in events if e.key in ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"))
    return {
        "updates_per_core_second": {name: {"median": float(np.median(x)), "best": max(x)} for name, x in rates.items()},
        "of_td3": {name: float(np.median(np.array(x) / np.array(rates["td3"]))) for name, x in rates.items()},
        "act_seconds": {name: min(x) for name, x in acts.items()},
        "auro_share_in_matrix_products": products / sum(e.self_cpu_time_total for e in events),
        "load": os.getloadavg()[0],
    }


# ---------------------------------------------------------------- tables


def share(days: list[Mapping[str, float]], above: str, below: str) -> float:
    return sum(d[above] for d in days) / max(sum(d[below] for d in days), 1.0)


def recovery(regret: np.ndarray, switches: range) -> tuple[float, float]:
    """Mean days to recover, and mean area above the level before, over the switches."""
    days, areas = [], []
    for s in switches:
        if s < 12 or s + 7 > len(regret):
            continue
        level = regret[s - 5 : s].mean()
        smooth = [regret[k : k + 3].mean() for k in range(s, s + 5)]
        days.append(next((k for k, x in enumerate(smooth) if x <= level + 0.01), 5))
        areas.append(float((regret[s : s + 7] - level).clip(0).sum()))
    return (float(np.mean(days)), float(np.mean(areas))) if days else (float("nan"), float("nan"))


def drift_rows(out: Path, drift: str, methods: tuple[str, ...], seeds: int) -> dict[str, Any]:
    """The table of one drift: mean and standard deviation over seeds."""
    rows: dict[str, Any] = {}
    for method in methods:
        held = [read_json(out / f"{drift}-{method}-{s}.json") for s in range(seeds)]
        best = [read_json(out / f"{drift}-oracle-{s}.json") for s in range(seeds)]
        regret = [daily(b["days"]) - daily(x["days"]) for x, b in zip(held, best, strict=True)]
        half = len(regret[0]) // 2
        row = {
            "p1": [share(x["deployed"], "expected", "sessions") for x in held],
            "gap_days": [share(x["deployed"], "gap_days", "returns") for x in held],
            "below_oracle": [
                share(b["deployed"], "expected", "sessions") - share(x["deployed"], "expected", "sessions")
                for x, b in zip(held, best, strict=True)
            ],
            "acting_regret": [float(r[half:].mean()) for r in regret],
            "first_weeks_regret": [float(r[WARMUP_DAYS:21].mean()) for r in regret],
        }
        if drift in PERIOD:
            found = [recovery(r, range(PERIOD[drift], len(r), PERIOD[drift])) for r in regret]
            row["recovery_days"], row["recovery_area"] = ([x[k] for x in found] for k in (0, 1))
        for name in sorted({n for x in held for n in x["probe"]}):
            row[name] = [x["probe"][name] for x in held]
        for name in ("guard_kept", "guard_gain", "guard_step", "guard_least_gain"):
            if name in held[0]["metrics"]:
                row[name] = [x["metrics"][name] for x in held]
        rows[method] = summed(row)
    return rows


def daily(days: list[Mapping[str, float]]) -> np.ndarray:
    return np.array([d["expected"] / max(d["sessions"], 1.0) for d in days])


def summed(row: Mapping[str, list[float]]) -> dict[str, tuple[float, float]]:
    return {name: (float(np.mean(x)), float(np.std(x, ddof=1)) if len(x) > 1 else 0.0) for name, x in row.items()}


def published_rows(out: Path, drift: str, methods: tuple[str, ...], seeds: int) -> dict[str, Any]:
    rows = {}
    for method in methods:
        held = [read_json(out / f"published-{drift}-{method}-{s}.json") for s in range(seeds)]
        row = {"ard": [x["deployed"][0] for x in held], "p1": [x["deployed"][1] for x in held]}
        if held[0]["curve"]:
            row["acting_ard"] = [float(np.mean([a for a, _ in x["curve"][-50:]])) for x in held]
        rows[method] = summed(row)
    return rows


def planned(
    build: Build, options: argparse.Namespace, methods: tuple[str, ...], budget: Budget
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Every cell by name, seed by seed, so that a run that is stopped has whole tables of fewer seeds."""
    for seed in range(options.seeds):
        for drift in options.drifts:
            for m in methods:
                yield f"{drift}-{m}-{seed}", partial(drift_cell, build, drift, m, seed, budget, options.out)
        for drift in PUBLISHED_DRIFTS if options.published else ():
            for m in options.published:
                yield f"published-{drift}-{m}-{seed}", partial(published_cell, drift, m, seed, budget)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ml-100k", help="a prepared log; empty for the toy world")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--drifts", nargs="+", default=["held", "weekly", "regimes", "none"], choices=list(DRIFTS))
    parser.add_argument("--methods", nargs="+", default=[*FIXED, *LEARNED])
    parser.add_argument("--published", nargs="*", default=list(PUBLISHED), help="methods in the published environment")
    parser.add_argument("--out", type=Path, default=Path("runs/auro"))
    parser.add_argument("--speed", type=int, default=0, metavar="ROUNDS", help="updates a core-second instead, in interleaved rounds of 20")
    parser.add_argument("--quick", action="store_true", help="the toy world, one seed, a few days")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.speed:
        print(json.dumps(speed(options.speed)))
        return
    budget = QUICK if options.quick else Budget()
    if options.quick:
        options.data, options.seeds, options.out = "", 1, options.out / "quick"
        options.drifts, options.published = ["held", "regimes"], ["least", "td3", "auro", "shipped"]
    options.out.mkdir(parents=True, exist_ok=True)
    build = builder(options.data, options.out, budget)
    methods = tuple(dict.fromkeys(["oracle", *options.methods]))
    for name, work in planned(build, options, methods, budget):
        if not (path := options.out / f"{name}.json").is_file():
            started = time.process_time()
            write_json(path, {**work(), "core_seconds": time.process_time() - started})
            print(f"{name} {time.process_time() - started:.1f} core-seconds", flush=True)
    report = {d: drift_rows(options.out, d, methods, options.seeds) for d in options.drifts}
    if options.published:
        report |= {f"published-{d}": published_rows(options.out, d, tuple(options.published), options.seeds) for d in PUBLISHED_DRIFTS}
    if options.json:
        print(
            json.dumps({"benchmark": "auro", "data": options.data or "toy", "seeds": options.seeds, "load": os.getloadavg()[0], **report})
        )
        return
    if options.quick:
        print("quick: no verdict")
    for table, rows in report.items():
        print(table)
        for method, row in rows.items():
            print(f"  {method:12}" + "  ".join(f"{name} {mean:.4f}+-{spread:.4f}" for name, (mean, spread) in row.items()))


if __name__ == "__main__":
    main()
