"""``recrl simulate fit | report | log``."""

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
from recrl.pipeline.policies import named_policies
from recrl.pipeline.setting import Setting
from recrl.pipeline.simulate import ensemble_folder, load_simulator, simulate, simulator_folder, simulator_hash
from recrl.pipeline.simulated_log import LogConfig, weights_policy, write_log
from recrl.policies.gaussian import AnyVectorPolicy
from recrl.policies.items import ItemPolicy
from recrl_datasets import Store, sessions
from simulators.calibration import verdict
from simulators.fit import FittedWorld, ModelKind
from simulators.response_model import KINDS


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


@dataclass(frozen=True)
class LogOptions:
    """Simulated users under a policy, as a prepared store with propensities.

    Attributes:
        policy: `uniform`, `popularity`, a saved policy, or a run that holds one; or `weights`, see below.
        weights: fusion weights of a static policy: `long_view=1 hate=-0.5`.
        spread: of the Gaussian around static weights, as a share of half their range.
        simulator: run that holds a fitted simulator; default `simulator-<data>`.
        response: ask for a simulator of this response model; default whichever the run holds.
        data: the log that the simulator was fitted to.
        log: what is simulated.
        name: of the store; default `simulated-<data>-<policy>-seed<seed>`.
        seed: of users, their luck and the policy's draws.
        device: `auto`, `cpu` or `cuda`.
        runs: where runs live.
    """

    policy: Annotated[str, tyro.conf.Positional] = "uniform"
    weights: tuple[str, ...] = ()
    spread: float = 0.1
    simulator: Path | None = None
    response: ModelKind | None = None
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()
    log: Annotated[LogConfig, tyro.conf.arg(name="")] = LogConfig()
    name: str = ""
    seed: int = 0
    device: str = "cpu"
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


def log(options: LogOptions, talk: Talk) -> None:
    """Simulate, store, print what is there."""
    device = resolve_device(options.device)
    source = load_store(options.data, talk.progress("prepare"))
    folder, fitted = load_simulator(options.simulator, options.runs, source)
    _check_response(options.response, fitted, source)
    setting = Setting(source, options.data)
    logger, policy = _logging_policy(options, setting)
    store = write_log(
        setting,
        fitted,
        simulator_hash(folder),
        policy,
        options.log,
        options.name or f"simulated-{source.name}-{logger}-seed{options.seed}",
        logger=logger,
        seed=options.seed,
        device=device,
        stores=options.data.stores,
        progress=talk.progress("simulate log"),
    )
    talk.close()
    _show_log(store, logger, talk)


def _check_response(wanted: ModelKind | None, fitted: FittedWorld, store: Store) -> None:
    held = next(kind for kind, model in KINDS.items() if isinstance(fitted.response, model))
    if wanted not in (None, held):
        mend = f"recrl simulate fit --data {store.name} --response {wanted} --run NAME, then --simulator NAME"
        raise ConfigError(f"the simulator's response model is {held!r}", where="--response", mend=mend)


def _logging_policy(options: LogOptions, setting: Setting) -> tuple[str, ItemPolicy | AnyVectorPolicy]:
    if bool(options.weights) != (options.policy == "weights"):
        mend = "recrl simulate log weights --weights long_view=1 hate=-0.5"
        raise ConfigError("the policy `weights` and --weights belong together", where="policy", mend=mend)
    if options.weights:
        return "weights", weights_policy(setting, options.weights, options.spread)
    named = named_policies(["random" if options.policy == "uniform" else options.policy], setting, runs=options.runs)
    if len(named) > 1:
        raise ConfigError(
            f"{options.policy} holds {len(named)} policies", where="policy", mend=f"name one of {', '.join(named)} by its path"
        )
    name, policy = next(iter(named.items()))
    return "uniform" if name == "random" else name, policy


def _show_log(store: Store, logger: str, talk: Talk) -> None:
    rows, cut = store.log(), sessions(store.log(), rule="day")
    names = [name for name in ("click", "long_view", "like", "hate") if rows.has(name)]
    told = {
        "store": str(store.path),
        "logger": logger,
        "users": int(rows.n_users),
        "sessions": len(cut),
        "requests": int(cut.requests.total),
        "rows": rows.n_rows,
        **{f"{name}_rate": float(rows.column(name).mean()) for name in names},
        "returned_next_day": float((cut.gap_whole_days == 1).sum() / max(int((cut.exposure_whole_days >= 1).sum()), 1)),
        "content_hash": store.content_hash,
    }
    shown = [[key, f"{value:.4g}" if isinstance(value, float) else str(value)] for key, value in told.items()]
    talk.table("Simulated log", ["what", "value"], shown)
    talk.say(f"columns: {', '.join(rows.columns)}\nnext: recrl data describe {store.name}")
    talk.result({**told, "columns": list(rows.columns)})


def _show(run: RunFolder, talk: Talk) -> None:
    table = pl.read_parquet(run.artifact("simulator_fit.parquet"))
    rows, line = table.to_dicts(), verdict(table.to_arrow())
    columns = ["quantity", "group", "simulated", "logged", "lower", "upper", "note"]
    shown = [["" if row[c] is None else f"{row[c]:.4g}" if isinstance(row[c], float) else str(row[c]) for c in columns] for row in rows]
    talk.table("Simulated beside held-out users", columns, shown)
    members = sum(1 for _ in ensemble_folder(run).glob("member-*/world.json"))
    talk.say(line + (f"\nensemble: {members} members in {ensemble_folder(run)}" if members else ""))
    talk.result({"run": str(run.path), "simulator": str(simulator_folder(run)), "members": members, "verdict": line, "fit": rows})
