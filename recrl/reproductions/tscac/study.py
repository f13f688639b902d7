"""TSCAC, its baselines and controls: on simulated users, where the truth is known, and on KuaiRand rows, judged off-policy.

Part ``simulator``: a known policy logs on a simulated platform (:mod:`recrl.reproductions.tscac.simulator`), every method learns from that
log alone, and each policy is judged by the lives of fresh users with common luck. Part ``kuairand``, where its files are given: rows of the
150 videos most viewed in the training part, judged by estimates (:mod:`recrl.reproductions.tscac.rows`). In a cell, a method tries its four
options with the same updates and seed; validation rows choose one, which is judged once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recrl.reproductions.study import Asked, Cell, Done, Report, Rounds
from recrl.reproductions.tscac import simulator
from recrl.reproductions.tscac.kuairand import constants, events, kuairand_rows
from recrl.reproductions.tscac.report import report
from recrl.reproductions.tscac.rows import SIGNALS, Rows, Trained, chosen, picked
from recrl.reproductions.tscac.supervised import SUPERVISED, click_scores

TEMPERATURES = (0.1, 0.3, 1.0, 3.0)
UNTRAINED = "untrained"
LARGE = 1e6  # a multiplier that leaves stage one alone: the geometric mean of its policies
APART = {"imitation": 0.2, "ratio_clip": 100.0}
"""Of TSCAC, chosen by the truth on a simulated log of a seed apart (100): its own defaults lost more watch time."""

PRIMARY: dict[str, tuple[str, tuple[dict[str, Any], ...]]] = {
    "bc": ("bc", tuple({"learning_rate": x} for x in (3e-4, 1e-3, 3e-3, 1e-2))),
    "tscac": ("tscac", tuple({"multipliers": (x,), **APART} for x in (0.4, 0.8, 0.2, 1.6))),
    "rcpo multi-critic": ("rcpo", tuple({"critics": "separate", "multipliers": (x,)} for x in (4.0, 8.0, 2.0, 16.0))),
    "joint critic": ("joint_critic", tuple({"weights": (5.0,), "imitation": x} for x in (0.03, 0.3, 0.003, 1.0))),
}
SECONDARY: dict[str, tuple[str, tuple[dict[str, Any], ...]]] = {
    "rcpo": ("rcpo", tuple({"multipliers": (x,)} for x in (4.0, 8.0, 2.0, 16.0))),
    "pareto": ("pareto", tuple({"imitation": x} for x in (0.003, 0.03, 0.3, 1.0))),
    "stage one alone": ("tscac", ({"multipliers": (LARGE,), **APART},)),
    UNTRAINED: ("tscac", ({},)),
}
QUERIES = ("tscac_ddpg", "ddpg", "sac", "awac", "cql", "iql", "bcq")
"""Learners of vectors: the action is matched with item vectors."""

METHODS = {**PRIMARY, **SECONDARY}


@dataclass(frozen=True)
class Budget:
    """What a cell may spend.

    Attributes:
        updates: of each option, the half of them in stage one where there are two.
        options: options tried of each method.
        clone_updates: of the estimated logging policy and of the reward predictions.
        users: whose simulated log is learned from.
        days: that the log lasts, and the lives that judge.
        judging_users: fresh users that judge a policy in the simulator.
        data: ratings that the simulated users' tastes are fitted to; ``toy`` needs none.
    """

    updates: int = 600
    options: int = 4
    clone_updates: int = 400
    users: int = 1_000
    days: int = 14
    judging_users: int = 500
    data: str = "ml-100k"


QUICK = Budget(updates=120, options=2, clone_updates=120, users=400, judging_users=150)


@dataclass(frozen=True)
class TSCACStudy:
    """The study: parts, methods and seeds."""

    asked: Asked
    budget_of: Budget = Budget()
    parts: tuple[str, ...] = ("simulator",)
    paper: str = "tscac"

    def budget(self) -> dict[str, Any]:
        """What every cell may spend and is asked."""
        return asdict(self.budget_of)

    def cells(self) -> Sequence[Cell]:
        """The primary set, then what stands beside it, then controls."""
        seeds, more = range(self.asked.seeds), range(self.asked.secondary_seeds)
        out = [Cell(part, name, seed) for part in self.parts for seed in seeds for name in ("logged", *PRIMARY)]
        for seed in more:
            out += [Cell(part, name, seed, False) for part in self.parts for name in SECONDARY]
            out += [Cell(part, name, seed, False) for part in self.parts if part == "kuairand" for name in (*QUERIES, *_supervised())]
        return out

    def bench(self, part: str, seed: int, folder: Path) -> Rounds:
        """The log of a part and seed, and who judges a policy."""
        if part == "kuairand":
            assert self.asked.root is not None
            return _Kuairand(self.budget_of, kuairand_rows(self.asked.root, self.asked.stores, self.budget_of.clone_updates, folder))
        return _Simulated(self.budget_of, seed, self.asked.stores, folder)

    def report(self, done: Sequence[Done]) -> Report:
        """Tables and verdict."""
        return report(done, kuairand="kuairand" in self.parts)


def study(asked: Asked) -> TSCACStudy:
    """The study as it is asked for: KuaiRand rows where their folder is given."""
    parts = ("simulator", "kuairand") if asked.root is not None else ("simulator",)
    return TSCACStudy(asked, QUICK if asked.quick else Budget(), parts)


def _supervised() -> Sequence[str]:
    """RecBole's models, where it is installed."""
    return tuple(SUPERVISED) if find_spec("recbole") else ()


def _tried(rows: Rows, cell: Cell, budget: Budget) -> Iterator[Trained]:
    """The options of a cell's method, trained."""
    if cell.method in QUERIES:
        return rows.as_query(cell.method, TEMPERATURES[: budget.options], budget.updates, cell.seed)
    learner, options = METHODS[cell.method]
    return rows.trained(learner, options[: budget.options], 0 if cell.method == UNTRAINED else budget.updates, cell.seed)


def _choice(rows: Rows, cell: Cell, laws: Sequence[torch.Tensor]) -> tuple[int, int, list[dict[str, Any]]]:
    """Which option, by validation rows alone: cloning by its likelihood, the others by estimates. With the choice by estimates that ignore
    their intervals, and the estimates.
    """
    judged = [rows.judged(law, "validation") for law in laws]
    logged = rows.parts["validation"].action
    seen = [{s: one[s]["ncis"] for s in SIGNALS} for one in judged]
    if cell.method == "bc":
        best = int(np.argmax([float(picked(law, logged).mean()) for law in laws]))
        return best, best, seen
    return chosen(judged, rows.logged["validation"]), chosen(judged, rows.logged["validation"], "value"), seen


class _Kuairand:
    """Cells on KuaiRand rows."""

    def __init__(self, budget: Budget, rows: Rows) -> None:
        self._budget, self._rows = budget, rows

    def __call__(self, cell: Cell) -> dict[str, Any]:
        rows = self._rows
        if cell.method == "logged":
            return {"test": rows.logged["test"], "events": events(rows), "rows": rows.counts, "constants": constants(rows)}
        tried = list(self._tried(cell))
        best, _, seen = _choice(rows, cell, [laws["validation"] for _, _, laws in tried])
        options = [{"option": dict(option), "validation": value} for (option, _, _), value in zip(tried, seen, strict=True)]
        _, metrics, laws = tried[best]
        return {"chosen": best, "tried": options, "metrics": dict(metrics), "test": rows.judged(laws["test"], "test")}

    def _tried(self, cell: Cell) -> Iterator[tuple[Mapping[str, Any], Mapping[str, float], dict[str, torch.Tensor]]]:
        """Each option with its metrics and its laws over the rows of the parts."""
        rows, budget = self._rows, self._budget
        if cell.method in SUPERVISED:
            scores = click_scores(cell.method, rows, budget.updates, cell.seed)
            for x in TEMPERATURES[: budget.options]:
                yield {"temperature": x}, {}, {name: torch.log_softmax(score / x, 1) for name, score in scores.items()}
            return
        for one in _tried(rows, cell, budget):
            yield one.option, one.metrics, {name: rows.law(one.policy, name) for name in rows.parts}


class _Simulated:
    """Cells on a simulated log, judged by the truth."""

    def __init__(self, budget: Budget, seed: int, stores: Path, folder: Path) -> None:
        self._budget, self._seed = budget, seed
        self._world = simulator.world(budget.data, stores, folder, budget.days)
        log = simulator.simulated_log(self._world, budget.users, seed)
        self._rows = Rows(log, discount=simulator.DISCOUNT, session_rule="day", updates=budget.clone_updates)

    def __call__(self, cell: Cell) -> dict[str, Any]:
        if cell.method == "logged":
            return {"truth": self._truth(simulator.logging_policy(self._world)), "rows": self._rows.counts}
        tried = list(_tried(self._rows, cell, self._budget))
        best, by_value, seen = _choice(self._rows, cell, [self._rows.law(one.policy, "validation") for one in tried])
        options: list[dict[str, Any]] = [{"option": dict(one.option), "validation": value} for one, value in zip(tried, seen, strict=True)]
        # every lambda is judged, to show its direction; of other methods, the chosen options alone
        for k in range(len(tried)) if cell.method == "tscac" else {best, by_value}:
            options[k] |= {"truth": self._truth(tried[k].policy), "divergence": self._divergence(tried[k])}
        judged = {"truth": options[best]["truth"], "truth_by_value": options[by_value]["truth"]}
        return {"chosen": best, "chosen_by_value": by_value, "tried": options, "metrics": dict(tried[best].metrics), **judged}

    def _truth(self, policy: Any) -> dict[str, float]:
        return simulator.truth(self._world, policy, self._budget.judging_users, self._seed)

    def _divergence(self, one: Trained) -> Mapping[str, float]:
        """``KL(pi || pi_i)`` from each policy of stage one, in nats, over the states of test rows."""
        law = self._rows.law(one.policy, "test")
        kept = zip(SIGNALS[1:], (self._rows.law(aux, "test") for aux in one.auxiliaries), strict=False)
        return {name: float((law.exp() * (law - aux)).sum(1).mean()) for name, aux in kept}
