"""From validated raw tables to what a store keeps: dense indices, sorted rows, flagged duplicates, narrow types."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recrl.core.errors import DataError
from recrl_datasets.schema import COLUMNS, RESERVED
from recrl_datasets.tables import Finding, RawTables

_SCHEMA_ORDER = [column.name for column in COLUMNS if column.name not in ("user_id", "item_id")]


@dataclass(frozen=True, eq=False)
class IndexedTables:
    """A dataset ready to be written.

    ``log`` and ``random`` hold ``user`` and ``item`` (rows of ``users`` and ``items``), are sorted by (user, timestamp_ms,
    source order), and keep exact duplicates, flagged, after all other rows. ``categories`` holds the texts behind codes.
    """

    log: pl.DataFrame
    random: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame
    categories: Mapping[str, pl.Series]
    findings: tuple[Finding, ...]
    leaky_items: tuple[str, ...]
    content_hash: str

    @property
    def duplicate_rows(self) -> int:
        """Rows of the log that repeat an earlier one exactly."""
        return int(self.log["is_duplicate"].sum())


def index_tables(raw: RawTables) -> IndexedTables:
    """Index, sort and narrow ``raw``; dense indices follow the sorted raw ids (numbers by value, text by code point).

    **Errors**: :class:`DataError` where the id types of two tables differ, or a feature table lists an id twice.
    """
    parts = [raw.log] if raw.random is None else [raw.log, raw.random]
    parts, extra_findings = _extras(parts)
    users, parts = _dense(parts, "user_id", "user")
    items, parts = _dense(parts, "item_id", "item")
    categories, parts = _codes(parts)
    parts = [_narrow(part) for part in parts]
    ordered = [_order(part) for part in parts]
    user_table, user_findings = _features(users, raw.users, "user")
    item_table, item_findings = _features(items, raw.items, "item")
    log = ordered[0][0]
    random = ordered[1][0] if len(ordered) > 1 else log.clear()
    digest = hashlib.sha256()
    for name, table in (("users", user_table), ("items", item_table)):
        _digest_frame(digest, name, table)
    for name, texts in categories.items():
        _digest_series(digest, f"category {name}", texts)
    for name, (frame, canonical) in zip(("log", "random"), ordered, strict=False):
        _digest_frame(digest, name, frame, canonical)
    findings = (*raw.findings, *extra_findings, *user_findings, *item_findings)
    return IndexedTables(log, random, user_table, item_table, categories, findings, raw.leaky_items, digest.hexdigest())


def _extras(parts: list[pl.DataFrame]) -> tuple[list[pl.DataFrame], list[Finding]]:
    """Keep extra columns of numbers, booleans and text; leave others out with a finding."""
    findings: list[Finding] = []
    known = {column.name for column in COLUMNS}
    kept: list[pl.DataFrame] = []
    for part in parts:
        out = part
        for name in part.columns:
            if name in known:
                continue
            dtype = part[name].dtype
            if name in RESERVED:
                findings.append(Finding("column left out", 1, "info", f"extra column {name!r} was left out: recrl uses that name itself"))
                out = out.drop(name)
            elif (dtype.is_numeric() and not dtype.is_decimal()) or dtype == pl.Boolean:
                out = out.with_columns(_plain_number(part[name]))
            elif dtype in (pl.String, pl.Categorical, pl.Enum):
                out = out.with_columns(pl.col(name).cast(pl.String).fill_null(""))
            else:
                findings.append(
                    Finding("column left out", 1, "info", f"extra column {name!r} was left out: type {dtype} has no place in a log")
                )
                out = out.drop(name)
        kept.append(out)
    return kept, list(dict.fromkeys(findings))


def _plain_number(series: pl.Series) -> pl.Series:
    if series.dtype == pl.Boolean:
        series = series.cast(pl.UInt8)
    elif series.dtype in (pl.Int128, pl.UInt128):
        series = series.cast(pl.Float64)
    if series.null_count():
        return series.cast(pl.Float64).fill_null(float("nan"))
    return series


def _dense(parts: list[pl.DataFrame], key: str, index: str) -> tuple[pl.Series, list[pl.DataFrame]]:
    """Replace raw ids by dense int32 indices into their sorted distinct values."""
    if len({part[key].dtype for part in parts}) > 1:
        parts = [part.with_columns(pl.col(key).cast(pl.String)) for part in parts]
    raw = pl.concat([part[key] for part in parts])
    distinct, codes = dense_codes(raw)
    out, start = [], 0
    for part in parts:
        out.append(part.drop(key).with_columns(pl.Series(index, codes[start : start + part.height])))
        start += part.height
    return distinct.alias(key), out


def dense_codes(raw: pl.Series) -> tuple[pl.Series, NDArray[np.int32]]:
    """Sorted distinct values of ``raw`` (Int64 or String, none missing) and each row's place among them."""
    if raw.dtype == pl.String:
        distinct = raw.unique().sort()
        places = pl.DataFrame({"value": distinct, "place": pl.int_range(distinct.len(), dtype=pl.Int32, eager=True)})
        codes = raw.to_frame("value").join(places, on="value", how="left", maintain_order="left")["place"]
        return distinct, codes.to_numpy()
    values = raw.to_numpy()
    if values.size == 0:
        return raw, np.zeros(0, dtype=np.int32)
    low, span = int(values.min()), int(values.max()) - int(values.min()) + 1
    if span > 4 * values.size + 1_000_000:
        numbers, inverse = np.unique(values, return_inverse=True)
        return pl.Series(raw.name, numbers), inverse.astype(np.int32)
    shifted = values - low
    seen = np.zeros(span, dtype=bool)
    seen[shifted] = True
    table = np.cumsum(seen, dtype=np.int32) - np.int32(1)
    return pl.Series(raw.name, np.flatnonzero(seen) + low), table[shifted]


def _codes(parts: list[pl.DataFrame]) -> tuple[dict[str, pl.Series], list[pl.DataFrame]]:
    """Replace text columns by codes into their sorted distinct values."""
    categories: dict[str, pl.Series] = {}
    texts = sorted({name for part in parts for name in part.columns if part[name].dtype == pl.String})
    for name in texts:
        parts = [part.with_columns(pl.col(name).cast(pl.String)) if name in part.columns else part for part in parts]
        holders = [k for k, part in enumerate(parts) if name in part.columns]
        distinct, codes = dense_codes(pl.concat([parts[k][name] for k in holders]))
        categories[name] = distinct.alias(name)
        start = 0
        for k in holders:
            parts[k] = parts[k].with_columns(pl.Series(name, codes[start : start + parts[k].height]))
            start += parts[k].height
    return categories, parts


def _narrow(part: pl.DataFrame) -> pl.DataFrame:
    """Smallest integer types, floats as they are; schema order, extra columns by name at the end."""
    fixed = {"user", "item", "timestamp_ms", "censor_time", "local_date"}
    part = part.with_columns([s.shrink_dtype() for s in part if s.dtype.is_integer() and s.name not in fixed and s.dtype != pl.UInt8])
    schema = ["user", "item", *(name for name in _SCHEMA_ORDER if name in part.columns)]
    return part.select([*schema, *sorted(set(part.columns) - set(schema))])


def _order(part: pl.DataFrame) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """Sort by (user, timestamp_ms, source order), flag exact duplicates and put them last.

    Returns the frame and the canonical order of its rows, in which equal contents give equal bytes whatever the source order.
    """
    users, times = part["user"].to_numpy(), part["timestamp_ms"].to_numpy()
    if part.height and not _is_sorted(users, times):
        part = part[np.lexsort((times, users))]
        users, times = part["user"].to_numpy(), part["timestamp_ms"].to_numpy()
    tied = np.zeros(part.height, dtype=bool)
    if part.height:
        same = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
        tied[1:] |= same
        tied[:-1] |= same
    rows = np.flatnonzero(tied)
    canonical = np.arange(part.height, dtype=np.int64)
    duplicate = np.zeros(part.height, dtype=bool)
    if rows.size:
        keys = _sortable(part[rows])
        names = keys.columns
        keys = keys.with_columns(pl.Series("__row", rows)).sort(names, maintain_order=True)
        canonical[rows] = keys["__row"].to_numpy()
        equal = np.asarray(keys.select(pl.all_horizontal([pl.col(n).eq_missing(pl.col(n).shift()) for n in names]))[:, 0].fill_null(False))
        equal[0] = False
        duplicate[canonical[rows][equal]] = True
    part = part.with_columns(pl.Series("is_duplicate", duplicate.astype(np.uint8)))
    if duplicate.any():
        order = np.concatenate([np.flatnonzero(~duplicate), np.flatnonzero(duplicate)])
        place = np.empty_like(order)
        place[order] = np.arange(order.size)
        part, canonical = part[order], place[canonical]
    return part, canonical


def _is_sorted(users: NDArray[Any], times: NDArray[Any]) -> bool:
    step = np.diff(users)
    return bool(np.all(step >= 0) and np.all(np.diff(times)[step == 0] >= 0))


def _sortable(frame: pl.DataFrame) -> pl.DataFrame:
    """Vectors spread over one column a component, so that rows can be compared and sorted."""
    for name in [s.name for s in frame if isinstance(s.dtype, pl.Array)]:
        parts = frame[name].arr.to_struct().struct.unnest()
        frame = frame.drop(name).hstack(parts.rename({old: f"{name}.{old}" for old in parts.columns}))
    return frame


def _features(ids: pl.Series, table: pl.DataFrame | None, what: str) -> tuple[pl.DataFrame, list[Finding]]:
    """The feature table by dense index: one row for each id of the log, in index order."""
    key = f"{what}_id"
    base = ids.to_frame().with_columns(pl.int_range(ids.len(), dtype=pl.Int32, eager=True).alias(what)).select(what, key)
    if table is None:
        return base, []
    if what in table.columns:
        table = table.drop(what)
    if table[key].dtype != ids.dtype:
        raise DataError(
            f"{key} is {_word(ids)} in the log and {_word(table[key])} in the {what} features",
            where=f"{what} features",
            mend="give both as text, or both as numbers",
        )
    repeated = table[key].is_duplicated()
    if repeated.any():
        raise DataError(
            f"{key} {table[key].filter(repeated)[0]!r} has {table.filter(pl.col(key) == table[key].filter(repeated)[0]).height} rows",
            where=f"{what} features",
            mend="keep one row for each id",
        )
    joined = base.join(table, on=key, how="left", maintain_order="left")
    known = int(table[key].is_in(ids.implode()).sum())
    findings = []
    if table.height > known:
        findings.append(
            Finding(
                f"features of unknown {what}s", table.height - known, "info", f"{what} feature rows without a row in the log were left out"
            )
        )
    if ids.len() > known:
        findings.append(
            Finding(
                f"{what}s without features",
                ids.len() - known,
                "warning",
                f"{what}s of the log have no feature row: their features are missing values",
            )
        )
    return joined, findings


def _word(ids: pl.Series) -> str:
    return "text" if ids.dtype == pl.String else "a number"


def _digest_frame(digest: Any, name: str, frame: pl.DataFrame, order: NDArray[np.int64] | None = None) -> None:
    for series in frame:
        _digest_series(digest, f"{name}.{series.name}", series if order is None else series[order])


def _digest_series(digest: Any, name: str, series: pl.Series) -> None:
    """Feed one column to the hash: its name, type, length and values, independent of chunks and of how it is stored."""
    digest.update(f"{name} {series.dtype} {series.len()}\n".encode())
    dtype = series.dtype
    if isinstance(dtype, pl.Array | pl.List):
        series = series.arr.to_list() if isinstance(dtype, pl.Array) else series
        _digest_series(digest, "lengths", series.list.len())
        _digest_series(digest, "values", series.explode(empty_as_null=False, keep_nulls=False))
        return
    if series.null_count():
        digest.update(np.packbits(series.is_null().to_numpy()).tobytes())
    if dtype == pl.String:
        _digest_series(digest, "bytes", series.fill_null("").str.len_bytes())
        digest.update("".join(series.fill_null("").to_list()).encode())
        return
    values = series.to_physical()
    values = values.fill_null(0) if values.dtype != pl.Boolean else values.fill_null(False).cast(pl.UInt8)
    array = values.to_numpy()
    if array.dtype.kind == "f":
        # one zero, one NaN
        array = np.where(np.isnan(array), np.array(np.nan, array.dtype), array + np.array(0, array.dtype))
    digest.update(np.ascontiguousarray(array).tobytes())
