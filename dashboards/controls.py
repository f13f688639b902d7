"""Controls whose choice stands in the page's address, so that a link shows what was looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from dashboards.formats import clip

WIDTH = 280


def choice(
    label: str, options: Sequence[str], key: str, *, default: str = "", shown: Callable[[str], str] = clip, help: str | None = None
) -> str | None:
    """One of ``options`` by a select box; ``None`` where there are none."""
    if not options:
        return None
    start = options.index(default) if default in options else 0
    found: str = st.selectbox(
        label, options, index=start, key=key, format_func=_told_apart(options, shown), width=WIDTH, bind="query-params", help=help
    )
    return found


def choices(
    label: str, options: Sequence[str], key: str, *, default: Sequence[str], most: int | None = None, shown: Callable[[str], str] = clip
) -> list[str]:
    """Some of ``options``, in their order; beyond ``most`` the control refuses more, and says so."""
    found = st.multiselect(
        label, options, default=list(default), key=key, format_func=_told_apart(options, shown), max_selections=most, bind="query-params"
    )
    return [option for option in options if option in found]


def view(options: Sequence[str], key: str = "view") -> str:
    """The part of a page that is looked at."""
    found: str = st.segmented_control(
        "Part of the page",
        options,
        default=options[0],
        required=True,
        key=key,
        label_visibility="collapsed",
        bind="query-params",
    )
    return found


def _told_apart(options: Sequence[str], shown: Callable[[str], str]) -> Callable[[str], str]:
    """Names as ``shown``, with a number behind those that would read the same: the address holds what is shown."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for option in options:
        name, k = shown(option), 1
        while name in taken:
            k += 1
            name = f"{shown(option)} ({k})"
        taken.add(name)
        names[option] = name
    return lambda option: names.get(option, shown(option))
