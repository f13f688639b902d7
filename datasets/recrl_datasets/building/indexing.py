"""Dense indices of raw ids, and the order of a store's rows: by user and time, exact duplicates flagged and last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray


class Distinct:
    """Gathers the distinct values of a column that comes in pieces; memory grows with them, not with the rows."""

    def __init__(self) -> None:
        self._merged: pl.Series | None = None
        self._waiting: list[pl.Series] = []
        self._size = 0

    def add(self, values: pl.Series) -> None:
        """Take in one piece (numbers or text, none missing)."""
        self._waiting.append(_distinct(values))
        self._size += self._waiting[-1].len()
        if self._size > max(1 << 22, 0 if self._merged is None else self._merged.len()):
            self._merge()

    def _merge(self) -> pl.Series:
        pieces = [*(() if self._merged is None else (self._merged,)), *self._waiting]
        if len({piece.dtype for piece in pieces}) > 1:
            pieces = [piece.cast(pl.String) for piece in pieces]
        self._merged, self._waiting, self._size = pl.concat(pieces).unique(), [], 0
        return self._merged

    def sorted(self) -> pl.Series:
        """All values, numbers by value and text by code point; they are forgotten here."""
        values, self._merged = self._merge().sort(), None
        return values


def _distinct(values: pl.Series) -> pl.Series:
    """Distinct values of one piece; whole numbers that lie close together are marked in a table, which is faster than hashing."""
    if values.dtype == pl.Int64 and values.len():
        low, high = int(values.min()), int(values.max())  # type: ignore[arg-type]
        if high - low < 4 * values.len():
            seen = np.zeros(high - low + 1, dtype=bool)
            seen[values.to_numpy() - low] = True
            return pl.Series(values.name, np.flatnonzero(seen) + low)
    return values.unique()


class Index:
    """Sorted distinct values, and the place of each among them.

    >>> import polars as pl
    >>> Index(pl.Series(["a", "b", "d"])).places(pl.Series(["d", "c", "a"])).tolist()
    [2, -1, 0]
    """

    def __init__(self, values: pl.Series) -> None:
        self.values = values
        self._low, self._table = 0, None
        if values.dtype != pl.String and values.len():
            self._low, span = int(values[0]), int(values[-1]) - int(values[0]) + 1
            if span <= 4 * values.len() + 1_000_000:
                self._table = np.full(span, -1, dtype=np.int32)
                self._table[values.to_numpy() - self._low] = np.arange(values.len(), dtype=np.int32)

    def __len__(self) -> int:
        return self.values.len()

    def places(self, raw: pl.Series) -> NDArray[np.int32]:
        """Place of each value, -1 where it is not there; a number is looked up as its text where the index holds text."""
        if self.values.dtype == pl.String:
            raw = raw.cast(pl.String).alias("value")
            distinct = raw.unique().sort()
            found = pl.DataFrame({"value": distinct, "place": self._search(distinct, self.values.search_sorted(distinct).to_numpy())})
            return raw.to_frame().join(found, on="value", how="left", maintain_order="left")["place"].to_numpy()
        values = raw.to_numpy()
        if self._table is None:
            return self._search(raw, np.searchsorted(self.values.to_numpy(), values))
        if values.size and (values.min() < self._low or values.max() >= self._low + self._table.size):
            inside = (values >= self._low) & (values < self._low + self._table.size)
            return np.where(inside, self._table[np.where(inside, values, self._low) - self._low], np.int32(-1))
        return self._table[values - self._low]

    def _search(self, raw: pl.Series, at: NDArray[Any]) -> NDArray[np.int32]:
        at = np.minimum(at, len(self) - 1).astype(np.int32)
        return np.where((self.values[at] == raw).to_numpy(), at, np.int32(-1))


def narrow_type(dtype: pl.DataType, low: int, high: int) -> pl.DataType:
    """The smallest integer type that holds ``low`` to ``high``, signed where ``dtype`` is."""
    if dtype.is_unsigned_integer():
        return next(kind for kind, bits in _UNSIGNED if high < 2**bits)
    return next(kind for kind, bits in _SIGNED if max(-low - 1, high) < 2**bits)


_SIGNED = ((pl.Int8(), 7), (pl.Int16(), 15), (pl.Int32(), 31), (pl.Int64(), 63))
_UNSIGNED = ((pl.UInt8(), 8), (pl.UInt16(), 16), (pl.UInt32(), 32), (pl.UInt64(), 64))


@dataclass(frozen=True, eq=False)
class OrderedRows:
    """Rows in store order.

    ``frame`` is sorted by (user, timestamp_ms, source order), with the ``duplicates`` exact duplicates after all other rows;
    ``canonical`` is an order of its rows in which equal contents give equal bytes whatever the source order, or ``None``
    where the rows stand in it.
    """

    frame: pl.DataFrame
    duplicates: int
    canonical: NDArray[np.int64] | None


def order_rows(rows: pl.DataFrame) -> OrderedRows:
    """Sort rows (given in source order) by user and time, flag exact duplicates in ``is_duplicate`` and put them last."""
    users, times = rows["user"].to_numpy(), rows["timestamp_ms"].to_numpy()
    order = _sorting(users, times)
    if order is not None:
        users, times = users[order], times[order]
    same = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
    duplicate = np.zeros(rows.height, dtype=bool)
    canonical = None
    if same.any():
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        keys = _sortable(rows[tied if order is None else order[tied]])
        names = keys.columns
        keys = keys.with_columns(pl.Series("__row", tied)).sort(names, maintain_order=True)
        canonical = np.arange(rows.height, dtype=np.int64)
        canonical[tied] = keys["__row"].to_numpy()
        equal = keys.select(pl.all_horizontal([pl.col(n).eq_missing(pl.col(n).shift()) for n in names])).to_series()
        duplicate[keys["__row"].filter(equal & (pl.int_range(keys.height, eager=True) > 0)).to_numpy()] = True
    if duplicate.any() and canonical is not None:
        last = np.concatenate([np.flatnonzero(~duplicate), np.flatnonzero(duplicate)])
        place = np.empty_like(last)
        place[last] = np.arange(last.size)
        order, canonical = last if order is None else order[last], place[canonical]
    rows = rows if order is None else rows[order]
    count = int(duplicate.sum())
    flags = np.arange(rows.height) >= rows.height - count
    return OrderedRows(rows.with_columns(pl.Series("is_duplicate", flags.astype(np.uint8))), count, canonical)


def _sorting(users: NDArray[Any], times: NDArray[Any]) -> NDArray[np.int64] | None:
    """The stable order by user and time, ``None`` where rows stand in it already."""
    step = np.diff(users)
    if bool(np.all(step >= 0)) and bool(np.all(np.diff(times)[step == 0] >= 0)):
        return None
    low, span = int(times.min()), int(times.max()) - int(times.min()) + 1
    if (int(users.max()) - int(users.min()) + 1) * span >= 2**63:
        return np.lexsort((times, users))
    # one key sorts several times faster than two
    return np.argsort((users.astype(np.int64) - int(users.min())) * span + (times - low), kind="stable")


def _sortable(frame: pl.DataFrame) -> pl.DataFrame:
    """Vectors spread over one column a component, so that rows can be compared and sorted."""
    for name in [s.name for s in frame if isinstance(s.dtype, pl.Array)]:
        parts = frame[name].arr.to_struct().struct.unnest()
        frame = frame.drop(name).hstack(parts.rename({old: f"{name}.{old}" for old in parts.columns}))
    return frame
