"""``recrl simulate fit | report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import polars as pl
import tyro

from recrl.console import Talk
from recrl.core.errors import StorageError
from recrl.core.runs import RunFolder
from recrl.core.torch.devices import resolve_device
from recrl.pipeline.data import DataOptions, load_store
from recrl.pipeline.setting import Setting
from recrl.pipeline.simulate import simulate, simulator_folder


@dataclass(frozen=True)
class FitOptions:
    """A simulator fitted to a log.

    Attributes:
        data: the log.
        seed: of the user split and the fit.
        device: `auto`, `cpu` or `cuda`.
        runs: where runs live.
        run: name of the run; default `simulator-<data>`.
    """

    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()
    seed: int = 0
    device: str = "cpu"
    runs: Path = Path("runs")
    run: str = ""


@dataclass(frozen=True)
class ReportOptions:
    """The calibration table of a fitted simulator.

    Attributes:
        source: run that holds the simulator.
        runs: where runs live.
    """

    source: Annotated[Path, tyro.conf.Positional]
    runs: Path = Path("runs")


def fit(options: FitOptions, talk: Talk) -> None:
    """Fit, save, print the calibration table."""
    device = resolve_device(options.device)
    store = load_store(options.data, talk.progress("prepare"))
    asked = options.data.asked(store)
    run = RunFolder.create(
        options.runs / (options.run or f"simulator-{store.name}"),
        kind="simulator",
        config=asked,
        seed=options.seed,
        data_hash=store.manifest.content_hash,
        device=device,
    )
    with run.running():
        report = run.heartbeats(talk.progress("fit simulator"))
        simulate(Setting(store, options.data), run, seed=options.seed, device=device, progress=report)
    talk.close()
    talk.say(f"simulator: {simulator_folder(run)}")
    _show(run, talk)


def report(options: ReportOptions, talk: Talk) -> None:
    """Print the calibration table of a run."""
    held = [p for p in (options.source, options.runs / options.source) if (p / "config.json").is_file()]
    run = RunFolder.open(held[0] if held else options.source)
    if not run.artifact("simulator_fit.parquet").is_file():
        raise StorageError(f"run {run.name!r} holds no fitted simulator", where=str(run.path), mend="recrl simulate fit --data ml-100k")
    _show(run, talk)


def _show(run: RunFolder, talk: Talk) -> None:
    rows = pl.read_parquet(run.artifact("simulator_fit.parquet")).to_dicts()
    columns = ["quantity", "group", "simulated", "logged", "lower", "upper", "note"]
    shown = [["" if row[c] is None else f"{row[c]:.4g}" if isinstance(row[c], float) else str(row[c]) for c in columns] for row in rows]
    talk.table("Simulated beside held-out users", columns, shown)
    talk.result({"run": str(run.path), "simulator": str(simulator_folder(run)), "fit": rows})
