"""Fit a user-retention simulator to a log and say how well such a fit matches held-out users."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path

from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError
from recrl.core.objective import Objective
from recrl.core.runs import RunFolder
from recrl.pipeline.setting import Setting
from recrl_datasets import Log, Store, sessions, split_by_user
from simulators.calibration import calibration_table, reliability_table
from simulators.config import WorldConfig
from simulators.ensemble import fit_ensemble
from simulators.fit import FitConfig, FittedWorld, ModelKind, activity_groups, fit_world
from simulators.trees import SideFeatures
from simulators.world import RetentionWorld

FRACTIONS = (0.7, 0.0, 0.3)
"""Users the checked fit learns from, and users it is held against."""


def simulate(
    setting: Setting,
    run: RunFolder,
    *,
    seed: int,
    model: ModelKind = "latent",
    members: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> FittedWorld:
    """Fit on every user and save under ``artifacts/simulator``; write ``simulator_fit`` and ``simulator_reliability`` from a like fit on
    a part of the users. With ``members``, an ensemble fitted to user bootstraps goes under ``artifacts/ensemble``.

    The world may know the whole log of its users: it is what policies are tried on, not a policy. How well such a fit holds is
    measured on users it has not seen. A log of ratings gives tastes only; its rates, session depth and return law are stated
    ones (``FitConfig.ratings``).
    """
    tell = progress or (lambda done, text: None)
    folder = simulator_folder(run)
    config = replace(FitConfig.ratings() if setting.log.has("rating") else FitConfig(), model=model)
    # an ensemble takes its share of the bar by its share of the fits
    single = 1.0 / (1.0 + members / 2)
    if not run.artifact("simulator_fit.parquet").is_file():
        parts = split_by_user(setting.log, FRACTIONS, seed)
        checked = _fit(setting, parts.train, config, seed, device, partial(_of_a_part, tell, 0.4 * single))
        run.write_table("simulator_reliability", reliability_table(checked, parts.test))
        run.write_table("simulator_fit", calibration_table(checked, sessions(parts.test, rule=setting.session_rule)))
    if (folder / "world.json").is_file():
        fitted = FittedWorld.load(folder)
    else:
        fitted = _fit(setting, setting.log, config, seed, device, lambda done, text: tell(single * (0.4 + 0.6 * done), text))
        fitted.save(folder)
    if members:
        fit_ensemble(
            setting.log,
            ensemble_folder(run),
            members=members,
            sessions=sessions(setting.log, rule=setting.session_rule),
            groups=activity_groups(setting.store),
            sides=_sides(setting, setting.log, config),
            config=config,
            seed=seed,
            device=device,
            progress=lambda done, text: tell(single + (1.0 - single) * done, text),
        )
    return fitted


def _of_a_part(tell: Progress, share: float, done: float, text: str) -> None:
    tell(share * done, f"{text} (70 % of the users)")


def ensemble_folder(run: RunFolder) -> Path:
    """Where a run keeps simulators fitted to user bootstraps."""
    return run.path / "artifacts" / "ensemble"


def simulator_folder(run: RunFolder) -> Path:
    """Where a run keeps its fitted simulator."""
    return run.path / "artifacts" / "simulator"


def load_simulator(wanted: Path | None, runs: Path, store: Store) -> tuple[Path, FittedWorld]:
    """The simulator in the run ``wanted`` (default ``simulator-<data>``), and its folder.

    **Errors**: :class:`ConfigError` where there is none, or one of other data.
    """
    name = wanted or Path(f"simulator-{store.name}")
    folder = next((f for base in (runs / name, name) if (f := simulator_folder(RunFolder(base))).is_dir()), None)
    mend = f"recrl simulate fit --data {store.name}"
    if folder is None:
        raise ConfigError(f"no fitted simulator in {name}", where="--simulator", mend=mend)
    fitted = FittedWorld.load(folder)
    if fitted.data_hash != store.log().content_hash:
        raise ConfigError(f"the simulator in {name} was fitted to other data", where="--simulator", mend=mend)
    return folder, fitted


def simulator_hash(folder: Path) -> str:
    """A hash of a saved simulator: equal for equal ones, wherever they lie."""
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.iterdir() if not p.name.startswith(".")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def platform_world(
    setting: Setting,
    fitted: FittedWorld,
    config: WorldConfig,
    device: str = "cpu",
    objective: Objective = Objective(),  # noqa: B008 - frozen
) -> RetentionWorld:
    """A world whose platform ranks by what it learned from the training rows, not by the users' true tastes."""
    if config.action_kind in ("item", "slate"):
        return fitted.world(config, objective=objective, device=device)
    return fitted.world(config, objective=objective, scorer=setting.responses, item_vectors=setting.item_vectors, device=device)


def _fit(setting: Setting, log: Log, config: FitConfig, seed: int, device: str, progress: Progress) -> FittedWorld:
    return fit_world(
        log,
        sessions=sessions(log, rule=setting.session_rule),
        groups=activity_groups(setting.store),
        sides=_sides(setting, log, config),
        config=config,
        seed=seed,
        device=device,
        progress=progress,
    )


def _sides(setting: Setting, log: Log, config: FitConfig) -> SideFeatures | None:
    # of a log of ratings, tastes alone are fitted, and the rest is stated
    tastes_alone = config.model == "latent" and config.response.rates == "published"
    return None if tastes_alone else SideFeatures.of(setting.store, log)
