"""The Log schema as a validated table: which columns a log may hold, their types, units and constraints.

One logged row is one item shown to one user. ``item_id`` and ``timestamp_ms`` are required, and ``user_id`` or a stated
``cluster_id``; everything else is optional. :func:`validate_log` turns a frame with these names into canonical types, or
says which column, which row and which value is wrong, and the mend.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.errors import DataError

Kind = Literal["id", "category", "time", "date", "flag", "count", "float", "vector"]
EARLIEST_MS, LATEST_MS = 631_152_000_000, 4_102_444_800_000
"""Timestamps outside 1990 to 2100 are taken for another unit and refused."""


@dataclass(frozen=True)
class Column:
    """One column of the Log schema.

    Attributes:
        name: its name in a log handed to :func:`validate_log`.
        kind: how values are read: ``id`` and ``category`` are integers or text, ``time`` milliseconds since 1970 UTC,
            ``flag`` 0 or 1, ``count`` integers, ``vector`` lists of floats of one length.
        unit: unit of the values, empty where there is none.
        low: smallest allowed value.
        high: largest allowed value.
        low_open: whether ``low`` itself is refused.
        may_miss: whether single values may be missing (stored as NaN).
        meaning: one line for people.
    """

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    may_miss: bool = False


COLUMNS: tuple[Column, ...] = (
    Column("user_id", "id", "who saw the item"),
    Column("item_id", "id", "what was shown"),
    Column("timestamp_ms", "time", "when it was shown", "ms since 1970 UTC"),
    *(Column(name, "flag", f"whether the user gave {name.replace('_', ' ')}", "0 or 1") for name in BEHAVIOURS),
    Column("watch_seconds", "float", "how long it was watched", "seconds", low=0, may_miss=True),
    Column("duration_seconds", "float", "how long the item lasts", "seconds", low=0, may_miss=True),
    Column("rating", "float", "explicit rating", "the source's scale", may_miss=True),
    Column("reward", "float", "scalar reward logged with the row"),
    Column("action", "vector", "the logging policy's action vector"),
    Column("propensity", "float", "probability with which the logging policy showed the item", "0 to 1", low=0, high=1, low_open=True),
    Column("action_log_prob", "float", "log-probability, of a vector the log-density, with which the logging policy took the whole action"),
    Column("logger_id", "category", "which logging policy chose"),
    Column("candidate_set_id", "category", "which candidate set it chose from"),
    Column("is_random_exposure", "flag", "whether the item was shown at random", "0 or 1"),
    Column("request_id", "category", "rows shown together"),
    Column("session_id", "category", "the source's own session"),
    Column("position", "count", "place in the slate, 0 first", low=0),
    Column("local_date", "date", "the platform's own calendar day", "date"),
    Column("censor_time", "time", "until when the user was observed", "ms since 1970 UTC"),
    Column("cluster_id", "category", "rows that depend on each other, where that is not the user"),
)
"""The schema, in the order in which a store keeps the columns."""

BY_NAME: Mapping[str, Column] = {column.name: column for column in COLUMNS}
RESERVED = ("user", "item", "is_duplicate")
"""Names that a store adds itself."""


class RowsAsClustersWarning(UserWarning):
    """The log has neither ``user_id`` nor ``cluster_id``: every row is its own cluster; sessions and intervals by user mean little."""


@dataclass(frozen=True)
class Origin:
    """Where a frame came from, so that an error can point at it.

    Attributes:
        where: file or argument.
        names: source name of a column where it differs from the schema's.
        scales: factor from the source's unit to the schema's (milliseconds to seconds is 0.001).
        row: turns a row number (from 0) into words.
    """

    where: str
    names: Mapping[str, str] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)
    row: Callable[[int], str] = "row {} (counting from 0)".format

    def label(self, name: str) -> str:
        """The column as the user knows it."""
        source = self.names.get(name, name)
        return f"column {source!r}" if source == name else f"column {source!r} (as {name})"

    def bad_value(self, frame: pl.DataFrame, name: str, bad: pl.Series, problem: str, mend: str) -> DataError | None:
        """An error about the first row where ``bad`` is true, or ``None``."""
        index = bad.fill_null(False).arg_max() if bad.any() else None
        if index is None:
            return None
        count = int(bad.sum())
        more = f" ({count - 1:,} more rows like it)" if count > 1 else ""
        value = frame[name][index]
        value = value.to_list() if isinstance(value, pl.Series) else value
        missing = value is None or (isinstance(value, float) and value != value)
        shown = "a missing value" if missing else f"{value!r:.80}"
        return DataError(f"{self.label(name)} holds {shown}: {problem}{more}", where=f"{self.where}, {self.row(index)}", mend=mend)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint ``did you mean ...? `` for a name that is not there, or nothing."""
    pool = {k.lower(): k for k in known}
    parts = [k for k in pool if len(k) > 2 and (k in name.lower() or name.lower() in k)]
    close = difflib.get_close_matches(name.lower(), list(pool), n=1, cutoff=0.6) or parts[:1]
    return f"did you mean {pool[close[0]]!r}? " if close else ""


def require_columns(present: Iterable[str], wanted: Iterable[str], where: str, mend: str) -> None:
    """Raise for the first of ``wanted`` that is not ``present``.

    **Errors**: :class:`DataError` with the nearest name that is there.
    """
    have = list(present)
    for name in wanted:
        if name not in have:
            near = nearest(name, [k for k in have if k not in set(wanted)])
            raise DataError(f"column {name!r} is missing; there are: {', '.join(have) or 'none'}"[:400], where=where, mend=f"{near}{mend}")


def validate_log(frame: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    """Check the schema's columns of ``frame`` and bring them to canonical types; other columns stay as they are.

    Canonical types: ids Int64 or String, times Int64, flags UInt8, counts Int32, floats Float32, dates Date,
    vectors Array(Float32), categories Int64 or String.

    **Errors**: :class:`DataError` names column, first offending row, value and mend.
    """
    if frame.height == 0:
        raise DataError("the log has no rows", where=origin.where, mend="give a log with at least one row")
    done = [_check(frame, BY_NAME[name], origin) for name in frame.columns if name in BY_NAME]
    out = frame.with_columns(done)
    if "censor_time" in out.columns:
        early = out["censor_time"] < out["timestamp_ms"]
        _raise(origin.bad_value(frame, "censor_time", early, "observation ends before the row", "give the end of the user's observation"))
    return out


def validate_key(series: pl.Series, origin: Origin) -> pl.Series:
    """An id column in canonical type (Int64 or String), without missing values."""
    return _id(series.to_frame(), Column(series.name, "id", ""), origin)


def _raise(error: DataError | None) -> None:
    if error is not None:
        raise error


def _check(frame: pl.DataFrame, column: Column, origin: Origin) -> pl.Series:
    return _READERS[column.kind](frame, column, origin)


def _refuse_missing(frame: pl.DataFrame, column: Column, origin: Origin, what: str = "a value is needed in every row") -> None:
    series = frame[column.name]
    missing = series.is_null()
    if series.dtype.is_float():
        missing |= series.is_nan()
    elif series.dtype == pl.String:
        missing |= series.str.strip_chars() == ""
    mend = "fill it, or leave those rows out" if column.name in _CORE else "fill it, leave those rows out, or leave the column out"
    _raise(origin.bad_value(frame, column.name, missing, what, mend))


_CORE = ("user_id", "item_id", "timestamp_ms")


def _wrong_type(column: Column, dtype: Any, origin: Origin, wanted: str, mend: str) -> DataError:
    return DataError(f"{origin.label(column.name)} is of type {dtype}, not {wanted}", where=origin.where, mend=mend)


def _integers(frame: pl.DataFrame, column: Column, origin: Origin, wanted: str) -> pl.Series:
    """Integers, booleans and whole floats as Int64; nothing missing."""
    _refuse_missing(frame, column, origin)
    series = frame[column.name]
    if series.dtype.is_float():
        whole = series.is_finite() & (series == series.round()) & (series.abs() < 2.0**63)
        _raise(origin.bad_value(frame, column.name, ~whole, f"not {wanted}", f"give {wanted}"))
    elif not (series.dtype.is_integer() or series.dtype == pl.Boolean):
        raise _wrong_type(column, series.dtype, origin, wanted, f"turn it into {wanted} first")
    elif series.dtype in (pl.UInt64, pl.Int128, pl.UInt128):
        _raise(origin.bad_value(frame, column.name, series > 2**63 - 1, "too large for a 64-bit integer", "give it as text"))
    return series.cast(pl.Int64)


def _id(frame: pl.DataFrame, column: Column, origin: Origin) -> pl.Series:
    series = frame[column.name]
    if series.dtype in (pl.Categorical, pl.Enum):
        frame = frame.with_columns(series.cast(pl.String))
        series = frame[column.name]
    if series.dtype == pl.String:
        _refuse_missing(frame, column, origin)
        return series
    return _integers(frame, column, origin, "a whole number or text")


def _time(frame: pl.DataFrame, column: Column, origin: Origin) -> pl.Series:
    series = frame[column.name]
    if isinstance(series.dtype, pl.Datetime):
        _refuse_missing(frame, column, origin)
        return _in_era(frame, series.dt.epoch("ms"), column, origin)
    scale = origin.scales.get(column.name, 1.0)
    if scale == 1.0:
        values = _integers(frame, column, origin, "whole milliseconds since 1970")
    else:
        _refuse_missing(frame, column, origin)
        if not series.dtype.is_numeric():
            raise _wrong_type(column, series.dtype, origin, "a number", "turn it into a number first")
        scaled = series.cast(pl.Float64) * scale
        _raise(origin.bad_value(frame, column.name, ~(scaled.abs() < 2.0**63), "not a time", "give seconds since 1970"))
        values = scaled.round().cast(pl.Int64)
    return _in_era(frame, values, column, origin)


def _in_era(frame: pl.DataFrame, values: pl.Series, column: Column, origin: Origin) -> pl.Series:
    bad = (values < EARLIEST_MS) | (values >= LATEST_MS)
    if not bad.any():
        return values
    first = int(values.filter(bad)[0])
    if first < 0:
        problem, mend = "a time before 1970", "leave those rows out, or correct them"
    elif column.name in origin.scales:
        problem, mend = "not a time between 1990 and 2100", "check the unit (from_frame: timestamp_unit)"
    elif EARLIEST_MS <= first * 1000 < LATEST_MS:
        problem, mend = "this looks like seconds, not milliseconds", "multiply by 1000 (from_frame: timestamp_unit='s')"
    elif EARLIEST_MS <= first // 1000 < LATEST_MS:
        problem, mend = "this looks like microseconds, not milliseconds", "divide by 1000 (from_frame: timestamp_unit='us')"
    else:
        problem, mend = "not a time between 1990 and 2100 in milliseconds since 1970", "give milliseconds since 1970 UTC"
    _raise(origin.bad_value(frame, column.name, bad, problem, mend))
    return values


def _date(frame: pl.DataFrame, column: Column, origin: Origin) -> pl.Series:
    series = frame[column.name]
    if series.dtype == pl.Date:
        _refuse_missing(frame, column, origin)
        return series
    if isinstance(series.dtype, pl.Datetime):
        _refuse_missing(frame, column, origin)
        return series.dt.date()
    if not (series.dtype.is_numeric() or series.dtype == pl.String):
        raise _wrong_type(column, series.dtype, origin, "a date", "give dates, or numbers such as 20220425")
    values = series if series.dtype == pl.String else _integers(frame, column, origin, "a date such as 20220425")
    # a log has few days: parse each once
    days = values.unique()
    parsed = days.cast(pl.String).str.replace_all("-", "").str.to_date("%Y%m%d", strict=False)
    out = values.replace_strict(days, parsed, return_dtype=pl.Date)
    _raise(origin.bad_value(frame, column.name, out.is_null(), "not a date", "give dates such as 20220425 or 2022-04-25"))
    return out


def _flag(frame: pl.DataFrame, column: Column, origin: Origin) -> pl.Series:
    values = _integers(frame, column, origin, "0 or 1")
    _raise(origin.bad_value(frame, column.name, (values < 0) | (values > 1), "not 0 or 1", "give 0 or 1; map other codes first"))
    return values.cast(pl.UInt8)


def _count(frame: pl.DataFrame, column: Column, origin: Origin) -> pl.Series:
    values = _integers(frame, column, origin, "a whole number")
    bad = (values < (column.low or 0)) | (values > 2**31 - 1)
    _raise(origin.bad_value(frame, column.name, bad, f"not a whole number from {column.low or 0:g}", "correct those rows"))
    return values.cast(pl.Int32)


def _float(frame: pl.DataFrame, column: Column, origin: Origin) -> pl.Series:
    series = frame[column.name]
    if not (series.dtype.is_numeric() or series.dtype == pl.Boolean):
        raise _wrong_type(column, series.dtype, origin, "a number", "turn it into numbers first")
    if not column.may_miss:
        _refuse_missing(frame, column, origin)
    values = series.cast(pl.Float64) * origin.scales.get(column.name, 1.0)
    bad = values.is_infinite() | (values.abs() > 3.4e38)
    problem = "not a finite number"
    if not bad.any() and column.low is not None:
        bad = (values <= column.low) if column.low_open else (values < column.low)
        problem = f"must be {'above' if column.low_open else 'at least'} {column.low:g}"
    if not bad.any() and column.high is not None:
        bad, problem = values > column.high, f"must be at most {column.high:g}"
    bad &= values.is_not_nan()  # polars orders NaN above every number; a missing value is judged above
    _raise(origin.bad_value(frame, column.name, bad, problem, "correct those rows, or leave them out"))
    return values.cast(pl.Float32).fill_null(float("nan"))


def _vector(frame: pl.DataFrame, column: Column, origin: Origin) -> pl.Series:
    series = frame[column.name]
    if isinstance(series.dtype, pl.Array):
        series = series.arr.to_list()
    inner = series.dtype.inner if isinstance(series.dtype, pl.List) else None
    if inner is None or not inner.is_numeric():
        raise _wrong_type(column, series.dtype, origin, "a list of numbers", "give one list of numbers a row")
    lengths = series.list.len()
    width = int(lengths[0] or 0)
    if width == 0:
        _raise(origin.bad_value(frame, column.name, lengths.fill_null(0) == 0, "an empty vector", "give at least one number a row"))
    _raise(
        origin.bad_value(
            frame,
            column.name,
            lengths.fill_null(0) != width,
            f"not a vector of length {width} as in the first row",
            "give vectors of one length",
        )
    )
    values = series.cast(pl.List(pl.Float32))
    finite = values.list.eval(pl.element().is_finite().fill_null(False)).list.all()
    _raise(origin.bad_value(frame, column.name, ~finite, "not all finite numbers", "correct those rows, or leave them out"))
    return values.cast(pl.Array(pl.Float32, width))


def _category(frame: pl.DataFrame, column: Column, origin: Origin) -> pl.Series:
    return _id(frame, column, origin)


_READERS: Mapping[Kind, Callable[[pl.DataFrame, Column, Origin], pl.Series]] = {
    "id": _id,
    "category": _category,
    "time": _time,
    "date": _date,
    "flag": _flag,
    "count": _count,
    "float": _float,
    "vector": _vector,
}
