"""``recrl diagnose``: does reinforcement learning matter here? For a log, or for a simulator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from recrl.console import Talk
from recrl.core.config import to_dict
from recrl.core.objective import Objective
from recrl.core.runs import RunFolder
from recrl.core.torch.devices import resolve_device
from recrl.pipeline.data import DataOptions, load_store
from recrl.pipeline.diagnose import DiagnoseConfig, Diagnosis, diagnose_log, diagnose_world
from recrl.pipeline.setting import Setting
from recrl.pipeline.simulate import load_simulator, platform_world, simulator_hash
from recrl_datasets import sessions
from simulators.config import Scenario, WorldAction, WorldConfig
from simulators.world import RetentionWorld


@dataclass(frozen=True)
class DiagnoseOptions:
    """A log, or with --simulated a simulator that was fitted to it.

    Attributes:
        data: the log.
        simulated: ask the simulator instead of the log.
        simulator: run that holds it; default `simulator-<data>`.
        scenario: assumed effect of satisfaction on return: `fitted`, `weak`, `strong`.
        pool: candidates of a simulated request.
        diagnose: how closely it is looked at.
        seed: of users, folds and learners.
        device: `auto`, `cpu` or `cuda`.
        runs: where runs live.
        run: name of the run; default `diagnose-<data>`, with `-<scenario>` for a simulator.
    """

    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()
    simulated: bool = False
    simulator: Path | None = None
    scenario: Scenario = "fitted"
    pool: int = 100
    diagnose: Annotated[DiagnoseConfig, tyro.conf.arg(name="")] = DiagnoseConfig()
    seed: int = 0
    device: str = "cpu"
    runs: Path = Path("runs")
    run: str = ""


def diagnose(options: DiagnoseOptions, talk: Talk) -> None:
    """Ask, write the tables, print the verdict with its reasons."""
    device = resolve_device(options.device)
    store = load_store(options.data, talk.progress("prepare"))
    setting = Setting(store, options.data)
    asked = {**options.data.asked(store), **to_dict(options.diagnose)}
    found, name = None, f"diagnose-{store.name}"
    if options.simulated:
        folder, found = load_simulator(options.simulator, options.runs, store)
        asked |= {"simulator": simulator_hash(folder), "scenario": options.scenario, "pool": options.pool}
        name += f"-{options.scenario}"
    run = RunFolder.create(
        options.runs / (options.run or name),
        kind="diagnose",
        config=asked,
        seed=options.seed,
        data_hash=store.manifest.content_hash,
        device=device,
    )
    config, signal = options.diagnose, options.data.signal
    with run.running():
        report = run.heartbeats(talk.progress("diagnose"))
        if found is None:
            cut = sessions(setting.log, rule=setting.session_rule)
            result = diagnose_log(setting.log, cut, setting.responses, config, signal=signal, seed=options.seed, progress=report)
        else:
            simulator = found

            def build(kind: WorldAction, objective: Objective) -> RetentionWorld:
                world = WorldConfig(
                    action_kind=kind,
                    slate_size=config.slate,
                    pool_size=options.pool,
                    horizon_days=config.days,
                    scenario=options.scenario,
                    truth=False,
                )
                return platform_world(setting, simulator, world, device, objective)

            result = diagnose_world(build, config, signal=signal, seed=options.seed, progress=report)
        result.write(run)
    talk.close()
    _show(result, run, talk)


def _show(result: Diagnosis, run: RunFolder, talk: Talk) -> None:
    columns = ["question", "outcome", "shuffled", "value", "lower", "upper", "p_value", "p_adjusted", "users"]
    shown = [[f"{row[c]:.4g}" if isinstance(row[c], float) else str(row[c]) for c in columns] for row in result.effects]
    talk.table("Does what is shown now change what comes later?", columns, shown)
    talk.say(f"does reinforcement learning matter here? {result.answer}")
    for reason in result.reasons:
        talk.say(f"  {reason}")
    talk.say(f"run: {run.path}")
    talk.result({"run": str(run.path), "answer": result.answer, "reasons": list(result.reasons), "effects": result.effects})
