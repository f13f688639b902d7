"""``recrl data download | prepare --log | append``: what a user types, what is printed, and what mistakes say."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

import recrl_datasets as rd
from recrl.cli import main
from tests.cli.test_verbs import call
from tests.data.conftest import MOVIELENS
from tests.data.hosting import FILES, Host, Publish, publishing, serving, tree, zipped


@pytest.fixture
def host() -> Iterator[Host]:
    with serving() as host:
        yield host


@pytest.fixture
def publish(host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Publish:
    monkeypatch.chdir(tmp_path)
    return publishing(host, monkeypatch)


def test_download_says_what_comes_next(publish, capsys):
    toy = publish(zipped())
    done = call(capsys, "data", "download", "toy", "--to", "my data")
    assert done == {
        "name": "toy",
        "folder": "my data/toy-set",
        "fetched": True,
        "checked": f"the owners' {toy.checksum.replace(':', ' ')}",
        "notes": [],
        "next": "recrl data prepare toy --root 'my data/toy-set'",
    }
    assert tree(Path("my data/toy-set")) == FILES
    assert call(capsys, "data", "download", "toy", "--to", "my data")["fetched"] is False


def test_download_shows_address_size_and_licence(publish, capsys):
    toy = publish(zipped())
    assert main(["data", "download", "toy"]) == 0
    out = capsys.readouterr().out
    for shown in (toy.address, "about 20,000 bytes unpacked", "CC BY 4.0", "https://terms", "next: recrl data prepare toy --root"):
        assert shown in out
    assert main(["data", "download", "toy"]) == 0
    out = capsys.readouterr().out
    assert "already there: downloads/toy-set" in out
    assert "licence" not in out


def test_download_prepares_at_once(publish, capsys):
    publish(zipped({name: text.encode() for name, text in MOVIELENS.items()}, top="ml/"), name="ml-100k", asks=True)
    done = call(capsys, "data", "download", "ml-100k", "--yes", "--prepare")
    assert (done["prepared"]["rows"], done["prepared"]["path"]) == (3, "stores/ml-100k")


@pytest.mark.parametrize("flag", ["--yes", "--accept-licence"])
def test_a_flag_consents(flag, publish, capsys):
    publish(zipped(), asks=True)
    assert call(capsys, "data", "download", "toy", flag)["fetched"] is True


def test_nobody_consents_without_a_terminal(host, publish, capsys):
    publish(zipped(), asks=True)
    assert main(["data", "download", "toy", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["where"] == "https://terms"
    assert "--accept-licence" in error["mend"]
    assert host.log == []


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("Yes", 0), ("n", 2), ("", 2), (None, 2)])
def test_a_terminal_is_asked(answer, status, host, publish, capsys, monkeypatch):
    publish(zipped(), asks=True)
    asked = []

    def reply(prompt):
        asked.append(prompt)
        if answer is None:
            raise EOFError
        return answer

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", reply)
    assert main(["data", "download", "toy"]) == status
    assert "https://terms" in asked[0]
    assert len(host.log) == (status == 0)


def test_ctrl_c_keeps_what_came(host, publish, capsys, monkeypatch):
    publish(content := zipped())
    host.cuts = [2000]

    def stop(seconds):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("time.sleep", stop)
        assert main(["data", "download", "toy"]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert Path("downloads/set.zip.part").stat().st_size == 2000
    assert call(capsys, "data", "download", "toy")["fetched"] is True
    assert host.sent == len(content)


def test_an_unknown_name(capsys):
    assert main(["data", "download", "netflix"]) == 2
    assert "recrl knows no address of 'netflix'" in capsys.readouterr().err


DAYS = {
    "monday.csv": "uid,film,at,stars\nann,7,1700000000,5\nann,9,1700000060,2\nbob,7,1700000100,4\n",
    "tuesday.csv": "uid,film,at,stars\n007,11,1700090000,4\nbob,7,1700000100,4\n",
}
OWN = ["--columns", "user_id=uid", "item_id=film", "timestamp_ms=at", "rating=stars", "--feedback", "click=stars:4"]


@pytest.fixture
def days(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in DAYS.items():
        Path(name).write_text(text)


def test_a_log_of_ones_own_grows(days, capsys):
    monday = call(capsys, "data", "prepare", "mine", "--log", "monday.csv", *OWN)
    assert (monday["rows"], monday["users"], monday["items"], monday["path"]) == (3, 2, 2, "stores/mine")
    grown = call(capsys, "data", "append", "mine", "--log", "tuesday.csv", *OWN)
    assert grown["before"] == {"rows": 3, "random_rows": 0, "duplicate_rows": 0, "users": 2, "items": 2}
    assert grown["now"] == {"rows": 5, "random_rows": 0, "duplicate_rows": 1, "users": 3, "items": 3}
    assert grown["changed"] is True
    again = call(capsys, "data", "append", "stores/mine", "--log", "tuesday.csv", *OWN)
    assert (again["changed"], again["content_hash"]) == (False, grown["content_hash"])
    whole = "uid,film,at,stars\n" + "".join(text.split("\n", 1)[1] for text in DAYS.values())
    Path("whole.csv").write_text(whole)
    assert call(capsys, "data", "prepare", "whole", "--log", "whole.csv", *OWN)["content_hash"] == grown["content_hash"]
    store = rd.open_store("stores/mine")
    assert store.users["user_id"].to_list() == ["007", "ann", "bob"]
    assert store.log().frame().select("click", "rating").rows() == [(1, 4.0), (1, 5.0), (0, 2.0), (1, 4.0)]


def test_append_prints_what_changed(days, capsys):
    assert main(["data", "prepare", "mine", "--log", "monday.csv", *OWN]) == 0
    assert main(["data", "append", "mine", "--log", "tuesday.csv", *OWN]) == 0
    lines = [line.split() for line in capsys.readouterr().out.replace("│", " ").splitlines()]
    assert ["rows", "3", "5", "+2"] in lines
    assert ["duplicate", "rows", "0", "1", "+1"] in lines
    assert main(["data", "append", "mine", "--log", "tuesday.csv", *OWN]) == 0
    assert "appended before: nothing to do" in capsys.readouterr().out


def test_features_of_ones_own(days, capsys):
    Path("people.csv").write_text("uid,age\nann,30\nbob,40\n")
    Path("films.tsv").write_text("item_id\tgenre\n7\tdrama\n")
    call(capsys, "data", "prepare", "mine", "--log", "monday.csv", *OWN, "--users", "people.csv", "--items", "films.tsv")
    Path("people.csv").write_text("user_id,age\n007,50\nbob,41\n")
    call(capsys, "data", "append", "mine", "--log", "tuesday.csv", *OWN, "--users", "people.csv")
    store = rd.open_store("stores/mine")
    assert store.users["age"].to_list() == [50, 30, 41]
    assert store.items["genre"].to_list() == ["drama", None, None]


def test_parquet_and_times_as_text(days, capsys):
    table = pl.DataFrame({"user_id": [1], "item_id": [2], "timestamp_ms": [1_700_000_000_000], "click": [True]})
    table.write_parquet("a.parquet")
    call(capsys, "data", "prepare", "mine", "--log", "a.parquet")
    Path("b.csv").write_text("user_id;item_id;timestamp_ms;click\n1;3;2023-11-14 22:13:21;false\n2;3;2023-11-14 22:13:22.5;true\n")
    call(capsys, "data", "append", "mine", "--log", "b.csv")
    log = rd.open_store("stores/mine").log()
    assert (log.column("timestamp_ms") - 1_700_000_000_000).tolist() == [0, 1000, 2500]
    assert log.column("click").tolist() == [1, 0, 1]


def test_new_files_of_a_registered_dataset(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    header, *ratings = MOVIELENS["ml-100k.inter"].splitlines()
    for name, rows in (("a", ratings[:1]), ("b", ratings[1:])):
        Path(name).mkdir()
        for file, text in {**MOVIELENS, "ml-100k.inter": "\n".join((header, *rows)) + "\n"}.items():
            (Path(name) / file).write_text(text)
    call(capsys, "data", "prepare", "ml-100k", "--root", "a")
    assert call(capsys, "data", "append", "ml-100k", "--root", "b")["now"]["rows"] == 3
    assert call(capsys, "data", "append", "ml-100k", "--root", "a")["changed"] is False
    assert call(capsys, "data", "describe", "ml-100k", "--root", "a")["data_summary"][0]["rows"] == 3


MISTAKES = [
    (["prepare", "mine", "--log", "nowhere.csv"], "there is no file nowhere.csv", "check the path"),
    (["prepare", "ml-100k", "--log", "monday.csv", *OWN], "'ml-100k' is the name of a registered dataset", "choose another name"),
    (["prepare", "mine", "--log", "monday.csv"], "column 'item_id' is missing; there are: uid, film, at, stars", "give --columns item_id="),
    (["prepare", "mine", "--log", "monday.csv", "--columns", "item_id"], "'item_id' is not a pair", "write our name"),
    (["prepare", "mine", "--log", "monday.csv", "--columns", "item_id=movie"], "no column 'movie'", "there are: uid, film, at, stars"),
    (["prepare", "mine", "--log", "monday.csv", *OWN[:-1], "like=stars:many"], "does not say what makes 'like'", "the least value"),
    (["prepare", "mine", "--log", "bad.csv", *OWN], "column 'film' (as item_id) holds a missing value", "fill it"),
    (["prepare", "mine", "--log", "short.csv", *OWN], "3 fields instead of 4", "correct the line"),
    (["prepare", "mine", "--log", "log.xlsx", *OWN], "log.xlsx is of no known kind", "give a .parquet, .csv or .tsv file"),
    (["prepare", "mine", "--log", "broken.parquet"], "broken.parquet cannot be read as Parquet", "write or copy the file again"),
    (["prepare", "mine", "--log", "monday.csv", *OWN, "--timestamp-unit", "rows"], "times cannot be made", "give a column of times"),
    (["prepare", "mine", "--log", "monday.csv", "--root", "."], "--root and --log are both given", "give one of them"),
    (["prepare", "ml-100k", "--users", "monday.csv"], "--users goes with --log", "give --log, or leave it out"),
    (["append", "mine", "--log", "monday.csv", *OWN], "no store in stores/mine", "recrl data prepare"),
]


@pytest.mark.parametrize(("words", "what", "mend"), MISTAKES, ids=[" ".join(words[2:5]) for words, _, _ in MISTAKES])
def test_mistakes_about_files(words, what, mend, days, capsys):
    Path("bad.csv").write_text("uid,film,at,stars\nann,7,1700000000,5\nbob,,1700000060,2\n")
    Path("short.csv").write_text("uid,film,at,stars\nann,7,1700000000,5\nbob,7,1700000060\n")
    Path("log.xlsx").write_text("x")
    Path("broken.parquet").write_text("PAR1")
    assert main(["data", *words]) == 2
    err = capsys.readouterr().err
    assert what in err
    assert mend in err
    assert not Path("stores").exists() or not list(Path("stores").iterdir())


def test_mistakes_of_append_leave_the_store(days, capsys):
    made = call(capsys, "data", "prepare", "mine", "--log", "monday.csv", *OWN)
    Path("lacks.csv").write_text("uid,film,at,rated\nbob,7,1700000060,5\n")
    Path("text.csv").write_text("uid,film,at,stars\nbob,x7,1700000060,5\n")
    for words, what in (
        (["--log", "lacks.csv", *OWN[:4], *OWN[5:]], "'click' cannot be computed"),
        (["--log", "lacks.csv", *OWN[:4], "rating=rated"], "column 'click' of the store is missing in the new rows"),
        (["--log", "text.csv", *OWN], "column 'item_id' holds numbers in the store and text in the new rows ('x7')"),
        (["--log", "monday.csv"], "column 'item_id' is missing"),
        (["--root", "."], "'mine' is not a registered dataset"),
        ([], "there is nothing to append"),
        (["--columns", "user_id=uid"], "--columns goes with --log"),
    ):
        assert main(["data", "append", "mine", *words]) == 2
        assert what in capsys.readouterr().err
    assert rd.open_store("stores/mine").content_hash == made["content_hash"]
