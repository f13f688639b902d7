"""``recrl data prepare`` for the datasets that need more than a name: atomic files, campaigns and loggers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recrl.cli import main
from tests.support import layouts


def prepare(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main(["data", "prepare", *words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert "Warning" not in err
    return json.loads(out.strip().splitlines()[-1])


def test_atomic_files_with_their_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    inter = str(layouts.ATOMIC["shop.inter"]).replace("timestamp:", "when:")
    root = layouts.write(tmp_path / "files", {**layouts.ATOMIC, "shop.inter": inter})
    words = ["mine", "--atomic", str(root), "--columns", "timestamp_ms=when", "rating=", "--feedback", "click=rating:3", "like=rating:5"]
    done = prepare(capsys, *words, "--timestamp-unit", "s", "--stores", str(tmp_path / "stores"))
    assert (done["name"], done["rows"], done["users"], done["items"]) == ("mine", 3, 2, 2)
    assert main(["data", "list", "--stores", str(tmp_path / "stores"), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert [store["name"] for store in listed["stores"]] == ["mine"]
    assert {d["name"] for d in listed["datasets"]} >= {"ml-1m", "ml-32m", "open-bandit", "open-bandit-women-bts"}


def test_rows_as_clusters_are_a_finding_not_a_python_warning(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = layouts.write(tmp_path / "files", layouts.open_bandit("men"))
    done = prepare(capsys, "open-bandit-men", "--root", str(root), "--stores", str(tmp_path / "stores"))
    assert done["rows"] == 6
    assert "rows are their own clusters" in {finding["check"] for finding in done["findings"]}  # type: ignore[attr-defined]


MISTAKES = [
    (["mine", "--atomic", "FILES", "--columns", "when"], "'when' is not a pair"),
    (["mine", "--atomic", "FILES", "--feedback", "click=rating", "click=rating:3"], "'click' is given twice"),
    (["mine", "--atomic", "FILES", "--root", "FILES"], "--root and --atomic are both given"),
    (["mine", "--atomic", "FILES", "--timestamp-unit", "days"], "days"),
    (["ml-100k", "--atomic", "FILES"], "'ml-100k' is the name of a registered dataset"),
    (["ml-100k", "--timestamp-unit", "s"], "--timestamp-unit goes with --log or --atomic"),
    (["ml-100k", "--feedback", "click=rating:3"], "--feedback goes with --log or --atomic"),
]


@pytest.mark.parametrize(("words", "what"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_mistakes(words: list[str], what: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = layouts.write(tmp_path / "files", layouts.ATOMIC)
    stores = tmp_path / "stores"
    assert main(["data", "prepare", *(word.replace("FILES", str(root)) for word in words), "--stores", str(stores)]) == 2
    out, err = capsys.readouterr()
    assert what in " ".join((out + err).replace("│", " ").split())
    assert not stores.exists()
