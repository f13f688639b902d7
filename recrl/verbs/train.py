"""``recrl train``: one learner on one log."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import tyro

from recrl.algorithms.bc import BCConfig
from recrl.algorithms.td3 import TD3Config
from recrl.algorithms.td3_bc import TD3BCConfig
from recrl.console import Talk
from recrl.core.runs import RunFolder
from recrl.core.torch.devices import resolve_device
from recrl.pipeline.data import DataOptions, load_store
from recrl.pipeline.learn import LearnConfig, learn, policy_folder
from recrl.pipeline.rank import RankConfig
from recrl.pipeline.setting import LogAction, Setting
from recrl.rankers import RANKERS
from recrl.training.offline import OfflineConfig


@dataclass(frozen=True)
class TrainOptions:
    """One learner on one log.

    Attributes:
        algorithm: a learner (`bc`, `td3`, `td3_bc`) or a supervised ranker (`bpr`, `lightgcn`, `sasrec`, `gru4rec`, `lightgbm`).
        action: what the learner decides: an item, an item embedding, or fusion weights over predicted behaviours.
        data: the log.
        offline: length and portions of training.
        bc: options of `bc`.
        td3: options of `td3`.
        td3_bc: options of `td3_bc`.
        ranker: options of a supervised ranker.
        temperature: spread of the item choice of a vector learner.
        seed: of networks, batches and noise.
        device: `auto`, `cpu`, `cuda` or `mps`.
        runs: where runs live.
        run: name of the run; default `<algorithm>-<action>-<data>-seed<seed>`. The same command goes on where it was stopped.
    """

    algorithm: Annotated[str, tyro.conf.Positional] = "td3_bc"
    action: LogAction = "embedding"
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()
    offline: Annotated[OfflineConfig, tyro.conf.arg(name="")] = OfflineConfig()
    bc: BCConfig = BCConfig()
    td3: TD3Config = TD3Config()
    td3_bc: TD3BCConfig = TD3BCConfig()
    ranker: RankConfig = RankConfig()
    temperature: float = 0.1
    seed: int = 0
    device: str = "cpu"
    runs: Path = Path("runs")
    run: str = ""


def train(options: TrainOptions, talk: Talk) -> None:
    """Train, save the policy, print where it lies."""
    device = resolve_device(options.device)
    # an unknown name has no options; LearnConfig refuses it
    chosen: Any = options.ranker if options.algorithm in RANKERS else getattr(options, options.algorithm, None)
    config = LearnConfig(options.algorithm, options.action, options.offline, chosen, options.temperature)
    store = load_store(options.data, talk.progress("prepare"))
    name = options.run or f"{config.name}-{store.name}-seed{options.seed}"
    asked = {**options.data.asked(store), "learner": config.as_dict()}
    run = RunFolder.create(options.runs / name, kind="train", config=asked, seed=options.seed, data_hash=store.manifest.content_hash)
    started = time.perf_counter()
    with run.running():
        learn(Setting(store, options.data), config, run, seed=options.seed, device=device, progress=talk.progress(config.name))
    talk.close()
    folder = policy_folder(run, config.name)
    result = {"run": str(run.path), "policy": str(folder), "seconds": time.perf_counter() - started}
    if config.is_ranker:
        ranking = pl.read_parquet(run.artifact("ranking.parquet"))
        rows = [[row["part"], row["metric"], f"{row['value']:.4f}", str(row["cases"])] for row in ranking.to_dicts()]
        talk.table("Full ranking of held-out positives", ["part", "metric", "value", "cases"], rows)
        result["ranking"] = ranking.to_dicts()
    else:
        result["steps"] = options.offline.steps
    talk.say(f"policy: {folder}\nrun:    {run.path}")
    talk.result(result)
