"""Ragged arrays in CSR form: one flat array plus offsets, never padded.

``Offsets`` partitions ``0..n`` into consecutive segments: users into sessions, sessions into requests,
requests into rows. Levels compose: ``user_to_session.through(session_to_row)`` is ``user_to_row``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recrl.core.errors import ContractError

Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Offsets:
    """A partition of ``0..total`` into ``count`` consecutive, possibly empty segments.

    **Shapes**: ``values`` is ``(count + 1,)`` int64, starts at 0 and never decreases; segment ``k`` covers
    ``values[k]:values[k + 1]``.

    >>> o = Offsets.from_lengths([2, 0, 3])
    >>> o.values.tolist(), o.segment_ids().tolist()
    ([0, 2, 2, 5], [0, 0, 2, 2, 2])
    """

    values: Int64

    def __post_init__(self) -> None:
        v = np.ascontiguousarray(self.values, dtype=np.int64)
        if v.ndim != 1 or v.size == 0 or v[0] != 0 or (v.size > 1 and bool(np.any(np.diff(v) < 0))):
            raise ContractError(
                f"offsets must be one-dimensional, start at 0 and never decrease; got {self.values!r:.80}",
                where="recrl.core.ragged.Offsets",
                mend="build them with Offsets.from_lengths or Offsets.from_sorted_ids",
            )
        object.__setattr__(self, "values", v)

    @classmethod
    def from_lengths(cls, lengths: ArrayLike) -> Offsets:
        """Offsets of segments with the given lengths."""
        return cls(np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))]))

    @classmethod
    def from_sorted_ids(cls, ids: ArrayLike, count: int) -> Offsets:
        """Offsets of rows whose segment ids (``0..count-1``) are already in ascending order."""
        array = np.asarray(ids)
        if array.size and (bool(np.any(array[1:] < array[:-1])) or array[0] < 0 or array[-1] >= count):
            raise ContractError(
                f"segment ids must be sorted and lie in 0..{count - 1}",
                where="recrl.core.ragged.Offsets.from_sorted_ids",
                mend="sort the rows by segment first",
            )
        return cls(np.searchsorted(array, np.arange(count + 1), side="left").astype(np.int64))

    @classmethod
    def from_starts(cls, is_start: ArrayLike) -> Offsets:
        """Offsets of segments that begin wherever ``is_start`` (bool, one a row) is true; row 0 always begins one."""
        flags = np.asarray(is_start, dtype=bool)
        if flags.size == 0:
            return cls(np.zeros(1, dtype=np.int64))
        starts = np.flatnonzero(flags)
        if starts.size == 0 or starts[0] != 0:
            starts = np.concatenate([[0], starts])
        return cls(np.concatenate([starts, [flags.size]]))

    @property
    def count(self) -> int:
        """Number of segments."""
        return int(self.values.size - 1)

    @property
    def total(self) -> int:
        """Number of elements that the segments cover."""
        return int(self.values[-1])

    @property
    def lengths(self) -> Int64:
        """Length of each segment, ``(count,)``."""
        return np.diff(self.values)

    def segment_ids(self) -> Int64:
        """Segment of each element, ``(total,)``."""
        return np.repeat(np.arange(self.count, dtype=np.int64), self.lengths)

    def positions(self) -> Int64:
        """Position of each element inside its segment, ``(total,)``."""
        return np.arange(self.total, dtype=np.int64) - np.repeat(self.values[:-1], self.lengths)

    def sum(self, values: ArrayLike) -> NDArray[np.float64]:
        """Sum of ``values`` (``(total, ...)``) in each segment -> ``(count, ...)`` float64; empty segments give 0."""
        array = np.asarray(values)
        if array.shape[:1] != (self.total,):
            raise ContractError(
                f"expected {self.total} values, got shape {array.shape}",
                where="recrl.core.ragged.Offsets.sum",
                mend="pass one value for each element that the offsets cover",
            )
        out = np.zeros((self.count, *array.shape[1:]), dtype=np.float64)
        filled = self.lengths > 0
        if bool(filled.any()):
            out[filled] = np.add.reduceat(array.astype(np.float64, copy=False), self.values[:-1][filled], axis=0)
        return out

    def through(self, inner: Offsets) -> Offsets:
        """Compose with the level below: outer -> inner and inner -> rows give outer -> rows."""
        if inner.count != self.total:
            raise ContractError(
                f"outer offsets cover {self.total} segments, inner ones hold {inner.count}",
                where="recrl.core.ragged.Offsets.through",
                mend="compose neighbouring levels of one hierarchy",
            )
        return Offsets(inner.values[self.values])

    def __getitem__(self, k: int) -> slice:
        """The slice of elements of segment ``k``."""
        if not -self.count <= k < self.count:
            raise IndexError(f"segment {k} of {self.count}")
        k %= self.count
        return slice(int(self.values[k]), int(self.values[k + 1]))

    def __len__(self) -> int:
        return self.count
