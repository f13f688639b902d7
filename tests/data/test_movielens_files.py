"""MovieLens in its official layouts: made-up files whose tables are known, and the failure table of each layout."""

from __future__ import annotations

import gzip
import importlib.util
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import recrl_datasets as rd
from recrl.core.errors import DataError, RecrlError, StorageError
from recrl_datasets.loaders import movielens
from recrl_datasets.loaders.reading import read_text_pieces
from tests.support import layouts

EDITIONS = ("ml-100k", "ml-1m", "ml-10m", "ml-20m", "ml-25m", "ml-32m")
AGAIN = "download or copy the file again"
CORRECT = "correct the value, or leave the line out"
LINE = "correct the line, or download or copy the file again"


def stored(store: rd.Store) -> dict[str, pl.DataFrame]:
    """Log, users and items of a store with their raw ids."""
    log = store.log()
    ids = [store.users["user_id"][log.column("user")], store.items["item_id"][log.column("item")]]
    return {"log": log.frame().with_columns(ids), "users": store.users, "items": store.items}


@pytest.mark.parametrize("edition", EDITIONS)
def test_every_layout_gives_the_tables_that_it_was_made_of(edition: str, tmp_path: Path) -> None:
    store = rd.prepare(edition, layouts.write(tmp_path / "files", layouts.movielens(edition)), stores=tmp_path / "stores")
    found = stored(store)
    for name, table in layouts.movielens_tables(edition).items():
        assert_frame_equal(found[name].select(table.columns), table, check_dtypes=False, check_exact=True)
    expected = {"users": {"user", "user_id"}, "items": {"item", "item_id", "movie_title", "release_year", "genres"}}
    if edition in ("ml-100k", "ml-1m"):
        expected["users"] |= {"age", "gender", "occupation", "zip_code"}
    assert {name: set(found[name].columns) for name in expected} == expected
    published = {e.name: e.ratings for e in movielens.EDITIONS}[edition]
    notes = {f.check: (f.count, f.note) for f in store.manifest.findings}
    assert notes["behaviours are a surrogate"][0] == 4
    assert notes["not the published number of ratings"][0] == 4
    assert f"has {published:,} ratings" in notes["not the published number of ratings"][1]


@pytest.mark.parametrize(("edition", "folder"), [("ml-10m", "ml-10M100K"), ("ml-25m", "ml-25m"), ("ml-100k", "ml-100k")])
def test_the_folder_above_is_as_good_and_so_are_packed_files(edition: str, folder: str, tmp_path: Path) -> None:
    plain = rd.prepare(edition, layouts.write(tmp_path / "plain", layouts.movielens(edition)), stores=tmp_path / "a")
    layouts.write(tmp_path / "above" / folder, layouts.movielens(edition), packed=True)
    assert rd.prepare(edition, tmp_path / "above", stores=tmp_path / "b").content_hash == plain.content_hash


def test_titles_years_and_genres_of_odd_films(tmp_path: Path) -> None:
    films = (
        "movieId,title,genres\n"
        '1,"""Great Performances"" Cats (1998)",Musical\n'
        "2,Death Note: Desu nôto (2006–2007),(no genres listed)\n"
        "3,Big Bang Theory (2007-),Comedy\n"
        '4,"City (of, Lost) (1995) ",Sci-Fi|IMAX\n'
        "5,Babylon 5,\n"
    )
    ratings = "userId,movieId,rating,timestamp\n" + "".join(f"1,{k},0.5,1112486027\n" for k in range(1, 6))
    root = layouts.write(tmp_path / "files", {"ratings.csv": ratings, "movies.csv": films})
    items = rd.prepare("ml-20m", root, stores=tmp_path / "stores").items
    assert items["movie_title"].to_list() == [
        '"Great Performances" Cats',
        "Death Note: Desu nôto",
        "Big Bang Theory",
        "City (of, Lost)",
        "Babylon 5",
    ]
    assert items["release_year"].to_list() == [1998, 2006, 2007, 1995, None]
    assert items["genres"].to_list() == [["Musical"], None, ["Comedy"], ["Sci-Fi", "IMAX"], None]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-8-sig"])
def test_old_and_new_encodings_of_titles(encoding: str, tmp_path: Path) -> None:
    files = layouts.movielens("ml-1m")
    text = bytes(files["movies.dat"]).decode("latin-1")
    root = layouts.write(tmp_path / "files", {**files, "movies.dat": text.replace("\n", "\r\n").encode(encoding)})
    assert rd.prepare("ml-1m", root, stores=tmp_path / "stores").items["movie_title"][2] == "Café de la Plage: été"


def test_pieces_make_the_same_store_and_name_the_same_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(u, i, (u + i) % 5 + 1, 978_300_000 + 7 * u + i) for u in range(1, 40) for i in range(1, 20)]
    ratings = "".join("::".join(map(str, row)) + "\n" for row in rows)
    root = layouts.write(tmp_path / "files", {**layouts.movielens("ml-10m"), "ratings.dat": ratings})
    whole = rd.prepare("ml-10m", root, stores=tmp_path / "whole")
    monkeypatch.setattr(movielens, "read_text_pieces", partial(read_text_pieces, piece_bytes=1000))
    assert rd.prepare("ml-10m", root, stores=tmp_path / "pieces").content_hash == whole.content_hash
    layouts.write(root, {"ratings.dat": ratings + "1::2::6::978300000\n"})
    with pytest.raises(DataError) as caught:
        rd.prepare("ml-10m", root, stores=tmp_path / "bad")
    assert caught.value.where == f"{root / 'ratings.dat'}, line {len(rows) + 1}"
    assert not (tmp_path / "bad" / "ml-10m").exists()


def test_official_100k_holds_what_recboles_holds(tmp_path: Path, ml_100k: rd.Store) -> None:
    """RecBole's files, written in the official layout, give the same log and users, and the same items but for two titles."""
    theirs = stored(ml_100k)
    log = theirs["log"].select("user_id", "item_id", pl.col("rating").cast(pl.Int64), pl.col("timestamp_ms") // 1000)
    users = theirs["users"].select("user_id", "age", "gender", "occupation", "zip_code")
    items = theirs["items"].with_columns(pl.format("{} ({})", "movie_title", pl.col("release_year").fill_null(1999)).alias("title"))
    flags = [pl.col("genres").list.contains(genre).cast(pl.Int8).alias(genre) for genre in layouts.GENRES]
    root = tmp_path / "ml-100k"
    root.mkdir()
    log.write_csv(root / "u.data", separator="\t", include_header=False)
    users.write_csv(root / "u.user", separator="|", include_header=False)
    empty = [pl.lit("").alias(name) for name in ("date", "video", "url")]
    items.select("item_id", "title", *empty, *flags).write_csv(root / "u.item", separator="|", include_header=False, quote_style="never")
    store = rd.prepare("ml-100k", root, stores=tmp_path / "stores")
    assert (store.manifest.rows, store.manifest.users, store.manifest.items) == (100_000, 943, 1_682)
    found = stored(store)
    assert_frame_equal(found["log"], theirs["log"])
    assert_frame_equal(found["users"], theirs["users"], check_column_order=False)
    assert_frame_equal(found["items"].drop("release_year"), theirs["items"].drop("release_year"), check_column_order=False)
    assert (found["items"]["release_year"] != theirs["items"]["release_year"].fill_null(1999)).sum() == 0
    assert [f.check for f in store.manifest.findings] == ["behaviours are a surrogate"]


def changed(edition: str, file: str, old: str, new: str) -> bytes:
    """A file of an edition with one text replaced."""
    content = layouts.movielens(edition)[file]
    text = content.decode("latin-1") if isinstance(content, bytes) else content
    assert old in text
    return text.replace(old, new, 1).encode()


RATINGS_CSV = str(layouts.movielens("ml-25m")["ratings.csv"])
DAT_COLUMNS = "name the columns as the dataset's owners do, or load your own table with recrl_datasets.from_frame"
FAILURES: dict[str, tuple[str, str, bytes, str, str, str]] = {
    "empty ratings": ("ml-1m", "ratings.dat", b"", "the file is empty", "", AGAIN),
    "empty films": ("ml-25m", "movies.csv", b"\n \n", "the file is empty", "", AGAIN),
    "header only": ("ml-25m", "ratings.csv", b"userId,movieId,rating,timestamp\n", "the file has a header but no rows", "", AGAIN),
    "films: header only": ("ml-32m", "movies.csv", b"movieId,title,genres", "the file has a header but no rows", "", AGAIN),
    "commas in .dat": (
        "ml-10m",
        "ratings.dat",
        b"1,122,5,838985046\n",
        "columns are separated by commas, not double colons",
        ", line 1",
        "save the file with double colons",
    ),
    "tabs in .csv": (
        "ml-20m",
        "ratings.csv",
        RATINGS_CSV.replace(",", "\t").encode(),
        "columns are separated by tabs, not commas",
        ", line 1",
        "save the file with commas",
    ),
    "commas in u.user": (
        "ml-100k",
        "u.user",
        b"1,24,M,writer,85711\n",
        "columns are separated by commas, not bars",
        ", line 1",
        "save the file with bars",
    ),
    "single colons": ("ml-1m", "ratings.dat", b"1:122:5:838985046\n", "1 fields instead of 4", ", line 1", LINE),
    "short line": ("ml-1m", "ratings.dat", changed("ml-1m", "ratings.dat", "1::30::3", "1::30"), "3 fields instead of 4", ", line 2", LINE),
    "short line in u.item": ("ml-100k", "u.item", b"1|Toy Story (1995)\n", "2 fields instead of 24", ", line 1", LINE),
    "missing column": (
        "ml-25m",
        "ratings.csv",
        RATINGS_CSV.replace("movieId", "movie").encode(),
        "column 'movieId' is missing",
        "",
        "did you mean 'movie'? " + DAT_COLUMNS,
    ),
    "column twice": (
        "ml-25m",
        "ratings.csv",
        RATINGS_CSV.replace("movieId", "userId").encode(),
        "column 'userId' appears twice (columns 1 and 2)",
        ", line 1",
        "remove or rename one of them",
    ),
    "text as id": (
        "ml-1m",
        "ratings.dat",
        changed("ml-1m", "ratings.dat", "2::10", "two::10"),
        "column 'userId' holds 'two': not a whole number",
        ", line 3",
        CORRECT,
    ),
    "no id": (
        "ml-1m",
        "ratings.dat",
        changed("ml-1m", "ratings.dat", "2::10", "::10"),
        "column 'userId' (as user_id) holds a missing value: a value is needed in every row",
        ", line 3",
        "fill it, or leave those rows out",
    ),
    "NaN": (
        "ml-25m",
        "ratings.csv",
        changed("ml-25m", "ratings.csv", "4.5", "nan"),
        "column 'rating' holds a missing value: not a rating of 0.5 to 5 stars",
        ", line 4",
        CORRECT,
    ),
    "no rating": (
        "ml-10m",
        "ratings.dat",
        changed("ml-10m", "ratings.dat", "::4.5::", "::::"),
        "column 'rating' holds a missing value: not a rating of 0.5 to 5 stars",
        ", line 3",
        CORRECT,
    ),
    "infinite": (
        "ml-25m",
        "ratings.csv",
        changed("ml-25m", "ratings.csv", "4.5", "inf"),
        "column 'rating' holds inf: not a finite number",
        ", line 4",
        "correct those rows, or leave them out",
    ),
    "huge": (
        "ml-25m",
        "ratings.csv",
        changed("ml-25m", "ratings.csv", "4.5", "1e30"),
        "column 'rating' holds 1.0000000150474662e+30: not a rating of 0.5 to 5 stars",
        ", line 4",
        CORRECT,
    ),
    "half a star in 1M": (
        "ml-1m",
        "ratings.dat",
        changed("ml-1m", "ratings.dat", "::4::", "::0.5::"),
        "column 'rating' holds 0.5: not a rating of 1 to 5 stars",
        ", line 3",
        CORRECT,
    ),
    "huge time": (
        "ml-25m",
        "ratings.csv",
        changed("ml-25m", "ratings.csv", "978298413", "9" * 30),
        f"column 'timestamp' holds '{'9' * 30}': not a whole number",
        ", line 4",
        CORRECT,
    ),
    "milliseconds": (
        "ml-25m",
        "ratings.csv",
        changed("ml-25m", "ratings.csv", "978298413", "978298413000"),
        "column 'timestamp' (as timestamp_ms) holds 978298413000: not a time between 1990 and 2100",
        ", line 4",
        "check the unit (from_frame: timestamp_unit)",
    ),
    "cut gzip": (
        "ml-25m",
        "ratings.csv",
        gzip.compress(RATINGS_CSV.encode() * 50, mtime=0)[:-12],
        "the gzip file is cut off or broken",
        "",
        AGAIN,
    ),
    "zip": ("ml-25m", "movies.csv", b"PK\x03\x04 and so on", "the file is a zip archive", "", "unpack it first"),
    "binary": ("ml-1m", "ratings.dat", b"\x00\x01\x02", "the file is not delimited text", "", AGAIN),
    "UTF-16": ("ml-25m", "ratings.csv", RATINGS_CSV.encode("utf-16"), "the file is UTF-16 text", "", "save it as UTF-8"),
    "broken quote": (
        "ml-25m",
        "movies.csv",
        b'movieId,title,genres\n10,"Toy Story (1995),Animation\n',
        "broken text: unexpected end of data",
        ", line 2",
        LINE,
    ),
    "film twice": (
        "ml-1m",
        "movies.dat",
        b"10::A (1990)::War\n10::B (1991)::War\n",
        "item_id 10 has 2 rows",
        None,
        "keep one row for each id",
    ),
    "user without id": (
        "ml-1m",
        "users.dat",
        b"::F::1::10::48067\n",
        "column 'userId' (as user_id) holds a missing value: a value is needed in every row",
        ", line 1",
        "fill it, or leave those rows out",
    ),
    "odd age": ("ml-1m", "users.dat", b"1::F::old::10::48067\n", "column 'age' holds 'old': not a whole number", ", line 1", CORRECT),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_bad_file_gives_its_exact_message_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    edition, file, content, what, where, mend = FAILURES[case]
    root = layouts.write(tmp_path / "files", {**layouts.movielens(edition), file: content})
    with pytest.raises(DataError) as caught:
        rd.prepare(edition, root, stores=tmp_path / "stores")
    error = caught.value
    assert (error.what.split(";")[0], error.mend) == (what, mend)
    assert error.where == ("item features" if where is None else f"{root / file}{where}")
    assert not list((tmp_path / "stores").glob("*"))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_harmless_deviations_are_read(end: str, tmp_path: Path) -> None:
    plain = rd.prepare("ml-25m", layouts.write(tmp_path / "plain", layouts.movielens("ml-25m")), stores=tmp_path / "a")
    lines = RATINGS_CSV.replace("\n", end).rstrip()
    odd = b"\xef\xbb\xbf" + lines.encode() + (end * 3).encode()
    root = layouts.write(tmp_path / "odd", {**layouts.movielens("ml-25m"), "ratings.csv": odd})
    assert rd.prepare("ml-25m", root, stores=tmp_path / "b").content_hash == plain.content_hash


def test_films_and_users_that_only_one_table_knows(tmp_path: Path) -> None:
    files = layouts.movielens("ml-1m")
    files["users.dat"] = "1::F::1::10::48067\n99::M::25::99::00000\n"
    files["movies.dat"] = "10::Toy Story (1995)::Animation\n99::Nobody Saw It (1990)::War\n"
    store = rd.prepare("ml-1m", layouts.write(tmp_path / "files", files), stores=tmp_path / "stores")
    counts = {f.check: f.count for f in store.manifest.findings if "features" in f.check}
    known = {"features of unknown users": 1, "users without features": 2, "features of unknown items": 1, "items without features": 2}
    assert counts == known
    assert store.users["occupation"].to_list() == ["K-12 student", None, None]
    assert store.items["genres"].to_list() == [["Animation"], None, None]


@pytest.mark.parametrize("edition", EDITIONS)
def test_a_missing_file_is_named(edition: str, tmp_path: Path) -> None:
    files = layouts.movielens(edition)
    del files["u.item" if edition == "ml-100k" else "ratings.dat" if edition in ("ml-1m", "ml-10m") else "movies.csv"]
    root = layouts.write(tmp_path / "files", files)
    with pytest.raises(StorageError) as caught:
        rd.prepare(edition, root, stores=tmp_path / "stores")
    missing = "u.item" if edition == "ml-100k" else "ratings.dat" if edition in ("ml-1m", "ml-10m") else "movies.csv"
    words = f"MovieLens {edition.removeprefix('ml-').upper()}"
    assert (caught.value.what, caught.value.where) == (f"{words} is not in {root}: {missing} not found", str(root))
    assert "give the folder that holds" in caught.value.mend
    assert not (tmp_path / "stores").exists()


def test_editions_need_a_root_and_100k_needs_recbole_or_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecrlError, match="dataset 'ml-25m' needs the folder it was downloaded to"):
        rd.prepare("ml-25m", stores=tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    root = layouts.write(tmp_path / "files", layouts.movielens("ml-100k"))
    assert rd.prepare("ml-100k", root, stores=tmp_path / "stores").manifest.rows == 4
