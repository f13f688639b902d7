"""How soon the dashboard's pages stand in a real browser, on many runs, a long log and long training curves.

A root of 200 runs: one with a log of 1.44 M rows (27,000 users, 7,583 items; described and prepared as any other), every table of an
A/B test and of estimates, and 4 M rows of training metrics; the others share 1 M. Each page is opened in a fresh tab of Chromium on a
server that has just started (`first`) and once more (`again`): until its heading and first words stand (`words`), and until every
figure is drawn (`whole`), in milliseconds of the clock; beside them the server's own core-milliseconds. Then one control of the page
is changed some times: from the click, as the page clocks it, until nothing that can be seen changes any more (`whole`), with the
core-milliseconds of the server and of the browser's main thread, which hang less on what else the machine does; the least of each.
Memory is the server's highest. The ratios are of a cold read of the curves, of one user's rows, and of what the server does for a
change (`ratio`: drawing and sending included), to a plain polars scan (`scan`) of the same rows of the same files in this process.

python benchmarks/dashboard.py --json
python benchmarks/dashboard.py --pages estimates a/b
python benchmarks/dashboard.py --small
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["POLARS_MAX_THREADS"] = "2"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import polars as pl
from playwright.sync_api import CDPSession, Page, sync_playwright

import recrl_datasets as rd
from dashboards import queries, timeline
from dashboards.serve import command
from recrl.core.files import read_json, write_json
from recrl.core.runs import RunFolder
from tests.dashboard.make_run import all_tables, make_run

REPOSITORY = Path(__file__).resolve().parents[1]
DAY_MS = 86_400_000
SIMULATED = "what-if-1"
PAGES = {
    "home": ("", "recrl", None),
    "data": ("data", "Data", None),
    "one user": ("data?timeline=true", "Data", "Filled dots"),
    "cohorts": ("data?cohorts=true", "Data", "Users by"),
    "training": ("training?metrics=metric+0&metrics=metric+1", "Training", "Metrics"),
    "estimates": ("estimates", "Off-policy estimates", "Signal"),
    "simulator": ("simulator", "Simulator", None),
    "what if": ("simulator?view=What+if", "Simulator", "Filled dots"),
    "a/b": ("ab", "A/B in the simulator", "Scenario of the simulator"),
    "a/b days": ("ab?view=Day+by+day", "A/B in the simulator", "By day"),
    "plan": ("plan", "Plan an A/B test", "Deviation from"),
    "compare": ("compare?view=Training", "Compare", "Metric"),
}
"""Address, heading, and the control that is changed."""

WORDS = """heading => [...document.querySelectorAll('h1')].some(h => h.innerText === heading)
  && document.querySelector('[data-testid=stMain]').innerText.length > heading.length + 150"""
WHOLE = """() => document.querySelector('[data-testid=stApp][data-test-script-state=notRunning]')
  && ![...document.querySelectorAll('[data-testid=stSkeleton]')].length
  && [...document.querySelectorAll('[data-testid=stPlotlyChart]')].every(chart => chart.querySelector('.main-svg'))"""
WATCH = """() => {
  const watched = window.watched = {clicked: 0, changed: 0};
  const now = () => { watched.changed = performance.now(); };
  document.addEventListener('click', event => {
    if (event.target.closest('[role=option]')) watched.clicked = watched.changed = event.timeStamp;
  }, {capture: true});
  // below a canvas stand a table's words for screen readers, which follow what is painted after a wait of their own
  const seen = record => !(record.target.nodeType === 1 ? record.target : record.target.parentElement)?.closest('canvas');
  new MutationObserver(records => { if (records.some(seen)) now(); }).observe(document.querySelector('[data-testid=stMain]'),
    {subtree: true, childList: true, attributes: true, characterData: true});
  const paint = CanvasRenderingContext2D.prototype.fillText;
  CanvasRenderingContext2D.prototype.fillText = function (...given) {
    if (this.canvas.closest('[data-testid=stMain]')) now();
    return paint.apply(this, given);
  };
}"""
"""When a choice was clicked, and when anything that can be seen changed last: elements, and words painted in a table."""
_TURNS, _SETTLED_MS, _SCANS = 4, 700, 7
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


def make_root(folder: Path, rows: int, runs: int, metric_rows: int) -> Path:
    """The runs and the store; written once."""
    root = folder / "runs"
    if (folder / "made").is_file():
        return root
    shutil.rmtree(folder, ignore_errors=True)
    store = rd.from_frame(log(rows), "mine", stores=folder / "stores")
    described = {name: pl.from_arrow(table) for name, table in rd.describe(store, session_rule="day").tables.items()}
    big = make_run(root / "big", tables={name: frame for name, frame in described.items() if name in all_tables()})  # type: ignore[misc]
    write_json(big.path / "config.json", {**read_json(big.path / "config.json"), "data": "mine", "session_rule": "day"})
    write_json(big.path / "environment.json", {**read_json(big.path / "environment.json"), "data_hash": store.content_hash})
    write_json(big.artifact("simulator/world.json"), {"retention": {"eta_s_estimate": 0.75}})
    rd.from_frame(log(max(rows // 100, 1_000)), SIMULATED, stores=folder / "stores")
    shutil.rmtree(big.path / "metrics")
    for k in range(4):
        metrics(big, f"train-learner_{k}", int(0.8 * metric_rows / 4), parts=20)
    others = runs - 1
    for k in range(others):
        run = RunFolder.create(root / f"small-{k}-seed{k % 5}", kind="train", config={"algorithm": "td3_bc"}, seed=k)
        metrics(run, "train-td3_bc", int(0.2 * metric_rows / others), parts=2)
        run.set_status("done", done=1.0)
    big.set_status("done", done=1.0)
    (folder / "made").touch()
    return root


def log(rows: int) -> pl.DataFrame:
    """A log the size of KuaiRand-Pure's."""
    rng = np.random.default_rng(0)
    users, items = max(rows // 53, 10), 7_583
    user = np.sort(rng.integers(0, users, rows))
    item = np.minimum(rng.exponential(900, rows).astype(np.int64), items - 1)
    time_ms = 1_650_000_000_000 + rng.integers(0, 14, rows) * DAY_MS + rng.integers(0, 20_000_000, rows)
    columns: dict[str, Any] = {"user_id": user, "item_id": item, "timestamp_ms": time_ms}
    for name, rate in (("click", 0.4), ("long_view", 0.3), ("like", 0.02)):
        columns[name] = (rng.random(rows) < rate).astype(np.uint8)
    return pl.DataFrame(columns)


def metrics(run: RunFolder, stream: str, rows: int, parts: int) -> None:
    """A stream of ten metrics in some parts."""
    rng = np.random.default_rng(rows)
    steps = max(rows // (10 * parts), 1)
    for part in range(parts):
        step = np.repeat(np.arange(part * steps, (part + 1) * steps), 10)
        frame = pl.DataFrame(
            {"step": step, "name": [f"metric_{k}" for k in range(10)] * steps, "value": np.exp(-step / 1e5) + rng.normal(0, 0.1, step.size)}
        )
        folder = run.path / "metrics" / stream
        folder.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(folder / f"part-{part:06d}.parquet", compression="zstd")


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, int]]:
    """The app on a free port: its address and process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "RECRL_STORES": str(folder / "stores")}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command(folder / "runs", port), cwd=REPOSITORY, env=environment, **quiet) as server:  # type: ignore[call-overload]
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1).close()
                    break
                except (urllib.error.URLError, OSError):
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}", server.pid
        finally:
            server.terminate()
            server.wait(10)


def server_seconds(pid: int) -> float:
    """Core-seconds the server has used, threads that have ended among them."""
    # Linux names another process's clock so; /proc counts in hundredths
    return time.clock_gettime(~pid << 3 | 2)


def browser_seconds(session: CDPSession) -> float:
    """Core-seconds of the page's main thread."""
    held = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    return float(held["TaskDuration"])


def highest_mb(pid: int) -> float:
    """The server's highest resident memory."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def visit(page: Page, url: str, pid: int, name: str) -> dict[str, float]:
    """Milliseconds until the words of a page stand, and all of it."""
    path, heading, _ = PAGES[name]
    used, start = server_seconds(pid), time.perf_counter()
    page.goto(f"{url}/{path}{'&' if '?' in path else '?'}run=big", wait_until="commit")
    page.wait_for_function(WORDS, arg=heading)
    words = time.perf_counter() - start
    page.wait_for_function(WHOLE)
    whole = time.perf_counter() - start
    return {"words": 1e3 * words, "whole": 1e3 * whole, "server": 1e3 * (server_seconds(pid) - used)}


def change(page: Page, pid: int, name: str) -> dict[str, float] | None:
    """Milliseconds from a choice to the last change of the page, and core-milliseconds of both sides: the least of some turns."""
    control = PAGES[name][2]
    if control is None:
        return None
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.evaluate(WATCH)
    turns = []
    for turn in range(_TURNS):
        options = page.get_by_role("option").filter(has_not_text="Select all")
        # a list that opens while the page still moves below it moves too, or closes
        while options.count() == 0:
            page.get_by_role("combobox", name=control).first.click()
            page.wait_for_timeout(400)
        others = [k for k in range(options.count()) if options.nth(k).get_attribute("aria-selected") != "true"]
        box = options.nth(others[turn % len(others)]).bounding_box()
        assert box is not None
        used = server_seconds(pid), browser_seconds(session)
        page.mouse.click(box["x"] + 20, box["y"] + box["height"] / 2)
        page.wait_for_timeout(_SETTLED_MS)
        page.wait_for_function(WHOLE)
        page.wait_for_timeout(_SETTLED_MS)
        now = server_seconds(pid), browser_seconds(session)
        clock = page.evaluate("() => [window.watched.clicked, window.watched.changed]")
        turns.append((clock[1] - clock[0], 1e3 * (now[0] - used[0]), 1e3 * (now[1] - used[1])))
    return dict(zip(("whole", "server", "browser"), (min(column) for column in zip(*turns, strict=True)), strict=True))


def in_browser(folder: Path, pages: Sequence[str]) -> dict[str, Any]:
    """Every page twice, a change on each, and the server's memory."""
    found: dict[str, Any] = {name: {} for name in ("home", *pages)}
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=os.environ.get("RECRL_CHROMIUM") or shutil.which("chromium"), args=list(FLAGS)
        )
        # one context: what the browser has fetched of the app itself stays with it, as with a reader's
        context = chromium.new_context(viewport={"width": 1400, "height": 1000})
        with served(folder) as (url, pid):
            for turn in ("import", "first", "again"):
                for name in pages if turn != "import" else ["home"]:
                    page = context.new_page()
                    page.set_default_timeout(60_000)
                    found[name][turn] = visit(page, url, pid, name)
                    if turn == "again":
                        found[name]["change"] = change(page, pid, name)
                    page.close()
            found["server_mb"] = highest_mb(pid)
        chromium.close()
    return found


def scans(folder: Path) -> dict[str, Callable[[], Any]]:
    """For each page with a change: a plain scan of the rows that it shows."""
    runs, log_file = folder / "runs", folder / "stores" / "mine" / "log.parquet"

    def rows(path: Path, **wanted: Any) -> pl.DataFrame:
        return pl.scan_parquet(path).filter(*(pl.col(name) == value for name, value in wanted.items())).collect()

    def table(name: str, **wanted: Any) -> pl.DataFrame:
        return rows(runs / "big" / "artifacts" / f"{name}.parquet", **wanted)

    def curve(*names: str) -> pl.DataFrame:
        parts = [part for run in names for part in sorted((runs / run / "metrics").glob("*/part-*.parquet"))]
        return pl.scan_parquet(parts).filter(pl.col("name") == "metric_3").group_by("step").agg(pl.col("value").mean()).collect()

    def cohorts() -> pl.DataFrame:
        sums = {"rows": pl.len(), "given": (pl.col("long_view") > 0).sum(), "first_ms": pl.col("timestamp_ms").min()}
        return pl.scan_parquet(log_file).filter(pl.col("is_duplicate") == 0).group_by("user").agg(**sums).collect()

    return {
        "one user": lambda: rows(log_file, user=0),
        "cohorts": cohorts,
        "training": lambda: curve("big"),
        "estimates": lambda: table("estimates", signal="click"),
        "what if": lambda: rows(folder / "stores" / SIMULATED / "log.parquet", user=0),
        "a/b": lambda: table("ab_metrics", scenario="fitted"),
        "a/b days": lambda: table("ab_daily", metric="requests_per_user"),
        "plan": lambda: table("ab_metrics", metric="day_1_retention"),
        "compare": lambda: curve("big", "small-0-seed0"),
    }


def in_process(folder: Path) -> dict[str, float]:
    """Cold reads beside plain scans of the same files: least of three each, in core-milliseconds."""
    run = queries.open_run(folder / "runs", "big")
    parts = sorted((run.path / "metrics").glob("*/part-*.parquet"))
    os.environ["RECRL_STORES"] = str(folder / "stores")
    store = timeline.store_of(run)

    def curves() -> None:
        queries.clear()
        for stream in queries.streams(run):
            queries.curves(run, stream)

    def scan() -> None:
        pl.scan_parquet(parts).group_by("name").agg(pl.col("step").max(), mean=pl.col("value").mean(), low=pl.col("value").min()).collect()

    log_file = folder / "stores" / "mine" / "log.parquet"
    found = {
        "curves_ms": least(curves),
        "curves_scan_ms": least(scan),
        "user_ms": least(lambda: timeline.user_rows(store, 20, "day")),
        "user_scan_ms": least(lambda: pl.scan_parquet(log_file).filter(pl.col("user") == 20).collect()),
        "list_runs_ms": least(lambda: queries.list_runs(folder / "runs")),
    }
    found["curves_ratio"] = found["curves_ms"] / found["curves_scan_ms"]
    found["user_ratio"] = found["user_ms"] / found["user_scan_ms"]
    return found


def least(work: Callable[[], Any], times: int = 3) -> float:
    """The least core-milliseconds of a few turns."""
    found = []
    for _ in range(times):
        start = time.process_time()
        work()
        found.append(1e3 * (time.process_time() - start))
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keep the generated runs here")
    parser.add_argument("--small", action="store_true", help="a hundredth of the size")
    parser.add_argument("--pages", nargs="+", choices=list(PAGES), default=list(PAGES), help="these only")
    parser.add_argument("--no-browser", action="store_true", help="reads beside scans only")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    share = 0.01 if options.small else 1.0
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "bench"
        root = make_root(folder.absolute(), int(1_440_000 * share), max(int(200 * share), 5), int(5_000_000 * share))
        assert len(queries.list_runs(root)) == max(int(200 * share), 5)
        load = os.getloadavg()[0]
        found: dict[str, Any] = {"load": load, "reads": in_process(folder.absolute())}
        if not options.no_browser:
            found["pages"] = in_browser(folder.absolute(), options.pages)
            for name, scan in scans(folder.absolute()).items():
                if turned := found["pages"].get(name, {}).get("change"):
                    turned["scan"] = least(scan, _SCANS)
                    turned["ratio"] = turned["server"] / turned["scan"]
    if options.json:
        print(json.dumps(found))
        return
    for key, value in found["reads"].items():
        print(f"{key:<16} {value:8.1f}")
    for name, turns in found.get("pages", {}).items():
        print(f"{name:<12}", turns if isinstance(turns, float) else {k: {m: round(v) for m, v in t.items()} for k, t in turns.items() if t})
    print(f"load average {load:.1f}")


if __name__ == "__main__":
    main()
