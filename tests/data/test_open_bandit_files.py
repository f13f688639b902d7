"""The Open Bandit Dataset: made-up files in the official layout, OBP's sample where it is installed, and the failure table."""

from __future__ import annotations

import gzip
import importlib.util
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import recrl_datasets as rd
from recrl.core.errors import DataError, MissingDependencyError, StorageError
from recrl_datasets.loaders import open_bandit
from recrl_datasets.loaders.reading import read_text_pieces
from tests.support import layouts

pytestmark = pytest.mark.filterwarnings("ignore::recrl_datasets.RowsAsClustersWarning")
LOG, ITEMS = "random/all/all.csv", "random/all/item_context.csv"
AGAIN = "download or copy the file again"
CORRECT = "correct the value, or leave the line out"
FILES = layouts.open_bandit()


@pytest.fixture(scope="session")
def sample() -> Path:
    """OBP's small sample; the test is skipped where OBP is absent."""
    spec = importlib.util.find_spec("obp")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("SKIPPED: OBP's sample is absent; pip install --no-deps --ignore-requires-python obp==0.5.7")
    return Path(next(iter(spec.submodule_search_locations))) / "dataset" / "obd"


def test_both_logs_give_the_rows_that_they_were_made_of(tmp_path: Path) -> None:
    with pytest.warns(rd.RowsAsClustersWarning, match="every row is its own cluster"):
        store = rd.prepare("open-bandit", layouts.write(tmp_path / "files", FILES), stores=tmp_path / "stores")
    found = store.log().frame().to_dict(as_series=False)
    start = 1_574_553_600_000  # 2019-11-24 00:00 UTC
    assert (store.manifest.rows, store.manifest.users, store.manifest.items) == (6, 6, 2)
    assert found["timestamp_ms"] == [start + 17_004, start + 18_000, start + 19_999, start + 16_500, start + 16_750, start + 172_799_123]
    assert found["logger_id"] == ["random"] * 3 + ["bts"] * 3
    assert found["is_random_exposure"] == [1, 1, 1, 0, 0, 0]
    assert found["item"] == [1, 0, 1, 0, 1, 0]
    assert found["position"] == [2, 0, 1, 0, 1, 2]
    assert found["click"] == [0, 1, 0, 0, 1, 0]
    assert found["propensity"] == pytest.approx([0.5, 0.5, 0.5, 0.9, 1e-6, 1.0])
    assert [found[f"user_feature_{k}"] for k in range(4)] == [
        ["u0", "u0", "u5", "u0", "u5", "u0"],
        ["u1"] * 6,
        ["u2", "u9", "u2", "u2", "u2", "u2"],
        ["u3"] * 5 + ["u4"],
    ]
    assert store.items["item_feature_0"].to_list() == [0.25, -0.75]
    assert store.items["item_feature_1"].to_list() == ["randoma0", "randoma1"]
    assert store.users.columns == ["user", "user_id"]
    assert {f.check: f.count for f in store.manifest.findings} == {
        "rows are their own clusters": 6,
        "item features of one log": 2,
        "columns left out": 2,
    }
    quality = rd.describe(store)["data_quality"]
    assert "no random exposure" not in quality["check"].to_list()


@pytest.mark.parametrize("campaign", ["all", "men", "women"])
def test_each_campaign_and_logger_can_be_chosen(campaign: str, tmp_path: Path) -> None:
    root = tmp_path / "above" / "open_bandit_dataset"
    layouts.write(root, layouts.open_bandit(campaign), packed=campaign == "men")
    name = "open-bandit" + ("" if campaign == "all" else f"-{campaign}")
    both = rd.prepare(name, tmp_path / "above", stores=tmp_path / "stores").log().frame()
    for logger in ("random", "bts"):
        store = rd.prepare(f"{name}-{logger}", tmp_path / "above", stores=tmp_path / "stores")
        one = store.log().frame()
        assert one.drop("user", "item").equals(both.filter(pl.col("logger_id") == logger).drop("user", "item"))
        assert store.items["item_feature_1"].to_list() == [f"{logger}a0", f"{logger}a1"]


def test_pieces_make_the_same_store_and_name_the_same_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = str(FILES[LOG]).splitlines()
    many = "\n".join([lines[0], *(lines[1 + k % 3] for k in range(300))]) + "\n"
    root = layouts.write(tmp_path / "files", {**FILES, LOG: many})
    whole = rd.prepare("open-bandit", root, stores=tmp_path / "whole")
    monkeypatch.setattr(open_bandit, "read_text_pieces", partial(read_text_pieces, piece_bytes=1500))
    store = rd.prepare("open-bandit", root, stores=tmp_path / "pieces")
    assert store.content_hash == whole.content_hash
    assert store.users["user_id"].to_list() == list(range(303))
    layouts.write(root, {LOG: many + lines[1].replace("0.5", "0")})
    with pytest.raises(DataError) as caught:
        rd.prepare("open-bandit", root, stores=tmp_path / "bad")
    assert caught.value.where == f"{root / LOG}, line 302"


def test_logs_that_group_items_differently_are_told(tmp_path: Path) -> None:
    for k, bad in enumerate((str(FILES[ITEMS]).replace("randoma1", "randoma0"), str(FILES[ITEMS]).replace("item_feature_2", "colour"))):
        store = rd.prepare("open-bandit", layouts.write(tmp_path / "files", {**FILES, ITEMS: bad}), stores=tmp_path / f"{k}")
        assert {f.check: f.severity for f in store.manifest.findings}["item features differ"] == "warning"


def bad(old: str, new: str, file: str = LOG) -> bytes:
    """A file with one text replaced."""
    text = str(FILES[file])
    assert old in text
    return text.replace(old, new, 1).encode()


COLUMNS = "name the columns as the dataset's owners do, or load your own table with recrl_datasets.from_frame"
TIME = "not a time such as 2019-11-24 00:00:17.004101+00:00"
FAILURES: dict[str, tuple[str, bytes, str, str, str]] = {
    "empty": (LOG, b"", "the file is empty", "", AGAIN),
    "header only": (LOG, str(FILES[LOG]).splitlines()[0].encode(), "the file has a header but no rows", "", AGAIN),
    "items: empty": (ITEMS, b"\n", "the file is empty", "", AGAIN),
    "semicolons": (
        LOG,
        str(FILES[LOG]).replace(",", ";").encode(),
        "columns are separated by semicolons, not commas",
        ", line 1",
        "save the file with commas",
    ),
    "missing column": (
        LOG,
        bad("propensity_score", "action_prob"),
        "column 'propensity_score' is missing",
        "",
        COLUMNS,
    ),
    "no visitor": (LOG, bad("user_feature_2", "visitor_2"), "column 'user_feature_2' is missing", "", COLUMNS),
    "items without id": (ITEMS, bad("item_id", "item", ITEMS), "column 'item_id' is missing", "", "did you mean 'item'? " + COLUMNS),
    "column twice": (
        LOG,
        bad("user_feature_1", "user_feature_0"),
        "column 'user_feature_0' appears twice (columns 7 and 8)",
        ", line 1",
        "remove or rename one of them",
    ),
    "short line": (LOG, bad(",0.0,0.0", ",0.0"), "11 fields instead of 12", ", line 3", "correct the line, or " + AGAIN),
    "no zone": (
        LOG,
        bad("18+00:00", "18"),
        f"column 'timestamp' (as timestamp_ms) holds '2019-11-24 00:00:18': {TIME}",
        ", line 3",
        CORRECT,
    ),
    "no date": (
        LOG,
        bad("2019-11-24 00:00:18", "2019-11-31 00:00:18"),
        f"column 'timestamp' (as timestamp_ms) holds '2019-11-31 00:00:18+00:00': {TIME}",
        ", line 3",
        CORRECT,
    ),
    "seconds": (
        LOG,
        bad("2019-11-24 00:00:18+00:00", "1574553618"),
        f"column 'timestamp' (as timestamp_ms) holds '1574553618': {TIME}",
        ", line 3",
        CORRECT,
    ),
    "another century": (
        LOG,
        bad("2019-11-24 00:00:18", "1919-11-24 00:00:18"),
        "column 'timestamp' (as timestamp_ms) holds datetime.datetime(1919, 11, 24, 0, 0, 18, tzinfo=zoneinfo.ZoneInfo(key='UTC')): "
        "a time before 1970",
        ", line 3",
        "leave those rows out, or correct them",
    ),
    "no time": (
        LOG,
        bad("2019-11-24 00:00:18+00:00", ""),
        "column 'timestamp' (as timestamp_ms) holds a missing value: a value is needed in every row",
        ", line 3",
        "fill it, or leave those rows out",
    ),
    "position 0": (LOG, bad(",0,1,1,0.5", ",0,0,1,0.5"), "column 'position' holds 0: not a place from 1 to 3", ", line 3", CORRECT),
    "position 4": (LOG, bad(",0,1,1,0.5", ",0,4,1,0.5"), "column 'position' holds 4: not a place from 1 to 3", ", line 3", CORRECT),
    "no position": (
        LOG,
        bad(",0,1,1,0.5", ",0,,1,0.5"),
        "column 'position' holds a missing value: a value is needed in every row",
        ", line 3",
        "fill it, leave those rows out, or leave the column out",
    ),
    "two clicks": (
        LOG,
        bad(",0,1,1,0.5", ",0,1,2,0.5"),
        "column 'click' holds 2: not 0 or 1",
        ", line 3",
        "give 0 or 1; map other codes first",
    ),
    "no chance": (
        LOG,
        bad(",0,1,1,0.5", ",0,1,1,0.0"),
        "column 'propensity_score' (as propensity) holds 0.0: must be above 0",
        ", line 3",
        "correct those rows, or leave them out",
    ),
    "more than sure": (
        LOG,
        bad(",0,1,1,0.5", ",0,1,1,1.5"),
        "column 'propensity_score' (as propensity) holds 1.5: must be at most 1",
        ", line 3",
        "correct those rows, or leave them out",
    ),
    "NaN": (
        LOG,
        bad(",0,1,1,0.5", ",0,1,1,nan"),
        "column 'propensity_score' (as propensity) holds a missing value: a value is needed in every row",
        ", line 3",
        "fill it, leave those rows out, or leave the column out",
    ),
    "huge": (
        LOG,
        bad(",0,1,1,0.5", ",0,1,1,1e300"),
        "column 'propensity_score' (as propensity) holds 1e+300: not a finite number",
        ", line 3",
        "correct those rows, or leave them out",
    ),
    "text as item": (LOG, bad("00,0,1,1", "00,shoe,1,1"), "column 'item_id' holds 'shoe': not a whole number", ", line 3", CORRECT),
    "item twice": (ITEMS, bad("1,1,", "1,0,", ITEMS), "item_id 0 has 2 rows", "", "keep one row for each id"),
    "cut gzip": (LOG, gzip.compress(str(FILES[LOG]).encode() * 40, mtime=0)[:-10], "the gzip file is cut off or broken", "", AGAIN),
    "binary": (LOG, b"\x00,\x01\n", "the file is not delimited text", "", AGAIN),
    "Latin-1": (
        LOG,
        bad("u9", "é").decode().encode("latin-1"),
        "byte 0xe9 is not UTF-8 text",
        ", line 3",
        "save the file as UTF-8",
    ),
    "zip": (ITEMS, b"PK\x03\x04 and so on", "the file is a zip archive", "", "unpack it first"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_bad_file_gives_its_exact_message_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    file, content, what, where, mend = FAILURES[case]
    root = layouts.write(tmp_path / "files", {**FILES, file: content})
    with pytest.raises(DataError) as caught:
        rd.prepare("open-bandit", root, stores=tmp_path / "stores")
    place = "item features" if case == "item twice" else f"{root / file}{where}"
    assert (caught.value.what.split(";")[0], caught.value.where, caught.value.mend) == (what, place, mend)
    assert not list((tmp_path / "stores").glob("*"))


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    root = layouts.write(tmp_path / "files", {file: content for file, content in FILES.items() if file != name})
    with pytest.raises(StorageError) as caught:
        rd.prepare("open-bandit", root, stores=tmp_path / "stores")
    assert caught.value.what == f"the Open Bandit Dataset is not in {root}: {name} not found"
    alone = "random" if name.startswith("bts") else "bts"
    assert rd.prepare(f"open-bandit-{alone}", root, stores=tmp_path / "stores").manifest.rows == 3


def test_harmless_deviations_are_read(tmp_path: Path) -> None:
    plain = rd.prepare("open-bandit", layouts.write(tmp_path / "plain", FILES), stores=tmp_path / "a")
    log = "\ufeff" + str(FILES[LOG]).replace("\n", "\r\n") + "\r\n\r\n"
    items = "\n".join(line.partition(",")[2] for line in str(FILES[ITEMS]).splitlines())
    root = layouts.write(tmp_path / "odd", {**FILES, LOG: log, ITEMS: items})
    assert rd.prepare("open-bandit", root, stores=tmp_path / "b").content_hash == plain.content_hash


def test_without_obp_and_root_it_says_how_to_get_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError) as caught:
        rd.prepare("open-bandit-men", stores=tmp_path)
    assert caught.value.what == "the small sample of the Open Bandit Dataset comes with OBP, which is not installed"
    assert caught.value.mend.startswith("`pip install --no-deps --ignore-requires-python obp==0.5.7`, or give --root")


@pytest.mark.parametrize(("campaign", "items", "clicks"), [("all", 80, (38, 42)), ("men", 34, (46, 69)), ("women", 46, (46, 46))])
def test_obps_sample(campaign: str, items: int, clicks: tuple[int, int], sample: Path, tmp_path: Path) -> None:
    name = "open-bandit" + ("" if campaign == "all" else f"-{campaign}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rd.RowsAsClustersWarning)
        store = rd.prepare(name, stores=tmp_path)
    log = store.log()
    assert (log.n_rows, store.manifest.users, store.manifest.items) == (20_000, 20_000, items)
    random = log.column("logger_id") == log.categories("logger_id").index("random")
    assert (int(log.column("click")[random].sum()), int(log.column("click")[~random].sum())) == clicks
    np.testing.assert_allclose(log.column("propensity")[random], 1 / items, rtol=1e-6)
    assert set(np.unique(log.column("position"))) == {0, 1, 2}
    first = pl.read_csv(sample / "random" / campaign / f"{campaign}.csv", columns=["timestamp"], n_rows=1).item()
    expected = np.datetime64(first.split("+")[0], "us").astype("datetime64[ms]").astype(np.int64)
    assert log.column("timestamp_ms")[0] == expected
    checks = {f.check: f.severity for f in store.manifest.findings}
    assert checks["a sample"] == "warning"
    assert "item features differ" not in checks
