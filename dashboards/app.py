"""The dashboard: which run, which page. Start it with ``recrl dashboard``."""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboards import queries
from dashboards.formats import clip
from dashboards.pages import ab, compare, data, estimates, home, label, plan, simulator, training

_CHOICE = "run-choice"


def main() -> None:
    """Draw the sidebar and the page."""
    st.set_page_config(page_title="recrl", page_icon="📈", layout="wide")
    pages = [
        st.Page(data.page, title="Data", icon=":material/database:", url_path="data"),
        st.Page(training.page, title="Training", icon=":material/show_chart:", url_path="training"),
        st.Page(estimates.page, title="Estimates", icon=":material/query_stats:", url_path="estimates"),
        st.Page(simulator.page, title="Simulator", icon=":material/groups:", url_path="simulator"),
        st.Page(ab.page, title="A/B", icon=":material/compare_arrows:", url_path="ab"),
        st.Page(plan.page, title="Plan", icon=":material/calculate:", url_path="plan"),
        st.Page(label.page, title="Label", icon=":material/thumbs_up_down:", url_path="label"),
        st.Page(compare.page, title="Compare", icon=":material/compare:", url_path="compare"),
    ]
    start = st.Page(partial(home.page, pages), title="Home", icon=":material/home:", url_path="home", default=True)
    page = st.navigation([start, *pages])
    choose_run()
    page.run()


def choose_run() -> None:
    """The sidebar's run; the URL's ``run`` parameter is the one truth, kept from page to page."""
    names = [run.name for run in queries.list_runs(queries.runs_root())]
    # a click on a page empties the URL's parameters
    wanted = st.query_params.get("run") or st.session_state.get("run") or (names[0] if names else None)
    if wanted is None:
        return
    st.query_params["run"] = st.session_state["run"] = wanted
    st.session_state[_CHOICE] = wanted if wanted in names else None
    with st.sidebar:
        st.selectbox("Run", names, key=_CHOICE, on_change=_follow, format_func=partial(clip, limit=60), placeholder="choose a run")


def _follow() -> None:
    st.query_params["run"] = st.session_state["run"] = st.session_state[_CHOICE]


if __name__ == "__main__":
    main()
