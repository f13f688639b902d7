"""What a loader hands over: validated raw tables, findings about them, and the register entry of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import polars as pl

PieceReader: TypeAlias = Callable[[], Iterator[pl.DataFrame]]
"""Reads a table in pieces that follow one another and have the same columns; called once."""
LogReader: TypeAlias = PieceReader
"""Reads validated rows of a log in pieces, in the order of the source: logs beyond memory are handed over like this."""


@dataclass(frozen=True)
class Finding:
    """One line of the data-quality table: what was checked, how often it was found, and what it means."""

    check: str
    count: int
    severity: Literal["info", "warning"]
    note: str


@dataclass(frozen=True, eq=False)
class RawTables:
    """Validated tables of one dataset, before rows are sorted and ids are indexed.

    Attributes:
        log: rows in schema names and canonical types, or a reader of them; other columns are extra columns. Where the types of
            a column differ from piece to piece, the type that holds both is kept (whole numbers of different width, say).
        separate_random: whether rows with ``is_random_exposure = 1`` are kept apart from the log.
        users: features by ``user_id``; readers of one or more tables that are joined by ``user_id``; or ``None``.
        items: features by ``item_id``, likewise.
        findings: what the loader noticed; readers may add to the list until they have ended.
        leaky_items: item columns that average over the log's own time and must not predict it.
        catalogue: ids of items that belong to the store although no row may show them; of the type of ``item_id``.
    """

    log: pl.DataFrame | LogReader
    separate_random: bool = False
    users: pl.DataFrame | Sequence[PieceReader] | None = None
    items: pl.DataFrame | Sequence[PieceReader] | None = None
    findings: Sequence[Finding] = ()
    leaky_items: tuple[str, ...] = ()
    catalogue: pl.Series | None = None


@dataclass(frozen=True, eq=False)
class DatasetSource:
    """A dataset that can be prepared by name.

    Attributes:
        name: its name on the command line.
        title: what it is, for people.
        licence: under which terms its owners give it.
        citation: whom to cite.
        needs_root: whether a folder with the downloaded files must be given.
        files: finds the files in ``root``; raises a clear error where they are not.
        load: reads them.
        notes: what a user should know before using it.
    """

    name: str
    title: str
    licence: str
    citation: str
    needs_root: bool
    files: Callable[[Path | None], dict[str, Path]]
    load: Callable[[Path | None], RawTables]
    notes: tuple[str, ...] = field(default=())
