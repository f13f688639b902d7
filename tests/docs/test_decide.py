"""The page `tutorials/decide.md` in a real Chromium: from the first page to a decision in at most five clicks.

On a small made run; with ``RECRL_DEMO_RUNS=DIR`` on the run of `recrl demo` there, and ``RECRL_SCREENSHOTS=DIR`` keeps the page's pictures.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.dashboard.make_run import make_run
from tests.dashboard.test_browser import PAGES, Tab, browser, context, served, tab_of

__all__ = ["browser", "context", "tab_of"]
pytestmark = pytest.mark.browser
PAGE = REPOSITORY / "docs" / "tutorials" / "decide.md"


@pytest.fixture
def home(tmp_path: Path, chromium: str) -> Iterator[str]:
    """Address of the app on the demo's runs."""
    runs = Path(os.environ.get("RECRL_DEMO_RUNS", tmp_path / "runs"))
    if "RECRL_DEMO_RUNS" not in os.environ:
        make_run(runs / "demo")
    with served(runs) as url:
        yield url


def picture(tab: Tab, name: str) -> None:
    """What is seen without scrolling."""
    if folder := os.environ.get("RECRL_SCREENSHOTS"):
        tab.page.mouse.move(0, 0)
        tab.page.wait_for_timeout(800)
        tab.page.screenshot(path=str(Path(folder) / f"{name}.png"))


def test_a_decision_takes_five_clicks(home: str, tab_of: type[Tab]) -> None:
    tab = tab_of()
    tab.page.set_default_timeout(120_000)
    sidebar, content = tab.page.get_by_test_id("stSidebarNav"), tab.page.get_by_test_id("stMain")
    tab.open(home, "recrl")
    tab.page.get_by_text("does best").first.wait_for()
    picture(tab, "0-home")
    clicks = {
        "A/B": sidebar.locator("a[href$='/ab']"),
        "Day by day": content.get_by_role("radio", name="Day by day"),
        "Scenarios": content.get_by_role("radio", name="Scenarios"),
        "Simulator": sidebar.locator("a[href$='/simulator']"),
        "Estimates": sidebar.locator("a[href$='/estimates']"),
    }
    headings = {"A/B": PAGES["ab"], "Simulator": PAGES["simulator"], "Estimates": PAGES["estimates"]}
    assert len(clicks) <= 5
    page = PAGE.read_text()
    for number, (name, target) in enumerate(clicks.items(), 1):
        target.click()
        if name in headings:
            tab.page.get_by_role("heading", name=headings[name], exact=True, level=1).wait_for()
        tab.settle()
        assert f"## Click {number}: {name}" in page
        picture(tab, f"{number}-{name.split()[0].replace('/', '').lower()}")
