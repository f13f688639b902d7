"""MovieLens 100K, from the files that ship in RecBole's wheel or from a folder with the same files.

MovieLens logs ratings only. Its behaviours are a documented surrogate: click where the rating is at least 3, long view at
least 4, like at 5; the rating itself is kept. There is no watch time.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import polars as pl

from recrl.core.errors import DataError, MissingDependencyError, StorageError
from recrl_datasets.reading import TextTable, find_file, read_text_table
from recrl_datasets.schema import Origin, validate_key, validate_log
from recrl_datasets.tables import DatasetSource, Finding, RawTables

_INTER = {"user_id:token": pl.Int64, "item_id:token": pl.Int64, "rating:float": pl.Float32, "timestamp:float": pl.Int64}
_USER = {"user_id:token": pl.Int64, "age:token": pl.Int64}
_ITEM = {"item_id:token": pl.Int64, "release_year:token": pl.String}
_FILES = ("ml-100k.inter", "ml-100k.user", "ml-100k.item")


def ml_100k_files(root: Path | None = None) -> dict[str, Path]:
    """The three files of MovieLens 100K, in ``root`` or in the installed RecBole (which is not imported).

    **Errors**: :class:`MissingDependencyError` without RecBole, :class:`StorageError` for a wrong ``root``.
    """
    folder = _recbole_folder() if root is None else root
    found = {name: find_file(folder, name) for name in _FILES}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        mend = (
            "reinstall it: `pip install --no-deps --force-reinstall recbole==1.2.1`"
            if root is None
            else "give the folder that holds them, or leave --root out"
        )
        raise StorageError(f"MovieLens 100K is not in {folder}: {', '.join(missing)} not found", where=str(folder), mend=mend)
    return {name: path for name, path in found.items() if path is not None}


def _recbole_folder() -> Path:
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            "MovieLens 100K comes with RecBole, which is not installed",
            where="dataset ml-100k",
            mend="`pip install --no-deps recbole==1.2.1`, or give --root with a folder that holds " + ", ".join(_FILES),
        )
    return Path(next(iter(spec.submodule_search_locations))) / "dataset_example" / "ml-100k"


def load_ml_100k(root: Path | None = None) -> RawTables:
    """Read MovieLens 100K."""
    files = ml_100k_files(root)
    table = read_text_table(files["ml-100k.inter"], _INTER, required=_INTER, separator="\t")
    names = {"user_id": "user_id:token", "item_id": "item_id:token", "rating": "rating:float", "timestamp_ms": "timestamp:float"}
    origin = Origin(str(table.path), names, {"timestamp_ms": 1000.0}, table.row)
    log = validate_log(table.frame.select(pl.col(source).alias(name) for name, source in names.items()), origin)
    rating = pl.col("rating")
    log = log.with_columns(
        (rating >= 3).cast(pl.UInt8).alias("click"),
        (rating >= 4).cast(pl.UInt8).alias("long_view"),
        (rating >= 5).cast(pl.UInt8).alias("like"),
    )
    surrogate = Finding(
        "behaviours are a surrogate",
        log.height,
        "warning",
        "MovieLens holds ratings only: click = rating >= 3, long_view = rating >= 4, like = rating 5",
    )
    return RawTables(log, users=_users(files["ml-100k.user"]), items=_items(files["ml-100k.item"]), findings=(surrogate,))


def _users(path: Path) -> pl.DataFrame:
    table = read_text_table(path, _USER, required=("user_id:token",), separator="\t")
    return _keyed(table, "user_id")


def _items(path: Path) -> pl.DataFrame:
    frame = _keyed(read_text_table(path, _ITEM, required=("item_id:token",), separator="\t"), "item_id")
    if "release_year" in frame.columns:
        frame = frame.with_columns(pl.col("release_year").cast(pl.Int32, strict=False))
    if "class" in frame.columns:
        frame = frame.with_columns(pl.col("class").str.split(" ").alias("genres")).drop("class")
    return frame


def _keyed(table: TextTable, key: str) -> pl.DataFrame:
    names = [name.split(":")[0] for name in table.frame.columns]
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                f"column {name!r} appears twice once types are taken off",
                where=f"{table.path}, line 1",
                mend="remove or rename one of them",
            )
    frame = table.frame.rename(dict(zip(table.frame.columns, names, strict=True)))
    return frame.with_columns(validate_key(frame[key], Origin(str(table.path), {key: f"{key}:token"}, row=table.row)))


ML_100K = DatasetSource(
    name="ml-100k",
    title="MovieLens 100K: 100,000 ratings of 1,682 films by 943 users, 1997-1998",
    licence="free for research; may not be redistributed (GroupLens, University of Minnesota)",
    citation="Harper and Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5(4), 2015",
    needs_root=False,
    files=ml_100k_files,
    load=load_ml_100k,
    notes=(
        "ratings only: click = rating >= 3, long_view = rating >= 4, like = rating 5 are a documented surrogate",
        "no watch time, no exposure without a rating",
    ),
)
