"""The failure table of the file loaders: each mistake gives its exact message, and nothing is left behind."""

from __future__ import annotations

import errno
import gzip
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import recrl_datasets as rd
from recrl.core.errors import ConfigError, DataError, MissingDependencyError, RecrlError, StorageError
from recrl_datasets.loaders.reading import read_text_pieces

LOG = "log_standard_4_22_to_5_08_pure.csv"
HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
GOOD = "7,30,20220425,600,1650839916065,1,0,0,0,0,0,1,5149,182300,0,0,0,0,1"
NAMES = HEADER.split(",")
OFFICIAL = "name the columns as the dataset's owners do, or load your own table with recrl_datasets.from_frame"
AGAIN = "download or copy the file again"


def row(**changes: str) -> str:
    """The good row with some fields changed."""
    fields = dict(zip(NAMES, GOOD.split(","), strict=True))
    return ",".join({**fields, **changes}.values())


def table(*rows: str, header: str = HEADER, end: str = "\n") -> str:
    return end.join((header, *rows)) + end


def compressed(text: str) -> bytes:
    return gzip.compress(text.encode(), mtime=0)


FAILURES: dict[str, tuple[str | bytes, type[RecrlError], str, str, str]] = {
    "missing column": (
        table(row(), header=HEADER.replace("is_click", "clicked")),
        DataError,
        "column 'is_click' is missing",
        "",
        "did you mean 'clicked'? " + OFFICIAL,
    ),
    "renamed column": (
        table(row(), header=HEADER.replace("video_id", "videoid")),
        DataError,
        "column 'video_id' is missing",
        "",
        "did you mean 'videoid'? " + OFFICIAL,
    ),
    "wrong separator": (
        table(row(), header=HEADER.replace(",", ";")),
        DataError,
        "columns are separated by semicolons, not commas",
        ", line 1",
        "save the file with commas",
    ),
    "tabs": (
        table(GOOD, header=HEADER).replace(",", "\t"),
        DataError,
        "columns are separated by tabs, not commas",
        ", line 1",
        "save the file with commas",
    ),
    "duplicate header": (
        table(row(), header=HEADER.replace("hourmin", "date")),
        DataError,
        "column 'date' appears twice (columns 3 and 4)",
        ", line 1",
        "remove or rename one of them",
    ),
    "nameless column": (
        table(row(), header=HEADER.replace("hourmin", "")),
        DataError,
        "column 4 has no name",
        ", line 1",
        "give every column a name",
    ),
    "empty file": ("", DataError, "the file is empty", "", AGAIN),
    "blank file": ("\n\n  \n", DataError, "the file is empty", "", AGAIN),
    "header only": (HEADER + "\n", DataError, "the file has a header but no rows", "", AGAIN),
    "header without line end": (HEADER, DataError, "the file has a header but no rows", "", AGAIN),
    "truncated gzip": (compressed(table(*[row()] * 500))[:-20], DataError, "the gzip file is cut off or broken", "", AGAIN),
    "broken gzip": (b"\x1f\x8b" + b"no gzip at all", DataError, "the gzip file is cut off or broken", "", AGAIN),
    "zip archive": (b"PK\x03\x04 and so on", DataError, "the file is a zip archive", "", "unpack it first"),
    "UTF-16": (table(row()).encode("utf-16"), DataError, "the file is UTF-16 text", "", "save it as UTF-8"),
    "binary": (b"\x00\x01\x02,\n", DataError, "the file is not delimited text", "", AGAIN),
    "Latin-1 header": (
        table(row(), header="é" + HEADER).encode("latin-1"),
        DataError,
        "the header is not UTF-8 text",
        ", line 1",
        "save the file as UTF-8",
    ),
    "Latin-1 value": (
        table(row(), row(tab="é")).encode("latin-1"),
        DataError,
        "byte 0xe9 is not UTF-8 text",
        ", line 3",
        "save the file as UTF-8",
    ),
    "carriage returns": (
        table(row(), end="\r"),
        DataError,
        "lines end in a carriage return alone",
        ", line 1",
        "save the file with line feeds",
    ),
    "short line": (
        table(row(), row(), GOOD.rsplit(",", 3)[0]),
        DataError,
        "16 fields instead of 19",
        ", line 4",
        f"correct the line, or {AGAIN}",
    ),
    "long line": (table(row(), GOOD + ",5"), DataError, "20 fields instead of 19", ", line 3", f"correct the line, or {AGAIN}"),
    "mixed types": (
        table(row(), row(video_id="abc")),
        DataError,
        "column 'video_id' holds 'abc': not a whole number",
        ", line 3",
        "correct the value, or leave the line out",
    ),
    "fraction": (
        table(row(user_id="1.5")),
        DataError,
        "column 'user_id' holds '1.5': not a whole number",
        ", line 2",
        "correct the value, or leave the line out",
    ),
    "huge id": (
        table(row(user_id="9" * 30)),
        DataError,
        f"column 'user_id' holds '{'9' * 30}': not a whole number",
        ", line 2",
        "correct the value, or leave the line out",
    ),
    "empty id": (
        table(row(), row(user_id="")),
        DataError,
        "column 'user_id' holds a missing value: a value is needed in every row",
        ", line 3",
        "fill it, or leave those rows out",
    ),
    "NaN ids": (
        table(row(video_id="nan"), row(video_id="NaN")),
        DataError,
        "column 'video_id' (as item_id) holds a missing value: a value is needed in every row (1 more rows like it)",
        ", line 2",
        "fill it, or leave those rows out",
    ),
    "negative time": (
        table(row(), row(time_ms="-5")),
        DataError,
        "column 'time_ms' (as timestamp_ms) holds -5: a time before 1970",
        ", line 3",
        "leave those rows out, or correct them",
    ),
    "seconds": (
        table(row(time_ms="1650839916"), row(time_ms="1650839917")),
        DataError,
        "column 'time_ms' (as timestamp_ms) holds 1650839916: this looks like seconds, not milliseconds (1 more rows like it)",
        ", line 2",
        "multiply by 1000 (from_frame: timestamp_unit='s')",
    ),
    "microseconds": (
        table(row(time_ms="1650839916065000")),
        DataError,
        "column 'time_ms' (as timestamp_ms) holds 1650839916065000: this looks like microseconds, not milliseconds",
        ", line 2",
        "divide by 1000 (from_frame: timestamp_unit='us')",
    ),
    "absurd time": (
        table(row(time_ms="77")),
        DataError,
        "column 'time_ms' (as timestamp_ms) holds 77: not a time between 1990 and 2100 in milliseconds since 1970",
        ", line 2",
        "give milliseconds since 1970 UTC",
    ),
    "flag of 2": (
        table(row(), row(is_like="2")),
        DataError,
        "column 'is_like' (as like) holds 2: not 0 or 1",
        ", line 3",
        "give 0 or 1; map other codes first",
    ),
    "negative watch time": (
        table(row(play_time_ms="-1")),
        DataError,
        "column 'play_time_ms' (as watch_seconds) holds -1: must be at least 0",
        ", line 2",
        "correct those rows, or leave them out",
    ),
    "no such day": (
        table(row(date="20220431")),
        DataError,
        "column 'date' (as local_date) holds 20220431: not a date",
        ", line 2",
        "give dates such as 20220425 or 2022-04-25",
    ),
}


VERSIONS = {"pure": LOG, "1k": LOG.replace("_pure", "_1k"), "27k": LOG.replace("_pure", "_27k_part2")}


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A version of KuaiRand; 27K is read in pieces of one line."""
    if request.param == "27k":
        monkeypatch.setattr("recrl_datasets.loaders.kuairand.read_text_pieces", partial(read_text_pieces, piece_bytes=1))
    return str(request.param)


@pytest.mark.parametrize("case", FAILURES)
def test_bad_log_gives_its_exact_message_and_leaves_nothing(
    case: str, version: str, kuairand_folder: Callable[..., Path], tmp_path: Path
) -> None:
    content, kind, what, where, mend = FAILURES[case]
    root = kuairand_folder(files={VERSIONS[version]: content}, version=version)
    with pytest.raises(kind) as caught:
        rd.prepare(f"kuairand-{version}", root, stores=tmp_path / "stores")
    error = caught.value
    # rows like the one that is named are counted in its piece
    assert error.what.split(";")[0] == (what if version != "27k" else what.replace(" (1 more rows like it)", ""))
    assert error.where == f"{root / 'data' / VERSIONS[version]}{where}"
    assert error.mend == mend
    assert not (tmp_path / "stores").exists()


HARMLESS: dict[str, str | bytes] = {
    "byte-order mark": b"\xef\xbb\xbf" + table(row(), row(user_id="9")).encode(),
    "CRLF": table(row(), row(user_id="9"), end="\r\n"),
    "blank lines": table(row(), "", row(user_id="9"), "", ""),
    "no last line end": table(row(), row(user_id="9")).rstrip(),
    "numbers written as floats": table(row(), row(user_id="9.0", is_click="1.0")),
    "gzip under a plain name": compressed(table(row(), row(user_id="9"))),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_harmless_deviations_are_read(case: str, version: str, kuairand_folder: Callable[..., Path], tmp_path: Path) -> None:
    name, file = f"kuairand-{version}", VERSIONS[version]
    good = kuairand_folder(files={file: table(row(), row(user_id="9"))}, version=version)
    plain = rd.prepare(name, good, stores=tmp_path / "plain")
    store = rd.prepare(name, kuairand_folder(files={file: HARMLESS[case]}, version=version), stores=tmp_path / "stores")
    assert store.manifest.rows == plain.manifest.rows
    assert store.content_hash == plain.content_hash


def test_line_numbers_count_blank_lines(kuairand_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = kuairand_folder(files={LOG: table(row(), "", "", row(), row(is_hate="7"))})
    with pytest.raises(DataError, match=r"line 6") as caught:
        rd.prepare("kuairand-pure", root, stores=tmp_path)
    assert caught.value.what == "column 'is_hate' (as hate) holds 7: not 0 or 1"


def test_gzip_files_are_found(kuairand_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = kuairand_folder()
    path = root / "data" / LOG
    plain = rd.prepare("kuairand-pure", root, stores=tmp_path / "plain")
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    path.unlink()
    assert rd.prepare("kuairand-pure", root, stores=tmp_path / "gzip").content_hash == plain.content_hash


def test_extra_column_is_left_out_with_a_finding(kuairand_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = kuairand_folder(files={LOG: table(GOOD + ",x", header=HEADER + ",mood")})
    store = rd.prepare("kuairand-pure", root, stores=tmp_path)
    assert [f.note for f in store.manifest.findings] == [f"{LOG}: column 'mood' is not KuaiRand's and was left out"]
    assert not store.log().has("mood")


def test_wrong_root_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        rd.prepare("kuairand-pure", tmp_path, stores=tmp_path / "stores")
    logs = "log_standard_4_08_to_4_21_pure.csv, log_standard_4_22_to_5_08_pure.csv, log_random_4_22_to_5_08_pure.csv"
    assert caught.value.what == f"no KuaiRand-Pure log found: neither {tmp_path / 'data'} nor {tmp_path} holds one of {logs}"
    assert caught.value.mend == "give the folder that was unpacked (the one with data/ in it) as --root"
    with pytest.raises(StorageError, match="no KuaiRand-Pure log found: there is no such folder"):
        rd.prepare("kuairand-pure", tmp_path / "nowhere", stores=tmp_path / "stores")
    with pytest.raises(StorageError) as caught:
        rd.prepare("ml-100k", tmp_path, stores=tmp_path / "stores")
    assert caught.value.what == f"MovieLens 100K is not in {tmp_path}: ml-100k.inter, ml-100k.user, ml-100k.item not found"


def test_root_is_needed_and_names_are_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        rd.prepare("kuairand-pure", stores=tmp_path)
    assert caught.value.what == "dataset 'kuairand-pure' needs the folder it was downloaded to"
    with pytest.raises(ConfigError) as caught:
        rd.prepare("kuairand", tmp_path, stores=tmp_path)
    assert caught.value.what == "there is no dataset 'kuairand'"
    assert caught.value.mend.startswith("did you mean 'kuairand-1k'? there are: ml-100k, ")


def test_movielens_without_recbole_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError) as caught:
        rd.prepare("ml-100k", stores=tmp_path)
    assert caught.value.what == "MovieLens 100K comes with RecBole, which is not installed"
    assert caught.value.mend.startswith("`pip install --no-deps recbole==1.2.1`")


@pytest.mark.parametrize(
    ("name", "content", "what", "where"),
    [
        (
            "ml-100k.inter",
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\tgood\t881250949\n",
            "column 'rating:float' holds 'good': not a number",
            ", line 2",
        ),
        (
            "ml-100k.inter",
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\t3\t-881250949\n",
            "column 'timestamp:float' (as timestamp_ms) holds -881250949: a time before 1970",
            ", line 2",
        ),
        (
            "ml-100k.inter",
            "user_id:token,item_id:token,rating:float,timestamp:float\n1,2,3,881250949\n",
            "columns are separated by commas, not tabs",
            ", line 1",
        ),
        ("ml-100k.inter", "user_id\titem_id\trating\ttimestamp\n1\t2\t3\t881250949\n", "column 'user_id:token' is missing", ""),
        ("ml-100k.user", "user_id:token\tage:token\n196\told\n", "column 'age:token' holds 'old': not a whole number", ", line 2"),
        (
            "ml-100k.user",
            "user_id:token\tage:token\tage:float\n196\t20\t20\n",
            "column 'age' appears twice once types are taken off",
            ", line 1",
        ),
        (
            "ml-100k.item",
            "item_id:token\tclass:token_seq\n\tComedy\n",
            "column 'item_id:token' (as item_id) holds a missing value: a value is needed in every row",
            ", line 2",
        ),
    ],
)
def test_bad_movielens_files(name: str, content: str, what: str, where: str, movielens_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = movielens_folder(files={name: content})
    with pytest.raises(DataError) as caught:
        rd.prepare("ml-100k", root, stores=tmp_path / "stores")
    assert (caught.value.what.split(";")[0], caught.value.where) == (what, f"{root / name}{where}")
    assert not (tmp_path / "stores").exists()


def test_repeated_and_unknown_feature_rows(kuairand_folder: Callable[..., Path], tmp_path: Path) -> None:
    users = "user_id,user_active_degree,follow_user_num\n7,full_active,3\n3,low_active,\n99,low_active,1\n98,low_active,1\n"
    items = 'video_id,video_type,tag,upload_dt\n10,NORMAL,"1,5",2022-04-10\n10,AD,2,2022-04-10\n'
    store = rd.prepare("kuairand-pure", kuairand_folder(files={"user_features_pure.csv": users}), stores=tmp_path / "a")
    assert store.users["user_id"].to_list() == [3, 7]
    assert store.users["follow_user_num"].to_list() == [None, 3]
    assert [(f.check, f.count) for f in store.manifest.findings] == [("features of unknown users", 2)]
    with pytest.raises(DataError) as caught:
        rd.prepare("kuairand-pure", kuairand_folder(files={"video_features_basic_pure.csv": items}), stores=tmp_path / "b")
    assert caught.value.what == "item_id 10 has 2 rows"
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("opened", [0, 1], ids=["while looking at the files", "while reading"])
def test_unreadable_file(opened: int, kuairand_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = kuairand_folder()
    path_open, calls = Path.open, iter(range(9))

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if next(calls) < opened:
            return path_open(path, *arguments, **options)
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StorageError) as caught:
        rd.prepare("kuairand-pure", root, stores=tmp_path / "stores")
    assert caught.value.what == f"cannot read {LOG}: Permission denied"
    assert not (tmp_path / "stores").exists()
