"""One's own log or feature table from a file: Parquet with its types, delimited text with types that its values show."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import polars as pl

from recrl.core.errors import ConfigError, DataError, StorageError
from recrl_datasets.frame import Caller
from recrl_datasets.loaders.atomic_log import AtomicOptions, TimeUnit
from recrl_datasets.loaders.reading import read_text_table
from recrl_datasets.loaders.text_blocks import text_blocks
from recrl_datasets.schema import BY_NAME, EARLIEST_MS, LATEST_MS

_SEPARATORS = (",", "\t", ";", "|")
_PLAIN, _PADDED = r"^(0|-?[1-9][0-9]{0,17})$", r"^[+-]?0[0-9]"


@dataclass(frozen=True, eq=False)
class OwnTable:
    """A table and how its rows are called in errors."""

    frame: pl.DataFrame
    row: Callable[[int], str] = "row {} (counting from 0)".format


def read_own_file(path: Path | str, columns: Mapping[str, str] | None = None) -> OwnTable:
    """Read ``.parquet``, or ``.csv`` / ``.tsv`` / ``.txt`` (also ``.gz``) with a header, separated by commas, tabs, semicolons or bars.

    Text columns become whole numbers, numbers or booleans where every value is one and nothing is lost: ``007`` stays text, and ids
    become whole numbers or stay. Times such as ``2024-05-01 10:00:00`` are read in the columns that hold times.

    Args:
        path: the file.
        columns: schema name -> column of the file, where they differ.

    **Errors**: :class:`StorageError` where the file cannot be read; :class:`ConfigError` for another kind of file;
    :class:`DataError` for broken text, with its line.
    """
    file = Path(path)
    if not file.is_file():
        raise StorageError(f"there is no file {file}", where=str(file), mend="check the path")
    kind = file.name.removesuffix(".gz").rsplit(".", 1)[-1].lower()
    if kind == "parquet":
        return OwnTable(_parquet(file))
    if kind not in ("csv", "tsv", "txt"):
        raise ConfigError(f"{file.name} is of no known kind", where=str(file), mend="give a .parquet, .csv or .tsv file (text may be .gz)")
    header = next(text_blocks(file, 1 << 16)).split(b"\n", 1)[0].decode("utf-8", "replace")
    separator = max(_SEPARATORS, key=header.count)
    table = read_text_table(file, {}, required=(), separator=separator, quote='"')
    kinds = {(columns or {}).get(name, name): column.kind for name, column in BY_NAME.items()}
    # a first column without a name numbers the rows
    names = table.frame.columns[1 if header.lstrip('"').startswith(separator) else 0 :]
    return OwnTable(pl.DataFrame([_typed(table.frame[name], kinds.get(name, "")) for name in names]), table.row)


def _parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path.name} cannot be read as Parquet ({first:.120})", where=str(path), mend="write or copy the file again"
        ) from None


def _typed(texts: pl.Series, kind: str) -> pl.Series:
    """The values behind texts; a missing value is an empty field."""
    present = texts.drop_nulls()
    if present.is_empty():
        return texts
    if kind in ("id", "category"):
        return texts.cast(pl.Int64) if present.str.contains(_PLAIN).all() else texts
    # 01234 is a code, not a number
    kinds = () if kind == "" and present.str.contains(_PADDED).any() else (pl.Int64, pl.Float64)
    for dtype in kinds:
        numbers = present.cast(dtype, strict=False)
        if numbers.null_count() == 0:
            return texts.cast(dtype)
    if present.str.to_lowercase().is_in(["true", "false"]).all():
        return texts.str.to_lowercase() == "true"
    if kind == "time":
        with contextlib.suppress(pl.exceptions.PolarsError):
            times = texts.str.to_datetime(time_unit="ms", strict=False)
            return times if times.null_count() == texts.null_count() else texts
    return texts


@dataclass(frozen=True, eq=False)
class OwnRows:
    """A log of one's own and what is known of it, read from files: the arguments of :func:`from_frame` and :func:`append`."""

    frame: pl.DataFrame
    columns: Mapping[str, str]
    feedback: Mapping[str, str | pl.Expr]
    users: pl.DataFrame | None
    items: pl.DataFrame | None
    timestamp_unit: Literal["ms", "s", "us"]
    caller: Caller

    @property
    def arguments(self) -> dict[str, Any]:
        """All of them but the frame, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "frame"}


def read_own_rows(
    log: Path,
    *,
    columns: Mapping[str, str],
    feedback: Mapping[str, str],
    users: Path | None,
    items: Path | None,
    timestamp_unit: TimeUnit = "auto",
) -> OwnRows:
    """Read a log of one's own, and feature tables, from files.

    Args:
        log: Parquet or delimited text, as for :func:`read_own_file`.
        columns: schema name -> column of the file, where they differ.
        feedback: behaviour -> a column of 0 and 1 (``"liked"``), or a column and the least value that counts (``"stars:4"``).
        users: file of features by ``user_id``.
        items: file of features by ``item_id``.
        timestamp_unit: ``s``, ``ms``, ``us``, or ``auto``: the one in which the first row lies in 1990 to 2100.

    **Errors**: as for :func:`read_own_file`; :class:`ConfigError` for a name or unit that is not known.
    """
    asked = AtomicOptions(columns, feedback, timestamp_unit)
    if timestamp_unit == "rows":
        raise ConfigError("times cannot be made of the rows' order here", where="--timestamp-unit", mend="give a column of times")
    table = read_own_file(log, columns)
    rules = {behaviour: asked.rule(behaviour) for behaviour in feedback}
    return OwnRows(
        table.frame,
        columns,
        {behaviour: field if least is None else _at_least(field, least) for behaviour, (field, least) in rules.items()},
        None if users is None else read_own_file(users, columns).frame,
        None if items is None else read_own_file(items, columns).frame,
        _unit(table.frame, columns.get("timestamp_ms", "timestamp_ms")) if timestamp_unit == "auto" else timestamp_unit,
        Caller(file=str(log), row=table.row),
    )


def _at_least(field: str, least: float) -> pl.Expr:
    # a missing value does not count
    return (pl.col(field).cast(pl.Float64).fill_nan(None) >= least).fill_null(False)


def _unit(frame: pl.DataFrame, column: str) -> Literal["ms", "s", "us"]:
    """The unit in which the first time is one of 1990 to 2100; these ranges do not touch."""
    if column not in frame.columns or not frame[column].dtype.is_numeric() or frame[column].drop_nulls().is_empty():
        return "ms"
    first = float(frame[column].drop_nulls()[0])
    return "s" if first < EARLIEST_MS / 100 else "us" if first >= 100 * LATEST_MS else "ms"
