"""Feature tables by dense index: one row for each id of the log, joined range by range, so that large tables need not fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from recrl.core.errors import DataError
from recrl_datasets.building.indexing import Index
from recrl_datasets.building.spool import Piles
from recrl_datasets.tables import Finding, PieceReader

RANGE_IDS = 1 << 19
"""Features that are read in pieces are joined for this many ids at a time."""


class FeatureJoin:
    """Features of users or items, from one or more tables, in the order of an index.

    Reading happens when it is made, joining in :meth:`ranges`; ``findings`` is whole once that has ended.

    **Errors**: :class:`DataError` where an id is of another type than in the log, or has two rows in one table.
    """

    def __init__(
        self,
        what: Literal["user", "item"],
        index: Index,
        tables: pl.DataFrame | Sequence[PieceReader] | None,
        folder: Callable[[], Path],
    ) -> None:
        self._what, self._index = what, index
        readers: Sequence[PieceReader] = tables if isinstance(tables, Sequence) else ()
        ranges = max(1, -(-len(index) // RANGE_IDS)) if readers else 1
        if isinstance(tables, pl.DataFrame):
            readers = (lambda: iter((tables,)),)
        self._unknown: list[pl.Series] = []
        self._featured = 0
        self._tables = [self._read(reader, Piles(f"{what}.{k}", folder, ranges)) for k, reader in enumerate(readers)]
        self._ranges = ranges

    def _read(self, reader: PieceReader, piles: Piles) -> Piles:
        """Deal the rows of one table whose id is known to the ranges of the index."""
        what, key = self._what, f"{self._what}_id"
        strangers = []
        for piece in reader():
            _refuse_other_type(self._index.values, piece[key], what)
            places = self._index.places(piece[key])
            known = places >= 0
            rows = piece.drop(what, strict=False).with_columns(pl.Series(what, places))
            if not known.all():
                strangers.append(piece[key].filter(~known))
                rows = rows.filter(known)
            piles.deal(rows.drop(key), rows[what].to_numpy() // RANGE_IDS)
        piles.close()
        if strangers:
            self._unknown.append(pl.concat(strangers))
            _refuse_repeated(self._unknown[-1], what)
        return piles

    def ranges(self) -> Iterator[pl.DataFrame]:
        """The joined table, piece by piece: ``user`` (``item``), ``user_id`` (``item_id``), features."""
        what, ids = self._what, self._index.values
        size = RANGE_IDS if self._ranges > 1 else max(len(self._index), 1)
        for k in range(self._ranges):
            part = ids[k * size : (k + 1) * size]
            start = k * size
            base = part.to_frame().with_columns(pl.int_range(start, start + part.len(), dtype=pl.Int32, eager=True).alias(what))
            base = base.select(what, f"{what}_id")
            featured = np.zeros(part.len(), dtype=bool)
            for piles in self._tables:
                table = piles.take(k)
                _refuse_repeated(ids[table[what]].alias(f"{what}_id"), what)
                featured[table[what].to_numpy() - start] = True
                base = base.join(table, on=what, how="left", maintain_order="left")
            self._featured += int(featured.sum())
            yield base

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Ids that only the tables, or only the log holds."""
        what, found = self._what, []
        unknown = pl.concat(self._unknown).n_unique() if self._unknown else 0
        if unknown:
            note = f"{what} feature rows without a row in the log were left out"
            found.append(Finding(f"features of unknown {what}s", unknown, "info", note))
        without = len(self._index) - self._featured if self._tables else 0
        if without:
            note = f"{what}s of the log have no feature row: their features are missing values"
            found.append(Finding(f"{what}s without features", without, "warning", note))
        return tuple(found)


def _refuse_other_type(ids: pl.Series, found: pl.Series, what: str) -> None:
    if ids.dtype != found.dtype:
        raise DataError(
            f"{what}_id is {_word(ids)} in the log and {_word(found)} in the {what} features",
            where=f"{what} features",
            mend="give both as text, or both as numbers",
        )


def _refuse_repeated(ids: pl.Series, what: str) -> None:
    repeated = ids.is_duplicated()
    if repeated.any():
        first = ids.filter(repeated)[0]
        raise DataError(
            f"{what}_id {first!r} has {int((ids == first).sum())} rows", where=f"{what} features", mend="keep one row for each id"
        )


def _word(ids: pl.Series) -> str:
    return "text" if ids.dtype == pl.String else "a number"
