"""What an A/B test of a page is made from: simulators and policies of the runs root, and the command line that compares them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashboards import queries
from recrl.core.errors import ConfigError, RecrlError
from recrl.core.runs import RunFolder

BASELINES = ("popularity", "random")
SCENARIOS = ("fitted", "weak", "strong")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,99}")


@dataclass(frozen=True)
class Trial:
    """A small A/B test: paths of the simulator's run and of policies (or names of baselines), sizes, scenarios."""

    simulator: str
    baseline: str
    arms: tuple[str, ...]
    users: int
    days: int
    scenarios: tuple[str, ...]
    seed: int
    name: str


def simulators(root: Path) -> list[str]:
    """Runs that hold a fitted simulator, the newest first."""
    return [run.name for run in queries.list_runs(root) if queries.has_simulator(RunFolder(root / run.name))]


def policies(root: Path) -> list[str]:
    """Baselines, and saved policies as ``run/policy``, those of the newest run first."""
    runs = [run.name for run in queries.list_runs(root) if queries.PLAIN_NAME.fullmatch(run.name)]
    return [*BASELINES, *(f"{run}/{name}" for run in runs for name in queries.policies(RunFolder(root / run)))]


def command(root: Path, trial: Trial) -> list[str]:
    """The words behind ``recrl``.

    **Errors**: :class:`ConfigError` for a name that is no plain one, arms that are missing or the baseline itself, no scenario, or
    a simulator whose data is unknown; of links that lead out of a run :class:`StorageError`.
    """
    if not queries.PLAIN_NAME.fullmatch(trial.name):
        raise ConfigError("a run's name is made of letters, digits, dots, dashes", where="Name of the run", mend="say, my-first-test")
    if not trial.arms or trial.baseline in trial.arms:
        raise ConfigError("no arm to compare with the baseline", where="Arms", mend="choose one or more that are not the baseline")
    if not trial.scenarios:
        raise ConfigError("no scenario", where="Scenarios", mend="choose at least one")
    words = ["ab", *(policy_path(root, name) for name in (trial.baseline, *trial.arms))]
    sizes = [f"--users={trial.users}", f"--days={trial.days}", f"--seed={trial.seed}", f"--simulator={root / trial.simulator}"]
    places = [f"--stores={queries.stores_root()}", f"--runs={root}", f"--run={trial.name}"]
    return [*words, *sizes, *data_options(root, trial.simulator), *places, "--scenarios", *trial.scenarios]


def policy_path(root: Path, name: str) -> str:
    """A baseline's name, or the folder of the saved policy ``run/policy``.

    **Errors**: :class:`ConfigError` for a name that is none; :class:`StorageError` where a link in it leads out of its run.
    """
    if name in BASELINES:
        return name
    run, _, policy = name.partition("/")
    if not (queries.PLAIN_NAME.fullmatch(run) and queries.PLAIN_NAME.fullmatch(policy)):
        raise ConfigError(f"no policy {name!r:.80}", where="Arms", mend="choose one from the list")
    found = queries.open_run(root, run)
    folder = found.path / "artifacts" / "policies" / policy
    queries.confine_folder(found, folder)
    return str(folder)


def data_options(root: Path, simulator: str) -> list[str]:
    """Options that name the log which the simulator was fitted to.

    **Errors**: :class:`ConfigError` where its run does not name it, or holds links that lead out of it.
    """
    try:
        run = queries.open_run(root, simulator)
        queries.confine_folder(run, run.path / "artifacts" / "simulator")
        asked: dict[str, Any] = queries.config(run)
    except RecrlError as error:
        raise ConfigError(error.what, where="Simulator", mend=error.mend) from None
    options = []
    for option, key in (("data", "data"), ("session-rule", "session_rule"), ("signal", "signal"), ("vector-size", "vector_size")):
        value = str(asked.get(key, ""))
        if value and _WORD.fullmatch(value):
            options.append(f"--{option}={value}")
    if not any(option.startswith("--data=") for option in options):
        raise ConfigError("the simulator's run does not name its log", where="Simulator", mend="`recrl simulate fit` makes one that does")
    return options
