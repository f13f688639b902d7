"""The simulator page's sliders: assumptions, a small simulation under them, one simulated user's days."""

from __future__ import annotations

import streamlit as st

from dashboards import children, controls, launching, queries, show, timeline, what_if
from dashboards.formats import clip, count, number, plain, share, words
from dashboards.pages import user_timeline
from recrl.core.errors import RecrlError
from recrl.core.runs import RunFolder


def body(run: RunFolder) -> None:
    """Sliders, what runs and ran, and one simulated user."""
    root = queries.runs_root().absolute()
    if (eta := what_if.fitted_eta(root, run.name)) is not None:
        _ask(run, eta)
    else:
        st.caption("This run holds no fitted simulator; recrl simulate fit makes one. Earlier what-ifs stand below.")
    show.follow(_at_work, _ran, seconds=1)
    _one_user()


def _ask(run: RunFolder, fitted_eta: float) -> None:
    root = queries.runs_root().absolute()
    with st.form("what-if", enter_to_submit=False):
        with st.container(horizontal=True):
            eta = st.slider(
                "Satisfaction's effect on return (eta_s)",
                0.0,
                10.0,
                min(fitted_eta, 10.0),
                0.1,
                width=250,
                # another run's fit has another value to begin with
                key=f"eta-{run.name}",
                bind="query-params",
                help="log-odds of return a unit of satisfaction; a log does not tell it. Weak is 1, strong 5; as fitted to begin with",
            )
            leaving = st.slider(
                "Leaving, times its fitted odds",
                0.25,
                4.0,
                1.0,
                0.05,
                width=200,
                key="leaving",
                bind="query-params",
                help="the odds that a session ends after a request: below 1 sessions are deeper",
            )
            pool = st.slider(
                "Candidates a request", 10, 500, 100, 10, width=190, help="items the platform chooses from", key="pool", bind="query-params"
            )
            slate = st.slider("Items a request", 1, 20, 6, width=150, key="slate", bind="query-params")
        with st.container(horizontal=True):
            drift = str(controls.choice("Drift", list(what_if.DRIFTS), "drift", shown=lambda kind: f"{kind}: {what_if.DRIFTS[kind][1]}"))
            times = st.slider(
                "Drift, times its usual amplitude",
                0.0,
                3.0,
                1.0,
                0.25,
                width=240,
                help="without effect where nothing drifts",
                key="amplitude",
                bind="query-params",
            )
        with st.container(horizontal=True):
            policy = str(controls.choice("Shown by", launching.policies(root), "policy", shown=lambda name: clip(name, 60)))
            users = st.slider("Simulated users", 50, 1000, 200, 50, width=180, key="users", bind="query-params")
            days = st.slider("Days", 3, 60, 14, width=180, key="days", bind="query-params")
            seed = st.number_input(
                "Seed",
                0,
                2**31 - 1,
                0,
                width=120,
                help="the same seed: the same users and luck, so what-ifs compare",
                key="seed",
                bind="query-params",
            )
        begun = st.form_submit_button("Simulate", type="primary", icon=":material/play_arrow:")
    st.caption("It runs as a process of its own, as recrl simulate log would, and leaves a prepared log. Two at a time at most.")
    if not begun:
        return
    amplitude = what_if.DRIFTS[drift][0] * times
    asked = what_if.WhatIf(
        run.name,
        policy,
        float(eta),
        float(leaving),
        int(pool),
        int(slate),
        drift,
        amplitude,
        int(users),
        int(days),
        int(seed),
        what_if.free_name(),
    )
    try:
        command = what_if.command(root, asked)
        # the name comes last: a second click asks for the same under another one
        if not any(child.running and child.command[:-1] == tuple(command[:-1]) for child in _known()):
            children.start(queries.stores_root() / asked.name, command)
    except RecrlError as error:
        show.problem(error)


def _known() -> list[children.Child]:
    return children.of(queries.stores_root(), "simulate")[:8]


def _at_work() -> list[str]:
    return [child.run.name for child in _known() if child.running]


def _ran() -> None:
    """Progress of what runs, and a table of what ran."""
    rows = []
    for child in _known():
        if child.running:
            told = "stopping" if child.told_to_stop else "loading the log and the simulator, then simulating"
            st.progress(what_if.share_done(child), text=f"**{plain(child.run.name)}** · {told}")
            if st.button("Stop", key=f"stop-{child.run.name}", icon=":material/stop:", help="nothing is kept of it"):
                child.stop()
        elif error := child.outcome():
            st.markdown(f"{show.STATES['failed']} **{plain(child.run.name)}**")
            show.problem(error)
        elif found := child.result():
            rows.append({"what-if": child.run.name, "assumed": clip(what_if.asked_of(child), 200), **_told(found)})
    if rows:
        show.rows(rows)
        st.caption("With one seed the users and their luck are the same in each row: differences come from the assumptions alone.")


def _told(found: dict[str, object]) -> dict[str, str]:
    whole: dict[str, str] = {name: count(float(str(found[name]))) for name in ("users", "sessions", "requests") if name in found}
    each = (
        number(float(str(found["requests"])) / max(float(str(found["sessions"])), 1.0)) if {"requests", "sessions"} <= found.keys() else ""
    )
    shares = {
        words(name): share(float(str(value))) for name, value in found.items() if name.endswith("_rate") or name == "returned_next_day"
    }
    return {**whole, "requests a session": each, **shares}


def _one_user() -> None:
    st.subheader("One simulated user's days", anchor=False)
    name = controls.choice("Simulated log", what_if.made(), "simulated")
    if name is None:
        st.caption("No what-if was simulated yet.")
        return
    try:
        store = timeline.named(name)
        show.part(lambda: user_timeline.of_store(store, "day"))
    except RecrlError as error:
        show.problem(error)
