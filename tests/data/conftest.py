"""Small official-layout folders and logs for the data tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import recrl_datasets as rd
from recrl_datasets.log import Log
from tests.data.hosting import Host, Publish, publishing, serving

KUAIRAND_HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
KUAIRAND_ROWS = (
    "7,30,20220425,600,1650839916065,1,0,0,0,0,0,1,5149,182300,0,0,0,0,1",
    "7,10,20220425,600,1650839916065,0,0,0,0,0,0,0,0,192225,0,0,0,0,1",
    "7,10,20220425,600,1650839916065,0,0,0,0,0,0,0,0,192225,0,0,0,0,1",
    "3,20,20220427,900,1651021200000,1,1,0,0,0,0,1,9000,8000,0,250,0,0,0",
    "3,30,20220425,800,1650844800000,0,0,0,0,0,1,0,100,182300,0,0,0,0,1",
)
STANDARD_LOG = "log_standard_4_22_to_5_08_pure.csv"
RANDOM_LOG = "log_random_4_22_to_5_08_pure.csv"

MOVIELENS = {
    "ml-100k.inter": (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "196\t242\t3\t881250949\n186\t302\t5\t891717742\n196\t302\t2\t881250950\n"
    ),
    "ml-100k.user": (
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        "196\t49\tM\twriter\t55105\n186\t39\tF\texecutive\t00000\n"
    ),
    "ml-100k.item": (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "242\tKolya\t1996\tComedy\n302\tL.A. Confidential\t1997\tCrime Thriller\n"
    ),
}


@pytest.fixture
def kuairand_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small folder of a KuaiRand version; keyword ``files`` replaces or adds files of ``data/`` (text or bytes)."""

    def write(*, files: dict[str, str | bytes] | None = None, version: str = "pure") -> Path:
        root = tmp_path / f"KuaiRand-{version}"
        (root / "data").mkdir(parents=True, exist_ok=True)
        ends = ("_27k_part1", "_27k_part2") if version == "27k" else (f"_{version}",)
        parts = {STANDARD_LOG.replace("_pure", end): KUAIRAND_ROWS[k :: len(ends)] for k, end in enumerate(ends)}
        content: dict[str, str | bytes] = {name: "\n".join((KUAIRAND_HEADER, *rows)) + "\n" for name, rows in parts.items()}
        for name, text in {**content, **(files or {})}.items():
            (root / "data" / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return root

    return write


@pytest.fixture
def movielens_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small MovieLens folder; keyword ``files`` replaces files."""

    def write(*, files: dict[str, str | bytes] | None = None) -> Path:
        root = tmp_path / "ml"
        root.mkdir(exist_ok=True)
        for name, text in {**MOVIELENS, **(files or {})}.items():
            (root / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return root

    return write


@pytest.fixture(scope="session")
def ml_100k(tmp_path_factory: pytest.TempPathFactory) -> rd.Store:
    """MovieLens 100K, prepared once."""
    return rd.prepare("ml-100k", stores=tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="session")
def kuairand(kuairand_root: Path, tmp_path_factory: pytest.TempPathFactory) -> rd.Store:
    """The real KuaiRand-Pure rows, prepared once."""
    return rd.prepare("kuairand-pure", kuairand_root, stores=tmp_path_factory.mktemp("stores"))


@pytest.fixture
def host() -> Iterator[Host]:
    """A server on loopback."""
    with serving() as host:
        yield host


@pytest.fixture
def publish(host: Host, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Puts an archive on the server as the dataset ``toy``."""
    return publishing(host, monkeypatch)


@pytest.fixture
def tiny_log() -> Log:
    """Three users, the second without rows."""
    rows: dict[str, NDArray[np.generic]] = {
        "user": np.array([0, 0, 0, 2, 2], np.int32),
        "item": np.array([1, 0, 1, 2, 0], np.int32),
        "timestamp_ms": np.array([10, 10, 30, 5, 40], np.int64),
        "click": np.array([1, 0, 1, 0, 1], np.uint8),
        "hate": np.array([0, 0, 0, 1, 0], np.uint8),
    }
    return Log.from_arrays(rows, n_users=3, n_items=3)
