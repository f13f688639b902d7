"""``recrl train``: one learner on one log."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
import tyro

from recrl.console import Talk
from recrl.core.contracts import Progress
from recrl.core.runs import RunFolder
from recrl.pipeline.data import DataOptions, load_store
from recrl.pipeline.learn import LearnConfig, learn, policy_folder, stream_of
from recrl.pipeline.rank import RankConfig
from recrl.pipeline.runs import final_metrics
from recrl.pipeline.setting import LogAction, Setting
from recrl.rankers import RANKERS
from recrl.training.offline import OfflineConfig
from recrl.verbs.learners import learner_options
from recrl.verbs.seeds import RunOptions, over_all_seeds

if TYPE_CHECKING:
    Learners = Any
else:
    Learners = learner_options("Learners", __name__)


@dataclass(frozen=True)
class TrainOptions:
    """One learner on one log.

    Attributes:
        algorithm: a learner (`bc`, `td3`, `tscac`, ...: each has its options below) or a supervised ranker (`bpr`, `lightgcn`, `sasrec`,
            `gru4rec`, `lightgbm`).
        action: what the learner decides: an item, an item embedding, or fusion weights over predicted behaviours.
        data: the log.
        offline: length and portions of training.
        constraints: responses to protect, for learners that do: `like>=0.2`, `hate<=0.001` (bounds on the mean a request), or `like`
            without a bound; `@0.9` behind it is its own discount.
        learners: options of the learners.
        ranker: options of a supervised ranker.
        temperature: spread of the item choice of a vector learner.
        candidates: run or saved policy whose highest scores name the items to choose from; without it the whole catalogue.
        pool_size: how many it names.
        how: seeds, device and place; the default name of the run is `<algorithm>-<action>-<data>-seed<seed>`.
    """

    algorithm: Annotated[str, tyro.conf.Positional] = "td3_bc"
    action: LogAction = "embedding"
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()
    offline: Annotated[OfflineConfig, tyro.conf.arg(name="")] = OfflineConfig()
    constraints: tuple[str, ...] = ()
    learners: Annotated[Learners, tyro.conf.arg(name="")] = Learners()
    ranker: RankConfig = RankConfig()
    temperature: float = 0.1
    candidates: str = ""
    pool_size: int = 100
    how: Annotated[RunOptions, tyro.conf.arg(name="")] = RunOptions()

    @property
    def plan(self) -> LearnConfig:
        """What is trained; an unknown name has no options, and :class:`LearnConfig` refuses it."""
        chosen: Any = self.ranker if self.algorithm in RANKERS else getattr(self.learners, self.algorithm, None)
        return LearnConfig(
            self.algorithm,
            self.action,
            self.offline,
            chosen,
            self.temperature,
            self.candidates,
            self.pool_size,
            constraints=self.constraints,
        )


def train(options: TrainOptions, talk: Talk) -> int:
    """Train, save the policy, print where it lies."""
    options.how.checked()
    plan = options.plan
    # once, before several processes want it
    load_store(options.data, talk.progress("prepare"))
    if options.how.seeds > 1:
        return over_all_seeds(train_one, options, talk)
    result = train_one(options, talk.progress(plan.name))
    talk.close()
    if "ranking" in result:
        rows = [[r["part"], r["metric"], f"{r['value']:.4f}", f"{r['popularity']:.4f}", str(r["cases"])] for r in result["ranking"]]
        talk.table("Full ranking of held-out positives", ["part", "metric", "value", "popularity", "cases"], rows)
    talk.say(f"policy: {result['policy']}\nrun:    {result['run']}")
    talk.result(result)
    return 0


def train_one(options: TrainOptions, progress: Progress) -> dict[str, Any]:
    """Train one seed."""
    plan, how, device = options.plan, options.how, options.how.checked()
    store = load_store(options.data)
    run = RunFolder.create(
        how.runs / (how.run or f"{plan.name}-{store.name}-seed{how.seed}"),
        kind="train",
        config={**options.data.asked(store), "learner": plan.as_dict()},
        seed=how.seed,
        data_hash=store.manifest.content_hash,
        device=device,
    )
    started = time.perf_counter()
    with run.running():
        report = run.heartbeats(progress)
        learn(Setting(store, options.data), plan, run, seed=how.seed, device=device, progress=report, tensorboard=how.tensorboard)
    result: dict[str, Any] = {"run": str(run.path), "policy": str(policy_folder(run, plan.name)), "seconds": time.perf_counter() - started}
    final = final_metrics(run, stream_of(plan.name))
    if plan.is_ranker:
        ranking = pl.read_parquet(run.artifact("ranking.parquet")).to_dicts()
        return {**result, "ranking": ranking, "final": {**final, **{f"{row['part']} {row['metric']}": row["value"] for row in ranking}}}
    return {**result, "steps": options.offline.steps, "final": final}
