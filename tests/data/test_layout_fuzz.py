"""Mutated files of every official layout: each loader gives a RecrlError or a valid store, never another exception."""

from __future__ import annotations

import gzip
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recrl_datasets as rd
from recrl.core.errors import RecrlError
from tests.data.test_loader_fuzz import mutate, mutation, says_why
from tests.support import layouts

Prepare = Callable[[str, str], rd.Store]
RULES = {"click": "rating:3", "like": "rating:5"}


def atomic(root: str, stores: str) -> rd.Store:
    return rd.from_atomic(root, feedback=RULES, stores=stores)


def prepared(name: str) -> Prepare:
    return lambda root, stores: rd.prepare(name, root, stores=stores)


DATASETS: dict[str, tuple[layouts.Files, Prepare]] = {
    "ml-100k": (layouts.movielens("ml-100k"), prepared("ml-100k")),
    "ml-1m": (layouts.movielens("ml-1m"), prepared("ml-1m")),
    "ml-25m": (layouts.movielens("ml-25m"), prepared("ml-25m")),
    "atomic": (layouts.ATOMIC, atomic),
    "open-bandit": (layouts.open_bandit(), prepared("open-bandit")),
}
changes_of_a_file = st.lists(mutation, min_size=1, max_size=4)


def loads_or_says_why(dataset: str, target: str, change: Callable[[bytes], bytes]) -> None:
    files, prepare = DATASETS[dataset]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", rd.RowsAsClustersWarning)
        content = files[target]
        changed = change(content.encode() if isinstance(content, str) else content)
        layouts.write(Path(folder), {**files, target: changed})
        stores = Path(folder, "stores")
        try:
            store = prepare(folder, str(stores))
        except RecrlError as error:
            says_why(error, stores)
        else:
            log = store.log()
            assert log.n_rows + store.manifest.duplicate_rows == store.manifest.rows
            assert rd.sessions(log).users.count == store.users.height


@pytest.mark.parametrize("dataset", DATASETS)
@settings(max_examples=45)
@given(data=st.data())
def test_no_loader_fails_oddly(dataset: str, data: st.DataObject) -> None:
    target = data.draw(st.sampled_from(sorted(DATASETS[dataset][0])))
    changes, packed = data.draw(changes_of_a_file), data.draw(st.booleans())
    loads_or_says_why(
        dataset, target, lambda content: gzip.compress(mutate(content, changes), mtime=0) if packed else mutate(content, changes)
    )


@pytest.mark.parametrize("dataset", DATASETS)
@settings(max_examples=10)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_cut_gzip_never_fails_oddly(dataset: str, cut: float) -> None:
    target = min(DATASETS[dataset][0])

    def torn(content: bytes) -> bytes:
        packed = gzip.compress(content, mtime=0)
        return packed[: int(cut * len(packed))]

    loads_or_says_why(dataset, target, torn)


@settings(max_examples=45)
@given(
    columns=st.dictionaries(
        st.sampled_from(
            ["user_id", "item_id", "timestamp_ms", "rating", "click", "action", "session_id", "position", "local_date", "item"]
        ),
        st.sampled_from(["user_id", "item_id", "timestamp", "rating", "place", "", "nothing"]),
        max_size=4,
    ),
    feedback=st.dictionaries(
        st.sampled_from(["click", "like", "hate", "joy"]),
        st.sampled_from(["rating:3", "rating", "place", "user_id:1", "timestamp:1.7e9", "rating:", ":", "rating:inf", ""]),
        max_size=3,
    ),
    unit=st.sampled_from(["auto", "s", "ms", "us", "rows", "days"]),
)
def test_no_options_of_atomic_files_fail_oddly(columns: dict[str, str], feedback: dict[str, str], unit: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        layouts.write(Path(folder), layouts.ATOMIC)
        stores = Path(folder, "stores")
        try:
            store = rd.from_atomic(folder, columns=columns, feedback=feedback, timestamp_unit=unit, stores=stores)  # type: ignore[arg-type]
        except RecrlError as error:
            says_why(error, stores)
        else:
            assert store.log().n_rows + store.manifest.duplicate_rows == 3
