"""What a loader hands over: validated raw tables, findings about them, and the register entry of a dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl


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
        log: rows in schema names and canonical types; other columns are extra columns.
        random: rows shown at random, kept apart; ``None`` where there are none.
        users: features by ``user_id``, or ``None``.
        items: features by ``item_id``, or ``None``.
        findings: what the loader noticed.
        leaky_items: item columns that average over the log's own time and must not predict it.
    """

    log: pl.DataFrame
    random: pl.DataFrame | None = None
    users: pl.DataFrame | None = None
    items: pl.DataFrame | None = None
    findings: tuple[Finding, ...] = ()
    leaky_items: tuple[str, ...] = ()


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
