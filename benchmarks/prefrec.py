"""PrefRec in its reference environment: what it reaches beside baselines and controls, what its reward knows, and what each part does.

Users of ``simulators.fidelity.prefrec``; a log of 1,500 of them; scripted teachers; policies meet 300 fresh users with the same luck. A
seed is another pair of maps, log, teacher and networks. Every cell is written as it is done, and the same command goes on.

python benchmarks/prefrec.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from scipy import stats
from torch import Tensor

import offline_eval
from recrl.algorithms import REGISTRY
from recrl.algorithms.bc import BC, BCConfig
from recrl.algorithms.prefrec import PrefRec
from recrl.algorithms.prefrec import PrefRecConfig as LearnerConfig
from recrl.algorithms.task import Task
from recrl.core.contracts import LoggedFeedback, Observation, Transitions
from recrl.core.files import read_json, write_json
from recrl.core.objective import Objective, Signal
from recrl.core.ragged import Offsets
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig
from recrl.preferences.inspection import action_share, inspect_reward
from recrl.preferences.pairs import SPLITS, PairBatches, PairConfig, draw_pairs, teach
from recrl.preferences.reward import LearnedReward, PreferenceReward, RewardConfig, RewardPretraining
from recrl.preferences.teacher import Teacher
from recrl.preferences.trajectories import FixedBuffer, Trajectories, all_rows, simulate_log
from recrl.preferences.windows import WindowConfig, cut_windows
from recrl.replay.samplers import UniformSampler
from simulators.fidelity.prefrec import PrefRecConfig, PrefRecWorld

USERS, TEST_USERS, FIRST_TEST_USER, SPREAD, DISCOUNT, LAYERS = 1_500, 300, 1_000_000, 0.3, 0.98, (64, 64)
CLICK, RETURN = 0, 3
ENCODER = EncoderConfig("flat", features=14)
ACTOR = ActorConfig(ENCODER, LAYERS, SPREAD)
ONLINE = ("depth", "gap", "click")


@dataclass(frozen=True)
class Reward:
    """A learned reward: what the teacher wants and how it errs, how segments are cut, how it is trained."""

    task: str = "both"
    mistake: float = 0.1
    pairs: int = 2_000
    kind: str = "requests"
    aggregate: str = "sum"
    within: float = 0.5
    length: int = 24
    pretraining: str = "preferences"
    shuffled: bool = False
    members: int = 3


@dataclass(frozen=True)
class Cell:
    """One policy: the learner with its options, and what it is rewarded by (a learned reward, or the name of a written one)."""

    learner: str = "prefrec"
    reward: Reward | str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    discount: float = DISCOUNT
    policy: bool = True


def options(**given: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(given.items())


BOTH = Reward()
DPG_BC = options(actor_loss="dpg_bc")
PRIMARY: dict[str, Cell] = {
    "BC": Cell("bc"),
    "PrefRec": Cell(reward=BOTH),
    "PrefRec dpg_bc": Cell(reward=BOTH, options=DPG_BC),
    "TD3+BC explicit, alpha .3": Cell("td3_bc", "explicit", options(alpha=0.3)),
    "IQL explicit": Cell("iql", "explicit"),
    "random reward": Cell(reward="random"),
    "random reward dpg_bc": Cell(reward="random", options=DPG_BC),
    "PrefRec, task depth": Cell(reward=Reward("depth")),
    "PrefRec, task return": Cell(reward=Reward("return")),
}
SECONDARY: dict[str, Cell] = {
    "PrefRec's optimiser, explicit": Cell(reward="explicit"),
    "PrefRec's optimiser, clicks": Cell(reward="clicks"),
    "PrefRec's optimiser, clicks, myopic": Cell(reward="clicks", discount=0.0),
    "labels by chance": Cell(reward=replace(BOTH, mistake=0.5)),
    "labels swapped": Cell(reward=replace(BOTH, mistake=1.0)),
    "reward of shuffled actions": Cell(reward=replace(BOTH, shuffled=True)),
    "without value": Cell(reward=BOTH, options=options(value="none")),
    "expectile .5": Cell(reward=BOTH, options=options(expectile=0.5)),
    "without pre-training": Cell(reward=replace(BOTH, pretraining="none")),
    "depth, sessions, sum (trap)": Cell(reward=Reward("depth", kind="sessions", aggregate="sum_any_length")),
    "depth, sessions, mean": Cell(reward=Reward("depth", kind="sessions", aggregate="mean")),
    "dpg": Cell(reward=BOTH, options=options(actor_loss="dpg")),
    "dpg_bc, alpha 2.5": Cell(reward=BOTH, options=options(actor_loss="dpg_bc", alpha=2.5)),
    "TD3 explicit": Cell("td3", "explicit"),
    "100 pairs": Cell(reward=replace(BOTH, pairs=100), policy=False),
    "500 pairs": Cell(reward=replace(BOTH, pairs=500), policy=False),
    "mistakes 0": Cell(reward=replace(BOTH, mistake=0.0), policy=False),
    "mistakes .2": Cell(reward=replace(BOTH, mistake=0.2), policy=False),
    "mistakes .3": Cell(reward=replace(BOTH, mistake=0.3), policy=False),
}
CELLS = PRIMARY | SECONDARY
WITH_CURVE = ("PrefRec", "without pre-training")


class Shuffled:
    """Trajectories whose actions are those of other rows."""

    def __init__(self, source: Any, action: Tensor) -> None:
        self._source, self._action = source, action

    def lengths(self) -> Any:
        return self._source.lengths()

    def gather(self, segment: Any, start: Any, length: Any) -> Transitions:
        batch = self._source.gather(segment, start, length)
        return replace(batch, action=self._action[batch.index])


class Bench:
    """One seed: world, log, behaviour clone, learned rewards."""

    def __init__(self, seed: int, steps: int, folder: Path) -> None:
        self.seed, self.steps, self.folder = seed, steps, folder
        self.world = PrefRecWorld(PrefRecConfig(seed=seed))
        self.log = simulate_log(self.world, self.world.population(USERS), self.world.logged, TensorStreams(seed))
        self.rows = all_rows(self.log)
        self.trajectories = Trajectories(self.log, returns=RETURN)

    def task(self, discount: float = DISCOUNT) -> Task:
        return Task(self.world.action_spec, Objective(Signal("return", discount_within=discount, discount_across=discount)))

    @cached_property
    def depth(self) -> np.ndarray:
        """Requests of the session that ends with a row, 0 elsewhere; sessions begin after an end and with each user."""
        ends, depth = np.flatnonzero(self.trajectories.ends), np.zeros(len(self.rows))
        begins = np.append(0, ends[:-1] + 1)
        depth[ends] = ends + 1 - begins
        return depth

    @cached_property
    @torch.enable_grad()
    def behaviour(self) -> BC:
        """The clone of the logging policy."""
        clone = BC(BCConfig(ACTOR), self.task(), self.seed)
        sampler = UniformSampler(FixedBuffer(self.rows), None, self.seed)
        for k in range(3_000):
            clone.update(sampler.sample(256, k))
        return clone

    def sampler(self, reward: str | Reward | None) -> UniformSampler:
        """Batches with a written reward; of a learned one, those of the log, to be relabelled."""
        rows, ends = self.rows, self.trajectories.ends
        if reward == "explicit":
            z = [(x - x[ends].mean()) / x[ends].std() for x in (self.depth, self.trajectories.gap_days)]
            rows = rows.with_reward(torch.from_numpy(np.where(ends, z[0] - z[1], 0.0)).float().unsqueeze(1))
        elif reward == "clicks":
            rows = rows.with_reward(rows.reward[:, CLICK : CLICK + 1])
        elif reward == "random":
            drawn = TensorStreams(self.seed).normal(torch.arange(len(rows)), 0, Purpose.BOOTSTRAP)
            rows = rows.with_reward(drawn.unsqueeze(1))
        return UniformSampler(FixedBuffer(rows), None, self.seed)

    def learned(self, spec: Reward) -> tuple[LearnedReward, PairBatches, dict[str, Any]]:
        """A learned reward, its training pairs and what it knows; trained once and kept."""
        trajectories = self.trajectories
        windows = cut_windows(trajectories, WindowConfig(spec.kind, length=40 if spec.kind == "sessions" else spec.length))
        asked = PairConfig(spec.pairs, held_out=400, within=spec.within)
        pairs = teach(trajectories, windows, draw_pairs(windows, asked, self.seed), spec.task, Teacher(spec.mistake), self.seed)
        seen = trajectories
        if spec.shuffled:
            order = torch.from_numpy(np.random.default_rng(self.seed).permutation(len(self.rows)))
            seen = Trajectories(Shuffled(self.log, self.rows.action[order]), returns=RETURN)
        train, valid, test = (PairBatches(seen, pairs.of(part), self.seed) for part in SPLITS)
        config = RewardConfig(
            ENCODER, (64, 64, 64), spec.members, spec.aggregate, batch_pairs=64, pretraining=spec.pretraining, pretraining_steps=1_500
        )
        name = "-".join(str(value) for value in asdict(spec).values())
        folder = self.folder / f"seed{self.seed}-{name}"
        if (folder / "policy.json").exists():
            reward = LearnedReward.load(folder, self.task())
        else:
            reward = RewardPretraining(LearnedReward(config, self.task(), self.seed), train, valid).run()
            reward.save(folder)
        found = inspect_reward(reward, test)
        mean = self.behaviour.policy().centre(self.rows.observation[::9]).detach()
        known = {a.kind: a.right for a in found.accuracies} | {"rank correlation": found.rank_correlation}
        thinned = FixedBuffer(self.rows).gather(torch.arange(0, len(self.rows), 9))
        return reward, train, known | {"action share": action_share(reward, thinned, mean, SPREAD, self.seed)}

    def run(self, name: str) -> dict[str, Any]:
        """One cell."""
        cell, started = CELLS[name], time.process_time()
        result: dict[str, Any] = {"name": name, "seed": self.seed}
        if cell.learner == "bc":
            return result | self.judged(self.behaviour.policy().centre)
        sampler, transforms = self.sampler(cell.reward), []
        if isinstance(cell.reward, Reward):
            reward, pairs, result["reward"] = self.learned(cell.reward)
            transforms = [PreferenceReward(reward, pairs, sampler)]
        if cell.policy:
            kind = REGISTRY[cell.learner] if cell.learner != "prefrec" else PrefRec
            config_type = LearnerConfig if cell.learner == "prefrec" else kind.config_type
            known = {f.name for f in fields(config_type)}
            asked = {"actor": ACTOR, "critic_hidden": LAYERS, **dict(cell.options)}
            learner = kind(config_type(**{k: v for k, v in asked.items() if k in known}), self.task(cell.discount), self.seed)
            curve = []
            for step in range(1, self.steps + 1):
                batch = sampler.sample(128, step)
                for transform in transforms:
                    transform.update(batch)
                    batch = transform.apply(batch)
                learner.update(batch)
                if name in WITH_CURVE and step * 5 <= self.steps and (step * 20) % self.steps == 0:
                    curve.append(self.online(learner.policy().centre, 100)["depth"])
            result |= self.judged(learner.policy().centre) | {"early depth": float(np.mean(curve)) if curve else None}
        return result | {"seconds": time.process_time() - started}

    def judged(self, act: Callable[[Observation], Tensor]) -> dict[str, float]:
        return self.online(act) | self.estimated(act)

    @torch.no_grad()
    def online(self, act: Callable[[Observation], Tensor], users: int = TEST_USERS) -> dict[str, float]:
        """Depth, gap and click rate of fresh users, the same with the same luck for every policy of a seed."""
        streams = TensorStreams(10_000 + self.seed)
        state = self.world.initial_state(self.world.population(users, first=FIRST_TEST_USER), streams)
        total = torch.zeros(5, dtype=torch.float64)
        while bool(state.alive.any()):
            before = state
            state, outcome = self.world.transition(state, act(self.world.observe(state)), streams)
            deep = (outcome.session_end * (before.requests + 1)).sum()
            parts = [outcome.session_end.sum(), deep, outcome.gap_days.sum(), outcome.reward[:, CLICK].sum(), before.alive.sum()]
            total += torch.stack([part.double() for part in parts])
        ended, depth, gap, click, made = total.tolist()
        return {"depth": depth / ended, "gap": gap / ended, "click": click / made}

    @torch.no_grad()
    def estimated(self, act: Callable[[Observation], Tensor]) -> dict[str, float]:
        """NCIS of depth and gap, a trajectory a user, every row with its session's values, capped at 10; last sessions left out."""
        keep = np.flatnonzero(self.trajectories.known)
        ends = np.flatnonzero(self.trajectories.ends)
        session = np.searchsorted(ends, keep)
        rows = FixedBuffer(self.rows).gather(torch.from_numpy(keep))
        logs = [
            -0.5 * ((rows.action - centre(rows.observation)) / SPREAD).square().sum(1).double().numpy()
            for centre in (act, self.behaviour.policy().centre)
        ]
        user = rows.cluster.numpy()
        lives = Offsets.from_starts(np.append(True, user[1:] != user[:-1]))
        found = {}
        for name, of_session in (("depth", self.depth[ends]), ("gap", self.trajectories.gap_days[ends])):
            feedback = LoggedFeedback(of_session[session], logs[0], logs[1], user, trajectory=lives)
            found[f"ncis {name}"] = float(offline_eval.value(offline_eval.TrajectoryNCIS(cap=10.0).contributions(feedback)))
        weight = np.exp(np.minimum(logs[0] - logs[1], np.log(10.0)))
        return found | {"ess": float(weight.sum() ** 2 / (len(weight) * (weight**2).sum()))}


def interval(values: list[float]) -> str:
    """Mean and Student-t 95 % half-width over seeds."""
    if len(values) < 2:
        return f"{np.mean(values):.2f}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.2f} ± {half:.2f}"


def tables(done: list[dict[str, Any]]) -> tuple[str, str]:
    """Policies with their paired differences from BC, and rewards: Markdown."""
    by_name = {name: {r["seed"]: r for r in done if r["name"] == name} for name in CELLS}
    policies = ["| policy | seeds | depth | gap, days | click rate | depth - BC | gap - BC | ESS |", "|---|---|---|---|---|---|---|---|"]
    rewards = ["| reward | seeds | all | within user | across users | close | far | action share |", "|---|---|---|---|---|---|---|---|"]
    for name, found in by_name.items():
        acting = {seed: r for seed, r in found.items() if "depth" in r}
        if acting:
            cells = [interval([r[what] for r in acting.values()]) for what in ONLINE]
            paired = [seed for seed in acting if seed in by_name["BC"]]
            cells += [interval([acting[s][what] - by_name["BC"][s][what] for s in paired]) if paired else "" for what in ONLINE[:2]]
            policies.append(f"| {name} | {len(acting)} | {' | '.join(cells)} | {np.mean([r['ess'] for r in acting.values()]):.2f} |")
        knowing = [r["reward"] for r in found.values() if "reward" in r]
        if knowing and not (CELLS[name].options or name == "PrefRec dpg_bc"):
            kinds = ("all", "within user", "across users", "close", "far")
            cells = [f"{np.mean([k[kind] for k in knowing]):.3f}" for kind in kinds]
            rewards.append(f"| {name} | {len(knowing)} | {' | '.join(cells)} | {np.mean([k['action share'] for k in knowing]):.1%} |")
    return "\n".join(policies), "\n".join(rewards)


def run_seed(seed: int, cells: dict[str, Cell], steps: int, folder: Path, tell: bool) -> list[dict[str, Any]]:
    """Results of a seed's cells, those that are there already read from their files."""
    bench, done = None, []
    for name, cell in cells.items():
        if cell.learner not in REGISTRY and cell.learner != "prefrec":
            continue
        path = folder / f"seed{seed}-{list(CELLS).index(name):02d}.json"
        if not path.exists():
            bench = bench or Bench(seed, steps, folder / "rewards")
            write_json(path, bench.run(name))
        done.append(read_json(path))
        if tell:
            print(f"seed {seed}  {name:<36} " + "  ".join(f"{k} {done[-1][k]:.2f}" for k in ONLINE if k in done[-1]), flush=True)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, primary set, fewer steps: no verdict")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--secondary-seeds", type=int, default=3, help="seeds of ablations and controls")
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-prefrec"), help="where cells are kept")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.quick:
        args.seeds, args.secondary_seeds, args.steps = 1, 0, 1_500
    folder, done = args.folder / f"steps{args.steps}", []
    for cells, seeds in ((PRIMARY, args.seeds), (SECONDARY, args.secondary_seeds)):
        for seed in range(seeds):
            done += run_seed(seed, cells, args.steps, folder, tell=not args.json)
    policies, rewards = tables(done)
    ranked = [r for r in done if r["seed"] == 0 and r.get("ess", 0.0) >= 0.2]
    rank = stats.spearmanr([r["ncis gap"] for r in ranked], [r["gap"] for r in ranked]).statistic if len(ranked) > 2 else float("nan")
    if args.json:
        print(json.dumps({"cells": done, "ncis_gap_rank_correlation": rank, "policies_ranked": len(ranked), "quick": args.quick}))
        return
    print(f"\n{policies}\n\n{rewards}\n")
    print(f"NCIS of the gap against the gap, {len(ranked)} policies of seed 0 with ESS >= .2: Spearman {rank:.2f}")
    if args.quick:
        print("quick: no verdict")


if __name__ == "__main__":
    main()
