"""The app and the report in a real Chromium: every page, on a whole run, a running one and an empty root.

``RECRL_SCREENSHOTS=DIR`` keeps a picture of each page.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dashboards.report import write_report
from dashboards.serve import command
from recrl.core.runs import RunFolder
from tests.conftest import REPOSITORY
from tests.dashboard.make_run import make_run, metric_rows
from tests.dashboard.test_learners import rows

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
pytestmark = pytest.mark.browser

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PAGES = {
    "": "recrl",
    "data": "Data",
    "training": "Training",
    "estimates": "Off-policy estimates",
    "simulator": "Simulator",
    "ab": "A/B in the simulator",
    "plan": "Plan an A/B test",
    "compare": "Compare",
}
_SETTLED = """() => document.querySelector('[data-testid=stApp][data-test-script-state=notRunning]')
  && document.querySelector('[data-testid=stMain] [data-testid=stMarkdownContainer]')
  && !document.querySelector('[data-testid=stSkeleton]')
  && [...document.querySelectorAll('[data-testid=stPlotlyChart]')].every(chart => chart.querySelector('.main-svg'))"""
_HEIGHT = "() => Math.max(...[...document.querySelectorAll('[data-testid=stMain], body')].map(e => e.scrollHeight))"
VIEWS = {
    "Day by day": "the always-valid look says better",
    "Segments and guardrails": "Effects differ between groups",
    "Scenarios": "depends on eta",
}
STREAMLITS_OWN: tuple[tuple[str, str], ...] = ()
"""Findings of axe in widgets that are not ours to mend: (rule, a part of the element)."""
HOSTILE = '<img src=x onerror="window.hacked=1">'


@contextmanager
def served(runs: Path) -> Iterator[str]:
    """The app on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = runs.parent / f"server-{port}.log"
    with log.open("w") as sink, subprocess.Popen(command(runs, port), cwd=REPOSITORY, stdout=sink, stderr=subprocess.STDOUT) as server:
        try:
            for _ in range(300):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1).close()
                    break
                except (urllib.error.URLError, OSError):
                    assert server.poll() is None, log.read_text()
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(10)
    assert "Traceback" not in log.read_text(), log.read_text()[-3000:]


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[object]:
    """One Chromium for all tests here."""
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def context(browser: object) -> object:
    """What tabs share: the app's own code is fetched and compiled once, which is most of what a page costs."""
    return browser.new_context(viewport={"width": 1400, "height": 1000})


class Tab:
    """A browser page that remembers every complaint and every request that left this machine."""

    def __init__(self, context: object, scheme: str = "light", width: int = 1400) -> None:
        self.page = context.new_page()
        self.page.emulate_media(color_scheme=scheme)
        self.page.set_viewport_size({"width": width, "height": 1000})
        self.complaints: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._request)

    def _console(self, message: object) -> None:
        # below a page's path Streamlit looks for its own health endpoint before it tries the root
        probe = "/_stcore/" in message.location.get("url", "")
        if message.type == "error" and not probe:
            self.complaints.append(f"{message.text} ({message.location})")

    def _request(self, request: object) -> None:
        if not request.url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:", "file:")):
            self.complaints.append(f"left this machine: {request.url}")

    def open(self, url: str, heading: str) -> None:
        self.page.goto(url)
        self.page.get_by_role("heading", name=heading, exact=True, level=1).wait_for()
        self.settle()

    def go(self, path: str, heading: str) -> None:
        """To another page by its link in the sidebar."""
        self.page.get_by_test_id("stSidebarNav").locator(f"a[href$='/{path}']").click()
        self.page.get_by_role("heading", name=heading, exact=True, level=1).wait_for()
        self.settle()

    def settle(self) -> None:
        """Wait until the server has drawn everything, and nothing went wrong."""
        self.page.wait_for_function(_SETTLED)
        assert self.page.locator('[data-testid="stException"]').count() == 0
        assert self.complaints == []

    def keep(self, name: str) -> None:
        folder = os.environ.get("RECRL_SCREENSHOTS")
        if folder:
            width = self.page.viewport_size["width"]
            self.page.set_viewport_size({"width": width, "height": min(self.page.evaluate(_HEIGHT) + 20, 8000)})
            self.page.wait_for_timeout(800)
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"))
            self.page.set_viewport_size({"width": width, "height": 1000})

    def text(self) -> str:
        return self.page.inner_text("[data-testid=stMain]").replace("\u00a0", " ")


@pytest.fixture
def tab_of(context: object) -> Iterator[Callable[..., Tab]]:
    """Opens tabs, and closes them: an open page of a running server asks it for news every few seconds."""
    tabs: list[Tab] = []

    def opened(**options: object) -> Tab:
        tabs.append(Tab(context, **options))
        return tabs[-1]

    yield opened
    for tab in tabs:
        tab.page.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, chromium: str) -> Iterator[tuple[str, Path]]:
    """The app on a root with a whole run and one with a hostile name."""
    root = tmp_path_factory.mktemp("site") / "runs"
    make_run(root / HOSTILE).set_status("failed", message=HOSTILE)
    make_run(root / "demo")
    with served(root) as url:
        yield url, root


def test_every_page_shows_the_run(site: tuple[str, Path], tab_of: Callable[..., Tab]) -> None:
    url, _ = site
    tab = tab_of()
    wanted = {
        "": ("Scenario fitted: Of 2 arms, td3_bc does best", 2),
        "data": ("100,000 rows of 943 users", 6),
        "training": ("td3_bc, at update 1,980", 4),
        "estimates": ("highest usable estimate is td3_bc by ncis", 6),
        "simulator": ("2 of 2 fitted quantities lie within", 4),
        "ab": ("1.2 M user steps in 48 s", 2),
        "plan": ("users an arm show an effect of 0.42 pp", 1),
        "compare": ("Compare runs on one log and one split only", 1),
    }
    tab.open(f"{url}/?run=demo", "recrl")
    for path, heading in PAGES.items():
        if path:
            tab.go(path, heading)
        sentence, charts = wanted[path]
        tab.page.get_by_text(sentence).wait_for()
        tab.page.get_by_test_id("stPlotlyChart").nth(charts - 1).wait_for()
        tab.settle()
        assert tab.page.get_by_test_id("stPlotlyChart").count() == charts
        assert tab.page.url.endswith(f"/{path}?run=demo")
        assert serious(tab.page) == []
        tab.keep(path or "home")


def test_the_main_controls_work_and_the_run_stays_from_page_to_page(site: tuple[str, Path], tab_of: Callable[..., Tab]) -> None:
    url, _ = site
    tab = tab_of()
    tab.open(f"{url}/?run=demo", "recrl")
    tab.page.get_by_role("link", name="A/B").first.click()
    tab.page.get_by_role("heading", name="A/B in the simulator", level=1).wait_for()
    tab.page.wait_for_url("**/ab?run=demo")
    tab.settle()
    choose(tab, "Scenario of the simulator", "weaker response")
    tab.page.get_by_text("better on 3 of 6 metrics").wait_for()
    for view, wanted in VIEWS.items():
        tab.page.get_by_test_id("stMain").get_by_role("radio", name=view).click()
        tab.page.get_by_text(wanted).first.wait_for()
        tab.settle()
        assert serious(tab.page) == []
        tab.keep(f"ab-{view.split()[0].lower()}")
    # who is given the address sees the same
    other = tab_of()
    other.open(tab.page.url, PAGES["ab"])
    other.page.get_by_text("better on 3 of 6 metrics").wait_for()
    other.page.get_by_text(wanted).first.wait_for()
    tab.go("estimates", PAGES["estimates"])
    choose(tab, "Signal", "click")
    tab.page.get_by_text("On click the highest usable estimate").wait_for()
    tab.page.wait_for_url("**run=demo**signal=click**")
    tab.settle()


def test_views_of_learners_what_ifs_and_cohorts(site: tuple[str, Path], tab_of: Callable[..., Tab]) -> None:
    url, root = site
    made = RunFolder.create(root / "learners", kind="train", config={}, seed=0)
    made.append_metrics("train-mine", [row for step in range(0, 100, 20) for row in rows(step)])
    made.set_status("done", done=1.0)
    tab = tab_of()
    tab.open(f"{url}/training?run=learners", "Training")
    for view, wanted in {"Trade-offs": "like holds its bound", "Drift and phi": "Deepest fall of eval return"}.items():
        press(tab, view, wanted)
    tab.open(f"{url}/training?run=demo", "Training")
    for view, wanted in {"Preferences": "better than guessing", "Reproduction": "Part of the study"}.items():
        press(tab, view, wanted)
    choose(tab, "Quantity", "core seconds")
    tab.page.wait_for_url("**quantity=core*seconds**")
    tab.go("simulator", PAGES["simulator"])
    press(tab, "What if", "This run holds no fitted simulator")
    tab.go("data", PAGES["data"])
    tab.page.get_by_text("Compare groups of users").click()
    tab.page.get_by_text("prepared log 'ml-100k'").first.wait_for()
    tab.settle()


def test_a_person_labels_in_the_browser(site: tuple[str, Path], tab_of: Callable[..., Tab]) -> None:
    url, root = site
    tab = tab_of()
    tab.page.set_default_timeout(90_000)
    tab.open(f"{url}/label?run=demo", "Label")
    assert serious(tab.page) == []
    choose(tab, "Timelines of", "simulated users")
    tab.page.get_by_label("Pairs", exact=True).fill("8")
    tab.page.get_by_test_id("stMain").get_by_role("button", name="Start").click()
    tab.page.get_by_text("pair 1 of").wait_for()
    assert serious(tab.page) == []
    tab.keep("label")
    for word, number in (("Left is better", 2), ("Undo", 1), ("Equal", 2)):
        tab.page.get_by_role("button", name=word).click()
        tab.page.get_by_text(f"pair {number} of").wait_for()
    tab.page.get_by_role("button", name="Stop here").click()
    tab.page.get_by_text("0 left better, 0 right better, 1 equal, 0 skipped").first.wait_for()
    tab.settle()
    assert (root / "labels-1" / "artifacts" / "preferences.parquet").is_file()


def test_tables_and_reports_are_downloaded(site: tuple[str, Path], tab_of: Callable[..., Tab]) -> None:
    url, _ = site
    tab = tab_of()
    tab.open(f"{url}/compare?run=demo", "Compare")
    tab.settle()
    with tab.page.expect_download() as csv:
        tab.page.get_by_role("button", name="CSV", exact=True).click()
    assert Path(csv.value.path()).read_text().startswith("policy,signal,estimator,")
    with tab.page.expect_download() as report:
        tab.page.get_by_role("button", name="demo.html").click()
    assert "100,000 rows of 943 users" in Path(report.value.path()).read_text()
    tab.settle()


def test_names_are_text_never_markup(site: tuple[str, Path], tab_of: Callable[..., Tab]) -> None:
    url, _ = site
    tab = tab_of()
    tab.open(url, "recrl")
    choose(tab, "Run", HOSTILE)
    tab.page.get_by_text("This run failed.").wait_for()
    tab.settle()
    tab.page.get_by_role("heading", name=HOSTILE).wait_for()
    assert tab.page.evaluate("() => window.hacked") is None
    assert tab.page.locator("img[src=x]").count() == 0


def test_a_path_in_the_url_is_refused(site: tuple[str, Path], tab_of: Callable[..., Tab]) -> None:
    url, root = site
    make_run(root.parent / "secret")
    tab = tab_of()
    tab.open(f"{url}/data?run=../secret", "Data")
    tab.page.get_by_text("No run named").wait_for()
    assert "943" not in tab.text()


def test_dark_and_narrow(site: tuple[str, Path], tab_of: Callable[..., Tab]) -> None:
    url, _ = site
    for name, options in {"dark": {"scheme": "dark"}, "narrow": {"width": 420}}.items():
        tab = tab_of(**options)
        tab.open(f"{url}/ab?run=demo", PAGES["ab"])
        assert tab.page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth"), "nothing is cut at the right"
        tab.keep(f"ab-{name}")


def test_an_empty_root_says_make_demo_on_every_page(tmp_path: Path, tab_of: Callable[..., Tab]) -> None:
    (tmp_path / "runs").mkdir()
    tab = tab_of()
    with served(tmp_path / "runs") as url:
        # the first address asked of a fresh server is a page below the root
        tab.open(f"{url}/ab", PAGES["ab"])
        for path, heading in reversed(PAGES.items()):
            if path != "ab":
                tab.go(path, heading)
            tab.page.get_by_text("No runs yet").wait_for()
            tab.page.get_by_text("make demo").wait_for()
        tab.keep("empty")


def test_a_running_run_moves_on_the_page_by_itself(tmp_path: Path, tab_of: Callable[..., Tab]) -> None:
    run = make_run(tmp_path / "runs" / "demo", finish=False)
    tab = tab_of()
    with served(tmp_path / "runs") as url:
        tab.open(f"{url}/training?run=demo", "Training")
        tab.page.get_by_text("train td3_bc · 40 %").wait_for()
        tab.keep("training-running")
        run.append_metrics("train-td3_bc", metric_rows("train-td3_bc", 2000, 3000))
        run.set_status("running", stage="train td3_bc", done=0.7)
        tab.page.get_by_text("train td3_bc · 70 %").wait_for()
        tab.page.get_by_text("td3_bc, at update 2,980").wait_for()
        run.set_status("done", done=1.0)
        tab.page.locator("[data-testid=stProgress]").wait_for(state="detached")
        tab.settle()


def test_the_report_opens_without_a_network(tmp_path: Path, browser: object) -> None:
    path = write_report(make_run(tmp_path / "demo"))
    tab = Tab(browser.new_context(offline=True))
    tab.page.goto(path.as_uri())
    tab.page.wait_for_function("() => [...document.querySelectorAll('.plotly-graph-div')].every(p => p.querySelector('.main-svg'))")
    assert tab.page.locator(".plotly-graph-div").count() >= 15
    assert tab.page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    ink = tab.page.evaluate("() => getComputedStyle(document.querySelector('.plotly-graph-div .gtitle')).fill")
    assert ink == tab.page.evaluate("() => getComputedStyle(document.body).color")
    assert tab.complaints == []
    tab.keep("report")
    tab.page.close()


def serious(page: object) -> list[tuple[str, str]]:
    """What axe finds serious or critical, as (rule, element), less what is Streamlit's own."""
    # what passed is counted, not told
    found = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    nodes = [(rule["id"], node["html"]) for rule in found if rule["impact"] in ("serious", "critical") for node in rule["nodes"]]
    return [(rule, html) for rule, html in nodes if not any(rule == known and mark in html for known, mark in STREAMLITS_OWN)]


def press(tab: Tab, view: str, wanted: str) -> None:
    """Choose a part of a page, and look at it as a reader with a screen reader would."""
    tab.page.get_by_test_id("stMain").get_by_role("radio", name=view).click()
    tab.page.get_by_text(wanted).first.wait_for()
    tab.settle()
    assert serious(tab.page) == []
    tab.keep(view.split()[0].lower())


def choose(tab: Tab, name: str, option: str) -> None:
    """Pick an option of a select box."""
    tab.page.get_by_role("combobox", name=name).click()
    tab.page.get_by_role("option", name=option, exact=True).click()
