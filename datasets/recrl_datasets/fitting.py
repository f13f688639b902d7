"""The rows of a store as they were handed in, and new rows brought to the same columns."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from recrl.core.errors import DataError
from recrl_datasets.building.merging import slices
from recrl_datasets.building.survey import no_place
from recrl_datasets.frame import Caller
from recrl_datasets.schema import BY_NAME, nearest
from recrl_datasets.store import Store, reading
from recrl_datasets.tables import Finding

PIECE_ROWS = 1 << 20
"""Rows of the store that are read back at a time."""
OWN_CLUSTERS = "rows are their own clusters"
"""The finding about a log that does not tell its users: they are numbered, and new rows go on counting."""


class Fit:
    """Old and new rows with the same columns.

    They must have the same ones, but for ``watch_seconds``, ``duration_seconds`` and ``rating``: missing values where one side lacks
    them. Whole numbers become text where the store has text.

    Args:
        store: the store.
        caller: how errors are worded.
    """

    def __init__(self, store: Store, caller: Caller) -> None:
        self._store, self._caller = store, caller
        self.left_out: dict[str, Finding] = {}
        m = store.manifest
        with reading(store.path):
            self._ids = {f"{w}_id": store.scan_file(f"{w}s.parquet").select(f"{w}_id").collect().to_series() for w in ("user", "item")}
            self._texts = {name: store.scan_file(f"categories/{name}.parquet").collect()["text"] for name in m.categories}
            stored = store.scan().collect_schema()
        names = [name for name in m.columns if name not in ("user", "item", "is_duplicate")]
        self._types: dict[str, pl.DataType] = {key: ids.dtype for key, ids in self._ids.items()}
        self._types |= {name: pl.String() if name in self._texts else stored[name] for name in names}
        self._names = tuple(self._types)
        self._seen_new = False
        self._shift = m.users if any(finding.check == OWN_CLUSTERS for finding in m.findings) else 0

    def old(self) -> Iterator[pl.DataFrame]:
        """The rows of the store in pieces: its log, its duplicates, the rows shown at random; call it after the first :meth:`new`."""
        for file in ("log.parquet", "random.parquet"):
            for rows in slices(self._store, file, PIECE_ROWS):
                out = [ids[rows[key.removesuffix("_id")]] for key, ids in self._ids.items()]
                for name in list(self._types)[2:]:
                    out.append(self._texts[name][rows[name]].alias(name) if name in self._texts else rows[name])
                yield self._filled(pl.DataFrame(out))

    def new(self, rows: pl.DataFrame) -> pl.DataFrame:
        """A piece of new rows with the columns of the store; the first one may bring columns that may miss.

        **Errors**: :class:`DataError` for a column that one side lacks, or that is of another kind.
        """
        where = self._caller.place("frame")
        rows = rows.drop([values.name for values in rows if values.name not in self._names and self._without_place(values)])
        if not self._seen_new:
            self._names += tuple(name for name in rows.columns if name not in self._names and _may_miss(name))
            self._seen_new = True
        unknown = [name for name in rows.columns if name not in self._names]
        for name in self._names:
            if name not in rows.columns and not _may_miss(name):
                near = nearest(name, unknown)
                how = self._caller.mapping(name, near.split("'")[1]) if near else "give it, or prepare everything again without it"
                raise DataError(f"column {name!r} of the store is missing in the new rows", where=where, mend=near + how)
        if unknown:
            raise DataError(
                f"column {unknown[0]!r} of the new rows is not in the store",
                where=where,
                mend="leave it out, or prepare everything again with it",
            )
        rows = self._filled(rows).with_columns(self._as_stored(rows[name], where) for name in rows.columns if name in self._types)
        return rows.with_columns(pl.col("user_id") + self._shift) if self._shift else rows

    def _without_place(self, values: pl.Series) -> bool:
        """Whether a column that the store does not have could not be stored either."""
        why = no_place(values)
        if why is not None:
            self.left_out[values.name] = why
        return why is not None or values.dtype == pl.Null

    def _as_stored(self, values: pl.Series, where: str) -> pl.Series:
        stored = self._types[values.name]
        if isinstance(stored, pl.Array) and stored != values.dtype:
            raise DataError(
                f"{values.name!r} has vectors of length {getattr(values.dtype, 'size', 'none')}, in the store of length {stored.size}",
                where=where,
                mend="give vectors of the store's length",
            )
        text = isinstance(values.dtype, pl.String | pl.Categorical | pl.Enum)
        if text == (stored == pl.String) or values.dtype == pl.Null:
            return values
        if values.dtype.is_integer():
            return values.cast(pl.String)
        theirs, ours = ("text", "numbers") if stored == pl.String else ("numbers", "text")
        raise DataError(
            f"column {values.name!r} holds {theirs} in the store and {ours} in the new rows ({values.drop_nulls()[0]!r:.80})",
            where=where,
            mend=f"give {theirs}, or prepare everything again with {ours}",
        )

    def _filled(self, rows: pl.DataFrame) -> pl.DataFrame:
        missing = [name for name in self._names if name not in rows.columns]
        return rows.with_columns(pl.lit(float("nan"), pl.Float32).alias(name) for name in missing).select(self._names)


def _may_miss(name: str) -> bool:
    return name in BY_NAME and BY_NAME[name].may_miss
