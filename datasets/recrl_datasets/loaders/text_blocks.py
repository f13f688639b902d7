"""Bytes of a text file, plain or gzip, in blocks of bounded size that end where a line ends."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recrl.core.errors import DataError, StorageError

AGAIN = "download or copy the file again"
LONGEST_LINE = 16 << 20
"""A line, or a quoted text over many lines, may be this long (bytes)."""


def text_blocks(path: Path, size: int | None, *, quote: str | None = None, encoding: str = "utf-8") -> Iterator[bytes]:
    """Blocks of about ``size`` bytes, cut after line ends outside quotes; one block for the whole file where ``size`` is ``None``.

    The first block holds more than blanks and at least one whole line. A byte-order mark is taken off, CRLF becomes LF, another
    ``encoding`` (latin-1) becomes UTF-8. Memory: about three blocks.

    **Errors**: :class:`StorageError` where the file cannot be read; :class:`DataError` for an empty file, a broken gzip, an
    archive, UTF-16, or a line beyond :data:`LONGEST_LINE`.
    """
    crlf: bool | None = None
    for block in _cut(path, size, None if quote is None else quote.encode()):
        if crlf is None:
            crlf = b"\r\n" in block[: block.find(b"\n") + 1]
        if encoding != "utf-8":
            block = block.decode(encoding).encode()
        yield block.replace(b"\r\n", b"\n") if crlf else block


def _cut(path: Path, size: int | None, quote: bytes | None) -> Iterator[bytes]:
    held, started, line = b"", False, 1
    with _opened(path) as file:
        while block := file.read(-1 if size is None else size):
            if size is not None and not block.endswith(b"\n"):
                block += file.readline(LONGEST_LINE)
            held = held + block if held else block
            if not started:
                held = held.removeprefix(b"\xef\xbb\xbf")
                _refuse_other_kinds(held, path)
                started = bool(held) and not held.isspace()
            end = _last_line_end(held, quote) if size is not None and started else 0
            if end:
                yield held if end == len(held) else held[:end]
                line += held.count(b"\n", 0, end)
                held = held[end:]
            if size is not None and len(held) > size + LONGEST_LINE:
                raise DataError(
                    f"a line or a quoted text is longer than {LONGEST_LINE >> 20} MiB", where=f"{path}, line {line}", mend=AGAIN
                )
    if not started:
        raise DataError("the file is empty", where=str(path), mend=AGAIN)
    if held:
        yield held


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """The file's bytes, unpacked where they are gzip."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if packed:
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield unpacked
            else:
                yield file
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise DataError("the gzip file is cut off or broken", where=str(path), mend=AGAIN) from None
    except OSError as error:
        raise StorageError(
            f"cannot read {path.name}: {error.strerror}", where=str(path), mend="check the path and its permissions"
        ) from None


def _refuse_other_kinds(start: bytes, path: Path) -> None:
    if start[:4] == b"PK\x03\x04":
        raise DataError("the file is a zip archive", where=str(path), mend="unpack it first")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError("the file is UTF-16 text", where=str(path), mend="save it as UTF-8")


def _last_line_end(held: bytes, quote: bytes | None) -> int:
    """How many bytes end with the last line end outside quotes."""
    end = held.rfind(b"\n") + 1
    if quote is None or held.count(quote, 0, end) % 2 == 0:
        return end
    content = np.frombuffer(held, dtype=np.uint8, count=end)
    ends = np.flatnonzero(content == ord("\n"))
    outside = np.searchsorted(np.flatnonzero(content == ord(quote)), ends) % 2 == 0
    return int(ends[outside][-1]) + 1 if outside.any() else 0
