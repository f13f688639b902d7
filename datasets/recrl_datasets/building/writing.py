"""Writing a store: survey the log, order its rows pile by pile, join the feature tables, and say in the manifest what is there.

Everything happens piece by piece. A small log is one piece, a log beyond memory has many; what is written is the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import polars as pl

from recrl.core.contracts import Progress
from recrl.core.files import write_json
from recrl_datasets.building.digests import TableDigest
from recrl_datasets.building.indexing import order_rows
from recrl_datasets.building.joining import RANGE_IDS, FeatureJoin
from recrl_datasets.building.spool import BLOCK_ROWS, Piles, Spool, TableWriter
from recrl_datasets.building.survey import ROWS_IN_MEMORY, LogLayout, Survey
from recrl_datasets.staging import Staging
from recrl_datasets.store import FORMAT, Manifest
from recrl_datasets.tables import DatasetSource, RawTables


class _Files:
    """The Parquet files of a store that is being written, with their sizes and a hash of their content."""

    def __init__(self, folder: Path, spool: Callable[[], Path]) -> None:
        self._folder, self._spool = folder, spool
        self._digest = hashlib.sha256()
        self.sizes: dict[str, int] = {}

    @property
    def content_hash(self) -> str:
        """Hash of everything written so far."""
        return self._digest.hexdigest()

    def write(self, name: str, frames: Iterable[pl.DataFrame]) -> None:
        """Write a table that comes in order."""
        writer, digest = self._writer(name, RANGE_IDS), None
        for frame in frames:
            digest = digest or TableDigest(name, frame.schema)
            digest.update(frame)
            writer.write(frame)
        self._close(name, writer, digest)

    def write_log(self, name: str, layout: LogLayout, piles: Piles, progress: Callable[[float], None]) -> int:
        """Order and write the rows of a log, exact duplicates after all others; returns how many those are."""
        empty = order_rows(layout.empty).frame
        writer, digest = self._writer(name, BLOCK_ROWS), TableDigest(name, empty.schema)
        writer.write(empty)
        last = Spool(f"{name}.duplicates", self._spool, ROWS_IN_MEMORY)
        for k in range(piles.count):
            ordered = order_rows(piles.take(k))
            digest.update(ordered.frame, ordered.canonical)
            rows = ordered.frame.height - ordered.duplicates
            writer.write(ordered.frame[:rows])
            # a copy: a slice would hold the whole pile in memory
            last.add(ordered.frame[np.arange(rows, ordered.frame.height)])
            progress((k + 1) / piles.count)
        duplicates = last.rows
        for frame in last:
            writer.write(frame)
        self._close(name, writer, digest)
        return duplicates

    def _writer(self, name: str, block_rows: int) -> TableWriter:
        path = self._folder / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        return TableWriter(path, block_rows)

    def _close(self, name: str, writer: TableWriter, digest: TableDigest | None) -> None:
        self.sizes[f"{name}.parquet"] = writer.close()
        self._digest.update(b"" if digest is None else digest.digest())


def write_store(
    stage: Staging,
    raw: RawTables,
    name: str,
    source: DatasetSource | Manifest | None,
    fingerprint: str,
    progress: Progress,
    appended: tuple[str, ...] = (),
) -> Manifest:
    """Write everything that ``raw`` holds to ``stage``, the manifest last; an empty ``fingerprint`` stands for the content."""

    def spool() -> Path:
        return stage.part("spool")

    survey = Survey(raw, spool)
    survey.read(progress)
    progress(0.45, "indexing")
    layout, left_out = survey.layout()
    users, items = FeatureJoin("user", layout.users, raw.users, spool), FeatureJoin("item", layout.items, raw.items, spool)
    files = _Files(stage.part("new"), spool)
    files.write("users", users.ranges())
    files.write("items", items.ranges())
    for column, texts in layout.categories.items():
        files.write(f"categories/{column}", [texts.values.to_frame("text")])
    rows, duplicates, share = {}, {}, 0.5
    for part, held in (("log", survey.log), ("random", survey.random)):
        rows[part], width = held.rows, 0.25 * held.rows / survey.rows
        piles = survey.piles(held, layout, _part(progress, "dealing rows to ranges of users", share, width))
        duplicates[part] = files.write_log(part, layout, piles, _part(progress, "sorting and writing", share + width, width))
        share += 2 * width
    first_ms, last_ms = survey.time_range
    manifest = Manifest(
        format=FORMAT,
        name=name,
        title=source.title if source else name,
        licence=source.licence if source else "the user's own data",
        citation=source.citation if source else "",
        rows=rows["log"],
        users=len(layout.users),
        items=len(layout.items),
        duplicate_rows=duplicates["log"],
        random_rows=rows["random"],
        random_duplicate_rows=duplicates["random"],
        separate_random=raw.separate_random,
        first_ms=first_ms,
        last_ms=last_ms,
        content_hash=files.content_hash,
        fingerprint=fingerprint or f"content {files.content_hash}",
        columns=(*layout.schema, "is_duplicate"),
        random_columns=(*layout.schema, "is_duplicate"),
        categories=tuple(layout.categories),
        leaky_items=raw.leaky_items,
        findings=(*raw.findings, *left_out, *users.findings, *items.findings),
        files=files.sizes,
        appended=appended,
    )
    write_json(stage.part("new") / "manifest.json", manifest.to_json())
    return manifest


def _part(progress: Progress, text: str, start: float, width: float) -> Callable[[float], None]:
    return lambda share: progress(start + width * share, text)
