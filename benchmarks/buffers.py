"""Replay buffers side by side: bytes a transition, and batches of 256 drawn per core-second.

Two kinds of transitions: of a recommender (the last 50 items with their feedback, a clock, one item as the action) and of a control task
(17 features, 6 actions). recrl keeps ids and a byte of feedback and gives back integers; the peers keep flat vectors of floats, here the
same ids, feedback and clock as numbers: what a learner reads as features would be larger still. Stable-Baselines3's buffer keeps states
and next states, d3rlpy's each state once, in its episode. Draws are timed in interleaved rounds; d3rlpy is left out where it is not
installed (`make peers`).

python benchmarks/buffers.py --json
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
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import gymnasium as gym
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer

import recrl_datasets as rd
from recrl.core.contracts import Observation, Transitions
from recrl.core.objective import Objective, Signal
from recrl.replay.logged import LoggedBuffer
from recrl.replay.ring import RingBuffer
from recrl.replay.samplers import UniformSampler

BATCH, HISTORY, ITEMS, EPISODE = 256, 50, 7_583, 100
Floats = NDArray[np.float32]
Draw = Callable[[int], Any]


class Kept:
    """One buffer: what a transition costs, and a function that draws the batch of a step."""

    def __init__(self, bytes_per_transition: float, draw: Draw) -> None:
        self.bytes_per_transition, self.draw = bytes_per_transition, draw


def generated_log(rows: int, folder: str) -> rd.Log:
    """A log of ``rows`` rows, about 100 a user."""
    draw, users = np.random.default_rng(0), max(1, rows // EPISODE)
    frame = pl.DataFrame(
        {
            "user_id": draw.integers(users, size=rows),
            "item_id": draw.integers(ITEMS, size=rows),
            "timestamp_ms": 1_650_000_000_000 + draw.integers(14 * 86_400_000, size=rows),
            "click": draw.integers(2, size=rows),
        }
    )
    return rd.from_frame(frame, "generated", stores=folder).log()


def ours(rows: int, folder: str) -> dict[str, dict[str, Kept]]:
    """Our buffers by kind of transition."""
    logged = LoggedBuffer(generated_log(rows, folder), Objective(Signal("click")), history=HISTORY)
    ring, control = RingBuffer(rows), RingBuffer(rows)
    for lo in range(0, len(logged), 10_000):
        ring.add(logged.gather(torch.arange(lo, min(lo + 10_000, len(logged)))))
    never = torch.zeros(rows, dtype=torch.bool)
    seen, then, action = (torch.from_numpy(x) for x in control_rows(rows))
    control.add(Transitions(Observation(features=seen), action, torch.zeros(rows, 1), Observation(features=then), never, never, never))

    def kept(buffer: LoggedBuffer | RingBuffer, size: float) -> Kept:
        sampler = UniformSampler(buffer, None, 0)
        return Kept(size, lambda step: sampler.sample(BATCH, step))

    return {
        "recommender": {
            "recrl LoggedBuffer": kept(logged, logged.nbytes() / len(logged)),
            "recrl RingBuffer": kept(ring, ring.bytes_per_transition()),
        },
        "control": {"recrl RingBuffer": kept(control, control.bytes_per_transition())},
    }


def control_rows(rows: int) -> tuple[Floats, Floats, Floats]:
    """States, next states and actions of a control task."""
    draw = np.random.default_rng(1)
    seen, then = (draw.normal(size=(rows, 17)).astype(np.float32) for _ in range(2))
    return seen, then, draw.uniform(-1.0, 1.0, (rows, 6)).astype(np.float32)


def recommender_rows(rows: int) -> tuple[Floats, Floats, Floats]:
    """States, next states and actions of a recommender as flat vectors: ids, feedback and clock as numbers."""
    draw = np.random.default_rng(2)
    parts = (draw.integers(ITEMS, size=(rows + 1, HISTORY)), draw.integers(128, size=(rows + 1, HISTORY)), draw.normal(size=(rows + 1, 4)))
    flat = np.concatenate([part.astype(np.float32) for part in parts], axis=1)
    return flat[:-1], flat[1:], draw.integers(ITEMS, size=(rows, 1)).astype(np.float32)


def of_sb3(seen: Floats, then: Floats, action: Floats) -> Kept:
    """Stable-Baselines3's replay buffer, filled."""
    rows = len(seen)
    spaces = [gym.spaces.Box(-np.inf, np.inf, (array.shape[1],), np.float32) for array in (seen, action)]
    buffer = ReplayBuffer(rows, spaces[0], spaces[1], device="cpu", handle_timeout_termination=True)
    buffer.observations[:, 0], buffer.next_observations[:, 0], buffer.actions[:, 0] = seen, then, action
    buffer.pos, buffer.full = 0, True
    columns = (buffer.observations, buffer.next_observations, buffer.actions, buffer.rewards, buffer.dones, buffer.timeouts)
    return Kept(sum(c.nbytes for c in columns) / rows, lambda step: buffer.sample(BATCH))


def of_d3rlpy(seen: Floats, then: Floats, action: Floats) -> Kept:
    """d3rlpy's replay buffer, filled with episodes of 100 steps."""
    import d3rlpy

    rows = len(seen)
    ends = np.zeros(rows, dtype=np.float32)
    ends[EPISODE - 1 :: EPISODE] = 1.0
    ends[-1] = 1.0
    rewards = np.zeros(rows, dtype=np.float32)
    # it logs to the standard output, where the result goes
    with contextlib.redirect_stdout(sys.stderr):
        data = d3rlpy.dataset.MDPDataset(seen, action, rewards, ends)
    size = (seen.nbytes + action.nbytes + rewards.nbytes) / rows
    return Kept(size, lambda step: data.sample_transition_batch(BATCH))


def measure(buffers: dict[str, Kept], rounds: int, draws: int) -> list[dict[str, Any]]:
    """Bytes and batches per core-second of each, timed in turns."""
    rates: dict[str, list[float]] = {name: [] for name in buffers}
    step = 0
    for _ in range(rounds + 1):
        for name, kept in buffers.items():
            started = time.process_time()
            for _ in range(draws):
                step += 1
                kept.draw(step)
            rates[name].append(draws / (time.process_time() - started))
    # the first round warms up
    medians = {name: float(np.median(rate[1:])) for name, rate in rates.items()}
    return [
        {"buffer": name, "bytes_per_transition": kept.bytes_per_transition, "batches_per_core_second": medians[name]}
        for name, kept in buffers.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="transitions in each buffer")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--draws", type=int, default=20, help="batches a round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    peers: dict[str, Callable[[Floats, Floats, Floats], Kept]] = {"stable-baselines3": of_sb3}
    if importlib.util.find_spec("d3rlpy"):
        peers["d3rlpy"] = of_d3rlpy
    else:
        print("d3rlpy is not installed (make peers): left out", file=sys.stderr)
    found: dict[str, Any] = {"load": os.getloadavg()[0], "rows": options.rows, "batch": BATCH}
    with tempfile.TemporaryDirectory() as folder:
        kinds = ours(options.rows, folder)
    for kind, data in (("recommender", recommender_rows(options.rows)), ("control", control_rows(options.rows))):
        buffers = kinds[kind] | {name: fill(*data) for name, fill in peers.items()}
        found[kind] = measure(buffers, options.rounds, options.draws)
    if options.json:
        print(json.dumps(found))
        return
    for kind in kinds:
        for row in found[kind]:
            print(f"{kind:12} {row['buffer']:20} {row['bytes_per_transition']:7.0f} B {row['batches_per_core_second']:8.0f} batches/core-s")


if __name__ == "__main__":
    main()
