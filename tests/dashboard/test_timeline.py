"""One user's rows: the right rows, cut as everywhere else, from the run's own store and from nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

import recrl_datasets as rd
from dashboards import cohorts, timeline
from recrl.core.errors import StorageError
from recrl.core.files import read_json, write_json
from recrl.core.runs import RunFolder
from tests.dashboard.make_run import make_run
from tests.dashboard.test_pages import text_of

DAY = 86_400_000


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run made from a prepared log of six users."""
    rng = np.random.default_rng(3)
    user, day, place = (grid.ravel() for grid in np.meshgrid(np.arange(6), np.arange(4), np.arange(5), indexing="ij"))
    frame = pd.DataFrame(
        {
            "user_id": [f"u{k}" for k in user],
            "item_id": rng.integers(0, 30, user.size),
            "timestamp_ms": 1_700_000_000_000 + day * DAY + place * 60_000 + user,
            "click": rng.integers(0, 2, user.size),
        }
    )
    store = rd.from_frame(frame, "mine", stores=tmp_path / "stores")
    monkeypatch.setenv("RECRL_STORES", str(tmp_path / "stores"))
    made = make_run(tmp_path / "runs" / "demo")
    write_json(made.path / "config.json", {**read_json(made.path / "config.json"), "data": "mine", "session_rule": "gap"})
    write_json(made.path / "environment.json", {**read_json(made.path / "environment.json"), "data_hash": store.content_hash})
    return made


def test_a_users_rows_are_cut_into_the_sessions_of_the_whole_log(run: RunFolder) -> None:
    store = timeline.store_of(run)
    log = store.log()
    cut = rd.sessions(log, "gap")
    for user in range(6):
        rows = timeline.user_rows(store, user, "gap")
        mine = log.column("user") == user
        assert rows["timestamp_ms"].to_list() == log.column("timestamp_ms")[mine].tolist()
        assert rows["item"].to_list() == log.column("item")[mine].tolist()
        assert rows["session"].n_unique() == int((cut.user == user).sum())
        assert rows.filter(rows["session"] == 1)["place"].to_list() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ["../stores/mine", "/etc", "", "absent", "mi\x00ne", 7, None])
def test_another_place_is_not_read(run: RunFolder, name: object) -> None:
    write_json(run.path / "config.json", {**read_json(run.path / "config.json"), "data": name})
    with pytest.raises(StorageError):
        timeline.store_of(run)


def test_a_store_of_other_content_or_outside_is_refused(run: RunFolder, tmp_path: Path) -> None:
    write_json(run.path / "environment.json", {**read_json(run.path / "environment.json"), "data_hash": "0" * 64})
    with pytest.raises(StorageError, match="not the one this run was made from"):
        timeline.store_of(run)
    (tmp_path / "stores" / "mine").rename(tmp_path / "outside")
    (tmp_path / "stores" / "mine").symlink_to(tmp_path / "outside")
    with pytest.raises(StorageError, match="no prepared log"):
        timeline.store_of(run)


def test_the_page_shows_the_user_that_is_asked_for(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECRL_RUNS", str(run.path.parent))
    app = AppTest.from_string("from dashboards.pages import data\ndata.page()", default_timeout=30)
    app.query_params["run"] = "demo"
    app.run()
    app.toggle(key="timeline").set_value(True).run()
    assert not app.exception
    assert "20 rows in 4 sessions" in text_of(app)
    app.text_input(key="user").set_value("u4").run()
    assert "User u4\\: 20 rows" in text_of(app)
    app.text_input(key="user").set_value("<b>nobody").run()
    assert not app.exception
    assert "No user" in text_of(app)
    next(button for button in app.button if button.label == "Another user").click().run()
    assert not app.exception
    assert "20 rows in 4 sessions" in text_of(app)


def test_a_store_that_is_swapped_meanwhile_is_a_message(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    stat = Path.stat

    def swapped(path: Path, **options: bool) -> os.stat_result:
        if path.name == "manifest.json":
            asked.append(path)
            if len(asked) > 1:
                raise FileNotFoundError(path)
        return stat(path, **options)

    timeline.store_of(run)
    monkeypatch.setattr(Path, "stat", swapped)
    assert timeline.store_of(run).manifest.rows == 120, "asked once, or not at all"
    with pytest.raises(StorageError, match="no prepared log"):
        timeline.store_of(run)


def test_a_prepared_log_is_looked_at_without_any_run(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECRL_RUNS", str(tmp_path / "no runs"))
    app = AppTest.from_string("from dashboards.pages import data\ndata.page()", default_timeout=60).run()
    assert "No runs yet" in text_of(app)
    app.selectbox(key="log").select("mine").run()
    assert "No runs yet" not in text_of(app)
    assert {fact.label: fact.value for fact in app.metric} == {"Rows": "120", "Users": "6", "Items": "29"}
    assert f"recrl data describe mine --stores {tmp_path / 'stores'} --runs" in text_of(app)
    app.toggle(key="cohorts").set_value(True)
    app.toggle(key="timeline").set_value(True).run()
    assert not app.exception
    assert "Intervals over 6 users" in text_of(app)
    assert "20 rows in 4 sessions" in text_of(app)
    monkeypatch.setenv("RECRL_RUNS", str(run.path.parent))
    app.run()
    assert not app.exception
    assert "Described by the run demo" in text_of(app)
    assert "943" in {fact.value for fact in app.metric}, "what that run found"
    app.query_params["log"] = "../stores/mine"
    assert not app.run().exception


def test_rates_by_cohort_are_those_of_the_log(run: RunFolder) -> None:
    store = timeline.store_of(run)
    log = store.log()
    assert cohorts.kinds(store) == ["activity", "week of the first visit"]
    assert cohorts.signals(store) == ["click"]
    first = cohorts.rates(store, cohorts.FIRST_WEEK, "click")
    assert first.select("cohort", "users", "rows").rows() == [("week 1", 6, 120)]
    assert first["rate"][0] == pytest.approx(log.column("click").mean())
    groups = cohorts.rates(store, cohorts.ACTIVITY, "click")
    assert groups["users"].to_list() == [2, 2, 2]
    assert (groups["rate"] * groups["rows"]).sum() == pytest.approx(log.column("click").sum())
    # all users have as many rows: ties fall in the store's order
    for k, rate in enumerate(groups["rate"]):
        assert rate == pytest.approx(log.column("click")[np.isin(log.column("user"), (2 * k, 2 * k + 1))].mean())
    # one cohort of everybody: the interval that `recrl data describe` gives
    whole = rd.describe(store).tables["data_rates"].to_pylist()[0]
    assert first.select("rate", "lower", "upper").row(0) == pytest.approx(tuple(whole[name] for name in ("rate", "lower", "upper")))


def test_intervals_of_small_cohorts_are_wide_or_none(tmp_path: Path) -> None:
    late = 1_700_000_000_000 + 9 * DAY
    rows = [(f"early {user}", user, 1_700_000_000_000 + user, 0) for user in range(2)]
    rows += [("late", item, late + item, int(item > 1)) for item in range(1, 4)]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp_ms", "click"])
    store = rd.from_frame(frame, "few", stores=tmp_path / "stores")
    never, alone = cohorts.rates(store, cohorts.FIRST_WEEK, "click").iter_rows(named=True)
    assert (never["rate"], never["lower"]) == (0.0, 0.0)
    # neither of two users: 0 of 2, exactly
    assert never["upper"] == pytest.approx(1 - 0.025**0.5)
    assert alone["rate"] == pytest.approx(2 / 3)
    assert np.isnan([alone["lower"], alone["upper"]]).all(), "one user leaves nothing to compare"


def test_cohorts_are_compared_on_the_page(run: RunFolder) -> None:
    app = AppTest.from_string("from dashboards.pages import data\ndata.page()", default_timeout=60)
    app.query_params["run"], app.query_params["cohorts"] = "demo", "true"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RECRL_RUNS", str(run.path.parent))
        app.run()
        assert not app.exception
        assert "Intervals over 6 users" in text_of(app)
        app.selectbox(key="cohort").select(cohorts.FIRST_WEEK).run()
    assert not app.exception
