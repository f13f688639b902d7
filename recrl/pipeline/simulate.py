"""Fit a user-retention simulator to a log and say how well it matches held-out users."""

from __future__ import annotations

from pathlib import Path

from simulators.fit import FittedWorld, calibration_table, fit_world

from recrl.core.contracts import Progress
from recrl.core.runs import RunFolder
from recrl.pipeline.setting import Setting
from recrl_datasets import sessions, split_by_user

FRACTIONS = (0.7, 0.0, 0.3)
"""Users the simulator is fitted on, and users it is held against."""


def simulate(setting: Setting, run: RunFolder, *, seed: int, progress: Progress | None = None) -> FittedWorld:
    """Fit on the train users, save under ``artifacts/simulator``, and write ``simulator_fit`` from the held-out users.

    Users are split by a hash of their id, apart from the split by time that policies are trained on: the simulator is the world, it
    may know the whole log of its users.
    """
    folder = simulator_folder(run)
    parts = split_by_user(setting.log, FRACTIONS, seed)
    if (folder / "fitted.json").is_file():
        fitted = FittedWorld.load(folder)
    else:
        fitted = fit_world(parts.train, sessions=sessions(parts.train, rule=setting.session_rule), seed=seed, progress=progress)
        fitted.save(folder)
    run.write_table(
        "simulator_fit", calibration_table(fitted, parts.test, sessions=sessions(parts.test, rule=setting.session_rule), seed=seed)
    )
    return fitted


def simulator_folder(run: RunFolder) -> Path:
    """Where a run keeps its fitted simulator."""
    return run.path / "artifacts" / "simulator"
