"""The first pass over a log: every row is seen once, and what the store's columns will be is known at its end.

Rows wait in memory or, in a log beyond memory, on disk. What grows in memory are the distinct ids and texts, never the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recrl.core.contracts import Progress
from recrl.core.errors import DataError
from recrl_datasets.building.indexing import Distinct, Index, narrow_type
from recrl_datasets.building.spool import Piles, Spool
from recrl_datasets.schema import BY_NAME, COLUMNS, RESERVED
from recrl_datasets.tables import Finding, RawTables

ROWS_IN_MEMORY = 8_000_000
"""A log handed over in pieces waits on disk beyond this many rows."""
PILE_ROWS = 4_000_000
"""Rows of a log on disk are sorted in ranges of users with about this many rows."""
MOST_PILES = 200

_IDS = {"user_id": "user", "item_id": "item"}
_FIXED = ("timestamp_ms", "censor_time", "local_date")
_MEND = "give every piece the same columns, each of one type"


@dataclass
class _Column:
    """What the pieces so far show of one column."""

    dtype: pl.DataType
    nulls: bool = False
    low: int | None = None
    high: int | None = None
    distinct: Distinct = field(default_factory=Distinct)

    def see(self, name: str, values: pl.Series) -> None:
        self.nulls |= values.null_count() > 0
        if values.dtype != self.dtype:
            self.dtype = _wider(name, self.dtype, values.dtype)
        if _is_text(values.dtype) or name in _IDS:
            self.distinct.add(_texts(values) if _is_text(values.dtype) else values)
        elif (values.dtype.is_integer() or values.dtype == pl.Boolean) and values.null_count() < values.len():
            low, high = int(values.min()), int(values.max())  # type: ignore[arg-type]
            self.low = low if self.low is None else min(self.low, low)
            self.high = high if self.high is None else max(self.high, high)


@dataclass(frozen=True, eq=False)
class LogLayout:
    """The columns of a store's log: dense indices, codes of texts, narrow types.

    ``schema`` names the columns in the store's order, without ``is_duplicate``.
    """

    users: Index
    items: Index
    categories: dict[str, Index]
    schema: dict[str, pl.DataType]

    @property
    def empty(self) -> pl.DataFrame:
        """No rows, the right columns."""
        return pl.DataFrame(schema=self.schema)

    def apply(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Raw rows as the store keeps them."""
        out = [pl.Series("user", self.users.places(rows["user_id"])), pl.Series("item", self.items.places(rows["item_id"]))]
        for name, dtype in list(self.schema.items())[2:]:
            if name in self.categories:
                out.append(pl.Series(name, self.categories[name].places(_texts(rows[name]))).cast(dtype))
            else:
                values = rows[name].cast(dtype)
                out.append(values.fill_null(float("nan")) if dtype.is_float() else values)
        return pl.DataFrame(out)


class Survey:
    """Takes in the pieces of a log, then says how to store them.

    ``log`` and ``random`` hold the raw rows, apart where :attr:`RawTables.separate_random` asks for it.
    """

    def __init__(self, raw: RawTables, folder: Callable[[], Path]) -> None:
        self._raw, self._folder = raw, folder
        limit = None if isinstance(raw.log, pl.DataFrame) else ROWS_IN_MEMORY
        self.log, self.random = Spool("log", folder, limit), Spool("random", folder, limit)
        self._columns: dict[str, _Column] = {}
        self._names: set[str] | None = None
        self._left_out: dict[str, Finding] = {}
        self.rows = 0

    def read(self, progress: Progress) -> None:
        """Take in every piece.

        **Errors**: :class:`DataError` where pieces differ in their columns, or there is no row at all.
        """
        for piece in self._pieces():
            self._add(piece)
            # how many rows are to come is not known: the share only says that it goes on
            progress(0.05 + 0.4 * self.rows / (self.rows + 50e6), f"reading: {self.rows:,} rows")
        if not self.rows:
            raise DataError("the log has no rows", where="the log", mend="give a log with at least one row")

    def _pieces(self) -> Iterator[pl.DataFrame]:
        return iter([self._raw.log]) if isinstance(self._raw.log, pl.DataFrame) else self._raw.log()

    def _add(self, piece: pl.DataFrame) -> None:
        if self._names is None:
            self._names = set(piece.columns)
        if self._names != set(piece.columns):
            odd = ", ".join(sorted(self._names ^ set(piece.columns)))
            raise DataError(f"pieces of the log differ in their columns: {odd}", where="the log", mend=_MEND)
        self.rows += piece.height
        kept = []
        for values in piece:
            if (why := no_place(values)) is not None:
                self._left_out.setdefault(values.name, why)
            else:
                kept.append(values)
                self._columns.setdefault(values.name, _Column(values.dtype)).see(values.name, values)
        piece = pl.DataFrame(kept)
        if self._raw.separate_random and "is_random_exposure" in piece.columns:
            at_random = piece["is_random_exposure"] == 1
            if at_random.any():
                self.random.add(piece.filter(at_random))
                piece = piece.filter(~at_random)
        self.log.add(piece)

    @property
    def time_range(self) -> tuple[int, int]:
        """First and last moment, milliseconds since 1970 UTC."""
        column = self._columns["timestamp_ms"]
        assert column.low is not None
        assert column.high is not None
        return column.low, column.high

    def layout(self) -> tuple[LogLayout, tuple[Finding, ...]]:
        """How the rows are stored, and what was left out."""
        types: dict[str, pl.DataType] = {}
        categories: dict[str, Index] = {}
        for name, column in self._columns.items():
            if name in self._left_out or name in _IDS:
                continue
            if column.dtype == pl.Null:
                self._left_out.setdefault(name, _left_out(name, f"type {column.dtype} has no place in a log"))
            elif _is_text(column.dtype):
                if column.nulls:
                    column.distinct.add(pl.Series([""]))
                categories[name] = Index(column.distinct.sorted())
                types[name] = narrow_type(pl.Int32(), 0, len(categories[name]) - 1)
            else:
                types[name] = _stored(name, column)
        if self._raw.catalogue is not None:
            self._columns["item_id"].distinct.add(self._raw.catalogue)
        names = ["user", "item", *(c.name for c in COLUMNS if c.name in types), *sorted(types.keys() - BY_NAME.keys())]
        schema = {"user": pl.Int32(), "item": pl.Int32(), **types}
        users, items = (Index(self._columns[key].distinct.sorted().alias(key)) for key in _IDS)
        layout = LogLayout(users, items, dict(sorted(categories.items())), {name: schema[name] for name in names})
        return layout, tuple(self._left_out.values())

    def piles(self, part: Spool, layout: LogLayout, progress: Callable[[float], None]) -> Piles:
        """The rows of ``part`` as the store keeps them, dealt by ranges of users; one pile where they are in memory."""
        rows = part.rows
        starts = _user_ranges(part, layout.users) if part.on_disk else np.zeros(1, dtype=np.int64)
        piles = Piles("pile", self._folder, starts.size)
        piles.deal(layout.empty)
        done = 0
        for piece in part:
            stored = layout.apply(piece)
            piles.deal(stored, np.searchsorted(starts, stored["user"].to_numpy(), side="right") - 1 if starts.size > 1 else None)
            done += piece.height
            progress(done / rows)
        return piles


def _user_ranges(part: Spool, users: Index) -> NDArray[np.int64]:
    """First user of each range; a range has about :data:`PILE_ROWS` rows, or one user with more."""
    counts = np.zeros(len(users), dtype=np.int64)
    for ids in part.column("user_id"):
        counts += np.bincount(users.places(ids), minlength=len(users))
    size = max(PILE_ROWS, -(-part.rows // MOST_PILES))
    before = np.cumsum(counts) - counts
    starts = np.unique(np.searchsorted(before, np.arange(0, part.rows, size)))
    return starts[starts < len(users)]


def _is_text(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.String | pl.Categorical | pl.Enum)


def _texts(values: pl.Series) -> pl.Series:
    return values.cast(pl.String).fill_null("")


def no_place(values: pl.Series) -> Finding | None:
    """Why a column of a piece is left out; ``None`` for columns of the schema, and extra columns of numbers, booleans and text.

    A piece may hold missing values only.
    """
    name, dtype = values.name, values.dtype
    if name in RESERVED:
        return _left_out(name, "recrl uses that name itself")
    number = dtype.is_numeric() and not dtype.is_decimal()
    if name in BY_NAME or number or _is_text(dtype) or dtype in (pl.Boolean, pl.Null):
        return None
    return _left_out(name, f"type {dtype} has no place in a log")


def _left_out(name: str, why: str) -> Finding:
    return Finding("column left out", 1, "info", f"extra column {name!r} was left out: {why}")


def _wider(name: str, one: pl.DataType, other: pl.DataType) -> pl.DataType:
    """The type that holds both.

    **Errors**: :class:`DataError` where there is none, as for numbers and text.
    """
    unlike = _is_text(one) != _is_text(other) or isinstance(one, pl.Array) or isinstance(other, pl.Array)
    if unlike and name not in _IDS and pl.Null not in (one, other):
        raise DataError(f"column {name!r} holds {one} in one piece of the log and {other} in another", where="the log", mend=_MEND)
    return pl.concat([pl.DataFrame(schema={name: one}), pl.DataFrame(schema={name: other})], how="vertical_relaxed").schema[name]


def _stored(name: str, column: _Column) -> pl.DataType:
    dtype = column.dtype
    if dtype in (pl.Int128, pl.UInt128) or (column.nulls and (dtype.is_numeric() or dtype == pl.Boolean)):
        return pl.Float64()
    if dtype == pl.Boolean:
        return pl.UInt8()
    if dtype.is_integer() and dtype != pl.UInt8 and name not in _FIXED:
        assert column.low is not None
        assert column.high is not None
        return narrow_type(dtype, column.low, column.high)
    return dtype
