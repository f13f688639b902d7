"""A ranker that was stopped while it trained goes on with the bits of one that never was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch

from recrl.cli import main
from recrl.core.errors import CheckpointError
from recrl.core.runs import RunFolder
from recrl.rankers import RECBOLE_MODELS
from recrl.rankers.interactions import VALID
from recrl.rankers.journal import Journal
from recrl.rankers.lightgbm_ranker import LightGBMConfig, fit_lightgbm
from recrl.rankers.recbole_ranker import Fitted, RecBoleConfig, fit_recbole
from recrl_datasets import UserItemFeatures, split_by_time
from tests.rankers.conftest import SEED, cut
from tests.support.children import until

SETTINGS = {"sasrec": ("n_layers=1", "inner_size=16"), "gru4rec": ("hidden_size=8",)}


class Stopped(Exception):
    """The process ends here."""


class Updates:
    """Counts the updates of Adam and ends the process before one of them."""

    def __init__(self, monkeypatch) -> None:
        self.done, self.stop_at, step = 0, 0, torch.optim.Adam.step

        def counted(optimiser, *arguments, **options):
            self.done += 1
            if self.done == self.stop_at:
                raise Stopped
            return step(optimiser, *arguments, **options)

        monkeypatch.setattr(torch.optim.Adam, "step", counted)

    def begin(self, stop_at: int = 0) -> None:
        self.done, self.stop_at = 0, stop_at


@pytest.fixture
def updates(monkeypatch) -> Updates:
    return Updates(monkeypatch)


def brief(name: str) -> RecBoleConfig:
    return RecBoleConfig(
        epochs=9, stopping_step=2, embedding_size=8, length=6, batch_size=256, learning_rate=0.05, settings=SETTINGS.get(name, ())
    )


def run_in(folder: Path) -> RunFolder:
    return RunFolder.create(folder, kind="train", config={}, seed=SEED)


def trained(name: str, rows, folder: Path, told: list[float] | None = None) -> Fitted:
    journal = Journal(run_in(folder), "train", {"algorithm": name})
    tell = None if told is None else lambda done, text: told.append(done)
    return fit_recbole(name, rows, brief(name), seed=SEED, journal=journal, progress=tell)


def streamed(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "metrics" / "train" / "*.parquet")


@pytest.mark.parametrize("name", list(RECBOLE_MODELS))
def test_stopped_at_an_update_it_goes_on_exactly(name, rows, tmp_path, updates):
    learned = cut(name, rows)
    whole, in_all = trained(name, learned, tmp_path / "whole"), updates.done
    assert max(row["step"] for row in whole.metrics) < brief(name).epochs, "it stops early: those counters matter"
    # in the first epoch, in the middle, and once more after going on from there
    for stop_at in (1, in_all // 2, in_all // 3):
        updates.begin(stop_at)
        with pytest.raises(Stopped):
            trained(name, learned, tmp_path / "stopped")
    updates.begin()
    told: list[float] = []
    again = trained(name, learned, tmp_path / "stopped", told)
    assert told[0] > 2 / brief(name).epochs, "it goes on, not from the start"
    assert again.metrics == whole.metrics
    assert again.valid == whole.valid
    ours, theirs = again.scores.state_dict(), whole.scores.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert streamed(tmp_path / "stopped").equals(streamed(tmp_path / "whole"))
    assert whole.metrics == streamed(tmp_path / "whole").to_dicts()


def test_without_validation_rows_too(rows, tmp_path, updates):
    learned = cut("bpr", rows).without(VALID)
    whole = trained("bpr", learned, tmp_path / "whole")
    updates.begin(updates.done // 2)
    with pytest.raises(Stopped):
        trained("bpr", learned, tmp_path / "stopped")
    updates.begin()
    again = trained("bpr", learned, tmp_path / "stopped")
    assert torch.equal(again.scores.item_vectors, whole.scores.item_vectors)
    assert [row["name"] for row in again.metrics] == ["train_loss"] * brief("bpr").epochs
    assert again.metrics == whole.metrics


@pytest.mark.parametrize("validated", [True, False])
def test_trees_grow_on(validated, store, tmp_path):
    parts = split_by_time(store.log())
    features = UserItemFeatures.fit(parts.train, store)
    held = parts.valid if validated else store.log().select([])
    config = LightGBMConfig(trees=70, stopping_rounds=60, leaves=5, min_rows=5, learning_rate=0.1)

    def grown(folder: Path, stop: float = 2.0):
        def tell(done, text):
            told.append(done)
            if done > stop:
                raise Stopped

        journal = Journal(run_in(folder), "train", {})
        return fit_lightgbm(parts.train, held, features, positives="long_view", config=config, seed=1, journal=journal, progress=tell)

    told: list[float] = []
    whole, metrics = grown(tmp_path / "whole")
    for stop in (0.1, 0.4, 0.7):
        with pytest.raises(Stopped):
            grown(tmp_path / "stopped", stop)
    told.clear()
    again, again_metrics = grown(tmp_path / "stopped")
    assert told[0] == pytest.approx(41 / 70)
    assert again.texts() == whole.texts()
    assert again_metrics == metrics
    if validated:
        assert streamed(tmp_path / "stopped").to_dicts() == metrics


def test_a_checkpoint_of_another_training_is_refused(rows, tmp_path):
    run = run_in(tmp_path)
    Journal(run, "train", {"size": 8}).keep(3, {"model": {}}, [])
    with pytest.raises(CheckpointError, match="of a training with other options"):
        Journal(run, "train", {"size": 16}).newest()
    with pytest.raises(CheckpointError, match="does not fit this ranker"):
        fit_recbole("bpr", cut("bpr", rows), brief("bpr"), seed=SEED, journal=Journal(run, "train", {"size": 8}))


def test_a_killed_command_goes_on_exactly(stores, tmp_path, capfd, monkeypatch):
    """``recrl train`` killed with signal 9 while it trains, and started again."""
    monkeypatch.chdir(tmp_path)
    words = ["train", "bpr", "--data", "taste", "--stores", str(stores), "--ranker.recbole.epochs", "60"]
    words += ["--ranker.recbole.stopping-step", "60", "--ranker.recbole.embedding-size", "8", "--json", "--run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "recrl.cli", *words, "killed"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    kept = tmp_path / "runs" / "killed" / "checkpoints" / "train-bpr"
    until(lambda: list(kept.glob("step-*")), process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not list(tmp_path.rglob("policy.json"))
    found = {}
    for name in ("killed", "whole"):
        assert main([*words, name]) == 0
        done = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
        metrics = pl.read_parquet(Path(done["run"]) / "metrics" / "train-bpr" / "*.parquet")
        found[name] = (done["ranking"], (Path(done["policy"]) / "weights.safetensors").read_bytes(), metrics.to_dicts())
    assert found["killed"] == found["whole"]
