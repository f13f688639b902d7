"""Plan: how many users an A/B test needs, and a small one started from here."""

from __future__ import annotations

import math

import polars as pl
import streamlit as st

from dashboards import children, controls, launching, planning, queries, show
from dashboards.figures import planning as figures
from dashboards.figures.ab import effect_axis
from dashboards.formats import clip, count, number, plain, share, words
from recrl.core.errors import RecrlError
from recrl.core.runs import RunFolder

_OWN = "my own numbers"
_FIND = ("Users needed", "Effect shown", "Power")


def page() -> None:
    """Draw the page."""
    show.title("Plan an A/B test", "How many users it needs, what it can show; and a small one in the simulator, started from here.")
    run = show.chosen_run()
    if run is not None:
        show.part(lambda: planner(run))
        st.subheader("Start a small test", anchor=False)
        starter()
        show.follow(_at_work, tests, seconds=1)


def planner(run: RunFolder) -> None:
    """Users, effect or power, from a pilot's deviation or a typed one."""
    pilot, paired_pilot = _pilot(run)
    metrics = pilot["metric"].to_list()
    with st.container(horizontal=True):
        source = controls.choice(
            "Deviation from", [*metrics, _OWN], "pilot", shown=words, help="a metric of the chosen run's A/B test tells how users vary"
        )
        row = pilot.row(by_predicate=pl.col("metric") == source, named=True) if source in metrics else None
        unit = clip(row["unit"]) if row else ""
        scale, axis = effect_axis(unit)
        deviation = row["deviation"] if row else _typed("Deviation", "deviation", 0.5, "standard deviation of a user's value")
        paired = paired_pilot if row else st.toggle("The same users in both arms", key="paired", bind="query-params")
    find = controls.view(_FIND, "find")
    with st.container(horizontal=True):
        level = 0.95
        effect = users = None
        target = 0.8
        if find != "Effect shown":
            usual = scale * (0.02 * abs(row["baseline_mean"]) if row and row["baseline_mean"] else deviation / 20)
            effect = _typed(axis.capitalize(), f"effect-{source}", float(f"{usual:.2g}"), "difference of means to be shown") / scale
        if find != "Users needed":
            users = int(_typed("Users an arm", "users", 20_000.0, ""))
        if find != "Power":
            target = st.slider("Power", 50, 99, 80, key="target", format="%d %%", width=280, bind="query-params") / 100
    try:
        answer(deviation, unit, effect, users, target, level, paired)
    except RecrlError as error:
        show.problem(error)


def answer(deviation: float, unit: str, effect: float | None, users: int | None, target: float, level: float, paired: bool) -> None:
    """The third of effect, users and power, in words and as a curve."""
    scale, _ = effect_axis(unit)
    shown = "pp" if scale == 100.0 else unit
    if effect is None:
        effect = planning.detectable_effect(deviation, users or 2, level, target, paired=paired)
    elif users is None:
        users = planning.users_needed(effect, deviation, level, target, paired=paired)
    else:
        target = planning.power(effect, deviation, users, level, paired=paired)
    assert users is not None
    sure = target < 0.9999
    looking = math.ceil(users * planning.looking_costs(level, target)) if sure else users
    said = f"{count(users)} users an arm show an effect of {number(scale * effect)} {shown}".rstrip()
    st.markdown(f"**{plain(f'{said} with a power of {share(target)}, looking once at the end.')}**")
    how = "the same users in both arms" if paired else "users randomised to arms"
    daily = f"Looking every day with always-valid intervals: {count(looking)} users an arm for the same power. " if sure else ""
    st.markdown(plain(f"{daily}Deviation {number(deviation)}, {how}, level {share(level, 0)}, two-sided."))
    show.figure("detectable", figures.detectable, deviation, unit, (effect, users), min(max(target, 0.05), 0.999), level, paired)
    same = " --paired" if paired else ""
    st.code(f"recrl power --effect {effect:.6g} --deviation {deviation:.6g} --power {min(target, 0.999):.3g}{same}", language=None)


def starter() -> None:
    """The form of a small test."""
    root = queries.runs_root().absolute()
    found = launching.simulators(root)
    if not found:
        st.caption("No run holds a fitted simulator; `recrl simulate fit` and `recrl demo` make one.")
        return
    known = launching.policies(root)
    with st.form("trial", border=True):
        with st.container(horizontal=True):
            simulator = controls.choice("Simulator", found, "simulator")
            baseline = controls.choice("Baseline", known, "baseline")
            name = st.text_input("Name of the run", value=children.free_name(root, "ab-test-"), max_chars=100, width=controls.WIDTH)
        arms = controls.choices("Arms", known, "arms", default=[known[1]], most=6)
        with st.container(horizontal=True):
            users = st.number_input("Users an arm", 10, 20_000, 500, step=100, width=160, key="arm-users", bind="query-params")
            days = st.number_input("Days", 2, 60, 7, width=120, key="days", bind="query-params")
            seed = st.number_input("Seed", 0, 2**31 - 1, 0, width=120, key="seed", bind="query-params")
            scenarios = controls.choices("Scenarios", launching.SCENARIOS, "scenarios", default=["strong"])
        asked = st.form_submit_button("Start", type="primary", icon=":material/play_arrow:")
    st.caption("It runs as a process of its own, as `recrl ab` would, and goes on when this page is closed. Two at a time at most.")
    if not asked:
        return
    trial = launching.Trial(str(simulator), str(baseline), tuple(arms), int(users), int(days), tuple(scenarios), int(seed), name.strip())
    try:
        children.start(root / trial.name, launching.command(root, trial))
    except RecrlError as error:
        show.problem(error)


def tests() -> None:
    """Tests started from this server: progress, how they ended, a button that stops them."""
    for child in _known():
        with st.container(border=True):
            _child(child)


def _known() -> list[children.Child]:
    return children.of(queries.runs_root().absolute(), "ab")[:6]


def _at_work() -> list[str]:
    return [child.run.name for child in _known() if child.running]


def _child(child: children.Child) -> None:
    name = plain(child.run.name, 60)
    now = queries.summary(RunFolder(child.run)) if child.run.is_dir() else None
    if child.running:
        told = "stopping" if child.told_to_stop else plain(now.stage) if now and now.stage else "loading the log and the simulator"
        st.progress(now.done if now and now.state == "running" else 0.0, text=f"**{name}** · {told}")
        word = "Stop at once" if child.told_to_stop else "Stop"
        if st.button(word, key=f"stop-{child.run.name}", icon=":material/stop:", help="what is done is kept; the same command goes on"):
            child.stop()
        return
    error = child.outcome()
    if error is not None:
        st.markdown(f"{show.STATES['failed']} **{name}**")
        show.problem(error)
    elif child.told_to_stop:
        st.markdown(f"{show.STATES['stopped']} **{name}**: stopped; what it had done is kept, and this goes on with it:")
        st.code(child.shown, language=None)
    else:
        st.markdown(f"{show.STATES['done']} **{name}**: choose it in the sidebar and open the A/B page.")


def _pilot(run: RunFolder) -> tuple[pl.DataFrame, bool]:
    """Metrics of the run's first scenario and arm with the deviation that their intervals imply, and whether arms are paired."""
    empty = pl.DataFrame(schema={"metric": pl.String, "unit": pl.String, "baseline_mean": pl.Float64, "deviation": pl.Float64})
    metrics, design = show.table(run, "ab_metrics", quiet=True), show.table(run, "ab_design", quiet=True)
    if metrics is None or design is None:
        return empty, False
    others = metrics.filter(pl.col("arm") != pl.col("baseline"))
    if others.is_empty():
        return empty, False
    paired = bool(design["paired"][0])
    users = metrics.filter(pl.col("arm") == pl.col("baseline"))["users"]
    first = others.row(0, named=True)
    rows = [
        {name: row[name] for name in ("metric", "unit", "baseline_mean")}
        | {"deviation": planning.pilot_deviation(row, int(users[0]) if len(users) else 0, paired)}
        for row in others.filter((pl.col("scenario") == first["scenario"]) & (pl.col("arm") == first["arm"])).iter_rows(named=True)
    ]
    found = pl.DataFrame(rows, schema=empty.schema)
    return found.filter(pl.col("deviation").is_finite() & (pl.col("deviation") > 0)).unique("metric", maintain_order=True), paired


def _typed(label: str, key: str, usual: float, help: str) -> float:
    found = st.number_input(
        label,
        min_value=2.0 if key == "users" else 1e-9,
        value=max(usual, 1e-9),
        key=key,
        format="%.0f" if key == "users" else "%.6g",
        width=200,
        help=help or None,
        bind="query-params",
    )
    return float(found)
