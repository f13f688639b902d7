"""From text to a store that is ready to train on: core-seconds, wall seconds and peak memory, RecBole's own loading beside it.

Writes a generated log in KuaiRand's layout (19 columns, realistic ranges, exact duplicates), prepares it in a fresh process, and opens
the store again. Up to 8 million rows it also writes the same interactions as a RecBole atomic file, and RecBole makes training data of it.
In-process figures leave imports out; `cold` figures are of the whole process.

python benchmarks/data_loading.py --json
python benchmarks/data_loading.py --rows 100_000_000 --json    # takes about 25 GB of disk for a while
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

PURE_ROWS, PURE_ITEMS, USERS = 1_436_609, 7_551, 27_285
MANY_ROWS, MANY_ITEMS = 8_000_000, 10_000_000
CHUNK = 1_000_000
DUPLICATES = 0.024
FIRST_MS, DAYS = 1_649_347_200_000, 31
TRAINING = ("user", "item", "timestamp_ms", "click", "long_view", "like", "comment", "follow", "forward", "hate", "watch_seconds")


def interactions(rows: int, seed: int) -> Iterator[pl.DataFrame]:
    """Chunks of a log in KuaiRand's columns; some rows of each chunk are repeated in it."""
    rng = np.random.default_rng(seed)
    items = PURE_ITEMS if rows <= MANY_ROWS else MANY_ITEMS
    while rows > 0:
        count = min(CHUNK, rows)
        fresh = max(1, round(count * (1 - DUPLICATES)))
        table = _chunk(rng, fresh, items)
        yield pl.concat([table, table[: count - fresh]]) if count > fresh else table
        rows -= count


def _chunk(rng: np.random.Generator, rows: int, items: int) -> pl.DataFrame:
    def flag(rate: float) -> np.ndarray:
        return (rng.random(rows) < rate).astype(np.int8)

    ms = FIRST_MS + rng.integers(0, DAYS * 86_400_000, rows)
    days = pl.Series((ms + 8 * 3_600_000) // 86_400_000, dtype=pl.Int32).cast(pl.Date)
    duration = rng.integers(3_000, 300_000, rows)
    return pl.DataFrame(
        {
            "user_id": rng.integers(0, USERS, rows),
            # few videos are seen often, most rarely
            "video_id": (items * rng.random(rows) ** 2).astype(np.int64),
            "date": days.dt.strftime("%Y%m%d").cast(pl.Int64),
            "hourmin": (ms // 3_600_000 + 8) % 24 * 100,
            "time_ms": ms,
            "is_click": flag(0.46),
            "is_like": flag(0.015),
            "is_follow": flag(0.001),
            "is_comment": flag(0.002),
            "is_forward": flag(0.001),
            "is_hate": flag(0.0004),
            "long_view": flag(0.3),
            "play_time_ms": (duration * rng.random(rows) ** 2).astype(np.int64),
            "duration_ms": duration,
            "profile_stay_time": flag(0.01) * rng.integers(0, 9_999, rows),
            "comment_stay_time": flag(0.02) * rng.integers(0, 9_999, rows),
            "is_profile_enter": flag(0.003),
            "is_rand": flag(0.0),
            "tab": rng.integers(0, 15, rows),
        }
    )


def write_sources(folder: Path, rows: int, seed: int) -> str:
    """Write the log as KuaiRand's files, and as an atomic file where RecBole is to read it; returns the name of the dataset."""
    small = rows <= MANY_ROWS
    days = ("4_08_to_4_21", "4_22_to_5_08")
    names = [f"log_standard_{days[1]}_pure.csv"] if small else [f"log_standard_{d}_27k_part{k}.csv" for d in days for k in (1, 2)]
    (folder / "data").mkdir()
    done = 0
    for table in interactions(rows, seed):
        path = folder / "data" / names[done * len(names) // rows]
        with path.open("ab") as file:
            table.write_csv(file, include_header=file.tell() == 0)
        if small:
            (folder / "log").mkdir(exist_ok=True)
            with (folder / "log" / "log.inter").open("ab") as file:
                _atomic(table).write_csv(file, include_header=file.tell() == 0, separator="\t")
        done += table.height
    return "kuairand-pure" if small else "kuairand-27k"


def _atomic(table: pl.DataFrame) -> pl.DataFrame:
    tokens = {"user_id": "user_id:token", "video_id": "item_id:token", "time_ms": "timestamp:float"}
    return table.rename({name: tokens.get(name, f"{name}:float") for name in table.columns})


class Meter:
    """Core-seconds and wall seconds since it was made."""

    def __init__(self) -> None:
        self._cpu, self._wall = self.cpu(), time.perf_counter()

    @staticmethod
    def cpu() -> float:
        """User and system seconds of this process."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    def read(self) -> dict[str, float]:
        """Both, rounded to milliseconds."""
        return {"core_seconds": round(self.cpu() - self._cpu, 3), "wall_seconds": round(time.perf_counter() - self._wall, 3)}


def peak_gb() -> float:
    """Largest memory of this process so far, in units of 1e9 bytes (where there is no /proc, it may begin with the parent's)."""
    status = Path("/proc/self/status")
    if status.exists():
        return round(int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e9, 3)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3)


def prepare(folder: Path, dataset: str) -> dict[str, Any]:
    import recrl_datasets as rd

    def told(share: float, text: str) -> None:
        print(f"{share:6.1%} {time.perf_counter() - started:8.1f} s {text}", file=sys.stderr, flush=True)

    before, started, meter = peak_gb(), time.perf_counter(), Meter()
    store = rd.prepare(dataset, folder, stores=folder / "stores", progress=told)
    m = store.manifest
    size = sum(m.files.values())
    found = {"rows": m.rows, "duplicate_rows": m.duplicate_rows, "users": m.users, "items": m.items, "store_bytes": size}
    return {**meter.read(), "peak_gb": peak_gb(), "peak_gb_before": before, **found}


def reopen(folder: Path, dataset: str) -> dict[str, Any]:
    """Opening a store and reading what training needs of it, the first time in a process and once more."""
    import recrl_datasets as rd

    def once() -> dict[str, float]:
        meter = Meter()
        log = rd.open_store(folder / "stores" / dataset).log()
        for name in TRAINING:
            log.column(name)
        _ = log.user_offsets
        return meter.read()

    first, again = once(), once()
    return {**first, "again_core_seconds": again["core_seconds"], "peak_gb": peak_gb()}


def recbole(folder: Path, columns: list[str] | None) -> dict[str, Any]:
    from recrl.rankers.recbole_shims import import_recbole, use_recbole

    os.chdir(folder)
    with use_recbole(folder):
        config_class = import_recbole("recbole.config").Config
        data = import_recbole("recbole.data")
        asked: dict[str, Any] = {
            "data_path": str(folder),
            "load_col": {"inter": columns} if columns else None,
            "TIME_FIELD": "timestamp",
            "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "none", "mode": "full"},
            "show_progress": False,
            "gpu_id": "",
        }
        before, meter = peak_gb(), Meter()
        config = config_class(model="BPR", dataset="log", config_dict=asked)
        dataset = data.create_dataset(config)
        data.data_preparation(config, dataset)
    return {**meter.read(), "peak_gb": peak_gb(), "peak_gb_before": before, "rows": len(dataset.inter_feat)}


PARTS = {
    "prepare": prepare,
    "reopen": reopen,
    "recbole, every column": lambda folder, _: recbole(folder, None),
    "recbole, user, item and time": lambda folder, _: recbole(folder, ["user_id", "item_id", "timestamp"]),
}


def in_fresh_process(part: str, folder: Path, dataset: str) -> dict[str, Any]:
    """What one part measures, with the cost of its whole process."""
    words = [sys.executable, __file__, "--part", part, "--folder", str(folder), "--dataset", dataset]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{part} failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    cold = {"cold_core_seconds": round(cpu, 3), "cold_wall_seconds": round(time.perf_counter() - started, 3)}
    return {"part": part, **json.loads(done.stdout.strip().splitlines()[-1]), **cold}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=PURE_ROWS)
    parser.add_argument("--repeat", type=int, default=3, help="how often each part is measured; the least core-seconds count")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="where to work (a temporary folder is made in it)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--dataset", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part](options.folder, options.dataset)))
        return
    cells = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        started = time.perf_counter()
        dataset = write_sources(folder, options.rows, options.seed)
        text = sum(path.stat().st_size for path in (folder / "data").iterdir())
        print(f"{options.rows:,} rows, {text / 1e9:.2f} GB of text in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        for part in PARTS if options.rows <= MANY_ROWS else ("prepare", "reopen"):
            runs = []
            for _ in range(options.repeat if options.rows <= MANY_ROWS else 1):
                if part == "prepare":
                    subprocess.run(["rm", "-rf", str(folder / "stores")], check=True)
                runs.append(in_fresh_process(part, folder, dataset))
            cells.append(min(runs, key=lambda run: run["core_seconds"]))
            if not options.json:
                print("  ".join(f"{key} {value}" for key, value in cells[-1].items()), flush=True)
    print(json.dumps({"benchmark": "data_loading", "rows": options.rows, "text_bytes": text, "seed": options.seed, "cells": cells}))


if __name__ == "__main__":
    main()
