"""A store's tables read back in pieces, and new features laid over them: given values replace those of the same id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import polars as pl

from recrl.core.errors import DataError
from recrl_datasets.building.joining import RANGE_IDS
from recrl_datasets.store import Store, reading
from recrl_datasets.tables import PieceReader


def slices(store: Store, file: str, size: int, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
    """The rows of a store's file, ``size`` at a time; one piece without rows where it has none.

    **Errors**: :class:`StorageError` for a broken file.
    """
    rows, start = store.scan_file(file), 0
    rows = rows if columns is None else rows.select(columns)
    while True:
        with reading(store.path / file):
            piece = rows.slice(start, size).collect()
        if piece.height or not start:
            yield piece
        start += size
        if piece.height < size:
            return


def merged_features(store: Store, what: str, new: pl.DataFrame | Sequence[PieceReader] | None) -> list[PieceReader] | None:
    """Readers of the features of a store's users or items (``what``) with those of ``new`` over them.

    A row of ``new`` replaces the features that ``new`` names of its id; other ids, and features that ``new`` does not name, stay.
    In memory are pieces, and the ids of ``new``.

    **Errors**: :class:`DataError` where ``new`` has a feature that the store lacks, or numbers where the store has text.
    """
    key, file = f"{what}_id", f"{what}s.parquet"
    with reading(store.path / file):
        old = {name: dtype for name, dtype in store.scan_file(file).collect_schema().items() if name not in (what, key)}
    readers = [lambda: iter((new,))] if isinstance(new, pl.DataFrame) else list(new or ())
    tables: list[tuple[list[str], PieceReader]] = []
    for reader in readers:
        pieces = reader()
        first = next(pieces, None)
        if first is None:
            continue
        names = [name for name in first.columns if name not in (what, key)]
        if old:
            _refuse_others(first, names, old, what)
            names = [name for name in old if name in names]
        tables.append((names, _laid_over(store, file, key, names if old else None, chain((first,), pieces))))
    rest = [name for name in old if not any(name in names for names, _ in tables)]
    if rest:
        tables.append((rest, lambda: _known(store, file, key, rest)))
    order = list(old)
    # the order of the columns is part of the content
    return [reader for _, reader in sorted(tables, key=lambda table: order.index(table[0][0]) if old and table[0] else 0)] or None


def _laid_over(store: Store, file: str, key: str, names: list[str] | None, pieces: Iterator[pl.DataFrame]) -> PieceReader:
    def read() -> Iterator[pl.DataFrame]:
        if names is None:
            yield from pieces
            return
        given = []
        for piece in pieces:
            given.append(piece[key])
            yield piece.select(key, *names)
        ids = pl.concat(given).implode()
        for rows in _known(store, file, key, names):
            yield rows.filter(~pl.col(key).is_in(ids))

    return read


def _known(store: Store, file: str, key: str, names: list[str]) -> Iterator[pl.DataFrame]:
    """Rows of the store with at least one of the features."""
    for rows in slices(store, file, RANGE_IDS, [key, *names]):
        yield rows.filter(pl.any_horizontal(pl.col(names).is_not_null())) if names else rows.clear()


def _refuse_others(piece: pl.DataFrame, names: list[str], old: dict[str, pl.DataType], what: str) -> None:
    for name in names:
        if name not in old:
            raise DataError(
                f"{what} feature {name!r} is not in the store; there are: {', '.join(old)}"[:400],
                where=f"{what} features",
                mend="leave it out, or prepare everything again with it",
            )
        mine, theirs = piece.schema[name], old[name]
        if (mine == pl.String) != (theirs == pl.String) and pl.Null not in (mine, theirs):
            raise DataError(
                f"{what} feature {name!r} holds {mine}, in the store {theirs}", where=f"{what} features", mend="give it the store's type"
            )
