"""TSCAC, its baselines and controls: on simulated users, where the truth is known, and on KuaiRand rows, judged off-policy.

Part ``simulator``: a known policy logs on a simulated platform (:mod:`recrl.reproductions.tscac.simulator`), every method learns from that
log alone, and each policy is judged by the lives of fresh users with common luck. Part ``kuairand``, where its files are given: rows of the
150 videos most viewed in the training part, judged by estimates (:mod:`recrl.reproductions.tscac.rows`). In a cell, a method tries its
options with the same updates and seed, as many as any other method; validation rows choose one, which is judged once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from recrl.core.files import atomic_path
from recrl.reproductions.study import Asked, Cell, Done, Report, Rounds
from recrl.reproductions.tscac import simulator
from recrl.reproductions.tscac.estimates import CAP, Told, picked
from recrl.reproductions.tscac.kuairand import best_constant, constants, events, kuairand_rows
from recrl.reproductions.tscac.report import report
from recrl.reproductions.tscac.rows import LEAST_SHARE, SIGNALS, Rows, Trained, chosen, qualified
from recrl.reproductions.tscac.supervised import SUPERVISED, WEIGHTS, item_scores

UNTRAINED = "untrained"
LARGE = 1e6  # a multiplier that leaves stage one alone: the geometric mean of its policies
KNOB = (1.0, 1 / 4, 4.0, 1 / 16)
"""Four values of each learner's own knob in steps of four, of a middle of its own."""
IMITATION = (0.2, 0.02, 2.0)
"""The middle goes with each value of the knob, the ends with its middle."""
TEMPERATURES = (0.3, 1.0, 0.1, 3.0, 0.03, 10.0)
"""Six in steps of about three, for policies that draw by a softmax of scores that are learned once."""


def _grid(name: str, middle: float, several: bool = True, **fixed: Any) -> tuple[dict[str, Any], ...]:
    """Six options: four of a knob and two more of ``imitation``, the same reach around the middle for every learner."""
    tried = [(x, IMITATION[0]) for x in KNOB] + [(1.0, x) for x in IMITATION[1:]]
    return tuple({name: (middle * x,) if several else middle * x, "imitation": imitation, **fixed} for x, imitation in tried)


PRIMARY: dict[str, tuple[str, tuple[dict[str, Any], ...]]] = {
    "bc": ("bc", tuple({"learning_rate": x} for x in (1e-3, 3e-3, 3e-4, 1e-2, 1e-4, 3e-2))),
    "tscac": ("tscac", _grid("multipliers", 0.4)),
    "rcpo multi-critic": ("rcpo", _grid("multipliers", 4.0, critics="separate")),
    "joint critic": ("joint_critic", _grid("weights", 4.0)),
}
SECONDARY: dict[str, tuple[str, tuple[dict[str, Any], ...]]] = {
    "rcpo learned": ("rcpo", _grid("multiplier_learning_rate", 0.2, several=False, multipliers=(4.0,))),
    "pareto": ("pareto", tuple({"imitation": x} for x in (0.2, 0.02, 2.0, 0.06, 0.6, 0.006))),
    "stage one alone": ("tscac", tuple({"multipliers": (LARGE,), "imitation": x} for x in IMITATION)),
    UNTRAINED: ("tscac", ({},)),
}
QUERIES = ("tscac_ddpg", "ddpg", "sac", "awac", "cql", "iql", "bcq")
"""Learners of vectors, with their defaults: the action is matched with item vectors."""

METHODS = {**PRIMARY, **SECONDARY}
ASIDE = ("logged", "bc", "tscac")
"""What policies are set beside on KuaiRand rows, users paired; and the constant policy."""


@dataclass(frozen=True)
class Budget:
    """What a cell may spend.

    Attributes:
        updates: of each option, the half of them in stage one where there are two.
        options: options tried of each method (of controls, what they have).
        clone_updates: of the estimated logging policy and of the reward predictions.
        users: whose simulated log is learned from.
        days: that the log lasts, and the lives that judge.
        judging_users: fresh users that judge a policy in the simulator.
        data: ratings that the simulated users' tastes are fitted to; ``toy`` needs none.
    """

    updates: int = 600
    options: int = 6
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
        """What every cell may spend and is asked: with the options of each method, and the rule that chooses."""
        grids = {name: [learner, [dict(option) for option in options]] for name, (learner, options) in METHODS.items()}
        scored = {name: list(TEMPERATURES) for name in (*QUERIES, *SUPERVISED)}
        rule = {"estimator": "ncis", "cap": CAP, "bound": "upper", "least_effective_share": LEAST_SHARE, "bc": "likelihood"}
        return {**asdict(self.budget_of), "grids": grids, "temperatures": scored, "weights": dict(WEIGHTS), "choice": rule}

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
            rows = kuairand_rows(self.asked.root, self.asked.stores, self.budget_of.clone_updates, folder)
            return _Kuairand(self.budget_of, rows, folder)
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


@dataclass(frozen=True)
class _Choice:
    """Which option, by validation rows alone: cloning by its likelihood, the others by estimates; the same by estimates that ignore their
    intervals; how many options had enough effective rows; and the estimates of each.
    """

    best: int
    by_value: int
    qualified: int
    seen: list[dict[str, Any]]


def _choice(rows: Rows, cell: Cell, laws: Sequence[torch.Tensor]) -> _Choice:
    judged, logged = [rows.judged(law, "validation") for law in laws], rows.logged["validation"]
    seen, able = [{s: one[s]["ncis"] for s in SIGNALS} for one in judged], qualified(judged, logged)
    if cell.method == "bc" and able:
        fit = {k: float(picked(laws[k], rows.parts["validation"].action).mean()) for k in able}
        best = max(able, key=lambda k: fit[k])
        return _Choice(best, best, len(able), seen)
    return _Choice(chosen(judged, logged), chosen(judged, logged, "value"), len(able), seen)


class _Kuairand:
    """Cells on KuaiRand rows; what estimates need of each chosen policy is kept, so that later ones are set beside it."""

    def __init__(self, budget: Budget, rows: Rows, folder: Path) -> None:
        self._budget, self._rows = budget, rows
        self._folder = folder / f"policies-{rows.log.content_hash[:16]}"

    def __call__(self, cell: Cell) -> dict[str, Any]:
        rows, held = self._rows, self._rows.estimates["test"]
        if cell.method == "logged":
            return {"test": rows.logged["test"], "events": events(rows), "rows": rows.counts, "constants": constants(rows)}
        tried = list(self._tried(cell))
        found = _choice(rows, cell, [laws["validation"] for _, _, laws in tried])
        options = [{"option": dict(option), "validation": value} for (option, _, _), value in zip(tried, found.seen, strict=True)]
        _, metrics, laws = tried[found.best]
        mine = held.told(laws["test"])
        with atomic_path(self._file(cell)) as temporary:
            save_file({"logged": mine.logged.contiguous(), "value": mine.value.contiguous()}, temporary)
        # a method is set beside those that come before it
        before = ASIDE[: ASIDE.index(cell.method)] if cell.method in ASIDE else ASIDE
        above = {name: held.gains(mine, self._held(name, cell.seed)) for name in before}
        above["constant"] = held.gains(mine, held.always(best_constant(rows)))
        judged = {"test": held.judged(mine), "above": above}
        return {"chosen": found.best, "qualified": found.qualified, "tried": options, "metrics": dict(metrics), **judged}

    def _file(self, cell: Cell) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"{Path(cell.file).stem}.safetensors"

    def _held(self, method: str, seed: int) -> Told:
        """What estimates need of a method's chosen policy: made again where it is not there."""
        if method == "logged":
            return self._rows.estimates["test"].logged
        cell = Cell("kuairand", method, seed)
        if not self._file(cell).is_file():
            self(cell)
        return Told(**load_file(self._file(cell)))

    def _tried(self, cell: Cell) -> Iterator[tuple[Mapping[str, Any], Mapping[str, float], dict[str, torch.Tensor]]]:
        """Each option with its metrics and its laws over the rows of the parts."""
        rows, budget = self._rows, self._budget
        if cell.method in SUPERVISED:
            scores = item_scores(cell.method, rows, budget.updates, cell.seed)
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
        found = _choice(self._rows, cell, [self._rows.law(one.policy, "validation") for one in tried])
        options: list[dict[str, Any]] = [
            {"option": dict(one.option), "validation": value} for one, value in zip(tried, found.seen, strict=True)
        ]
        # every lambda is judged, to show its direction; of other methods, the chosen options alone
        for k in range(len(tried)) if cell.method == "tscac" else {found.best, found.by_value}:
            options[k] |= {"truth": self._truth(tried[k].policy), "divergence": self._divergence(tried[k])}
        judged = {"truth": options[found.best]["truth"], "truth_by_value": options[found.by_value]["truth"]}
        numbers = {"chosen": found.best, "chosen_by_value": found.by_value, "qualified": found.qualified}
        return {**numbers, "tried": options, "metrics": dict(tried[found.best].metrics), **judged}

    def _truth(self, policy: Any) -> dict[str, float]:
        return simulator.truth(self._world, policy, self._budget.judging_users, self._seed)

    def _divergence(self, one: Trained) -> Mapping[str, float]:
        """``KL(pi || pi_i)`` from each policy of stage one, in nats, over the states of test rows."""
        law = self._rows.law(one.policy, "test")
        kept = zip(SIGNALS[1:], (self._rows.law(aux, "test") for aux in one.auxiliaries), strict=False)
        return {name: float((law.exp() * (law - aux)).sum(1).mean()) for name, aux in kept}
