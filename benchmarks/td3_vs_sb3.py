"""TD3 and Stable-Baselines3's TD3 side by side: returns on Pendulum-v1 over paired seeds, and updates per core-second on equal work.

Both get the same networks, learning rates, batch, discount, noise (as a share of half the action range), warm-up and number of updates, and
are evaluated without noise on the same episodes. The interval is Student's t over paired seeds. The return range runs from uniformly
random actions to the better of the two means. Speed is measured on 17 features, 6 actions
and hidden layers of 256 and 256, sampling included, in interleaved pairs.

python benchmarks/td3_vs_sb3.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scipy import stats
from stable_baselines3 import TD3 as PeerTD3
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import NormalActionNoise
from torch.profiler import ProfilerActivity, profile

from recrl.algorithms.task import Task
from recrl.algorithms.td3 import TD3, TD3Config
from recrl.core.contracts import ActionSpec, Observation, Transitions
from recrl.core.objective import Objective, Signal
from recrl.core.runs import RunFolder
from recrl.core.torch.streams import TensorStreams
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig
from recrl.replay.ring import RingBuffer
from recrl.replay.samplers import UniformSampler
from recrl.training.collect import GymCollector
from recrl.training.memory import keep_freed_memory
from recrl.training.online import OnlineConfig, train_online

TASK = "Pendulum-v1"
RATE, BATCH, DISCOUNT, NOISE, WARMUP = 1e-3, 256, 0.98, 0.1, 1_000
SPEED_LAYERS = (256, 256)
Layers = tuple[int, ...]
MATRIX_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
Act = Callable[[np.ndarray], np.ndarray]


def learner(features: int, action: ActionSpec, layers: Layers, seed: int) -> TD3:
    """Our learner with the shared settings, of a task with one reward."""
    actor = ActorConfig(EncoderConfig("flat", features=features), layers, NOISE)
    config = TD3Config(actor, layers, actor_learning_rate=RATE, critic_learning_rate=RATE)
    return TD3(config, Task(action, Objective(Signal("reward", discount_within=DISCOUNT))), seed)


def train_ours(seed: int, steps: int, layers: Layers) -> Act:
    """Train through the online loop of recrl; returns the deterministic policy."""
    algorithm = learner(3, ActionSpec("continuous", (1,), low=-2.0, high=2.0), layers, seed)
    env = SyncVectorEnv([lambda: gym.make(TASK)], autoreset_mode=AutoresetMode.DISABLED)
    length = OnlineConfig(
        steps=steps, batch_size=BATCH, warmup=WARMUP, log_every=steps, checkpoint_every=steps, updates_per_step=1, evaluate_every=0
    )
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run", kind="benchmark", config={}, seed=seed)
        train_online(algorithm, GymCollector(env, seed), RingBuffer(steps), length, run, stream="td3", seed=seed)
    policy, streams = algorithm.policy(), TensorStreams(seed)
    return lambda seen: policy.act(Observation(features=torch.as_tensor(seen[None])), streams, deterministic=True).value[0].numpy()


def peer(env: gym.Env[Any, Any], layers: Layers, seed: int, capacity: int) -> PeerTD3:
    """Stable-Baselines3's TD3 with the shared settings."""
    size = int(np.prod(env.action_space.shape or (1,)))
    return PeerTD3(
        "MlpPolicy",
        env,
        learning_rate=RATE,
        buffer_size=capacity,
        learning_starts=WARMUP,
        batch_size=BATCH,
        gamma=DISCOUNT,
        train_freq=1,
        gradient_steps=1,
        action_noise=NormalActionNoise(np.zeros(size), np.full(size, NOISE)),
        policy_kwargs={"net_arch": list(layers)},
        seed=seed,
        device="cpu",
    )


def train_theirs(seed: int, steps: int, layers: Layers) -> Act:
    """Train Stable-Baselines3's TD3; returns the deterministic policy."""
    model = peer(gym.make(TASK), layers, seed, steps).learn(steps)
    return lambda seen: model.predict(seen, deterministic=True)[0]


def mean_return(act: Act, seed: int, episodes: int) -> float:
    """Mean return over episodes that depend on the seed alone."""
    env, total = gym.make(TASK), 0.0
    for episode in range(episodes):
        seen, _ = env.reset(seed=100_000 + 1_000 * seed + episode)
        over = False
        while not over:
            seen, reward, terminated, truncated, _ = env.step(act(seen))
            total, over = total + float(reward), terminated or truncated
    return total / episodes


def returns(seeds: int, steps: int, episodes: int, layers: Layers) -> dict[str, Any]:
    """Returns of both over paired seeds, and the interval of their difference."""
    rows = []
    for seed in range(seeds):
        row: dict[str, float] = {"seed": seed}
        draw = np.random.default_rng(seed)
        row["random"] = mean_return(lambda seen, draw=draw: draw.uniform(-2.0, 2.0, 1), seed, episodes)
        for name, train in (("recrl", train_ours), ("sb3", train_theirs)):
            started = time.process_time()
            act = train(seed, steps, layers)
            row[f"{name}_core_seconds"] = time.process_time() - started
            row[name] = mean_return(act, seed, episodes)
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    ours, theirs, chance = (np.array([row[name] for row in rows]) for name in ("recrl", "sb3", "random"))
    difference = ours - theirs
    span = max(ours.mean(), theirs.mean()) - chance.mean()
    half = stats.t.ppf(0.975, seeds - 1) * difference.std(ddof=1) / np.sqrt(seeds) if seeds > 1 else float("nan")
    interval = [float(difference.mean() - half), float(difference.mean() + half)]
    return {
        "runs": rows,
        "mean": {"recrl": float(ours.mean()), "sb3": float(theirs.mean()), "random": float(chance.mean())},
        "difference": float(difference.mean()),
        "interval": interval,
        "return_range": float(span),
        "interval_as_share_of_range": [x / float(span) for x in interval],
    }


class Blank(gym.Env[np.ndarray, np.ndarray]):
    """Spaces of the speed test; never stepped."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (17,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (6,), np.float32)


def updates(kept: int = 10_000) -> dict[str, Callable[[int], Any]]:
    """Functions that do ``n`` updates of each, on the same transitions."""
    draw = np.random.default_rng(0)
    seen, then = (draw.normal(size=(kept, 17)).astype(np.float32) for _ in range(2))
    action = draw.uniform(-1.0, 1.0, (kept, 6)).astype(np.float32)
    model = peer(Blank(), SPEED_LAYERS, 0, kept)
    model.set_logger(configure(None, []))
    for k in range(kept):
        model.replay_buffer.add(seen[k : k + 1], then[k : k + 1], action[k : k + 1], np.zeros(1), np.zeros(1), [{}])
    ring, never = RingBuffer(kept), torch.zeros(kept, dtype=torch.bool)
    states = [Observation(features=torch.from_numpy(x)) for x in (seen, then)]
    ring.add(Transitions(states[0], torch.from_numpy(action), torch.zeros(kept, 1), states[1], never, never, never))
    ours, sampler, done = learner(17, ActionSpec("continuous", (6,)), SPEED_LAYERS, 0), UniformSampler(ring, None, 0), [0]

    def update(count: int) -> None:
        for _ in range(count):
            done[0] += 1
            ours.update(sampler.sample(BATCH, done[0]))

    return {"recrl": update, "sb3": lambda count: model.train(count, BATCH)}


def speed(pairs: int, count: int = 20) -> dict[str, Any]:
    """Updates per core-second, their ratio over interleaved pairs, and the share of time in matrix products."""
    work = updates()
    rates: dict[str, list[float]] = {name: [] for name in work}
    for function in work.values():
        function(count)
    for _ in range(pairs):
        for name, function in work.items():
            started = time.process_time()
            function(count)
            rates[name].append(count / (time.process_time() - started))
    shares = {}
    for name, function in work.items():
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            function(count)
        events = seen.key_averages()
        products = sum(event.self_cpu_time_total for event in events if event.key in MATRIX_PRODUCTS)
        shares[name] = products / sum(event.self_cpu_time_total for event in events)
    ratio = np.array(rates["recrl"]) / np.array(rates["sb3"])
    draw = np.random.default_rng(0)
    medians = np.median(ratio[draw.integers(len(ratio), size=(2_000, len(ratio)))], axis=1)
    return {
        "updates_per_core_second": {name: float(np.median(rate)) for name, rate in rates.items()},
        "best_updates_per_core_second": {name: max(rate) for name, rate in rates.items()},
        "ratio": float(np.median(ratio)),
        "ratio_interval": [float(x) for x in np.quantile(medians, (0.025, 0.975))],
        "share_in_matrix_products": shares,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--layers", type=int, nargs="+", default=[64, 64], help="hidden layers on Pendulum; the speed test has 256 256")
    parser.add_argument("--pairs", type=int, default=30, help="interleaved pairs of the speed test")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as recrl's training loops do; both sides have it
    found: dict[str, Any] = {"load": os.getloadavg()[0], "speed": speed(options.pairs)}
    if options.seeds:
        found["pendulum"] = returns(options.seeds, options.steps, options.episodes, tuple(options.layers))
    if options.json:
        print(json.dumps(found))
        return
    for name, rate in found["speed"]["updates_per_core_second"].items():
        print(f"{name:6} {rate:6.1f} updates/core-s, {found['speed']['share_in_matrix_products'][name]:.0%} of it matrix products")
    if "pendulum" in found:
        table = found["pendulum"]
        print(f"return {table['mean']}; recrl - sb3 {table['difference']:.1f} {table['interval']}")
        print(f"as a share of the range {table['return_range']:.0f}: {table['interval_as_share_of_range']}")


if __name__ == "__main__":
    main()
