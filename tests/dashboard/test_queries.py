"""Reading run folders: nothing outside the root, nothing half-written believed, nothing read twice."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import tyro
from polars.testing import assert_frame_equal

from dashboards import labelling, launching, queries
from dashboards.schema import TABLES
from recrl.core.errors import ConfigError, StorageError
from recrl.core.files import write_json
from recrl.core.runs import RunFolder
from recrl.verbs.ab import AbOptions
from tests.conftest import REPOSITORY
from tests.dashboard.make_run import all_tables, make_run
from tests.dashboard.test_pages import open_page


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path / "runs" / "demo")


@pytest.mark.parametrize("name", ["../secret", "..", ".", "", "demo/../../secret", "/etc", "demo\x00", "absent", "x" * 5000])
def test_names_that_lead_nowhere_are_refused(run: RunFolder, name: str) -> None:
    make_run(run.path.parent.parent / "secret")
    with pytest.raises(StorageError, match="no run named"):
        queries.open_run(run.path.parent, name)


def test_links_out_of_the_root_are_neither_listed_nor_opened(run: RunFolder, tmp_path: Path) -> None:
    root = run.path.parent
    make_run(tmp_path / "elsewhere")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root / "loop")
    assert [r.name for r in queries.list_runs(root)] == ["demo"]
    with pytest.raises(StorageError):
        queries.open_run(root, "link")


def test_a_linked_table_or_config_outside_the_run_is_not_read(run: RunFolder, tmp_path: Path) -> None:
    other = make_run(tmp_path / "elsewhere")
    for name in ("artifacts/estimates.parquet", "config.json"):
        (run.path / name).unlink()
        (run.path / name).symlink_to(other.path / name)
    with pytest.raises(StorageError, match="leads out"):
        queries.table(run, "estimates")
    with pytest.raises(StorageError, match="leads out"):
        queries.config(run)
    assert queries.list_runs(run.path.parent)[0].state == "broken"


def test_linked_policies_simulators_and_answers_outside_the_run_are_not_read(run: RunFolder, tmp_path: Path) -> None:
    root, outside = run.path.parent, tmp_path / "outside"
    write_json(outside / "mine" / "policy.json", {})
    write_json(outside / "world.json", {})
    pl.DataFrame({"preferred": [1.0, 0.0]}).write_parquet(outside / "preferences.parquet", metadata={"answered": "2"})
    for link, to in {"policies": ".", "simulator": ".", "ensemble": ".", "preferences.parquet": "preferences.parquet"}.items():
        (run.path / "artifacts" / link).symlink_to(outside / to)
    (root / "second" / "artifacts" / "policies").mkdir(parents=True)
    (root / "second" / "artifacts" / "policies" / "mine").symlink_to(outside / "mine")
    write_json(root / "third" / "artifacts" / "policies" / "mine" / "policy.json", {})
    (root / "third" / "artifacts" / "policies" / "mine" / "weights.safetensors").symlink_to(outside / "world.json")
    assert launching.policies(root) == ["popularity", "random", "third/mine"]
    assert launching.simulators(root) == []
    assert labelling.answers(run) is None
    for name in ("demo/mine", "second/mine", "third/mine"):
        with pytest.raises(StorageError, match="leads out of the run folder"):
            launching.policy_path(root, name)
    with pytest.raises(ConfigError, match="leads out of the run folder"):
        launching.data_options(root, "demo")


def test_an_ab_test_is_started_where_the_logs_are(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECRL_STORES", str(tmp_path / "my logs"))
    asked = launching.Trial("demo", "popularity", ("random",), 50, 3, ("weak",), 0, "mine")
    words = launching.command(run.path.parent, asked)
    assert f"--stores={tmp_path / 'my logs'}" in words
    assert tyro.cli(AbOptions, args=words[1:]).data.stores == tmp_path / "my logs"


def test_answers_are_read_where_they_lie_in_the_run(run: RunFolder) -> None:
    path = run.path / "artifacts" / "preferences.parquet"
    pl.DataFrame({"preferred": [1.0, 0.0, None, 0.5, 1.0]}).write_parquet(path, metadata={"answered": "4"})
    assert labelling.answers(run) == {"left": 1, "right": 1, "equal": 1, "skipped": 1}


def test_a_policy_appears_once_its_last_file_stands(run: RunFolder) -> None:
    root, folder = run.path.parent, run.path / "artifacts" / "policies" / "bc"
    folder.mkdir(parents=True)
    assert "demo/bc" not in launching.policies(root)
    write_json(folder / "policy.json", {})
    assert "demo/bc" in launching.policies(root)


def test_linked_stores_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECRL_STORES", str(tmp_path / "stores"))
    for folder in ("stores/mine", "elsewhere", "stores/half"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("stores/mine", "elsewhere"):
        write_json(tmp_path / folder / "manifest.json", {})
    (tmp_path / "stores" / "linked").symlink_to(tmp_path / "elsewhere")
    assert queries.stores() == ["mine"]


def test_every_table_reads_back_as_written(run: RunFolder) -> None:
    written = all_tables()
    assert written.keys() == TABLES.keys()
    for name, frame in written.items():
        assert_frame_equal(queries.table(run, name), frame.fill_null(math.nan), check_column_order=False, check_dtypes=False)


def test_the_schema_names_the_columns_of_the_artifacts_page() -> None:
    page = (REPOSITORY / "docs" / "artifacts.md").read_text()
    blocks = dict(re.findall(r"^\*\*`(\w+)`\*\*(.*?)(?=^\*\*`|\Z)", page, flags=re.MULTILINE | re.DOTALL))
    assert blocks.keys() == TABLES.keys()
    effects = set(re.findall(r"`(\w+)\??`", re.search(r"Those with \*effect columns\*.*?;", page, flags=re.DOTALL)[0]))
    for name, spec in TABLES.items():
        named = set(re.findall(r"`(\w+)\??`", blocks[name])) | (effects if "effect columns" in blocks[name] else set())
        assert set(spec.columns) <= named, f"{name}: {set(spec.columns) - named} not on the page"


def test_half_written_missing_and_foreign_tables_say_so(run: RunFolder) -> None:
    path = run.path / "artifacts" / "estimates.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StorageError, match="off-policy estimates table cannot be read"):
        queries.table(run, "estimates")
    path.write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be read"):
        queries.table(run, "estimates")
    run.write_table("estimates", pl.DataFrame({"policy": ["a"], "value": [1.0]}).to_arrow())
    with pytest.raises(StorageError, match="lacks the columns signal, estimator"):
        queries.table(run, "estimates")
    run.write_table("estimates", all_tables()["estimates"].with_columns(value=pl.lit("many")).to_arrow())
    with pytest.raises(StorageError, match="cannot be read"):
        queries.table(run, "estimates")
    path.unlink()
    with pytest.raises(StorageError, match="this run holds no off-policy estimates"):
        queries.table(run, "estimates")


def test_a_table_of_an_earlier_version_lacks_later_columns_only(run: RunFolder) -> None:
    run.write_table("ab_retention", all_tables()["ab_retention"].drop("log_rank_p").to_arrow())
    assert queries.table(run, "ab_retention")["log_rank_p"].is_nan().all()
    run.write_table("ab_retention", all_tables()["ab_retention"].drop("lower").to_arrow())
    with pytest.raises(StorageError, match="lacks the columns lower"):
        queries.table(run, "ab_retention")


def test_a_rewritten_table_is_seen_and_an_untouched_one_is_not_read_again(run: RunFolder) -> None:
    first = queries.table(run, "data_summary")
    assert queries.table(run, "data_summary") is first
    run.write_table("data_summary", first.with_columns(rows=pl.lit(7, pl.Int64), name=pl.lit("another")).to_arrow())
    assert queries.table(run, "data_summary")["rows"].to_list() == [7]


def test_a_table_too_long_for_a_page_is_refused(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "MAX_ROWS", 10)
    queries.clear()
    with pytest.raises(StorageError, match="pages show up to 10"):
        queries.table(run, "ab_daily")


def test_curves_thin_long_streams_and_keep_extremes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r")
    values = [math.sin(step / 50) for step in range(20_000)]
    values[12_345] = 9.0
    run.append_metrics("long", [{"step": step, "name": "loss", "value": value} for step, value in enumerate(values)])
    curves = queries.curves(run, "long", points=100)
    assert curves.frame.height == 100
    assert curves.frame["high"].max() == 9.0
    assert curves.frame["low"].min() == pytest.approx(min(values))
    assert curves.frame["value"].mean() == pytest.approx(sum(values) / len(values))
    assert (curves.frame["low"] <= curves.frame["value"]).all()


def test_curves_leave_broken_parts_and_odd_values_out_and_count_them(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r")
    # whole numbers make another column type than the parts before
    run.append_metrics("train-bc", [{"step": 3000, "name": "actor_loss", "value": 1}])
    run.append_metrics("train-bc", [{"step": 3001 + k, "name": "actor_loss", "value": v} for k, v in enumerate((math.nan, math.inf))])
    (run.path / "metrics" / "train-bc" / "part-000009.parquet").write_bytes(b"PAR1 half")
    curves = queries.curves(run, "train-bc")
    assert (curves.broken, curves.not_finite) == (1, 2)
    assert curves.frame.filter(pl.col("name") == "actor_loss")["step"].max() == 3000


def test_runs_are_listed_newest_first_with_their_problems(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    old, new = make_run(root / "old"), make_run(root / "new", finish=False)
    held = json.loads((old.path / "status.json").read_text())
    (old.path / "status.json").write_text(json.dumps({**held, "updated": 5.0, "started": 1.0, "done": math.nan}))
    (root / "no-config" / "artifacts").mkdir(parents=True)
    (root / "torn").mkdir()
    (root / "torn" / "config.json").write_text('{"kind": "de')
    (root / "odd").mkdir()
    (root / "odd" / "config.json").write_text("{}")
    (root / "odd" / "status.json").write_text('{"state": ["x"], "pid": "y"}')
    (root / "notes").mkdir()
    (root / "a-file").write_text("no run")
    runs = {run.name: run for run in queries.list_runs(root)}
    assert list(runs)[:2] == ["new", "old"]
    assert runs.keys() == {"new", "old", "no-config", "torn", "odd"}
    assert (runs["new"].state, runs["new"].done, runs["new"].stage) == ("running", 0.4, "train td3_bc")
    assert runs["old"].done == 0.0
    assert {runs[name].state for name in ("no-config", "torn", "odd")} == {"broken"}
    assert "config.json is missing" in runs["no-config"].problem
    assert "not valid JSON" in runs["torn"].problem
    assert new.name == "new"


def test_odd_heartbeats_do_not_take_a_page_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = [{"started": math.nan}, {"started": 1e300}, {"updated": math.inf}, {"updated": -1.0}]
    for k, odd in enumerate([{}, *times, {"pid": 10**30}, {"pid": 0}, {"pid": 2**31}]):
        run = RunFolder.create(tmp_path / "runs" / f"run-{k}", kind="train", config={}, seed=k)
        (run.path / "status.json").write_text(json.dumps({**json.loads((run.path / "status.json").read_text()), **odd}))
    states = {"run-0": "running", **{f"run-{k}": "broken" for k in range(1, 8)}}
    assert {run.name: run.state for run in queries.list_runs(tmp_path / "runs")} == states
    shown = open_page("home", tmp_path / "runs", monkeypatch, "run-0").dataframe[-1].value
    assert [state for _, state in sorted(zip(shown["run"], shown["state"], strict=True))] == ["▶ running"] + ["⚠ broken"] * 7


def test_a_killed_run_shows_as_stopped(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", finish=False)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    held = json.loads((run.path / "status.json").read_text())
    assert held["pid"] == os.getpid()
    (run.path / "status.json").write_text(json.dumps({**held, "pid": ended.pid}))
    assert queries.summary(run).state == "stopped"


def test_the_root_comes_from_the_command_line_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECRL_RUNS", "from-environment")
    assert queries.runs_root([]) == Path("from-environment")
    assert queries.runs_root(["--runs", "given"]) == Path("given")
    monkeypatch.delenv("RECRL_RUNS")
    assert queries.runs_root([]) == Path("runs")


def test_an_absent_root_holds_no_runs(tmp_path: Path) -> None:
    assert queries.list_runs(tmp_path / "absent") == []


def test_the_main_signal_is_the_objectives(run: RunFolder) -> None:
    frame = queries.table(run, "estimates")
    assert queries.main_signal(run, frame) == "long_view"
    assert queries.main_signal(run, frame.filter(pl.col("signal") == "click")) == "click"
