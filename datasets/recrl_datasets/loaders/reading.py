"""Reading delimited text robustly: a fast typed read, and a slow second look that names line, column and value when it fails."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import polars as pl

from recrl.core.errors import DataError
from recrl_datasets.loaders.text_blocks import AGAIN, text_blocks
from recrl_datasets.schema import require_columns

PolarsType: TypeAlias = pl.DataType | type[pl.DataType]
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", "::": "double colons"}
_INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)
PIECE_BYTES = 16 << 20
"""Size of a piece of text: large enough for speed, small enough that a second look at it stays within a few hundred megabytes."""
_UNIT = "\x1f"  # stands for a separator of several characters
INDEX = "index"
"""Name of a first column without one: some tools write row numbers there."""


@dataclass(frozen=True, eq=False)
class TextTable:
    """Rows of a delimited file in memory. ``lines`` maps rows to lines of the file where they do not follow one another."""

    path: Path
    frame: pl.DataFrame
    lines: pl.Series | None = None
    first_line: int = 2

    def row(self, index: int) -> str:
        """Words for one row: its line in the file (a header is line 1)."""
        return f"line {index + self.first_line if self.lines is None else int(self.lines[index])}"


@dataclass(frozen=True)
class _Layout:
    """How the lines of one file are read."""

    path: Path
    schema: Mapping[str, PolarsType]
    separator: str
    quote: str | None


def find_file(folder: Path, name: str) -> Path | None:
    """``folder/name`` or ``folder/name.gz``, whichever is there."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_text_table(
    path: Path,
    types: Mapping[str, PolarsType],
    *,
    required: Iterable[str],
    separator: str = ",",
    quote: str | None = None,
    header: Sequence[str] | None = None,
    encoding: str = "utf-8",
) -> TextTable:
    """Read one delimited file, plain or gzip, whole; arguments and errors are those of :func:`read_text_pieces`."""
    options = {"separator": separator, "quote": quote, "header": header, "encoding": encoding}
    return next(_tables(path, types, required, None, **options))  # type: ignore[arg-type]


def read_text_pieces(
    path: Path,
    types: Mapping[str, PolarsType],
    *,
    required: Iterable[str],
    separator: str = ",",
    quote: str | None = None,
    header: Sequence[str] | None = None,
    encoding: str = "utf-8",
    piece_bytes: int = PIECE_BYTES,
) -> Iterator[TextTable]:
    """Read one delimited file, plain or gzip, in pieces of about ``piece_bytes`` bytes: memory does not grow with the file.

    Columns in ``types`` are read as those types, others as text; empty fields are missing values. A byte-order mark,
    CRLF and blank lines are accepted. Pieces follow one another as in the file, have the same columns and at least one row;
    ``row`` of each names lines of the file. A whole-number column in which a value does not fit its type comes as Int64.

    Args:
        path: the file.
        types: column -> type.
        required: columns that must be there.
        separator: between fields; may have several characters (``::``).
        quote: character around fields that hold separators or line ends.
        header: names of the columns where the file itself has no header (line 1 is then a row).
        encoding: ``utf-8`` or ``latin-1``.
        piece_bytes: size of a piece of text.

    **Errors**: :class:`StorageError` when the file cannot be read; :class:`DataError` for a wrong separator, a missing
    or repeated column, an empty file, a line of another length, or a value of another type (with its line).
    """
    return _tables(path, types, required, piece_bytes, separator, quote, header, encoding)


def text_header(path: Path, separator: str = ",") -> list[str]:
    """The column names of a delimited file with a header; nothing else of it is read.

    **Errors**: as for :func:`read_text_pieces`.
    """
    return _header(next(text_blocks(path, 1 << 16)), path, separator)


def _tables(
    path: Path,
    types: Mapping[str, PolarsType],
    required: Iterable[str],
    size: int | None,
    separator: str,
    quote: str | None,
    header: Sequence[str] | None,
    encoding: str,
) -> Iterator[TextTable]:
    line, layout, found = 1, None, False
    for block in text_blocks(path, size, quote=quote, encoding=encoding):
        start = 0
        if layout is None:
            if header is None:
                names = _header(block, path, separator)
                start = block.find(b"\n") + 1 or len(block)
                line += 1
            else:
                names = list(header)
                _refuse_other_separator(_first_line(block, path), path, separator, len(names))
            require_columns(
                names,
                required,
                str(path),
                "name the columns as the dataset's owners do, or load your own table with recrl_datasets.from_frame",
            )
            layout = _Layout(path, {name: types.get(name, pl.String) for name in names}, separator, quote)
        if block[start : start + 4096].strip() or block[start:].strip():
            found = True
            yield _table(layout, block[start:] if start else block, line)
        line += block.count(b"\n", start)
    if not found:
        raise DataError("the file has a header but no rows", where=str(path), mend=AGAIN)


def _table(layout: _Layout, content: bytes, line: int) -> TextTable:
    """Typed rows of ``content``, whose first line is line ``line`` of the file."""
    separator = layout.separator
    if len(separator) > 1:
        content, separator = content.replace(separator.encode(), _UNIT.encode()), _UNIT
    columns, quote = len(layout.schema), layout.quote
    try:
        frame = pl.read_csv(content, has_header=False, schema=layout.schema, separator=separator, quote_char=quote)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return _second_look(layout, content, separator, line)
    # polars fills short lines up with missing values: count separators, and look again where they do not fit
    if frame.height == 0 or _separators(content, separator, quote) != frame.height * (columns - 1):
        return _second_look(layout, content, separator, line)
    if quote is not None:
        if content.count(b"\n") + (not content.endswith(b"\n")) != frame.height:
            return _second_look(layout, content, separator, line)
        if 2 * quote.encode() in content:
            frame = frame.with_columns(pl.col(pl.String).replace("", None))
    return TextTable(layout.path, frame, first_line=line)


def _first_line(content: bytes, path: Path) -> str:
    end = content.find(b"\n")
    line = content[: end if end >= 0 else len(content)]
    if b"\x00" in line or len(line) > 1 << 20:
        raise DataError("the file is not delimited text", where=str(path), mend=AGAIN)
    try:
        text = line.decode("utf-8").rstrip("\r")
    except UnicodeDecodeError:
        raise DataError("the header is not UTF-8 text", where=f"{path}, line 1", mend="save the file as UTF-8") from None
    if "\r" in text:
        raise DataError("lines end in a carriage return alone", where=f"{path}, line 1", mend="save the file with line feeds")
    return text


def _refuse_other_separator(line: str, path: Path, separator: str, columns: int | None = None) -> None:
    """Refuse a first line that another separator cuts into more columns, or into the number of ``columns`` that is known."""
    own = line.count(separator)
    for other, word in _SEPARATORS.items():
        found = line.count(other) if other != separator else 0
        if found > own if columns is None else own != columns - 1 == found:
            wanted = _SEPARATORS.get(separator, repr(separator))
            raise DataError(f"columns are separated by {word}, not {wanted}", where=f"{path}, line 1", mend=f"save the file with {wanted}")


def _header(content: bytes, path: Path, separator: str) -> list[str]:
    line = _first_line(content, path)
    names = [name.strip().strip('"') for name in line.split(separator)]
    if not names[0] and len(names) > 1:
        names[0] = INDEX
    _refuse_other_separator(line, path, separator)
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


def _separators(content: bytes, separator: str, quote: str | None) -> int:
    """Separators outside quotes."""
    if quote is None:
        return content.count(separator.encode())
    return sum(part.count(separator.encode()) for part in content.split(quote.encode())[::2])


def _second_look(layout: _Layout, content: bytes, separator: str, line: int) -> TextTable:
    """Read everything as text, line by line, then convert column by column: slow, and sure to name what is wrong."""
    path, schema = layout.path, layout.schema
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        raise DataError(
            f"byte {content[error.start]:#04x} is not UTF-8 text", where=f"{path}, line {line}", mend="save the file as UTF-8"
        ) from None
    stream = io.StringIO(text, newline="")
    if layout.quote is None:
        reader = csv.reader(stream, delimiter=separator, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(stream, delimiter=separator, quotechar=layout.quote, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    start = line
    try:
        for fields in reader:
            if fields and len(fields) != len(schema):
                raise DataError(
                    f"{len(fields)} fields instead of {len(schema)}",
                    where=f"{path}, line {start}",
                    mend=f"correct the line, or {AGAIN}",
                )
            if fields:
                rows.append(fields)
                lines.append(start)
            start = line + reader.line_num
    except csv.Error as error:
        raise DataError(f"broken text: {error}", where=f"{path}, line {start}", mend=f"correct the line, or {AGAIN}") from None
    texts = pl.DataFrame(rows, schema=dict.fromkeys(schema, pl.String), orient="row")
    table = TextTable(path, texts, pl.Series(lines, dtype=pl.Int64))
    return TextTable(path, pl.DataFrame([_convert(table, name, t) for name, t in schema.items()]), table.lines)


def _convert(table: TextTable, name: str, wanted: PolarsType) -> pl.Series:
    if wanted == pl.String:
        return table.frame[name].replace("", None)
    texts = table.frame[name].str.strip_chars().replace("", None)
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
