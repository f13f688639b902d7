"""``recrl demo``: the whole loop on real data, in one run folder."""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dashboards.report import write_report
from recrl.console import Talk, stages_of
from recrl.core.config import to_dict
from recrl.core.runs import RunFolder
from recrl.core.torch.devices import resolve_device
from recrl.pipeline.compare import CompareConfig, compare
from recrl.pipeline.data import DataOptions, load_store
from recrl.pipeline.replay import replay
from recrl.pipeline.setting import Setting
from recrl.pipeline.simulate import simulate
from recrl.training.tensorboard import check_tensorboard
from recrl.verbs.ab import print_effects
from recrl.verbs.ope import print_estimates
from recrl.verbs.replay import learners

BASELINE = "popularity"


@dataclass(frozen=True)
class DemoOptions:
    """The whole loop: learn from a log, estimate off-policy, simulate, compare, report.

    Attributes:
        data: the log; `ml-100k` needs nothing, `kuairand-pure` its folder (`--root`).
        steps: updates of each learner.
        compare: size and assumptions of the A/B test.
        seed: of everything.
        device: `auto`, `cpu` or `cuda`.
        tensorboard: write the metrics of training for TensorBoard too.
        runs: where runs live.
        run: name of the run; default `demo-<data>`. The same command goes on where it was stopped.
    """

    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()
    steps: int = 1_500
    compare: Annotated[CompareConfig, tyro.conf.arg(name="")] = CompareConfig()
    seed: int = 0
    device: str = "cpu"
    tensorboard: bool = False
    runs: Path = Path("runs")
    run: str = ""


def demo(options: DemoOptions, talk: Talk) -> None:
    """Run every stage; what is trained and fitted already is loaded, the rest is done again."""
    started, device = time.perf_counter(), resolve_device(options.device)
    if options.tensorboard:
        check_tensorboard()
    store = load_store(options.data, talk.progress("prepare"))
    setting = Setting(store, options.data)
    asked = {**options.data.asked(store), "steps": options.steps}
    run = RunFolder.create(
        options.runs / (options.run or f"demo-{store.name}"),
        kind="demo",
        config={**asked, **to_dict(options.compare)},
        seed=options.seed,
        data_hash=store.manifest.content_hash,
        device=device,
    )
    with run.running():
        stage = stages_of(run, talk, 0.0, 0.6)
        plans = learners(options.steps, talk)
        policies, evaluation = replay(setting, plans, run, seed=options.seed, stage=stage, device=device, tensorboard=options.tensorboard)
        stage = stages_of(run, talk, 0.6, 1.0)
        fitted = simulate(setting, run, seed=options.seed, device=device, progress=stage("fit simulator", 0.0, 0.3))
        tables = compare(
            setting, fitted, policies, BASELINE, options.compare, run, seed=options.seed, device=device, progress=stage("A/B", 0.3, 1.0)
        )
    report = write_report(run)
    talk.close()
    estimates, effects = evaluation.estimates.to_pylist(), tables["ab_metrics"].to_pylist()
    print_estimates([r for r in estimates if r["estimator"] in ("mean", "ncis")], talk, options.data.signal)
    shown = [r for r in effects if r["metric"] in ("day1_retention", "active_days", "return_gap", "long_view_rate")]
    print_effects(shown, tables["ab_design"].to_pylist(), talk)
    seconds = time.perf_counter() - started
    talk.say(f"{setting.known_test_share:.0%} of the test rows are of users seen in training")
    talk.say(f"report:    {report}\ndashboard: {to_look_at(options.runs)}\ndone in {seconds:.0f} s")
    talk.result(
        {
            "run": str(run.path),
            "report": str(report),
            "seconds": seconds,
            "known_test_share": setting.known_test_share,
            "estimates": estimates,
            "effects": effects,
        }
    )


def to_look_at(runs: Path) -> str:
    """The command that opens the dashboard: through make where make ran the demo, since `recrl` may be off the reader's path."""
    if os.environ.get("RECRL_MAKE"):
        return "make dashboard" if runs == Path("runs") else shlex.join(["make", "dashboard", f"RUNS={runs}"])
    return shlex.join(["recrl", "dashboard", "--runs", str(runs)])
