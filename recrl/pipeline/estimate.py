"""Off-policy estimates of item policies on the test part of a log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from offline_eval import Evaluation, combine, cross_fit, evaluate, evaluate_retention, fitted_q, needs
from offline_eval.censoring import RetentionLog
from offline_eval.direct import TargetActions
from offline_eval.overlap import by_cohort, overlap_holes, reliability
from offline_eval.propensities import temperature
from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import LoggedFeedback, Progress
from recrl.core.ragged import Offsets
from recrl.core.runs import RunFolder
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.pipeline.policies import history_of
from recrl.pipeline.setting import Setting
from recrl.policies.items import ItemPolicy
from recrl.replay.logged import LoggedBuffer
from recrl_datasets import Log, sessions

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

ROWS_AT_ONCE = 256
"""Rows scored together; with 8,000 items and 7 behaviours this takes about 60 MB."""

CALIBRATED_ON = 1_024
"""Validation rows that the logging policy's temperature is fitted to, spread over all; one number needs no more."""

FITTED_ITERATIONS = 5
"""Fits of fitted Q evaluation: sessions of recommendations are short."""


@dataclass(frozen=True)
class EstimateConfig:
    """What is estimated, and how.

    Attributes:
        estimators: names in :data:`offline_eval.REGISTRY`; those of sequences estimate the value of a session.
        level: nominal coverage of the intervals.
        draws: items drawn from each policy a row, for predicted values and diagnostics; 0 draws none, and then estimators that need
            predictions cannot be asked for.
        retention_days: days ``k`` of day-k retention to estimate.
        seed: of draws and folds.
    """

    estimators: Sequence[str] = ("ips", "snips", "ncis")
    level: float = 0.95
    draws: int = 0
    retention_days: Sequence[int] = ()
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Scored:
    """A policy on logged rows: ``log_prob`` (n,) of the logged items; ``drawn`` (n, M) items of its own with their ``drawn_log_prob``."""

    log_prob: Float64
    drawn: Int64
    drawn_log_prob: Float64


def estimate(
    setting: Setting,
    policies: Mapping[str, ItemPolicy],
    behaviour: ItemPolicy | None,
    run: RunFolder,
    *,
    config: EstimateConfig | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Evaluation:
    """Estimate each policy on the test rows, for each signal the log holds, and write ``estimates`` and ``estimates_weights``.

    With draws also ``estimates_reliability`` (of estimated logging propensities), ``estimates_overlap`` (by how often an item was shown
    in training) and ``estimates_cohorts`` (users seen in training or not); see ``docs/off_policy.md``.

    Without ``behaviour`` the log's column ``propensity`` is read (:func:`states_propensities`). Most logs have none; then ``behaviour``
    stands in for the logging policy, an estimate fitted on training rows whose temperature is then fitted to validation rows
    (:func:`calibrated`). Its error is not part of the intervals: read the verdicts.
    """
    asked = config or EstimateConfig()
    known = [policy for policy in (behaviour, *policies.values()) if policy is not None]
    buffer = setting.buffer("item", device, history=max(map(history_of, known)))
    rows = buffer.rows_of(setting.split.test, with_next=False)
    user = buffer.user[rows].cpu().numpy().astype(np.int64)
    test, cut = setting.split.test, sessions(setting.split.test, setting.session_rule)
    logged = logging_scores(setting, behaviour, buffer, test, asked.draws, asked.seed)
    trajectory = cut.requests.through(cut.rows) if any("trajectory" in needs(name) for name in asked.estimators) else None
    features = _Features(setting, test.column("user"), test.column("item"), trajectory) if _predicts(asked.estimators) else None
    signals = [name for name in (*BEHAVIOURS, "watch_seconds", "rating") if setting.log.has(name)]
    evaluations, tables = [], _Tables(setting, user, logged, run) if asked.draws else None
    for k, (name, policy) in enumerate(policies.items()):
        told = progress and partial(_told, progress, k, len(policies), name)
        target = scored(policy, buffer, rows, asked.draws, asked.seed + 1, told)
        for signal in signals:
            feedback = LoggedFeedback(test.column(signal).astype(np.float64), target.log_prob, logged.log_prob, user)
            if trajectory is not None:
                discount = np.full(user.size, setting.objective.main.discount_within)
                feedback = replace(feedback, trajectory=trajectory, discount=discount)
            evaluations += [
                evaluate(given, names, policy=name, signal=signal, level=asked.level)
                for given, names in _prepared(feedback, asked, features, target.drawn)
            ]
        if asked.retention_days:
            back = RetentionLog.from_sessions(cut, target.log_prob, logged.log_prob)
            evaluations.append(evaluate_retention(back, asked.retention_days, policy=name, level=asked.level))
        if tables is not None:
            tables.add(name, target)
    combined = combine(evaluations)
    run.write_table("estimates", combined.estimates)
    run.write_table("estimates_weights", combined.weights)
    if tables is not None:
        tables.write()
    return combined


def states_propensities(log: Log) -> bool:
    """Whether a log states with which probability each item was chosen out of the whole catalogue.

    Not so where requests drew candidates (``candidate_set_id``): policies are estimated over the catalogue, and a probability within a
    pool is another one.
    """
    return log.has("propensity") and not log.has("candidate_set_id")


def logging_scores(setting: Setting, behaviour: ItemPolicy | None, buffer: LoggedBuffer, part: Log, draws: int, seed: int) -> Scored:
    """The logging policy on the rows of a part: what the log states, or ``behaviour`` calibrated on validation rows."""
    if behaviour is None:
        nothing = np.empty((part.n_rows, 0))
        return Scored(np.log(part.column("propensity").astype(np.float64)), nothing.astype(np.int64), nothing)
    behaviour = calibrated(behaviour, buffer, buffer.rows_of(setting.split.valid, with_next=False))
    return scored(behaviour, buffer, buffer.rows_of(part, with_next=False), draws, seed, None)


def _told(progress: Progress, before: int, of: int, name: str, share: float) -> None:
    progress((before + share) / of, name)


@torch.no_grad()
def calibrated(policy: ItemPolicy, buffer: LoggedBuffer, rows: torch.Tensor) -> ItemPolicy:
    """The policy at the temperature under which ``rows``, none of which it was fitted to, are likeliest; as it is where there are none.

    Cloned policies are too sure of what they have seen, and a propensity that is too small makes its row's weight too large.
    """
    policy, laws, logged = policy.to(buffer.device), [], []
    part = rows[:: max(1, rows.numel() // CALIBRATED_ON)][:CALIBRATED_ON]
    for chosen in part.split(ROWS_AT_ONCE):
        candidates, law = policy.law(buffer.observation(chosen))
        item = buffer.item[chosen].to(torch.int64).unsqueeze(1)
        if candidates is not None:
            match = candidates == item
            item, law = match.to(torch.int8).argmax(1, keepdim=True), law.masked_fill(~match.any(1, keepdim=True), -torch.inf)
        laws.append(law.double())
        logged.append(item)
    if not laws:
        return policy
    law, place = torch.cat(laws), torch.cat(logged)
    possible = ~torch.isneginf(law.gather(1, place).squeeze(1))
    if not bool(possible.any()):
        return policy
    factor = temperature(law[possible].cpu().numpy(), place[possible].squeeze(1).cpu().numpy())
    return ItemPolicy(policy.scores, policy.action_spec, policy.temperature * factor)


@torch.no_grad()
def scored(
    policy: ItemPolicy, buffer: LoggedBuffer, rows: torch.Tensor, draws: int, seed: int, progress: Callable[[float], None] | None
) -> Scored:
    """A policy's law on logged rows, in portions, where the buffer lives; nothing of size rows x items is held."""
    policy, out = policy.to(buffer.device), []
    streams = TensorStreams(seed, buffer.device)
    for start in range(0, rows.numel(), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        candidates, law = policy.law(buffer.observation(part))
        item = buffer.item[part].to(torch.int64).unsqueeze(1)
        drawn = _places(law, part, draws, streams)
        log_prob = law.gather(1, item) if candidates is None else law.masked_fill(candidates != item, -torch.inf).amax(1, keepdim=True)
        out.append((log_prob.squeeze(1), drawn if candidates is None else candidates.gather(1, drawn), law.gather(1, drawn)))
        if progress is not None:
            progress(min(1.0, (start + ROWS_AT_ONCE) / rows.numel()))
    log_prob, drawn, drawn_log_prob = (torch.cat(column).cpu() for column in zip(*out, strict=True))
    return Scored(log_prob.double().numpy(), drawn.numpy(), drawn_log_prob.double().numpy())


def _places(law: torch.Tensor, row: torch.Tensor, draws: int, streams: TensorStreams) -> torch.Tensor:
    """Drawn places of each row's law: log-probabilities (b, C), rows (b,) -> (b, draws) int64."""
    if draws == 0:
        # summing up a law costs as much as computing it
        return torch.empty(len(law), 0, dtype=torch.int64, device=law.device)
    uniform = streams.uniform(row, 0, Purpose.CANDIDATES, (draws,))
    reach = law.double().exp().cumsum(1)
    return torch.searchsorted(reach, uniform.double() * reach[:, -1:]).clamp_max(law.shape[1] - 1)


class _Features:
    """What the reward model sees of a row and an item: the seven behaviours predicted from training rows, and the step in the session."""

    def __init__(self, setting: Setting, user: NDArray[Any], item: NDArray[Any], trajectory: Offsets | None) -> None:
        self.responses, self.user = setting.responses, torch.as_tensor(user.astype(np.int64))
        starts = np.zeros(user.size) if trajectory is None else np.repeat(trajectory.values[:-1], trajectory.lengths)
        self.step = np.log1p(np.arange(user.size) - starts) if trajectory is not None else starts
        self.logged = self.of(np.arange(user.size), item.astype(np.int64)[:, None])[:, 0]

    def of(self, rows: Int64, items: Int64) -> Float64:
        """Features (b, M, 8) of ``items`` (b, M) in ``rows`` (b,)."""
        with torch.no_grad():
            predicted = self.responses.scores(self.user[rows], torch.as_tensor(items)).double().numpy()
        step = np.broadcast_to(self.step[rows, None, None], (*items.shape, 1))
        return np.concatenate([predicted, step], axis=2)

    def target(self, drawn: Int64) -> TargetActions:
        """The target policy's actions: drawn ones, with equal chances."""
        return lambda rows: (self.of(rows, drawn[rows]), np.full((rows.size, drawn.shape[1]), 1.0 / drawn.shape[1]))


class _Tables:
    """Diagnostics that need drawn items, collected over policies."""

    def __init__(self, setting: Setting, user: Int64, logged: Scored, run: RunFolder) -> None:
        self.user, self.logged, self.run = user, logged, run
        self.item = setting.split.test.column("item").astype(np.int64)
        self.known = (setting.split.train.user_offsets.lengths > 0)[user].astype(np.int64)
        self.band = popularity_band(np.bincount(setting.split.train.column("item"), minlength=setting.log.n_items))
        self.overlap: list[dict[str, Any]] = []
        self.cohorts: list[dict[str, Any]] = []

    def add(self, name: str, target: Scored) -> None:
        feedback = LoggedFeedback(np.zeros(self.user.size), target.log_prob, self.logged.log_prob, self.user)
        holes = overlap_holes(feedback, self.band[self.item], self.band[target.drawn])
        self.overlap += [{"policy": name, **row} for row in holes.to_pylist()]
        self.cohorts += [{"policy": name, **row} for row in by_cohort(feedback, self.known).to_pylist()]

    def write(self) -> None:
        if self.logged.drawn_log_prob.size:
            self.run.write_table("estimates_reliability", reliability(self.logged.log_prob, self.logged.drawn_log_prob, self.user))
        self.run.write_table("estimates_overlap", pa.Table.from_pylist(self.overlap))
        self.run.write_table("estimates_cohorts", pa.Table.from_pylist(self.cohorts))


def popularity_band(counts: Int64) -> Int64:
    """Items by how often training showed them: 0 never, else the fifth (1 to 5, the last the most shown) of shown items, (n_items,)."""
    shown = counts > 0
    rank = np.argsort(np.argsort(counts[shown], kind="stable"), kind="stable")
    band = np.zeros(counts.size, dtype=np.int64)
    band[shown] = 1 + rank * 5 // max(int(shown.sum()), 1)
    return band


def _predicts(names: Sequence[str]) -> bool:
    return any("predictions" in needs(name) for name in names)


def _prepared(
    feedback: LoggedFeedback, asked: EstimateConfig, features: _Features | None, drawn: Int64
) -> list[tuple[LoggedFeedback, list[str]]]:
    """The log as each group of estimators needs it: as it is, with predicted rewards, with predicted returns of sessions."""
    groups: dict[frozenset[str], list[str]] = {}
    for name in asked.estimators:
        groups.setdefault(needs(name) if "predictions" in needs(name) else frozenset(), []).append(name)
    prepared = []
    for needed, names in groups.items():
        given = feedback
        if needed:
            assert features is not None
            target = features.target(drawn)
            if "trajectory" in needed:
                steps = FITTED_ITERATIONS
                given = fitted_q(feedback, features.logged, target, model="ridge", iterations=steps, folds=2, seed=asked.seed)
            else:
                given = cross_fit(feedback, features.logged, target, model="ridge", seed=asked.seed)
        prepared.append((given, names))
    return prepared
