"""The cells of AURO's study and what each may spend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from recrl.algorithms.cem import CEMConfig
from recrl.reproductions.auro import published
from recrl.reproductions.auro.drifting import (
    DEPLOYED,
    DRIFTS,
    LEARNT_FROM,
    LOGGED_SEED,
    PERIOD,
    PROBED,
    SEARCHED_DAYS,
    Drifting,
    builder,
)
from recrl.reproductions.auro.learners import ABLATIONS, LEARNED, OBJECTIVE, Budget, options_of
from recrl.reproductions.auro.published import InPublished
from recrl.reproductions.auro.report import DRIFTED, report
from recrl.reproductions.study import Asked, Cell, Done, Report, Rounds

PRIMARY: Final = ("oracle", "random", "cem", "td3", "rlur", "auro")
SECONDARY: Final = {
    "regimes": ("supervised", "true worth", *ABLATIONS, "oac", "escp", "rnd", "ddpg", "sac"),
    "held": ("supervised", "true worth", *ABLATIONS),
    "weekly": ("supervised", "true worth", "auro no phi"),
    "none": ("oracle", "cem", "td3", "auro"),
    "published": ("least", "cem", "td3", "rlur", "auro", "shipped"),
}
"""Ablations where the drift has switches, the rest of the baselines under N4."""


RULES: Final[dict[str, Any]] = {
    "drifts": DRIFTS,
    "period_days": PERIOD,
    "deployed_seed": DEPLOYED,
    "probe_seed": PROBED,
    "probed": "requests of the day, whole periods left out",
    "guard_measured": "mean value of executed actions, recomputed",
    "logged_seed": LOGGED_SEED,
    "learnt_from": LEARNT_FROM,
    "searched_days": SEARCHED_DAYS,
    "cem": asdict(CEMConfig()),
    "objective": asdict(OBJECTIVE),
    "published": {"users": published.USERS, "warmup_steps": published.WARMUP_STEPS, "luck": published.LUCK},
}
"""What is fixed for all cells; a change here, or of a learner's options, never mixes with cells from before it."""


def options() -> dict[str, Any]:
    """All options of every learner, by its name."""
    found = {name: options_of(name, 1) for name in LEARNED}
    return {name: [asdict(part) for part in one] if isinstance(one, tuple) else asdict(one) for name, one in found.items()}


@dataclass(frozen=True)
class AUROStudy:
    """AURO beside its baselines under drift, its ablations, and its own environment.

    Attributes:
        asked: seeds, stores, or the quick form.
        spend: budget of every cell.
        data: log that the simulator is fitted to; empty for the toy world.
        drifts: parts of the primary set.
        methods: of the primary set.
    """

    asked: Asked = Asked()
    spend: Budget = Budget()
    data: str = "ml-100k"
    drifts: tuple[str, ...] = DRIFTED
    methods: tuple[str, ...] = PRIMARY

    @property
    def paper(self) -> str:
        """``auro``."""
        return "auro"

    def budget(self) -> dict[str, Any]:
        """What every cell may spend, the log behind the simulator, and every constant and option that decides what a cell holds."""
        return {"data": self.data or "toy", **asdict(self.spend), "rules": RULES, "learners": options()}

    def cells(self) -> Sequence[Cell]:
        """The primary set under each drift, then ablations, further baselines, no drift, and the paper's environment."""
        primary = [Cell(part, method, seed) for seed in range(self.asked.seeds) for part in self.drifts for method in self.methods]
        later = range(0 if self.asked.quick else self.asked.secondary_seeds)
        return primary + [Cell(part, method, seed, False) for seed in later for part, some in SECONDARY.items() for method in some]

    def bench(self, part: str, seed: int, folder: Path) -> Rounds:
        """The simulator, fitted once, and the worlds of a drift; or the paper's environment."""
        torch.set_num_threads(1)
        if part == "published":
            return InPublished(self.spend)
        return Drifting(builder(self.data, self.asked.stores, folder, self.spend), self.spend, folder)

    def report(self, done: Sequence[Done]) -> Report:
        """Tables and verdict."""
        return report(done)


def study(asked: Asked) -> AUROStudy:
    """The study as asked; the quick form has half the users, five weeks instead of eight and a shorter look at ``phi``."""
    return AUROStudy(asked, replace(Budget(), users=64, days=35, deployed_users=64, probe_days=42) if asked.quick else Budget())
