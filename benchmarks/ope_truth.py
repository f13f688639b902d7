"""Every estimator, interval and selector against known truth: bias, error, coverage, width and cost; the tables in docs/off_policy.md.

python benchmarks/ope_truth.py --json                 # 200 replications a cell: half an hour
python benchmarks/ope_truth.py --small --json         # half a minute
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from sklearn.linear_model import LinearRegression

import offline_eval
from offline_eval.scoring import score
from offline_eval.truth import Bandit, RetentionProcess, softmax_policy
from recrl.core.contracts import LoggedFeedback
from recrl.core.objective import Signal
from recrl.core.ragged import Offsets
from recrl.core.streams import Purpose, Streams

SIGNAL = Signal("reward", discount_within=0.95, discount_across=0.8)
HORIZON, ROWS, DAY = 12, 10, 3
MILD, HEAVY = 0.25, 0.5  # how decided logger and target are: the spread of weights
METHODS = ("auto", "delta", "skew_t", "student_t", "bootstrap", "poisson_bootstrap", "hoeffding", "bernstein")
WORLDS = ("bandit", "slate", "process", "heavy", "retention")
CANDIDATES = ("ips", "clipped_ips", "snips", "ncis", "dm", "dr", "sndr", "switch_dr")
CAPS = [offline_eval.ClippedIPS(cap) for cap in (100.0, 30.0, 10.0, 3.0, 1.0)]
TABLE = LinearRegression(fit_intercept=False)


@dataclass(frozen=True)
class Cell:
    """One truth with the logs that hide it."""

    world: str
    users: int
    rate: float | None
    truth: float
    draw: Callable[[int], Any]
    estimators: Sequence[Any]


@dataclass(frozen=True)
class Chosen:
    """What a selector chooses, as an estimator; its interval is that of the chosen one, as if nobody had chosen."""

    name: str
    choose: Callable[[Any], offline_eval.Choice]

    def contributions(self, feedback: Any) -> Any:
        return self.choose(feedback).estimator.contributions(feedback)


SELECTORS = (
    Chosen("slope", lambda log: offline_eval.slope(log, CAPS)),
    Chosen("slope_plus_plus", lambda log: offline_eval.slope(log, CAPS, monotone=True)),
    Chosen("cross_validated", lambda log: offline_eval.cross_validated(log, CANDIDATES)),
    Chosen("cross_validated_by_dr", lambda log: offline_eval.cross_validated(log, CANDIDATES, judge="dr")),
    Chosen("importance_fitted", lambda log: offline_eval.importance_fitted(log, CANDIDATES)),
)


def cells(users: Sequence[int], rates: Sequence[float], worlds: Sequence[str]) -> Iterator[Cell]:
    for count in users:
        if "bandit" in worlds:
            yield from (bandit(count, rate) for rate in rates)
        if "slate" in worlds:
            yield slate(count)
        yield from (process(count, sharpness, name) for name, sharpness in (("process", MILD), ("heavy", HEAVY)) if name in worlds)
        if "retention" in worlds:
            yield retention(count)


def bandit(users: int, rate: float) -> Cell:
    """Rows of users of hidden kinds; models are tables that do not see the kind."""
    world, logger, target = Bandit.random(11, rate), softmax_policy(1, 4, 5, 0.7), softmax_policy(2, 4, 5, 0.7)

    def draw(number: int) -> Any:
        log = world.draw(logger, users, ROWS, number)
        return offline_eval.cross_fit(log.feedback(target), *log.features(target), model=TABLE, folds=2)

    weighing = ("ips", "clipped_ips", "sg_ips", "snips", "ncis", "ncis_trajectory", "replay")
    predicting = ("dm", "dr", "sndr", "switch_dr", "dr_os", "sg_dr")
    named = [offline_eval.REGISTRY[name] for name in (*weighing, *predicting)]
    return Cell("bandit", users, rate, world.value(target), draw, [*named, *SELECTORS])


def slate(users: int) -> Cell:
    """Slates of 3 positions out of 4 items, drawn independently; an item is worth half as much for each equal one above it."""
    contexts, length, items = 3, 3, 4
    shape = (contexts, length, items)
    logger, target = (np.stack([softmax_policy(seed + k, contexts, items, 0.7) for k in range(length)], axis=1) for seed in (20, 30))
    worth = 1 / (1 + np.exp(1 - Streams(5).normal([0], 0, Purpose.RESPONSES, shape)[0]))
    listed = np.array(list(itertools.product(range(items), repeat=length)))  # (slates, length)

    def rate(context: Any, shown: Any) -> Any:
        """Chance of a click at each position, (..., length)."""
        above = np.stack([(shown[..., :k] == shown[..., k : k + 1]).sum(axis=-1) for k in range(length)], axis=-1)
        return worth[context[..., None], np.arange(length), shown] * 0.5**above

    each = [rate(np.full(len(listed), x), listed).sum(axis=1) @ target[x, np.arange(length), listed].prod(axis=1) for x in range(contexts)]
    log_logger, log_target = np.log(logger), np.log(target)

    def draw(number: int) -> Any:
        streams, lanes, rows = Streams(number), np.arange(users), users * ROWS
        context = streams.integers(contexts, lanes, 0, Purpose.USERS, (ROWS,)).ravel()
        uniform = streams.uniform(lanes, 0, Purpose.EXPLORATION, (ROWS, length)).reshape(rows, length, 1)
        shown = (uniform > logger[context].cumsum(axis=2)[..., :-1]).sum(axis=2)
        clicked = streams.uniform(lanes, 0, Purpose.RESPONSES, (ROWS, length)).reshape(rows, length) < rate(context, shown)
        cell = context[:, None], np.arange(length), shown
        user, slates = np.repeat(lanes, ROWS * length), Offsets.from_lengths(np.full(rows, length))
        columns = (clicked.ravel().astype(float), log_target[cell].ravel(), log_logger[cell].ravel(), user)
        return LoggedFeedback(*columns, trajectory=slates)

    wanted = [offline_eval.REGISTRY[name] for name in ("tis", "wis", "pdis", "wpdis", "iips", "pseudo_inverse")]
    return Cell("slate", users, None, float(np.mean(each)), draw, wanted)


def process(users: int, sharpness: float, name: str) -> Cell:
    """Trajectories of at most HORIZON requests over sessions; fitted Q is a table without the number of steps left, so it is wrong."""
    world, logger, target = RetentionProcess.random(4), softmax_policy(3, 3, 3, sharpness), softmax_policy(6, 3, 3, sharpness)

    def draw(number: int) -> Any:
        log = world.draw(logger, users, HORIZON, number)
        return offline_eval.fitted_q(log.feedback(target, SIGNAL), *log.features(target), model=TABLE, iterations=HORIZON, folds=2)

    wanted = ("tis", "wis", "capped_wis", "pdis", "wpdis", "seq_dm", "seq_dr", "seq_wdr")
    truth = world.value(target, SIGNAL, HORIZON)
    return Cell(name, users, None, truth, draw, [offline_eval.REGISTRY[n] for n in wanted])


def retention(users: int) -> Cell:
    """Return within DAY days after the first session; half of the sessions are observed for 0 to 6 days only."""
    world, logger, target = RetentionProcess.random(4), softmax_policy(3, 3, 3, MILD), softmax_policy(6, 3, 3, MILD)
    curve = np.cumprod(1 - world.hazard.mean(axis=0)[:DAY])  # one curve for everybody: a poor prediction, on purpose

    def draw(number: int) -> Any:
        log = world.draw(logger, users, 60, number)
        days = Streams(number).integers(14, np.arange(users), 0, Purpose.CANDIDATES)
        sessions = log.first_sessions(target, np.where(days < 7, days, 30))
        n = len(sessions.days)
        return replace(sessions, logged_hazard=np.tile(world.hazard.mean(axis=0)[:DAY], (n, 1)), target_survival=np.tile(curve, (n, 1)))

    kinds = (offline_eval.NaiveRetention, offline_eval.IPCW, offline_eval.KaplanMeier, offline_eval.SurvivalDR)
    return Cell("retention", users, None, float(world.retention(target)[DAY - 1]), draw, [kind(DAY) for kind in kinds])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[100, 500, 2000])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.02, 0.1, 0.5])
    parser.add_argument("--worlds", nargs="+", default=WORLDS, choices=WORLDS)
    parser.add_argument("--replications", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="100 users, one rate, 30 replications")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.small:
        options.users, options.rates, options.replications = [100], [0.1], 30
    started, rows = time.process_time(), []

    warnings.filterwarnings("ignore", message="fitted Q evaluation has not settled")
    for cell in cells(options.users, options.rates, options.worlds):
        found = score(cell.draw, cell.truth, cell.estimators, METHODS, replications=options.replications, seed=options.seed)
        for entry in found:
            known = {name: None if isinstance(x, float) and np.isnan(x) else x for name, x in asdict(entry).items()}
            rows.append({"world": cell.world, "users": cell.users, "rate": cell.rate, **known})
            if not options.json and entry.method == "auto":
                print(
                    f"{cell.world:9} {cell.users:5} {cell.rate or '':4} {entry.estimator:15} truth {entry.truth:.4f}"
                    f" bias {entry.bias:+.4f} +- {entry.bias_error:.4f} rmse {entry.rmse:.4f} cover {entry.coverage:6.1%}"
                    f" width {entry.width:.4f} {entry.estimate_ms:.2f} ms",
                    flush=True,
                )
    result = {"benchmark": "ope_truth", "replications": options.replications, "core_seconds": time.process_time() - started, "rows": rows}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
