"""The dashboard: which run, which page. Start it with ``recrl dashboard``."""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboards import queries, show
from dashboards.formats import clip
from dashboards.pages import ab, compare, data, estimates, home, label, plan, simulator, training

_CHOICE, _PAGE = "run-choice", "page"
_ON_ACCENT = """<style>
[data-testid="stBaseButton-primary"], [data-testid="stBaseButton-primaryFormSubmit"],
[data-testid="stMultiSelect"] [data-tag] {color: light-dark(#ffffff, #101218) !important}
</style>"""
"""Ink on the accent: in the dark, white on it is too pale, and an accent that bears white is too dark for words of its own colour."""


def main() -> None:
    """Draw the sidebar and the page."""
    st.set_page_config(page_title="recrl", page_icon="📈", layout="wide")
    st.html(_ON_ACCENT)
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
    forget(page.url_path)
    known = _states()
    choose_run([name for name, _ in known])
    page.run()
    st.fragment(partial(watch, known), run_every=show.REFRESH_SECONDS)()


def forget(page: str) -> None:
    """Begin a page without the choices of the one before: pages name theirs alike, and Streamlit hands them on, into the address too."""
    if st.session_state.get(_PAGE, page) != page:
        for key in set(st.session_state) - {"run", _CHOICE}:
            del st.session_state[key]
    st.session_state[_PAGE] = page


def watch(known: list[tuple[str, str]]) -> None:
    """Draw the page anew where a run came, went, began, ended or was killed, whoever did it."""
    if _states() != known:
        st.rerun()


def _states() -> list[tuple[str, str]]:
    return [(run.name, run.state) for run in queries.list_runs(queries.runs_root())]


def choose_run(names: list[str]) -> None:
    """The sidebar's run; the URL's ``run`` parameter is the one truth, kept from page to page."""
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
