"""Fitted Q evaluation beside d3rlpy's: same data, networks, updates and batch size; values over seeds, against the value in closed form.

A linear-quadratic process, s' = .7 s + a + noise, r = -(s^2 + a^2 / 2), logged with a wide policy; the target is a = -.4 s. Both see all
rows: ours, which never predicts a user by a network that saw it, gets the log twice, each copy as one user.

python benchmarks/ope_fqe.py --json
python benchmarks/ope_fqe.py --small --json         # 3 seeds, 600 steps
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import d3rlpy
import numpy as np
import structlog
import torch
from d3rlpy.dataset import MDPDataset
from d3rlpy.logging import NoopAdapterFactory
from d3rlpy.models.encoders import VectorEncoderFactory
from d3rlpy.ope import FQE
from d3rlpy.ope import FQEConfig as PeerConfig

from offline_eval.fqe import FQEConfig, InMemory, fqe
from recrl.core.contracts import Action, ActionSpec, Observation, Transitions
from recrl.core.objective import Signal

SESSIONS, STEPS_EACH, DISCOUNT = 400, 10, 0.6
HIDDEN, BATCH, RATE, RENEW = (64, 64), 128, 1e-3, 50
GAIN, NOISE = -0.4, 0.1


class Target:
    """Actions -0.4 s, as our contract and as d3rlpy ask for them."""

    action_spec = ActionSpec("continuous", (1,), low=-1.0, high=1.0)

    def act(self, observation: Observation, *_: Any, **__: Any) -> Action:
        return Action(GAIN * observation.features)

    @property
    def impl(self) -> Target:
        return self

    def predict_best_action(self, x: torch.Tensor) -> torch.Tensor:
        return GAIN * x


def logged() -> dict[str, np.ndarray]:
    """Sessions of STEPS_EACH steps; the last one ends for good, so that its return is its reward."""
    rng, rows = np.random.default_rng(0), []
    state = rng.uniform(-1.5, 1.5, SESSIONS)
    for step in range(STEPS_EACH):
        action = (GAIN * state + rng.normal(0, 0.4, SESSIONS)).clip(-1, 1)
        following = 0.7 * state + action + rng.normal(0, NOISE, SESSIONS)
        done = np.full(SESSIONS, step == STEPS_EACH - 1)
        rows.append((state, action, -(state**2 + 0.5 * action**2), following, done))
        state = following
    return dict(zip(("s", "a", "r", "next", "done"), (np.stack(c, axis=1).ravel() for c in zip(*rows, strict=True)), strict=True))


def ours(log: dict[str, np.ndarray], seed: int, steps: int) -> float:
    """Mean value of the first states by our FQE."""
    twice = {name: np.concatenate([x, x]) for name, x in log.items()}
    n = log["s"].size

    def column(name: str) -> torch.Tensor:
        return torch.tensor(twice[name], dtype=torch.float32)[:, None]

    never = torch.zeros(2 * n, dtype=torch.bool)
    batch = Transitions(
        Observation(features=column("s")),
        column("a"),
        column("r"),
        Observation(features=column("next")),
        torch.as_tensor(twice["done"]),
        never,
        never,
    )
    config = FQEConfig(HIDDEN, steps, BATCH, RATE, RENEW, deterministic=True, seed=seed)
    signal = Signal("reward", discount_within=DISCOUNT)
    found = fqe(InMemory(batch), Target(), np.repeat([0, 1], n), signal=signal, config=config)  # type: ignore[arg-type]
    return float(found.target_value[:n:STEPS_EACH].mean())


def peer(log: dict[str, np.ndarray], seed: int, steps: int) -> float:
    """The same by d3rlpy's."""
    d3rlpy.seed(seed)
    columns = [log[name].astype(np.float32)[:, None] for name in ("s", "a", "r")]
    data = MDPDataset(*columns, terminals=log["done"].astype(np.float32), action_space=d3rlpy.ActionSpace.CONTINUOUS)
    config = PeerConfig(
        learning_rate=RATE,
        encoder_factory=VectorEncoderFactory(list(HIDDEN)),
        batch_size=BATCH,
        gamma=DISCOUNT,
        target_update_interval=RENEW,
    )
    found = FQE(algo=Target(), config=config)  # type: ignore[arg-type]
    found.fit(data, n_steps=steps, n_steps_per_epoch=steps, show_progress=False, logger_adapter=NoopAdapterFactory(), save_interval=10**9)
    first = log["s"][::STEPS_EACH].astype(np.float32)[:, None]
    return float(found.predict_value(first, GAIN * first).mean())


def exact(state: np.ndarray) -> float:
    """Mean value of states with STEPS_EACH steps left, by backward induction on v = -(p s^2 + c)."""
    p, c, closed = 0.0, 0.0, 0.7 + GAIN
    for _ in range(STEPS_EACH):
        p, c = 1 + 0.5 * GAIN**2 + DISCOUNT * p * closed**2, DISCOUNT * (p * NOISE**2 + c)
    return float(-(p * state**2 + c).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--small", action="store_true", help="3 seeds, 600 steps")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.small:
        options.seeds, options.steps = 3, 600
    torch.set_num_threads(1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    log, found, cost = logged(), {"ours": [], "d3rlpy": []}, {}
    for name, estimate in (("ours", ours), ("d3rlpy", peer)):
        started = time.process_time()
        found[name] = [estimate(log, seed, options.steps) for seed in range(options.seeds)]
        # ours fits two networks where d3rlpy fits one
        cost[name] = 1e3 * (time.process_time() - started) / (options.seeds * options.steps * (2 if name == "ours" else 1))
    means = {name: float(np.mean(values)) for name, values in found.items()}
    spread = {name: float(np.std(values, ddof=1)) for name, values in found.items()}
    result = {
        "benchmark": "ope_fqe",
        "seeds": options.seeds,
        "steps": options.steps,
        "exact": exact(log["s"][::STEPS_EACH]),
        "mean": means,
        "spread": spread,
        "apart": means["ours"] - means["d3rlpy"],
        "spreads_apart": abs(means["ours"] - means["d3rlpy"]) / spread["d3rlpy"],
        "core_ms_an_update": cost,
        "values": found,
    }
    print(json.dumps(result, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
