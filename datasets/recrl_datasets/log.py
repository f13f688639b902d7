"""An immutable view of logged rows: columns decoded once, shared by every view, never padded, never copied without need."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from recrl.core.behaviours import BEHAVIOURS, pack
from recrl.core.errors import DataError
from recrl.core.ragged import Offsets

AnyArray: TypeAlias = NDArray[Any]


@dataclass(frozen=True, eq=False)
class ColumnBlock:
    """Rows on disk or in memory, by column; each column is decoded when it is first asked for, then shared.

    Attributes:
        rows: number of rows.
        names: columns that can be loaded.
        load: decodes one column to a read-only array of ``rows`` values.
    """

    rows: int
    names: tuple[str, ...]
    load: Callable[[str], AnyArray]
    _held: dict[str, AnyArray] = field(default_factory=dict, repr=False)

    def __getitem__(self, name: str) -> AnyArray:
        if name not in self._held:
            array = self.load(name)
            array.flags.writeable = False
            self._held[name] = array
        return self._held[name]


class Log:
    """Logged rows sorted by (user, timestamp_ms, source order), as an immutable view.

    ``user`` and ``item`` are dense indices into the store's user and item tables; every view of a store keeps the same
    index spaces, so a split may hold users without rows.

    **Units**: ``timestamp_ms`` milliseconds since 1970 UTC; ``watch_seconds``, ``duration_seconds`` seconds;
    ``local_date`` datetime64[D].

    >>> import numpy as np
    >>> rows = {"user": np.array([0, 0, 1], np.int32), "item": np.array([1, 0, 1], np.int32), "timestamp_ms": np.array([10, 20, 5])}
    >>> log = Log.from_arrays(rows, n_users=2, n_items=2)
    >>> log.user_offsets.values.tolist(), log.select([0, 2]).column("item").tolist()
    ([0, 2, 3], [1, 1])
    """

    def __init__(
        self,
        block: ColumnBlock,
        *,
        n_users: int,
        n_items: int,
        content_hash: str,
        observed_until_ms: int,
        categories: Mapping[str, list[str]] | None = None,
        user_keys: Callable[[], NDArray[np.int64]] | None = None,
        index: slice | NDArray[np.int64] | None = None,
    ) -> None:
        self._block = block
        self._index = slice(0, block.rows) if index is None else index
        self._categories = dict(categories or {})
        self._user_keys = user_keys or (lambda: np.arange(n_users, dtype=np.int64))
        self._taken: dict[str, AnyArray] = {}
        self.n_users, self.n_items = n_users, n_items
        self.content_hash = content_hash
        self.observed_until_ms = observed_until_ms

    @classmethod
    def from_arrays(cls, columns: Mapping[str, AnyArray], *, n_users: int, n_items: int, observed_until_ms: int | None = None) -> Log:
        """A log over arrays in memory (``user``, ``item``, ``timestamp_ms`` and any others), already sorted by (user, timestamp_ms).

        **Errors**: :class:`DataError` where the arrays differ in length, are not sorted, or hold an index out of range.
        """
        where = "Log.from_arrays"
        arrays = {name: np.asarray(array) for name, array in columns.items()}
        rows = len(arrays.get("user", ()))
        for name in ("user", "item", "timestamp_ms"):
            if name not in arrays:
                raise DataError(f"column {name!r} is missing", where=where, mend="give user, item and timestamp_ms")
        for name, array in arrays.items():
            if len(array) != rows:
                raise DataError(f"column {name!r} has {len(array)} rows, user has {rows}", where=where, mend="give one value for each row")
        for name, count in (("user", n_users), ("item", n_items)):
            if rows and (int(arrays[name].min()) < 0 or int(arrays[name].max()) >= count):
                raise DataError(
                    f"column {name!r} holds an index outside 0..{count - 1}",
                    where=where,
                    mend=f"give n_{name}s the size of the {name} table",
                )
        step = np.diff(arrays["user"].astype(np.int64))
        if np.any(step < 0) or np.any(np.diff(arrays["timestamp_ms"])[step == 0] < 0):
            raise DataError(
                "rows are not sorted by (user, timestamp_ms)", where=where, mend="sort them with numpy.lexsort((timestamp_ms, user))"
            )
        digest = hashlib.sha256()
        for name in sorted(arrays):
            digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
            digest.update(np.ascontiguousarray(arrays[name]).tobytes())
        until = observed_until_ms if observed_until_ms is not None else int(arrays["timestamp_ms"].max(initial=0))
        views = {name: array.view() for name, array in arrays.items()}
        block = ColumnBlock(rows, tuple(views), views.__getitem__)
        return cls(block, n_users=n_users, n_items=n_items, content_hash=digest.hexdigest(), observed_until_ms=until)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self._index.stop - self._index.start if isinstance(self._index, slice) else int(self._index.size)

    def __len__(self) -> int:
        return self.n_rows

    def __repr__(self) -> str:
        return f"Log({self.n_rows:,} rows, {self.n_users:,} users, {self.n_items:,} items, columns: {', '.join(self.columns)})"

    @property
    def positions(self) -> NDArray[np.int64]:
        """Row numbers of the view in the stored table, ascending: what two views of one log have in common is found by them."""
        index = self._index
        return np.arange(index.start, index.stop, dtype=np.int64) if isinstance(index, slice) else index

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return self._block.names

    def has(self, name: str) -> bool:
        """Whether the column is there."""
        return name in self._block.names

    def column(self, name: str) -> AnyArray:
        """One column as a read-only array, ``(n_rows,)`` or ``(n_rows, d)``; a contiguous view shares the store's memory.

        Text columns come as codes into :meth:`categories`.

        **Errors**: :class:`DataError` for a column that is not there.
        """
        if not self.has(name):
            raise DataError(f"the log has no column {name!r}", where="Log.column", mend=f"it has: {', '.join(self.columns)}")
        if name not in self._taken:
            taken = self._block[name][self._index]
            taken.flags.writeable = False
            self._taken[name] = taken
        return self._taken[name]

    def categories(self, name: str) -> list[str]:
        """The texts behind the codes of a text column, sorted."""
        if name not in self._categories:
            raise DataError(
                f"column {name!r} holds no text codes",
                where="Log.categories",
                mend=f"text columns: {', '.join(self._categories) or 'none'}",
            )
        return self._categories[name]

    @cached_property
    def user_keys(self) -> NDArray[np.int64]:
        """A number for each user that depends on the raw id alone, ``(n_users,)``: it stays when users are added to the data."""
        return self._user_keys()

    @cached_property
    def user_offsets(self) -> Offsets:
        """Rows of each user: one segment for each of ``n_users``, empty where the view holds none."""
        return Offsets.from_sorted_ids(self.column("user"), self.n_users)

    def feedback_bits(self) -> NDArray[np.uint8]:
        """One byte a row with the behaviours of :mod:`recrl.core.behaviours`, ``(n_rows,)``."""
        return pack({name: self.column(name) for name in BEHAVIOURS if self.has(name)}, self.n_rows)

    def select(self, rows: ArrayLike, *, observed_until_ms: int | None = None) -> Log:
        """The rows where a mask is true, or at ascending positions; same users, items and order.

        Args:
            rows: bool mask ``(n_rows,)`` or strictly ascending positions.
            observed_until_ms: until when the selected users were observed, where that is earlier than for the whole log.

        **Errors**: :class:`DataError` for a mask of another length or positions that are not ascending or out of range.
        """
        array = np.asarray(rows)
        if array.dtype == bool:
            if array.shape != (self.n_rows,):
                raise DataError(
                    f"the mask has shape {array.shape}, the log {self.n_rows} rows", where="Log.select", mend="give one flag for each row"
                )
            array = np.flatnonzero(array)
        if array.size and array.dtype.kind not in "iu":
            raise DataError(
                f"positions must be whole numbers, not {array.dtype}", where="Log.select", mend="give sorted distinct positions, or a mask"
            )
        array = array.astype(np.int64, copy=False)
        if array.ndim != 1 or (array.size and (array[0] < 0 or array[-1] >= self.n_rows or bool(np.any(np.diff(array) <= 0)))):
            raise DataError(
                "positions must be strictly ascending and lie in the log",
                where="Log.select",
                mend="give sorted distinct positions, or a mask",
            )
        return self._view(array, observed_until_ms)

    def _view(self, positions: NDArray[np.int64], observed_until_ms: int | None) -> Log:
        index: slice | NDArray[np.int64]
        if positions.size == 0:
            index = slice(0, 0)
        elif isinstance(self._index, slice):
            start = self._index.start
            contiguous = int(positions[-1]) - int(positions[0]) + 1 == positions.size
            index = slice(start + int(positions[0]), start + int(positions[-1]) + 1) if contiguous else positions + start
        else:
            index = self._index[positions]
        digest = hashlib.sha256(self.content_hash.encode())
        digest.update(positions.tobytes())
        until = self.observed_until_ms if observed_until_ms is None else observed_until_ms
        view = Log(
            self._block,
            n_users=self.n_users,
            n_items=self.n_items,
            content_hash="",
            observed_until_ms=until,
            categories=self._categories,
            user_keys=self._user_keys,
            index=index,
        )
        # rows with equal times may stand in another order in a store of equal content: the items settle it
        digest.update(view.column("item").tobytes())
        digest.update(str(until).encode())
        view.content_hash = digest.hexdigest()
        return view

    def frame(self) -> pl.DataFrame:
        """The rows as a Polars frame; text columns as text."""
        return pl.DataFrame([self._series(name) for name in self.columns])

    def _series(self, name: str) -> pl.Series:
        values = self.column(name)
        if name in self._categories:
            return pl.Series(name, self._categories[name], dtype=pl.String)[values]
        return pl.Series(name, values, dtype=pl.Array(pl.Float32, values.shape[1]) if values.ndim == 2 else None)
