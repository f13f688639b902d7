"""Simulated users as a log: rows of the Log schema, with propensities, action vectors and the end of observation.

Users come in portions, in the order of the population, so that memory does not grow with their number; no row depends on the portions.
A row is one shown item:

- ``propensity``: probability with which the policy put the item in its place, given the items above it: the factors of the slate's
  probability, ``prod_k P(item_k | item_1 .. item_k-1)``. For a policy of vectors it is unknown, and the column is not there;
- ``action``: the vector, in every row of its request;
- ``action_log_prob``: log-probability of the slate, log-density of the vector, in every row of its request;
- ``censor_time``: the end of the last simulated day, for everybody. A user who has churned and one who would be back later look the same
  in a record, and so they do here.

Day 0 is the Monday :data:`START_MS`; a session lies within one ``local_date``, so sessions cut by calendar days are the simulated ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import Policy
from recrl.core.torch.streams import TensorStreams
from simulators.lives import Request, acting, requests
from simulators.world import RetentionWorld

START_MS = 1_704_067_200_000
"""Monday, 1 January 2024, UTC."""

PORTION = 1024
"""Users that are simulated together."""

_DAY_MS = 86_400_000


def log_rows(
    world: RetentionWorld,
    policy: Policy,
    users: Tensor,
    streams: TensorStreams,
    *,
    item_ids: pl.Series,
    logger: str,
    portion: int = PORTION,
    tick: Callable[[int], None] = lambda users: None,
) -> Iterator[pl.DataFrame]:
    """The rows of ``users`` (n,), portion by portion; ``user_id`` is a user's number, from 0.

    Args:
        world: where they live.
        policy: the logging policy; ``Action.notes["propensity"]`` (B, K) says with which probability it put each item of a slate in its
            place, where the action's own ``log_prob`` is not that of a single item.
        users: ids of simulated users.
        streams: of users and policy.
        item_ids: (n_items,) raw id of each item.
        logger: name of the policy, for ``logger_id``.
        portion: users that are simulated together; changes memory and speed, and no row.
        tick: hears how many users are done.
    """
    act, first = acting(world, policy, streams), 0
    for part in users.split(portion):
        lived = [_columns(world, request) for request in requests(world, act, part, streams)]
        yield _frame(world, {name: np.concatenate([c[name] for c in lived]) for name in lived[0]}, first, item_ids, logger)
        first += part.numel()
        tick(first)


def end_ms(world: RetentionWorld) -> int:
    """The last observed millisecond of a log of this world."""
    return START_MS + world.config.horizon_days * _DAY_MS - 1


def _columns(world: RetentionWorld, request: Request) -> dict[str, NDArray[Any]]:
    """What is kept of one request of every user, one row a user."""
    state, action, outcome = request.state, request.action, request.outcome
    kept: dict[str, Tensor | None] = {
        "place": request.place,
        "counter": state.counter,
        "session": state.session,
        "day": state.day,
        "shown": outcome.shown,
        "feedback": outcome.feedback,
        "watch": outcome.watch_seconds,
        "action": action.value if world.action_spec.is_vector else None,
        "log_prob": action.log_prob,
        "propensity": action.notes.get("propensity"),
        "pool": None if world.action_spec.is_vector or not world.config.pool_size else state.pool,
    }
    if world.action_spec.kind == "item" and kept["propensity"] is None and action.log_prob is not None:
        kept["propensity"] = action.log_prob.double().exp().unsqueeze(1)
    return {name: torch.as_tensor(column).cpu().numpy() for name, column in kept.items() if column is not None}


def _frame(world: RetentionWorld, lived: dict[str, NDArray[Any]], first: int, item_ids: pl.Series, logger: str) -> pl.DataFrame:
    """Rows in the order of users, requests and places of the slate."""
    order = np.argsort(lived["place"], kind="stable")
    lived = {name: column[order] for name, column in lived.items()}
    shown = lived["shown"]
    count, slate = shown.shape
    time = START_MS + np.rint(lived["day"].astype(np.float64) * _DAY_MS).astype(np.int64)
    of_request = {
        "user_id": first + lived["place"],
        "timestamp_ms": time,
        "request_id": lived["counter"],
        "session_id": lived["session"],
        "local_date": (time // _DAY_MS).astype("datetime64[D]"),
        "censor_time": np.full(count, end_ms(world)),
    }
    if "log_prob" in lived:
        of_request["action_log_prob"] = lived["log_prob"].astype(np.float32)
    if "pool" in lived:
        of_request["candidate_set_id"] = lived["pool"]
    columns = [pl.Series(name, np.repeat(values, slate)) for name, values in of_request.items()]
    columns += [item_ids[shown.reshape(-1)].alias("item_id"), pl.Series("position", np.tile(np.arange(slate, dtype=np.int32), count))]
    bits = lived["feedback"].reshape(-1)
    columns += [pl.Series(name, (bits >> k) & 1) for k, name in enumerate(BEHAVIOURS)]
    if "watch" in lived:
        columns.append(pl.Series("watch_seconds", lived["watch"].reshape(-1).astype(np.float32)))
    if "propensity" in lived:
        columns.append(pl.Series("propensity", lived["propensity"].reshape(-1).astype(np.float32)))
    if "action" in lived:
        vectors = np.repeat(lived["action"].astype(np.float32), slate, axis=0)
        columns.append(pl.Series("action", vectors, dtype=pl.Array(pl.Float32, vectors.shape[1])))
    return pl.DataFrame(columns).with_columns(pl.lit(logger).alias("logger_id"))
