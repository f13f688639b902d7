"""AURO, its ablations and the methods beside it, by their names in the tables: the same networks, rates and updates for all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from recrl.algorithms.abstraction import AbstractionConfig
from recrl.algorithms.auro import AURO, AUROConfig, ExplorationConfig
from recrl.algorithms.ddpg import DDPG, DDPGConfig
from recrl.algorithms.escp import ESCP, ESCPConfig
from recrl.algorithms.oac import OAC, OACConfig
from recrl.algorithms.parity.auro import ShippedAURO, ShippedAUROConfig
from recrl.algorithms.rlur import RLUR, RLURConfig
from recrl.algorithms.rnd import RND, RNDConfig
from recrl.algorithms.sac import SAC, SACConfig
from recrl.algorithms.task import Task
from recrl.algorithms.td3 import TD3, TD3Config
from recrl.core.contracts import ActionSpec, Transitions, Update
from recrl.core.objective import Constraint, Objective, Signal
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig

RETURN: Final = Signal("return", discount_within=1.0, discount_across=0.9)
"""Minus the days away; the paper's discount across sessions."""

_NOW: Final[dict[str, Literal["at_least", "at_most"]]] = {
    "click": "at_least",
    "long_view": "at_least",
    "like": "at_least",
    "hate": "at_most",
}
OBJECTIVE: Final = Objective(RETURN, tuple(Constraint(Signal(name, 1.0, 0.9, 0.9), way) for name, way in _NOW.items()))
"""Return first; what happens at once, which RLUR alone looks at, in the columns after it."""

ABLATIONS: Final = ("auro no phi", "auro no loss", "auro no guard", "auro no exploration")
LEARNED: Final = ("auro", *ABLATIONS, "td3", "rlur", "oac", "escp", "rnd", "ddpg", "sac", "shipped")


@dataclass(frozen=True)
class Budget:
    """What every cell may spend.

    Attributes:
        users: on one calendar, of every method.
        days: of acting, and of learning on the way.
        deployed_users: fresh ones, for the frozen policy.
        deployed_days: of the frozen policy.
        warmup_days: of uniformly random actions, before a learner acts.
        per_update: requests an update.
        batch: rows of an update.
        probe_days: of the path that ``phi`` is looked at on: seven periods of the longest drift, so six switches.
        probe_users: on it.
        logged_requests: of each of ``users`` under random weights, before the first day, that the supervised ranker is fitted to.
        generations: of CEM, before the first day.
        candidates: of a generation, each with users of its own for three days.
        search_users: so many.
        steps: of AURO's own environment, an update each.
    """

    users: int = 128
    days: int = 56
    deployed_users: int = 150
    deployed_days: int = 14
    warmup_days: int = 3
    per_update: int = 16
    batch: int = 256
    probe_days: int = 98
    probe_users: int = 64
    logged_requests: int = 60
    generations: int = 6
    candidates: int = 10
    search_users: int = 24
    steps: int = 2_000


class Novel:
    """TD3 whose rewards have a bonus for novelty."""

    def __init__(self, learner: TD3, bonus: RND) -> None:
        self._learner, self._bonus = learner, bonus
        self.policy, self.collect_policy, self.observe = learner.policy, learner.collect_policy, learner.observe

    def update(self, batch: Transitions) -> Update:
        """One step of the bonus and one of TD3 on the rewards with it."""
        self._bonus.update(batch)
        return self._learner.update(self._bonus.apply(batch))


def options_of(name: str, features: int) -> Any:
    """The options of a learner by its name in the tables; of TD3 with novelty those of both."""
    actor = ActorConfig(EncoderConfig("flat", features=features), (64, 64), exploration=0.1)
    common: dict[str, Any] = {"actor": actor, "critic_hidden": (64, 64), "actor_learning_rate": 3e-4, "critic_learning_rate": 1e-3}
    abstraction = AbstractionConfig(hidden=(64,))
    variants: dict[str, dict[str, Any]] = {
        "auro": {},
        "auro no phi": {"abstraction": replace(abstraction, size=0)},
        "auro no loss": {"abstraction": replace(abstraction, loss="none")},
        "auro no guard": {"explore": ExplorationConfig(guard=False)},
        "auro no exploration": {"explore": ExplorationConfig(candidates=1)},
    }
    if name in variants:
        return AUROConfig(**{**common, "abstraction": abstraction, **variants[name]})
    match name:
        case "rlur":
            return RLURConfig(**common)
        case "escp":
            return ESCPConfig(**common, context=replace(abstraction, loss="determinant"))
        case "oac":
            return OACConfig(**common)
        case "ddpg":
            return DDPGConfig(**common)
        case "sac":
            return SACConfig(**{**common, "actor": replace(actor, exploration=0.8)})
        case "rnd":
            return TD3Config(**common), RNDConfig(actor.encoder, weight=0.1)
        case "shipped":
            return ShippedAUROConfig(actor, (64, 64), abstraction)
    return TD3Config(**common)


def learner_of(name: str, features: int, spec: ActionSpec, objective: Objective, seed: int) -> Any:
    """A learner by its name in the tables; RLUR alone is told what happens at once."""
    options, alone = options_of(name, features), Task(spec, Objective(objective.main))
    match name:
        case "rlur":
            return RLUR(options, Task(spec, objective), seed)
        case "rnd":
            return Novel(TD3(options[0], alone, seed), RND(options[1], alone, seed))
    kinds: dict[str, Any] = {"escp": ESCP, "oac": OAC, "ddpg": DDPG, "sac": SAC, "shipped": ShippedAURO, "td3": TD3}
    return kinds.get(name, AURO)(options, alone, seed)
