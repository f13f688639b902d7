"""Mutated files and frames: every loader gives a RecrlError or a valid store, never another exception."""

from __future__ import annotations

import gzip
import tempfile
import warnings
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recrl_datasets as rd
from recrl.core.errors import RecrlError

KUAIRAND = {
    "log_standard_4_22_to_5_08_pure.csv": (
        "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
        "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
        "7,30,20220425,600,1650839916065,1,0,0,0,0,0,1,5149,182300,0,0,0,0,1\n"
        "7,10,20220425,600,1650839916065,0,0,0,0,0,0,0,0,192225,0,0,0,0,1\n"
        "3,20,20220427,900,1651021200000,1,1,0,0,0,0,1,9000,8000,0,250,0,1,0\n"
    ),
    "user_features_pure.csv": 'user_id,user_active_degree,follow_user_num,follow_user_num_range\n7,full_active,600,500+\n3,low,,"(1,5]"\n',
    "video_features_basic_pure.csv": (
        'video_id,video_type,upload_dt,video_duration,tag\n30,NORMAL,2022-04-10,87433.0,"1,39"\n10,AD,2022-04-11,,2\n'
    ),
    "video_features_statistic_pure.csv": "video_id,counts,play_progress\n30,102,0.117\n20,5,0.2\n",
}
MOVIELENS = {
    "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n186\t302\t5\t891717742\n",
    "ml-100k.user": "user_id:token\tage:token\tgender:token\n196\t49\tM\n186\t39\tF\n",
    "ml-100k.item": (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "242\tKolya\t1996\tComedy\n302\tLA\t1997\tCrime Thriller\n"
    ),
}
SNIPPETS = [
    b"",
    b",",
    b"\t",
    b"\n",
    b"\r\n",
    b"\r",
    b'"',
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"-",
    b"1e999",
    b"nan",
    b"inf",
    b"0x1",
    b"9" * 25,
    b";",
    b" ",
    "é".encode(),
    b"NULL",
    b"2",
]

mutation = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 12), st.one_of(st.sampled_from(SNIPPETS), st.binary(max_size=4)))


def mutate(content: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    for place, removed, inserted in changes:
        at = int(place * (len(content) + 1))
        content = content[:at] + inserted + content[at + removed :]
    return content


def says_why(error: RecrlError, stores: Path) -> None:
    assert error.what
    assert error.mend
    assert not stores.exists() or list(stores.iterdir()) == []


def loads_or_says_why(name: str, files: dict[str, str], target: str, changes: list[tuple[float, int, bytes]], pack: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for file, text in files.items():
            content = mutate(text.encode(), changes) if file == target else text.encode()
            Path(folder, file).write_bytes(gzip.compress(content, mtime=0) if pack and file == target else content)
        stores = Path(folder, "stores")
        try:
            store = rd.prepare(name, folder, stores=stores)
        except RecrlError as error:
            says_why(error, stores)
        else:
            log = store.log()
            assert log.n_rows + store.manifest.duplicate_rows == store.manifest.rows
            assert rd.sessions(log).users.count == store.users.height


@settings(max_examples=120)
@given(target=st.sampled_from(sorted(KUAIRAND)), changes=st.lists(mutation, min_size=1, max_size=4), pack=st.booleans())
def test_kuairand_loader_never_fails_oddly(target: str, changes: list[tuple[float, int, bytes]], pack: bool) -> None:
    loads_or_says_why("kuairand-pure", KUAIRAND, target, changes, pack)


@settings(max_examples=80)
@given(target=st.sampled_from(sorted(MOVIELENS)), changes=st.lists(mutation, min_size=1, max_size=4), pack=st.booleans())
def test_movielens_loader_never_fails_oddly(target: str, changes: list[tuple[float, int, bytes]], pack: bool) -> None:
    loads_or_says_why("ml-100k", MOVIELENS, target, changes, pack)


@settings(max_examples=30)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_cut_gzip_never_fails_oddly(cut: float) -> None:
    target = "log_standard_4_22_to_5_08_pure.csv"
    packed = gzip.compress(KUAIRAND[target].encode(), mtime=0)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, target).write_bytes(packed[: int(cut * len(packed))])
        with pytest.raises(RecrlError):
            rd.prepare("kuairand-pure", folder, stores=Path(folder, "stores"))


columns = st.sampled_from(
    [
        "user_id",
        "item_id",
        "timestamp_ms",
        "click",
        "watch_seconds",
        "local_date",
        "action",
        "position",
        "propensity",
        "note",
        "user",
        "request_id",
    ]
)
cells = st.one_of(
    st.none(),
    st.integers(-(2**70), 2**70),
    st.integers(0, 1),
    st.integers(1_500_000_000_000, 1_600_000_000_000),
    st.floats(),
    st.text(max_size=3),
    st.booleans(),
    st.dates(),
    st.datetimes(),
    st.lists(st.floats(width=32), max_size=3),
    st.binary(max_size=2),
)


@settings(max_examples=120)
@given(data=st.data())
def test_from_frame_never_fails_oddly(data: st.DataObject) -> None:
    height = data.draw(st.integers(0, 4))
    kind = st.one_of(
        st.lists(st.integers(0, 5), min_size=height, max_size=height),
        st.lists(st.integers(1_500_000_000_000, 1_500_000_900_000), min_size=height, max_size=height),
        st.lists(cells, min_size=height, max_size=height),
        st.lists(st.datetimes(), min_size=height, max_size=height),
        st.lists(st.text(max_size=2), min_size=height, max_size=height),
    )
    table = data.draw(st.dictionaries(columns, kind, max_size=6))
    good = data.draw(st.booleans())
    if good:
        table |= {"user_id": [1] * height, "item_id": ["a"] * height, "timestamp_ms": [1_500_000_000_000] * height}
    frame = data.draw(st.sampled_from(["mapping", "polars", "lazy"]))
    source: object = table
    if frame != "mapping":
        try:
            source = pl.DataFrame(table, strict=False)
        except Exception:
            source = table
        if frame == "lazy" and isinstance(source, pl.DataFrame):
            source = source.lazy()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", rd.RowsAsClustersWarning)
        try:
            store = rd.from_frame(source, "fuzz", stores=folder)
        except RecrlError as error:
            says_why(error, Path(folder))
        else:
            assert store.log().frame().height == store.log().n_rows
            rd.describe(store)
