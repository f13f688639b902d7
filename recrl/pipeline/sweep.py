"""The same tuning budget for every learner: trials judged off-policy on validation rows, the best one judged once on test rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow as pa

import offline_eval
from recrl.algorithms import REGISTRY
from recrl.core.contracts import LoggedFeedback, Progress
from recrl.core.errors import ConfigError
from recrl.core.files import read_json, write_json
from recrl.core.runs import RunFolder
from recrl.core.streams import Purpose, Streams
from recrl.pipeline.data import DataOptions, load_store
from recrl.pipeline.estimate import EstimateConfig, estimate, logging_scores, scored, states_propensities
from recrl.pipeline.learn import LOGGING, LearnConfig, clone_logging_policy, learn, policy_folder
from recrl.pipeline.policies import history_of
from recrl.pipeline.setting import LogAction, Setting
from recrl.pipeline.spaces import Range, space_of
from recrl.policies import load_policy
from recrl.policies.items import ItemPolicy
from recrl.training.offline import OfflineConfig

SHORTFALL = 10.0
"""What a protected response's relative shortfall costs, in relative gains of the main one: no trial buys one with the other."""


@dataclass(frozen=True)
class SweepConfig:
    """How much each learner may try.

    Attributes:
        trials: of each learner; the first is its defaults.
        judge: estimator on validation rows that chooses.
        space: ranges of options, as :meth:`recrl.pipeline.spaces.Range.parse` reads them; without any, the usual ones.
        behaviour_steps: training steps of the estimated logging policy, where the log states no propensities.
    """

    trials: int = 12
    judge: str = "snips"
    space: tuple[str, ...] = ()
    behaviour_steps: int = 1_500

    def __post_init__(self) -> None:
        if self.trials < 1 or self.behaviour_steps < 1:
            found = f"trials={self.trials}, behaviour_steps={self.behaviour_steps}"
            raise ConfigError(found, where="recrl sweep", mend="both count from 1")
        if needs := offline_eval.needs(offline_eval.resolve(self.judge)):
            raise ConfigError(f"{self.judge} needs {', '.join(needs)}", where="--judge", mend="choose ips, snips, ncis or clipped_ips")
        for text in self.space:
            Range.parse(text)


@dataclass(frozen=True)
class Search:
    """One learner's search in a run; picklable, for a process of its own."""

    learner: str
    action: LogAction
    data: DataOptions
    offline: OfflineConfig
    config: SweepConfig
    constraints: tuple[str, ...]
    run: Path
    seed: int
    device: str


def fit_logging_policy(setting: Setting, config: SweepConfig, run: RunFolder, *, seed: int, device: str, progress: Progress) -> None:
    """Clone the logging policy into the run, once for all learners; nothing to do where the log states propensities."""
    if not states_propensities(setting.log):
        clone_logging_policy(setting, config.behaviour_steps, run, seed=seed, device=device, progress=progress)


def search(asked: Search, progress: Progress) -> dict[str, Any]:
    """The trials of one learner, those that are there already left alone; a process's work for :func:`recrl.pipeline.seeds.over_seeds`."""
    setting, run = Setting(load_store(asked.data), asked.data), RunFolder.open(asked.run)
    judge = Judge(setting, run, asked)
    ranges = [Range.parse(text) for text in asked.config.space]
    space = space_of(asked.learner, REGISTRY[asked.learner].config_type(), ranges)
    for k in range(asked.config.trials):
        path = trial_file(run, asked.learner, k)
        progress(k / asked.config.trials, f"{asked.learner}, trial {k + 1} of {asked.config.trials}")
        if path.exists():
            continue
        options = _next_options(run, asked, space, k)
        policy = _trained(setting, asked, options, run, k)
        write_json(path, {"learner": asked.learner, "trial": k, "options": options, **judge(policy)})
    progress(1.0, f"{asked.learner} done")
    return {"learner": asked.learner, "trials": asked.config.trials}


def _next_options(run: RunFolder, asked: Search, space: Mapping[str, Any], k: int) -> dict[str, Any]:
    """Options of trial ``k``: the defaults first, then what the tree-structured Parzen estimator makes of all trials before.

    A sampler of its own for each trial, seeded by its number: a search that was stopped goes on as if it had not been.
    """
    if k == 0 or not space:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = int(Streams(asked.seed).integers(2**31, np.array([k]), 0, Purpose.BOOTSTRAP)[0])
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(3, asked.config.trials // 3))
    )
    for trial in range(1, k):
        held = read_json(trial_file(run, asked.learner, trial))
        study.add_trial(optuna.trial.create_trial(params=held["options"], distributions=dict(space), value=held["score"]))
    return dict(study.ask(dict(space)).params)


def _trained(setting: Setting, asked: Search, options: Mapping[str, Any], run: RunFolder, k: int) -> ItemPolicy:
    config = replace(REGISTRY[asked.learner].config_type(), **options)
    plan = LearnConfig(asked.learner, asked.action, asked.offline, config, label=f"{asked.learner}-{k}", constraints=asked.constraints)
    return learn(setting, plan, run, seed=asked.seed, device=asked.device)


class Judge:
    """Judges a policy on validation rows: the main signal and the protected ones, each beside the log's mean."""

    def __init__(self, setting: Setting, run: RunFolder, asked: Search) -> None:
        objective = setting.objective.protecting(asked.constraints)
        self.constraints, self.main = objective.constraints, objective.main.name
        self.valid, self.estimator = setting.split.valid, offline_eval.REGISTRY[asked.config.judge]
        behaviour = None if states_propensities(setting.log) else logging_policy(run)
        history = 1 if behaviour is None else history_of(behaviour)
        self.setting, self.device, self.history, self.seed = setting, asked.device, history, asked.seed
        buffer = setting.buffer("item", asked.device, history=history)
        self.logged = logging_scores(setting, behaviour, buffer, self.valid, 0, asked.seed).log_prob

    def __call__(self, policy: ItemPolicy) -> dict[str, Any]:
        """``score``, and the estimate and the log's mean of each signal."""
        buffer = self.setting.buffer("item", self.device, history=max(self.history, history_of(policy)))
        rows = buffer.rows_of(self.valid, with_next=False)
        user = buffer.user[rows].cpu().numpy().astype(np.int64)
        target = scored(policy, buffer, rows, 0, self.seed, None).log_prob
        found: dict[str, dict[str, float]] = {}
        for name in dict.fromkeys((self.main, *(c.signal.name for c in self.constraints))):
            reward = self.valid.column(name).astype(np.float64)
            contributions = self.estimator.contributions(LoggedFeedback(reward, target, self.logged, user))
            found[name] = {"value": float(offline_eval.value(contributions)), "logged": float(reward.mean())}
        return {"score": self._score(found), "signals": found}

    def _score(self, found: Mapping[str, Mapping[str, float]]) -> float:
        main = found[self.main]
        gain = main["value"] / abs(main["logged"]) if main["logged"] else main["value"]
        worst = 0.0
        for constraint in self.constraints:
            signal = found[constraint.signal.name]
            bound = signal["logged"] if constraint.bound is None else constraint.bound
            short = bound - signal["value"] if constraint.direction == "at_least" else signal["value"] - bound
            worst = max(worst, short / max(abs(bound), 1e-9))
        return gain - SHORTFALL * worst


def conclude(
    setting: Setting, learners: Sequence[str], config: SweepConfig, run: RunFolder, *, seed: int, device: str, progress: Progress
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Choose each learner's best trial, judge it once on test rows, write ``sweep_trials``, ``sweep_best`` and the estimates.

    **Returns** rows of ``sweep_best`` and of the estimates.
    """
    trials = {name: [read_json(trial_file(run, name, k)) for k in range(config.trials)] for name in learners}
    best = {name: max(held, key=lambda trial: trial["score"]) for name, held in trials.items()}
    run.write_table("sweep_trials", pa.Table.from_pylist([_row(trial) for held in trials.values() for trial in held]))
    policies = {name: _item_policy(run, f"{name}-{trial['trial']}") for name, trial in best.items()}
    behaviour = None if states_propensities(setting.log) else logging_policy(run)
    asked = EstimateConfig((config.judge,), seed=seed)
    found = estimate(setting, policies, behaviour, run, config=asked, device=device, progress=progress).estimates.to_pylist()
    rows = [_row(trial) for trial in best.values()]
    run.write_table("sweep_best", pa.Table.from_pylist(rows))
    return rows, found


def _row(trial: Mapping[str, Any]) -> dict[str, Any]:
    options = ", ".join(f"{name}={value:.3g}" for name, value in trial["options"].items()) or "defaults"
    signals = {f"{name}_{what}": x for name, signal in trial["signals"].items() for what, x in signal.items()}
    return {"learner": trial["learner"], "trial": trial["trial"], "score": trial["score"], "options": options, **signals}


def trial_file(run: RunFolder, learner: str, trial: int) -> Path:
    """Where a finished trial lies."""
    return run.path / "trials" / f"{learner}-{trial}.json"


def logging_policy(run: RunFolder) -> ItemPolicy:
    """What :func:`fit_logging_policy` has left."""
    return _item_policy(run, LOGGING)


def _item_policy(run: RunFolder, name: str) -> ItemPolicy:
    policy = load_policy(policy_folder(run, name))
    assert isinstance(policy, ItemPolicy)
    return policy
