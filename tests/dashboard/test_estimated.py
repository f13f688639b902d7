"""Estimates of shown items, of whole sessions and of returns: each beside the log's own of its kind, in its own unit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dashboards import estimated, queries, readings
from dashboards.estimated import Kind
from dashboards.figures import estimates as figures
from dashboards.report import render
from offline_eval import combine, evaluate, evaluate_retention, needs, retention
from offline_eval.censoring import RetentionLog
from offline_eval.registry import REGISTRY
from offline_eval.sequential import MeanReturn
from recrl.core.contracts import LoggedFeedback
from recrl.core.ragged import Offsets
from tests.dashboard.make_run import make_run
from tests.dashboard.test_pages import open_page, text_of

USERS, DEPTH = 600, 10


@pytest.fixture(scope="module")
def written() -> pl.DataFrame:
    """What `recrl ope --estimators snips wpdis --retention-days 1 7` writes: 600 sessions of ten rows, a third of them clicked."""
    rng = np.random.default_rng(5)
    n = USERS * DEPTH
    click = (rng.random(n) < 1 / 3).astype(np.float64)
    logged, user = np.full(n, -1.0), np.repeat(np.arange(USERS), DEPTH)
    target = logged + rng.normal(0.0, 0.05, n)
    feedback = LoggedFeedback(click, target, logged, user, trajectory=Offsets.from_lengths(np.full(USERS, DEPTH)))
    days = rng.integers(1, 9, USERS)
    back = RetentionLog(days, days < 8, *(rows.reshape(USERS, DEPTH).sum(1) for rows in (target, logged)), np.arange(USERS))
    found = [
        evaluate(feedback, ("snips", "wpdis"), policy="mine", signal="click"),
        evaluate_retention(back, (1, 7), ("ipcw", "kaplan_meier"), policy="mine"),
    ]
    frame = pl.from_arrow(combine(found).estimates)
    assert isinstance(frame, pl.DataFrame)
    return frame


def of(frame: pl.DataFrame, **wanted: str) -> pl.DataFrame:
    return frame.filter(*(pl.col(name) == value for name, value in wanted.items()))


def test_the_estimators_of_sessions_are_those_of_the_library() -> None:
    assert {*estimated.OF_SESSIONS} == {MeanReturn().name} | {name for name in REGISTRY if "trajectory" in needs(name)}
    for name in retention.REGISTRY:
        assert estimated.kind_of("return_within_7_days", name) is Kind.RETURN


def test_each_kind_stands_beside_the_logs_own(written: pl.DataFrame) -> None:
    clicks = of(written, signal="click")
    kinds = estimated.apart(clicks)
    assert [(kind, sorted(part["estimator"])) for kind, part in kinds.items()] == [
        (Kind.ITEM, ["mean", "snips"]),
        (Kind.SESSION, ["mean_return", "wpdis"]),
    ]
    per_item, per_session = (part.filter(pl.col("policy") == "logged")["value"][0] for part in kinds.values())
    assert per_session == pytest.approx(DEPTH * per_item)
    assert queries.by_estimator(clicks, "wpdis").equals(kinds[Kind.SESSION])
    assert queries.by_estimator(clicks, "snips").equals(kinds[Kind.ITEM])
    assert queries.main_estimator(clicks.with_columns(verdict=pl.lit("trust"))) == "snips", "a session is another question"
    assert queries.main_estimator(kinds[Kind.SESSION]) == "wpdis"


def test_a_sentence_and_a_figure_have_the_unit_of_their_kind(written: pl.DataFrame) -> None:
    sure = written.with_columns(verdict=pl.lit("trust"))
    item, session = estimated.apart(of(sure, signal="click")).values()
    said = readings.estimates(of(sure, signal="click"), "click").replace("\u00a0", " ")
    base = {part["value"][0]: part for part in (item, session)}
    assert [round(value, 1) for value in base] == [0.3, 3.4]
    assert f"the logged {100 * item['value'][0]:.2f} %" in said
    assert f"the logged {session['value'][0]:.4g} a session" in said
    assert "On click over a session the highest usable estimate is mine by wpdis" in said
    drawn = [figures.estimates(part, "click").to_dict()["layout"] for part in (item, session)]
    assert [layout["xaxis"]["title"]["text"] for layout in drawn] == ["click (share of shown items)", "click, sum over a session"]
    for layout, part in zip(drawn, (item, session), strict=True):
        assert layout["shapes"][1]["x0"] == part.filter(pl.col("policy") == "logged")["value"][0], "the log's own of this kind"
    assert ["%" in str(layout["xaxis"].get("tickformat")) for layout in drawn] == [True, False]
    assert "of the sessions" in figures.effective_sample(session).to_dict()["layout"]["xaxis"]["title"]["text"]
    back = of(sure, signal="return_within_1_days")
    assert figures.estimates(back, "return_within_1_days").layout.xaxis.title.text == "share of users"
    assert "On users back within 1 day the highest" in readings.estimates(back, "return_within_1_days")
    assert f"{100 * of(back, policy='logged')['value'][0]:.2f}\u00a0%" in readings.estimates(back, "return_within_1_days")


@pytest.mark.parametrize(("ends", "wanted"), [((0.34, 0.36), "lies above"), ((0.28, 0.31), "lies below"), ((0.3, 0.35), "includes")])
def test_an_interval_lies_above_below_or_around_what_was_logged(ends: tuple[float, float], wanted: str) -> None:
    columns = {"policy": ["logged", "mine"], "signal": ["click"] * 2, "estimator": ["mean", "snips"], "value": [0.33, sum(ends) / 2]}
    frame = pl.DataFrame({**columns, "lower": [0.32, ends[0]], "upper": [0.34, ends[1]], "level": [0.95] * 2, "verdict": ["trust"] * 2})
    said = readings.estimates(frame, "click")
    assert wanted in said
    assert ("no gain is shown" in said) == (wanted == "includes")


def test_pages_and_report_keep_the_kinds_apart(written: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sure = written.with_columns(verdict=pl.lit("trust"))
    run = make_run(tmp_path / "runs" / "mine", tables={"estimates": sure})
    base = of(sure, policy="logged", estimator="mean_return")["value"][0]
    wanted = f"the logged {base:.4g} a session"
    app = open_page("estimates", tmp_path / "runs", monkeypatch, "mine")
    assert app.selectbox(key="estimator").value == "snips"
    assert "a session" not in text_of(app)
    app.selectbox(key="estimator").select("wpdis").run()
    assert wanted in plain(text_of(app))
    app.selectbox(key="estimator").select("all estimators").run()
    shown = plain(text_of(app))
    assert (wanted in shown, "On click the highest" in shown, "On click over a session the highest" in shown) == (True, True, True)
    verdicts = app.dataframe[0].value
    assert dict(zip(verdicts["estimator"], verdicts["value"], strict=True))["wpdis"].endswith("a session")
    app.selectbox(key="signal").select("return_within_7_days").run()
    assert "On users back within 7 days" in text_of(app)
    assert not app.exception
    for told in (text_of(open_page("home", tmp_path / "runs", monkeypatch, "mine")), render(run)):
        assert wanted in plain(told)
        assert "320.00" not in told


def plain(text: str) -> str:
    return text.replace("\\", "").replace("\u00a0", " ")
