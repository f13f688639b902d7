"""What the PrefRec study compares: every method by its name in the tables, and what a cell may spend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from recrl.preferences.reward import Aggregate, Pretraining
from recrl.preferences.windows import PreferenceTask

Written = Literal["explicit", "clicks", "random"]
"""Rewards that nobody learned: the truth that teachers use (standardised depth and gap where a session ends), clicks, or noise."""


@dataclass(frozen=True)
class Budget:
    """What a cell may spend.

    Attributes:
        users: that the log is of.
        fresh_users: that try each policy, the same with the same luck.
        updates: of each learner.
        cloning_updates: of behaviour cloning.
        pairs: labelled ones to learn a reward from.
        held_out: to stop by, and as many to judge by.
        pretraining_steps: of a reward, at most.
        layers: hidden sizes of every network.
        batch: rows of an update.
    """

    users: int = 1_500
    fresh_users: int = 300
    updates: int = 4_000
    cloning_updates: int = 3_000
    pairs: int = 2_000
    held_out: int = 400
    pretraining_steps: int = 1_500
    layers: tuple[int, ...] = (64, 64)
    batch: int = 128


@dataclass(frozen=True)
class Taught:
    """A learned reward: what the teacher wants and how it errs, how segments are cut, how it is trained.

    Attributes:
        task: what the teacher wants.
        mistake: share of wrong answers.
        pairs: share of the budget's pairs.
        sessions: segments are runs of two sessions instead of windows of 24 requests.
        aggregate: how rewards make a segment's return.
        pretraining: before the policy.
        shuffled: it sees the actions of other rows.
    """

    task: PreferenceTask = "both"
    mistake: float = 0.1
    pairs: float = 1.0
    sessions: bool = False
    aggregate: Aggregate = "sum"
    pretraining: Pretraining = "preferences"
    shuffled: bool = False

    @property
    def name(self) -> str:
        """Names its folder."""
        return "-".join(str(value) for value in vars(self).values())


@dataclass(frozen=True)
class Recipe:
    """One method.

    Attributes:
        learner: ``bc``, the name of a learner, ``zero`` for the action 0 everywhere, ``best`` for the action that suits users best, or
            ``cem`` for the best action for everybody.
        reward: a learned reward, a written one, or none.
        options: of the learner.
        discount: a request.
        shuffled: the whole log has the actions of other rows.
        acts: whether a policy is learned, or the reward alone.
        primary: the verdict rests on it.
        refresh_every: updates between new estimates of a learned reward's mean and deviation, where it is not the reward's own choice.
        parts: where it is tried.
    """

    learner: str = "prefrec"
    reward: Taught | Written | None = None
    options: Mapping[str, Any] | None = None
    discount: float = 0.98
    shuffled: bool = False
    acts: bool = True
    primary: bool = False
    refresh_every: int | None = None
    parts: tuple[str, ...] = ("environment",)


_BOTH, _WORLDS, _EVERYWHERE = Taught(), ("environment", "retention"), ("environment", "retention", "kuairand")
_NEAR: Mapping[str, Any] = {"actor_loss": "dpg_bc"}
_STRANGE = replace(_BOTH, shuffled=True)

RECIPES: Mapping[str, Recipe] = {
    "BC": Recipe("bc", primary=True, parts=_EVERYWHERE),
    "PrefRec": Recipe(reward=_BOTH, primary=True, parts=_EVERYWHERE),
    "IQL, explicit": Recipe("iql", "explicit", primary=True, parts=_EVERYWHERE),
    "TD3+BC, explicit": Recipe("td3_bc", "explicit", {"alpha": 0.3}, primary=True, parts=_WORLDS),
    "random reward": Recipe(reward="random", primary=True, parts=_EVERYWHERE),
    # the same reward, other optimisers; the same optimiser, other rewards
    "PrefRec, dpg_bc": Recipe(reward=_BOTH, options=_NEAR),
    "TD3+BC, learned": Recipe("td3_bc", _BOTH, {"alpha": 0.3}),
    "random reward, dpg_bc": Recipe(reward="random", options=_NEAR, parts=_WORLDS),
    "PrefRec, task depth": Recipe(reward=replace(_BOTH, task="depth"), parts=_EVERYWHERE),
    "PrefRec, task return": Recipe(reward=replace(_BOTH, task="return"), parts=_EVERYWHERE),
    "PrefRec's optimiser, explicit": Recipe(reward="explicit", parts=_WORLDS),
    "PrefRec's optimiser, clicks": Recipe(reward="clicks", parts=_WORLDS),
    "PrefRec's optimiser, clicks, myopic": Recipe(reward="clicks", discount=0.0, parts=_WORLDS),
    # controls
    "labels by chance": Recipe(reward=replace(_BOTH, mistake=0.5), parts=_WORLDS),
    "labels swapped": Recipe(reward=replace(_BOTH, mistake=1.0), parts=_WORLDS),
    "reward of shuffled actions": Recipe(reward=_STRANGE),
    "PrefRec, shuffled log": Recipe(reward=_STRANGE, shuffled=True, parts=_WORLDS),
    "BC, shuffled log": Recipe("bc", shuffled=True, parts=_WORLDS),
    "zero action": Recipe("zero", parts=_WORLDS),
    "best action": Recipe("best"),
    "CEM, explicit": Recipe("cem", parts=_WORLDS),
    # ablations
    "without value": Recipe(reward=_BOTH, options={"value": "none"}, parts=_WORLDS),
    "expectile .5": Recipe(reward=_BOTH, options={"expectile": 0.5}, parts=_WORLDS),
    "expectile .9": Recipe(reward=_BOTH, options={"expectile": 0.9}, parts=_WORLDS),
    "without pre-training": Recipe(reward=replace(_BOTH, pretraining="none"), parts=_WORLDS),
    "PrefRec, refreshed often": Recipe(reward=_BOTH, refresh_every=50),
    "without pre-training, refreshed often": Recipe(reward=replace(_BOTH, pretraining="none"), refresh_every=50),
    "task depth, sessions, sum": Recipe(reward=Taught("depth", sessions=True, aggregate="sum_any_length"), parts=_WORLDS),
    "task depth, sessions, mean": Recipe(reward=Taught("depth", sessions=True, aggregate="mean"), parts=_WORLDS),
    # off the data
    "dpg": Recipe(reward=_BOTH, options={"actor_loss": "dpg"}, parts=_WORLDS),
    "dpg_bc, alpha 2.5": Recipe(reward=_BOTH, options={"actor_loss": "dpg_bc", "alpha": 2.5}, parts=_WORLDS),
    "TD3, explicit": Recipe("td3", "explicit"),
    "DDPG, explicit": Recipe("ddpg", "explicit"),
    "BCQ, explicit": Recipe("bcq", "explicit"),
    # the reward alone
    "100 pairs": Recipe(reward=replace(_BOTH, pairs=0.05), acts=False, parts=_WORLDS),
    "500 pairs": Recipe(reward=replace(_BOTH, pairs=0.25), acts=False, parts=_WORLDS),
    "no mistakes": Recipe(reward=replace(_BOTH, mistake=0.0), acts=False, parts=_WORLDS),
    "20 % mistakes": Recipe(reward=replace(_BOTH, mistake=0.2), acts=False, parts=_WORLDS),
    "30 % mistakes": Recipe(reward=replace(_BOTH, mistake=0.3), acts=False, parts=_WORLDS),
}
"""By the name in the tables; primary ones first."""
WITH_CURVE = ("PrefRec", "without pre-training")
"""Methods whose first fifth of updates is looked at."""
