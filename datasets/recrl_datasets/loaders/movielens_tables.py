"""How the files of MovieLens' editions are laid out, and how their user and film tables become features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import polars as pl

from recrl.core.errors import DataError
from recrl_datasets.loaders.reading import TextTable, read_text_table
from recrl_datasets.loaders.text_blocks import text_blocks
from recrl_datasets.schema import Origin, validate_key

_GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy", "Film-Noir",
    "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_OCCUPATIONS_1M = (
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service", "doctor/health care",
    "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer", "programmer", "retired", "sales/marketing", "scientist",
    "self-employed", "technician/engineer", "tradesman/craftsman", "unemployed", "writer",
)  # fmt: skip
_YEAR = r"\s*\((\d{4})(?:[-–]\d{0,4})?\)\s*$"  # ends a title; of two years the first counts


@dataclass(frozen=True)
class TextFile:
    """One file of an edition.

    Attributes:
        name: name of the file.
        separator: between its fields.
        header: names of its columns where the file itself has none.
        quote: character around fields that hold separators.
    """

    name: str
    separator: str
    header: tuple[str, ...] | None = None
    quote: str | None = None

    def read(self, path: Path, required: Sequence[str], numbers: Sequence[str]) -> TextTable:
        """The whole file, ``numbers`` as whole numbers. What is UTF-8 is read as that, anything else as Latin-1, as old editions are."""
        try:
            b"".join(text_blocks(path, None)).decode()
            encoding = "utf-8"
        except UnicodeDecodeError:
            encoding = "latin-1"
        types = dict.fromkeys(numbers, pl.Int64)
        return read_text_table(
            path, types, required=required, separator=self.separator, quote=self.quote, header=self.header, encoding=encoding
        )


Features: TypeAlias = Callable[[TextFile, Path], pl.DataFrame]
"""Reads one feature file: ``user_id`` or ``item_id`` first, then features."""


@dataclass(frozen=True)
class Layout:
    """The files of an edition: ratings with their columns (schema name -> name in the file), films, and users where there are any."""

    ratings: TextFile
    columns: Mapping[str, str]
    items: tuple[TextFile, Features]
    users: tuple[TextFile, Features] | None = None

    @property
    def files(self) -> tuple[TextFile, ...]:
        """Every file."""
        return (self.ratings, self.items[0]) if self.users is None else (self.ratings, self.users[0], self.items[0])


def _ids(table: TextTable, key: str, source: str) -> pl.Series:
    return validate_key(table.frame[source].alias(key), Origin(str(table.path), {key: source}, row=table.row))


def _films(file: TextFile, path: Path) -> pl.DataFrame:
    table = file.read(path, ("movieId", "title", "genres"), ("movieId",))
    genres = pl.col("genres").replace("(no genres listed)", None).str.split("|")
    return table.frame.select(_ids(table, "item_id", "movieId"), *_title(), genres.alias("genres"))


def _films_100k(file: TextFile, path: Path) -> pl.DataFrame:
    table = file.read(path, ("movieId",), ("movieId", *_GENRES_100K))
    genres = pl.concat_list(pl.when(pl.col(genre) == 1).then(pl.lit(genre)) for genre in _GENRES_100K).list.drop_nulls()
    return table.frame.select(_ids(table, "item_id", "movieId"), *_title(), genres.alias("genres"))


def _title() -> tuple[pl.Expr, pl.Expr]:
    title = pl.col("title")
    return title.str.replace(_YEAR, "").alias("movie_title"), title.str.extract(_YEAR, 1).cast(pl.Int32).alias("release_year")


def _users_100k(file: TextFile, path: Path) -> pl.DataFrame:
    table = file.read(path, ("userId",), ("userId", "age"))
    return table.frame.select(_ids(table, "user_id", "userId"), "age", "gender", "occupation", "zip_code")


def _users_1m(file: TextFile, path: Path) -> pl.DataFrame:
    codes = {str(code): words for code, words in enumerate(_OCCUPATIONS_1M)}
    return _users_100k(file, path).with_columns(pl.col("occupation").replace(codes))


def _recbole_users(file: TextFile, path: Path) -> pl.DataFrame:
    return _plain_names(file.read(path, ("user_id:token",), ("user_id:token", "age:token")), "user_id")


def _recbole_films(file: TextFile, path: Path) -> pl.DataFrame:
    frame = _plain_names(file.read(path, ("item_id:token",), ("item_id:token",)), "item_id")
    if "release_year" in frame.columns:
        frame = frame.with_columns(pl.col("release_year").cast(pl.Int32, strict=False))
    if "class" in frame.columns:
        frame = frame.with_columns(pl.col("class").str.split(" ").alias("genres")).drop("class")
    return frame


def _plain_names(table: TextTable, key: str) -> pl.DataFrame:
    """The table without the types behind its columns' names."""
    names = [name.split(":")[0] for name in table.frame.columns]
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                f"column {name!r} appears twice once types are taken off",
                where=f"{table.path}, line 1",
                mend="remove or rename one of them",
            )
    frame = table.frame.rename(dict(zip(table.frame.columns, names, strict=True)))
    return frame.with_columns(_ids(table, key, f"{key}:token"))


_NAMES = {"user_id": "userId", "item_id": "movieId", "rating": "rating", "timestamp_ms": "timestamp"}
_RATINGS, _MOVIES = tuple(_NAMES.values()), ("movieId", "title", "genres")
_USERS_100K, _USERS_1M = ("userId", "age", "gender", "occupation", "zip_code"), ("userId", "gender", "age", "occupation", "zip_code")
_FILMS_100K = ("movieId", "title", "release_date", "video_release_date", "imdb_url", *_GENRES_100K)

CSV = Layout(TextFile("ratings.csv", ","), _NAMES, (TextFile("movies.csv", ",", quote='"'), _films))
"""20M, 25M and 32M: a header, titles with commas in quotes."""
DAT = Layout(TextFile("ratings.dat", "::", _RATINGS), _NAMES, (TextFile("movies.dat", "::", _MOVIES), _films))
"""10M: no header, double colons."""
DAT_WITH_USERS = Layout(DAT.ratings, _NAMES, DAT.items, (TextFile("users.dat", "::", _USERS_1M), _users_1m))
"""1M: as 10M, with users."""
OFFICIAL_100K = Layout(
    TextFile("u.data", "\t", _RATINGS),
    _NAMES,
    (TextFile("u.item", "|", _FILMS_100K), _films_100k),
    (TextFile("u.user", "|", _USERS_100K), _users_100k),
)
"""100K as its owners publish it: tabs and bars, one column a genre."""
RECBOLE_100K = Layout(
    TextFile("ml-100k.inter", "\t"),
    {"user_id": "user_id:token", "item_id": "item_id:token", "rating": "rating:float", "timestamp_ms": "timestamp:float"},
    (TextFile("ml-100k.item", "\t"), _recbole_films),
    (TextFile("ml-100k.user", "\t"), _recbole_users),
)
"""100K as RecBole ships it."""
