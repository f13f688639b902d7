"""``recrl reproduce``: a paper's comparison, run again."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
import tyro

from recrl.console import Talk
from recrl.core.runs import RunFolder
from recrl.reproductions.study import Asked, Study, run_study

Paper = Literal["tscac", "auro", "prefrec"]


@dataclass(frozen=True)
class ReproduceOptions:
    """A paper; the same command goes on where it was stopped, and one with more seeds adds them.

    Attributes:
        paper: which one.
        asked: how much of it.
        jobs: processes at a time.
        core_hours: no cell is begun once all of the study's have spent so much.
        runs: where runs live.
        run: name of the run; default `reproduce-PAPER`, with `-quick`.
    """

    paper: Annotated[Paper, tyro.conf.Positional]
    asked: Annotated[Asked, tyro.conf.arg(name="")] = Asked()
    jobs: int = 1
    core_hours: float = 6.0
    runs: Path = Path("runs")
    run: str = ""


def reproduce(options: ReproduceOptions, talk: Talk) -> None:
    """Run the cells that are missing, print tables and verdict."""
    asked = replace(options.asked, seeds=1, secondary_seeds=0) if options.asked.quick else options.asked
    study: Study = importlib.import_module(f"recrl.reproductions.{options.paper}").study(asked)
    name = options.run or f"reproduce-{options.paper}{'-quick' if asked.quick else ''}"
    run = RunFolder.create(options.runs / name, kind="reproduction", config={"paper": options.paper, **study.budget()}, seed=0)
    with run.running():
        report = run_study(
            study, run, jobs=options.jobs, core_hours=options.core_hours, progress=run.heartbeats(talk.progress(options.paper))
        )
    talk.close()
    for title, table in report.tables.items():
        talk.table(title.replace("_", " "), table.columns, [[_shown(value) for value in row] for row in table.iter_rows()])
    verdict = ("quick: no verdict",) if asked.quick else report.verdict
    for line in verdict:
        talk.say(line)
    talk.say(f"run: {run.path}")
    tables = {title: table.with_columns(pl.selectors.float().fill_nan(None)).to_dicts() for title, table in report.tables.items()}
    talk.result({"run": str(run.path), "paper": options.paper, "verdict": list(verdict), "tables": tables})


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
