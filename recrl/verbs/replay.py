"""``recrl replay``: a log replayed: described, trained on, estimated off-policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dashboards.report import write_report
from recrl.algorithms.bc import BCConfig
from recrl.algorithms.td3_bc import TD3BCConfig
from recrl.console import Talk
from recrl.core.contracts import Progress
from recrl.core.runs import RunFolder
from recrl.pipeline.data import DataOptions, load_store
from recrl.pipeline.learn import LearnConfig
from recrl.pipeline.replay import Stage, replay
from recrl.pipeline.setting import Setting
from recrl.training.offline import OfflineConfig
from recrl.verbs.ope import print_estimates


@dataclass(frozen=True)
class ReplayOptions:
    """A log replayed: described, trained on, estimated off-policy.

    Attributes:
        data: the log.
        steps: updates of each learner.
        seed: of networks, batches and noise.
        runs: where runs live.
        run: name of the run; default `replay-<data>`. The same command goes on where it was stopped.
    """

    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()
    steps: int = 1_500
    seed: int = 0
    runs: Path = Path("runs")
    run: str = ""


def replay_log(options: ReplayOptions, talk: Talk) -> None:
    """Run the offline half of the loop and print the estimates."""
    store = load_store(options.data, talk.progress("prepare"))
    setting = Setting(store, options.data)
    config = {**options.data.asked(store), "steps": options.steps}
    name = options.run or f"replay-{store.name}"
    run = RunFolder.create(options.runs / name, kind="replay", config=config, seed=options.seed, data_hash=store.manifest.content_hash)
    with run.running():
        _, evaluation = replay(setting, learners(options.steps), run, seed=options.seed, stage=stages_of(run, talk))
    report = write_report(run)
    talk.close()
    rows = evaluation.estimates.to_pylist()
    print_estimates(rows, talk, options.data.signal)
    talk.say(f"{setting.known_test_share:.0%} of the test rows are of users seen in training")
    talk.say(f"report: {report}")
    talk.result({"run": str(run.path), "report": str(report), "known_test_share": setting.known_test_share, "estimates": rows})


def learners(steps: int) -> tuple[LearnConfig, ...]:
    """The clone of the logging policy, and BC and TD3+BC over item embeddings and over fusion weights."""
    offline = OfflineConfig(steps=steps, checkpoint_every=min(500, max(100, steps // 100 * 100)))
    # below the published alpha of 2.5: nearer to the log, where off-policy estimates can still follow
    return (
        LearnConfig("bc", "item", offline, BCConfig()),
        LearnConfig("bc", "embedding", offline, BCConfig()),
        LearnConfig("bc", "fusion_weights", offline, BCConfig()),
        LearnConfig("td3_bc", "embedding", offline, TD3BCConfig(alpha=0.5)),
        LearnConfig("td3_bc", "fusion_weights", offline, TD3BCConfig(alpha=0.5)),
    )


def stages_of(run: RunFolder, talk: Talk, start: float = 0.0, end: float = 1.0) -> Stage:
    """Reporters that draw on the terminal and write the run's heartbeat; together they span ``start`` to ``end`` of the run."""

    def stage(label: str, first: float, last: float) -> Progress:
        show = talk.progress(label)

        def report(done: float, text: str) -> None:
            show(done, text)
            share = start + (end - start) * (first + (last - first) * done)
            run.set_status("running", stage=f"{label}: {text}", done=share)

        return report

    return stage
