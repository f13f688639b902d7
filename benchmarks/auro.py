"""Updates of AURO a core-second beside those of its baselines, and what acting under the guard costs.

Batch 256, layers of 256 and 256, 17 features, 7 actions, sampling included, in interleaved rounds of 20 updates.

python benchmarks/auro.py --json
python benchmarks/auro.py --rounds 2          # a few seconds
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from recrl.algorithms.auro import AURO
from recrl.algorithms.escp import ESCP
from recrl.algorithms.oac import OAC
from recrl.algorithms.rlur import RLUR
from recrl.algorithms.task import Task
from recrl.algorithms.td3 import TD3
from recrl.core.contracts import ActionSpec, Observation, Transitions
from recrl.core.objective import Objective, Signal
from recrl.core.torch.streams import TensorStreams
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig
from recrl.replay.ring import RingBuffer
from recrl.replay.samplers import UniformSampler

RETURN = Signal("return", discount_within=1.0, discount_across=0.9)


def speed(rounds: int, kept: int = 10_000, count: int = 20) -> dict[str, Any]:
    """Updates a core-second of each, the share of AURO's in matrix products, and seconds of both kinds of acts."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=14)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = speed(options.rounds)
    print(json.dumps({"benchmark": "auro", **found}, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
