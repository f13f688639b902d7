"""``recrl data list | prepare | describe``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

import recrl_datasets as rd
from recrl.console import Talk
from recrl.core.errors import RecrlError
from recrl.core.runs import RunFolder
from recrl.pipeline.data import DataOptions, SessionRule, load_store, session_rule_of


@dataclass(frozen=True)
class ListOptions:
    """Datasets and prepared stores.

    Attributes:
        stores: where prepared stores live.
    """

    stores: Path = Path("stores")


@dataclass(frozen=True)
class PrepareOptions:
    """Official files to a store.

    Attributes:
        data: name of a dataset, see `recrl data list`.
        root: folder of the dataset's official files, where it needs one.
        stores: where prepared stores live.
        force: prepare again although an up-to-date store is there.
    """

    data: Annotated[str, tyro.conf.Positional]
    root: Path | None = None
    stores: Path = Path("stores")
    force: bool = False


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
        {"name": s.name, "title": s.title, "licence": s.licence, "needs_root": s.needs_root, "prepared": (options.stores / s.name).is_dir()}
        for s in rd.REGISTRY.values()
    ]
    stores: list[dict[str, Any]] = []
    for path in sorted(options.stores.glob("*/manifest.json")):
        try:
            manifest = rd.open_store(path.parent).manifest
            stores.append({"name": path.parent.name, "rows": manifest.rows, "users": manifest.users, "items": manifest.items})
        except RecrlError as error:
            stores.append({"name": path.parent.name, "error": str(error)})
    talk.table(
        "Datasets", ["name", "title", "needs --root"], [[s["name"], s["title"], "yes" if s["needs_root"] else "no"] for s in sources]
    )
    if stores:
        columns = ("rows", "users", "items")
        talk.table(f"Stores in {options.stores}", ["name", *columns], [[s["name"], *(f"{s.get(c, '-')}" for c in columns)] for s in stores])
    else:
        talk.say(f"no stores in {options.stores} yet; `recrl data prepare ml-100k` makes one")
    talk.result({"datasets": sources, "stores": stores})


def prepare_dataset(options: PrepareOptions, talk: Talk) -> None:
    """Prepare a store and print its counts."""
    store = rd.prepare(options.data, root=options.root, stores=options.stores, force=options.force, progress=talk.progress("prepare"))
    talk.close()
    m = store.manifest
    counts = {name: getattr(m, name) for name in ("rows", "users", "items", "duplicate_rows", "random_rows", "content_hash")}
    talk.table(
        m.title, ["", ""], [[name.replace("_", " "), f"{value:,}" if isinstance(value, int) else value] for name, value in counts.items()]
    )
    for finding in m.findings:
        talk.say(f"{finding.severity}: {finding.check}: {finding.note} ({finding.count:,})")
    talk.say(f"store: {store.path}")
    talk.result({"name": m.name, "path": str(store.path), **counts, "findings": [vars(f) for f in m.findings]})


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
