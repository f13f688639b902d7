"""A study's cells: each made once, gone on with, limited by core-hours, reported."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from recrl.core.errors import StorageError
from recrl.core.runs import RunFolder
from recrl.reproductions.study import Cell, Report, finished, mean_interval, paired, run_study


@dataclass(frozen=True)
class Coins:
    """A result is its seed plus a number of the method; each bench and each cell leaves a mark."""

    marks: Path
    fails: str = ""
    seeds: int = 2
    work: float = 0.0
    paper: str = "coins"

    def budget(self):
        return {"work": self.work}

    def cells(self):
        return [Cell("toss", name, seed, name != "control") for name in ("control", "A & B", "C") for seed in range(self.seeds)]

    def bench(self, part, seed, folder):
        self._mark(f"bench {seed}")

        def rounds(cell):
            until = time.process_time() + self.work
            while time.process_time() < until:
                pass
            if cell.method == self.fails:
                raise ValueError("heads")
            self._mark(f"{cell.method} {cell.seed}")
            return {"value": seed + len(cell.method), "deep": {"er": 1.0}, "name": "x"}

        return rounds

    def report(self, done):
        table = pl.DataFrame({"method": [d.cell.method for d in done], "value": [d.result["value"] for d in done]})
        return Report({"toss": table}, (f"{len(done)} tossed",))

    def _mark(self, text):
        with self.marks.open("a") as file:
            file.write(text + "\n")


def folder(tmp_path: Path, name: str = "run") -> RunFolder:
    return RunFolder.create(tmp_path / name, kind="reproduction", config={}, seed=0)


def test_primary_cells_and_low_seeds_come_first_and_each_is_made_once(tmp_path):
    study, run = Coins(tmp_path / "marks"), folder(tmp_path)
    report = run_study(study, run)
    lines = (tmp_path / "marks").read_text().splitlines()
    assert lines == ["bench 0", "A & B 0", "C 0", "bench 1", "A & B 1", "C 1", "bench 0", "control 0", "bench 1", "control 1"]
    assert report.verdict == ("6 tossed",)
    held = pl.read_parquet(run.path / "artifacts/reproduction_cells.parquet")
    assert held.filter(method="C", seed=1, quantity="deep.er")["value"].to_list() == [1.0]
    assert pl.read_parquet(run.path / "artifacts/reproduction_toss.parquet").height == 6
    run_study(study, run)
    assert (tmp_path / "marks").read_text().splitlines() == lines
    more = Coins(tmp_path / "marks", seeds=3)
    assert run_study(more, run).verdict == ("9 tossed",), "later runs add seeds"


def test_what_failed_goes_on_where_it_was(tmp_path):
    run = folder(tmp_path)
    with pytest.raises(ValueError, match="heads"):
        run_study(Coins(tmp_path / "marks", fails="C"), run)
    assert [d.cell.method for d in finished(run.path, Coins(tmp_path / "x").cells())] == ["A & B"]
    (tmp_path / "marks").unlink()
    run_study(Coins(tmp_path / "marks"), run)
    assert "A & B 0" not in (tmp_path / "marks").read_text()


def test_processes_give_what_one_gives(tmp_path):
    one, two = folder(tmp_path, "one"), folder(tmp_path, "two")
    run_study(Coins(tmp_path / "marks"), one)
    run_study(Coins(tmp_path / "marks"), two, jobs=2)
    results = [[(d.cell, d.result) for d in finished(run.path, Coins(tmp_path / "x").cells())] for run in (one, two)]
    assert results[0] == results[1]


def test_no_cell_begins_once_the_hours_are_spent(tmp_path):
    run = folder(tmp_path)
    report = run_study(Coins(tmp_path / "marks", work=0.05), run, core_hours=0.12 / 3600)
    assert "3 of 6 cells" in report.verdict[-1]
    assert "6 tossed" in run_study(Coins(tmp_path / "marks", work=0.0), run).verdict


def test_a_file_that_is_no_cell_is_named(tmp_path):
    run = folder(tmp_path)
    run_study(Coins(tmp_path / "marks"), run)
    path = run.path / "cells/toss/a-b-seed0.json"
    path.write_text("{}")
    with pytest.raises(StorageError, match="not a finished cell"):
        finished(run.path, Coins(tmp_path / "x").cells())


def test_differences_are_paired_by_seed(tmp_path):
    run = folder(tmp_path)
    run_study(Coins(tmp_path / "marks"), run)
    done = finished(run.path, Coins(tmp_path / "x").cells())
    assert paired(done, "toss", "A & B", "C", lambda result: result["value"]) == [4.0, 4.0]
    assert mean_interval([1.0, 3.0])[0] == 2.0
    assert mean_interval([1.0, 3.0])[2] == pytest.approx(2.0 + 12.7062, abs=1e-3)
