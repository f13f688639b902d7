"""Does state-dependent reinforcement learning pay? Day-1 retention in scenario `strong`, beside static weights and an oracle.

The platform of the embedded ml-100k (its own predictions, fitted on training rows) ranks pools of 200 by seven fusion weights that a
policy chooses at each request. All policies meet the same users with the same luck for 30 days, without exploring:

    random        weights drawn uniformly at each request
    predicted     static: the platform's predicted satisfaction, the stated worth of each behaviour
    cem           static weights, the cross-entropy method on the search users' next-day returns
    ppo, td3      Stable-Baselines3's PPO, unmodified, and our TD3 on the flat observation; reward: long views of the request (`view`), or
                  minus the days away at the end of a session (`gap`); `now`: long views with discount 0, a bandit
    oracle        each slate greedy in the true expected satisfaction of its items: it reads the users' true response probabilities. No
                  policy gets more expected satisfaction out of a request's pool; over whole lives it is not proved a bound

Day-1 retention: share of sessions whose user is back the next day. Intervals: by user for each seed, paired with random; Student's t over
the seeds' effects. Every cell (method, seed) is a JSON and a Parquet file of --out, and a run that was stopped goes on with the rest.

python benchmarks/rl_pays.py --json
python benchmarks/rl_pays.py --quick --json          # the toy world, one seed, a few seconds
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy import stats
from stable_baselines3 import PPO
from torch import Tensor

from recrl.algorithms.cem import CEM, CEMConfig
from recrl.algorithms.task import Task
from recrl.algorithms.td3 import TD3, TD3Config
from recrl.core.contracts import Action, ActionSpec, Observation, Policy, Transitions
from recrl.core.files import atomic_path, write_json
from recrl.core.objective import Objective, Signal
from recrl.core.runs import RunFolder
from recrl.core.torch.streams import TensorStreams
from recrl.policies.encoders import EncoderConfig
from recrl.policies.static import static_policy
from recrl.policies.vector import ActorConfig
from recrl.replay.ring import RingBuffer
from recrl.training.collect import WorldCollector
from recrl.training.online import OnlineConfig, UniformActions, train_online
from simulators.ab.statistics import compare
from simulators.config import WorldAction, WorldConfig
from simulators.lives import Lives, live, live_by_vectors
from simulators.sb3 import UsersVecEnv
from simulators.toy import TOY_CONFIG, toy_world
from simulators.world import RetentionWorld

EVALUATION_SEED, DISCOUNT, GAP_DISCOUNT = 1_000_003, 0.9, 0.98
Build = Callable[[WorldAction, Objective], RetentionWorld]
VIEW = Signal("long_view", discount_within=DISCOUNT, discount_across=DISCOUNT)
SIGNALS = {"view": VIEW, "gap": Signal("return", discount_within=1.0, discount_across=DISCOUNT), "now": Signal("long_view", 1.0, 0.0, 0.0)}
LEARNED = [f"{method} {reward}" for method in ("ppo", "td3") for reward in SIGNALS]
ONCE = ("random", "predicted", "oracle")


@dataclass(frozen=True)
class Budget:
    """What each method may spend."""

    evaluate_users: int = 2_000
    users: int = 64
    requests: int = 100_000
    cem_generations: int = 10
    cem_candidates: int = 16
    cem_users: int = 80


QUICK = Budget(evaluate_users=150, users=16, requests=1_600, cem_generations=2, cem_candidates=6, cem_users=16)


class Greedy:
    """Shows the candidates with the highest true expected satisfaction."""

    def __init__(self, world: RetentionWorld) -> None:
        self.action_spec, self._world = world.action_spec, world
        self._worth = torch.tensor(world.satisfaction.weights)

    def act(self, observation: Observation, streams: TensorStreams, *, step: Tensor | int = 0, deterministic: bool = False) -> Action:
        value = self._world.response.scores(observation.user, observation.candidates) @ self._worth
        return Action(observation.candidates.gather(1, value.topk(self._world.config.shown, dim=1).indices))


class Foreign:
    """A policy of Stable-Baselines3 under our contract."""

    def __init__(self, model: PPO, spec: ActionSpec) -> None:
        self.action_spec, self._model = spec, model

    def act(self, observation: Observation, streams: TensorStreams, *, step: Tensor | int = 0, deterministic: bool = False) -> Action:
        return Action(torch.from_numpy(self._model.predict(observation.features.numpy(), deterministic=True)[0]))


class Flat(WorldCollector):
    """Collects what Stable-Baselines3 sees: the flat view, without a history beside it."""

    def collect(self, policy: Policy, step: int) -> Transitions:
        found = super().collect(policy, step)
        states = (Observation(features=o.features, user=o.user) for o in (found.observation, found.next_observation))
        return replace(found, **dict(zip(("observation", "next_observation"), states, strict=True)))


def builder(data: str, out: Path) -> Build:
    """Worlds of every action kind that share users, laws and platform; the toy without ``data``."""
    if not data:
        return lambda kind, objective: toy_world(replace(TOY_CONFIG, action_kind=kind, truth=False), objective)
    from recrl.pipeline.data import DataOptions, load_store
    from recrl.pipeline.setting import Setting
    from recrl.pipeline.simulate import platform_world
    from recrl_datasets import sessions
    from simulators.fit import FitConfig, FittedWorld, fit_world

    options = DataOptions(data)
    setting = Setting(load_store(options), options)
    if not (out / "simulator" / "world.json").is_file():
        config = FitConfig.ratings() if setting.log.has("rating") else FitConfig()
        fit_world(setting.log, sessions=sessions(setting.log, rule=setting.session_rule), config=config).save(out / "simulator")
    fitted = FittedWorld.load(out / "simulator")

    def build(kind: WorldAction, objective: Objective) -> RetentionWorld:
        return platform_world(setting, fitted, WorldConfig(action_kind=kind, scenario="strong", truth=False), objective=objective)

    return build


def no_items(spec: ActionSpec) -> Task:
    return Task(spec, item_vectors=torch.zeros(1, 2))


def predicted(world: RetentionWorld) -> Policy:
    """Static weights that rank by the platform's predicted satisfaction."""
    weights = torch.tensor(world.satisfaction.weights) * world._ranker.spread
    return static_policy(world.action_spec, weights / weights.abs().max(), torch.zeros(1, 2))


def searched(build: Build, seed: int, budget: Budget) -> Policy:
    """The static weights that CEM finds: every candidate of a generation meets the same users with the same luck."""
    world = build("fusion_weights", Objective())
    cem = CEM(CEMConfig(), no_items(world.action_spec), seed)
    for generation in range(budget.cem_generations):
        streams = TensorStreams(1_000 * seed + generation)
        cem.ask(budget.cem_candidates, generation)
        users = world.population(budget.cem_users, streams.seed)
        lives = live_by_vectors(world, cem.asked, users, streams)
        cem.tell(torch.tensor([x.next_day.sum() / x.sessions.sum() for x in lives]))
    return cem.policy()


def ppo(build: Build, reward: str, seed: int, budget: Budget) -> Policy:
    """Stable-Baselines3's PPO."""
    world = build("fusion_weights", Objective(SIGNALS[reward]))
    gamma = {"view": DISCOUNT, "gap": GAP_DISCOUNT, "now": 0.0}[reward]
    env = UsersVecEnv(world, budget.users)
    model = PPO("MlpPolicy", env, gamma=gamma, n_steps=32, batch_size=256, n_epochs=5, seed=seed, device="cpu")
    return Foreign(model.learn(budget.requests), world.action_spec)


def td3(build: Build, reward: str, seed: int, budget: Budget) -> Policy:
    """Our TD3, on the same observation."""
    objective = Objective(SIGNALS[reward])
    world, steps = build("fusion_weights", objective), budget.requests // budget.users
    actor = ActorConfig(EncoderConfig("flat", features=world.n_features), (64, 64), exploration=0.2)
    learner = TD3(TD3Config(actor, (64, 64), 1e-3, 1e-3), Task(world.action_spec, objective), seed)
    length = OnlineConfig(
        steps=steps,
        batch_size=256,
        warmup=max(1, steps // 20),
        updates_per_step=1,
        log_every=steps,
        checkpoint_every=steps,
        evaluate_every=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run", kind="benchmark", config={}, seed=seed)
        train_online(learner, Flat(world, budget.users, seed), RingBuffer(budget.requests), length, run, stream="td3", seed=seed)
    return learner.policy()


def policy_of(build: Build, method: str, seed: int, budget: Budget) -> tuple[RetentionWorld, Policy]:
    """A method's policy, trained, and the world it acts in."""
    world = build("slate" if method == "oracle" else "fusion_weights", Objective())
    if method == "random":
        return world, UniformActions(world.action_spec)  # type: ignore[return-value]
    if method in ("predicted", "oracle"):
        return world, predicted(world) if method == "predicted" else Greedy(world)  # type: ignore[return-value]
    if method == "cem":
        return world, searched(build, seed, budget)
    name, reward = method.split()
    return world, (ppo if name == "ppo" else td3)(build, reward, seed, budget)


def cell(build: Build, method: str, seed: int, budget: Budget, out: Path) -> None:
    """Train one method with one seed, let the evaluation users live with it, and write both files."""
    path = out / f"{method.replace(' ', '-')}-{seed}"
    if path.with_suffix(".json").is_file():
        return
    started = time.process_time()
    world, policy = policy_of(build, method, seed, budget)
    trained = time.process_time()
    users = world.population(budget.evaluate_users, EVALUATION_SEED)
    lives = live(world, policy, users, TensorStreams(EVALUATION_SEED), deterministic=method != "random")
    with atomic_path(path.with_suffix(".parquet")) as temporary:
        pq.write_table(pa.table({name: getattr(lives, name) for name in Lives.__dataclass_fields__}), temporary, compression="zstd")
    spent = {"train_core_seconds": trained - started, "evaluate_core_seconds": time.process_time() - trained}
    write_json(path.with_suffix(".json"), {"method": method, "seed": seed, **spent, "budget": asdict(budget)})
    print(f"{method} seed {seed}: {lives.next_day.sum() / lives.sessions.sum():.4f} {spent}", flush=True)


def read(out: Path, method: str, seed: int) -> Lives:
    table = pq.read_table(out / f"{method.replace(' ', '-')}-{seed}.parquet")
    return Lives(*(table[name].to_numpy() for name in Lives.__dataclass_fields__))


def summary(out: Path, seeds: int) -> dict[str, Any]:
    """Each method's retention, and its effect against random and against CEM of the same seed."""
    held = {m: [read(out, m, s) for s in range(1 if m in ONCE else seeds)] for m in (*ONCE, "cem", *LEARNED)}
    rows: dict[str, Any] = {}
    for method, found in held.items():
        rows[method] = {
            "retention": float(np.mean([x.next_day.sum() / x.sessions.sum() for x in found])),
            "gap_days": float(np.mean([x.gap_days.sum() / x.returns.sum() for x in found])),
            "requests": float(np.mean([x.requests.mean() for x in found])),
        }
        for against in ("random", "cem"):
            if method in (against, "random"):
                continue
            base = held[against] * (1 if len(held[against]) == len(found) else len(found))
            rows[method][f"above_{against}"] = over_seeds(found * (len(base) if len(found) == 1 else 1), base)
    return rows


def over_seeds(found: list[Lives], base: list[Lives]) -> dict[str, Any]:
    """The effect on day-1 retention: mean over seeds with Student's t, and each seed's interval by user, paired."""
    effects = [compare((a.next_day, a.sessions), (b.next_day, b.sessions), 0.95, same_users=True) for a, b in zip(found, base, strict=True)]
    values = np.array([effect.effect for effect in effects])
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else None
    return {
        "effect": float(values.mean()),
        "seed_interval": None if half is None else [float(values.mean() - half), float(values.mean() + half)],
        "user_intervals": [[effect.lower, effect.upper] for effect in effects],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ml-100k")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/rl_pays"), help="cells; kept, and gone on with")
    parser.add_argument("--requests", type=int, help="requests that PPO and TD3 learn from; give another --out")
    parser.add_argument("--methods", nargs="*", help="only these cells, without a summary")
    parser.add_argument("--quick", action="store_true", help="the toy world, one seed, a few hundred steps")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.quick:
        options.data, options.seeds, options.out = "", 1, options.out / "quick"
    budget = QUICK if options.quick else Budget()
    budget = replace(budget, requests=options.requests or budget.requests)
    options.out.mkdir(parents=True, exist_ok=True)
    build = builder(options.data, options.out)
    for seed in range(options.seeds):
        for method in options.methods or (*ONCE, "cem", *LEARNED):
            if seed == 0 or method not in ONCE:
                cell(build, method, seed, budget, options.out)
    if options.methods:
        return
    rows = summary(options.out, options.seeds)
    if not options.json:
        for method, row in rows.items():
            print(f"{method:10} {row}")
    print(
        json.dumps({"benchmark": "rl_pays", "data": options.data or "toy", "seeds": options.seeds, "budget": asdict(budget), "rows": rows})
    )


if __name__ == "__main__":
    main()
