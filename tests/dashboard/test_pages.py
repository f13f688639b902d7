"""The pages by themselves (Streamlit's AppTest): whole, empty, broken and hostile run folders."""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys
from itertools import cycle, islice
from pathlib import Path

import polars as pl
import pytest
from streamlit.testing.v1 import AppTest

from dashboards import queries, seeds
from recrl.core.runs import RunFolder
from tests.conftest import REPOSITORY
from tests.dashboard.make_run import all_tables, make_run, metric_rows

PAGES = ("home", "data", "training", "estimates", "simulator", "ab", "plan", "label", "compare")
HOSTILE = '<img src=x onerror="alert(1)"><script>alert(2)</script>[a](javascript:alert(3)) ![i](http://example.invalid/x.png) :red[r] $x$'
LINE = HOSTILE.replace("/", "∕")


def open_page(page: str, runs: Path, monkeypatch: pytest.MonkeyPatch, run: str | None = None) -> AppTest:
    monkeypatch.setenv("RECRL_RUNS", str(runs))
    app = AppTest.from_string(f"from dashboards.pages import {page}\n{page}.page()", default_timeout=30)
    if run is not None:
        app.query_params["run"] = run
    app.run()
    assert not app.exception, [element.message for element in app.exception]
    return app


def text_of(app: AppTest) -> str:
    return "\n".join(str(element.value) for kind in ("title", "subheader", "markdown", "caption", "code") for element in app.get(kind))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with one whole run, for reading only."""
    root = tmp_path_factory.mktemp("whole") / "runs"
    make_run(root / "demo")
    return root


@pytest.mark.parametrize("page", PAGES)
def test_each_page_shows_the_run(page: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = text_of(open_page(page, runs, monkeypatch, "demo")).replace("\\", "").replace("\u00a0", " ")
    wanted = {
        "home": "Of 2 arms, td3_bc does best against popularity",
        "data": "100,000 rows of 943 users",
        "training": "td3_bc, at update 1,980",
        "estimates": "highest usable estimate is td3_bc by ncis: 60.50 %",
        "plan": "users an arm show an effect of 0.42 pp",
        "label": "Start labelling",
        "compare": "Compare runs on one log and one split only",
        "simulator": "2 of 2 fitted quantities lie within",
        "ab": "Scenario fitted · 1.2 M user steps in 48 s",
    }
    assert wanted[page] in shown


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_root_says_what_to_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = text_of(open_page(page, tmp_path / "absent", monkeypatch))
    # simulated users can be labelled without any run
    for wanted in ("Start labelling",) if page == "label" else ("No runs yet", "make demo"):
        assert wanted in shown


@pytest.mark.parametrize("name", ["../demo", "/etc/passwd", "nobody", "..%2Fdemo", HOSTILE])
def test_a_foreign_run_in_the_url_is_a_message(name: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = text_of(open_page("data", runs, monkeypatch, name))
    assert "No run named" in shown
    assert "943" not in shown


@pytest.mark.parametrize("page", PAGES)
def test_missing_tables_are_messages_that_say_what_to_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RunFolder.create(tmp_path / "runs" / "bare", kind="train", config={}, seed=0).set_status("done", done=1.0)
    shown = text_of(open_page(page, tmp_path / "runs", monkeypatch, "bare"))
    if page not in ("home", "plan", "label"):
        assert "recrl demo" in shown
        assert "This run " in shown


def hostile() -> dict[str, pl.DataFrame]:
    """Every table with markup, a direction character and no end in each text."""
    long = HOSTILE + "\u202e" + "x" * 100_000
    return {
        name: frame.with_columns(pl.lit(long).alias(column) for column, kind in frame.schema.items() if kind == pl.String)
        for name, frame in all_tables().items()
    }


def odd() -> dict[str, pl.DataFrame]:
    """Every table with numbers that are none."""
    values = cycle([math.nan, None, math.inf, -math.inf, 1e130])
    tables = {}
    for name, frame in all_tables().items():
        numbers = [column for column, kind in frame.schema.items() if kind == pl.Float64]
        tables[name] = frame.with_columns(pl.Series(column, islice(values, frame.height), pl.Float64) for column in numbers)
    return tables


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with runs that are no good, for reading only: half-written, empty, odd, hostile, old."""
    root = tmp_path_factory.mktemp("bad") / "runs"
    half = make_run(root / "half")
    parts = [*half.path.glob("artifacts/*.parquet"), *half.path.glob("metrics/*/*.parquet")]
    for path, left in zip(parts, cycle([0, 4, 200, -8]), strict=False):
        path.write_bytes(path.read_bytes()[:left])
    (half.path / "config.json").unlink()
    make_run(root / "empty", tables={name: frame.clear() for name, frame in all_tables().items()})
    make_run(root / "odd", tables=odd())
    run = make_run(root / LINE, tables=hostile())
    long = HOSTILE + "\u202e" + "x" * 100_000
    run.append_metrics("train-" + LINE, [{**row, "name": long} for row in metric_rows("train-bc", 0, 100)])
    run.set_status("failed", stage=long, message=long)
    return root


@pytest.mark.parametrize("page", sorted({*PAGES} - {"label"}))
def test_half_written_tables_and_a_missing_config_are_messages(page: str, bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot be read" in text_of(open_page(page, bad, monkeypatch, "half"))


def test_a_folder_of_gigabytes_is_a_message_and_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "runs" / "huge")
    shape = run.path / "checkpoints" / "step-1.safetensors"
    shape.parent.mkdir()
    shape.touch()
    tables = [run.path / "artifacts" / f"{name}.parquet" for name in ("estimates", "ab_metrics", "data_depth", "simulator_fit")]
    for path in (shape, *tables, *run.path.glob("metrics/*/*.parquet"), run.path / "config.json"):
        # takes no room on the disk
        os.truncate(path, 2 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for page in PAGES:
        shown = text_of(open_page(page, tmp_path / "runs", monkeypatch, "huge"))
        if page in ("data", "training", "estimates", "simulator", "ab"):
            assert "cannot be read" in shown
    assert "larger than any run writes" in queries.summary(run).problem
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "kilobytes"


@pytest.mark.parametrize("kind", ["empty", "odd"])
@pytest.mark.parametrize("page", PAGES)
def test_empty_tables_and_odd_numbers_do_not_break_a_page(page: str, kind: str, bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_page(page, bad, monkeypatch, kind)


@pytest.mark.parametrize("page", PAGES)
def test_hostile_names_stay_text(page: str, bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_page(page, bad, monkeypatch, LINE)
    for kind in ("markdown", "caption", "subheader"):
        for element in app.get(kind):
            assert not getattr(element, "allow_html", False)
            assert "<img" not in element.value.replace("\\<", ""), element.value
            assert "](http" not in element.value
            assert len(element.value) < 5000


def test_a_running_run_shows_progress_and_what_is_to_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "runs" / "demo", finish=False)
    (run.path / "artifacts" / "estimates.parquet").unlink()
    app = open_page("estimates", tmp_path / "runs", monkeypatch, "demo")
    assert "train td3\\_bc · 40" in app.get("progress")[0].proto.text
    assert "the run has not come to it" in text_of(app)


def test_choosing_a_signal_changes_the_reading(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_page("estimates", runs, monkeypatch, "demo")
    assert "On long view" in text_of(app)
    app.selectbox(key="signal").select("click").run()
    assert not app.exception
    assert "On click" in text_of(app)


def test_choosing_a_scenario_changes_the_verdict(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_page("ab", runs, monkeypatch, "demo")
    assert "better on 5 of 6 metrics" in text_of(app)
    app.selectbox(key="scenario").select("weaker response").run()
    assert "better on 3 of 6 metrics" in text_of(app)
    app.selectbox(key="arm").select("bc").run()
    assert not app.exception
    assert "bc\\: No difference shown on" in text_of(app)


def test_the_app_keeps_the_run_in_the_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    make_run(runs / "demo")
    make_run(runs / "second")
    monkeypatch.setenv("RECRL_RUNS", str(runs))
    monkeypatch.setattr(sys, "argv", ["app.py"])
    app = AppTest.from_file(REPOSITORY / "dashboards" / "app.py", default_timeout=30)
    app.query_params["run"] = "demo"
    app.run()
    assert app.sidebar.selectbox[0].value == "demo"
    app.sidebar.selectbox[0].select("second").run()
    assert not app.exception
    assert app.query_params["run"] == "second"


def test_no_page_loads_torch(runs: Path) -> None:
    script = f"""
import sys
from streamlit.testing.v1 import AppTest
import dashboards.report, dashboards.serve, dashboards.pages.user_timeline, dashboards.pages.cohort_rates
import dashboards.pages.learners, dashboards.pages.what_if, dashboards.pages.prepared, dashboards.pages.recovery
from dashboards import queries, seeds
from recrl.core.runs import RunFolder
from itertools import cycle, islice
from pathlib import Path
for page in {PAGES!r}:
    app = AppTest.from_string(f"from dashboards.pages import {{page}}\\n{{page}}.page()", default_timeout=60)
    app.query_params["run"] = "demo"
    app.run()
    assert not app.exception, page
AppTest.from_file({str(REPOSITORY / "dashboards" / "app.py")!r}, default_timeout=60).run()
dashboards.report.write_report(RunFolder(Path({str(runs / "demo")!r})))
heavy = sorted({{name.split(".")[0] for name in sys.modules}} & {{"torch", "lightgbm", "simulators", "offline_eval"}})
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "RECRL_RUNS": str(runs)}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]


VIEWS = {
    "Day by day": "You may stop: since day 5",
    "Segments and guardrails": "Effects differ between groups",
    "Scenarios": "Active days depends on eta",
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", ["whole", "old", "hostile", "odd", "empty"])
def test_each_part_of_the_ab_page(kind: str, view: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = all_tables()
    if kind == "hostile":
        tables = {
            name: frame.with_columns(
                (pl.col(column) + HOSTILE).alias(column) for column, dtype in frame.schema.items() if dtype == pl.String
            )
            for name, frame in tables.items()
        }
    elif kind == "odd":
        tables = odd()
    elif kind == "empty":
        tables = {name: frame if name == "ab_metrics" else frame.clear() for name, frame in tables.items()}
    run = make_run(tmp_path / "runs" / "demo", tables=tables)
    if kind == "old":
        for name in set(tables) - {"ab_metrics", "ab_daily", "ab_retention", "ab_design"}:
            run.artifact(f"{name}.parquet").unlink()
    monkeypatch.setenv("RECRL_RUNS", str(tmp_path / "runs"))
    app = AppTest.from_string("from dashboards.pages import ab\nab.page()", default_timeout=30)
    app.query_params["run"], app.query_params["view"] = "demo", view
    app.run()
    assert not app.exception, [element.message for element in app.exception]
    shown = text_of(app)
    if kind == "whole":
        assert VIEWS[view] in shown.replace("\\", "")
    elif kind == "old":
        assert "This run holds no" in shown
    elif kind == "hostile":
        assert not any("<img" in element.value.replace("\\<", "") for kind in ("markdown", "caption") for element in app.get(kind))


def test_an_address_chooses_what_is_shown(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECRL_RUNS", str(runs))
    app = AppTest.from_string("from dashboards.pages import estimates\nestimates.page()", default_timeout=30)
    for key, value in {"run": "demo", "signal": "click", "estimator": "snips", "policy": "bc"}.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception
    assert (app.selectbox(key="signal").value, app.selectbox(key="estimator").value) == ("click", "snips")
    assert "On click" in text_of(app)
    app.query_params["signal"] = HOSTILE
    app.query_params["estimator"] = "../../etc/passwd"
    app.run()
    assert not app.exception
    assert "etc/passwd" not in text_of(app)


def test_seeds_of_one_command_are_one_curve_with_a_band(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "runs"
    for seed in range(3):
        run = RunFolder.create(root / f"mine-seed{seed}", kind="train", config={}, seed=seed)
        last = 1000 if seed else 400
        run.append_metrics("train-bc", [{"step": step, "name": "loss", "value": float(seed)} for step in range(last)])
        run.set_status("done", done=1.0)
    RunFolder.create(root / "mine-seedless", kind="train", config={}, seed=0)
    family = seeds.seed_family(root, "mine-seed1")
    assert [run.name for run in family] == ["mine-seed0", "mine-seed1", "mine-seed2"]
    curves = seeds.over_seeds([queries.curves(run, "train-bc") for run in family], "train-bc")
    assert curves.select("low", "value", "high").unique().rows() == [(0.0, 1.0, 2.0)]
    assert curves["step"].max() < 400, "a line does not jump where a seed ends"
    app = open_page("training", root, monkeypatch, "mine-seed1")
    assert "All 3 seeds of mine" in app.toggle(key="seeds").label
    assert not app.toggle(key="seeds").set_value(False).run().exception


def test_an_address_cannot_ask_for_more_runs_than_the_picker_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "runs"
    names = [f"run-{k}" for k in range(10)]
    for name in names:
        RunFolder.create(root / name, kind="train", config={}, seed=0).set_status("done", done=1.0)
    monkeypatch.setenv("RECRL_RUNS", str(root))
    app = AppTest.from_string("from dashboards.pages import compare\ncompare.page()", default_timeout=30)
    app.query_params["run"], app.query_params["runs"] = "run-0", names
    app.run()
    assert not app.exception, [element.message for element in app.exception]
    assert app.multiselect(key="runs").proto.max_selections == 8, "the control says how many, and refuses more"
    assert len(app.multiselect(key="runs").value) <= 8
