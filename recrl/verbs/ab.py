"""``recrl ab``: policies against each other in a fitted simulator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from recrl.console import Talk
from recrl.core.config import to_dict
from recrl.core.errors import ConfigError
from recrl.core.runs import RunFolder
from recrl.core.torch.devices import resolve_device
from recrl.pipeline.compare import CompareConfig, compare
from recrl.pipeline.data import DataOptions, load_store
from recrl.pipeline.policies import fingerprint, named_policies
from recrl.pipeline.setting import Setting
from recrl.pipeline.shards import EngineOptions
from recrl.pipeline.simulate import load_simulator, simulator_hash
from simulators.ensemble import Ensemble
from simulators.fit import FittedWorld


@dataclass(frozen=True)
class AbOptions:
    """Policies against each other; the first is the baseline.

    Attributes:
        policies: `random`, `popularity`, saved policies, or runs that hold some.
        simulator: run that holds a fitted simulator (`recrl simulate fit`); default `simulator-<data>`.
        data: the log that policies and simulator were made from.
        compare: size and assumptions.
        members: simulators of the ensemble (`recrl simulate fit --members 10`) to simulate too: intervals that hold the uncertainty of
            the fit.
        engine: who simulates; the same command goes on where it was stopped.
        seed: of users and noise.
        device: `auto`, `cpu` or `cuda`.
        runs: where runs live.
        run: name of the run; default `ab-<policies>`.
    """

    policies: Annotated[tuple[str, ...], tyro.conf.Positional]
    simulator: Path | None = None
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()
    compare: Annotated[CompareConfig, tyro.conf.arg(name="")] = CompareConfig()
    members: int = 0
    engine: Annotated[EngineOptions, tyro.conf.arg(name="")] = EngineOptions()
    seed: int = 0
    device: str = "cpu"
    runs: Path = Path("runs")
    run: str = ""


def ab(options: AbOptions, talk: Talk) -> None:
    """Simulate every arm, write the tables, print effects with intervals."""
    device = resolve_device(options.device)
    store = load_store(options.data, talk.progress("prepare"))
    setting = Setting(store, options.data)
    policies = named_policies(options.policies, setting, runs=options.runs)
    if len(policies) < 2:
        raise ConfigError(
            f"an A/B test compares at least two policies, got {', '.join(policies) or 'none'}",
            where="recrl ab",
            mend="recrl ab popularity RUN",
        )
    folder, fitted = load_simulator(options.simulator, options.runs, store)
    members = ensemble_members(folder, options.members)
    asked = {
        **options.data.asked(store),
        "policies": {name: fingerprint(policy) for name, policy in policies.items()},
        "simulator": simulator_hash(folder),
        "members": options.members,
        **to_dict(options.compare),
    }
    run = RunFolder.create(
        options.runs / (options.run or f"ab-{'-vs-'.join(policies).replace('/', '-')}"),
        kind="ab",
        config=asked,
        seed=options.seed,
        data_hash=store.manifest.content_hash,
        device=device,
    )
    with run.running():
        report = run.heartbeats(talk.progress("A/B"))
        baseline = next(iter(policies))
        tables = compare(
            setting,
            fitted,
            policies,
            baseline,
            options.compare,
            run,
            seed=options.seed,
            device=device,
            progress=report,
            members=members,
            engine=options.engine,
        )
    talk.close()
    rows = {name: table.to_pylist() for name, table in tables.items()}
    print_effects(rows["ab_metrics"], rows["ab_design"], talk)
    print_uncertainty(rows["ab_uncertainty"], talk)
    talk.say(f"run: {run.path}")
    told = {name: rows[f"ab_{name}"] for name in ("metrics", "design", "uncertainty", "guardrails")}
    talk.result({"run": str(run.path), **told})


def ensemble_members(simulator: Path, count: int) -> list[FittedWorld]:
    """The first ``count`` members of the ensemble beside a saved simulator.

    **Errors**: :class:`ConfigError` where there are fewer.
    """
    if count == 0:
        return []
    folder = simulator.parent / "ensemble"
    found = Ensemble(folder)[:count] if folder.is_dir() else []
    if len(found) < count or count == 1:
        what = f"{len(found)} members of an ensemble are there, {count} were asked for"
        mend = f"recrl simulate fit --members {max(count, 10)}" if count > 1 else "one tells nothing: ask for 2 or more"
        raise ConfigError(what, where="--members", mend=mend)
    return found


def print_effects(rows: list[dict[str, Any]], design: list[dict[str, Any]], talk: Talk) -> None:
    """Effects of every arm but the baseline's own rows, what never happened, and what was assumed."""
    columns = ["scenario", "metric", "arm", "baseline_mean", "mean", "effect", "lower", "upper", "verdict"]
    happened = {row["metric"] for row in rows if row["mean"] or row["baseline_mean"]}
    told = [row for row in rows if row["arm"] != row["baseline"] and row["metric"] in happened]
    shown = [[f"{row[c]:.4g}" if isinstance(row[c], float) else f"{row[c]}" for c in columns] for row in told]
    talk.table(f"A/B against {rows[0]['baseline'] if rows else ''}", columns, shown)
    if never := sorted({row["metric"] for row in rows} - happened):
        talk.say(f"0 in every arm, so not shown: {', '.join(never)}")
    for d in design:
        how = "the same users and noise in every arm" if d["paired"] else "users randomised to arms"
        talk.say(f"scenario {d['eta_scenario']}: satisfaction's effect on return assumed as eta_s = {d['eta']:g}")
        talk.say(f"  {d['users']:,} users, {d['days']} days, {how}")


def print_uncertainty(rows: list[dict[str, Any]], talk: Talk) -> None:
    """Effects over scenarios and, with an ensemble, over simulators; nothing where one simulator under one scenario was asked."""
    if len({row["scenario"] for row in rows}) < 2 and not any(row["members"] for row in rows):
        return
    shown = []
    for row in sorted(rows, key=lambda row: (row["metric"], row["arm"])):
        plain, over = (span(row[f"{kind}lower"], row[f"{kind}upper"]) for kind in ("plain_", ""))
        eta = "" if row["eta"] is None else f"{row['eta']:g}"
        shown.append([row["scenario"], eta, row["metric"], row["arm"], plain, over, row["verdict"]])
    over_what = f"{rows[0]['members']} simulators" if rows[0]["members"] else "one simulator"
    talk.table(f"With the simulator's uncertainty: {over_what}", ["scenario", "eta_s", "metric", "arm", "plain", "whole", "verdict"], shown)


def span(lower: float, upper: float) -> str:
    """An interval as text."""
    return f"[{lower:+.4g}, {upper:+.4g}]"
