"""Parts of an experiment's users on disk: written whole, so that a killed experiment goes on, and read a column at a time.

``users-<low>-<high>-<k>.parquet`` holds the users numbered ``low .. high - 1`` of arm ``k``, one row a user;
``items-<low>-<high>.parquet`` how often they were shown each item, and that the part is complete.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recrl.core.errors import StorageError
from recrl.core.files import atomic_path
from simulators.ab.users import UserMetrics

Piece = tuple[int, int]
"""The users numbered from the first up to, but without, the second."""

PIECE = 16_384
"""Users that are simulated between two writes, at most."""


def pieces_left(folder: Path, users: int, shards: int = 1) -> list[Piece]:
    """What is not there yet, cut so that ``shards`` workers get alike shares and none much more than :data:`PIECE` users at a time."""
    left, at = [], 0
    for low, high in [*pieces_there(folder), (users, users)]:
        if low > at:
            count = -(-(low - at) // PIECE)
            count = min(-(-count // shards) * shards, low - at)
            edges = [at + (low - at) * k // count for k in range(count + 1)]
            left += list(pairwise(edges))
        at = high
    return left


def pieces_there(folder: Path) -> list[Piece]:
    """The complete parts in ``folder``, in the order of their users."""
    names = (re.fullmatch(r"items-(\d+)-(\d+)\.parquet", path.name) for path in folder.glob("items-*.parquet"))
    return sorted((int(name[1]), int(name[2])) for name in names if name)


def write_part(folder: Path, piece: Piece, found: Mapping[str, UserMetrics]) -> None:
    """Write what the users of one piece did in each arm.

    **Errors**: :class:`StorageError` where the disk refuses.
    """
    low, high = piece
    for k, part in enumerate(found.values()):
        _write(folder / f"users-{low}-{high}-{k}.parquet", part.to_table())
    exposures = {str(k): part.item_exposures for k, part in enumerate(found.values())}
    _write(folder / f"items-{low}-{high}.parquet", pa.table(exposures))


def read_parts(folder: Path, arms: Sequence[str]) -> dict[str, UserMetrics]:
    """The users of every part, in their order; columns are read when they are asked for.

    **Errors**: :class:`StorageError` for a broken file.
    """
    there = pieces_there(folder)
    items = [_read(folder / f"items-{low}-{high}.parquet") for low, high in there]
    return {
        arm: _stored(
            [folder / f"users-{low}-{high}-{k}.parquet" for low, high in there],
            np.sum([table.column(str(k)).to_numpy() for table in items], axis=0),
        )
        for k, arm in enumerate(arms)
    }


def _stored(files: list[Path], item_exposures: NDArray[np.int64]) -> UserMetrics:
    try:
        rows = {path: pq.read_metadata(path).num_rows for path in files}
        # an arm without users in some part has fewer columns there
        files = [path for path in files if rows[path]] or files[:1]
        names = pq.read_schema(files[0]).names
    except (OSError, pa.ArrowException) as error:
        raise _broken(files[0].parent, error) from None

    def column(name: str) -> NDArray[Any]:
        return np.concatenate([_values(_read(path, [name]).column(0)) for path in files])

    named: dict[str, dict[str, str]] = {"": {}, "before": {}, "daily": {}}
    for name in names:
        kind, _, short = name.rpartition(":")
        named[kind][short] = name
    del named[""]["uid"]
    return UserMetrics(
        column("uid"),
        _Columns(named[""], lru_cache(maxsize=None)(column)),
        # days are large, and looked at one metric after the other
        _Columns(named["daily"], column),
        _Columns(named["before"], column),
        item_exposures,
    )


class _Columns(Mapping[str, NDArray[Any]]):
    """Columns by name, read when asked for."""

    def __init__(self, names: Mapping[str, str], read: Callable[[str], NDArray[Any]]) -> None:
        self._names, self._read = names, read

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._read(self._names[name])

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _values(column: pa.ChunkedArray) -> NDArray[Any]:
    if not pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.to_numpy())
    return np.asarray(column.combine_chunks().flatten().to_numpy().reshape(len(column), column.type.list_size))


def _write(path: Path, table: pa.Table) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.ParquetFile(path).read(columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise _broken(path, error) from None


def _broken(path: Path, error: Exception) -> StorageError:
    return StorageError(
        f"a part of the experiment cannot be read: {error}", where=str(path), mend="remove it, and run the same command again"
    )
