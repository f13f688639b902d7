"""Splits that cannot leak: by time (nothing of the future in training) and by user (no user on two sides)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recrl.core.errors import ConfigError, DataError
from recrl.core.streams import Purpose, Streams
from recrl_datasets.log import Log


@dataclass(frozen=True, eq=False)
class Split:
    """Three views of one log, and a note that says how they were cut."""

    train: Log
    valid: Log
    test: Log
    note: str


def split_by_time(log: Log, fractions: Sequence[float] = (0.8, 0.1, 0.1)) -> Split:
    """Cut at two moments: train before the first, valid between, test from the second on.

    Rows with equal times fall on one side, so shares are as near to ``fractions`` as ties allow (train and valid never
    larger than asked). ``train.observed_until_ms`` is the cut: return gaps that reach beyond it are censored there.

    **Errors**: :class:`ConfigError` for bad fractions; :class:`DataError` where ties leave no row to train on.
    """
    shares = _fractions(fractions, "split_by_time")
    times = log.column("timestamp_ms")
    if times.size == 0:
        raise DataError("the log has no rows", where="split_by_time", mend="give a log with rows")
    ends = [int(np.floor(sum(shares[:k]) * times.size + 1e-6)) for k in (1, 2)]
    after = int(times.max()) + 1
    cuts = [int(np.partition(times, end)[end]) if end < times.size else after for end in ends]
    train, valid, test = times < cuts[0], (times >= cuts[0]) & (times < cuts[1]), times >= cuts[1]
    if not train.any():
        raise DataError(
            "no row lies before the cut: too many rows share one time",
            where="split_by_time",
            mend="use split_by_user, or a larger first fraction",
        )
    rows = f"{train.sum()}, {valid.sum()}, {test.sum()} rows"
    note = f"by time: train before {_moment(cuts[0])}, valid before {_moment(cuts[1])}, test from then on ({rows})"
    return Split(
        log.select(train, observed_until_ms=min(cuts[0], log.observed_until_ms)),
        log.select(valid, observed_until_ms=min(cuts[1], log.observed_until_ms)),
        log.select(test),
        note,
    )


def split_by_user(log: Log, fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0) -> Split:
    """Put each user, with all rows, on one side by a hash of the raw id.

    A user's side depends on the id and ``seed`` alone: adding users moves nobody. Shares are those of users, in expectation.

    **Errors**: :class:`ConfigError` for bad fractions.
    """
    shares = _fractions(fractions, "split_by_user")
    draw = Streams(seed).uniform(log.user_keys, 0, Purpose.SPLITS)
    side = np.searchsorted(np.cumsum(shares)[:2], draw, side="right")[log.column("user")]
    parts = [log.select(side == k) for k in range(3)]
    note = f"by user (hash of the id, seed {seed}): {', '.join(str(int((p.user_offsets.lengths > 0).sum())) for p in parts)} users"
    return Split(parts[0], parts[1], parts[2], note)


def _fractions(fractions: Sequence[float], where: str) -> tuple[float, float, float]:
    values = tuple(float(f) for f in fractions)
    if len(values) != 3 or not all(0 <= f <= 1 for f in values) or not 0.999999 <= sum(values) <= 1.000001 or values[0] == 0:
        raise ConfigError(
            f"fractions {tuple(fractions)} do not split a log",
            where=f"{where}: fractions",
            mend="give three shares (train, valid, test) that add up to 1, the first above 0",
        )
    return values[0], values[1], values[2]


def _moment(ms: int) -> str:
    return f"{np.datetime64(ms, 'ms')} UTC"
