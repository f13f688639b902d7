"""The simulated platform of the TSCAC study: a known logging policy, its log, and the truth about any other.

Tastes and rates are those of the simulator fitted to ml-100k, over the 150 items rated most. A log of ratings tells no watch time: its law
is stated. Items differ in length, and longer ones are clicked less (log watch time has an item bias of spread 0.7, correlated -0.8 with
that of clicks): what is watched longest is not what is clicked and liked, and a policy must choose. The logging policy shows items by their
mean predicted click, drawn from a softmax: it does well on what is protected and covers every item.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.objective import Objective, Signal
from recrl.core.streams import Purpose, Streams
from recrl.core.torch.streams import TensorStreams
from recrl.pipeline.data import DataOptions, load_store
from recrl.pipeline.setting import Setting
from recrl.policies.items import ItemPolicy, TableScores, item_spec
from recrl.reproductions.tscac.rows import HISTORY, PROTECTED
from recrl_datasets import Log, sessions
from simulators.config import WorldConfig
from simulators.fit import FitConfig, FittedWorld, fit_world
from simulators.leave import LeaveLaw
from simulators.lives import acting, requests
from simulators.logging import log_rows
from simulators.response import LatentResponse, WatchLaw
from simulators.retention import RetentionLaw
from simulators.satisfaction import Satisfaction
from simulators.toy import toy_response
from simulators.world import RetentionWorld

ITEMS, DISCOUNT = 150, 0.9
LENGTH_SPREAD, LENGTH_BY_CLICK = 0.7, -0.8  # of log watch time by item: its spread, and its correlation with the item's click bias
WATCH = WatchLaw(mean=(0.7, 2.0, 3.0, 3.3), spread=(0.5, 0.6, 0.5, 0.5))
OBJECTIVE = Objective(Signal("watch_seconds", 1.0, DISCOUNT, DISCOUNT)).protecting(PROTECTED, DISCOUNT)
_FRESH = 1_000_000


def world(data: str, stores: Path, kept: Path, days: int) -> RetentionWorld:
    """The platform's users and its small catalogue; ``data`` names the ratings that tastes are fitted to, ``toy`` needs none."""
    config = WorldConfig("item", pool_size=0, exclude_recent=0, history=HISTORY, horizon_days=days)
    if data == "toy":
        response, leave, retention = toy_response(users=200, items=40), LeaveLaw.synthetic(mean_depth=6.0), RetentionLaw.published()
        return RetentionWorld(config, response, leave, retention, objective=OBJECTIVE)
    fitted = _fitted(data, stores, kept)
    most = np.sort(np.argsort(-fitted.exposures, kind="stable")[:ITEMS])
    assert isinstance(fitted.response, LatentResponse)
    return RetentionWorld(
        config, of_lengths(fitted.response, most), fitted.leave, fitted.retention, satisfaction=Satisfaction(), objective=OBJECTIVE
    )


def of_lengths(response: LatentResponse, items: Any) -> LatentResponse:
    """The response to some of its items, each of a length of its own."""
    table = response.items[torch.as_tensor([*items, response.n_items])].clone()
    drawn = torch.from_numpy(np.asarray(Streams(0).normal(np.asarray(items), 0, Purpose.INITIALISATION), dtype=np.float32)).reshape(-1)
    click = table[:-1, response.dim]
    liked = (click - click.mean()) / click.std()
    table[:-1, -1] = LENGTH_SPREAD * (LENGTH_BY_CLICK * liked + (1.0 - LENGTH_BY_CLICK**2) ** 0.5 * drawn)
    return LatentResponse(response.users, table, response.intercepts, response.loadings, response.off_click, WATCH, response.notes)


def _fitted(data: str, stores: Path, kept: Path) -> FittedWorld:
    folder = kept / f"world-{data}"
    if not (folder / "world.json").is_file():
        options = DataOptions(data, stores=stores)
        setting = Setting(load_store(options), options)
        fit_world(setting.log, sessions=sessions(setting.log, rule=setting.session_rule), config=FitConfig.ratings()).save(folder)
    return FittedWorld.load(folder)


def logging_policy(of: RetentionWorld) -> ItemPolicy:
    """Items by their mean log-odds of a click, in standard deviations."""
    click = of.response.scores(torch.arange(of.n_users), torch.arange(of.n_items).expand(of.n_users, -1))[..., 0].logit().mean(0)
    return ItemPolicy(TableScores((click - click.mean()) / click.std()), item_spec(of.n_items))


def simulated_log(of: RetentionWorld, users: int, seed: int) -> Log:
    """What ``users`` did with the logging policy."""
    ids = pl.Series("item_id", np.arange(of.n_items))
    frames = log_rows(of, logging_policy(of), of.population(users, seed), TensorStreams(seed), item_ids=ids, logger="mean click")
    rows = pl.concat(frames).sort("user_id", "timestamp_ms", maintain_order=True)
    columns: dict[str, Any] = {
        "user": rows["user_id"].to_numpy().astype(np.int32),
        "item": rows["item_id"].to_numpy().astype(np.int32),
        "timestamp_ms": rows["timestamp_ms"].to_numpy(),
        "watch_seconds": rows["watch_seconds"].to_numpy(),
        **{name: rows[name].to_numpy() for name in BEHAVIOURS},
    }
    return Log.from_arrays(columns, n_users=users, n_items=of.n_items)


def truth(of: RetentionWorld, policy: ItemPolicy, users: int, seed: int) -> dict[str, float]:
    """Means a request, over the lives of fresh users: watch seconds as watched, behaviours by their true probabilities.

    Policies that are judged with one seed meet the same users with the same luck.
    """
    streams = TensorStreams(_FRESH + seed)
    who = of.population(users, _FRESH + seed)
    total: Tensor = torch.zeros(2 + len(PROTECTED), dtype=torch.float64)
    columns = [BEHAVIOURS.index(name) for name in PROTECTED]
    for request in requests(of, acting(of, policy, streams), who, streams):
        outcome = request.outcome
        assert outcome.watch_seconds is not None
        found = [outcome.watch_seconds[:, 0].double().sum(), *outcome.truth["probabilities"][:, 0, columns].double().sum(0)]
        total += torch.stack([torch.tensor(float(len(request.place)), dtype=torch.float64), *found])
    means = (total[1:] / total[0]).tolist()
    return {**dict(zip(("watch_seconds", *PROTECTED), means, strict=True)), "requests_a_user": float(total[0]) / users}
