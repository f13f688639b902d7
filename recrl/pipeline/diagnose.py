"""Does reinforcement learning matter here? Three questions to a log or a simulator, each with a placebo, and one verdict."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.algorithms.task import Task
from recrl.algorithms.td3 import TD3, TD3Config
from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError, DataError
from recrl.core.objective import Objective, Signal
from recrl.core.ragged import Offsets
from recrl.core.runs import RunFolder
from recrl.core.streams import Purpose, Streams
from recrl.core.torch.streams import TensorStreams
from recrl.pipeline.effects import Tilt, Units, action_effect, planning_effect
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig
from recrl.replay.ring import RingBuffer
from recrl.training.collect import WorldCollector
from recrl.training.online import OnlineConfig, UniformActions, train_online
from recrl_datasets import Log, Sessions, sessions
from simulators.ab.statistics import adjusted, compare
from simulators.config import WorldAction
from simulators.lives import live
from simulators.logging import end_ms, log_rows
from simulators.response import LatentResponse
from simulators.world import RetentionWorld

Build = Callable[[WorldAction, Objective], RetentionWorld]
"""Makes worlds of one simulator: of a kind of action, with an objective."""

_PREDICTED = ("click", "long_view", "like")
_LUCK_OF_EVALUATION = 1_000_003


@dataclass(frozen=True)
class DiagnoseConfig:
    """How closely it is looked at.

    Attributes:
        users: users looked at, drawn from the log or simulated.
        days: simulated days.
        slate: items a simulated request shows.
        discount: of the learner that plans, beside one that does not.
        steps: requests side by side that each of the two learners sees in the simulator; 0 leaves them out.
        alpha: chance of a false alarm over all questions together.
    """

    users: int = 2_000
    days: int = 14
    slate: int = 6
    discount: float = 0.9
    steps: int = 1_000
    alpha: float = 0.05

    def __post_init__(self) -> None:
        for name, least in (("users", 20), ("days", 2), ("slate", 1), ("steps", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least {least}", where=f"--{name}")
        if not 0.0 < self.alpha < 1.0 or not 0.0 < self.discount <= 1.0:
            raise ConfigError(f"alpha={self.alpha}, discount={self.discount}", where="--alpha, --discount", mend="both lie between 0 and 1")


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What was found.

    Attributes:
        answer: ``yes``, ``no`` or ``cannot tell``.
        reasons: one line each.
        effects: rows of the table ``diagnose_effects``.
    """

    answer: str
    reasons: tuple[str, ...]
    effects: list[dict[str, Any]]

    def write(self, run: RunFolder) -> None:
        """Write ``diagnose_effects`` and ``diagnose_verdict``."""
        run.write_table("diagnose_effects", pa.Table.from_pylist(self.effects))
        run.write_table("diagnose_verdict", pa.Table.from_pylist([{"answer": self.answer, "reasons": list(self.reasons)}]))


def diagnose_log(
    log: Log,
    cut: Sessions,
    predictions: LatentResponse,
    config: DiagnoseConfig,
    *,
    signal: str,
    seed: int = 0,
    progress: Progress | None = None,
) -> Diagnosis:
    """Ask a log; ``predictions`` (users and items as the log has them) say what an item is to a user, ``signal`` names the reward.

    **Errors**: :class:`DataError` where the log holds too little.
    """
    tell = progress or (lambda done, text: None)
    cut = _some_users(cut, config.users, seed)
    return _judged(_effects(cut, _Items(predictions, seed), signal, config, seed, tell), [], config, _observed(cut.log))


def diagnose_world(build: Build, config: DiagnoseConfig, *, signal: str, seed: int = 0, progress: Progress | None = None) -> Diagnosis:
    """Ask a simulator: random weights choose what its users are shown, and two learners are tried that differ in their discount alone."""
    tell = progress or (lambda done, text: None)
    world = build("fusion_weights", Objective())
    log, user = random_log(world, config.users, seed)
    tell(0.2, "random log")
    cut = sessions(log, rule="day")
    effects = _effects(cut, _Items(world.scorer, seed, user), signal, config, seed, lambda done, text: tell(0.2 + 0.3 * done, text))
    learned = [_learners(build, config, seed, lambda done, text: tell(0.5 + 0.5 * done, text))] if config.steps else []
    return _judged(effects, learned, config, "")


def random_log(world: RetentionWorld, users: int, seed: int) -> tuple[Log, NDArray[np.int64]]:
    """A log in memory of users whose slates are ranked by fusion weights drawn at random for each request, and the catalogue user of each.

    Weights, because single items drawn at random differ too little from each other: what is best and worst of a pool differs more.
    """
    ids, policy = world.population(users, seed), UniformActions(world.action_spec)
    items = pl.Series("item_id", np.arange(world.n_items, dtype=np.int64))
    rows = log_rows(world, policy, ids, TensorStreams(seed, world.device), item_ids=items, logger="random")  # type: ignore[arg-type]
    frame = pl.concat(rows)
    names = ("timestamp_ms", "request_id", "local_date", "censor_time", *BEHAVIOURS)
    columns = {"user": frame["user_id"].to_numpy(), "item": frame["item_id"].to_numpy(), **{name: frame[name].to_numpy() for name in names}}
    log = Log.from_arrays(columns, n_users=users, n_items=world.n_items, observed_until_ms=end_ms(world))
    return log, torch.remainder(ids, world.n_users).cpu().numpy()


class _Items:
    """What an item is to a user: predicted behaviours, and what they are on average."""

    def __init__(self, predictions: LatentResponse, seed: int, user: NDArray[np.int64] | None = None) -> None:
        self._predictions, self._user = predictions, user
        some = Streams(seed).integers(predictions.n_items, np.arange(64), 0, Purpose.CANDIDATES)
        self._some = torch.from_numpy(np.asarray(some, dtype=np.int64))

    @torch.no_grad()
    def __call__(self, user: NDArray[Any], item: NDArray[Any] | None) -> NDArray[np.float64]:
        """Features of (user, item) pairs (n,), or of users over 64 items, (n, 3)."""
        who = torch.from_numpy(np.array(user if self._user is None else self._user[user], dtype=np.int64))
        if item is not None:
            pairs = torch.from_numpy(np.array(item, dtype=np.int64)).unsqueeze(1)
            return self._scores(who, pairs)[:, 0].double().numpy()
        known, place = np.unique(who.numpy(), return_inverse=True)
        users = torch.from_numpy(known)
        return self._scores(users, self._some.expand(len(users), -1)).mean(1).double().numpy()[place]

    def _scores(self, user: Tensor, items: Tensor) -> Tensor:
        device = self._predictions.device
        kept = [BEHAVIOURS.index(name) for name in _PREDICTED]
        parts = zip(user.to(device).split(8192), items.to(device).split(8192), strict=True)
        return torch.cat([self._predictions.scores(u, i)[..., kept].cpu() for u, i in parts])


def _some_users(cut: Sessions, count: int, seed: int) -> Sessions:
    """The sessions of so many users, drawn at random."""
    there = np.flatnonzero(cut.log.user_offsets.lengths)
    if there.size <= count:
        return cut
    drawn = there[Streams(seed).permutation(there.size, 0, Purpose.USERS)[:count]]
    return sessions(cut.log.select(np.isin(cut.log.column("user"), drawn)), cut.rule, cut.gap_minutes)


def _observed(log: Log) -> str:
    if log.has("propensity") and log.has("logger_id"):
        return ""
    return "the log says nothing of how items were chosen: what is found is prediction, and cause only where the choice was random"


# ---------------------------------------------------------------------- the table of a log


def requests_of(cut: Sessions, items: _Items, signal: str) -> tuple[Units, NDArray[np.float64]]:
    """One unit a request: state before it, mean features of what it showed, and its mean reward (n,); the outcome is still empty.

    The state holds the clock, what the user did before, what was shown before, and what items are to the user on average.
    """
    log, rows = cut.log, cut.rows
    if not log.has(signal):
        raise DataError(f"the log holds no {signal!r}", where="--signal", mend=f"it has: {', '.join(b for b in BEHAVIOURS if log.has(b))}")
    session = cut.requests.segment_ids()
    user = cut.user[session].astype(np.int64)

    def mean(values: NDArray[Any]) -> NDArray[np.float64]:
        return rows.sum(values.astype(np.float64)) / rows.lengths

    shown = items(log.column("user"), log.column("item"))
    action = np.stack([mean(column) for column in shown.T], axis=1)
    given = [mean(log.column(name)) for name in dict.fromkeys((signal, "click", "long_view")) if log.has(name)]
    of_user = cut.users.through(cut.requests)
    before = np.column_stack([_before(column, of_user) for column in (*given, *action.T)])
    gap = np.r_[0.0, cut.gap_whole_days[:-1]][session].clip(0)
    first = cut.users.positions() == 0
    time = log.column("timestamp_ms")[rows.values[:-1]]
    clock = [
        np.where(first[session], 0.0, gap),
        cut.requests.positions(),
        cut.users.positions()[session],
        of_user.positions(),
        time % 86_400_000 / 3_600_000,
        time // 86_400_000 % 7,
    ]
    state = np.column_stack([np.column_stack(clock), before, items(user, None)])
    return Units(state, action, np.zeros(user.size), user, cut.requests), given[0]


def _before(values: NDArray[np.float64], segments: Offsets) -> NDArray[np.float64]:
    """Mean of the earlier values of each segment, the overall mean where there are none, drawn towards it: (n,)."""
    total = np.cumsum(values) - values
    start = np.r_[0.0, np.cumsum(segments.sum(values))[:-1]][segments.segment_ids()]
    overall = values.mean()
    out: NDArray[np.float64] = (total - start + 5.0 * overall) / (segments.positions() + 5.0)
    return out


def _effects(cut: Sessions, items: _Items, signal: str, config: DiagnoseConfig, seed: int, tell: Progress) -> list[dict[str, Any]]:
    """Every question, as the log has it and with sessions shuffled between users."""
    units, reward = requests_of(cut, items, signal)
    session, last = units.sessions.segment_ids(), units.sessions.values[1:] - 1
    seen = cut.exposure_whole_days >= 1
    back = (cut.gap_whole_days == 1).astype(np.float64)
    ends = np.zeros(units.user.size, dtype=bool)
    ends[last] = True
    follows = np.r_[units.user[1:] == units.user[:-1], False]
    to_end = last[session] - np.arange(units.user.size)
    whole = Units(
        units.state[units.sessions.values[:-1]],
        _means(units),
        back,
        cut.user.astype(np.int64),
        Offsets.from_lengths(np.ones(len(cut), dtype=np.int64)),
    )
    asked: dict[str, Callable[[int, bool], Tilt]] = {
        "returns the next day": lambda s, placebo: action_effect(_maybe(whole.where(seen), placebo, s), seed=s),
        "session goes on": lambda s, placebo: action_effect(
            _maybe(replace(units, outcome=1.0 - ends).where(seen[session]), placebo, s), seed=s
        ),
        f"{signal} of the next request": lambda s, placebo: action_effect(
            _maybe(replace(units, outcome=np.r_[reward[1:], 0.0]).where(follows), placebo, s), seed=s
        ),
    }
    known = seen[session]
    later = replace(units, outcome=back[session]).where(known)
    now, planned = (back[session] * ends)[known], (back[session] * config.discount**to_end)[known]
    asked["planning"] = lambda s, placebo: planning_effect(_maybe(later, placebo, s), now, planned, seed=s)
    rows, count = [], 0
    for placebo in (False, True):
        for name, ask in asked.items():
            count += 1
            tell(count / (2 * len(asked) + 1), f"{name}{', shuffled' if placebo else ''}")
            try:
                found = ask(seed, placebo)
            except DataError:
                # an outcome that never differs, such as depth in a log of single requests
                continue
            question = "planning" if name == "planning" else "actions"
            rows.append(
                {
                    "question": question,
                    "outcome": name if name != "planning" else "returns the next day",
                    "shuffled": placebo,
                    **asdict(found),
                }
            )
    if not any(row["question"] == "actions" and not row["shuffled"] for row in rows):
        raise DataError(
            "nothing in this log differs from request to request", where="recrl diagnose", mend="give a longer log, or more users"
        )
    return rows


def _maybe(units: Units, placebo: bool, seed: int) -> Units:
    return units.shuffled(seed) if placebo else units


def _means(units: Units) -> NDArray[np.float64]:
    """Mean action of each session."""
    return np.stack([units.sessions.sum(column) / units.sessions.lengths for column in units.action.T], axis=1)


# ---------------------------------------------------------------------- two learners in a simulator


def _learners(build: Build, config: DiagnoseConfig, seed: int, tell: Progress) -> dict[str, Any]:
    """TD3 on the days until return, once with discount 0 and once planning: the same fresh users with the same luck live with each."""
    found = []
    for k, discount in enumerate((0.0, config.discount)):
        tell(k / 2, f"a learner with discount {discount:g}")
        within = 1.0 if discount else 0.0
        world = build("fusion_weights", Objective(Signal("return", 1.0, within, discount)))
        policy = _trained(world, config.steps, seed)
        streams = TensorStreams(seed + _LUCK_OF_EVALUATION, world.device)
        found.append(live(world, policy, world.population(config.users, streams.seed), streams, deterministic=True))
    myopic, planned = found
    effect = compare((planned.next_day, planned.sessions), (myopic.next_day, myopic.sessions), 0.95, same_users=True)
    one_sided = effect.p_value / 2 if effect.effect > 0 else 1.0 - effect.p_value / 2
    return {
        "question": "planning",
        "outcome": "returns the next day, simulated",
        "shuffled": False,
        "value": effect.effect,
        "lower": effect.lower,
        "upper": effect.upper,
        "p_value": one_sided,
        "rows": int(planned.sessions.sum()),
        "users": config.users,
    }


def _trained(world: RetentionWorld, steps: int, seed: int) -> Any:
    actor = ActorConfig(EncoderConfig("history", history=10), (64, 64), exploration=0.2)
    task = Task(world.action_spec, world.objective, torch.nn.functional.normalize(world.scorer.item_vectors), device=str(world.device))
    learner = TD3(TD3Config(actor, (64, 64), 1e-3, 1e-3), task, seed)
    length = OnlineConfig(
        steps=steps,
        batch_size=128,
        warmup=max(1, steps // 10),
        updates_per_step=1,
        log_every=steps,
        checkpoint_every=steps,
        evaluate_every=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run", kind="diagnose", config={}, seed=seed)
        train_online(learner, WorldCollector(world, 32, seed), RingBuffer(32 * steps), length, run, stream="td3", seed=seed)
    return learner.policy()


# ---------------------------------------------------------------------- the verdict


def _judged(effects: list[dict[str, Any]], learned: list[dict[str, Any]], config: DiagnoseConfig, warning: str) -> Diagnosis:
    rows = _adjusted([*effects, *learned])
    asked = [row for row in rows if not row["shuffled"]]
    found = [row for row in asked if row["p_adjusted"] < config.alpha]
    # the placebo guards against a broken analysis: one alarm in a hundred, not one in twenty
    haunted = [row for row in rows if row["shuffled"] and row["p_adjusted"] < 0.01]
    moved = [row for row in found if row["question"] == "actions"]
    reasons = [_told(row) for row in (moved or [row for row in asked if row["question"] == "actions"])]
    for row in asked:
        if row["question"] == "planning":
            shown = "pays" if row in found else "is not shown to pay"
            reasons.append(
                f"planning {shown}: {row['value']:+.4f} [{row['lower']:+.4f}, {row['upper']:+.4f}] of {row['outcome']} over discount 0"
            )
    if warning:
        reasons.append(warning)
    if haunted:
        return Diagnosis("cannot tell", (f"sessions shuffled between users show effects, too: {_told(haunted[0])}", *reasons), rows)
    if not found:
        return Diagnosis("no", ("what is shown now is not seen to change what comes later: a bandit will do", *reasons), rows)
    return Diagnosis("yes", ("what is shown now changes what comes later", *reasons), rows)


def _adjusted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with ``p_adjusted``: Holm over all questions, and over all of the placebo."""
    out = []
    for placebo in (False, True):
        part = [row for row in rows if row["shuffled"] == placebo]
        corrected = adjusted([row["p_value"] for row in part], "holm") if part else ()
        out += [row | {"p_adjusted": float(p)} for row, p in zip(part, corrected, strict=True)]
    return out


def _told(row: dict[str, Any]) -> str:
    text = f"{row['outcome']}: {row['value']:+.4f} [{row['lower']:+.4f}, {row['upper']:+.4f}] a standard deviation of better items"
    return f"{text}, p = {row['p_adjusted']:.2g} ({row['users']:,} users)"
