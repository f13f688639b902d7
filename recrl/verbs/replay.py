"""``recrl replay``: a log replayed: described, trained on, estimated off-policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dashboards.report import write_report
from recrl.algorithms.bc import BCConfig
from recrl.algorithms.td3_bc import TD3BCConfig
from recrl.console import Talk, stages_of
from recrl.core.runs import RunFolder
from recrl.core.torch.devices import resolve_device
from recrl.pipeline.data import DataOptions, load_store
from recrl.pipeline.learn import LearnConfig
from recrl.pipeline.rank import RankConfig
from recrl.pipeline.replay import replay
from recrl.pipeline.setting import Setting
from recrl.rankers.recbole_ranker import RecBoleConfig
from recrl.rankers.recbole_shims import missing_recbole
from recrl.training.offline import OfflineConfig
from recrl.training.tensorboard import check_tensorboard
from recrl.verbs.ope import print_estimates


@dataclass(frozen=True)
class ReplayOptions:
    """A log replayed: described, trained on, estimated off-policy.

    Attributes:
        data: the log.
        steps: updates of each learner.
        seed: of networks, batches and noise.
        device: `auto`, `cpu` or `cuda`.
        tensorboard: write the metrics for TensorBoard too.
        runs: where runs live.
        run: name of the run; default `replay-<data>`. The same command goes on where it was stopped.
    """

    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()
    steps: int = 1_500
    seed: int = 0
    device: str = "cpu"
    tensorboard: bool = False
    runs: Path = Path("runs")
    run: str = ""


def replay_log(options: ReplayOptions, talk: Talk) -> None:
    """Run the offline half of the loop and print the estimates."""
    device = resolve_device(options.device)
    if options.tensorboard:
        check_tensorboard()
    store = load_store(options.data, talk.progress("prepare"))
    setting = Setting(store, options.data)
    config = {**options.data.asked(store), "steps": options.steps}
    name = options.run or f"replay-{store.name}"
    run = RunFolder.create(
        options.runs / name, kind="replay", config=config, seed=options.seed, data_hash=store.manifest.content_hash, device=device
    )
    with run.running():
        _, evaluation = replay(
            setting,
            learners(options.steps, talk),
            run,
            seed=options.seed,
            stage=stages_of(run, talk),
            device=device,
            tensorboard=options.tensorboard,
        )
    report = write_report(run)
    talk.close()
    rows = evaluation.estimates.to_pylist()
    print_estimates(rows, talk, options.data.signal)
    talk.say(f"{setting.known_test_share:.0%} of the test rows are of users seen in training")
    talk.say(f"report: {report}")
    talk.result({"run": str(run.path), "report": str(report), "known_test_share": setting.known_test_share, "estimates": rows})


SASREC = RecBoleConfig(
    epochs=3,
    learning_rate=3e-3,
    batch_size=512,
    embedding_size=32,
    length=10,
    settings=("n_layers=1", "inner_size=64", "hidden_dropout_prob=0.2", "attn_dropout_prob=0.2"),
)
"""A SASRec small enough to be trained in a demo, about 4 s an epoch of ml-100k."""


def learners(steps: int, talk: Talk) -> tuple[LearnConfig, ...]:
    """The clone of the logging policy; SASRec, where RecBole is installed; BC and TD3+BC over item embeddings and over fusion weights."""
    offline = OfflineConfig(steps=steps, checkpoint_every=min(500, max(100, steps // 100 * 100)))
    missing = missing_recbole()
    if missing:
        talk.say(f"SASRec takes no part: {missing.what} ({missing.mend})")
    # below the published alpha of 2.5: nearer to the log, where off-policy estimates can still follow
    return (
        LearnConfig("bc", "item", offline, BCConfig()),
        *(() if missing else (LearnConfig("sasrec", options=RankConfig(recbole=SASREC)),)),
        LearnConfig("bc", "embedding", offline, BCConfig()),
        LearnConfig("bc", "fusion_weights", offline, BCConfig()),
        LearnConfig("td3_bc", "embedding", offline, TD3BCConfig(alpha=0.5)),
        LearnConfig("td3_bc", "fusion_weights", offline, TD3BCConfig(alpha=0.5)),
    )
