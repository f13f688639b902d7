"""Preference data: what is judged, who is drawn, how teachers err; relabelling; and the estimator that the page quotes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

import offline_eval
from recrl.algorithms.prefrec import PrefRec, PrefRecConfig
from recrl.algorithms.task import Task
from recrl.checks import check_no_sync
from recrl.checks.clauses import same
from recrl.core.contracts import BatchTransform, LoggedFeedback, Observation, Transitions
from recrl.core.errors import ConfigError, DataError, StorageError
from recrl.core.objective import Objective, Signal
from recrl.core.ragged import Offsets
from recrl.core.runs import RunFolder
from recrl.core.streams import Streams
from recrl.core.torch.streams import TensorStreams
from recrl.core.torch.views import transitions_to
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig
from recrl.preferences.inspection import action_share, inspect_reward
from recrl.preferences.pairs import SPLITS, PairBatches, PairConfig, Pairs, draw_pairs, teach
from recrl.preferences.reward import LearnedReward, PreferenceReward, RewardConfig, RewardPretraining
from recrl.preferences.teacher import Teacher
from recrl.preferences.trajectories import FixedBuffer, Trajectories, all_rows, simulate_log
from recrl.preferences.windows import TASKS, WindowConfig, Yardstick, cut_windows, signals
from recrl.replay.logged import LoggedBuffer
from recrl.replay.samplers import UniformSampler
from recrl.replay.sessions import LoggedSessions
from recrl.training.offline import OfflineConfig, train_offline
from recrl_datasets import split_by_time
from simulators.fidelity.prefrec import PrefRecConfig as WorldConfig
from simulators.fidelity.prefrec import PrefRecWorld
from tests.support import small

WORLD = PrefRecWorld(WorldConfig(sessions=4))
TASK = Task(WORLD.action_spec, Objective(Signal("return")))
FLAT = EncoderConfig("flat", features=14)


class Table:
    """Trajectories written down: rows of (user, session ends, gap), a segment a user."""

    def __init__(self, ends, gaps, lengths):
        self._ends, self._gaps, self._cut = torch.tensor(ends), torch.tensor(gaps), Offsets.from_lengths(lengths)

    def lengths(self):
        return self._cut.lengths

    def gather(self, segment, start, length):
        cut = Offsets.from_lengths(length)
        row = torch.from_numpy((self._cut.values[segment] + start)[cut.segment_ids()] + cut.positions())
        seen, none = Observation(features=row.float().unsqueeze(1)), torch.zeros(len(row), dtype=torch.bool)
        user = torch.from_numpy(self._cut.segment_ids())[row] * 10
        return Transitions(
            seen,
            torch.zeros(len(row), 1),
            -self._gaps[row].float().unsqueeze(1),
            seen,
            none,
            none,
            self._ends[row],
            cluster=user,
            segments=cut,
        )


@pytest.fixture(scope="module")
def log():
    return simulate_log(WORLD, WORLD.population(150), WORLD.logged, TensorStreams(3))


@pytest.fixture(scope="module")
def trajectories(log):
    return Trajectories(log, returns=3)


def table() -> Trajectories:
    """User 0: sessions of 2, 3 and 1 rows with gaps 4, 20 and unknown; user 10: one of 2 with gap 1, and an unfinished one."""
    ends = [False, True, False, False, True, True, False, True, False]
    return Trajectories(Table(ends, [0, 4, 0, 0, 20, 0, 0, 1, 0], [6, 3]))


def test_the_last_session_of_a_user_is_in_no_pair():
    lives = table()
    assert lives.known.tolist() == [True] * 5 + [False] + [True] * 2 + [False]
    assert lives.user.tolist() == [0, 10]
    assert lives.gap_days.tolist() == [0, 4, 0, 0, 20, 0, 0, 1, 0]
    windows = cut_windows(lives, WindowConfig(length=2, stride=1))
    assert list(zip(windows.start, windows.end, windows.user, strict=True)) == [(0, 2, 0), (1, 3, 0), (2, 4, 0), (3, 5, 0), (6, 8, 10)]
    runs = cut_windows(lives, WindowConfig("sessions", sessions=2, length=4))
    assert (runs.start.tolist(), runs.end.tolist(), runs.judged_end.tolist()) == ([0], [4], [5])
    with pytest.raises(DataError, match="no user has 3 sessions"):
        cut_windows(lives, WindowConfig("sessions", sessions=3))


def test_a_log_says_the_same_through_its_sessions():
    """Sessions of the small log: two of four rows a user; the second one's return is unknown, as is what the test part holds."""
    buffer = small.buffer("embedding")
    buffer = LoggedBuffer(small.small_log(), Objective(Signal("return")), encode_action=buffer._encode)
    lives = Trajectories(LoggedSessions(buffer, small.small_log(), "user"))
    assert lives.known.tolist() == ([True] * 4 + [False] * 4) * small.N_USERS
    assert lives.gap_days[lives.ends & lives.known] == pytest.approx(1 - 6 / 1440, abs=1e-6)
    log = small.small_log()
    train = split_by_time(log).train
    buffer = LoggedBuffer(log, Objective(Signal("return")), encode_action=buffer._encode)
    seen = Trajectories(LoggedSessions(buffer, train, "user"))
    row = buffer.rows_of(train, with_next=False)
    returned = seen.ends & seen.known
    assert returned.any()
    assert set(buffer.next_request[row][returned].tolist()) <= set(row.tolist()), "a return is counted only if its day is in the part"


def test_signals_by_hand():
    lives = table()
    fixed = cut_windows(lives, WindowConfig(length=4, stride=1))
    depth, gap = signals(lives, fixed)
    # windows 0..4 (an exit, gap 4) and 1..5 (two exits, gaps 4 and 20, clipped to 10)
    assert depth.tolist() == [-1, -2]
    assert gap.tolist() == [4, 7]
    myopic_depth, myopic_gap = signals(lives, fixed, discount=0.5)
    assert myopic_depth.tolist() == [-0.25, -1.125]
    assert myopic_gap.tolist() == pytest.approx([4, (4 * 0.125 + 10) / 1.125])
    runs = cut_windows(lives, WindowConfig("sessions", sessions=2, length=4))
    assert [x.tolist() for x in signals(lives, runs)] == [[2.5], [7.0]]
    single, nothing = cut_windows(lives, WindowConfig(length=1, stride=1)), np.nan
    np.testing.assert_array_equal(signals(lives, single)[1], [nothing, 4, nothing, nothing, 10, nothing, 1])


def test_values_of_the_three_tasks():
    depth, gap = np.array([-1.0, -3.0]), np.array([2.0, np.nan])
    yard = Yardstick(depth_mean=-2.0, depth_deviation=1.0, gap_mean=4.0, gap_deviation=2.0)
    assert [yard.value(task, depth, gap).tolist() for task in TASKS] == [[1, -1], [1, 0], [2, -1]]
    assert Yardstick.of(np.ones(3), np.full(3, np.nan)) == Yardstick(1.0, 1.0, 0.0, 1.0)


def test_no_user_is_in_two_splits_and_kinds_are_as_asked(trajectories):
    windows = cut_windows(trajectories, WindowConfig(length=8, stride=4))
    pairs = draw_pairs(windows, PairConfig(pairs=400, held_out=100, within=0.25), seed=1)
    parts = [set(np.concatenate([p.first_user, p.second_user])) for p in (pairs[pairs.split == k] for k in range(3))]
    assert len(set.union(*parts)) == sum(map(len, parts))
    train = pairs[pairs.split == 0]
    assert (len(train), train.same_user.sum()) == (400, 100)
    assert (train.first_start != train.second_start).all()
    assert all(trajectories.known[s:e].all() for s, e in zip(train.first_start, train.first_end, strict=True))
    again = draw_pairs(windows, PairConfig(pairs=400, held_out=100, within=0.25), seed=1)
    np.testing.assert_array_equal(pairs.first_start, again.first_start)
    assert (draw_pairs(windows, PairConfig(pairs=400), seed=2).first_start[:50] != pairs.first_start[:50]).any()


def test_states_use_nothing_of_what_comes_after(log):
    """The state of a row is that of its past alone: of two lives that part at their last row, all earlier states are equal."""
    rows = all_rows(log)
    user = int(rows.cluster.bincount().argmax())
    first = rows.cluster == user
    parts = int(first.sum()) - 10
    streams = TensorStreams(3)
    state, seen = WORLD.initial_state(torch.tensor([user]), streams), []
    for k in range(int(first.sum())):
        seen.append(WORLD.observe(state).features)
        action = WORLD.logged(state, streams) if k < parts else torch.full((1, 6), 0.9)
        state, _ = WORLD.transition(state, action, streams)
    same = (torch.cat(seen) == rows.observation.features[first]).all(1)
    assert same[: parts + 1].all()
    assert not same[parts + 1 :].all()


def test_teachers_err_as_often_as_they_should():
    """20,000 pairs: 5 standard errors are .0106 at .1 and .0158 at .277, false alarm 6e-7 each."""
    values, streams = np.random.default_rng(0).normal(size=(2, 20_000)), Streams(5)
    best = (values[0] > values[1]).astype(float)
    plain = Teacher(mistake=0.0, equal_share=0.0)
    assert np.array_equal(plain.label(*values, 1.0, streams), best)
    flipped = Teacher(mistake=0.1, equal_share=0.0).label(*values, 1.0, streams)
    assert abs((flipped != best).mean() - 0.1) < 0.0106
    assert np.array_equal(Teacher(mistake=0.0, equal_share=0.0, rationality=1e6).label(*values, 1.0, streams), best)
    wavering = Teacher(mistake=0.0, equal_share=0.0, rationality=1.0).label(*values, 1.0, streams)
    expected = 1 / (1 + np.exp(np.abs(values[0] - values[1])))
    assert abs((wavering != best).mean() - expected.mean()) < 0.0158
    one = Teacher(equal_share=0.0).label(values[0][7:8], values[1][7:8], 1.0, streams, ids=[7])
    assert one == Teacher(equal_share=0.0).label(*values, 1.0, streams)[7], "a pair's answer does not depend on the other pairs"


def test_equals_and_skips_are_those_of_the_thresholds():
    values, streams = np.random.default_rng(1).normal(size=(2, 5_000)), Streams(5)
    distance, better = np.abs(values[0] - values[1]), values.max(0)
    equal = Teacher(equal=0.3).label(*values, 2.0, streams) == 0.5
    assert np.array_equal(equal, distance <= 0.6)
    assert (Teacher(equal_share=0.2).label(*values, 1.0, streams) == 0.5).sum() == 1000
    skipped = np.isnan(Teacher(skip=0.1, equal=0.3).label(*values, 2.0, streams))
    assert np.array_equal(skipped, better <= 0.2)
    assert Teacher(mistake=1.0, equal_share=0.0).label([1.0, 2.0], [1.0, 1.0], 1.0, streams).tolist() == [0.5, 0.0]
    with pytest.raises(ConfigError, match="mistake=2"):
        Teacher(mistake=2.0)


def taught(trajectories, task="both", config=None, teacher=None, pairs=300):
    windows = cut_windows(trajectories, config or WindowConfig(length=8, stride=4))
    drawn = draw_pairs(windows, PairConfig(pairs, held_out=60), 0)
    return teach(trajectories, windows, drawn, task, teacher or Teacher(mistake=0.0), seed=2)


def test_labels_follow_the_values(trajectories):
    pairs = taught(trajectories)
    decided = pairs.preferred != 0.5
    assert np.array_equal(pairs.preferred[decided], pairs.truth[decided])
    assert 0.05 < (~decided).mean() < 0.5
    train, depth = pairs[pairs.split == 0], taught(trajectories, "depth")
    both = np.concatenate([train.first_value, train.second_value])
    assert abs(both.mean()) < 0.05
    exits = [trajectories.ends[s:e].sum() for s, e in zip(depth.first_start, depth.first_end, strict=True)]
    assert np.corrcoef(exits, depth.first_value)[0, 1] == pytest.approx(-1.0)
    myopic = taught(trajectories, teacher=Teacher(mistake=0.0, discount=0.5))
    assert np.array_equal(myopic.truth, pairs.truth)
    assert (myopic.preferred != pairs.preferred).mean() > 0.05


def test_pairs_are_stored_and_read(trajectories, tmp_path):
    pairs = taught(trajectories, teacher=Teacher(skip=0.0))
    pairs.write(tmp_path / "p.parquet", {"task": "both"})
    again, notes = Pairs.read(tmp_path / "p.parquet")
    assert notes == {"task": "both"}
    np.testing.assert_array_equal(again.preferred, pairs.preferred)
    np.testing.assert_array_equal(again.second_end, pairs.second_end)
    assert len(again.of("train")) == (~np.isnan(pairs.preferred) & (pairs.split == 0)).sum() < (pairs.split == 0).sum()
    (tmp_path / "p.parquet").write_text("broken")
    with pytest.raises(StorageError, match="preferences cannot be read"):
        Pairs.read(tmp_path / "p.parquet")


def learning(trajectories, log, pairs, **options):
    train, valid, test = (PairBatches(trajectories, pairs.of(part), 0) for part in SPLITS)
    config = RewardConfig(FLAT, (16,), batch_pairs=16, pretraining_steps=60, check_every=20, **options)
    rows = UniformSampler(FixedBuffer(all_rows(log)), None, 0)
    return LearnedReward(config, TASK, 0, feedback=(0, 1, 2)), train, valid, test, rows


def test_relabelling_is_never_stale(trajectories, log):
    reward, train, _, _, rows = learning(trajectories, log, taught(trajectories), update_every=1, refresh_every=4, refresh_rows=512)
    transform = PreferenceReward(reward, train, rows)
    assert isinstance(transform, BatchTransform)
    batch = rows.sample(32, 1)
    before = batch.reward.clone()
    transform.update(batch)
    first = transform.apply(batch)
    transform.update(batch)
    second = transform.apply(batch)
    assert torch.equal(batch.reward, before)
    assert not torch.equal(first.reward[:, 0], second.reward[:, 0]), "the same rows, another reward: it has learned in between"
    assert torch.equal(second.reward[:, 1:], before[:, 1:])
    wide = transform.apply(rows.sample(20_000, 2)).reward[:, 0]
    # mean and deviation over 512 rows: 5 standard errors and what two steps of learning move
    assert abs(wide.mean()) < 0.3
    assert 0.8 < wide.std() < 1.25


def test_relabelled_batches_carry_no_graph_to_the_reward(trajectories, log):
    """Neither as they are nor through a policy's update, gradients mode on."""
    reward, train, _, _, rows = learning(trajectories, log, taught(trajectories), update_every=1)
    transform, learner = PreferenceReward(reward, train, rows), PrefRec(PrefRecConfig(ActorConfig(FLAT, (8,)), (8,)), TASK, 0)
    batch = rows.sample(32, 1)
    transform.update(batch)
    assert torch.is_grad_enabled()
    relabelled = transform.apply(batch).reward
    assert not relabelled.requires_grad
    assert relabelled.grad_fn is None
    for parameter in reward.network.parameters():
        assert parameter.requires_grad
        parameter.grad = None
    learner.update(transform.apply(batch))
    assert all(parameter.grad is None for parameter in reward.network.parameters())


def test_relabelling_never_waits_for_the_device(log):
    """On the meta device there are shapes and no values: what reads one fails."""

    def build(device):
        buffer = FixedBuffer(transitions_to(all_rows(log), device))
        rows, steps = UniformSampler(buffer, None, 0), iter(range(1, 9))
        reward = LearnedReward(RewardConfig(FLAT, (8,), refresh_every=2, refresh_rows=16), replace(TASK, device=device), 0)
        transform = PreferenceReward(reward, None, rows)

        def step():
            batch = rows.sample(16, next(steps))
            transform.update(batch)
            return transform.apply(batch)

        return step

    check_no_sync(build, "PreferenceReward")


def test_a_frozen_reward_stays(trajectories, log):
    reward, train, _, _, rows = learning(trajectories, log, taught(trajectories), update_every=0)
    transform = PreferenceReward(reward, train, rows)
    held = [p.clone() for p in reward.network.parameters()]
    for k in range(3):
        transform.update(rows.sample(8, k))
    assert all(torch.equal(a, b) for a, b in zip(held, reward.network.parameters(), strict=True))


def test_reward_and_pretraining_resume_exactly(trajectories, log):
    def make():
        reward, train, valid, _, rows = learning(trajectories, log, taught(trajectories), pretraining="feedback", feedback_steps=10)
        return RewardPretraining(reward, train, valid, rows), train, rows

    whole, train, rows = make()
    for k in range(1, whole.steps + 1):
        whole.step(k)
    cut, _, _ = make()
    for k in range(1, 41):
        cut.step(k)
    other, _, _ = make()
    other.load_state_dict(cut.state_dict())
    for k in range(41, other.steps + 1):
        other.step(k)
    for one in (whole, other):
        one.finish()
    assert whole.accuracy == other.accuracy > 0
    transforms = [PreferenceReward(one.reward, train, rows) for one in (whole, other)]
    for k in range(25):
        for transform in transforms:
            transform.update(rows.sample(8, k))
        if k == 11:
            transforms[1].load_state_dict(transforms[0].state_dict())
    a, b = (transform.apply(rows.sample(64, 99)).reward for transform in transforms)
    assert torch.equal(a, b)


def test_training_on_preferences_stopped_anywhere_ends_the_same(trajectories, log, tmp_path):
    """Policy, reward ensemble, normalisation and metrics, bit for bit."""
    pairs = taught(trajectories)

    def train(folder, stop=None):
        reward, train, _, _, rows = learning(trajectories, log, pairs, update_every=3, refresh_every=7, refresh_rows=64)
        learner = PrefRec(PrefRecConfig(ActorConfig(FLAT, (8,)), (8,)), TASK, 0)
        run = RunFolder.create(tmp_path / folder, kind="train", config={}, seed=0)
        config = OfflineConfig(steps=40, batch_size=16, log_every=5, checkpoint_every=10)

        def tell(done, text):
            if stop is not None and round(done * 40) >= stop:
                raise KeyboardInterrupt

        transforms = [PreferenceReward(reward, train, rows)]
        train_offline(learner, rows, config, run, stream="train", transforms=transforms, progress=tell)
        metrics = pl.read_parquet(run.path / "metrics" / "train").sort("step", "name")
        return learner.state_dict(), transforms[0].state_dict(), metrics.to_dicts()

    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("cut", stop=25)
    assert same(train("cut"), whole)


def test_a_saved_reward_is_the_same(trajectories, log, tmp_path):
    reward, train, *_ = learning(trajectories, log, taught(trajectories))
    reward.save(tmp_path)
    again = LearnedReward.load(tmp_path, TASK)
    batch, _ = train.sample(4, 1)
    assert torch.equal(again.score(batch), reward.score(batch))


def test_pretraining_modes(trajectories, log):
    pairs = taught(trajectories)
    reward, train, valid, _, rows = learning(trajectories, log, pairs, pretraining="none")
    assert RewardPretraining(reward, train, valid).steps == 0
    reward, train, valid, _, rows = learning(trajectories, log, pairs, pretraining="feedback", feedback_steps=30, learning_rate=1e-2)
    pretraining = RewardPretraining(reward, train, valid, rows)
    found = [pretraining.step(k)["feedback_loss"].item() for k in range(1, 31)]
    assert np.mean(found[-5:]) < np.mean(found[:5])
    assert "reward_loss" in pretraining.step(31)
    with pytest.raises(ConfigError, match="nothing holds feedback"):
        RewardPretraining(reward, train, valid)
    with pytest.raises(ConfigError, match="learns nothing"):
        RewardConfig(pretraining="none", update_every=0)


def test_pretraining_refuses_the_length_trap(trajectories, log):
    pairs = taught(trajectories, "depth", WindowConfig("sessions", sessions=2, length=40))
    assert not pairs.equal_lengths
    reward, train, valid, *_ = learning(trajectories, log, pairs)
    with pytest.raises(ConfigError, match="longer is better"):
        RewardPretraining(reward, train, valid)
    reward, train, valid, *_ = learning(trajectories, log, pairs, aggregate="mean")
    assert RewardPretraining(reward, train, valid).run().accuracy(valid) > 0.5


class Planted:
    """A network that knows the reward."""

    def __init__(self, function):
        self.function = function

    def __call__(self, batch):
        return self.function(batch).unsqueeze(0)


def test_inspection_of_a_reward_that_knows_everything(trajectories, log):
    """Task depth in fixed windows is the sum of -1 at session ends: a network that is told them is right about every pair."""
    reward, *_, rows = learning(trajectories, log, taught(trajectories, "depth"))
    test = PairBatches(trajectories, taught(trajectories, "depth", teacher=Teacher(mistake=0.2)).of("test"), 0)
    reward.network = Planted(lambda batch: -batch.session_end.float())
    found = inspect_reward(reward, test)
    assert {a.kind for a in found.accuracies} == {"all", "within user", "across users", "close", "middling", "far", "given"}
    assert all(a.right == 1.0 for a in found.accuracies if a.kind not in ("given", "close"))
    assert found.rank_correlation == pytest.approx(1.0)
    assert found.right("given") < 1.0
    assert sum(b.pairs for b in found.calibration) == len(test.pairs)
    assert found.calibration[-1].preferred > found.calibration[0].preferred
    batch, none = rows.sample(256, 0), torch.zeros(256, 6)
    reward.network = Planted(lambda b: b.observation.features[:, 0])
    assert action_share(reward, batch, none, 0.3, 0) == pytest.approx(0.0, abs=1e-6)
    reward.network = Planted(lambda b: b.action[:, 0])
    # every state draws from one law: all variance is the action's; 8 draws of 256 states: 5 standard errors are .16
    assert action_share(reward, batch, none, 0.3, 0) == pytest.approx(1.0, abs=0.02)


def test_no_labels_no_learning(trajectories):
    pairs = taught(trajectories)
    with pytest.raises(DataError, match="no labelled pairs"):
        PairBatches(trajectories, pairs.labelled(np.full(len(pairs), np.nan)).of("train"), 0)
    with pytest.raises(ConfigError, match="vector actions"):
        LearnedReward(RewardConfig(FLAT), small.task("item"), 0)
    with pytest.raises(ConfigError, match="shares"):
        PairConfig(shares=(0.5, 0.1, 0.1))


def test_the_capped_estimator_of_the_page():
    """NCIS at the logging policy: weights 1, the pooled mean and the mean of user means; capped, bounded and indifferent to order."""
    rng = np.random.default_rng(0)
    user = np.sort(rng.integers(0, 20, 300))
    value, target, logged = rng.normal(size=300), rng.normal(size=300), rng.normal(size=300)
    lives = Offsets.from_starts(np.append(True, user[1:] != user[:-1]))
    pooled, by_user = offline_eval.NCIS(cap=10.0), offline_eval.TrajectoryNCIS(cap=10.0)
    same = LoggedFeedback(value, logged, logged, user, trajectory=lives)
    assert np.allclose(pooled.contributions(same).weights, 1.0)
    assert offline_eval.value(pooled.contributions(same)) == pytest.approx(value.mean())
    assert offline_eval.value(by_user.contributions(same)) == pytest.approx(np.mean([value[lives[k]].mean() for k in range(lives.count)]))
    other = LoggedFeedback(value, 3 * target, logged, user, trajectory=lives)
    order = np.lexsort((rng.random(300), user))
    shuffled = replace(
        other, **{name: getattr(other, name)[order] for name in ("reward", "target_log_prob", "behaviour_log_prob", "cluster")}
    )
    for estimator in (pooled, by_user):
        parts = estimator.contributions(other)
        assert parts.weights.max() <= 10.0 + 1e-9
        assert value.min() <= offline_eval.value(parts) <= value.max()
        assert offline_eval.value(estimator.contributions(shuffled)) == pytest.approx(offline_eval.value(parts))
