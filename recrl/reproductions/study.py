"""A study: methods by seeds, one file a finished cell; what was stopped goes on, and later runs add seeds."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import polars as pl

from recrl.core.contracts import Progress
from recrl.core.errors import StorageError
from recrl.core.files import read_json, write_json
from recrl.core.runs import RunFolder
from recrl.pipeline.seeds import over_seeds, raise_failed, student_interval

Certainty = Literal["certain", "likely", "uncertain"]
Rounds = Callable[["Cell"], dict[str, Any]]
"""From a cell to its JSON-ready result."""


@dataclass(frozen=True)
class Asked:
    """What a user may ask of any study.

    Attributes:
        quick: one seed, the primary set, about ten minutes of one core: shows that it runs, and no verdict.
        seeds: of the primary set.
        secondary_seeds: of ablations and controls.
        stores: where prepared logs live.
        root: folder of the KuaiRand-Pure files; without, parts that need them are left out and the verdict says so.
    """

    quick: bool = False
    seeds: int = 5
    secondary_seeds: int = 3
    stores: Path = Path("stores")
    root: Path | None = None


@dataclass(frozen=True)
class Cell:
    """One method with one seed in one part of a study.

    Attributes:
        part: a setting within the study: cells of the same part and seed share data and world.
        method: as it is called in the tables.
        seed: of data, users, networks and batches.
        primary: whether the verdict rests on it; ablations and controls come later and with fewer seeds.
    """

    part: str
    method: str
    seed: int
    primary: bool = True

    @property
    def file(self) -> str:
        """Where the result lies under ``cells/``."""
        slug = re.sub(r"[^a-z0-9.]+", "-", self.method.lower()).strip("-")
        return f"{self.part}/{slug}-seed{self.seed}.json"


@dataclass(frozen=True)
class Done:
    """A finished cell: its result, and the core-seconds it took."""

    cell: Cell
    result: Mapping[str, Any]
    core_seconds: float


@dataclass(frozen=True)
class Published:
    """A number of the paper, and how sure it is that it was read and understood rightly."""

    method: str
    quantity: str
    value: float
    certainty: Certainty
    source: str


@dataclass(frozen=True)
class Report:
    """What the finished cells say.

    Attributes:
        tables: by name; written as ``artifacts/reproduction_<name>.parquet``.
        verdict: sentences in plain words, the answer first.
    """

    tables: Mapping[str, pl.DataFrame]
    verdict: tuple[str, ...]


class Study(Protocol):
    """What a paper's reproduction is made of; picklable, for cells run in processes of their own."""

    @property
    def paper(self) -> str:
        """Name of the study: ``tscac``, ``auro``, ``prefrec``."""

    def budget(self) -> dict[str, Any]:
        """What every cell may spend and is asked; cells of another budget are never mixed with these."""

    def cells(self) -> Sequence[Cell]:
        """All cells, whatever is there already."""

    def bench(self, part: str, seed: int, folder: Path) -> Rounds:
        """What the cells of a part and seed share, made once; ``folder`` holds what is worth keeping between runs."""

    def report(self, done: Sequence[Done]) -> Report:
        """Tables and verdict of what there is, be it incomplete."""


def run_study(
    study: Study, run: RunFolder, *, jobs: int = 1, core_hours: float = 6.0, progress: Progress = lambda done, text: None
) -> Report:
    """Run the cells that are missing, primary ones and low seeds first; then report on all there are.

    Args:
        study: what to run.
        run: its folder; results lie in ``cells/``, one file each.
        jobs: processes at a time; each takes a part and seed.
        core_hours: no cell is begun once all of the study's have spent so much.
        progress: hears share and text.

    **Errors**: those of the cells, after all that could finish has.
    """
    cells = sorted(study.cells(), key=lambda cell: (not cell.primary, cell.seed))
    groups: dict[tuple[bool, int, str], list[Cell]] = {}
    for cell in cells:
        if not (run.path / "cells" / cell.file).exists():
            groups.setdefault((not cell.primary, cell.seed, cell.part), []).append(cell)
    work = {k: _Group(study, tuple(group), run.path, core_hours) for k, group in enumerate(groups.values())}
    total = len(cells)

    def tell(group: int, share: float, text: str) -> None:
        there = sum((run.path / "cells" / cell.file).exists() for cell in cells)
        progress(there / max(total, 1), text)

    if jobs == 1:
        for k, group in work.items():
            run_group(group, lambda share, text, k=k: tell(k, share, text))  # type: ignore[misc]
    else:
        raise_failed(over_seeds(run_group, work, jobs, tell), lambda k: f"{work[k].cells[0].part}, seed {work[k].cells[0].seed}")
    done = finished(run.path, cells)
    report = study.report(done)
    for name, table in report.tables.items():
        run.write_table(f"reproduction_{name}", table.to_arrow())
    spent = sum(one.core_seconds for one in done) / 3600
    run.write_table("reproduction_cells", _as_table(done).to_arrow())
    if len(done) < total:
        rest = f"{len(done)} of {total} cells are there after {spent:.1f} core-hours (limit {core_hours:g}); the same command goes on"
        return Report(report.tables, (*report.verdict, rest))
    return report


@dataclass(frozen=True)
class _Group:
    study: Study
    cells: tuple[Cell, ...]
    folder: Path
    core_hours: float


def run_group(group: _Group, progress: Progress) -> dict[str, Any]:
    """The cells of one part and seed, one after the other; what another process has done meanwhile is left alone."""
    rounds: Rounds | None = None
    ran = 0
    for k, cell in enumerate(group.cells):
        path = group.folder / "cells" / cell.file
        if path.exists():
            continue
        if _spent(group.folder) >= group.core_hours * 3600:
            break
        progress(k / len(group.cells), f"{cell.part}, seed {cell.seed}: {cell.method}")
        started = time.process_time()
        rounds = rounds or group.study.bench(cell.part, cell.seed, group.folder / "kept")
        result = rounds(cell)
        write_json(path, {"cell": asdict(cell), "core_seconds": time.process_time() - started, "result": result})
        ran += 1
        progress((k + 1) / len(group.cells), f"{cell.part}, seed {cell.seed}: {cell.method} done")
    return {"cells": ran}


def finished(folder: Path, cells: Sequence[Cell]) -> list[Done]:
    """Results that lie in a run folder, in the order of ``cells``.

    **Errors**: :class:`StorageError` naming a file that is not a cell's.
    """
    out = []
    for cell in cells:
        path = folder / "cells" / cell.file
        if not path.exists():
            continue
        held = read_json(path)
        try:
            out.append(Done(cell, held["result"], float(held["core_seconds"])))
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError("not a finished cell", where=str(path), mend="remove the file; the same command makes it again") from error
    return out


def _spent(folder: Path) -> float:
    return sum(float(read_json(path)["core_seconds"]) for path in (folder / "cells").glob("*/*.json"))


def _as_table(done: Sequence[Done]) -> pl.DataFrame:
    """Every number of every cell: part, method, seed, primary, quantity, value; nested names joined by dots."""
    rows = [
        {"part": d.cell.part, "method": d.cell.method, "seed": d.cell.seed, "primary": d.cell.primary, "quantity": name, "value": value}
        for d in done
        for name, value in [*_numbers(d.result), ("core_seconds", d.core_seconds)]
    ]
    schema = {"part": pl.String, "method": pl.String, "seed": pl.Int64, "primary": pl.Boolean, "quantity": pl.String, "value": pl.Float64}
    return pl.DataFrame(rows, schema=schema)


def _numbers(value: Any, name: str = "") -> list[tuple[str, float]]:
    if isinstance(value, Mapping):
        return [pair for key, inner in value.items() for pair in _numbers(inner, f"{name}.{key}" if name else str(key))]
    return [(name, float(value))] if isinstance(value, int | float) and not isinstance(value, bool) else []


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean and Student-t interval over seeds; without bounds (infinite) for a single one.

    >>> mean_interval([1.0])
    (1.0, -inf, inf)
    """
    mean, half = student_interval(values, level)
    if len(values) < 2:
        half = math.inf
    return mean, mean - half, mean + half


def paired(done: Sequence[Done], part: str, method: str, against: str, value: Callable[[Mapping[str, Any]], float]) -> list[float]:
    """Differences ``method - against`` of a quantity, one a seed that both have."""
    found = {
        name: {d.cell.seed: value(d.result) for d in done if d.cell.part == part and d.cell.method == name} for name in (method, against)
    }
    return [found[method][seed] - found[against][seed] for seed in sorted(found[method].keys() & found[against].keys())]
