"""PrefRec finds what teachers want: a planted reward's order, and a policy with deeper sessions and quicker returns than its log's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from recrl.algorithms.bc import BC, BCConfig
from recrl.algorithms.prefrec import PrefRec, PrefRecConfig
from recrl.algorithms.task import Task
from recrl.core.contracts import ActionSpec, Observation, Transitions
from recrl.core.objective import Objective, Signal
from recrl.core.ragged import Offsets
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig
from recrl.preferences.pairs import SPLITS, PairBatches, PairConfig, draw_pairs, teach
from recrl.preferences.reward import LearnedReward, PreferenceReward, RewardConfig, RewardPretraining
from recrl.preferences.teacher import Teacher
from recrl.preferences.trajectories import FixedBuffer, Trajectories, all_rows, simulate_log
from recrl.preferences.windows import WindowConfig, cut_windows
from recrl.replay.samplers import UniformSampler
from simulators.fidelity.prefrec import PrefRecWorld


def planted(seed: int, lengths: np.ndarray) -> tuple[Transitions, torch.Tensor]:
    """Segments of random states and actions, and what a row truly earns."""
    n, draws = int(lengths.sum()), TensorStreams(seed)
    drawn = draws.uniform(torch.arange(n), 0, Purpose.USERS, (4,)) * 2 - 1
    seen, none = Observation(features=drawn[:, :2]), torch.zeros(n, dtype=torch.bool)
    batch = Transitions(seen, drawn[:, 2:], torch.zeros(n, 1), seen, none, none, none, segments=Offsets.from_lengths(lengths))
    return batch, drawn[:, 0] * drawn[:, 2] - drawn[:, 3].square()


@pytest.mark.parametrize(("aggregate", "lengths"), [("sum", (8, 9)), ("mean", (3, 15))])
def test_the_order_of_a_planted_reward_is_recovered(aggregate, lengths):
    """1,500 pairs labelled by chance with sigmoid(4 * difference): the order of fresh rows. Over 2,000 rows the standard
    error of a rank correlation of 0 is .022: chance alone passes .12 once in 1e7; what has learned passes .8."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(*lengths, 3_000)
    batch, true = planted(1, sizes)
    total = torch.from_numpy(batch.segments.sum(true.numpy()))
    value = total if aggregate == "sum" else total / torch.from_numpy(sizes)
    chance = torch.sigmoid(4.0 * (value[:1500] - value[1500:]))
    label = (torch.from_numpy(rng.random(1500)) < chance).float()
    config = RewardConfig(EncoderConfig("flat", features=2), (32, 32), aggregate=aggregate, learning_rate=3e-3)
    reward = LearnedReward(config, Task(ActionSpec("continuous", (2,))), seed=0)
    for _ in range(120):
        reward.learn(batch, label)
    fresh, known = planted(2, np.full(200, 10))
    assert spearmanr(reward.score(fresh).numpy(), known.numpy()).statistic > 0.8
    untrained = LearnedReward(config, Task(ActionSpec("continuous", (2,))), seed=0)
    assert abs(spearmanr(untrained.score(fresh).numpy(), known.numpy()).statistic) < 0.6


@pytest.fixture(scope="module")
def house():
    """The reference environment, a log of it, and its clone."""
    torch.set_num_threads(1)
    world = PrefRecWorld()
    log = simulate_log(world, world.population(600), world.logged, TensorStreams(0))
    actor = ActorConfig(EncoderConfig("flat", features=14), (64,), 0.3)
    task = Task(world.action_spec, Objective(Signal("return", discount_within=0.98, discount_across=0.98)))
    rows = UniformSampler(FixedBuffer(all_rows(log)), None, 0)
    clone = BC(BCConfig(actor, learning_rate=3e-3), task, 0)
    for step in range(400):
        clone.update(rows.sample(256, step))
    return world, log, actor, task, rows, clone


@torch.no_grad()
def lives(world, policy, users=150) -> np.ndarray:
    """Requests of each user's life and days away, by the same luck for every policy, (users, 2)."""
    streams = TensorStreams(77)
    state = world.initial_state(world.population(users, first=10_000), streams)
    total = torch.zeros(users, 2)
    while bool(state.alive.any()):
        alive = state.alive
        state, outcome = world.transition(state, policy.centre(world.observe(state)), streams)
        total += torch.stack([alive.float(), outcome.gap_days], dim=1)
    return total.numpy() / 8


def learned(house, mistake):
    world, log, actor, task, rows, _ = house
    trajectories = Trajectories(log, returns=3)
    windows = cut_windows(trajectories, WindowConfig())
    pairs = teach(trajectories, windows, draw_pairs(windows, PairConfig(1000, held_out=100), 0), "both", Teacher(mistake), 0)
    train, valid, test = (PairBatches(trajectories, pairs.of(part), 0) for part in SPLITS)
    config = RewardConfig(actor.encoder, (32, 32), 2, batch_pairs=48, learning_rate=2e-3, pretraining_steps=300, update_every=0)
    reward = RewardPretraining(LearnedReward(config, task, 0), train, valid).run()
    learner = PrefRec(PrefRecConfig(actor, (64,), beta=5.0, learning_rate=3e-3, tau=0.05), task, 0)
    transform = PreferenceReward(reward, None, rows)
    for step in range(400):
        batch = rows.sample(128, step)
        transform.update(batch)
        learner.update(transform.apply(batch))
    truth = PairBatches(trajectories, replace(test.pairs, preferred=test.pairs.truth), 0)
    return reward.accuracy(truth), lives(world, learner.policy())


def test_preferences_deepen_sessions_and_bring_users_back(house):
    """Against cloning, paired over 150 users with the same luck: 4 standard errors, false-alarm rate 3e-5 each."""
    world, *_, clone = house
    accuracy, found = learned(house, 0.1)
    gain = found - lives(world, clone.policy())
    z = gain.mean(0) / (gain.std(0) / np.sqrt(len(gain)))
    assert accuracy > 0.6
    assert z[0] > 4
    assert z[1] < -4


def test_swapped_labels_do_the_opposite(house):
    """A teacher who always errs: shallower sessions and longer gaps than cloning, by as many standard errors."""
    world, *_, clone = house
    accuracy, found = learned(house, 1.0)
    loss = found - lives(world, clone.policy())
    z = loss.mean(0) / (loss.std(0) / np.sqrt(len(loss)))
    assert accuracy < 0.4
    assert z[0] < -4
    assert z[1] > 4
