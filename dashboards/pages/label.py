"""Label: a person says which of two session timelines is better; a reward is learned from the answers."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import streamlit as st

from dashboards import children, controls, labelling, queries, show
from dashboards.formats import clip, count, plain, words
from dashboards.pages import pairs
from recrl.core.errors import RecrlError
from recrl.core.runs import RunFolder

_ANSWERS = (
    ("Left is better", "1", ":material/arrow_back:", "1"),
    ("Equal", "=", ":material/drag_handle:", "0"),
    ("Right is better", "2", ":material/arrow_forward:", "2"),
    ("Skip", "s", ":material/skip_next:", "s"),
    ("Undo", "u", ":material/undo:", "u"),
)
_PATIENCE_SECONDS = 2.0


def page() -> None:
    """Draw the page."""
    show.title("Label", "Which of two timelines is better for the user? A reward and a policy are learned from the answers.")
    root = queries.runs_root().absolute()
    child = next(iter(children.of(root, "prefer")), None)
    if child is not None and child.running:
        waiting = labelling.waiting(child) is not None
        st.fragment(lambda: _ask(child, waiting), run_every=None if waiting else 1)()
        return
    if child is not None:
        _ended(child)
    _begin(root)


def _ask(child: children.Child, waited: bool) -> None:
    """The question that waits, with its buttons; without one the progress of what makes it."""
    asked = labelling.waiting(child)
    if (asked is not None) != waited or not child.running:
        # from here on it need not look by itself, or must again
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{plain(child.run.name, 60)}**")
        if st.button("Stop here", icon=":material/stop:", help="every answer is on disk; the same labelling can be gone on with"):
            child.reply("q") if asked else child.stop()
            _settle(child)
            st.rerun()
    if asked is None:
        st.progress(0.0, text="loading timelines: a few seconds on simulated users, longer on a large log")
        return
    st.progress((asked.number - 1) / asked.of, text=f"pair {asked.number} of {asked.of}")
    left, right = st.columns(2, gap="large")
    for column, side, user, sessions in ((left, "Left", asked.users[0], asked.left), (right, "Right", asked.users[1], asked.right)):
        with column:
            st.subheader(side, anchor=False)
            pairs.timeline(user, sessions)
    with st.container(horizontal=True):
        for label, word, icon, key in _ANSWERS:
            st.button(
                label,
                key=f"answer-{word}",
                icon=icon,
                shortcut=key,
                type="primary" if word in "12" else "secondary",
                disabled=word == "u" and asked.number == 1,
                on_click=_reply,
                args=(child, asked.number, word),
            )
    same = "Both are one user's timelines." if asked.users[0] == asked.users[1] else "The two are timelines of different users."
    st.caption(
        f"{same} A row is one session, a bar one of its requests: the higher, the more {_first_signal(asked)}; beside them means over the "
        "session. Answers are on disk at once. *Undo* takes back the last one."
    )


def _reply(child: children.Child, number: int, word: str) -> None:
    """Answer this question and no later one: a second click on a slow page is not a second answer."""
    now = labelling.waiting(child)
    if now is not None and now.number == number:
        child.reply(word)
        _settle(child)


def _settle(child: children.Child) -> None:
    """Wait a moment for the next question, so that the page shows it at once."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while child.running and labelling.waiting(child) is None and time.monotonic() < until:
        time.sleep(0.01)


def _first_signal(asked: labelling.Question) -> str:
    means = asked.left[0].means if asked.left else {}
    return plain(words(next(iter(means), "feedback")))


def _ended(child: children.Child) -> None:
    """How the last labelling ended, and what to do with it."""
    name = plain(child.run.name, 60)
    error = child.outcome()
    with st.container(border=True):
        if error is not None:
            st.markdown(f"{show.STATES['failed']} **{name}**")
            show.problem(error)
            return
        found = labelling.answers(RunFolder(child.run))
        left = child.result().get("left")
        state = "done" if left == 0 else "stopped"
        st.markdown(f"{show.STATES[state]} **{name}**: {_told(found)}{'' if not left else f'; {count(left)} to go'}.")
        if found is not None and found["left"] + found["right"]:
            st.caption("Learn a reward and a policy from them:")
            # of the same log, and into the same runs
            places = [word for word in child.command if word.startswith(("--data=", "--stores=", "--runs="))]
            st.code(shlex.join(("recrl", "prefer", "train", str(child.run), *places)), language=None)


def _told(found: dict[str, int] | None) -> str:
    words_of = {"left": "left better", "right": "right better"}
    return "no answers yet" if found is None else ", ".join(f"{count(number)} {words_of.get(name, name)}" for name, number in found.items())


def _begin(root: Path) -> None:
    """Start labelling, or go on with it."""
    st.subheader("Start labelling", anchor=False)
    logs = queries.stores()
    with st.form("labelling", enter_to_submit=False):
        with st.container(horizontal=True):
            source = controls.choice("Timelines of", [*logs, labelling.SIMULATED], "source", help="a prepared log, or simulated users")
            pairs = st.number_input("Pairs", 5, 1000, 50, width=120, key="pairs", bind="query-params")
            within = st.slider(
                "Of one user (%)",
                0,
                100,
                50,
                10,
                width=200,
                help="pairs of one user's timelines: who it is cannot decide them",
                key="within",
                bind="query-params",
            )
            length = st.number_input("Requests a timeline", 4, 60, 24, width=160, key="length", bind="query-params")
        with st.container(horizontal=True):
            name = st.text_input("Name of the run", value=children.free_name(root, "labels-"), max_chars=100, width=controls.WIDTH)
            seed = st.number_input(
                "Seed", 0, 2**31 - 1, 0, width=120, help="decides the pairs and their order", key="seed", bind="query-params"
            )
        begun = st.form_submit_button("Start", type="primary", icon=":material/play_arrow:")
    st.caption(
        "The questions are those of recrl prefer, which runs as a process of its own and writes each answer before the next question."
    )
    if begun:
        _start(root, labelling.Request(str(source), int(pairs), within / 100, int(length), int(seed), name.strip()))
    unfinished = labelling.unfinished(root)
    if unfinished:
        st.subheader("Go on", anchor=False)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            chosen = st.selectbox("Unfinished labelling", list(unfinished), format_func=lambda name: clip(name, 60), width=controls.WIDTH)
            if st.button("Go on", icon=":material/resume:") and chosen:
                _start(root, unfinished[chosen])
        st.caption(f"So far: {_told(labelling.answers(RunFolder(root / str(chosen))))}.")


def _start(root: Path, asked: labelling.Request) -> None:
    try:
        if asked.name not in labelling.unfinished(root) and (root / asked.name).exists():
            st.caption(f"A run {plain(asked.name, 60)} is there already: choose another name, or go on with it below.")
            return
        children.start(root / asked.name, labelling.command(root, asked), asks=True)
    except RecrlError as error:
        show.problem(error)
        return
    st.rerun()
