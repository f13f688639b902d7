"""What a ranker learns from: (user, item, time) of the positive rows of a log, cut into train, valid and test.

By time, as for every learner of recrl: nothing after the cut is learned from. Or as RecBole's general and sequential models cut by
default, :meth:`Interactions.ratio` and :meth:`Interactions.leave_one_out`: row for row its splits, and with them its published
numbers, but trained on rows that are later than some test rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.errors import ConfigError, DataError
from recrl_datasets import Log, Split, Store

TRAIN, VALID, TEST = 0, 1, 2
_HELD_OUT = (0.1, 0.1)
"""Shares of validation and test in RecBole's cut by ratio."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """Positive rows in the order in which they are handed to a ranker.

    **Shapes**: ``user``, ``item`` (n,) dense indices; ``time`` (n,) float64, only its order matters; ``bits`` (n,) uint8 behaviours;
    ``row`` (n,) positions in the log they were taken from; ``part`` (n,) uint8: 0 train, 1 valid, 2 test.
    """

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    time: NDArray[np.float64]
    bits: NDArray[np.uint8]
    row: NDArray[np.int64]
    part: NDArray[np.uint8]
    n_users: int
    n_items: int

    def __len__(self) -> int:
        return int(self.user.size)

    def rows_of(self, part: int) -> NDArray[np.int64]:
        """Numbers of the rows of a part."""
        return np.flatnonzero(self.part == part)

    def without(self, part: int) -> Interactions:
        """All rows but those of a part."""
        kept = np.flatnonzero(self.part != part)
        return replace(self, **{name: getattr(self, name)[kept] for name in ("user", "item", "time", "bits", "row", "part")})

    @cached_property
    def _chronology(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows by user and time, ties as they stand; rows of each user."""
        return np.lexsort((self.time, self.user)), np.bincount(self.user, minlength=self.n_users)

    def counts(self) -> NDArray[np.int64]:
        """Training rows of each item, (n_items,)."""
        return np.bincount(self.item[self.part == TRAIN], minlength=self.n_items)

    @classmethod
    def from_log(cls, log: Log, positives: str = "all") -> Interactions:
        """The rows of ``log`` where the behaviour ``positives`` happened (``all``: every row), all of them for training.

        **Errors**: :class:`ConfigError` for an unknown behaviour, :class:`DataError` where the log lacks it or no row is left.
        """
        if positives != "all" and positives not in BEHAVIOURS:
            raise ConfigError(f"unknown behaviour {positives!r}", where="positives", mend=f"choose all, {', '.join(BEHAVIOURS)}")
        # a column that the log lacks is a DataError that names those it has
        keep = np.ones(log.n_rows, dtype=bool) if positives == "all" else log.column(positives) > 0
        row = np.flatnonzero(keep)
        if row.size == 0:
            raise DataError(f"the log has no row with {positives!r}", where="positives", mend="choose another behaviour, or all")
        time = np.unique(log.column("timestamp_ms")[row], return_inverse=True)[1].astype(np.float64)
        user, item = (log.column(name)[row].astype(np.int64) for name in ("user", "item"))
        return cls(user, item, time, log.feedback_bits()[row], row, np.zeros(row.size, np.uint8), log.n_users, log.n_items)

    def cut_by_time(self, log: Log, split: Split) -> Interactions:
        """Each row on the side that ``split`` puts it on."""
        part = np.zeros(log.n_rows, dtype=np.uint8)
        for number, view in ((VALID, split.valid), (TEST, split.test)):
            part[np.searchsorted(log.positions, view.positions)] = number
        return replace(self, part=part[self.row])

    def leave_one_out(self) -> Interactions:
        """RecBole's cut for sequential models: a user's last row is for test, the one before it for validation.

        The first row of a user has no history and is never a target; users with two rows only train, with three train and test.
        """
        order, sizes = self._chronology
        ends = np.cumsum(sizes)
        part = np.zeros(len(self), dtype=np.uint8)
        part[order[ends[sizes >= 3] - 1]] = TEST
        part[order[ends[sizes >= 4] - 2]] = VALID
        return replace(self, part=part)

    def ratio(self, seed: int) -> Interactions:
        """RecBole's cut for general models: each user's rows, shuffled by torch under this seed, 8 : 1 : 1."""
        # the first draw of a generator with this seed is RecBole's shuffle; the global generator is not touched
        shuffled = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).numpy()
        order = shuffled[np.argsort(self.user[shuffled], kind="stable")]
        part = np.zeros(len(self), dtype=np.uint8)
        ends = np.cumsum(np.bincount(self.user, minlength=self.n_users))
        for rows in np.split(order, ends[:-1]):
            valid, test = _held_out(rows.size)
            part[rows[rows.size - test - valid : rows.size - test]] = VALID
            part[rows[rows.size - test :]] = TEST
        return replace(self, part=part)

    def in_order_of(self, path: Path, store: Store) -> Interactions:
        """The same rows in the order of a RecBole ``.inter`` file, with times as coarse as RecBole reads them.

        RecBole's results depend on the order of its file: it numbers users and items as they appear, and shuffles rows by position. With
        its order, equal seeds give its numbers. Of times, scaled to 0..1, RecBole keeps 24 bits; rows that become equal keep their order.

        **Errors**: :class:`DataError` where the file does not hold exactly these rows, or holds a user and item twice.
        """
        try:
            file = pl.read_csv(path, separator="\t", infer_schema_length=0)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"{path.name} cannot be read: {str(error).splitlines()[0]}", where=str(path), mend="give a .inter file"
            ) from None
        names = {name.split(":")[0]: name for name in file.columns}
        ids = [key for key in ("user_id", "item_id") if key in names]
        if len(ids) < 2 or "timestamp" not in names:
            raise DataError(f"{path.name} lacks user_id, item_id or timestamp", where=str(path), mend="give a RecBole .inter file")
        raw = [
            table[key].cast(pl.String)[index] for table, key, index in ((store.users, ids[0], self.user), (store.items, ids[1], self.item))
        ]
        ours = pl.DataFrame([*raw, pl.Series("place", np.arange(len(self)))])
        theirs = file.select(*(pl.col(names[key]).alias(key) for key in ids), pl.col(names["timestamp"]).cast(pl.Float64).alias("time"))
        joined = theirs.join(ours, on=ids, how="left", maintain_order="left")
        if joined.height != len(self) or joined["place"].null_count() or joined["place"].n_unique() != len(self):
            raise DataError(
                f"{path.name} does not hold the same {len(self)} rows, each user and item once",
                where=str(path),
                mend="give the file the data was prepared from, with positives = all",
            )
        place, time = joined["place"].to_numpy(), joined["time"].to_numpy()
        coarse = ((time - time.min()) / max(time.max() - time.min(), 1.0)).astype(np.float32)
        ranks = np.unique(coarse, return_inverse=True)[1].astype(np.float64)
        taken = {name: getattr(self, name)[place] for name in ("user", "item", "bits", "row", "part")}
        return replace(self, time=ranks, **taken)

    def histories(self, rows: NDArray[np.int64], length: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Items and behaviours of the user's ``length`` rows before each of ``rows``, oldest first, padded on the left with -1 and 0.

        **Shapes**: ``rows`` (B,) -> two arrays (B, length).
        """
        order, sizes = self._chronology
        place = np.empty_like(order)
        place[order] = np.arange(order.size)
        start = (np.cumsum(sizes) - sizes)[self.user[rows]]
        wanted = place[rows][:, None] + np.arange(-length, 0)
        known = wanted >= start[:, None]
        before = order[np.where(known, wanted, 0)]
        return np.where(known, self.item[before], -1), np.where(known, self.bits[before], 0).astype(np.uint8)


def behaviour_mask(positives: str) -> int:
    """The bits of a history that a ranker of these positives reads; 0 reads every item."""
    return 0 if positives == "all" else 1 << BEHAVIOURS.index(positives)


def _held_out(rows: int) -> tuple[int, int]:
    """Valid and test rows of a user, rounded down; a share of less than one row becomes one while training keeps one."""
    counts = [int(share * rows) for share in _HELD_OUT]
    train = rows - sum(counts)
    for k in (1, 0):
        if train <= 1:
            break
        if 0 < _HELD_OUT[k] * rows < 1:
            counts[k] += 1
            train -= 1
    return counts[0], counts[1]
