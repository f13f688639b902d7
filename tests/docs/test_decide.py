"""The page `tutorials/decide.md` in a real Chromium: from the first page to a decision in at most five clicks.

On a small made run; with ``RECRL_DEMO_RUNS=DIR`` on the run of `recrl demo` there, and ``RECRL_SCREENSHOTS=DIR`` keeps the page's pictures.
"""

from __future__ import annotations

import math
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dashboards import planning
from recrl.verbs.demo import to_look_at
from tests.conftest import REPOSITORY
from tests.dashboard.make_run import make_run
from tests.dashboard.test_browser import PAGES, Tab, browser, context, served, tab_of

__all__ = ["browser", "context", "tab_of"]
pytestmark = pytest.mark.browser
PAGE = REPOSITORY / "docs" / "tutorials" / "decide.md"
ANSWERS = {
    "Home": ("Of 2 arms, td3_bc does best against popularity", "100,000 rows of 943 users"),
    "A/B": ("Of 2 arms, td3_bc does best against popularity: better on 5 of 6 metrics", "1.2 M user steps in 48 s"),
    "Day by day": ("You may stop: since day 5 the always-valid look says better",),
    "Scenarios": ("Active days depends on eta", "weaker response"),
    "Simulator": ("2 of 2 fitted quantities lie within", "What it must not be used for"),
    "Estimates": ("highest usable estimate is td3_bc by ncis: 60.50 %, 95 % interval 57.48 % to 63.52 % (caution)", "the logged 55.40 %"),
}
"""What each step says about the made run: which policy, by how much, how sure."""
OF_THE_DEMO = {
    "Home": ("td3_bc-embedding does best",),
    "A/B": ("td3_bc-embedding", "better on 11 of 12 metrics", "popularity"),
    "Day by day": ("May I stop?",),
    "Scenarios": ("strong",),
    "Simulator": ("nothing fitted could be checked",),
    "Estimates": ("td3_bc-fusion_weights", "do not use"),
}
"""The same of the demo's run, as the page and the README tell it."""


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
    sidebar, content = tab.page.get_by_test_id("stSidebarNav"), tab.page.get_by_test_id("stMain")
    tab.open(home, "recrl")
    said = OF_THE_DEMO if "RECRL_DEMO_RUNS" in os.environ else ANSWERS
    tab.page.get_by_text("does best").first.wait_for()
    assert all(words in tab.text() for words in said["Home"]), tab.text()
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
        for words in said[name]:
            tab.page.get_by_text(words).first.wait_for()
        picture(tab, f"{number}-{name.split()[0].replace('/', '').lower()}")


def test_the_answer_stands_on_the_page_and_in_the_readme() -> None:
    page, readme = PAGE.read_text(), (REPOSITORY / "README.md").read_text()
    once = planning.users_needed(0.067, 0.49)
    answer = page.split("## The answer")[1]
    assert "recrl power --effect 0.067 --deviation 0.49" in answer
    assert f"{once} users an arm for one look at the end, {math.ceil(once * planning.looking_costs()):,} for a test" in answer
    for told in (page, readme):
        assert "make demo" in told
        assert "make dashboard" in told
        assert ".067 [.053, .081]" in told
        assert 'ARGS="--scenarios fitted weak strong' in told
    assert f"{once} users an arm" in readme


def test_the_demo_says_how_to_look_at_it_in_words_that_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RECRL_MAKE", "MAKEFLAGS"):
        monkeypatch.delenv(name, raising=False)
    assert to_look_at(Path("my runs")) == "recrl dashboard --runs 'my runs'"
    asked = subprocess.run(["make", "-n", "demo"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert "RECRL_MAKE=1 .venv/bin/recrl demo" in asked
    monkeypatch.setenv("RECRL_MAKE", "1")
    assert to_look_at(Path("runs")) == "make dashboard"
    for runs in ("runs", "other"):
        said = to_look_at(Path(runs))
        asked = subprocess.run([*shlex.split(said), "-n"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
        assert f".venv/bin/recrl dashboard --runs {runs}" in asked
