"""Reading delimited text robustly: a fast typed read, and a slow second look that names line, column and value when it fails."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import polars as pl

from recrl.core.errors import DataError, StorageError
from recrl_datasets.schema import require_columns

PolarsType: TypeAlias = pl.DataType | type[pl.DataType]
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)
_AGAIN = "download or copy the file again"


@dataclass(frozen=True, eq=False)
class TextTable:
    """A delimited file in memory. ``lines`` maps rows to lines of the file where they do not follow one another."""

    path: Path
    frame: pl.DataFrame
    lines: pl.Series | None = None

    def row(self, index: int) -> str:
        """Words for one row: its line in the file (the header is line 1)."""
        return f"line {index + 2 if self.lines is None else int(self.lines[index])}"


def find_file(folder: Path, name: str) -> Path | None:
    """``folder/name`` or ``folder/name.gz``, whichever is there."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_text_table(
    path: Path, types: Mapping[str, PolarsType], *, required: Iterable[str], separator: str = ",", quote: str | None = None
) -> TextTable:
    """Read one delimited UTF-8 file with a header, plain or gzip.

    Columns in ``types`` are read as those types, others as text; empty fields are missing values. A byte-order mark,
    CRLF and blank lines are accepted.

    **Errors**: :class:`StorageError` when the file cannot be read; :class:`DataError` for a wrong separator, a missing
    or repeated column, an empty file, a line of another length, or a value of another type (with its line).
    """
    content = _content(path)
    names = _header(content, path, separator)
    require_columns(
        names, required, str(path), "name the columns as the dataset's owners do, or load your own table with recrl_datasets.from_frame"
    )
    schema: dict[str, PolarsType] = {name: types.get(name, pl.String) for name in names}
    body = content.find(b"\n") + 1
    if body == 0 or (not content[body : body + 4096].strip() and not content[body:].strip()):
        raise DataError("the file has a header but no rows", where=str(path), mend=_AGAIN)
    try:
        frame = pl.read_csv(content, has_header=False, skip_rows=1, schema=schema, separator=separator, quote_char=quote)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return _second_look(path, content, schema, separator, quote)
    # polars fills short lines up with missing values: count separators, and look again where they do not fit
    if frame.height == 0 or _separators(content, body, separator, quote) != frame.height * (len(names) - 1):
        return _second_look(path, content, schema, separator, quote)
    return TextTable(path, frame)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(
            f"cannot read {path.name}: {error.strerror}", where=str(path), mend="check the path and its permissions"
        ) from None
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise DataError("the gzip file is cut off or broken", where=str(path), mend=_AGAIN) from None
    if content[:4] == b"PK\x03\x04":
        raise DataError("the file is a zip archive", where=str(path), mend="unpack it first")
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError("the file is UTF-16 text", where=str(path), mend="save it as UTF-8")
    content = content.removeprefix(b"\xef\xbb\xbf")
    if not content[: 1 << 16].strip() and not content.strip():
        raise DataError("the file is empty", where=str(path), mend=_AGAIN)
    return content.replace(b"\r\n", b"\n") if b"\r\n" in content[: content.find(b"\n") + 1] else content


def _header(content: bytes, path: Path, separator: str) -> list[str]:
    end = content.find(b"\n")
    line = content[: end if end >= 0 else len(content)]
    if b"\x00" in line or len(line) > 1 << 20:
        raise DataError("the file is not delimited text", where=str(path), mend=_AGAIN)
    try:
        header = line.decode("utf-8").rstrip("\r")
    except UnicodeDecodeError:
        raise DataError("the header is not UTF-8 text", where=f"{path}, line 1", mend="save the file as UTF-8") from None
    if "\r" in header:
        raise DataError("lines end in a carriage return alone", where=f"{path}, line 1", mend="save the file with line feeds")
    names = [name.strip().strip('"') for name in header.split(separator)]
    others = {other: header.count(other) for other in _SEPARATORS if other != separator}
    other = max(others, key=lambda o: others[o])
    if others[other] > len(names) - 1:
        raise DataError(
            f"columns are separated by {_SEPARATORS[other]}, not {_SEPARATORS[separator]}",
            where=f"{path}, line 1",
            mend=f"save the file with {_SEPARATORS[separator]}",
        )
    for k, name in enumerate(names):
        if not name:
            raise DataError(f"column {k + 1} has no name", where=f"{path}, line 1", mend="give every column a name")
        if name in names[:k]:
            raise DataError(
                f"column {name!r} appears twice (columns {names.index(name) + 1} and {k + 1})",
                where=f"{path}, line 1",
                mend="remove or rename one of them",
            )
    return names


def _separators(content: bytes, start: int, separator: str, quote: str | None) -> int:
    """Separators outside quotes, from ``start`` on."""
    if quote is None:
        return content.count(separator.encode(), start)
    return sum(part.count(separator.encode()) for part in content[start:].split(quote.encode())[::2])


def _second_look(path: Path, content: bytes, schema: Mapping[str, PolarsType], separator: str, quote: str | None) -> TextTable:
    """Read everything as text, line by line, then convert column by column: slow, and sure to name what is wrong."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"byte {content[error.start]:#04x} is not UTF-8 text", where=f"{path}, line {line}", mend="save the file as UTF-8"
        ) from None
    stream = io.StringIO(text, newline="")
    if quote is None:
        reader = csv.reader(stream, delimiter=separator, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(stream, delimiter=separator, quotechar=quote, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        next(reader)
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(schema):
                raise DataError(
                    f"{len(fields)} fields instead of {len(schema)}",
                    where=f"{path}, line {reader.line_num}",
                    mend=f"correct the line, or {_AGAIN}",
                )
            rows.append(fields)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"broken text: {error}", where=f"{path}, line {reader.line_num}", mend=f"correct the line, or {_AGAIN}") from None
    if not rows:
        raise DataError("the file has a header but no rows", where=str(path), mend=_AGAIN)
    texts = pl.DataFrame(rows, schema=dict.fromkeys(schema, pl.String), orient="row")
    table = TextTable(path, texts, pl.Series(lines, dtype=pl.Int64))
    return TextTable(path, pl.DataFrame([_convert(table, name, t) for name, t in schema.items()]), table.lines)


def _convert(table: TextTable, name: str, wanted: PolarsType) -> pl.Series:
    texts = table.frame[name].str.strip_chars().replace("", None)
    if wanted == pl.String:
        return texts
    values = texts.cast(pl.Float64, strict=False)
    kind = "a number"
    bad = texts.is_not_null() & values.is_null()
    if wanted in _INTEGERS:
        kind = "a whole number"
        exact = texts.cast(pl.Int64, strict=False)
        whole = values.is_nan() | (values.is_finite() & (values == values.round()) & (values.abs() < 2.0**53))
        bad |= exact.is_null() & ~whole.fill_null(True)
        values = exact.fill_null(values.fill_nan(None).cast(pl.Int64, strict=False))
    if bad.any():
        index = int(bad.arg_max() or 0)
        raise DataError(
            f"column {name!r} holds {texts[index]!r:.80}: not {kind}",
            where=f"{table.path}, {table.row(index)}",
            mend="correct the value, or leave the line out",
        )
    return values
