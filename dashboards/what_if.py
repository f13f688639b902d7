"""What if users, world or platform were otherwise? The command that simulates it, and what came of it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from dashboards import children, launching, queries
from dashboards.children import Child
from recrl.core.errors import ConfigError, RecrlError

PREFIX = "what-if-"
DRIFTS = {
    "none": (0.0, "nothing drifts"),
    "held": (0.2, "responses times a factor, another one each week"),
    "weekly": (0.3, "responses follow the week, and wander"),
    "regimes": (0.3, "return is easier and harder in turns of two weeks"),
    "taste": (0.2, "tastes turn, items fade"),
    "mix": (0.5, "other groups of users arrive each week"),
}
"""Kinds of drift with their usual amplitude, and what they do."""

_NAME = re.compile(rf"{PREFIX}[0-9]{{1,6}}")
_SHARE = re.compile(r"simulate log: +(\d+)%")


@dataclass(frozen=True)
class WhatIf:
    """A small simulation: the simulator's run, the policy shown to users, sizes and assumptions."""

    simulator: str
    policy: str
    eta_s: float
    leave_odds: float
    pool: int
    slate: int
    drift: str
    amplitude: float
    users: int
    days: int
    seed: int
    name: str


def command(root: Path, asked: WhatIf) -> list[str]:
    """The words behind ``recrl``, the name last.

    **Errors**: :class:`ConfigError` for names that are no plain ones, and a simulator whose data is unknown.
    """
    if not _NAME.fullmatch(asked.name):
        raise ConfigError(f"no name of a what-if: {asked.name!r:.80}", where="name", mend=f"{PREFIX}1, say")
    if asked.pool < asked.slate:
        what = f"a pool of {asked.pool} cannot fill a slate of {asked.slate}"
        raise ConfigError(what, where="Candidates a request", mend="raise it, or show fewer items")
    assumed = [
        f"--eta-s={asked.eta_s:g}",
        f"--leave-odds={asked.leave_odds:g}",
        f"--pool={asked.pool}",
        f"--slate={asked.slate}",
        f"--drift.kind={asked.drift}",
    ]
    if asked.drift != "none":
        assumed.append(f"--drift.amplitude={asked.amplitude:g}")
    sizes = [f"--users={asked.users}", f"--days={asked.days}", f"--seed={asked.seed}"]
    policy = "uniform" if asked.policy == "random" else launching.policy_path(root, asked.policy)
    places = [f"--simulator={root / asked.simulator}", f"--runs={root}", f"--stores={queries.stores_root()}", f"--name={asked.name}"]
    return ["simulate", "log", policy, *assumed, *sizes, *launching.data_options(root, asked.simulator), *places]


def made() -> list[str]:
    """Simulated logs of earlier what-ifs, the newest first."""
    held = (name for name in queries.stores() if _NAME.fullmatch(name))
    return sorted(held, key=lambda name: int(name.removeprefix(PREFIX)), reverse=True)


def free_name() -> str:
    """A name that no log has, and none that is being made."""
    return children.free_name(queries.stores_root(), PREFIX)


def share_done(child: Child) -> float:
    """How far a simulation is, 0 to 1, as it last said."""
    told = _SHARE.findall(child.said())
    return min(int(told[-1]) / 100, 1.0) if told else 0.0


def asked_of(child: Child) -> str:
    """What was assumed, in the command's own words."""
    kept = ("--eta-s=", "--leave-odds=", "--pool=", "--slate=", "--drift.kind=", "--drift.amplitude=", "--users=", "--days=")
    words = [word.removeprefix("--") for word in child.command if word.startswith(kept)]
    return f"{Path(child.command[2]).name}: {', '.join(word.replace('=', ' ') for word in words)}"


def fitted_eta(root: Path, run: str) -> float | None:
    """Satisfaction's effect on return as the run's simulator has it; None where it has no fitted simulator, or a broken one.

    What a log supports, so 0 where it shows no effect.
    """
    try:
        found = queries.simulator_law(queries.open_run(root, run)).get("eta_s_estimate")
        eta = float(found) if found is not None else 0.0
        return max(0.0, eta) if math.isfinite(eta) else 0.0
    except (RecrlError, TypeError, ValueError):
        return None
