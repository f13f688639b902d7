"""The PrefRec study: its cells, what they may spend, and its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from recrl.reproductions.prefrec.findings import findings
from recrl.reproductions.prefrec.grounds import environment, retention
from recrl.reproductions.prefrec.kuairand import RowsBench, kuairand
from recrl.reproductions.prefrec.recipes import RECIPES, Budget
from recrl.reproductions.prefrec.worlds import WorldBench
from recrl.reproductions.study import Asked, Cell, Done, Report, Rounds

PARTS = ("environment", "retention", "kuairand")
ROWS = "kuairand"


@dataclass(frozen=True)
class PrefRecStudy:
    """Cells of every method in both worlds and, where the files are, on KuaiRand rows; a quick run is the primary ones of one seed, with
    the budget of the others.

    Attributes:
        asked: how many seeds, and where the files are.
        spend: what a cell may spend.
        data: log that the retention simulator is fitted to, or ``toy``.
        parts: the worlds, and the rows.
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
        """The reference environment first; what is judged by estimates alone decides nothing and is not of the primary set."""
        return [
            Cell(part, name, seed, recipe.primary and part != ROWS)
            for part in self.parts
            if part != ROWS or self.asked.root is not None
            for name, recipe in RECIPES.items()
            if name in self.methods and part in recipe.parts
            for seed in range(self.asked.seeds if recipe.primary and part != ROWS else self.asked.secondary_seeds)
        ]

    def bench(self, part: str, seed: int, folder: Path) -> Rounds:
        """One seed of a world, or of the rows."""
        torch.set_num_threads(1)
        users, fresh, kept = self.spend.users, self.spend.fresh_users, folder / f"{part}-{seed}"
        if part == ROWS:
            assert self.asked.root is not None
            return RowsBench(kuairand(self.asked.root, self.asked.stores), seed, self.spend, kept)
        if part == "environment":
            ground = environment(seed, users, fresh)
        else:
            ground = retention(seed, users, fresh, self.data, self.asked.stores, folder)
        return WorldBench(ground, seed, self.spend, kept)

    def report(self, done: Sequence[Done]) -> Report:
        """Tables of policies, rewards, estimates, checks and published numbers, and the verdict."""
        report = findings(done)
        without = ("KuaiRand rows are left out: --root names the folder of their files.",) if self.asked.root is None else ()
        return replace(report, verdict=(*report.verdict, *without))


def study(asked: Asked) -> PrefRecStudy:
    """The study as asked."""
    return PrefRecStudy(asked)
