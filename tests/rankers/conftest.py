"""A small log with tastes, and rankers trained on it once for all tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import recrl_datasets as rd
from recrl.rankers import RECBOLE_MODELS, SEQUENTIAL
from recrl.rankers.interactions import Interactions
from recrl.rankers.recbole_ranker import Fitted, RecBoleConfig, fit_recbole

USERS, ITEMS, SEED = 60, 30, 7
SMALL = RecBoleConfig(epochs=3, embedding_size=8, length=6)


def taste_frame(seed: int = 0) -> pl.DataFrame:
    """Users of two tastes see 1 to 14 different items each, half a minute apart; every third time falls on its neighbour's."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in rng.permutation(USERS):
        count = int(rng.integers(1, 15)) if user > 3 else int(user) + 1
        items = rng.permutation(ITEMS)[:count]
        for k, item in enumerate(items):
            liked = int(rng.random() < (0.8 if item % 2 == user % 2 else 0.2))
            rows.append(
                (int(user) + 100, int(item) + 500, 1_600_000_000_000 + int(user) * 3_600_000 + (k - (k % 3 == 2)) * 30_000, liked, liked)
            )
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp_ms", "click", "long_view"], orient="row")
    return frame[rng.permutation(frame.height)]


@pytest.fixture(scope="session")
def stores(tmp_path_factory) -> Path:
    """Folder with one store, ``taste``; groups of users and items stand in their tables."""
    folder = tmp_path_factory.mktemp("stores")
    users = pl.DataFrame({"user_id": np.arange(USERS) + 100, "taste": [f"t{u % 2}" for u in range(USERS)]})
    items = pl.DataFrame({"item_id": np.arange(ITEMS) + 500, "topic": [f"t{i % 2}" for i in range(ITEMS)]})
    rd.from_frame(taste_frame(), name="taste", users=users, items=items, stores=folder)
    return folder


@pytest.fixture(scope="session")
def store(stores) -> rd.Store:
    return rd.open_store(stores / "taste")


@pytest.fixture(scope="session")
def rows(store) -> Interactions:
    """Every row of the log, not yet cut."""
    return Interactions.from_log(store.log())


def cut(name: str, rows: Interactions) -> Interactions:
    """As RecBole cuts for this ranker."""
    return rows.leave_one_out() if name in SEQUENTIAL else rows.ratio(SEED)


@pytest.fixture(scope="session")
def fitted(rows) -> dict[str, Fitted]:
    """Each of RecBole's rankers, trained briefly."""
    return {name: fit_recbole(name, cut(name, rows), SMALL, seed=SEED) for name in RECBOLE_MODELS}
