"""``report.html``: the run in one file that opens anywhere, without a network; the figures of the dashboard, each stage read in words."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import polars as pl
from plotly.offline import get_plotlyjs

from dashboards import estimated, look, queries, readings, readings_ab
from dashboards.figures import ab as ab_figures
from dashboards.figures import data as data_figures
from dashboards.figures import estimates as estimate_figures
from dashboards.figures import simulator as simulator_figures
from dashboards.figures import training as training_figures
from dashboards.formats import between, change, clip, count, day, duration, number, quantity, share, signed_share, span, words
from recrl.core.errors import RecrlError
from recrl.core.files import write_text
from recrl.core.runs import RunFolder


@dataclass
class Section:
    """One stage: sentences, figures and tables (rows of text, the first one the head)."""

    title: str
    sentences: list[str] = field(default_factory=list)
    figures: list[go.Figure] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)


def write_report(run: RunFolder) -> Path:
    """Write ``artifacts/report.html`` from the run's tables; a stage that the run lacks says so.

    **Errors**: :class:`recrl.core.errors.StorageError` where the disk refuses.
    """
    path = run.artifact("report.html")
    write_text(path, render(run))
    return path


def render(run: RunFolder) -> str:
    """The report as HTML text."""
    stages: dict[str, Callable[[RunFolder], Section]] = {
        "Data": _data,
        "Training": _training,
        "Off-policy estimates": _estimates,
        "A/B in the simulator": _ab,
    }
    sections = []
    for title, build in stages.items():
        try:
            sections.append(build(run))
        except RecrlError as error:
            sections.append(Section(title, [f"Not part of this run: {error.what}."]))
    body = "\n".join(_section(number, section) for number, section in enumerate(sections, start=1))
    return _PAGE.format(
        title=_text(run.name),
        head=_head(run),
        toc="".join(f'<a href="#s{k}">{_text(section.title)}</a>' for k, section in enumerate(sections, start=1)),
        body=body,
        run=_run_facts(run),
        style=_STYLE,
        plotly=get_plotlyjs(),
        script=_SCRIPT,
    )


def _data(run: RunFolder) -> Section:
    summary = queries.table(run, "data_summary")
    depth, gaps = _optional(run, "data_depth"), _optional(run, "data_gaps")
    section = Section("Data", [readings.data(summary, depth, gaps)])
    if depth is not None:
        section.figures.append(data_figures.depth(depth))
    if gaps is not None:
        section.figures += [data_figures.gaps(gaps), data_figures.survival(gaps)]
    if (daily := _optional(run, "data_daily")) is not None:
        section.figures.append(data_figures.daily(daily))
    if (rates := _optional(run, "data_rates")) is not None:
        section.figures.append(data_figures.rates(rates.filter(pl.col("unit").str.starts_with("share"))))
    if (popularity := _optional(run, "data_popularity")) is not None:
        section.figures.append(data_figures.popularity(popularity))
    if (quality := _optional(run, "data_quality")) is not None:
        rows = [[clip(r["check"]), count(r["count"]), clip(r["severity"]), clip(r["note"], 200)] for r in quality.iter_rows(named=True)]
        section.tables.append([["check", "count", "severity", "note"], *rows])
    return section


def _training(run: RunFolder) -> Section:
    frames = [(queries.curves(run, name).frame).with_columns(stream=pl.lit(name)) for name in queries.streams(run)]
    frames = [frame for frame in frames if frame.height]
    if not frames:
        return Section("Training", ["This run logged no training metrics."])
    everything = pl.concat(frames)
    names = everything["name"].unique(maintain_order=True).to_list()[:12]
    figures = [training_figures.curve(everything, name) for name in names]
    return Section("Training", [readings.training(everything)], figures)


def _estimates(run: RunFolder) -> Section:
    frame = queries.table(run, "estimates")
    main = queries.main_signal(run, frame)
    signals = [main, *(signal for signal in frame["signal"].unique(maintain_order=True).to_list() if signal != main)][:4]
    section = Section("Off-policy estimates")
    for signal in signals:
        shown = queries.main_estimates(frame.filter(pl.col("signal") == signal))
        section.sentences += [readings.estimates(rows, signal) for rows in shown] or [readings.estimates(frame, signal)]
        section.figures += [estimate_figures.estimates(rows, signal) for rows in shown]
        if signal == main:
            section.figures += [estimate_figures.effective_sample(rows) for rows in shown]
    if (weights := _optional(run, "estimates_weights")) is not None:
        section.figures.append(estimate_figures.weights(weights))
    body = [
        [
            clip(row["policy"]),
            clip(row["estimator"]),
            quantity(row["value"], unit),
            between(row["lower"], row["upper"], unit),
            look.verdict(row["verdict"]),
            f"{count(row['ess'])} ({share(row['ess_share'], 0)})",
            clip(row["reasons"], 400),
        ]
        for row in frame.filter(pl.col("signal") == main).iter_rows(named=True)
        for unit in [estimated.unit(main, estimated.kind_of(main, row["estimator"]))]
    ]
    section.tables.append([["policy", "estimator", words(main), "interval", "verdict", "effective sample", "reasons"], *body])
    return section


def _ab(run: RunFolder) -> Section:
    metrics = queries.table(run, "ab_metrics")
    section = Section("A/B in the simulator", [_design(row) for row in _rows(run, "ab_design")])
    daily, retention = (_optional(run, name) for name in ("ab_daily", "ab_retention"))
    for (scenario,) in metrics.select("scenario").unique(maintain_order=True).head(4).iter_rows():
        section.sentences.append(f"Scenario {clip(scenario)}: {readings.ab(metrics, scenario)}")
        others = metrics.filter((pl.col("scenario") == scenario) & (pl.col("arm") != pl.col("baseline")))
        if others.is_empty():
            continue
        best = readings.best_arm(others)
        mine = others.filter(pl.col("arm") == best)
        section.figures.append(ab_figures.effects(mine))
        if others["arm"].n_unique() > 1:
            section.figures.append(ab_figures.arms(others.filter(pl.col("metric") == others["metric"][0])))
        shown = (pl.col("scenario") == scenario) & pl.col("arm").is_in([mine["baseline"][0], best])
        if daily is not None and daily.filter(shown).height:
            section.figures.append(ab_figures.ab_daily(daily.filter(shown), daily.filter(shown)["metric"][0]))
        if retention is not None:
            section.figures.append(ab_figures.retention(retention.filter(shown)))
        section.tables.append(_metric_rows(others, scenario))
    for row in _rows(run, "ab_design")[:1]:
        section.sentences.append(readings_ab.sample_ratio(row))
    if (fit := _optional(run, "simulator_fit")) is not None:
        section.sentences.append(f"Simulator: {readings_ab.simulator(fit)} Not for {'; not for '.join(readings_ab.MISUSES)}.")
        compared = fit.filter(pl.col("logged").is_finite() & pl.col("lower").is_finite())
        names = compared["quantity"].unique(maintain_order=True).to_list()[:8]
        section.figures += [simulator_figures.simulator_fit(compared.filter(pl.col("quantity") == name)) for name in names]
    return section


def _design(row: dict[str, Any]) -> str:
    pairing = "the same users and the same random numbers in each arm" if row["paired"] else "independent users in each arm"
    return (
        f"{count(row['users'])} simulated users an arm over {count(row['days'])} days, {pairing}; scenario {clip(row['eta_scenario'])} "
        f"(satisfaction effect {number(row['eta'])}); {count(row['user_steps'])} user steps in {duration(row['seconds'])}."
    )


def _metric_rows(rows: pl.DataFrame, scenario: str) -> list[list[str]]:
    body = [
        [
            words(row["metric"]),
            clip(row["arm"]),
            quantity(row["mean"], unit),
            quantity(row["baseline_mean"], unit),
            f"{change(row['effect'], unit)} ({span(row['lower'], row['upper'], unit)})",
            signed_share(row["relative_effect"]),
            look.verdict(row["verdict"]),
        ]
        for row in rows.filter(pl.col("arm") != pl.col("baseline")).iter_rows(named=True)
        for unit in [clip(row["unit"])]
    ]
    return [[f"metric ({clip(scenario)})", "arm", "mean", "baseline", "effect (interval)", "relative", "verdict"], *body]


def _rows(run: RunFolder, name: str) -> list[dict[str, Any]]:
    frame = _optional(run, name)
    return [] if frame is None else frame.head(4).to_dicts()


def _optional(run: RunFolder, name: str) -> pl.DataFrame | None:
    try:
        return queries.table(run, name)
    except RecrlError:
        return None


# ---------------------------------------------------------------- HTML


def _text(value: object) -> str:
    return html.escape(clip(value, 2000))


def _section(position: int, section: Section) -> str:
    sentences = "".join(f"<p>{_text(sentence)}</p>" for sentence in section.sentences)
    figures = "".join(f"<figure>{_drawn(figure, f'f{position}-{k}')}</figure>" for k, figure in enumerate(section.figures))
    tables = "".join(_table(rows) for rows in section.tables if len(rows) > 1)
    return f'<section id="s{position}"><h2>{_text(section.title)}</h2>{sentences}<div class="grid">{figures}</div>{tables}</section>'


def _drawn(figure: go.Figure, name: str) -> str:
    alt = html.escape(str(figure.layout.meta["alt"]), quote=True)
    config = {"displaylogo": False, "responsive": True, "displayModeBar": False}
    drawn = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=config, default_height=f"{figure.layout.height}px")
    return f'<div role="img" aria-label="{alt}">{drawn}</div>'


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _head(run: RunFolder) -> str:
    now = queries.summary(run)
    started = day(1000 * now.started) if now.started else ""
    return f"{_text(now.kind or 'run')} · started {started} · {_text(now.state)}"


def _run_facts(run: RunFolder) -> str:
    parts = [f"<p>The same tables, live and with controls: <code>recrl dashboard --runs {_text(run.path.parent)}</code></p>"]
    for title, read in (("Configuration", queries.config), ("Environment", queries.environment)):
        try:
            content = json.dumps(read(run), indent=2, sort_keys=True)[:20_000]
        except RecrlError as error:
            content = error.what
        parts.append(f'<h3>{title}</h3><pre tabindex="0">{html.escape(content)}</pre>')
    return "".join(parts)


_STYLE = """
:root { color-scheme: light dark; --ink: #23272f; --soft: #5b6470; --line: #d9dde3; --paper: #ffffff; --tint: #f4f6f9; --link: #1f66b5 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --soft: #a3abb7; --line: #3a404a; --paper: #15181d; --tint: #1d2127; --link: #7db8f7 }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1280px; padding: 2rem 1.5rem 5rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif }
h1 { margin: 0; font-size: 2rem; overflow-wrap: anywhere } h2 { margin: 3rem 0 .5rem; font-size: 1.45rem } h3 { font-size: 1.05rem }
p { max-width: 75ch } header p { color: var(--soft); margin: .3rem 0 1rem }
nav { display: flex; flex-wrap: wrap; gap: .4rem 1.4rem; padding: .7rem 0; border-block: 1px solid var(--line) }
a { color: var(--link); text-decoration: none } a:hover, a:focus { text-decoration: underline }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 520px), 1fr)); gap: 1rem 1.5rem; margin: 1rem 0 }
figure { margin: 0; padding: .5rem; border: 1px solid var(--line); border-radius: 10px; min-width: 0 }
.wide { overflow-x: auto; margin: 1rem 0 } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { color: var(--soft); font-weight: 600 }
pre, code { background: var(--tint); border-radius: 6px; font: .85rem/1.5 ui-monospace, monospace } code { padding: .15rem .4rem }
pre { padding: 1rem; overflow: auto; max-height: 26rem }
"""

# figures carry no ink of their own; this gives them the page's, and again when the reader's theme changes
_SCRIPT = """
const dark = matchMedia('(prefers-color-scheme: dark)');
function ink() {
  const colour = getComputedStyle(document.documentElement).getPropertyValue('--ink').trim();
  const plots = document.querySelectorAll('.plotly-graph-div');
  const font = {color: colour, family: 'system-ui, sans-serif'};
  for (const plot of plots) Plotly.relayout(plot, {font: font, 'title.font.color': colour, 'title.subtitle.font.color': colour});
}
dark.addEventListener('change', ink);
addEventListener('load', ink);
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title} · recrl</title>
<style>{style}</style>
<script>{plotly}</script>
</head>
<body>
<header><h1>{title}</h1><p>{head}</p></header>
<nav>{toc}<a href="#run">This run</a></nav>
{body}
<section id="run"><h2>This run</h2>{run}</section>
<script>{script}</script>
</body>
</html>
"""
