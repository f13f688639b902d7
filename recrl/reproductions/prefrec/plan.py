"""The PrefRec study: its cells, what they may spend, and its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from recrl.reproductions.prefrec.bench import Bench
from recrl.reproductions.prefrec.findings import findings
from recrl.reproductions.prefrec.grounds import environment, simulator
from recrl.reproductions.prefrec.recipes import RECIPES, Budget
from recrl.reproductions.study import Asked, Cell, Done, Report, Rounds

PARTS = ("environment", "simulator")


@dataclass(frozen=True)
class PrefRecStudy:
    """Cells of every method in both worlds; a quick run is the primary ones of one seed, with the budget of the others.

    Attributes:
        asked: how many seeds.
        spend: what a cell may spend.
        data: log that the retention simulator is fitted to, or ``toy``.
        parts: the worlds.
        methods: which of :data:`recrl.reproductions.prefrec.recipes.RECIPES`.
        paper: the study's name.
    """

    asked: Asked = Asked()
    spend: Budget = Budget()
    data: str = "ml-100k"
    parts: tuple[str, ...] = PARTS
    methods: tuple[str, ...] = tuple(RECIPES)
    paper: str = "prefrec"

    def budget(self) -> dict[str, Any]:
        """What every cell may spend, and the log behind the simulator."""
        return {"data": self.data, **asdict(self.spend)}

    def cells(self) -> Sequence[Cell]:
        """The reference environment first."""
        return [
            Cell(part, name, seed, recipe.primary)
            for part in self.parts
            for name, recipe in RECIPES.items()
            if name in self.methods and part in recipe.parts
            for seed in range(self.asked.seeds if recipe.primary else self.asked.secondary_seeds)
        ]

    def bench(self, part: str, seed: int, folder: Path) -> Rounds:
        """One seed of a world."""
        torch.set_num_threads(1)
        users, fresh = self.spend.users, self.spend.fresh_users
        if part == "environment":
            ground = environment(seed, users, fresh)
        else:
            ground = simulator(seed, users, fresh, self.data, self.asked.stores, folder)
        return Bench(ground, seed, self.spend, folder / f"{part}-{seed}")

    def report(self, done: Sequence[Done]) -> Report:
        """Tables of policies, rewards, checks and published numbers, and the verdict."""
        return findings(done)


def study(asked: Asked) -> PrefRecStudy:
    """The study as asked."""
    return PrefRecStudy(asked)
