"""Frames that wait on disk: a queue that moves there when it grows, rows dealt to piles, and a Parquet file written in blocks."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

BLOCK_ROWS = 1 << 22
"""Rows of a row group of the log: up to that many a column is one piece of memory when it is read."""


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Refusals of the operating system as :class:`OSError` with its number, from whichever library they come."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        code = re.search(r"(?:os error|[Ee]rrno) (\d+)", str(error))
        number = (isinstance(error, OSError) and error.errno) or (int(code.group(1)) if code else errno.EIO)
        raise OSError(number, os.strerror(number)) from None


class Spool:
    """Frames in the order in which they came, in memory up to ``limit`` rows (always, where that is ``None``), beyond on disk.

    Going through it empties it: a frame is forgotten, or its file removed, once the next is asked for.
    """

    def __init__(self, name: str, folder: Callable[[], Path], limit: int | None) -> None:
        self._name, self._folder, self._limit = name, folder, limit
        self._held: list[pl.DataFrame] = []
        self._files: list[Path] = []
        self.rows = 0

    @property
    def on_disk(self) -> bool:
        """Whether frames wait on disk."""
        return bool(self._files)

    def add(self, frame: pl.DataFrame) -> None:
        """Put rows at the end."""
        if frame.height == 0:
            return
        self.rows += frame.height
        self._held.append(frame)
        if self._limit is not None and self.rows > self._limit:
            for held in self._held:
                path = self._folder() / f"{self._name}.{len(self._files):06}.arrow"
                self._files.append(path)
                with disk_errors():
                    held.write_ipc(path, compression="lz4")
            self._held.clear()

    def column(self, name: str) -> Iterator[pl.Series]:
        """One column of each frame; the frames stay."""
        for path in self._files:
            with disk_errors():
                yield pl.read_ipc(path, columns=[name])[name]
        for frame in self._held:
            yield frame[name]

    def __iter__(self) -> Iterator[pl.DataFrame]:
        files, held = self._files[::-1], self._held[::-1]
        self._files, self._held, self.rows = [], [], 0
        while files:
            path = files.pop()
            with disk_errors():
                frame = pl.read_ipc(path)
                path.unlink()
            yield frame
        while held:
            yield held.pop()


class Piles:
    """Rows dealt to ``count`` piles, each in the order of dealing; one pile stays in memory, several wait on disk."""

    def __init__(self, name: str, folder: Callable[[], Path], count: int) -> None:
        self._name, self._folder, self.count = name, folder, count
        self._held: list[pl.DataFrame] = []
        self._writers: dict[int, pa.RecordBatchFileWriter] = {}
        self._files: list[list[Path]] = [[] for _ in range(count)]
        self._schema: pl.Schema | None = None
        self._schemas: list[pl.Schema] = []

    def deal(self, frame: pl.DataFrame, pile: NDArray[np.integer] | None = None) -> None:
        """Put each row on its pile (``(rows,)``, from 0)."""
        if frame.schema not in self._schemas:
            self._schemas.append(frame.schema)
        if frame.height == 0:
            return
        if pile is None or self.count == 1:
            self._held.append(frame)
            return
        if frame.schema != self._schema:
            self.close()
            self._schema = frame.schema
        order = np.argsort(pile.astype(np.uint16), kind="stable")
        table = frame[order].to_arrow(compat_level=pl.CompatLevel.oldest())
        ends = np.cumsum(np.bincount(pile, minlength=self.count))
        with disk_errors():
            for k in np.flatnonzero(np.diff(ends, prepend=0)):
                start = int(ends[k - 1]) if k else 0
                self._writer(int(k), table.schema).write_table(table.slice(start, int(ends[k]) - start))

    def _writer(self, pile: int, schema: pa.Schema) -> pa.RecordBatchFileWriter:
        if pile not in self._writers:
            path = self._folder() / f"{self._name}.{pile:04}.{len(self._files[pile]):04}.arrow"
            self._files[pile].append(path)
            self._writers[pile] = pa.ipc.new_stream(path, schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))
        return self._writers[pile]

    def close(self) -> None:
        """Finish the files."""
        with disk_errors():
            while self._writers:
                self._writers.popitem()[1].close()

    def take(self, pile: int) -> pl.DataFrame:
        """The rows of a pile, in types that hold those of every pile; the pile is empty afterwards."""
        self.close()
        frames, self._held = self._held, []
        for path in self._files[pile]:
            with disk_errors(), pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
                frames.append(pl.DataFrame(pl.from_arrow(stream.read_all())))
            path.unlink()
        self._files[pile] = []
        return pl.concat([*(pl.DataFrame(schema=schema) for schema in self._schemas), *frames], how="vertical_relaxed", rechunk=True)


class TableWriter:
    """A Parquet file that grows by frames; its bytes depend on the rows alone, not on how they were cut.

    Row groups of ``block_rows`` rows; a file of one row group is written by Polars, which keeps every type.
    """

    def __init__(self, path: Path, block_rows: int = BLOCK_ROWS) -> None:
        self._path, self._block_rows = path, block_rows
        self._waiting: list[pl.DataFrame] = []
        self._writer: pq.ParquetWriter | None = None

    def write(self, frame: pl.DataFrame) -> None:
        """Append rows; the first frame (it may have no rows) sets the types."""
        self._waiting.append(frame)
        while sum(frame.height for frame in self._waiting) > self._block_rows:
            rows = pl.concat(self._waiting)
            self._append(rows[: self._block_rows])
            self._waiting = [rows[self._block_rows :]]

    def _append(self, block: pl.DataFrame) -> None:
        table = block.to_arrow(compat_level=pl.CompatLevel.oldest())
        # a dictionary does not pay for wide numbers
        coded = [name for name, dtype in block.schema.items() if dtype not in _WIDE]
        with disk_errors():
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd", compression_level=1, use_dictionary=coded)
            self._writer.write_table(table, row_group_size=self._block_rows)

    def close(self) -> int:
        """Write what waits; the size of the file in bytes."""
        rows = pl.concat(self._waiting)
        if self._writer is None:
            with disk_errors():
                # statistics would tell nothing about a single row group
                rows.write_parquet(self._path, compression="zstd", compression_level=1, row_group_size=self._block_rows, statistics=False)
        else:
            self._append(rows)
            with disk_errors():
                self._writer.close()
        return self._path.stat().st_size


_WIDE = (pl.Int32, pl.Int64, pl.UInt32, pl.UInt64, pl.Float32, pl.Float64)
