"""PrefRec: updates per core-second at batch 256 beside TD3, with and without relabelling by a learned reward; and the reward's own steps.

Layers of 256 and 256 on a log of the reference environment (14 features, 6 numbers an action), sampling included, in interleaved rounds.
With a learned reward (3 members, 3 layers of 64), every batch is relabelled and every tenth update the reward learns from 64 pairs of 24
requests; mean and deviation are estimated anew every 1,000th, which falls into the first round alone. B-Pref's reward has three layers of
256 and learns from 128 pairs. The comparison of policies is ``recrl reproduce prefrec``.

python benchmarks/prefrec.py --json
python benchmarks/prefrec.py --quick
"""

from __future__ import annotations

from typing import Any

from _timing import Work, answer, counted, interleaved, rows  # beside this script

from recrl.algorithms.prefrec import PrefRec, PrefRecConfig
from recrl.algorithms.task import Task
from recrl.algorithms.td3 import TD3, TD3Config
from recrl.core.objective import Objective, Signal
from recrl.core.torch.streams import TensorStreams
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig
from recrl.preferences.pairs import PairBatches, PairConfig, draw_pairs, teach
from recrl.preferences.reward import LearnedReward, PreferenceReward, RewardConfig
from recrl.preferences.teacher import Teacher
from recrl.preferences.trajectories import FixedBuffer, Trajectories, all_rows, simulate_log
from recrl.preferences.windows import WindowConfig, cut_windows
from recrl.replay.samplers import UniformSampler
from simulators.fidelity.prefrec import PrefRecWorld

BATCH = 256


def speed(rounds: int) -> dict[str, Any]:
    """Steps per core-second, their share outside matrix products, and milliseconds a step."""
    found = rows(interleaved(works(), rounds))
    return {name: row if isinstance(row, float) else {**row, "ms": 1_000 / row["median"]} for name, row in found.items()}


def works(users: int = 200) -> dict[str, Work]:
    """All that is measured, by name."""
    world = PrefRecWorld()
    log = simulate_log(world, world.population(users), world.logged, TensorStreams(0))
    flat, wide = EncoderConfig("flat", features=14), (256, 256)
    actor, task = ActorConfig(flat, wide), Task(world.action_spec, Objective(Signal("return")))
    trajectories = Trajectories(log, returns=3)
    windows = cut_windows(trajectories, WindowConfig())
    pairs = teach(trajectories, windows, draw_pairs(windows, PairConfig(2_000, held_out=10), 0), "both", Teacher(), 0)
    train, logged = PairBatches(trajectories, pairs.of("train"), 0), UniformSampler(FixedBuffer(all_rows(log)), None, 0)

    def learns(learner: TD3 | PrefRec, relabel: PreferenceReward | None = None) -> Work:
        def update(step: int) -> None:
            batch = logged.sample(BATCH, step)
            if relabel is not None:
                relabel.update(batch)
                batch = relabel.apply(batch)
            learner.update(batch)

        return 20, counted(update)

    def judges(hidden: tuple[int, ...], batch_pairs: int, count: int) -> Work:
        reward = LearnedReward(RewardConfig(flat, hidden, batch_pairs=batch_pairs), task)
        return count, counted(lambda step: reward.learn(*train.sample(batch_pairs, step)))

    config = PrefRecConfig(actor, wide)
    relabelled = PreferenceReward(LearnedReward(RewardConfig(flat), task), train, logged)
    return {
        "td3": learns(TD3(TD3Config(actor=actor, critic_hidden=wide), task, 0)),
        "prefrec, reward as logged": learns(PrefRec(config, task, 0)),
        "prefrec, learned reward": learns(PrefRec(config, task, 0), relabelled),
        "reward step, layers of 64, 64 pairs": judges((64, 64, 64), 64, 5),
        "reward step, layers of 256, 128 pairs": judges((256, 256, 256), 128, 1),
    }


if __name__ == "__main__":
    answer(speed, __doc__)
