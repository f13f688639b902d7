"""The app and the report in a real Chromium: every page, on a whole run, a running one and an empty root.

``RECRL_SCREENSHOTS=DIR`` keeps a picture of each page.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
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
from tests.dashboard.conftest import Toy, copied
from tests.dashboard.make_run import make_run
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
    "label": "Label",
    "compare": "Compare",
}
_SETTLED = """() => document.querySelector('[data-testid=stApp][data-test-script-state=notRunning]')
  && document.querySelector('[data-testid=stMain] [data-testid=stMarkdownContainer]')
  && !document.querySelector('[data-testid=stSkeleton]')
  && [...document.querySelectorAll('[data-testid=stPlotlyChart]')].every(chart => chart.querySelector('.main-svg'))"""
_IS_DARK = "() => getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor.match(/\\d+/)[0] < 128"
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
def served(runs: Path, stores: Path | None = None) -> Iterator[str]:
    """The app on a free port of this machine."""
    server, url, log = started(runs, {} if stores is None else {"RECRL_STORES": str(stores)})
    try:
        yield url
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
    assert "Traceback" not in log.read_text(), log.read_text()[-3000:]


def started(runs: Path, environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], str, Path]:
    """A server that answers, its address and its log; where another process takes the free port first, on another one."""
    for _ in range(3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        url, log = f"http://127.0.0.1:{port}", runs.parent / f"server-{port}.log"
        with log.open("w") as sink:
            server = subprocess.Popen(
                command(runs, port), cwd=REPOSITORY, stdout=sink, stderr=subprocess.STDOUT, env={**os.environ, **environment}
            )
        for _ in range(1200):
            if server.poll() is not None:
                break
            # that port may answer for another server: ours has said where it listens
            if url in log.read_text() and answers(url):
                return server, url, log
            time.sleep(0.1)
        else:
            server.kill()
            raise AssertionError(f"no answer in 120 s: {log.read_text()[-3000:]}")
    raise AssertionError(f"three servers ended: {log.read_text()[-3000:]}")


def answers(url: str) -> bool:
    """Whether a server is up."""
    try:
        urllib.request.urlopen(f"{url}/_stcore/health", timeout=1).close()
    except (urllib.error.URLError, OSError):
        return False
    return True


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[object]:
    """One Chromium for all tests here."""
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield opened
        opened.close()


def tabs_of(browser: object, **options: object) -> object:
    """What tabs share, with patience for loaded cores."""
    context = browser.new_context(**options)
    context.set_default_timeout(120_000)
    return context


@pytest.fixture(scope="module")
def context(browser: object) -> object:
    """One for all tests: the app's own code is fetched and compiled once, which is most of what a page costs."""
    return tabs_of(browser, viewport={"width": 1400, "height": 1000})


class Tab:
    """A browser page that remembers every complaint and every request that left this machine."""

    def __init__(self, context: object, scheme: str = "light", width: int = 1400) -> None:
        self.page = context.new_page()
        self.scheme = scheme
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

    def turn(self, scheme: str) -> None:
        """To the light or the dark scheme, as the reader's system asks for."""
        self.page.emulate_media(color_scheme=scheme)
        self.page.wait_for_function(_IS_DARK if scheme == "dark" else f"() => !({_IS_DARK})()")
        self.settle()

    def is_sound(self) -> None:
        """Nothing serious is found by axe, in either scheme; begins with the one that it left."""
        now = "dark" if self.page.evaluate(_IS_DARK) else "light"
        assert serious(self.page) == [], now
        self.turn("light" if now == "dark" else "dark")
        assert serious(self.page) == [], f"not {now}"

    def keep(self, name: str) -> None:
        folder = os.environ.get("RECRL_SCREENSHOTS")
        if folder:
            self.page.emulate_media(color_scheme=self.scheme)
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
        "label": ("The questions are those of recrl prefer", 0),
        "compare": ("Compare runs on one log and one split only", 1),
    }
    tab.open(f"{url}/?run=demo", "recrl")
    for path, heading in PAGES.items():
        if path:
            tab.go(path, heading)
        sentence, charts = wanted[path]
        tab.page.get_by_text(sentence).wait_for()
        if charts:
            tab.page.get_by_test_id("stPlotlyChart").nth(charts - 1).wait_for()
        tab.settle()
        assert tab.page.get_by_test_id("stPlotlyChart").count() == charts
        assert tab.page.url == f"{url}/{path}?run=demo"
        tab.is_sound()
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
        tab.is_sound()
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
    tab.open(f"{url}/compare?run=demo&runs=demo", "Compare")
    press(tab, "A/B effects", "Each arm stands against the baseline of its own run")
    assert tab.page.get_by_role("button", name="demo.html").count() == 1


def test_runs_to_compare_are_picked_and_each_page_has_choices_of_its_own(site: tuple[str, Path], tab_of: Callable[..., Tab]) -> None:
    url, root = site
    for name in ("older", "newest"):
        make_run(root / name)
    tab = tab_of()
    reports = [tab.page.get_by_role("button", name=f"{name}.html") for name in ("demo", "older")]
    tab.open(f"{url}/compare?run=demo&runs=demo", "Compare")
    reports[0].wait_for()
    assert reports[1].count() == 0
    tab.is_sound()
    choose(tab, "Runs", "older")
    # the list stays open for more, and hides the page from assistive technology
    tab.page.keyboard.press("Escape")
    reports[1].wait_for()
    tab.page.wait_for_url("**runs=demo&runs=older")
    press(tab, "Training", "Runs side by side")
    other = tab_of()
    other.open(tab.page.url, "Compare")
    other.page.get_by_role("button", name="older.html").wait_for()
    other.page.get_by_role("button", name="Remove demo").click()
    other.page.get_by_role("button", name="demo.html").wait_for(state="detached")
    other.settle()
    # A/B and Simulator name their parts alike: none takes over that of the other
    for path in ("ab", "simulator", "compare"):
        tab.go(path, PAGES[path])
        assert tab.page.url == f"{url}/{path}?run=demo"
        assert tab.page.get_by_test_id("stMain").get_by_role("radio").first.is_checked()


@pytest.fixture(scope="module")
def workshop(fitted: Toy, tmp_path_factory: pytest.TempPathFactory, chromium: str) -> Iterator[str]:
    """The app on runs and logs that commands work on in seconds."""
    toy = copied(fitted, tmp_path_factory.mktemp("workshop"))
    with served(toy.runs, toy.stores) as url:
        yield url


def test_a_test_is_planned_started_and_stopped(workshop: str, tab_of: Callable[..., Tab]) -> None:
    tab = tab_of()
    content = tab.page.get_by_test_id("stMain")
    tab.open(f"{workshop}/plan?run=world&arm-users=3000&days=30", PAGES["plan"])
    for view, wanted in {"Effect shown": "with a power of 80", "Power": "20,000 users an arm show"}.items():
        content.get_by_role("radio", name=view).click()
        content.get_by_text(wanted).wait_for()
    tab.settle()
    tab.is_sound()
    content.get_by_role("button", name="Start", exact=True).click()
    content.get_by_text("ab-test-1 · loading").wait_for()
    content.get_by_role("button", name="Stop", exact=True).click()
    content.get_by_text("what it had done is kept").wait_for()
    tab.settle()


def test_sliders_simulate_users_whose_days_are_looked_at(workshop: str, tab_of: Callable[..., Tab]) -> None:
    tab = tab_of()
    content = tab.page.get_by_test_id("stMain")
    tab.open(f"{workshop}/simulator?view=What+if&run=world&users=50&days=3", PAGES["simulator"])
    tab.page.get_by_role("slider", name="Items a request").press("ArrowRight")
    tab.page.wait_for_url("**slate=7**")
    content.get_by_role("button", name="Simulate", exact=True).click()
    content.get_by_text("With one seed the users and their luck are the same").wait_for()
    content.get_by_text("Filled dots").first.wait_for()
    tab.settle()
    tab.is_sound()
    tab.keep("what-if")


def test_groups_of_users_and_one_user_are_chosen(workshop: str, tab_of: Callable[..., Tab]) -> None:
    tab = tab_of()
    tab.open(f"{workshop}/data?run=described", "Data")
    tab.page.get_by_text("Compare groups of users").click()
    tab.page.get_by_text("Intervals over 60 users").wait_for()
    choose(tab, "Users by", "week of the first visit")
    tab.page.wait_for_url("**cohort=week+of+the+first+visit**")
    choose(tab, "Feedback", "click")
    tab.page.wait_for_url("**feedback=click**")
    tab.page.get_by_text("Look at one user's sessions").click()
    user = tab.page.get_by_label("User id")
    user.fill("7")
    user.press("Enter")
    tab.page.get_by_text("User 7: ").wait_for()
    choose(tab, "Filled dots", "like")
    tab.page.get_by_text(", like on ").wait_for()
    tab.settle()
    tab.is_sound()
    tab.keep("data-log")
    other = tab_of()
    other.open(tab.page.url, "Data")
    other.page.get_by_text("User 7: ").wait_for()
    assert [other.page.get_by_role("combobox", name=name).input_value() for name in ("Users by", "Feedback")] == [
        "week of the first visit",
        "click",
    ]
    user.fill("nobody")
    user.press("Enter")
    tab.page.get_by_text("No user 'nobody' in this log of 60 users").wait_for()
    tab.page.get_by_role("button", name="Another user").click()
    tab.page.get_by_text(re.compile(r"User \d+: ")).wait_for()
    tab.settle()


def test_a_person_labels_in_the_browser(site: tuple[str, Path], tab_of: Callable[..., Tab]) -> None:
    url, root = site
    tab = tab_of()
    tab.open(f"{url}/label?run=demo", "Label")
    choose(tab, "Timelines of", "simulated users")
    tab.page.get_by_label("Pairs", exact=True).fill("8")
    tab.page.get_by_test_id("stMain").get_by_role("button", name="Start").click()
    tab.page.get_by_text("pair 1 of").wait_for()
    tab.is_sound()
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
        assert serious(tab.page) == [], name
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
            # simulated users can be labelled without any run
            for wanted in ("Start labelling",) if path == "label" else ("No runs yet", "make demo"):
                tab.page.get_by_text(wanted).first.wait_for()
        tab.is_sound()
        tab.keep("empty")


def test_a_run_of_another_process_appears_moves_and_shows_that_it_was_killed(
    fitted: Toy, tmp_path: Path, chromium: str, tab_of: Callable[..., Tab]
) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    words = ["train", "bc", "--action=fusion_weights", "--data=small", f"--stores={fitted.stores}", "--vector-size=4"]
    endless = ["--steps=100000000", "--log-every=50", "--checkpoint-every=100", f"--runs={root}", "--run=live"]
    tab = tab_of()
    with served(root) as url:
        # from here on nobody touches the page
        tab.open(f"{url}/training", "Training")
        tab.page.get_by_text("No runs yet").wait_for()
        with subprocess.Popen([sys.executable, "-m", "recrl.cli", *words, *endless], stderr=subprocess.DEVNULL) as child:
            try:
                tab.page.get_by_text("heartbeat").wait_for()
                at = tab.page.get_by_text(", at update").first.inner_text()
                tab.page.wait_for_function("at => !document.querySelector('[data-testid=stMain]').innerText.includes(at)", arg=at)
                tab.keep("training-running")
            finally:
                child.kill()
        tab.page.get_by_text("This run stopped before its end").wait_for()
        tab.page.locator("[data-testid=stProgress]").wait_for(state="detached")
        # somebody goes on with it
        RunFolder(root / "live").set_status("running", stage="again", done=0.7)
        tab.page.get_by_text("again · 70 %").wait_for()
        RunFolder(root / "live").set_status("done", done=1.0)
        tab.page.locator("[data-testid=stProgress]").wait_for(state="detached")
        tab.settle()


def test_the_report_opens_without_a_network(tmp_path: Path, browser: object) -> None:
    path = write_report(make_run(tmp_path / "demo"))
    tab = Tab(tabs_of(browser, offline=True))
    tab.page.goto(path.as_uri())
    tab.page.wait_for_function("() => [...document.querySelectorAll('.plotly-graph-div')].every(p => p.querySelector('.main-svg'))")
    assert tab.page.locator(".plotly-graph-div").count() >= 15
    assert tab.page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    ink = tab.page.evaluate("() => getComputedStyle(document.querySelector('.plotly-graph-div .gtitle')).fill")
    assert ink == tab.page.evaluate("() => getComputedStyle(document.body).color")
    assert tab.complaints == []
    for scheme in ("dark", "light"):
        tab.page.emulate_media(color_scheme=scheme)
        assert serious(tab.page) == [], scheme
    tab.keep("report")
    tab.page.context.close()


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
    tab.is_sound()
    tab.keep(view.split()[0].lower().replace("/", ""))


def choose(tab: Tab, name: str, option: str) -> None:
    """Pick an option of a select box."""
    tab.page.get_by_role("combobox", name=name).click()
    tab.page.get_by_role("option", name=option, exact=True).click()
