"""One seed of the PrefRec study: its log, the clone of the logging policy, learned rewards, and what every method makes of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.algorithms import REGISTRY
from recrl.algorithms.bc import BC, BCConfig
from recrl.algorithms.task import Task
from recrl.core.contracts import ActionSpec, Transitions
from recrl.core.errors import ConfigError
from recrl.core.files import read_json, write_json
from recrl.core.objective import Objective, Signal
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.policies.encoders import EncoderConfig
from recrl.policies.storage import read_policy
from recrl.policies.vector import ActorConfig, VectorPolicy
from recrl.preferences.inspection import action_share, inspect_reward
from recrl.preferences.pairs import SPLITS, PairBatches, PairConfig, draw_pairs, teach
from recrl.preferences.reward import LearnedReward, PreferenceReward, RewardConfig, RewardPretraining
from recrl.preferences.teacher import Teacher
from recrl.preferences.trajectories import FixedBuffer, Trajectories
from recrl.preferences.windows import WindowConfig, cut_windows
from recrl.replay.samplers import UniformSampler
from recrl.replay.sessions import Segments
from recrl.reproductions.prefrec.estimates import Act, all_of, depths
from recrl.reproductions.prefrec.grounds import NOISE, Scale, Seen
from recrl.reproductions.prefrec.recipes import RECIPES, WITH_CURVE, Budget, Recipe, Taught, Written
from recrl.reproductions.study import Cell

MAX_GAP_DAYS = 10.0
"""Longer gaps count as this one, as teachers have it; so does the end of a life."""
_SESSION_ROWS, _THINNED = 40, 9


@dataclass(frozen=True, eq=False)
class Logged:
    """What there is to learn from.

    Attributes:
        log: whole lives of users, with flat features.
        action_spec: what a policy decides.
        features: width of what is seen of a state.
        click: column of the click rate in the log's rewards.
        returns: column that tells the return gap.
        windows: how segments of one length are cut.
    """

    log: Segments
    action_spec: ActionSpec
    features: int
    click: int
    returns: int
    windows: WindowConfig = WindowConfig()


class Bench(ABC):
    """What the cells of a part and seed share; how a policy is judged is a world's or a log's own.

    Args:
        logged: what there is to learn from.
        seed: of users, log, teachers, networks and batches.
        budget: what a cell may spend.
        folder: where clones and learned rewards are kept.
    """

    def __init__(self, logged: Logged, seed: int, budget: Budget, folder: Path) -> None:
        self.logged, self.seed, self.budget, self.folder = logged, seed, budget, folder
        self.scale = Scale.of(_features(all_of(logged.log)))
        self.trajectories = Trajectories(Seen(logged.log, self.scale), returns=logged.returns)
        self.rows = all_of(self.trajectories.source)
        self.actor = ActorConfig(EncoderConfig("flat", features=logged.features), budget.layers, NOISE)

    # ------------------------------------------------------------------ the log

    @cached_property
    def shuffled(self) -> Trajectories:
        """The log with the actions of other rows."""
        order = torch.from_numpy(np.random.default_rng(self.seed).permutation(len(self.rows)))
        return Trajectories(Seen(self.logged.log, self.scale, self.rows.action[order]), returns=self.logged.returns)

    @cached_property
    def depth(self) -> NDArray[np.float64]:
        """Requests of the session that ends with a row, 0 elsewhere."""
        return depths(self.trajectories)

    @property
    def ended(self) -> NDArray[np.bool_]:
        """Rows that end a session and tell when the user came back."""
        return self.trajectories.ends

    @cached_property
    def yardstick(self) -> tuple[float, float, float, float]:
        """Mean and deviation of the depth of the log's sessions, then of their gaps in days."""
        ends = self.ended
        deep, away = self.depth[ends], np.minimum(self.trajectories.gap_days[ends], MAX_GAP_DAYS)
        return float(deep.mean()), float(deep.std()), float(away.mean()), float(away.std())

    def worth(self, depth: Any, gap_days: Any) -> Any:
        """The truth that teachers of both tasks use: standardised depth less standardised gap, of sessions."""
        deep, deep_spread, away, away_spread = self.yardstick
        return (depth - deep) / deep_spread - (gap_days.clip(max=MAX_GAP_DAYS) - away) / away_spread

    @property
    def noise(self) -> float:
        """Spread of the logging policy around its mean."""
        return NOISE

    def task(self, discount: float = 0.98) -> Task:
        """Actions of the world; the batches' first reward is what counts."""
        return Task(self.logged.action_spec, Objective(Signal("return", discount_within=discount, discount_across=discount)))

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
        return all_of(self.shuffled.source) if shuffled else self.rows

    # ------------------------------------------------------------------ rewards

    def written(self, rows: Transitions, reward: Written) -> Transitions:
        """Rows with a written reward."""
        if reward == "clicks":
            value = rows.reward[:, self.logged.click]
        elif reward == "random":
            value = TensorStreams(self.seed).normal(torch.arange(len(rows)), 0, Purpose.BOOTSTRAP)
        else:
            value = torch.from_numpy(np.where(self.ended, self.worth(self.depth, self.trajectories.gap_days), 0.0))
        return rows.with_reward(value.float().unsqueeze(1))

    def learned(self, taught: Taught) -> tuple[LearnedReward, PairBatches, dict[str, float]]:
        """A learned reward as pre-training left it, its training pairs, and what it knows; trained once and kept."""
        budget, log = self.budget, self.trajectories
        windows = cut_windows(log, WindowConfig("sessions", length=_SESSION_ROWS) if taught.sessions else self.logged.windows)
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
        return {
            **kinds,
            "rank_correlation": found.rank_correlation,
            "action_share": action_share(reward, thinned, mean, self.noise, self.seed),
        }

    # ------------------------------------------------------------------ cells

    def __call__(self, cell: Cell) -> dict[str, Any]:
        """A cell's result: what its policy reaches and what is estimated (:meth:`judged`), and what its reward knows (``reward``)."""
        recipe = RECIPES[cell.method]
        if recipe.learner == "bc":
            return self.judged(self.clone(recipe.shuffled).centre)
        if recipe.learner == "zero":
            return self.judged(lambda seen: torch.zeros(len(seen), *self.logged.action_spec.shape))
        if recipe.learner in ("best", "cem"):
            return self.told(recipe.learner)
        return self._learn(recipe, curve=cell.method in WITH_CURVE)

    @abstractmethod
    def judged(self, act: Act) -> dict[str, Any]:
        """What a policy reaches, and what an estimator says of it."""

    def told(self, learner: str) -> dict[str, Any]:
        """What somebody reaches who knows or may try the world; nobody does of a log."""
        raise ConfigError(f"{learner} needs a world to act in", where="Bench.told", mend="leave it out of parts that are logs")

    def early(self, act: Act) -> float | None:
        """Depth that a policy reaches while it is learned; nobody knows from a log."""
        return None

    def _learn(self, recipe: Recipe, curve: bool) -> dict[str, Any]:
        result: dict[str, Any] = {}
        rows = self._rows_of(recipe.shuffled)
        transform = None
        if isinstance(recipe.reward, Taught):
            reward, pairs, result["reward"] = self.learned(recipe.reward)
            if recipe.refresh_every is not None:
                reward.config = replace(reward.config, refresh_every=recipe.refresh_every)
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
        early: list[float] = []
        looks = max(1, self.budget.updates // 20)
        for step in range(1, self.budget.updates + 1):
            batch = sampler.sample(self.budget.batch, step)
            if transform is not None:
                transform.update(batch)
                batch = transform.apply(batch)
            learner.update(batch)
            if curve and step % looks == 0 and step <= 4 * looks:
                depth = self.early(_centre(learner.policy()))
                early += [] if depth is None else [depth]
        return result | self.judged(_centre(learner.policy())) | ({"early_depth": float(np.mean(early))} if early else {})


def _features(rows: Transitions) -> Tensor:
    features = rows.observation.features
    assert isinstance(features, Tensor)
    return features


def _centre(policy: Any) -> Act:
    """What a policy does without chance."""
    streams = TensorStreams(0)
    return lambda seen: policy.act(seen, streams, deterministic=True).value
