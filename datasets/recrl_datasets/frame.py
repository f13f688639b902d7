"""The user's own log, from Polars, pandas or Arrow, mapped into the schema with one call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError, DataError
from recrl_datasets.loaders.registry import REGISTRY
from recrl_datasets.preparing import save
from recrl_datasets.schema import BY_NAME, Origin, RowsAsClustersWarning, nearest, validate_key, validate_log
from recrl_datasets.store import Store
from recrl_datasets.tables import Finding, RawTables


@dataclass(frozen=True)
class Caller:
    """How errors about a frame are worded.

    Attributes:
        call: the function that was called.
        file: the file that the frame was read from, on the command line.
        row: turns a row number (from 0) into words.
    """

    call: str = "from_frame"
    file: str = ""
    row: Callable[[int], str] = "row {} (counting from 0)".format

    def place(self, argument: str) -> str:
        """Where ``argument`` was given."""
        if not self.file:
            return f"{self.call}: {argument}"
        return self.file if argument == "frame" else f"--{argument.replace('_', '-')}"

    def mapping(self, ours: str, theirs: str) -> str:
        """How one says that the schema's column ``ours`` is the user's ``theirs``."""
        return f"give --columns {ours}={theirs}" if self.file else f"pass columns={{{ours!r}: {theirs!r}}}"


_SCALE = {"ms": 1.0, "s": 1000.0, "us": 0.001}


def from_frame(
    frame: Any,
    name: str,
    *,
    columns: Mapping[str, str] | None = None,
    feedback: Mapping[str, str | pl.Expr] | None = None,
    users: Any = None,
    items: Any = None,
    timestamp_unit: Literal["ms", "s", "us"] = "ms",
    stores: Path | str = "stores",
    progress: Progress | None = None,
    caller: Caller = Caller(),
) -> Store:
    """Store a log of your own.

    Args:
        frame: Polars DataFrame or LazyFrame, pandas DataFrame, Arrow Table, or a mapping of columns.
        name: name of the store.
        columns: schema name -> column of ``frame``, where they differ. Columns that neither map nor carry a schema name are
            kept as extra columns when they hold numbers, booleans or text.
        feedback: behaviour -> column of ``frame``, or a Polars expression over its columns such as ``pl.col("stars") >= 4``.
        users: features by ``user_id`` (or the column that ``columns`` maps to it).
        items: features by ``item_id``, likewise.
        timestamp_unit: unit of a timestamp column of numbers; columns of type datetime need none.
        stores: folder of the stores.
        progress: called with the finished share and a line of text.
        caller: how errors are worded.

    **Errors**: :class:`DataError` names column, first offending row, value and mend; :class:`ConfigError` for a bad option.
    **Warnings**: :class:`RowsAsClustersWarning` when there is neither a user nor a cluster.

    >>> import polars as pl, tempfile
    >>> frame = pl.DataFrame({"uid": [7, 7, 9], "film": ["a", "b", "a"], "at": [1700000000, 1700000050, 1700000100], "stars": [5, 2, 4]})
    >>> store = from_frame(frame, "mine", columns={"user_id": "uid", "item_id": "film", "timestamp_ms": "at", "rating": "stars"},
    ...                    feedback={"click": pl.col("stars") >= 3}, timestamp_unit="s", stores=tempfile.mkdtemp())
    >>> store.log().column("click").tolist()
    [1, 0, 1]
    """
    if name in REGISTRY:
        raise ConfigError(f"{name!r} is the name of a registered dataset", where=caller.place("name"), mend="choose another name")
    raw = frame_tables(frame, columns=columns, feedback=feedback, users=users, items=items, timestamp_unit=timestamp_unit, caller=caller)
    return save(raw, name, source=None, stores=stores, fingerprint="", progress=progress or (lambda done, text: None))


def frame_tables(
    frame: Any,
    *,
    columns: Mapping[str, str] | None = None,
    feedback: Mapping[str, str | pl.Expr] | None = None,
    users: Any = None,
    items: Any = None,
    timestamp_unit: str = "ms",
    caller: Caller = Caller(),
) -> RawTables:
    """A log of one's own as validated tables; arguments and errors as for :func:`from_frame`."""
    if timestamp_unit not in _SCALE:
        raise ConfigError(
            f"timestamp_unit={timestamp_unit!r} is not known", where=caller.place("timestamp_unit"), mend="use 'ms', 's' or 'us'"
        )
    source = to_polars(frame, caller.place("frame"))
    names = _mapping(columns or {}, source.columns, caller)
    findings: list[Finding] = []
    log = _mapped(source, names, findings)
    if feedback:
        log = log.with_columns(_feedback(source, feedback, caller.place("feedback")))
    log = _with_user(log, source.columns, findings)
    scales = {"timestamp_ms": _SCALE[timestamp_unit]} if timestamp_unit != "ms" else {}
    origin = Origin(caller.place("frame"), names, scales, caller.row)
    return RawTables(
        validate_log(log, origin),
        users=_features(users, "user_id", names, caller.place("users")),
        items=_features(items, "item_id", names, caller.place("items")),
        findings=tuple(findings),
    )


def to_polars(frame: Any, where: str) -> pl.DataFrame:
    """A Polars DataFrame from Polars, pandas, Arrow or a mapping of columns.

    **Errors**: :class:`DataError` for another type, repeated columns, or a column of mixed types (with its first odd row).
    """
    try:
        if isinstance(frame, pl.DataFrame):
            out = frame
        elif isinstance(frame, pl.LazyFrame):
            out = frame.collect()
        elif isinstance(frame, pa.Table | pa.RecordBatch):
            _refuse_repeated(list(frame.schema.names), where)
            out = pl.DataFrame(pl.from_arrow(frame))
        elif type(frame).__module__.split(".")[0] == "pandas" and hasattr(frame, "columns"):
            _refuse_repeated([str(c) for c in frame.columns], where)
            out = pl.DataFrame({str(c): _pandas_column(frame[c], str(c), where) for c in frame.columns})
        elif isinstance(frame, Mapping):
            out = pl.DataFrame({str(k): v for k, v in frame.items()}, strict=True)
        else:
            raise DataError(
                f"{type(frame).__name__} is not a table", where=where, mend="give a Polars, pandas or Arrow table, or a mapping of columns"
            )
    except (pl.exceptions.PolarsError, pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"the table cannot be read: {str(error).splitlines()[0]:.200}", where=where, mend="give each column one type and equal length"
        ) from None
    return out


def _refuse_repeated(names: list[str], where: str) -> None:
    for k, name in enumerate(names):
        if name in names[:k]:
            raise DataError(
                f"column {name!r} appears twice (columns {names.index(name) + 1} and {k + 1})",
                where=where,
                mend="remove or rename one of them",
            )


def _pandas_column(column: Any, name: str, where: str) -> pl.Series:
    if column.dtype == object:
        kinds = column.map(_kind, na_action=None)
        known = kinds.dropna()
        odd = known[known != known.iloc[0]] if len(known) else known
        if len(odd):
            row = int(kinds.reset_index(drop=True).eq(odd.iloc[0]).idxmax())
            raise DataError(
                f"column {name!r} mixes types: {known.iloc[0]} first, then {column.iloc[row]!r:.80} of type {odd.iloc[0]}",
                where=f"{where}, row {row} (counting from 0)",
                mend="give the column one type",
            )
    return pl.Series(name, pl.from_pandas(column.reset_index(drop=True), nan_to_null=True))


def _kind(value: Any) -> str | None:
    """Type of one value of an object column; ``None`` for a missing one."""
    missing = value is None or (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")
    return None if missing else type(value).__name__


def _mapping(columns: Mapping[str, str], present: list[str], caller: Caller) -> dict[str, str]:
    """Schema name -> source column for every schema column that the frame gives."""
    where = caller.place("columns")
    for ours, theirs in columns.items():
        if ours not in BY_NAME:
            raise DataError(
                f"{ours!r} is not a column of the log schema",
                where=where,
                mend=f"{nearest(ours, BY_NAME)}the schema has: {', '.join(BY_NAME)}",
            )
        if theirs not in present:
            raise DataError(
                f"there is no column {theirs!r} to map to {ours}",
                where=where,
                mend=f"{nearest(theirs, present)}there are: {', '.join(present)}"[:400],
            )
    names = {name: columns.get(name, name) for name in BY_NAME if name in columns or name in present}
    for name in ("item_id", "timestamp_ms"):
        if name not in names:
            near = nearest(name, [c for c in present if c not in names.values()])
            example = near.split("'")[1] if near else "..."
            raise DataError(
                f"column {name!r} is missing; there are: {', '.join(present) or 'none'}"[:400],
                where=caller.place("frame"),
                mend=near + caller.mapping(name, example),
            )
    return names


def _mapped(source: pl.DataFrame, names: Mapping[str, str], findings: list[Finding]) -> pl.DataFrame:
    used = set(names.values())
    extra = [c for c in source.columns if c not in used and c not in names]
    findings.extend(
        Finding("column left out", 1, "info", f"column {c!r} was left out: {names[c]!r} is mapped to that name")
        for c in source.columns
        if c in names and c not in used
    )
    return source.select(*(pl.col(theirs).alias(ours) for ours, theirs in names.items()), *extra)


def _feedback(source: pl.DataFrame, feedback: Mapping[str, str | pl.Expr], where: str) -> list[pl.Series]:
    out = []
    for behaviour, how in feedback.items():
        if behaviour not in BEHAVIOURS:
            raise DataError(
                f"{behaviour!r} is not a behaviour", where=where, mend=f"{nearest(behaviour, BEHAVIOURS)}there are: {', '.join(BEHAVIOURS)}"
            )
        try:
            series = source.select((pl.col(how) if isinstance(how, str) else how).alias(behaviour)).to_series()
        except (pl.exceptions.PolarsError, TypeError) as error:
            raise DataError(
                f"{behaviour!r} cannot be computed: {str(error).splitlines()[0]:.200}",
                where=where,
                mend=f"there are: {', '.join(source.columns)}"[:400],
            ) from None
        if series.len() != source.height:
            raise DataError(
                f"{behaviour!r} gives {series.len()} values for {source.height} rows", where=where, mend="give one value for each row"
            )
        out.append(series)
    return out


def _with_user(log: pl.DataFrame, present: list[str], findings: list[Finding]) -> pl.DataFrame:
    if "user_id" in log.columns:
        return log
    if "cluster_id" in log.columns:
        findings.append(Finding("clusters stand for users", log.height, "info", "the log has no user_id: cluster_id is used in its place"))
        return log.with_columns(pl.col("cluster_id").alias("user_id"))
    near = nearest("user_id", [c for c in present if c not in BY_NAME])
    text = "the log has neither user_id nor cluster_id: every row is its own cluster; sessions, gaps and intervals by user mean little"
    warnings.warn(f"{text}. {near}Pass columns={{'user_id': ...}} or columns={{'cluster_id': ...}}", RowsAsClustersWarning, stacklevel=4)
    findings.append(Finding("rows are their own clusters", log.height, "warning", text))
    return log.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("user_id"))


def _features(table: Any, key: str, names: Mapping[str, str], where: str) -> pl.DataFrame | None:
    if table is None:
        return None
    frame = to_polars(table, where)
    source = key if key in frame.columns else names.get(key, key)
    if source not in frame.columns:
        raise DataError(
            f"column {key!r} is missing; there are: {', '.join(frame.columns) or 'none'}"[:400],
            where=where,
            mend=f"{nearest(key, frame.columns)}rename the key column to {key!r}",
        )
    frame = frame.rename({source: key})
    odd = [s.name for s in frame if s.dtype == pl.Object]
    return frame.with_columns(validate_key(frame[key], Origin(where, {key: source}))).drop(odd)
