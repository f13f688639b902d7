"""A small self-made log and the tasks, batches and observations that stand on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from recrl.algorithms.task import Task
from recrl.core.contracts import ActionSpec, Transitions
from recrl.core.objective import Objective, Signal
from recrl.policies.items import item_spec
from recrl.replay.logged import LoggedBuffer
from recrl_datasets import Log

N_USERS, N_ITEMS = 12, 9
HOUR_MS = 3_600_000


def small_log(rows_per_user: int = 8, seed: int = 0) -> Log:
    """Users with a session of 4 rows a day, 2 minutes apart; likes depend on the item."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(N_USERS, dtype=np.int32), rows_per_user)
    position = np.tile(np.arange(rows_per_user), N_USERS)
    item = rng.integers(0, N_ITEMS, user.size).astype(np.int32)
    click = (rng.random(user.size) < 0.6).astype(np.uint8)
    time = 1_650_000_000_000 + (position // 4) * 24 * HOUR_MS + (position % 4) * 120_000 + user.astype(np.int64) * 60_000
    columns = {"user": user, "item": item, "timestamp_ms": time, "click": click, "long_view": click * (item % 2).astype(np.uint8)}
    columns["like"] = columns["long_view"] * (rng.random(user.size) < 0.5).astype(np.uint8)
    columns["watch_seconds"] = rng.random(user.size).astype(np.float32) * 30
    return Log.from_arrays(columns, n_users=N_USERS, n_items=N_ITEMS)


def item_vectors(size: int = 4) -> torch.Tensor:
    """Item vectors in [-1, 1]."""
    return torch.tensor(np.random.default_rng(1).uniform(-1, 1, (N_ITEMS, size)), dtype=torch.float32)


def task(kind: str, objective: Objective | None = None) -> Task:
    """A task of each action kind over the small log."""
    objective = objective or Objective(main=Signal("long_view"))
    specs = {
        "item": item_spec(N_ITEMS),
        "embedding": ActionSpec("embedding", (4,)),
        "fusion_weights": ActionSpec("fusion_weights", (7,)),
        "continuous": ActionSpec("continuous", (2,), low=-2.0, high=3.0),
        "slate": item_spec(N_ITEMS, 3),
        "discrete": ActionSpec("discrete", choices=5),
    }
    return Task(specs[kind], objective, item_vectors(), torch.zeros(N_ITEMS))


def buffer(kind: str, log: Log | None = None, objective: Objective | None = None) -> LoggedBuffer:
    """Transitions of the small log with actions of this kind."""
    objective = objective or Objective(main=Signal("long_view"))
    vectors = item_vectors()
    random = torch.tensor(np.random.default_rng(2).uniform(-1, 1, (N_USERS, N_ITEMS, 7)), dtype=torch.float32)
    encoders = {
        "item": None,
        "embedding": lambda user, item: vectors[item],
        "fusion_weights": lambda user, item: random[user, item],
        "continuous": lambda user, item: random[user, item, :2],
        "slate": lambda user, item: (item.unsqueeze(1) + torch.arange(3)) % N_ITEMS,
        "discrete": lambda user, item: (user + item) % 5,
    }
    return LoggedBuffer(log or small_log(), objective, history=5, encode_action=encoders[kind])


def three_rewards(kind: str) -> Transitions:
    """Ten rows with three rewards."""
    rows = buffer(kind).gather(torch.arange(10) * 8 + 3)
    return replace(rows, reward=torch.rand(10, 3, generator=torch.Generator().manual_seed(0)))
