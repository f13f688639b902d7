"""A small store that every verb can work on in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import recrl_datasets as rd


def small_frame(users: int = 150, items: int = 40, days: int = 12, seed: int = 0) -> pl.DataFrame:
    """Users of two tastes who come on some days and see a few items a day; matching items are watched longer."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        for day in np.flatnonzero(rng.random(days) < 0.5):
            start = 1_650_000_000_000 + int(day) * 86_400_000 + int(rng.integers(0, 40_000_000))
            for k in range(int(rng.integers(2, 6))):
                item = int(items * rng.random() ** 2)
                matches = item % 2 == user % 2
                click = rng.random() < (0.7 if matches else 0.3)
                long_view = click and rng.random() < (0.8 if matches else 0.3)
                rows.append((user, item, start + 60_000 * k, int(click), int(long_view), int(long_view and rng.random() < 0.1)))
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp_ms", "click", "long_view", "like"], orient="row")


@pytest.fixture(scope="session")
def stores(tmp_path_factory) -> Path:
    """Folder with one prepared store, ``small``."""
    folder = tmp_path_factory.mktemp("stores")
    rd.from_frame(small_frame(), name="small", stores=folder)
    return folder


@pytest.fixture
def asked(stores, tmp_path, monkeypatch):
    """Options that every run on the small store shares; the working directory is a fresh one."""
    monkeypatch.chdir(tmp_path)
    return ["--data", "small", "--stores", str(stores), "--vector-size", "8"]
