"""TSCAC and the constrained baselines: updates per core-second at batch 256, beside TD3 in interleaved rounds.

Layers of 256 and 256, 17 features, 150 choices (6 numbers for learners of vectors), sampling included. The comparison of their policies is
``recrl reproduce tscac``.

python benchmarks/tscac.py --json
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from _timing import answer, counted, interleaved, rows  # beside this script

from recrl.algorithms import REGISTRY
from recrl.algorithms.task import Task
from recrl.core.contracts import ActionSpec, Observation, Transitions
from recrl.core.objective import Objective, Signal
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig
from recrl.replay.ring import RingBuffer
from recrl.replay.samplers import UniformSampler

ITEMS, BATCH = 150, 256


def speed(rounds: int, count: int = 15) -> dict[str, Any]:
    """Updates per core-second at batch 256 and layers of 256 and 256, sampling included, beside TD3 in interleaved rounds."""
    work = {"td3": _work("td3", 1, 2)}
    for signals in (2, 5):
        work |= {f"tscac, {signals} responses, stage {stage}": _work("tscac", signals, stage) for stage in (1, 2)}
    work |= {f"{name}, 2 responses": _work(name, 2, 2) for name in ("tscac_ddpg", "rcpo", "pareto", "joint_critic")}
    return rows(interleaved({name: (count, function) for name, function in work.items()}, rounds))


def _work(name: str, signals: int, stage: int, kept: int = 10_000) -> Callable[[int], None]:
    """A function that does ``n`` updates: 17 features; 150 choices, or 6 numbers for learners of vectors."""
    draw, never = torch.Generator().manual_seed(0), torch.zeros(kept, dtype=torch.bool)
    vectors = name in ("td3", "tscac_ddpg")
    action = torch.rand(kept, 6, generator=draw) * 2 - 1 if vectors else torch.randint(0, ITEMS, (kept,), generator=draw)
    seen, then = (Observation(features=torch.randn(kept, 17, generator=draw)) for _ in range(2))
    ring = RingBuffer(kept)
    ring.add(Transitions(seen, action, torch.rand(kept, signals, generator=draw), then, never, never, never))
    goal = Objective(Signal("click")).protecting(("like", "follow", "comment", "hate")[: signals - 1])
    spec = ActionSpec("continuous", (6,)) if vectors else ActionSpec("discrete", choices=ITEMS)
    config = REGISTRY[name].config_type(actor=ActorConfig(EncoderConfig("flat", features=17), (256, 256)), critic_hidden=(256, 256))
    if name != "td3":
        # of stage one, what follows the clone
        cloning = {"cloning_share": 1e-12} if name == "tscac" else {}
        config = replace(config, stage_one_updates=0 if stage == 2 else 10**9, **cloning)
    learner, sampler = REGISTRY[name](config, Task(spec, goal), 0), UniformSampler(ring, None, 0)
    return counted(lambda step: learner.update(sampler.sample(BATCH, step)))


if __name__ == "__main__":
    answer(speed, __doc__)
