"""The simulator page's sliders: assumptions, a small simulation under them, one simulated user's days."""

from __future__ import annotations

import streamlit as st

from dashboards import children, controls, launching, queries, show, timeline, what_if
from dashboards.formats import clip, count, number, plain, share, words
from dashboards.pages import user_timeline
from recrl.core.errors import RecrlError
from recrl.core.runs import RunFolder

_RUNNING = "what-ifs-at-work"


def body(run: RunFolder) -> None:
    """Sliders, what runs and ran, and one simulated user."""
    root = queries.runs_root().absolute()
    if (eta := what_if.fitted_eta(root, run.name)) is not None:
        _ask(run, eta)
    else:
        st.caption("This run holds no fitted simulator; recrl simulate fit makes one. Earlier what-ifs stand below.")
    st.fragment(_ran, run_every=1 if any(child.running for child in _known()) else None)()
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
                help="log-odds of return a unit of satisfaction; a log does not tell it. Weak is 1, strong 5; as fitted to begin with",
            )
            leaving = st.slider(
                "Leaving, times its fitted odds",
                0.25,
                4.0,
                1.0,
                0.05,
                width=200,
                help="the odds that a session ends after a request: below 1 sessions are deeper",
            )
            pool = st.slider("Candidates a request", 10, 500, 100, 10, width=190, help="items the platform chooses from")
            slate = st.slider("Items a request", 1, 20, 6, width=150)
        with st.container(horizontal=True):
            drift = st.selectbox(
                "Drift", list(what_if.DRIFTS), format_func=lambda kind: f"{kind}: {what_if.DRIFTS[kind][1]}", width=controls.WIDTH + 120
            )
            times = st.slider(
                "Drift, times its usual amplitude", 0.0, 3.0, 1.0, 0.25, width=240, help="without effect where nothing drifts"
            )
        with st.container(horizontal=True):
            policy = st.selectbox("Shown by", launching.policies(root), format_func=lambda name: clip(name, 60), width=controls.WIDTH)
            users = st.slider("Simulated users", 50, 1000, 200, 50, width=180)
            days = st.slider("Days", 3, 60, 14, width=180)
            seed = st.number_input("Seed", 0, 2**31 - 1, 0, width=120, help="the same seed: the same users and luck, so what-ifs compare")
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
        children.start(what_if.stores_root() / asked.name, what_if.command(root, asked))
    except RecrlError as error:
        show.problem(error)


def _known() -> list[children.Child]:
    return [child for child in children.of(what_if.stores_root()) if child.command[:2] == ("simulate", "log")][:8]


def _ran() -> None:
    """Progress of what runs, and a table of what ran."""
    known = _known()
    running = [child.run.name for child in known if child.running]
    if st.session_state.setdefault(_RUNNING, running) != running:
        # one began or ended: the logs to choose from are others
        st.session_state[_RUNNING] = running
        st.rerun()
    rows = []
    for child in known:
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
