"""Train a supervised ranker on a log, measure how it ranks, and save it as a policy."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError
from recrl.core.runs import RunFolder
from recrl.pipeline.setting import Setting
from recrl.policies import load_policy
from recrl.policies.boosted import BoostedScores
from recrl.policies.items import ItemPolicy, item_spec, popularity_policy
from recrl.rankers import RECBOLE_MODELS, SEQUENTIAL
from recrl.rankers.evaluation import evaluate_ranking
from recrl.rankers.interactions import TEST, TRAIN, VALID, Interactions, behaviour_mask
from recrl.rankers.journal import Journal
from recrl.rankers.lightgbm_ranker import LightGBMConfig, fit_lightgbm
from recrl.rankers.recbole_ranker import RecBoleConfig, fit_recbole
from recrl_datasets import UserItemFeatures


@dataclass(frozen=True)
class RankConfig:
    """One ranker on one log.

    Attributes:
        split: ``time`` learns from nothing after the cut, as every learner here; ``recbole`` cuts as RecBole does (leave-one-out for
            sequential rankers, each user's rows 8 : 1 : 1 at random for others), for comparing with its published numbers.
        positives: rows to rank high: ``signal`` (where the signal to maximise happened), ``all``, or the name of a behaviour.
        order_as: a RecBole ``.inter`` file of the same rows: they are handed over in its order, so that equal seeds give RecBole's numbers.
        temperature: spread of the item choice, in units of the ranker's scores.
        recbole: how RecBole trains.
        lightgbm: how LightGBM trains.
    """

    split: Literal["time", "recbole"] = "time"
    positives: str = "signal"
    order_as: str = ""
    temperature: float = 1.0
    recbole: RecBoleConfig = RecBoleConfig()
    lightgbm: LightGBMConfig = LightGBMConfig()

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"temperature={self.temperature} must be positive", where="ranker.temperature")


def learn_ranker(
    setting: Setting, algorithm: str, config: RankConfig, run: RunFolder, folder: Path, *, seed: int, device: str, progress: Progress | None
) -> ItemPolicy:
    """Train, write the metrics and the table ``ranking``, save the policy in ``folder``, whose name is the policy's.

    A ranker that is done is only loaded; one that was stopped goes on from its newest checkpoint.
    """
    name = folder.name
    if (folder / "policy.json").is_file():
        policy = load_policy(folder)
        if isinstance(policy, ItemPolicy) and run.artifact("ranking.parquet").is_file():
            return policy
    positives = config.positives
    if positives == "signal":
        positives = setting.options.signal if setting.options.signal in BEHAVIOURS else "all"
    rows = _cut(setting, algorithm, config, positives, seed)
    # through JSON, as a checkpoint holds it
    asked = json.loads(json.dumps({"algorithm": algorithm, "seed": seed, "data": setting.log.content_hash, **asdict(config)}))
    journal = Journal(run, f"train-{name}", asked)
    if algorithm in RECBOLE_MODELS:
        # without the test rows, where their order and number are not RecBole's business
        learned = rows if config.split == "recbole" else rows.without(TEST)
        mask = behaviour_mask(positives)
        scores: Any = fit_recbole(
            algorithm, learned, config.recbole, seed=seed, feedback=mask, device=device, journal=journal, progress=progress
        ).scores
    else:
        scores = _fit_trees(setting, rows, config, positives, seed, journal, progress)
    policy = ItemPolicy(scores, item_spec(setting.log.n_items), config.temperature)
    _write_ranking(run, name, _measured(policy, rows), {"split": config.split, "positives": positives})
    policy.save(folder)
    return policy


def _cut(setting: Setting, algorithm: str, config: RankConfig, positives: str, seed: int) -> Interactions:
    rows = Interactions.from_log(setting.log, positives)
    if config.order_as:
        rows = rows.in_order_of(Path(config.order_as), setting.store)
    if config.split == "time":
        return rows.cut_by_time(setting.log, setting.split)
    return rows.leave_one_out() if algorithm in SEQUENTIAL else rows.ratio(seed)


def _fit_trees(
    setting: Setting, rows: Interactions, config: RankConfig, positives: str, seed: int, journal: Journal, progress: Progress | None
) -> BoostedScores:
    # by time, shown items without the behaviour are known too: they rank below those with it
    train, valid = setting.split.train, setting.split.valid
    if config.split == "recbole":
        train, valid = (setting.log.select(np.sort(rows.row[rows.part == part])) for part in (TRAIN, VALID))
    features = UserItemFeatures.fit(train, setting.store)
    options: dict[str, Any] = {"positives": positives, "config": config.lightgbm, "seed": seed, "journal": journal, "progress": progress}
    scores, _ = fit_lightgbm(train, valid, features, **options)
    return scores


def _measured(policy: ItemPolicy, rows: Interactions) -> list[dict[str, Any]]:
    """How the policy ranks held-out rows, and how popularity among the training rows ranks the same."""
    k = min(10, rows.n_items)
    popular = popularity_policy(torch.from_numpy(rows.counts()), policy.action_spec)
    measured = []
    for name, part in (("valid", VALID), ("test", TEST)):
        ours, plain = (evaluate_ranking(one, rows, part, k=k, cases_of=policy) for one in (policy, popular))
        for metric in ("recall", "ndcg"):
            value, popularity = getattr(ours, metric), getattr(plain, metric)
            measured.append({"part": name, "metric": f"{metric}@{k}", "value": value, "popularity": popularity, "cases": ours.cases})
    return measured


def _write_ranking(run: RunFolder, name: str, measured: list[dict[str, Any]], labels: dict[str, str]) -> None:
    new = pl.DataFrame(
        [{"policy": name, **labels, **row} for row in measured], schema_overrides={"value": pl.Float64, "popularity": pl.Float64}
    )
    path = run.artifact("ranking.parquet")
    held = pl.read_parquet(path).filter(pl.col("policy") != name) if path.is_file() else new.clear()
    run.write_table("ranking", pl.concat([held, new], how="diagonal").to_arrow())
