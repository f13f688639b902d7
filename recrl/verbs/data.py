"""``recrl data list | download | describe``."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

import recrl_datasets as rd
from recrl.console import Talk
from recrl.core.errors import RecrlError
from recrl.core.runs import RunFolder
from recrl.pipeline.data import DataOptions, SessionRule, load_store, session_rule_of
from recrl.verbs.prepare import show_store
from recrl_datasets.downloading.transfer import megabytes


@dataclass(frozen=True)
class ListOptions:
    """Datasets and prepared stores.

    Attributes:
        stores: where prepared stores live.
    """

    stores: Path = Path("stores")


@dataclass(frozen=True)
class DownloadOptions:
    """A dataset from its owners.

    Attributes:
        data: name of a dataset, see `recrl data list`.
        to: where the dataset's folder is made.
        yes: you have read the licence and keep to it; needed where it restricts use and no terminal is there to ask.
        source: another address (a mirror), or the archive on this machine.
        keep_archive: leave the archive beside the folder.
        prepare: prepare the store at once.
        stores: where prepared stores live.
    """

    data: Annotated[str, tyro.conf.Positional]
    to: Path = Path("downloads")
    yes: Annotated[bool, tyro.conf.arg(aliases=("--accept-licence",))] = False
    source: str | None = None
    keep_archive: bool = False
    prepare: bool = False
    stores: Path = Path("stores")


@dataclass(frozen=True)
class DescribeOptions:
    """What is in a log.

    Attributes:
        data: name of a dataset, or path of a prepared store.
        root: folder of the dataset's official files, where it needs one.
        stores: where prepared stores live.
        session_rule: `gap`, `day`, or `auto`.
        runs: where the run with tables and plots is written.
        run: name of that run; default `describe-<data>`.
    """

    data: Annotated[str, tyro.conf.Positional]
    root: Path | None = None
    stores: Path = Path("stores")
    session_rule: SessionRule = "auto"
    runs: Path = Path("runs")
    run: str = ""


def list_datasets(options: ListOptions, talk: Talk) -> None:
    """Print what can be prepared and what is."""
    sources: list[dict[str, Any]] = [
        {
            "name": s.name,
            "title": s.title,
            "licence": s.licence,
            "needs_root": s.needs_root,
            "download_bytes": rd.find_published(s.name).size,
            "prepared": (options.stores / s.name).is_dir(),
        }
        for s in rd.REGISTRY.values()
    ]
    stores: list[dict[str, Any]] = []
    for path in sorted(options.stores.glob("*/manifest.json")):
        try:
            manifest = rd.open_store(path.parent).manifest
            stores.append({"name": path.parent.name, "rows": manifest.rows, "users": manifest.users, "items": manifest.items})
        except RecrlError as error:
            stores.append({"name": path.parent.name, "error": str(error)})
    shown = [[s["name"], s["title"], "yes" if s["needs_root"] else "no", megabytes(s["download_bytes"])] for s in sources]
    talk.table("Datasets", ["name", "title", "needs --root", "download"], shown)
    if stores:
        columns = ("rows", "users", "items")
        talk.table(f"Stores in {options.stores}", ["name", *columns], [[s["name"], *(f"{s.get(c, '-')}" for c in columns)] for s in stores])
    else:
        talk.say(f"no stores in {options.stores} yet; `recrl data prepare ml-100k` makes one")
    talk.result({"datasets": sources, "stores": stores})


def download_dataset(options: DownloadOptions, talk: Talk) -> None:
    """Fetch a dataset from its owners, after showing their terms, and say how it is prepared."""
    published = rd.find_published(options.data)
    if rd.present(options.data, options.to) is None:
        size = f"{megabytes(published.size)}, about {megabytes(published.unpacked)} unpacked"
        facts = {"address": published.address, "size": size, "licence": published.licence, "terms": published.terms}
        talk.table(options.data, ["", ""], [[name, text] for name, text in facts.items()])
    done = rd.download(
        options.data,
        options.to,
        accept_licence=options.yes or _consents(published, options, talk),
        source=options.source,
        keep_archive=options.keep_archive,
        progress=talk.progress("download"),
    )
    talk.close()
    talk.say(f"{'fetched' if done.fetched else 'already there'}: {done.folder} (checked against {done.checked})")
    for note in done.notes:
        talk.say(f"note: {note}")
    result = {"name": options.data, "folder": str(done.folder), "fetched": done.fetched, "checked": done.checked, "notes": list(done.notes)}
    if options.prepare:
        store = rd.prepare(options.data, root=done.folder, stores=options.stores, progress=talk.progress("prepare"))
        talk.result({**result, "prepared": show_store(store, talk)})
        return
    following = f"recrl data prepare {options.data} --root {shlex.quote(str(done.folder))}"
    talk.say(f"next: {following}")
    talk.result({**result, "next": following})


def _consents(published: rd.Published, options: DownloadOptions, talk: Talk) -> bool:
    """Ask at a terminal; elsewhere nobody consents."""
    if not published.asks or rd.present(options.data, options.to) or talk.as_json or not sys.stdin.isatty():
        return False
    try:
        answer = input(f"Have you read the terms at {published.terms}, and do you keep to them? [y/N] ")
    except EOFError:
        return False
    return answer.strip().lower() in ("y", "yes")


def describe_dataset(options: DescribeOptions, talk: Talk) -> None:
    """Write the tables of `docs/artifacts.md` (`data_*`) and a report into a run, and print the main ones."""
    from dashboards.report import write_report

    store = load_store(DataOptions(data=options.data, root=options.root, stores=options.stores), talk.progress("prepare"))
    rule = session_rule_of(store, options.session_rule)
    config = {"data": store.name, "session_rule": rule}
    run = RunFolder.create(
        options.runs / (options.run or f"describe-{store.name}"),
        kind="describe",
        config=config,
        seed=0,
        data_hash=store.manifest.content_hash,
    )
    with run.running():
        description = rd.describe(store, session_rule=rule)
        for name, table in description.tables.items():
            run.write_table(name, table)
    report = write_report(run)
    talk.close()
    tables = {name: table.to_pylist() for name, table in description.tables.items()}
    _print(tables, talk)
    talk.say(f"tables and plots: {report}")
    talk.result({"run": str(run.path), "report": str(report), **tables})


def _print(tables: dict[str, list[dict[str, object]]], talk: Talk) -> None:
    shown = {
        "data_summary": ("rows", "users", "items", "sessions", "requests", "duplicate_rows"),
        "data_rates": ("signal", "rate", "lower", "upper", "unit"),
        "data_gaps": ("day", "completed", "completed_share", "at_risk", "hazard", "survival"),
        "data_depth": ("depth", "sessions", "share"),
        "data_quality": ("check", "count", "severity", "note"),
    }
    for name, columns in shown.items():
        rows = [[f"{row[c]:.4f}" if isinstance(row[c], float) else f"{row[c]}" for c in columns] for row in tables.get(name, [])[:12]]
        talk.table(name, [c.replace("_", " ") for c in columns], rows)
