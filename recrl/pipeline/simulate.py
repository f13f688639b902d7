"""Fit a user-retention simulator to a log and say how well such a fit matches held-out users."""

from __future__ import annotations

from pathlib import Path

from recrl.core.contracts import Progress
from recrl.core.runs import RunFolder
from recrl.pipeline.setting import Setting
from recrl_datasets import Log, sessions, split_by_user
from simulators.calibration import calibration_table
from simulators.fit import FitConfig, FittedWorld, activity_groups, fit_world

FRACTIONS = (0.7, 0.0, 0.3)
"""Users the checked fit learns from, and users it is held against."""


def simulate(setting: Setting, run: RunFolder, *, seed: int, progress: Progress | None = None) -> FittedWorld:
    """Fit on every user and save under ``artifacts/simulator``; write ``simulator_fit`` from a like fit on a part of the users.

    The world may know the whole log of its users: it is what policies are tried on, not a policy. How well such a fit holds is
    measured on users it has not seen. A log of ratings gives tastes only; its rates, session depth and return law are stated
    ones (``FitConfig.ratings``).
    """
    tell = progress or (lambda done, text: None)
    folder = simulator_folder(run)
    config = FitConfig.ratings() if setting.log.has("rating") else FitConfig()
    if not run.artifact("simulator_fit.parquet").is_file():
        parts = split_by_user(setting.log, FRACTIONS, seed)
        checked = _fit(setting, parts.train, config, seed, lambda done, text: tell(0.4 * done, f"{text} (70 % of the users)"))
        run.write_table("simulator_fit", calibration_table(checked, sessions(parts.test, rule=setting.session_rule)))
    if (folder / "world.json").is_file():
        return FittedWorld.load(folder)
    fitted = _fit(setting, setting.log, config, seed, lambda done, text: tell(0.4 + 0.6 * done, text))
    fitted.save(folder)
    return fitted


def simulator_folder(run: RunFolder) -> Path:
    """Where a run keeps its fitted simulator."""
    return run.path / "artifacts" / "simulator"


def _fit(setting: Setting, log: Log, config: FitConfig, seed: int, progress: Progress) -> FittedWorld:
    cut = sessions(log, rule=setting.session_rule)
    return fit_world(log, sessions=cut, groups=activity_groups(setting.store), config=config, seed=seed, progress=progress)
