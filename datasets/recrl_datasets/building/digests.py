"""Hashes of tables that come in pieces: the same however rows are cut, chunked or stored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray


class ColumnDigest:
    """SHA-256 of one column: its values as they come, its missing values by position, its type and length at the end.

    >>> import polars as pl
    >>> whole, pieces = ColumnDigest(pl.String()), ColumnDigest(pl.String())
    >>> whole.update(pl.Series(["a", None, "bc"]))
    >>> pieces.update(pl.Series(["a", None])), pieces.update(pl.Series(["bc"]))
    (None, None)
    >>> whole.digest() == pieces.digest()
    True
    """

    def __init__(self, dtype: pl.DataType) -> None:
        self._dtype, self._rows = dtype, 0
        self._values, self._nulls = hashlib.sha256(), hashlib.sha256()
        self._inner: dict[str, ColumnDigest] = {}
        if isinstance(dtype, pl.List | pl.Array):
            self._inner = {"lengths": ColumnDigest(pl.UInt32()), "values": ColumnDigest(_data_type(dtype.inner))}
        elif isinstance(dtype, pl.Struct):
            self._inner = {field.name: ColumnDigest(_data_type(field.dtype)) for field in dtype.fields}
        elif _is_text(dtype):
            self._inner = {"lengths": ColumnDigest(pl.UInt32())}

    def update(self, series: pl.Series) -> None:
        """Feed the next rows."""
        if series.null_count():
            self._nulls.update((series.is_null().arg_true().cast(pl.Int64) + self._rows).to_numpy().tobytes())
        self._rows += series.len()
        dtype = self._dtype
        if isinstance(dtype, pl.List | pl.Array):
            lists = series.arr.to_list() if isinstance(dtype, pl.Array) else series
            self._inner["lengths"].update(lists.list.len().fill_null(0))
            self._inner["values"].update(lists.explode(empty_as_null=False, keep_nulls=False))
        elif isinstance(dtype, pl.Struct):
            for name, digest in self._inner.items():
                digest.update(series.struct.field(name))
        elif _is_text(dtype):
            texts = series if isinstance(dtype, pl.Binary) else series.cast(pl.String).cast(pl.Binary)
            raw = texts.fill_null(b"")
            self._inner["lengths"].update(raw.bin.size())
            self._values.update(b"".join(raw.to_list()))
        else:
            self._values.update(_plain(series).tobytes())

    def digest(self) -> bytes:
        """The hash of all rows so far."""
        kind = "text" if isinstance(self._dtype, pl.Categorical | pl.Enum) else str(self._dtype)
        whole = hashlib.sha256(f"{kind} {self._rows}\n".encode() + self._values.digest() + self._nulls.digest())
        for name, inner in self._inner.items():
            whole.update(name.encode() + inner.digest())
        return whole.digest()


class TableDigest:
    """SHA-256 of a table: the digests of its columns, by name."""

    def __init__(self, name: str, schema: Mapping[str, pl.DataType]) -> None:
        self._name = name
        self._columns = {column: ColumnDigest(dtype) for column, dtype in schema.items()}

    def update(self, frame: pl.DataFrame, order: NDArray[np.int64] | None = None) -> None:
        """Feed the next rows, in ``order`` where one is given."""
        for column, digest in self._columns.items():
            digest.update(frame[column] if order is None else frame[column][order])

    def digest(self) -> bytes:
        """The hash of all rows so far."""
        return b"".join(f"{self._name}.{column} ".encode() + digest.digest() for column, digest in self._columns.items())


def _is_text(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.String | pl.Categorical | pl.Enum | pl.Binary | pl.Decimal | pl.Int128 | pl.UInt128)


def _data_type(dtype: Any) -> pl.DataType:
    return dtype if isinstance(dtype, pl.DataType) else dtype()


def _plain(series: pl.Series) -> NDArray[np.generic]:
    """Numbers, booleans and times as an array without missing values; one zero and one NaN."""
    values = series.to_physical()
    if values.dtype == pl.Null:
        return np.zeros(0)
    values = values.cast(pl.UInt8) if values.dtype == pl.Boolean else values
    array = values.fill_null(0).to_numpy()
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), np.array(np.nan, array.dtype), array + np.array(0, array.dtype))
    return np.ascontiguousarray(array)
