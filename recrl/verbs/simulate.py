"""``recrl simulate fit | report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import polars as pl
import tyro

from recrl.console import Talk
from recrl.core.errors import ConfigError, StorageError
from recrl.core.runs import RunFolder
from recrl.core.torch.devices import resolve_device
from recrl.pipeline.data import DataOptions, load_store
from recrl.pipeline.setting import Setting
from recrl.pipeline.simulate import ensemble_folder, simulate, simulator_folder
from simulators.calibration import verdict
from simulators.fit import ModelKind


@dataclass(frozen=True)
class FitOptions:
    """A simulator fitted to a log.

    Attributes:
        data: the log.
        response: who answers: `latent` factors (fast), a `sequence`-encoded user, or `boosted` trees.
        members: simulators fitted to bootstraps of the users besides, for model uncertainty; 0 for none, else 2 or more.
        seed: of the user split, the fit and the bootstraps.
        device: `auto`, `cpu` or `cuda`.
        runs: where runs live.
        run: name of the run; default `simulator-<data>`.
    """

    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()
    response: ModelKind = "latent"
    members: int = 0
    seed: int = 0
    device: str = "cpu"
    runs: Path = Path("runs")
    run: str = ""


@dataclass(frozen=True)
class ReportOptions:
    """The calibration table of a fitted simulator, and one line that says what it must not be used for.

    Attributes:
        source: run that holds the simulator.
        runs: where runs live.
    """

    source: Annotated[Path, tyro.conf.Positional]
    runs: Path = Path("runs")


def fit(options: FitOptions, talk: Talk) -> None:
    """Fit, save, print the calibration table."""
    if options.members < 0 or options.members == 1:
        raise ConfigError(f"members is {options.members}", where="--members", mend="give 0, or at least 2")
    device = resolve_device(options.device)
    store = load_store(options.data, talk.progress("prepare"))
    asked = options.data.asked(store)
    run = RunFolder.create(
        options.runs / (options.run or f"simulator-{store.name}"),
        kind="simulator",
        config=asked if options.response == "latent" else asked | {"response": options.response},
        seed=options.seed,
        data_hash=store.manifest.content_hash,
        device=device,
    )
    with run.running():
        report = run.heartbeats(talk.progress("fit simulator"))
        simulate(
            Setting(store, options.data),
            run,
            seed=options.seed,
            model=options.response,
            members=options.members,
            device=device,
            progress=report,
        )
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
    table = pl.read_parquet(run.artifact("simulator_fit.parquet"))
    rows, line = table.to_dicts(), verdict(table.to_arrow())
    columns = ["quantity", "group", "simulated", "logged", "lower", "upper", "note"]
    shown = [["" if row[c] is None else f"{row[c]:.4g}" if isinstance(row[c], float) else str(row[c]) for c in columns] for row in rows]
    talk.table("Simulated beside held-out users", columns, shown)
    members = sum(1 for _ in ensemble_folder(run).glob("member-*/world.json"))
    talk.say(line + (f"\nensemble: {members} members in {ensemble_folder(run)}" if members else ""))
    talk.result({"run": str(run.path), "simulator": str(simulator_folder(run)), "members": members, "verdict": line, "fit": rows})
