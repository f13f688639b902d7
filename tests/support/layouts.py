"""Small datasets in the official layouts of their owners, made up, with the tables that a loader must make of them."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

import polars as pl

Files = Mapping[str, str | bytes]

RATINGS = [(1, 10, 5.0, 978_300_760), (1, 30, 3.0, 978_302_109), (2, 10, 4.0, 978_298_413), (7, 20, 2.0, 978_299_000)]
"""User, film, stars, seconds since 1970."""
FILMS = [
    (10, "Toy Story", 1995, ["Animation", "Children's"]),
    (20, "American President, The", 1994, ["Comedy"]),
    (30, "Café de la Plage: été", 2001, ["Drama", "War"]),
]
USERS = [(1, 1, "F", "K-12 student", "48067"), (2, 56, "M", "other", "0070-2"), (7, 25, "M", "writer", "55117")]
HALVES = [(u, i, {4.0: 4.5, 2.0: 0.5}.get(r, r), t) for u, i, r, t in RATINGS]
"""The same ratings with half stars."""

_OCCUPATIONS = {"K-12 student": 10, "other": 0, "writer": 20}
GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy", "Film-Noir",
    "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
"""Of 100K, in the order of its columns."""


def _rows(separator: str, rows: list[tuple[object, ...]]) -> str:
    return "".join(separator.join(f"{value:g}" if isinstance(value, float) else str(value) for value in row) + "\n" for row in rows)


def _dat(ratings: list[tuple[int, int, float, int]]) -> dict[str, str | bytes]:
    films = [(i, f"{title} ({year})", "|".join(genres)) for i, title, year, genres in FILMS]
    return {"ratings.dat": _rows("::", ratings), "movies.dat": _rows("::", films)}


def _csv() -> dict[str, str | bytes]:
    films = [(i, f'"{title} ({year})"' if "," in title else f"{title} ({year})", "|".join(genres)) for i, title, year, genres in FILMS]
    ratings = [(u, i, f"{stars:.1f}", at) for u, i, stars, at in HALVES]
    return {
        "ratings.csv": "userId,movieId,rating,timestamp\n" + _rows(",", ratings),
        "movies.csv": "movieId,title,genres\n" + _rows(",", films),
        "tags.csv": "userId,movieId,tag,timestamp\n1,10,classic,978300761\n",
    }


def movielens(edition: str) -> dict[str, str | bytes]:
    """The official files of one edition."""
    if edition == "ml-100k":
        films = [
            (i, f"{title} ({year})", f"01-Jan-{year}", "", "http://example.org", *(int(g in genres) for g in GENRES))
            for i, title, year, genres in FILMS
        ]
        return {
            "u.data": _rows("\t", RATINGS),
            "u.item": _rows("|", films).encode("latin-1"),
            "u.user": _rows("|", [(u, age, sex, job, code) for u, age, sex, job, code in USERS]),
        }
    if edition == "ml-1m":
        users = [(u, sex, age, _OCCUPATIONS[job], code) for u, age, sex, job, code in USERS]
        files = _dat(RATINGS)
        return {**files, "movies.dat": str(files["movies.dat"]).encode("latin-1"), "users.dat": _rows("::", users)}
    return {**_dat(HALVES), "tags.dat": "1::10::classic::978300761\n"} if edition == "ml-10m" else _csv()


def movielens_tables(edition: str) -> dict[str, pl.DataFrame]:
    """What a loader makes of :func:`movielens`: log, users where there are any, items."""
    rows = RATINGS if edition in ("ml-100k", "ml-1m") else HALVES
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp_ms"], orient="row").sort("user_id", "timestamp_ms")
    stars = pl.col("rating")
    flags = [(stars >= least).cast(pl.UInt8).alias(name) for name, least in (("click", 3), ("long_view", 4), ("like", 5))]
    tables = {
        "log": log.with_columns(pl.col("timestamp_ms") * 1000, stars.cast(pl.Float32), *flags),
        "items": pl.DataFrame(FILMS, schema=["item_id", "movie_title", "release_year", "genres"], orient="row"),
    }
    if edition in ("ml-100k", "ml-1m"):
        tables["users"] = pl.DataFrame(USERS, schema=["user_id", "age", "gender", "occupation", "zip_code"], orient="row")
    return tables


ATOMIC: dict[str, str | bytes] = {
    "shop.inter": (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\tplace:token\n"
        "ann\tA7\t5\t1700000000\tapp\nann\t007\t2\t1700000060\tweb\nbob\tA7\t3\t1700000030\tapp\n"
    ),
    "shop.user": "user_id:token\tage:float\tcity:token\nann\t30\tUlm\nbob\t\tNew York\ncleo\t50\tBonn\n",
    "shop.item": "item_id:token\ttitle:token_seq\tvector:float_seq\nA7\tred shoe\t0.5 -1\n007\tblue  hat\t1 2e1\n",
}
"""A dataset ``shop`` in atomic files."""


def open_bandit(campaign: str = "all") -> dict[str, str | bytes]:
    """Both logs of one campaign: two items, three rows a log, the row number in a first column without a name."""
    files: dict[str, str | bytes] = {}
    header = ",timestamp,item_id,position,click,propensity_score," + ",".join(f"user_feature_{k}" for k in range(4))
    header += ",user-item_affinity_0,user-item_affinity_1\n"
    rows = {
        "random": [
            "0,2019-11-24 00:00:17.004101+00:00,1,3,0,0.5,u0,u1,u2,u3,0.0,1.0",
            "1,2019-11-24 00:00:18+00:00,0,1,1,0.5,u0,u1,u9,u3,0.0,0.0",
            "2,2019-11-24 09:00:19.999999+09:00,1,2,0,0.5,u5,u1,u2,u3,2.0,0.0",
        ],
        "bts": [
            "0,2019-11-24 00:00:16.500000+00:00,0,1,0,0.9,u0,u1,u2,u3,0.0,0.0",
            "1,2019-11-24 00:00:16.750000+00:00,1,2,1,0.000001,u5,u1,u2,u3,0.0,0.0",
            "2,2019-11-25 23:59:59.123456+00:00,0,3,0,1.0,u0,u1,u2,u4,0.0,0.0",
        ],
    }
    for logger, lines in rows.items():
        files[f"{logger}/{campaign}/{campaign}.csv"] = header + "".join(f"{line}\n" for line in lines)
        items = "".join(f"{k},{k},{0.25 - k},{logger}a{k},{logger}b,{logger}c{k}\n" for k in range(2))
        files[f"{logger}/{campaign}/item_context.csv"] = f",item_id,{','.join(f'item_feature_{k}' for k in range(4))}\n" + items
    return files


def write(root: Path, files: Files, packed: bool = False) -> Path:
    """Write the files under ``root``; ``packed`` as ``.gz``."""
    for name, content in files.items():
        path = root / (f"{name}.gz" if packed else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    return root
