"""What the benchmarks of learners share: work done in turns, so that whatever else the machine does hits all of it, and a command line."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from recrl.training.memory import keep_freed_memory

_MATRIX_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")

Work = tuple[int, Callable[[int], Any]]
"""Steps a round, and a function that does ``n`` of them."""


@dataclass(frozen=True)
class Measured:
    """Steps per core-second of each round, and the share of the time in matrix products."""

    rates: np.ndarray
    in_products: float

    def row(self) -> dict[str, float]:
        """For the table of a benchmark."""
        return {"median": float(np.median(self.rates)), "best": float(self.rates.max()), "outside matrix products": 1.0 - self.in_products}

    def over(self, other: Measured) -> list[float]:
        """Median ratio to another's rates, round by round, with a bootstrap's 95 % interval."""
        ratio = self.rates / other.rates
        picked = np.random.default_rng(0).integers(len(ratio), size=(2_000, len(ratio)))
        return [float(np.median(ratio)), *map(float, np.quantile(np.median(ratio[picked], axis=1), (0.025, 0.975)))]


def interleaved(work: Mapping[str, Work], rounds: int) -> dict[str, Measured]:
    """Each work in turns, after one that is not counted; one thread, and memory kept as the training loops keep it."""
    torch.set_num_threads(1)
    keep_freed_memory()
    rates: dict[str, list[float]] = {name: [] for name in work}
    for count, function in work.values():
        function(count)
    for _ in range(rounds):
        for name, (count, function) in work.items():
            started = time.process_time()
            function(count)
            rates[name].append(count / (time.process_time() - started))
    return {name: Measured(np.array(rates[name]), _in_products(count, function)) for name, (count, function) in work.items()}


def counted(step: Callable[[int], Any]) -> Callable[[int], None]:
    """A function that does ``n`` steps, each told its number from 1 on, which goes on from call to call."""
    numbers = itertools.count(1)

    def steps(count: int) -> None:
        for number in itertools.islice(numbers, count):
            step(number)

    return steps


def _in_products(count: int, function: Callable[[int], Any]) -> float:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        function(count)
    events = seen.key_averages()
    return sum(e.self_cpu_time_total for e in events if e.key in _MATRIX_PRODUCTS) / sum(e.self_cpu_time_total for e in events)


def rows(found: Mapping[str, Measured]) -> dict[str, Any]:
    """The table of a benchmark, the load of the machine first."""
    return {"load average": os.getloadavg()[0]} | {name: measured.row() for name, measured in found.items()}


def answer(measure: Callable[[int], dict[str, Any]], doc: str | None) -> None:
    """The command line of a benchmark of speed: measure as many rounds as are asked for, and print."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="three rounds: no verdict")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(3 if arguments.quick else arguments.rounds)
    if arguments.quick:
        print("quick: no verdict", file=sys.stderr)
    if arguments.json:
        print(json.dumps(found))
        return
    for name, row in found.items():
        print(f"{name:<38} {row if isinstance(row, float) else json.dumps(row)}")
