"""The learners side by side with Stable-Baselines3's and d3rlpy's: returns over paired seeds, updates per core-second on equal work.

Online, TD3, SAC and DDPG act in Pendulum-v1 beside Stable-Baselines3's. Offline, TD3+BC, AWAC, IQL, CQL and BCQ learn beside d3rlpy's from
20,000 transitions of Pendulum-v1 that a half-trained and noisy policy of ours has collected; they are made anew from a seed where they
are absent. Actions are scaled to [-1, 1], logged rewards are divided by 10. Both sides get the same networks, learning rates, batch,
discount, number of updates and options, and are evaluated without noise on the same 20 episodes a seed. Intervals are Student's t over
paired seeds. Speed is measured on 17 features, 6 actions and hidden layers of 256 and 256, in interleaved rounds, sampling included.

Each cell (learner, side, seed), and each learner's speed, is one JSON file in --cells: a run that was stopped goes on where it was, and
later ones add seeds.

python benchmarks/learners.py --json
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import torch
from _timing import counted, interleaved  # beside this script
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scipy import stats
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import NormalActionNoise

from recrl.algorithms import REGISTRY
from recrl.algorithms.task import Learner, Task
from recrl.core.contracts import ActionSpec, Observation, Policy, Transitions
from recrl.core.files import read_json, write_json
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

ONLINE, OFFLINE = ("td3", "sac", "ddpg"), ("td3_bc", "awac", "iql", "cql", "bcq")
BATCH, WARMUP, LOGGED, LOGGER_STEPS, LOGGER_NOISE, REWARD_SCALE = 256, 1_000, 20_000, 5_000, 0.5, 0.1
SPEED_LAYERS = (256, 256)
RATE = 1e-3
DISCOUNT = {"online": 0.98, "offline": 0.99}
Layers = tuple[int, ...]
Act = Callable[[np.ndarray], np.ndarray]


def pendulum() -> gym.Env[Any, Any]:
    """Pendulum-v1 with actions in [-1, 1]."""
    return gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), np.float32(-1.0), np.float32(1.0))


def learner(name: str, features: int, actions: int, layers: Layers, seed: int) -> Learner:
    """Our learner with the shared settings, of a task with one reward."""
    kind = REGISTRY[name].config_type
    start = {"sac": 0.8, "cql": 0.8, "awac": 0.3, "iql": 0.3}.get(name, 0.1)
    actor = ActorConfig(EncoderConfig("flat", features=features), layers, start)
    config = kind(actor=actor, critic_hidden=layers, **{option: RATE for option in vars(kind()) if option.endswith("_learning_rate")})
    signal = Signal("reward", discount_within=DISCOUNT["online" if name in ONLINE else "offline"])
    return REGISTRY[name](config, Task(ActionSpec("continuous", (actions,)), Objective(signal)), seed)


def stable(name: str, env: gym.Env[Any, Any], layers: Layers, seed: int, capacity: int) -> Any:
    """Stable-Baselines3's learner with the shared settings."""
    size = int(np.prod(env.action_space.shape or (1,)))
    noise = {} if name == "sac" else {"action_noise": NormalActionNoise(np.zeros(size), np.full(size, 0.1))}
    return {"td3": sb3.TD3, "sac": sb3.SAC, "ddpg": sb3.DDPG}[name](
        "MlpPolicy",
        env,
        learning_rate=RATE,
        buffer_size=capacity,
        learning_starts=WARMUP,
        batch_size=BATCH,
        gamma=DISCOUNT["online"],
        train_freq=1,
        gradient_steps=1,
        policy_kwargs={"net_arch": list(layers)},
        seed=seed,
        device="cpu",
        **noise,
    )


def offline_peer(name: str, layers: Layers) -> Any:
    """d3rlpy's learner with the shared settings, not built yet."""
    import d3rlpy
    from d3rlpy.models.encoders import VectorEncoderFactory

    shape = VectorEncoderFactory(list(layers))
    roles = ("actor", "critic", *{"iql": ("value",), "bcq": ("imitator",)}.get(name, ()))
    options: dict[str, Any] = {f"{role}_encoder_factory": shape for role in roles}
    options |= {f"{role}_learning_rate": RATE for role in roles if role != "value"}
    if name == "cql":
        # one fixed weight, as ours
        options |= {"temp_learning_rate": RATE, "alpha_learning_rate": 0.0, "alpha_threshold": 0.0, "conservative_weight": 5.0}
    if name == "bcq":
        options |= {"n_action_samples": 10}
    configs = {"td3_bc": "TD3PlusBC", "awac": "AWAC", "iql": "IQL", "cql": "CQL", "bcq": "BCQ"}
    config = getattr(d3rlpy.algos, f"{configs[name]}Config")
    return config(batch_size=BATCH, gamma=DISCOUNT["offline"], **options).create(device="cpu:0")


def acting(policy: Policy) -> Act:
    """What our policy does without noise."""
    streams = TensorStreams(0)
    return lambda seen: policy.act(Observation(features=torch.as_tensor(seen[None])), streams, deterministic=True).value[0].numpy()


def learn_online(name: str, seed: int, steps: int, layers: Layers) -> Policy:
    """Our learner, trained by the online loop of recrl."""
    algorithm = learner(name, 3, 1, layers, seed)
    env = SyncVectorEnv([pendulum], autoreset_mode=AutoresetMode.DISABLED)
    length = OnlineConfig(steps=steps, batch_size=BATCH, warmup=WARMUP, log_every=steps, checkpoint_every=steps, evaluate_every=0)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run", kind="benchmark", config={}, seed=seed)
        train_online(algorithm, GymCollector(env, seed), RingBuffer(steps), length, run, stream=name, seed=seed)
    return algorithm.policy()


def logged(path: Path) -> dict[str, np.ndarray]:
    """What a half-trained policy with noise has collected: episodes of 200 steps, rewards divided by 10."""
    if not path.exists():
        policy, env, draw = learn_online("td3", 1_000, LOGGER_STEPS, (64, 64)), pendulum(), np.random.default_rng(1_000)
        act, rows = acting(policy), []
        for episode in range(LOGGED // 200):
            seen, _ = env.reset(seed=10_000 + episode)
            for _ in range(200):
                action = np.clip(act(seen) + LOGGER_NOISE * draw.normal(size=1), -1.0, 1.0).astype(np.float32)
                then, reward, *_ = env.step(action)
                rows.append((seen, action, np.float32(reward * REWARD_SCALE), then))
                seen = then
        columns = [np.stack(column) for column in zip(*rows, strict=True)]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **dict(zip(("seen", "action", "reward", "then"), columns, strict=True)))
    with np.load(path) as held:
        return dict(held)


def sampler_of(log: dict[str, np.ndarray], seed: int) -> UniformSampler:
    """Batches of a log; the last row of each episode is left out, as d3rlpy does."""
    kept = np.flatnonzero(np.arange(len(log["reward"])) % 200 != 199)
    ring, never = RingBuffer(len(kept)), torch.zeros(len(kept), dtype=torch.bool)
    seen, action, reward, then = (torch.from_numpy(log[name][kept]) for name in ("seen", "action", "reward", "then"))
    ring.add(Transitions(Observation(features=seen), action, reward.unsqueeze(1), Observation(features=then), never, never, never))
    return UniformSampler(ring, None, seed)


def dataset_of(log: dict[str, np.ndarray]) -> Any:
    """The log as d3rlpy keeps it."""
    from d3rlpy.dataset import MDPDataset

    ends = (np.arange(len(log["reward"])) % 200 == 199).astype(np.float32)
    return MDPDataset(log["seen"], log["action"], log["reward"], np.zeros_like(ends), ends)


def train(name: str, side: str, seed: int, options: argparse.Namespace) -> Act:
    """Train one cell; returns the deterministic policy."""
    layers = tuple(options.layers)
    if name in ONLINE:
        if side == "recrl":
            return acting(learn_online(name, seed, options.steps, layers))
        model = stable(name, pendulum(), layers, seed, options.steps).learn(options.steps)
        return lambda seen: model.predict(seen, deterministic=True)[0]
    log = logged(options.cells / "pendulum.npz")
    if side == "recrl":
        ours, sampler = learner(name, 3, 1, layers, seed), sampler_of(log, seed)
        for step in range(1, options.updates + 1):
            ours.update(sampler.sample(BATCH, step))
        return acting(ours.policy())
    import d3rlpy

    d3rlpy.seed(seed)
    peer, dataset = offline_peer(name, layers), dataset_of(log)
    peer.build_with_dataset(dataset)
    for _ in range(options.updates):
        peer.update(dataset.sample_transition_batch(BATCH))
    return lambda seen: peer.predict(seen[None])[0]


def mean_return(act: Act, seed: int, episodes: int) -> float:
    """Mean return over episodes that depend on the seed alone."""
    env, total = pendulum(), 0.0
    for episode in range(episodes):
        seen, _ = env.reset(seed=100_000 + 1_000 * seed + episode)
        over = False
        while not over:
            seen, reward, terminated, truncated, _ = env.step(act(seen))
            total, over = total + float(reward), terminated or truncated
    return total / episodes


def cell(name: str, side: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """One trained and evaluated policy, from its file where it was done before."""
    length = options.steps if name in ONLINE else options.updates
    path = options.cells / f"{name}-{side}-{length}-{'x'.join(map(str, options.layers))}-{options.episodes}-seed{seed}.json"
    if not path.exists():
        started = time.process_time()
        if side == "random":
            draw = np.random.default_rng(seed)
            value = mean_return(lambda seen: draw.uniform(-1.0, 1.0, 1).astype(np.float32), seed, options.episodes)
        else:
            value = mean_return(train(name, side, seed, options), seed, options.episodes)
        write_json(path, {"return": value, "core_seconds": time.process_time() - started, "load": os.getloadavg()[0]})
        print(path.stem, f"{value:.1f}", file=sys.stderr, flush=True)
    return read_json(path)


def interval(values: np.ndarray) -> list[float]:
    """95 % interval of a mean, Student's t."""
    if len(values) < 2:
        return [float("nan")] * 2
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return [float(values.mean() - half), float(values.mean() + half)]


def returns(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Returns of both sides over paired seeds, and the interval of their difference."""
    sides = ("recrl", "sb3" if name in ONLINE else "d3rlpy")
    found = {side: np.array([cell(name, side, seed, options)["return"] for seed in range(options.seeds)]) for side in sides}
    chance = np.array([cell("td3", "random", seed, options)["return"] for seed in range(options.seeds)])
    ours, theirs = found.values()
    return {
        "peer": sides[1],
        "returns": {side: values.tolist() for side, values in found.items()},
        "mean": {**{side: float(values.mean()) for side, values in found.items()}, "random": float(chance.mean())},
        "difference": float((ours - theirs).mean()),
        "interval": interval(ours - theirs),
    }


class Blank(gym.Env[np.ndarray, np.ndarray]):
    """Spaces of the speed test; never stepped."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (17,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (6,), np.float32)


def updates(name: str, kept: int = 10_000) -> dict[str, Callable[[int], Any]]:
    """Functions that do ``n`` updates, on the same transitions; d3rlpy's drawing of batches is slow, so it is timed without it too."""
    draw = np.random.default_rng(0)
    log = {part: draw.normal(size=(kept, 17)).astype(np.float32) for part in ("seen", "then")}
    log |= {"action": draw.uniform(-1.0, 1.0, (kept, 6)).astype(np.float32), "reward": np.zeros(kept, np.float32)}
    ours, sampler = learner(name, 17, 6, SPEED_LAYERS, 0), sampler_of(log, 0)
    update = counted(lambda step: ours.update(sampler.sample(BATCH, step)))
    if name in ONLINE:
        model = stable(name, Blank(), SPEED_LAYERS, 0, kept)
        model.set_logger(configure(None, []))
        for k in range(kept):
            model.replay_buffer.add(*(log[part][k : k + 1] for part in ("seen", "then", "action")), np.zeros(1), np.zeros(1), [{}])
        return {"recrl": update, "sb3": lambda count: model.train(count, BATCH)}
    peer, dataset = offline_peer(name, SPEED_LAYERS), dataset_of(log)
    peer.build_with_dataset(dataset)
    batch = dataset.sample_transition_batch(BATCH)

    def theirs(count: int) -> None:
        for _ in range(count):
            peer.update(dataset.sample_transition_batch(BATCH))

    return {"recrl": update, "d3rlpy": theirs, "d3rlpy without sampling": lambda count: [peer.update(batch) for _ in range(count)]}


def speed(name: str, rounds: int) -> dict[str, Any]:
    """Updates per core-second, our ratio to each other row over interleaved rounds, and the share of time in matrix products."""
    count = {"cql": 2, "td3": 20}.get(name, 10)
    found = interleaved({side: (count, function) for side, function in updates(name).items()}, rounds)
    return {
        "updates_per_core_second": {side: float(np.median(one.rates)) for side, one in found.items()},
        "best_updates_per_core_second": {side: float(one.rates.max()) for side, one in found.items()},
        "ratio": {side: found["recrl"].over(one) for side, one in found.items() if side != "recrl"},
        "share_in_matrix_products": {side: one.in_products for side, one in found.items()},
        "load": os.getloadavg()[0],
    }


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for of one learner."""
    found: dict[str, Any] = {}
    if options.rounds:
        path = options.cells / f"{name}-speed-{options.rounds}.json"
        if not path.exists():
            write_json(path, speed(name, options.rounds))
        found["speed"] = read_json(path)
    if options.seeds:
        found["pendulum"] = returns(name, options)
    return found


def main() -> None:
    """Measure what is missing and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*ONLINE, *OFFLINE], default=[*ONLINE, *OFFLINE])
    parser.add_argument("--seeds", type=int, default=3, help="0 leaves the returns out")
    parser.add_argument("--steps", type=int, default=5_000, help="online: steps, and updates after 1,000 random ones")
    parser.add_argument("--updates", type=int, default=3_000, help="offline")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--layers", type=int, nargs="+", default=[64, 64], help="hidden layers on Pendulum; the speed test has 256 256")
    parser.add_argument("--rounds", type=int, default=20, help="interleaved rounds of the speed test; 0 leaves it out")
    parser.add_argument("--cells", type=Path, default=Path("runs/learners"), help="where finished cells lie")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as recrl's training loops do; both sides have it
    if importlib.util.find_spec("d3rlpy") is None and set(options.only) & set(OFFLINE):
        parser.error("d3rlpy is absent: make peers, or --only " + " ".join(ONLINE))
    options.cells.mkdir(parents=True, exist_ok=True)
    # d3rlpy logs to the standard output, which is the result's
    with contextlib.redirect_stdout(sys.stderr):
        found = {name: measured(name, options) for name in options.only}
    if options.json:
        print(json.dumps(found))
        return
    for name, parts in found.items():
        if "speed" in parts:
            rates = parts["speed"]["updates_per_core_second"]
            print(
                f"{name:7}",
                *(f"{side} {rate:.1f}" for side, rate in rates.items()),
                "updates per core-second; ratio",
                parts["speed"]["ratio"],
            )
        if "pendulum" in parts:
            table = parts["pendulum"]
            print(f"{name:7} return {table['mean']}; recrl - {table['peer']} {table['difference']:.1f} {table['interval']}")


if __name__ == "__main__":
    main()
