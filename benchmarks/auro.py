"""Updates of AURO a core-second beside those of its baselines, and what acting under the guard costs.

Batch 256, layers of 256 and 256, 17 features, 7 actions, sampling included, in interleaved rounds of 20 updates.

python benchmarks/auro.py --json
python benchmarks/auro.py --rounds 2          # a few seconds
"""

from __future__ import annotations

from typing import Any

import torch
from _timing import Work, answer, counted, interleaved, rows  # beside this script

from recrl.algorithms.auro import AURO
from recrl.algorithms.escp import ESCP
from recrl.algorithms.oac import OAC
from recrl.algorithms.rlur import RLUR
from recrl.algorithms.task import Learner, Task
from recrl.algorithms.td3 import TD3
from recrl.core.contracts import ActionSpec, Observation, Policy, Transitions
from recrl.core.objective import Objective, Signal
from recrl.core.torch.streams import TensorStreams
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig
from recrl.replay.ring import RingBuffer
from recrl.replay.samplers import UniformSampler

RETURN = Signal("return", discount_within=1.0, discount_across=0.9)


def speed(rounds: int, kept: int = 10_000, count: int = 20) -> dict[str, Any]:
    """Updates per core-second of each, and batches of 256 acted on per core-second by the actor and under the guard."""
    draw, never = torch.Generator().manual_seed(0), torch.zeros(kept, dtype=torch.bool)
    seen, then = (Observation(features=torch.randn(kept, 17, generator=draw)) for _ in range(2))
    action, notes = torch.rand(kept, 7, generator=draw) * 2 - 1, {"environment": torch.arange(kept) // 100}
    ring = RingBuffer(kept)
    ring.add(Transitions(seen, action, torch.zeros(kept, 1), then, never, never, never, notes=notes))
    sampler, actor = UniformSampler(ring, None, 0), ActorConfig(EncoderConfig("flat", features=17), (256, 256))
    task = Task(ActionSpec("fusion_weights", (7,)), Objective(RETURN))
    learners = {k.name: k(k.config_type(actor=actor, critic_hidden=(256, 256)), task, 0) for k in (TD3, AURO, RLUR, OAC, ESCP)}

    def updates(learner: Learner) -> Work:
        return count, counted(lambda step: learner.update(sampler.sample(256, step)))

    def acts(policy: Policy) -> Work:
        return count, lambda count: [policy.act(seen[:256], TensorStreams(0), step=k) for k in range(count)]

    auro = learners["auro"]
    found = interleaved(
        {name: updates(learner) for name, learner in learners.items()}
        | {"auro acts, actor alone": acts(auro.policy()), "auro acts, guarded": acts(auro.collect_policy())},
        rounds,
    )
    out = rows(found)
    for name in learners:
        out[name]["of td3"] = found[name].over(found["td3"])[0]
    return out


if __name__ == "__main__":
    answer(speed, __doc__)
