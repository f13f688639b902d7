"""MovieLens in its official formats, 100K to 32M; 100K also from the files that ship in RecBole's wheel.

MovieLens logs ratings only. Its behaviours are a documented surrogate: click where the rating is at least 3, long view at
least 4, like at 5; the rating itself is kept. There is no watch time. Every edition gives films with ``movie_title``,
``release_year`` and ``genres``; 100K and 1M give users with ``age``, ``gender``, ``occupation`` and ``zip_code``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recrl.core.errors import MissingDependencyError, StorageError
from recrl_datasets.loaders.movielens_tables import CSV, DAT, DAT_WITH_USERS, OFFICIAL_100K, RECBOLE_100K, Layout
from recrl_datasets.loaders.reading import PolarsType, find_file, read_text_pieces
from recrl_datasets.schema import Origin, validate_log
from recrl_datasets.tables import DatasetSource, Finding, RawTables

_CLOSED = "free for research; may not be redistributed (GroupLens, University of Minnesota)"
_README = "free for research; to be redistributed only as its README allows (GroupLens, University of Minnesota)"
_SURROGATE = "click = rating >= 3, long_view = rating >= 4, like = rating 5"


@dataclass(frozen=True)
class Edition:
    """One edition of MovieLens.

    Attributes:
        name: its name on the command line.
        contents: what its ratings are of.
        ratings: number of ratings as published.
        lowest: smallest rating, in stars; the largest is 5.
        layouts: the layouts in which its files may lie.
        folder: the folder that its archive unpacks to, where it is not the name.
        licence: under which terms its owners give it.
    """

    name: str
    contents: str
    ratings: int
    lowest: float
    layouts: tuple[Layout, ...]
    folder: str = ""
    licence: str = _CLOSED

    @property
    def words(self) -> str:
        """What people call it."""
        return f"MovieLens {self.name.removeprefix('ml-').upper()}"

    def find(self, root: Path | None) -> tuple[Layout, dict[str, Path]]:
        """The layout that lies in ``root`` or in the archive's folder under it, and its files by name, plain or ``.gz``.

        **Errors**: :class:`StorageError` that says which files were looked for; :class:`MissingDependencyError` without ``root``
        and without RecBole.
        """
        base = _recbole_folder() if root is None else root
        archive = self.folder or self.name
        most, missing = -1, ""
        for folder in (base, base / archive):
            for layout in self.layouts:
                found = {file.name: path for file in layout.files if (path := find_file(folder, file.name)) is not None}
                if len(found) == len(layout.files):
                    return layout, found
                if len(found) > most:
                    most, missing = len(found), ", ".join(file.name for file in layout.files if file.name not in found)
        mend = f"give the folder that holds {_names(self.layouts)}, or the folder above {archive}"
        if root is None:
            mend = "reinstall it: `pip install --no-deps --force-reinstall recbole==1.2.1`"
        raise StorageError(f"{self.words} is not in {base}: {missing} not found", where=str(base), mend=mend)

    def load(self, root: Path | None) -> RawTables:
        """Read the edition; ratings come in pieces, so that memory does not grow with them."""
        layout, files = self.find(root)
        items, items_of = layout.items
        findings: list[Finding] = []
        return RawTables(
            lambda: self._ratings(layout, files[layout.ratings.name], findings),
            users=None if layout.users is None else layout.users[1](layout.users[0], files[layout.users[0].name]),
            items=items_of(items, files[items.name]),
            findings=findings,
        )

    def _ratings(self, layout: Layout, path: Path, findings: list[Finding]) -> Iterator[pl.DataFrame]:
        file, names, rows = layout.ratings, layout.columns, 0
        types: dict[str, PolarsType] = {**dict.fromkeys(names.values(), pl.Int64), names["rating"]: pl.Float32}
        for table in read_text_pieces(path, types, required=names.values(), separator=file.separator, header=file.header):
            origin = Origin(str(path), names, {"timestamp_ms": 1000.0}, table.row)
            yield self._with_behaviours(table.frame.select(pl.col(theirs).alias(ours) for ours, theirs in names.items()), origin)
            rows += table.frame.height
        findings.append(Finding("behaviours are a surrogate", rows, "warning", f"MovieLens holds ratings only: {_SURROGATE}"))
        if rows != self.ratings:
            note = f"{self.words} has {self.ratings:,} ratings: this is a part of it, or another edition"
            findings.append(Finding("not the published number of ratings", rows, "warning", note))

    def _with_behaviours(self, frame: pl.DataFrame, origin: Origin) -> pl.DataFrame:
        log = validate_log(frame, origin)
        stars = f"not a rating of {self.lowest:g} to 5 stars"
        error = origin.bad_value(
            frame, "rating", ~log["rating"].is_between(self.lowest, 5), stars, "correct the value, or leave the line out"
        )
        if error is not None:
            raise error
        rating = pl.col("rating")
        return log.with_columns(
            (rating >= 3).cast(pl.UInt8).alias("click"),
            (rating >= 4).cast(pl.UInt8).alias("long_view"),
            (rating >= 5).cast(pl.UInt8).alias("like"),
        )

    @property
    def source(self) -> DatasetSource:
        """The register entry."""
        return DatasetSource(
            name=self.name,
            title=f"{self.words}: {self.ratings:,} ratings {self.contents}",
            licence=self.licence,
            citation="Harper and Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5(4), 2015",
            needs_root=RECBOLE_100K not in self.layouts,
            files=lambda root: self.find(root)[1],
            load=self.load,
            notes=(f"ratings only: {_SURROGATE} are a documented surrogate", "no watch time, no exposure without a rating"),
        )


def _names(layouts: tuple[Layout, ...]) -> str:
    return " or ".join(", ".join(file.name for file in layout.files) for layout in layouts)


def _recbole_folder() -> Path:
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            "MovieLens 100K comes with RecBole, which is not installed",
            where="dataset ml-100k",
            mend=f"`pip install --no-deps recbole==1.2.1`, or give --root with a folder that holds {_names((RECBOLE_100K, OFFICIAL_100K))}",
        )
    return Path(next(iter(spec.submodule_search_locations))) / "dataset_example" / "ml-100k"


EDITIONS = (
    Edition("ml-100k", "of 1,682 films by 943 users, 1997-1998", 100_000, 1, (RECBOLE_100K, OFFICIAL_100K)),
    Edition("ml-1m", "of 3,883 films by 6,040 users, 2000-2003", 1_000_209, 1, (DAT_WITH_USERS,)),
    Edition("ml-10m", "in half stars of 10,681 films by 69,878 users, 1995-2009", 10_000_054, 0.5, (DAT,), "ml-10M100K"),
    Edition("ml-20m", "in half stars of 27,278 films by 138,493 users, 1995-2015", 20_000_263, 0.5, (CSV,)),
    Edition("ml-25m", "in half stars of 62,423 films by 162,541 users, 1995-2019", 25_000_095, 0.5, (CSV,), licence=_README),
    Edition("ml-32m", "in half stars of 87,585 films by 200,948 users, 1995-2023", 32_000_204, 0.5, (CSV,), licence=_README),
)
MOVIELENS: tuple[DatasetSource, ...] = tuple(edition.source for edition in EDITIONS)
"""Every edition, smallest first."""
