"""A small log with a fitted simulator and a saved policy, made once: what the dashboard's commands work on in seconds."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

import recrl_datasets as rd
from recrl.cli import main
from tests.cli.conftest import small_frame


@dataclass(frozen=True)
class Toy:
    """Folders of runs (``described``, ``world``: a fitted simulator, ``cloned``: a policy) and of prepared logs (``small``)."""

    runs: Path
    stores: Path


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """What :func:`toy` copies."""
    base = tmp_path_factory.mktemp("toy")
    made = Toy(base / "runs", base / "stores")
    rd.from_frame(small_frame(users=60, items=160, days=10), name="small", stores=made.stores)
    places = [f"--stores={made.stores}", f"--runs={made.runs}"]
    asked = ["--data=small", "--vector-size=4", *places]
    short = ["--steps=20", "--log-every=20", "--checkpoint-every=20"]
    assert main(["data", "describe", "small", *places, "--run=described"]) == 0
    assert main(["simulate", "fit", *asked, "--run=world"]) == 0
    assert main(["train", "bc", "--action=fusion_weights", *asked, *short, "--run=cloned"]) == 0
    return made


@pytest.fixture
def toy(fitted: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """A copy to write in, where this process and its children look."""
    made = copied(fitted, tmp_path)
    monkeypatch.setenv("RECRL_RUNS", str(made.runs))
    monkeypatch.setenv("RECRL_STORES", str(made.stores))
    return made


def copied(toy: Toy, folder: Path) -> Toy:
    """The same below ``folder``."""
    return Toy(*(shutil.copytree(part, folder / part.name) for part in (toy.runs, toy.stores)))
