"""The training page's views of particular learners: trade-offs, falls and recoveries, preferences, reproductions."""

from __future__ import annotations

import math
from itertools import cycle, islice
from pathlib import Path

import polars as pl
import pytest
from scipy import stats
from streamlit.testing.v1 import AppTest

from dashboards import learned, queries
from dashboards.figures import learners as figures
from recrl.core.runs import RunFolder
from recrl.reproductions.auro.report import recovery_tables
from recrl.reproductions.study import Cell, Done
from tests.dashboard.make_parts import learners
from tests.dashboard.test_pages import HOSTILE, LINE, text_of

VIEWS = {
    "Trade-offs": "✓ like holds its bound by 0.05 a request",
    "Drift and phi": "Deepest fall of eval return between evaluations: from 3 at update 20 to 1 at 40; nine tenths made good 20",
    "Preferences": "right about 85 % of 60 pairs (95 % interval 74 % to 92 %): better than guessing",
    "Reproduction": "gapsConfiguration",
    "Drift and phi, of a study": "Over 3 switches cem is back soonest, after 0.20 days on average; auro after 0.60 (0.30 to 0.90)",
}


def rows(step: int) -> list[dict[str, object]]:
    """One update of a learner that has every metric."""
    returns = {0: 1.0, 20: 3.0, 40: 1.0, 60: 2.9, 80: 2.95}[step]
    found = {"rate_click": 0.4, "rate_like": 0.25, "slack_like": 0.05, "kl_like": 0.1, "lambda_like": 0.5, "eval_return": returns}
    phi = {
        "abstraction_loss": 0.3,
        "abstraction_spread": 1.0,
        "abstraction_between": 0.6,
        "guard_kept": 0.2,
        "guard_far": 0.3,
        "guard_gain": 0.1,
    }
    return [{"step": step, "name": name, "value": value} for name, value in {**found, **phi}.items()]


def opened(root: Path, view: str, monkeypatch: pytest.MonkeyPatch, run: str = "mine") -> AppTest:
    monkeypatch.setenv("RECRL_RUNS", str(root))
    app = AppTest.from_string("from dashboards.pages import training\ntraining.page()", default_timeout=60)
    app.query_params["run"], app.query_params["view"] = run, view
    app.run()
    assert not app.exception, [element.message for element in app.exception]
    return app


@pytest.mark.parametrize("kind", ["whole", "hostile", "odd", "empty"])
def test_each_view_on_whole_and_broken_runs(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = learners()
    if kind == "hostile":
        text = {name: [column for column, kind in frame.schema.items() if kind == pl.String] for name, frame in tables.items()}
        tables = {
            name: frame.with_columns((pl.col(column) + HOSTILE).alias(column) for column in text[name]) for name, frame in tables.items()
        }
    elif kind == "odd":
        odd = cycle([math.nan, None, math.inf, -math.inf, 1e130])
        for name, frame in tables.items():
            numbers = [column for column, kind in frame.schema.items() if kind == pl.Float64]
            tables[name] = frame.with_columns(pl.Series(column, islice(odd, frame.height), pl.Float64) for column in numbers)
    elif kind == "empty":
        tables = {name: frame.clear() for name, frame in tables.items()}
    run = RunFolder.create(tmp_path / "runs" / "mine", kind="train", config={}, seed=0)
    for name, frame in tables.items():
        run.write_table(name, frame.to_arrow())
    if kind == "whole":
        run.write_table("reproduction_gaps", pl.DataFrame({"method": ["ours"], "gap": [0.1]}).to_arrow())
    metrics = [row for step in range(0, 100, 20) for row in rows(step)]
    if kind != "whole":
        metrics = [{**row, "value": math.nan} if row["step"] == 40 else {**row, "name": f"{row['name']}{HOSTILE}"} for row in metrics]
    run.append_metrics("train-mine", metrics)
    run.set_status("done", done=1.0)
    for view, wanted in VIEWS.items():
        app = opened(tmp_path / "runs", view.partition(",")[0], monkeypatch)
        shown = text_of(app).replace("\\", "").replace("\u00a0", " ") + "".join(expander.label for expander in app.expander)
        if kind == "whole":
            assert wanted in shown
        assert not any("<img" in element.value.replace("\\<", "") for part in ("markdown", "caption") for element in app.get(part))


def test_what_a_page_takes_for_markup_holds_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create(tmp_path / "runs" / "mine", kind="train", config={}, seed=0)
    tables = learners()
    image = "![i](http://example.invalid/x.png)"
    lines = [" 12 requests  ▂▃▄█   click 0.40  back after 1.5 days", f" 3 requests  {image}   click 0.40  goes on"]
    lines += [f" 2 requests  ▂▃   {image} 0.4  **x** 1.2.3  goes on", f"{'9' * 5000} requests  ▂   click 0.1  goes on"]
    timelines = {f"{side}_timeline": ["\n".join(lines)] * 3 for side in ("first", "second")}
    tables["reward_pairs"] = tables["reward_pairs"].with_columns(**{name: pl.Series(text) for name, text in timelines.items()})
    for name, frame in tables.items():
        run.write_table(name, frame.to_arrow())
    run.write_table(f"reproduction_{LINE}", tables["reward_summary"].to_arrow())
    app = opened(tmp_path / "runs", "Preferences", monkeypatch)
    assert [table.value["requests"].to_list() for table in app.table] == [[12, 2]] * 2
    app = opened(tmp_path / "runs", "Reproduction", monkeypatch)
    for element in [*app.table, *app.expander]:
        text = element.value.to_csv() if element.type == "table" else element.label
        assert not any(markup in text.replace("\\<", "").replace("\\(", "") for markup in ("](http", "<img", "](∕", "](java"))


def test_no_trade_off_is_dropped_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create(tmp_path / "runs" / "mine", kind="train", config={}, seed=0)
    names = ["rate_click", *(f"{kind}_r{k}" for k in range(8) for kind in ("rate", "slack"))]
    run.append_metrics("train-mine", [{"step": step, "name": name, "value": 0.1} for step in range(3) for name in names])
    app = opened(tmp_path / "runs", "Trade-offs", monkeypatch)
    against = app.multiselect(key="against")
    assert len(against.options) == 8
    assert [charts.proto.id.split("front-")[-1] for charts in app.get("plotly_chart") if "front-" in charts.proto.id] == against.value
    assert len(against.value) == 6


def test_the_ends_that_none_beats_are_the_front() -> None:
    ways = pl.DataFrame({"who": ["a", "b", "c", "d"], "step": [1, 1, 1, 1], "x": [1.0, 2.0, 0.5, 1.5], "y": [3.0, 2.0, 2.5, 2.0]})
    assert {end.who for end in learned.ends(ways) if end.symbol == "diamond"} == {"a", "b"}
    assert {end.who for end in learned.ends(ways, least=True) if end.symbol == "diamond"} == {"a", "c"}


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_rates_and_slacks_tell_the_bound(sign: float) -> None:
    rate = [0.1, 0.2, 0.4, 0.3]
    frame = pl.DataFrame(
        {
            "step": [0, 1, 2, 3] * 2,
            "name": ["rate_like"] * 4 + ["slack_like"] * 4,
            "value": rate + [sign * (value - 0.25) for value in rate],
        }
    )
    assert learned.bound_of(frame, "like") == pytest.approx(0.25)
    assert learned.bound_of(frame, "click") is None


def test_a_fall_that_is_not_made_good_and_a_curve_that_only_rises() -> None:
    assert learned.deepest_fall([0, 1, 2], [1.0, 2.0, 3.0]) is None
    fall = learned.deepest_fall([0, 1, 2, 3], [1.0, 3.0, 1.0, 2.0])
    assert fall == learned.Fall(1, 2, 3.0, 1.0, None)


def test_intervals_over_seeds_are_students() -> None:
    cells = pl.DataFrame({"method": ["a", "a", "a", "b"], "value": [1.0, 2.0, 4.0, 7.0]})
    found = {row["method"]: row for row in learned.over_seeds(cells).iter_rows(named=True)}
    expected = stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem([1.0, 2.0, 4.0]))
    assert (found["a"]["lower"], found["a"]["upper"]) == pytest.approx(expected)
    assert math.isnan(found["b"]["lower"])


def test_recoveries_are_what_the_study_writes(tmp_path: Path) -> None:
    regret = {"oracle": 0.0, "auro": 0.01, "td3": 0.02}
    done = []
    for seed in (0, 1):
        for method, lost in regret.items():
            # away from its level on the two days after each switch, a week apart
            days = [{"expected": 10 * (0.8 - lost - (10 * lost if day % 7 < 2 else 0.0)), "sessions": 10.0} for day in range(28)]
            done.append(Done(Cell("held", method, seed), {"days": days}, 1.0))
    run = RunFolder.create(tmp_path / "mine", kind="reproduction", config={}, seed=0)
    for name, rows in zip(("recovery", "switches"), recovery_tables(done), strict=True):
        run.write_table(f"reproduction_{name}", pl.DataFrame(rows).to_arrow())
    over, each = (queries.table(run, f"reproduction_{name}") for name in ("recovery", "switches"))
    assert over["method"].to_list() == ["auro", "td3"]
    assert each.filter(pl.col("method") == "auro")["switch_day"].to_list() == [14, 21]
    figure = figures.switches(each, "regret_area", "held")
    assert [shape["x0"] for shape in figure.to_dict()["layout"]["shapes"]] == [14, 21], "the days on which the drift switches"
    assert [trace.name for trace in figure.data] == ["auro", "td3"]
    row = each.row(0, named=True)
    # two days of the week, each .1 above its level
    assert row["regret_area"] == pytest.approx(0.2)


def test_single_pairs_are_looked_at_and_filtered_by_agreement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create(tmp_path / "runs" / "mine", kind="train", config={}, seed=0)
    for name, frame in learners().items():
        run.write_table(name, frame.to_arrow())
    app = opened(tmp_path / "runs", "Preferences", monkeypatch)
    assert "agree on 1 of 2 pairs" in text_of(app)
    boxes = {box.label: box for box in app.selectbox}
    # the surest first: .9, then .7
    assert boxes["Pair"].options[0].startswith("pair 1: 90")
    boxes["Reward and answer"].set_value("✕ disagree").run()
    assert not app.exception
    assert [option.split(":")[0] for option in next(box for box in app.selectbox if box.label == "Pair").options] == ["pair 2"]
    assert "answer: right is better; reward: left is better, with a chance of 70" in text_of(app).replace("\\", "").replace("\u00a0", " ")
    assert [table.value["back after"].to_list() for table in app.table] == [["1.5 days", "2.5 days"], ["3.5 days", "4.5 days"]]
