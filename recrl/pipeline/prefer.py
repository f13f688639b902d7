"""Label pairs of session timelines, by a person or a scripted teacher, and learn a reward and a policy from the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch

from recrl.algorithms.prefrec import PrefRec, PrefRecConfig
from recrl.algorithms.task import Task
from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError, DataError
from recrl.core.objective import Objective, Signal
from recrl.core.runs import RunFolder
from recrl.core.torch.streams import TensorStreams
from recrl.pipeline.learn import as_item_policy, policy_folder, stream_of
from recrl.pipeline.setting import Setting
from recrl.policies.encoders import FIXED, EncoderConfig, build_encoder
from recrl.policies.vector import VectorPolicy
from recrl.preferences.inspection import Inspection, action_share, inspect_reward, too_little_action
from recrl.preferences.pairs import SPLITS, PairBatches, PairConfig, Pairs, draw_pairs, teach
from recrl.preferences.reward import LearnedReward, PreferenceReward, RewardConfig, RewardPretraining
from recrl.preferences.teacher import Teacher
from recrl.preferences.trajectories import FixedBuffer, Trajectories, all_rows, simulate_log
from recrl.preferences.windows import PreferenceTask, WindowConfig, cut_windows
from recrl.replay.samplers import Buffer, UniformSampler
from recrl.replay.sessions import LoggedSessions
from recrl.training.offline import OfflineConfig, train_offline
from recrl.training.portions import Portion, walk
from simulators.fidelity.prefrec import REWARDS, PrefRecWorld

PREFERENCES = "preferences.parquet"
_BARS = "·▂▃▄▅▆▇█"
_TEST_USERS, _FIRST_TEST_USER = 200, 1_000_000
_MOST_SHOWN = 1_000
_STANDARD_ROWS, _LEAST_DEVIATION = 65_536, 1e-3


@dataclass(frozen=True)
class LabelConfig:
    """Which pairs are labelled.

    Attributes:
        pairs: how many.
        within: share of pairs whose timelines are of one user.
        windows: how timelines are cut.
    """

    pairs: int = 50
    within: float = 0.5
    # timelines that share rows would be hard to tell apart
    windows: WindowConfig = WindowConfig(stride=24)

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise ConfigError(f"pairs={self.pairs} must be at least 1", where="--pairs")

    def draw(self, lives: Lives, seed: int) -> Pairs:
        """The pairs without labels, in their order; of every ten about eight to learn from, one to stop by and one to judge by."""
        held_out = self.pairs // 10
        asked = PairConfig(self.pairs - 2 * held_out, held_out, self.within)
        pairs = draw_pairs(cut_windows(lives.trajectories, self.windows), asked, seed)
        # of all three parts in turn, so that any first labels have their share of each
        place = np.concatenate([np.linspace(0.0, 1.0, int((pairs.split == k).sum())) for k in range(3)])
        return pairs[np.argsort(place, kind="stable")]


@dataclass(frozen=True, eq=False)
class Lives:
    """Trajectories to compare and to learn from.

    ``signals`` names the columns of their rewards, ``returns`` is that of the return gap; ``setting`` is the log, ``world`` the simulation.
    """

    trajectories: Trajectories
    buffer: Buffer
    rows: torch.Tensor | None
    task: Task
    signals: tuple[str, ...]
    setting: Setting | None = None
    world: PrefRecWorld | None = None
    returns: int = 0

    @property
    def feedback(self) -> tuple[int, ...]:
        """Columns of the reward that are immediate feedback."""
        return tuple(k for k in range(len(self.signals)) if k != self.returns)


def lives_of_log(setting: Setting, device: str = "cpu", *, history: int = 20) -> Lives:
    """The users of the training part of a log; actions are item embeddings."""
    held = [name for name in (*BEHAVIOURS, "watch_seconds", "rating") if setting.log.has(name)]
    objective = Objective(Signal("return")).protecting(tuple(held))
    buffer = setting.buffer("embedding", device, history=history, objective=objective)
    train = setting.split.train
    trajectories = Trajectories(LoggedSessions(buffer, train, "user"))
    task = setting.task("embedding", device, Objective(Signal("return")))
    return Lives(trajectories, buffer, buffer.rows_of(train), task, ("return", *held), setting)


def simulated_lives(users: int, seed: int, device: str = "cpu") -> Lives:
    """Simulated users of :mod:`simulators.fidelity.prefrec` under its logging policy."""
    world = PrefRecWorld(device=device)
    log = simulate_log(world, world.population(users), world.logged, TensorStreams(seed, device))
    returns = REWARDS.index("return")
    task = Task(world.action_spec, Objective(Signal("return")), device=device)
    return Lives(Trajectories(log, returns), FixedBuffer(all_rows(log)), None, task, REWARDS, world=world, returns=returns)


def timeline(lives: Lives, start: int, end: int) -> list[str]:
    """A segment as text, a line a session: requests, a bar of the first signal for each, means of all, and when the user came back."""
    rows = lives.trajectories.take(np.array([start]), np.array([end]))
    reward, ends = rows.reward.cpu().numpy(), rows.session_end.cpu().numpy()
    shown = lives.feedback
    stops = [*(np.flatnonzero(ends) + 1), *([] if ends[-1] else [len(ends)])]
    lines, first = [], 0
    for stop in stops:
        part = reward[first:stop]
        bars = "".join(_BARS[round(float(x) * (len(_BARS) - 1))] for x in _scaled(part[:, shown[0]])) if shown else "·" * len(part)
        means = "  ".join(f"{lives.signals[k]} {part[:, k].mean():.2f}" for k in shown[:4])
        away = -part[-1, lives.returns]
        came_back = f"back after {away:.1f} days" if ends[stop - 1] else "goes on"
        lines.append(f"{stop - first:3d} requests  {bars:<40}  {means}  {came_back}")
        first = stop
    return lines


def _scaled(values: np.ndarray) -> np.ndarray:
    most = max(1.0, float(values.max(initial=0.0)))
    return (values / most).clip(0.0, 1.0)


class Labelling:
    """Pairs and the answers so far, on disk after every answer.

    Args:
        path: the file; what it holds is gone on with.
        pairs: the pairs in their order, without labels.

    **Errors**: ``StorageError`` for a file that cannot be read or written.
    """

    def __init__(self, path: Path, pairs: Pairs) -> None:
        self.path, self.pairs, self.answered = path, pairs, 0
        if path.is_file():
            self.pairs, notes = Pairs.read(path)
            self.answered = int(notes["answered"])
        else:
            self._write()

    @property
    def next(self) -> int | None:
        """The pair to ask about; ``None`` when all are answered."""
        return self.answered if self.answered < len(self.pairs) else None

    def answer(self, preferred: float | None) -> None:
        """Take the answer for :attr:`next`: probability that the first is preferred, or ``None`` to skip it."""
        self._set(self.answered, np.nan if preferred is None else preferred, self.answered + 1)

    def undo(self) -> bool:
        """Take the last answer back; false where there is none."""
        if self.answered == 0:
            return False
        self._set(self.answered - 1, np.nan, self.answered - 1)
        return True

    def teach(self, pairs: Pairs) -> None:
        """Take a scripted teacher's labels of all pairs."""
        self.pairs, self.answered = pairs, len(pairs)
        self._write()

    def _set(self, index: int, value: float, answered: int) -> None:
        preferred = self.pairs.preferred.copy()
        preferred[index] = value
        before = self.pairs, self.answered
        self.pairs, self.answered = self.pairs.labelled(preferred), answered
        try:
            self._write()
        except BaseException:
            # what is not on disk has not been answered
            self.pairs, self.answered = before
            raise

    def _write(self) -> None:
        self.pairs.write(self.path, {"answered": str(self.answered)})


def label_by_teacher(lives: Lives, config: LabelConfig, labelling: Labelling, task: PreferenceTask, teacher: Teacher, seed: int) -> None:
    """Let a scripted teacher label all pairs."""
    windows = cut_windows(lives.trajectories, config.windows)
    labelling.teach(teach(lives.trajectories, windows, labelling.pairs, task, teacher, seed))


@dataclass(frozen=True)
class PreferPlan:
    """What is learned from labels.

    Attributes:
        prefrec: options of the policy's learner.
        reward: options of the learned reward; it reads states as the policy does.
        offline: length and portions of the policy's training.
        temperature: spread of the item choice of the saved policy (logs only).
    """

    prefrec: PrefRecConfig = PrefRecConfig()
    reward: RewardConfig = RewardConfig()
    offline: OfflineConfig = OfflineConfig()
    temperature: float = 0.1
    name: Literal["prefrec"] = field(default="prefrec", init=False)

    def on(self, lives: Lives) -> PreferPlan:
        """The same with one encoder for policy and reward, flat for simulated users, its states standardised by what is learned from."""
        actor = self.prefrec.actor
        if lives.world is not None:
            first = lives.buffer.gather(torch.zeros(1, dtype=torch.int64, device=lives.buffer.device)).observation
            actor = replace(actor, encoder=replace(actor.encoder, kind="flat", features=int(first.features.shape[1])))
        actor = replace(actor, encoder=standardised(actor.encoder, lives))
        return replace(self, prefrec=replace(self.prefrec, actor=actor), reward=replace(self.reward, encoder=actor.encoder))

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values, for a run's configuration."""
        return asdict(self)


@torch.no_grad()
def standardised(encoder: EncoderConfig, lives: Lives) -> EncoderConfig:
    """The encoder with mean and deviation of its states over the rows that are learned from (65,536 of them, evenly spread, where there are
    more); one that learns, or has them, as it is.
    """
    if encoder.kind not in FIXED or encoder.mean:
        return encoder
    device = lives.buffer.device
    network = build_encoder(replace(encoder, abstraction=0), lives.task.item_vectors).to(device)
    rows = torch.arange(len(lives.buffer), device=device) if lives.rows is None else lives.rows
    rows = rows[:: max(1, len(rows) // _STANDARD_ROWS)]
    states = torch.cat([network(lives.buffer.gather(part).observation).double().cpu() for part in rows.split(8_192)])
    deviation = states.std(0, correction=0) + _LEAST_DEVIATION
    return replace(encoder, mean=tuple(states.mean(0).tolist()), deviation=tuple(deviation.tolist()))


def learn_preferences(
    lives: Lives, pairs: Pairs, plan: PreferPlan, run: RunFolder, *, seed: int, progress: Progress | None = None
) -> dict[str, Any]:
    """Learn the reward, look at it, learn the policy; everything goes on where it was stopped. Returns what was found.

    The reward lies under ``artifacts/reward``, the policy under ``artifacts/policies/prefrec``, what the reward knows in the tables
    ``reward_accuracy``, ``reward_calibration``, ``reward_summary`` and ``reward_pairs``.

    **Errors**: :class:`DataError` without a labelled training pair.
    """
    plan, tell = plan.on(lives), progress or (lambda done, text: None)
    parts = {part: pairs.of(part) for part in SPLITS}
    if len(parts["train"]) == 0:
        raise DataError("no labelled pair to learn from", where="labels", mend="label some with `recrl prefer`; skipped ones teach nothing")
    train, valid, test = (PairBatches(lives.trajectories, parts[p], seed) if len(parts[p]) else None for p in SPLITS)
    assert train is not None
    sampler = UniformSampler(lives.buffer, lives.rows, seed)
    reward = LearnedReward(plan.reward, lives.task, seed, lives.feedback if plan.reward.pretraining == "feedback" else ())
    _pretrain(RewardPretraining(reward, train, valid, sampler), run, partial(_share, tell, 0.0, 0.4))
    reward.save(run.artifact("reward/reward.json").parent)
    # fewer than a handful of held-out pairs say nothing; those that were learned from do not say much more, but how many they are
    judged, held_out = (test, True) if test is not None and len(test.pairs) >= 5 else (train, False)
    known = inspect_reward(reward, judged)
    share = _action_share(reward, sampler, seed)
    _write_inspection(run, known, "held out" if held_out else "train")
    run.write_table("reward_pairs", judged_pairs(lives, reward, pairs, seed))
    told = {"action_share": share, "too_little_action": too_little_action(share), "judged_pairs": len(judged.pairs), "held_out": held_out}
    run.write_table("reward_summary", pa.Table.from_pylist([told]))
    learner = PrefRec(plan.prefrec, lives.task, seed)
    transform = PreferenceReward(reward, train if plan.reward.update_every else None, sampler)
    report = partial(_share, tell, 0.4, 1.0)
    train_offline(learner, sampler, plan.offline, run, stream=stream_of(plan.name), transforms=[transform], progress=report)
    policy = learner.policy()
    if lives.setting is not None:
        as_item_policy(policy, lives.setting, plan.temperature).save(policy_folder(run, plan.name))
    else:
        policy.save(policy_folder(run, plan.name))
    return {
        "accuracy": {a.kind: a.right for a in known.accuracies},
        "judged_pairs": len(judged.pairs),
        "held_out": held_out,
        "action_share": share,
        "too_little_action": too_little_action(share),
        **({"simulated": try_policies(lives.world, policy, seed)} if lives.world is not None else {}),
    }


def _pretrain(pretraining: RewardPretraining, run: RunFolder, tell: Progress) -> None:
    if pretraining.steps == 0:
        return
    # ten rows of metrics a look at the validation pairs would be noise: one each
    every = pretraining.reward.config.check_every
    config = OfflineConfig(steps=pretraining.steps, log_every=every, checkpoint_every=4 * every)

    def step(number: int, portion: Portion) -> None:
        portion.add(pretraining.step(number))

    walk(config, step, {"pretraining": pretraining}, run, stream=stream_of("reward"), progress=tell, tensorboard=False)
    pretraining.finish()


def _share(tell: Progress, low: float, high: float, done: float, text: str) -> None:
    tell(low + (high - low) * done, text)


def judged_pairs(lives: Lives, reward: LearnedReward, pairs: Pairs, seed: int) -> pa.Table:
    """The first labelled pairs with both timelines as a person sees them, the answer, and what the reward says of each."""
    asked = np.flatnonzero(~np.isnan(pairs.preferred))[:_MOST_SHOWN]
    chosen = pairs[asked]
    returns, probability = (found.double().cpu().numpy() for found in reward.judge(PairBatches(lives.trajectories, chosen, seed)))
    sides = {}
    for k, side in enumerate(("first", "second")):
        rows = zip(*(getattr(chosen, f"{side}_{end}").tolist() for end in ("start", "end")), strict=True)
        sides[f"{side}_user"] = getattr(chosen, f"{side}_user")
        sides[f"{side}_return"] = returns[k]
        sides[f"{side}_timeline"] = ["\n".join(timeline(lives, start, end)) for start, end in rows]
    parts = [SPLITS[k] for k in chosen.split]
    return pa.table({"pair": asked + 1, "split": parts, "preferred": chosen.preferred, "predicted": probability, **sides})


def _action_share(reward: LearnedReward, sampler: UniformSampler, seed: int) -> float:
    """By actions of the log's mean and spread."""
    batch = sampler.sample(2_048, 0)
    mean, spread = batch.action.mean(0), batch.action.std(0)
    return action_share(reward, batch, mean.expand_as(batch.action), spread, seed)


def _write_inspection(run: RunFolder, known: Inspection, pairs: str) -> None:
    run.write_table("reward_accuracy", pa.Table.from_pylist([{**asdict(a), "of": pairs} for a in known.accuracies]))
    run.write_table("reward_calibration", pa.Table.from_pylist([asdict(b) for b in known.calibration]))


@torch.no_grad()
def try_policies(world: PrefRecWorld, policy: VectorPolicy, seed: int, users: int = _TEST_USERS) -> dict[str, dict[str, float]]:
    """Mean session depth and return gap of fresh simulated users under the policy and under the log's mean action, with the same luck."""
    found = {}
    for name in ("prefrec", "logging mean"):
        streams = TensorStreams(seed + 1, world.device)
        state = world.initial_state(world.population(users, first=_FIRST_TEST_USER), streams)
        made, ended, away = 0, 0, 0.0
        while bool(state.alive.any()):
            alive = state.alive
            action = policy.centre(world.observe(state)) if name == "prefrec" else world.logging_mean(state.taste)
            state, outcome = world.transition(state, action, streams)
            made, ended = made + int(alive.sum()), ended + int(outcome.session_end.sum())
            away += float(outcome.gap_days.sum())
        found[name] = {"session_depth": made / ended, "return_gap_days": away / ended}
    return found


def ask(lives: Lives, pairs: Pairs, index: int) -> Sequence[str]:
    """What a person is shown of one pair."""
    both = ((1, pairs.first_start, pairs.first_end, pairs.first_user), (2, pairs.second_start, pairs.second_end, pairs.second_user))
    lines = [f"pair {index + 1} of {len(pairs)}"]
    for number, start, end, user in both:
        lines += [f"  [{number}]  user {user[index]}", *(f"       {line}" for line in timeline(lives, int(start[index]), int(end[index])))]
    return lines
