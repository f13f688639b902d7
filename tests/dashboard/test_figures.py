"""Formats and figures: units on each axis, words beside colours, foreign text never markup, odd numbers no crash."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import plotly.graph_objects as go
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars import selectors

from dashboards import formats, learned, look, queries, readings, units
from dashboards.figures import ab, compare, data, estimates, learners, looks, planning, simulator, timeline, training
from recrl.core.runs import RunFolder
from simulators.ab import METRICS
from tests.dashboard.make_run import all_tables, make_run

HOSTILE = '<img src=x onerror="alert(1)">%{x}[a](http://b)$x$' + "\u202e" + "n" * 400


def drawn(tables: dict[str, pl.DataFrame]) -> Iterator[tuple[str, go.Figure]]:
    """Every figure of the dashboard."""
    metrics, daily, fit = tables["ab_metrics"], tables["ab_daily"], tables["simulator_fit"]
    signal = tables["estimates"]["signal"][0]
    rows = tables["estimates"].filter(pl.col("signal") == signal)
    yield "depth", data.depth(tables["data_depth"])
    yield "gaps", data.gaps(tables["data_gaps"])
    yield "survival", data.survival(tables["data_gaps"])
    yield "rates", data.rates(tables["data_rates"].filter(pl.col("unit") == "share"))
    yield "popularity", data.popularity(tables["data_popularity"])
    yield "daily", data.daily(tables["data_daily"])
    yield "estimates", estimates.estimates(rows, signal)
    yield "ess", estimates.effective_sample(rows)
    yield "weights", estimates.weights(tables["estimates_weights"])
    yield "effects", ab.effects(metrics.filter(pl.col("arm") == metrics["arm"][-1]))
    yield "arms", ab.arms(metrics.filter(pl.col("metric") == metrics["metric"][0]))
    yield "ab_daily", ab.ab_daily(daily, daily["metric"][0])
    yield "retention", ab.retention(tables["ab_retention"])
    yield from of_parts(tables)
    yield "fit", simulator.simulator_fit(fit.filter(pl.col("quantity") == fit["quantity"][0]))


def as_read(tables: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """As the pages get them: absent numbers are NaN."""
    return {name: frame.with_columns(selectors.float().fill_null(math.nan)) for name, frame in tables.items()}


def of_parts(tables: dict[str, pl.DataFrame]) -> Iterator[tuple[str, go.Figure]]:
    """Figures of looks, segments, scenarios and diagnostics."""
    look = one_of(tables["ab_sequential"])
    yield "so far", looks.so_far(look)
    yield "p-values", looks.p_values(look)
    trend = tables["ab_trend"].row(0, named=True)
    yield "each day", looks.each_day(one_of(tables["ab_by_day"]), trend, look["unit"][0])
    metric = tables["ab_metrics"].row(0, named=True)
    yield "segments", ab.segments(one_of(tables["ab_segments"]), metric)
    yield "guardrails", ab.guardrails(tables["ab_guardrails"].head(2))
    yield "exposure", ab.exposure(tables["ab_exposure"].head(20))
    yield "cuped", ab.cuped(tables["ab_cuped"].head(2))
    yield "scenarios", ab.scenarios(one_of(tables["ab_uncertainty"], ("metric", "arm")))
    yield "reliability", estimates.reliability(tables["estimates_reliability"])
    overlap = tables["estimates_overlap"]
    yield "overlap", estimates.overlap(overlap.filter(pl.col("policy") == overlap["policy"][0]))
    yield "cohorts", estimates.cohorts(tables["estimates_cohorts"])
    behaviours = tables["simulator_reliability"]
    yield "simulated", simulator.reliability(behaviours.filter(pl.col("behaviour") == behaviours["behaviour"][0]))


def one_of(frame: pl.DataFrame, by: tuple[str, ...] = ("scenario", "metric", "arm")) -> pl.DataFrame:
    """The rows that agree with the first."""
    return frame.join(frame.select(by).head(1), on=by, how="semi", maintain_order="left")


UNITS = re.compile(
    r"\b(share|days?|date|requests?|items?|rows|users|weight|updates|seconds|nats|reward|p-value|points|log-odds|relative change|"
    r"logged / expected|propensity|no unit|0 to 1|1/s|as logged|as fitted)\b"
)
"""What an axis counts or measures in."""


def of_pages(run: RunFolder) -> Iterator[tuple[str, go.Figure]]:
    """Figures of curves, learners, comparisons, the planner, users and cohorts."""
    tables = {name: queries.table(run, name) for name in all_tables()}
    curves = queries.curves(run, "train-td3_bc").frame.with_columns(stream=pl.lit("train-td3_bc"))
    for name in ("actor_loss", "q_mean", "updates_per_second"):
        yield name, training.curve(curves, name)
    yield "slack", learners.lines(curves, ["actor_loss"], "Slack", "of each constraint", units.axis("slack_watch_seconds"), zero=True)
    ways = pl.DataFrame({"who": ["a"], "step": [1], "x": [1.0], "y": [3.0]})
    yield "trade-off", learners.trade_off(ways, learned.ends(ways), "watch_seconds", "click", 0.3)
    yield "accuracy", learners.accuracy([look.Interval("all", 0.8, 0.7, 0.9)], "held out")
    yield "calibration", learners.calibration(tables["reward_calibration"].with_columns(lower=0.1, upper=0.2))
    cells = tables["reproduction_cells"].filter(pl.col("quantity") == "watch_seconds")
    yield "reproduction", learners.reproduction([look.Interval("ours", 0.8, 0.7, 0.9)], cells, "watch_seconds", "main")
    yield "recovery", learners.recovery([look.Interval("auro", 0.8, 0.7, 0.9)], "recovery_days")
    yield "switches", learners.switches(tables["reproduction_switches"], "regret_area", "held")
    several = tables["estimates"].filter(pl.col("signal") == "click").with_columns(run=pl.lit("mine"))
    yield "compared", compare.estimates(several, "click")
    yield "effects compared", compare.effects(tables["ab_metrics"].with_columns(run=pl.lit("mine")), "day_1_retention")
    ended = curves.filter(pl.col("name") == "q_mean").with_columns(run=pl.lit("mine"), learner=pl.lit("bc"))
    yield "ends", compare.ends(ended, "q_mean")
    yield "plan", planning.detectable(1.0, "share of users", (0.01, 1000), 0.8, 0.95, True)
    starts = pl.Series([datetime(2026, 1, 1)])
    user = pl.DataFrame({"session": [0], "place": [1], "item": [3], "click": [1]}).with_columns(started=starts, time=starts)
    yield "user", timeline.sessions(user, "click", "u")
    cohorts = pl.DataFrame({"cohort": ["a"], "users": [3], "rate": [0.3], "lower": [0.2], "upper": [0.4]})
    yield "cohort rates", data.cohort_rates(cohorts, "click", "activity")


def test_every_figure_has_a_title_words_and_a_unit_on_each_axis(tmp_path: Path) -> None:
    for name, figure in [*drawn(as_read(all_tables())), *of_pages(make_run(tmp_path / "r"))]:
        assert figure.layout.title.text, name
        assert len(figure.layout.meta["alt"]) > 20, name
        layout = figure.to_plotly_json()["layout"]
        axes = {key: axis for key, axis in layout.items() if key.startswith(("xaxis", "yaxis"))}
        for key, axis in axes.items():
            title = axis.get("title", {}).get("text") or ""
            # an axis of names has none
            assert UNITS.search(title) or (axis.get("ticktext") and not title), f"{name}: {key} has no unit: {title!r}"


@pytest.mark.parametrize("prefix", ["eval_", "metrics.eval_"])
def test_evaluations_have_the_units_of_ab_tests(prefix: str) -> None:
    for metric in METRICS:
        assert units.unit_of(f"{prefix}{metric.name}") == metric.unit


@pytest.mark.parametrize(
    ("metric", "unit"),
    [
        ("eval_return", "reward a life or episode"),
        ("rate_watch_seconds", "seconds a request"),
        ("rate_click", "mean a request"),
        ("slack_watch_seconds", "seconds a request"),
        ("kl_click", "nats"),
        ("lambda_like", "no unit"),
        ("actor_loss_watch_seconds", "no unit"),
        ("abstraction_spread", "variance of phi, no unit"),
        ("abstraction_loss", "no unit"),
        ("guard_kept", "share of actions, 0 to 1"),
        ("guard_gain", "units of reward"),
        ("recovery_days", "days"),
        ("test.watch_seconds.snips.value", "seconds"),
        ("truth.click", "mean a request"),
        ("reward.within user", "share of pairs, 0 to 1"),
        ("<b>mine", ""),
    ],
)
def test_units_of_metrics(metric: str, unit: str) -> None:
    assert units.unit_of(metric) == unit


def test_no_figure_lets_foreign_text_through_as_markup() -> None:
    tables = {}
    for name, frame in all_tables().items():
        text = [column for column, kind in frame.schema.items() if kind == pl.String and column not in ("unit", "verdict")]
        tables[name] = frame.with_columns(pl.col(column) + HOSTILE for column in text)
    for name, figure in drawn(as_read(tables)):
        figure.layout.meta = None  # words for screen readers: escaped where they are set into a page
        assert "<img" not in figure.to_json().replace("\\u003c", "<"), name
        assert len(figure.to_json()) < 200_000, name


@pytest.mark.parametrize("odd", [math.nan, math.inf, 0.0, 1e130])
def test_odd_numbers_do_not_break_a_figure_or_a_sentence(odd: float) -> None:
    tables = {
        name: frame.with_columns(pl.lit(odd, pl.Float64).alias(column) for column, kind in frame.schema.items() if kind == pl.Float64)
        for name, frame in all_tables().items()
    }
    for _, figure in drawn(tables):
        figure.to_json()
    assert readings.data(tables["data_summary"], tables["data_depth"], tables["data_gaps"])
    assert readings.estimates(tables["estimates"], "long_view")
    assert readings.ab(tables["ab_metrics"], "fitted")


def test_no_rows_do_not_break_a_figure_or_a_sentence() -> None:
    tables = {name: frame.clear() for name, frame in all_tables().items()}
    with pytest.raises(IndexError):
        list(drawn(tables))  # there is no signal to choose: the pages stop before
    for draw, name in (
        (data.depth, "data_depth"),
        (data.gaps, "data_gaps"),
        (data.survival, "data_gaps"),
        (estimates.effective_sample, "estimates"),
        (estimates.weights, "estimates_weights"),
        (ab.effects, "ab_metrics"),
        (ab.arms, "ab_metrics"),
        (ab.retention, "ab_retention"),
        (simulator.simulator_fit, "simulator_fit"),
        (simulator.reliability, "simulator_reliability"),
        (estimates.reliability, "estimates_reliability"),
        (estimates.overlap, "estimates_overlap"),
        (estimates.cohorts, "estimates_cohorts"),
        (ab.guardrails, "ab_guardrails"),
        (ab.exposure, "ab_exposure"),
        (ab.cuped, "ab_cuped"),
    ):
        draw(tables[name]).to_json()
    assert "empty" in readings.data(tables["data_summary"], None, None)
    assert "No policy" in readings.estimates(tables["estimates"], "click")
    assert "No arm" in readings.ab(tables["ab_metrics"], "fitted")


def test_readings_say_what_the_tables_hold() -> None:
    tables = all_tables()
    assert "100,000 rows of 943 users on 1,682 items" in readings.data(tables["data_summary"], tables["data_depth"], tables["data_gaps"])
    # snips of td3_bc is higher but may not be used
    text = readings.estimates(tables["estimates"], "long_view").replace("\u00a0", " ")
    assert "td3_bc by ncis: 60.50 %" in text
    assert "lies above the logged 55.40 %" in text
    low = tables["estimates"].with_columns(lower=pl.lit(0.1))
    assert "no gain is shown" in readings.estimates(low, "long_view")
    unusable = tables["estimates"].with_columns(verdict=pl.lit("do not use"))
    assert "No estimate of long view may be used" in readings.estimates(unusable, "long_view")
    metrics = tables["ab_metrics"].filter(pl.col("scenario") == "fitted")
    assert readings.ab(metrics, "fitted") == "Of 2 arms, td3_bc does best against popularity: better on 5 of 6 metrics, worse on 0."
    sentence = readings.ab_arm(metrics.filter(pl.col("arm") == "td3_bc"))
    assert sentence.startswith("Better on daily active share (+3.1")
    assert "; no difference shown on hate rate" in sentence


def test_the_best_arm_is_the_one_with_the_better_verdicts_then_the_larger_first_effect() -> None:
    metrics = all_tables()["ab_metrics"].filter(pl.col("scenario") == "fitted")
    assert readings.best_arm(metrics) == "td3_bc"
    worse = metrics.with_columns(verdict=pl.when(pl.col("arm") == "td3_bc").then(pl.lit("worse")).otherwise(pl.col("verdict")))
    assert readings.best_arm(worse) == "bc"
    none = metrics.with_columns(verdict=pl.lit("no difference shown"))
    assert readings.best_arm(none) == "td3_bc"
    assert readings.best_arm(none.with_columns(higher_is_better=pl.lit(False))) == "bc"
    assert readings.best_arm(metrics.clear()) == ""


def test_arms_stand_in_order_of_the_better_direction() -> None:
    metrics = all_tables()["ab_metrics"].filter(pl.col("scenario") == "fitted")
    for metric in ("daily_active_share", "return_gap_days"):
        figure = ab.arms(metrics.filter(pl.col("metric") == metric))
        assert list(figure.layout.yaxis.ticktext) == ["bc", "td3_bc"], "from the bottom up: the best stands above"


def test_the_main_estimator_is_the_most_trusted_and_of_equals_the_last() -> None:
    frame = all_tables()["estimates"]
    assert queries.main_estimator(frame) == "ncis"
    assert queries.main_estimator(frame.with_columns(verdict=pl.lit("trust"))) == "ncis"
    better = frame.with_columns(verdict=pl.when(pl.col("estimator") == "snips").then(pl.lit("trust")).otherwise(pl.lit("caution")))
    assert queries.main_estimator(better) == "snips"
    assert queries.main_estimator(frame.clear()) == ""
    assert set(queries.by_estimator(frame, "snips")["estimator"]) == {"mean", "snips"}


def test_effects_are_relative_to_the_size_of_the_baseline() -> None:
    row = all_tables()["ab_metrics"].filter((pl.col("arm") == "td3_bc") & (pl.col("metric") == "return_gap_days")).head(1)
    figure = ab.effects(row)
    ends, mark = figure.data[0].x, figure.data[1].x
    assert mark[0] == pytest.approx(-0.019)
    assert ends[:2] == pytest.approx((-0.029, -0.009))


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (formats.count(181932), "181,932"),
        (formats.count(None), "–"),
        (formats.compact(999_999), "999,999"),
        (formats.compact(1_442_000), "1.44 M"),
        (formats.share(0.1234), "12.3 %"),
        (formats.share(math.nan), "–"),
        (formats.signed_share(-0.019), "−1.9 %"),
        (formats.number(0.000012), "1.200e-05"),
        (formats.number(12345.6), "12,346"),
        (formats.quantity(3.41, "days"), "3.41 days"),
        (formats.quantity(0.554, "share"), "55.40 %"),
        (formats.quantity(0.554, "share of users"), "55.40 %"),
        (formats.change(0.006572, "share"), "+0.657 pp"),
        (formats.change(-0.06479, "days"), "−0.0648 days"),
        (formats.change(None, "days"), "–"),
        (formats.span(-0.0989, 0.0307, "days"), "−0.0989 to +0.0307 days"),
        (formats.between(0.0989, 0.307, "share"), "9.89 % to 30.70 %"),
        (formats.between(3.312, 3.568, "a session"), "3.312 to 3.568 a session"),
        (formats.duration(42.4), "42 s"),
        (formats.duration(192), "3 min 12 s"),
        (formats.duration(7500), "2 h 5 min"),
        (formats.duration(math.inf), "–"),
        (formats.day(874_724_710_000), "1997-09-20"),
        (formats.day(1e300), "–"),
        (formats.words("long_view"), "long view"),
        (formats.clip("a\nb\u202ec", 80), "a b c"),
        (formats.clip("x" * 90, 10), "x" * 9 + "…"),
        (formats.prose("run `recrl demo` <b>"), "run `recrl demo` \\<b\\>"),
    ],
)
def test_formats(shown: str, wanted: str) -> None:
    assert shown.replace("\u00a0", " ") == wanted


@given(st.text(max_size=400))
def test_plain_text_holds_no_bare_punctuation_and_stays_short(text: str) -> None:
    shown = formats.plain(text, 100)
    assert len(shown) <= 200
    bare = shown.replace("\\\\", "")
    assert all(before == "\\" for before, mark in zip(" " + bare, bare, strict=False) if mark in "<>[]()*_`$:#!|~&")
