"""report.html: whole, self-contained, escaped."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl

from dashboards.report import render, write_report
from dashboards.serve import command
from recrl.core.runs import RunFolder
from tests.dashboard.make_run import all_tables, make_run


def outside_scripts(page: str) -> str:
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_the_report_holds_every_stage_its_reading_and_the_configuration(tmp_path: Path) -> None:
    path = write_report(make_run(tmp_path / "demo"))
    assert path == tmp_path / "demo" / "artifacts" / "report.html"
    page = path.read_text()
    text = outside_scripts(page).replace("\u00a0", " ")
    for wanted in (
        "100,000 rows of 943 users",
        "td3_bc, at update 1,980",
        "highest usable estimate is td3_bc by ncis",
        "Scenario weaker response: Of 2 arms, td3_bc does best",
        "20,000 simulated users an arm over 30 days",
        "✕ do not use",
        "recrl dashboard --runs",
        "&quot;max_gap_days&quot;: 10",
        "polars",
    ):
        assert wanted in text, wanted
    assert page.count('class="plotly-graph-div"') >= 15


def test_the_report_asks_nothing_of_the_network(tmp_path: Path) -> None:
    page = render(make_run(tmp_path / "demo"))
    assert len(re.findall(r"plotly\.js v\d", page)) == 1, "plotly.js is inlined once"
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", outside_scripts(page))
    assert "<script src" not in page
    assert '<link rel="stylesheet"' not in page


def test_a_bare_run_still_has_a_report_that_says_what_is_absent(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "bare", kind="train", config={}, seed=0)
    page = outside_scripts(render(run))
    assert "Not part of this run: this run holds no data summary." in page
    assert "This run logged no training metrics." in page


def test_foreign_text_is_escaped(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><b>x"
    tables = {
        name: frame.with_columns(pl.lit(hostile).alias(column) for column, kind in frame.schema.items() if kind == pl.String)
        for name, frame in all_tables().items()
    }
    run = make_run(tmp_path / hostile.replace("/", "∕"), tables=tables)
    run.set_status("failed", message=hostile)
    page = render(run)
    assert "<script>alert(1)" not in page
    assert "<b>x" not in outside_scripts(page)


def test_the_server_listens_on_this_machine_only_and_asks_nothing(tmp_path: Path) -> None:
    words = command(tmp_path, 8123)
    assert "--server.address=127.0.0.1" in words
    assert "--server.port=8123" in words
    assert "--server.headless=true" in words
    assert "--browser.gatherUsageStats=false" in words
    assert words[words.index("--") :] == ["--", "--runs", str(tmp_path)]
