"""User and item features as dense matrices, every statistic taken from training rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.errors import ConfigError, DataError
from recrl_datasets.log import Log
from recrl_datasets.schema import nearest
from recrl_datasets.store import Store

Float32 = NDArray[np.float32]
_PRIOR_ROWS = 20.0


@dataclass(frozen=True, eq=False)
class UserItemFeatures:
    """Feature matrices over all users and items of a store.

    Columns of the feature tables: text becomes one-hot over the levels that occur among training users (items), lists of
    text multi-hot, numbers are standardised (non-negative ones as log(1 + x)) with a flag where they are missing. Then
    statistics of the training rows: log(1 + rows), standardised, and the rate of each behaviour, shrunk to the overall rate
    with the weight of 20 rows. Users and items without training rows get the overall rates and no level that training did not show.

    **Shapes**: ``user`` (n_users, Du) float32, ``item`` (n_items, Di) float32, with a name for each column.
    ``left_out`` names table columns that were not used and why.

    **When it fails**: a training row's own outcome is part of its user's and item's rates, so a response model fitted on the same rows
    leans on them too much; judge it on valid rows. A column that averages over the log's own time (KuaiRand's video statistics)
    would leak what is to be predicted; such columns are left out, and asking for one raises unless ``allow_leaky``.
    """

    user: Float32
    item: Float32
    user_names: tuple[str, ...]
    item_names: tuple[str, ...]
    left_out: tuple[str, ...]

    @classmethod
    def fit(
        cls,
        train_log: Log,
        store: Store,
        *,
        user_columns: Sequence[str] | None = None,
        item_columns: Sequence[str] | None = None,
        max_levels: int = 64,
        allow_leaky: bool = False,
    ) -> UserItemFeatures:
        """Fit on the training rows.

        Args:
            train_log: training rows; nothing else is looked at.
            store: the store the rows come from, with the feature tables.
            user_columns: table columns to use, default all that fit.
            item_columns: table columns to use, default all that fit and do not leak.
            max_levels: text columns with more levels are left out.
            allow_leaky: use leaky statistic columns all the same.

        **Errors**: :class:`DataError` for an unknown or leaky column or a log of another store; :class:`ConfigError` for bad options.
        """
        if max_levels < 1:
            raise ConfigError(f"max_levels={max_levels} is not positive", where="UserItemFeatures.fit", mend="give at least 1")
        if (train_log.n_users, train_log.n_items) != (store.manifest.users, store.manifest.items):
            raise DataError("the training rows belong to another store", where="UserItemFeatures.fit", mend="pass a view of store.log()")
        if train_log.n_rows == 0:
            raise DataError("there are no training rows", where="UserItemFeatures.fit", mend="pass a log with rows")
        leaky = set() if allow_leaky else set(store.manifest.leaky_items)
        asked = [name for name in item_columns or () if name in leaky]
        if asked:
            raise DataError(
                f"item column {asked[0]!r} averages over a time that overlaps the log: predicting the log from it is a leak",
                where="UserItemFeatures.fit: item_columns",
                mend="leave it out, or pass allow_leaky=True and say so beside the results",
            )
        sides = {}
        left_out: list[str] = []
        for side, table, chosen in (("user", store.users, user_columns), ("item", store.items, item_columns)):
            count = train_log.n_users if side == "user" else train_log.n_items
            rows = np.bincount(train_log.column(side), minlength=count)
            blocks = _Blocks(rows > 0, max_levels, left_out)
            for name in _columns(table, side, chosen, leaky if side == "item" else set(), left_out):
                blocks.add(table[name], side)
            blocks.statistics(train_log, side, rows)
            sides[side] = blocks
        return cls(sides["user"].matrix(), sides["item"].matrix(), tuple(sides["user"].names), tuple(sides["item"].names), tuple(left_out))


def _columns(table: pl.DataFrame, side: str, chosen: Sequence[str] | None, leaky: set[str], left_out: list[str]) -> list[str]:
    available = [name for name in table.columns if name not in (side, f"{side}_id")]
    if chosen is None:
        left_out.extend(f"{side} {name}: leaks the log's own time" for name in available if name in leaky)
        return [name for name in available if name not in leaky]
    for name in chosen:
        if name not in available:
            raise DataError(
                f"there is no {side} feature {name!r}",
                where=f"UserItemFeatures.fit: {side}_columns",
                mend=f"{nearest(name, available)}there are: {', '.join(available) or 'none'}"[:400],
            )
    return list(chosen)


class _Blocks:
    """Collects the columns of one matrix; ``seen`` marks the users or items that training rows show."""

    def __init__(self, seen: NDArray[np.bool_], max_levels: int, left_out: list[str]) -> None:
        self.seen, self.max_levels, self.left_out = seen, max_levels, left_out
        self.names: list[str] = []
        self.parts: list[Float32] = []

    def matrix(self) -> Float32:
        return np.stack(self.parts, axis=1) if self.parts else np.zeros((self.seen.size, 0), dtype=np.float32)

    def _append(self, name: str, values: NDArray[np.generic]) -> None:
        self.names.append(name)
        self.parts.append(values.astype(np.float32))

    def add(self, column: pl.Series, side: str) -> None:
        dtype = column.dtype
        if isinstance(dtype, pl.List) and dtype.inner == pl.String:
            self._levels(column, column.explode(), side)
        elif dtype in (pl.String, pl.Boolean):
            self._levels(column.cast(pl.String), column.cast(pl.String), side)
        elif dtype.is_numeric() or dtype == pl.Date:
            self._number(column.name, column.to_physical().cast(pl.Float64).to_numpy(), may_log=dtype != pl.Date)
        else:
            self.left_out.append(f"{side} {column.name}: type {dtype}")

    def _levels(self, column: pl.Series, values: pl.Series, side: str) -> None:
        seen = column.filter(pl.Series(self.seen))
        levels = (seen.explode() if isinstance(column.dtype, pl.List) else seen).drop_nulls().unique().sort().to_list()
        if len(levels) > self.max_levels:
            self.left_out.append(f"{side} {column.name}: {len(levels)} levels, more than {self.max_levels}")
            return
        for level in levels:
            hit = column.list.contains(level) if isinstance(column.dtype, pl.List) else column == level
            self._append(f"{column.name}={level}", hit.fill_null(False).to_numpy())

    def _number(self, name: str, values: NDArray[np.float64], may_log: bool = True) -> None:
        missing = ~np.isfinite(values)
        known = values[self.seen & ~missing]
        if known.size == 0 or known.min() == known.max():
            self.left_out.append(f"{name}: constant in training")
        else:
            log_scale = may_log and known.min() >= 0
            scaled = np.log1p(np.maximum(values, 0)) if log_scale else values
            known = scaled[self.seen & ~missing]
            self._append(f"log1p({name})" if log_scale else name, np.where(missing, 0.0, (scaled - known.mean()) / known.std()))
        if missing[self.seen].any():
            self._append(f"{name} missing", missing)

    def statistics(self, log: Log, side: str, rows: NDArray[np.int64]) -> None:
        self._number("train rows", rows.astype(np.float64))
        for name in BEHAVIOURS:
            if log.has(name):
                hits = np.bincount(log.column(side), weights=log.column(name), minlength=rows.size)
                overall = hits.sum() / max(int(rows.sum()), 1)
                self._append(f"train {name} rate", (hits + _PRIOR_ROWS * overall) / (rows + _PRIOR_ROWS))
