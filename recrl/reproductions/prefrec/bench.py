"""One seed of the PrefRec study: its world, log, clone of the logging policy, learned rewards, and what each policy reaches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import offline_eval
from recrl.algorithms import REGISTRY
from recrl.algorithms.bc import BC, BCConfig
from recrl.algorithms.task import Task
from recrl.core.contracts import LoggedFeedback, Observation, Transitions
from recrl.core.files import read_json, write_json
from recrl.core.objective import Objective, Signal
from recrl.core.ragged import Offsets
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.policies.encoders import EncoderConfig
from recrl.policies.storage import read_policy
from recrl.policies.vector import ActorConfig, VectorPolicy
from recrl.preferences.inspection import action_share, inspect_reward
from recrl.preferences.pairs import SPLITS, PairBatches, PairConfig, draw_pairs, teach
from recrl.preferences.reward import LearnedReward, PreferenceReward, RewardConfig, RewardPretraining
from recrl.preferences.teacher import Teacher
from recrl.preferences.trajectories import FixedBuffer, Trajectories, simulate_log
from recrl.preferences.windows import WindowConfig, cut_windows
from recrl.replay.samplers import UniformSampler
from recrl.replay.sessions import Segments
from recrl.reproductions.prefrec.grounds import NOISE, Ground, Scale, Seen
from recrl.reproductions.prefrec.recipes import RECIPES, WITH_CURVE, Budget, Recipe, Taught, Written
from recrl.reproductions.study import Cell

Act = Callable[[Observation], Tensor]
_CAP = 10.0
_SESSION_ROWS, _THINNED = 40, 9


class Bench:
    """What the cells of a part and seed share.

    Args:
        ground: the world, its logged and its fresh users.
        seed: of users, log, teachers, networks and batches.
        budget: what a cell may spend.
        folder: where clones and learned rewards are kept.
    """

    def __init__(self, ground: Ground, seed: int, budget: Budget, folder: Path) -> None:
        self.ground, self.seed, self.budget, self.folder = ground, seed, budget, folder
        with torch.no_grad():
            log = simulate_log(self.ground, self.ground.logged, self.ground.act, TensorStreams(seed))
        self.scale = Scale.of(_whole(log).observation.features)
        self._log = log
        self.trajectories = Trajectories(Seen(log, self.scale), returns=self.ground.returns)
        self.rows = _whole(self.trajectories.source)
        encoder = EncoderConfig("flat", features=self.ground.features)
        self.actor = ActorConfig(encoder, budget.layers, NOISE)

    # ------------------------------------------------------------------ the log

    @cached_property
    def shuffled(self) -> Trajectories:
        """The log with the actions of other rows."""
        order = torch.from_numpy(np.random.default_rng(self.seed).permutation(len(self.rows)))
        return Trajectories(Seen(self._log, self.scale, self.rows.action[order]), returns=self.ground.returns)

    @cached_property
    def depth(self) -> NDArray[np.float64]:
        """Requests of the session that ends with a row, 0 elsewhere; sessions begin after an end and with each user."""
        cuts = self.trajectories.ends.copy()
        cuts[self.trajectories.offsets.values[1:] - 1] = True
        at, depth = np.flatnonzero(cuts), np.zeros(len(self.rows))
        depth[at] = np.diff(at, prepend=-1)
        return np.where(self.trajectories.ends, depth, 0.0)

    def task(self, discount: float = 0.98) -> Task:
        """Actions of the world; the batches' first reward is what counts."""
        return Task(self.ground.action_spec, Objective(Signal("return", discount_within=discount, discount_across=discount)))

    def clone(self, shuffled: bool = False) -> VectorPolicy:
        """The clone of the logging policy; of one that acts by chance where the log is shuffled. Trained once and kept."""
        folder = self.folder / ("clone-shuffled" if shuffled else "clone")
        if not (folder / "policy.json").exists():
            learner = BC(BCConfig(self.actor), self.task(), self.seed)
            sampler = UniformSampler(FixedBuffer(self._rows_of(shuffled)), None, self.seed)
            for step in range(1, self.budget.cloning_updates + 1):
                learner.update(sampler.sample(2 * self.budget.batch, step))
            learner.policy().save(folder)
        return VectorPolicy.load(*read_policy(folder))

    @cached_property
    def behaviour(self) -> VectorPolicy:
        """What importance weights stand on."""
        return self.clone()

    def _rows_of(self, shuffled: bool) -> Transitions:
        return _whole(self.shuffled.source) if shuffled else self.rows

    # ------------------------------------------------------------------ rewards

    def written(self, rows: Transitions, reward: Written) -> Transitions:
        """Rows with a written reward."""
        if reward == "clicks":
            value = rows.reward[:, self.ground.click]
        elif reward == "random":
            value = TensorStreams(self.seed).normal(torch.arange(len(rows)), 0, Purpose.BOOTSTRAP)
        else:
            ends = self.trajectories.ends
            deep, away = ((x - x[ends].mean()) / x[ends].std() for x in (self.depth, self.trajectories.gap_days))
            value = torch.from_numpy(np.where(ends, deep - away, 0.0))
        return rows.with_reward(value.float().unsqueeze(1))

    def learned(self, taught: Taught) -> tuple[LearnedReward, PairBatches, dict[str, float]]:
        """A learned reward as pre-training left it, its training pairs, and what it knows; trained once and kept."""
        budget, log = self.budget, self.trajectories
        windows = cut_windows(log, WindowConfig("sessions", length=_SESSION_ROWS) if taught.sessions else WindowConfig())
        drawn = draw_pairs(windows, PairConfig(max(1, round(taught.pairs * budget.pairs)), budget.held_out), self.seed)
        pairs = teach(log, windows, drawn, taught.task, Teacher(taught.mistake), self.seed)
        train, valid, test = (PairBatches(self.shuffled if taught.shuffled else log, pairs.of(part), self.seed) for part in SPLITS)
        folder = self.folder / taught.name
        if not (folder / "known.json").exists():
            config = RewardConfig(
                self.actor.encoder,
                (budget.layers[0],) * 3,
                aggregate=taught.aggregate,
                batch_pairs=64,
                pretraining=taught.pretraining,
                pretraining_steps=budget.pretraining_steps,
            )
            reward = RewardPretraining(LearnedReward(config, self.task(), self.seed), train, valid).run()
            reward.save(folder)
            write_json(folder / "known.json", self._known(reward, test))
        return LearnedReward.load(folder, self.task()), train, read_json(folder / "known.json")

    def _known(self, reward: LearnedReward, test: PairBatches) -> dict[str, float]:
        found = inspect_reward(reward, test)
        thinned = FixedBuffer(self.rows).gather(torch.arange(0, len(self.rows), _THINNED))
        mean = self.behaviour.centre(thinned.observation).detach()
        kinds = {a.kind: a.right for a in found.accuracies}
        return {**kinds, "rank_correlation": found.rank_correlation, "action_share": action_share(reward, thinned, mean, NOISE, self.seed)}

    # ------------------------------------------------------------------ cells

    def __call__(self, cell: Cell) -> dict[str, Any]:
        """A cell's result: what its policy reaches (``depth``, ``gap_days``, ``day1``, ``click_rate``), what an estimator says of it
        (``ncis_depth``, ``ncis_gap_days``, ``ess``), and what its reward knows (``reward``).
        """
        recipe = RECIPES[cell.method]
        if recipe.learner == "bc":
            return self.judged(self.clone(recipe.shuffled).centre)
        if recipe.learner == "zero":
            return self.judged(lambda seen: torch.zeros(len(seen), *self.ground.action_spec.shape))
        if recipe.learner == "best":
            return self.online(None)
        return self._learn(recipe, curve=cell.method in WITH_CURVE)

    def _learn(self, recipe: Recipe, curve: bool) -> dict[str, Any]:
        result: dict[str, Any] = {}
        rows = self._rows_of(recipe.shuffled)
        transform = None
        if isinstance(recipe.reward, Taught):
            reward, pairs, result["reward"] = self.learned(recipe.reward)
            sampler = UniformSampler(FixedBuffer(rows), None, self.seed)
            transform = PreferenceReward(reward, pairs, sampler)
        elif recipe.reward is not None:
            sampler = UniformSampler(FixedBuffer(self.written(rows, recipe.reward)), None, self.seed)
        if not recipe.acts:
            return result
        kind = REGISTRY[recipe.learner]
        known = {f.name for f in fields(kind.config_type)}
        asked = {"actor": self.actor, "critic_hidden": self.budget.layers, **(recipe.options or {})}
        learner = kind(kind.config_type(**{k: v for k, v in asked.items() if k in known}), self.task(recipe.discount), self.seed)
        early, looks = [], max(1, self.budget.updates // 20)
        for step in range(1, self.budget.updates + 1):
            batch = sampler.sample(self.budget.batch, step)
            if transform is not None:
                transform.update(batch)
                batch = transform.apply(batch)
            learner.update(batch)
            if curve and step % looks == 0 and step <= 4 * looks:
                early.append(self.online(_centre(learner.policy()), 100)["depth"])
        return result | self.judged(_centre(learner.policy())) | ({"early_depth": float(np.mean(early))} if early else {})

    def judged(self, act: Act) -> dict[str, Any]:
        """What a policy reaches, and what an estimator says of it."""
        return self.online(act) | self.estimated(act)

    @torch.no_grad()
    def online(self, act: Act | None, users: int | None = None) -> dict[str, Any]:
        """Requests a session, days away, share of sessions after which the user is back the next day, and click rate, of fresh users;
        ``None`` takes the best action.
        """
        ground, streams = self.ground, TensorStreams(10_000 + self.seed)
        state = ground.initial_state(ground.fresh[:users], streams)
        total = torch.zeros(6, dtype=torch.float64)
        while bool(state.alive.any()):
            before = state
            if act is None:
                assert ground.best is not None
                action = ground.best(state)
            else:
                action = act(self.scale(ground.observe(state)))
            state, outcome = ground.transition(state, action, streams)
            ended, gap, click = outcome.session_end, outcome.gap_days, outcome.reward[:, ground.click]
            counts = (ended, ended * (before.requests + 1), ended * gap, ended & (gap == 1.0), before.alive * click, before.alive)
            total += torch.stack([part.double().sum() for part in counts])
        ended, deep, away, back, clicks, made = total.tolist()
        return {"depth": deep / ended, "gap_days": away / ended, "day1": back / ended, "click_rate": clicks / made}

    @torch.no_grad()
    def estimated(self, act: Act) -> dict[str, float]:
        """NCIS of depth and gap, a trajectory a user, every row with its session's values, capped at 10; last sessions left out."""
        keep = np.flatnonzero(self.trajectories.known)
        ends = np.flatnonzero(self.trajectories.ends)
        session = np.searchsorted(ends, keep)
        rows = FixedBuffer(self.rows).gather(torch.from_numpy(keep))
        ours, theirs = (
            -0.5 * ((rows.action - centre(rows.observation)) / NOISE).square().sum(1).double().numpy()
            for centre in (act, self.behaviour.centre)
        )
        user = self.trajectories.user[np.searchsorted(self.trajectories.offsets.values, keep, side="right") - 1]
        lives = Offsets.from_starts(np.append(True, user[1:] != user[:-1]))
        found = {}
        for name, value in (("ncis_depth", self.depth[ends]), ("ncis_gap_days", self.trajectories.gap_days[ends])):
            feedback = LoggedFeedback(value[session], ours, theirs, user, trajectory=lives)
            found[name] = float(offline_eval.value(offline_eval.TrajectoryNCIS(cap=_CAP).contributions(feedback)))
        weight = np.exp(np.minimum(ours - theirs, np.log(_CAP)))
        return found | {"ess": float(weight.sum() ** 2 / (len(weight) * (weight**2).sum()))}


def _whole(log: Segments) -> Transitions:
    """Every row, user by user."""
    lengths = log.lengths()
    rows = log.gather(np.arange(lengths.size), np.zeros_like(lengths), lengths)
    return replace(rows, segments=None)


def _centre(policy: Any) -> Act:
    """What a policy does without chance."""
    streams = TensorStreams(0)
    return lambda seen: policy.act(seen, streams, deterministic=True).value
