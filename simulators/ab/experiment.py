"""Runs policies on simulated users: one pass an arm, many users side by side, per-user sums out.

At most ``tile`` users are in memory at a time; as users churn or pass the last day, waiting ones take their places. Policies are
called on blocks of one fixed size, because the last bits of a matrix product depend on its shape: so no number depends on ``tile``,
nor on how the users are cut into parts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.core.contracts import Observation, Policy, Progress, World
from recrl.core.errors import ConfigError
from recrl.core.streams import Purpose, Streams
from recrl.core.torch.streams import TensorStreams
from simulators.ab.design import Design
from simulators.ab.facts import Facts
from simulators.ab.meter import ItemTables, Meter
from simulators.ab.results import ExperimentResult
from simulators.ab.users import UserMetrics
from simulators.config import WorldConfig

BLOCK = 512
"""Rows of every call of a policy."""

# how often finished users are looked for, and the share of them at which the rest moves together
_CHECK_EVERY, _FINISHED_SHARE = 4, 0.125
# batches are a whole number of vectors, so that the world need not fill them up at each request
_WHOLE = 32
# the days before the experiment have luck of their own
_PRE_SEED = 500_009


class LivedWorld(World, Protocol):
    """A world whose states are structs such as :class:`simulators.state.UserState`."""

    config: WorldConfig
    device: torch.device


class SimulatedWorld(LivedWorld, Protocol):
    """A world with a population."""

    n_users: int
    n_items: int

    def population(self, n: int, seed: int = 0, *, first: int = 0) -> Tensor:
        """Ids of the simulated users ``first .. first + n - 1``, ``(n,)``."""
        ...


@dataclass(frozen=True, eq=False)
class Experiment:
    """Arms, design and facts of one experiment, checked; any part of its users can be simulated alone.

    Attributes:
        worlds: one world an arm. Arms whose policies take different actions need worlds of different action kinds; all must
            stand on the same fitted parameters, which is the caller's duty.
        policies: one policy an arm, by the same names; their order is the order of the arms.
        design: users, days, pairing, seed.
        facts: what guardrails and segments are made from.

    **Errors**: :class:`ConfigError` for arms, action kinds, horizons or facts that do not fit.
    """

    worlds: Mapping[str, SimulatedWorld]
    policies: Mapping[str, Policy]
    design: Design
    facts: Facts = Facts()

    def __post_init__(self) -> None:
        _check(self.worlds, self.policies, self.design)
        _check_facts(self.facts, next(iter(self.worlds.values())))
        if not self.design.paired:
            sizes = np.bincount(self._arm_of(0, self.design.users), minlength=len(self.policies))
            small = [arm for arm, size in zip(self.policies, sizes, strict=True) if size < 2]
            if small:
                what = f"{self.design.users} users leave fewer than 2 for arm {small[0]!r}"
                raise ConfigError(what, where="Design.users", mend="simulate more users")

    @property
    def baseline(self) -> str:
        """Name of the arm that the others are compared with."""
        return self.design.baseline or next(iter(self.policies))

    def assign(self, low: int, high: int) -> dict[str, Tensor]:
        """Ids of each arm's users among those numbered ``low .. high - 1``: all of them when paired, else each in one arm by chance."""
        seed = self.design.seed
        population = {arm: self.worlds[arm].population(high - low, seed, first=low) for arm in self.policies}
        first = next(iter(population.values())).cpu()
        for arm, users in population.items():
            if not torch.equal(users.cpu(), first):
                raise ConfigError(
                    f"the world of arm {arm!r} has other users", where="worlds", mend="build the worlds of all arms from one fit"
                )
        if self.design.paired:
            return population
        arm_of_user = self._arm_of(low, high)
        return {arm: users[torch.from_numpy(arm_of_user == k).to(users.device)] for k, (arm, users) in enumerate(population.items())}

    def _arm_of(self, low: int, high: int) -> NDArray[np.int64]:
        return Streams(self.design.seed).integers(len(self.policies), np.arange(low, high), 0, Purpose.SPLITS)

    def simulate(
        self, low: int, high: int, *, tile: int = 4096, tick: Callable[[float], None] = lambda done: None
    ) -> dict[str, UserMetrics]:
        """What the users numbered ``low .. high - 1`` do in each arm; ``tick`` hears the finished share."""
        shares, design = self.assign(low, high), self.design
        total = sum(users.numel() for users in shares.values()) * (1.0 + design.pre_days / design.days)
        done, found = 0.0, {}
        for arm, users in shares.items():
            streams, before = TensorStreams(design.seed, self.worlds[arm].device), done
            found[arm] = simulate_arm(
                self.worlds[arm],
                self.policies[arm],
                users,
                design.days,
                streams,
                deterministic=arm in design.deterministic,
                tile=tile,
                tick=lambda finished, before=before: tick((before + finished) / max(total, 1.0)),  # type: ignore[misc]
                items=ItemTables(self.facts, self.worlds[arm].n_items, self.worlds[arm].device),
            )
            done += users.numel()
            if design.pre_days:
                found[arm] = self._with_past(found[arm], users, tile)
                done += users.numel() * design.pre_days / design.days
                tick(done / max(total, 1.0))
        return found

    def _with_past(self, found: UserMetrics, users: Tensor, tile: int) -> UserMetrics:
        """The same with what the users did under the baseline, with other luck."""
        arm, design = self.baseline, self.design
        streams = TensorStreams(design.seed + _PRE_SEED, self.worlds[arm].device)
        sure = arm in design.deterministic
        past = simulate_arm(self.worlds[arm], self.policies[arm], users, design.pre_days, streams, deterministic=sure, tile=tile)
        before = {f"pre_{name}": column for name, column in past.columns.items()}
        return UserMetrics(found.uid, found.columns, found.daily, {**found.covariates, **before}, found.item_exposures)

    def result(self, parts: Mapping[str, UserMetrics], seconds: float) -> ExperimentResult:
        """The outcome of the experiment from what each arm's users did."""
        return ExperimentResult(self.design, parts, seconds, self.facts, next(iter(self.worlds.values())).n_users)


def run_experiment(
    worlds: Mapping[str, SimulatedWorld],
    policies: Mapping[str, Policy],
    design: Design,
    *,
    facts: Facts = Facts(),  # noqa: B008 - frozen
    progress: Progress | None = None,
    tile: int = 4096,
) -> ExperimentResult:
    """Run every arm in this process and return what its users did.

    Args:
        worlds: one world an arm, as :class:`Experiment` has them.
        policies: one policy an arm.
        design: users, days, pairing, seed.
        facts: what guardrails and segments are made from.
        progress: called with the finished share, 0 to 1, and a line of text.
        tile: users in memory at a time; changes speed and memory, and no result.

    **Errors**: :class:`ConfigError` for arms, action kinds or horizons that do not fit, before anything runs. Ctrl-C leaves nothing behind.
    """
    started, experiment = time.perf_counter(), Experiment(worlds, policies, design, facts)
    if tile < 1:
        raise ConfigError(f"tile is {tile}", where="run_experiment.tile", mend="4096 users at a time is usual")

    def tick(done: float) -> None:
        if progress is not None:
            progress(done, f"{design.users} users, {len(policies)} arms")

    parts = experiment.simulate(0, design.users, tile=tile, tick=tick)
    return experiment.result(parts, time.perf_counter() - started)


@torch.no_grad()
def simulate_arm(
    world: LivedWorld,
    policy: Policy,
    users: Tensor,
    days: int,
    streams: TensorStreams,
    *,
    deterministic: bool = False,
    tile: int = 4096,
    tick: Callable[[int], None] = lambda finished: None,
    items: ItemTables | None = None,
) -> UserMetrics:
    """Let ``users`` (n,) live with ``policy`` until each has churned or passed day ``days``; ``tick`` hears how many have."""
    n, device = users.numel(), world.device
    meter = Meter(n, days, device, items)
    slot, admitted, real, steps = torch.empty(0, dtype=torch.int64, device=device), 0, 0, 0
    state: Any = None
    baseline: list[Tensor] = []
    while admitted < n or real:
        joining = min(tile - real, n - admitted)
        if joining:
            fresh: Any = world.initial_state(users[admitted : admitted + joining], streams)
            if hasattr(fresh, "baseline"):
                baseline.append(fresh.baseline)
            state = fresh if state is None else type(state).concatenate([state, fresh])
            slot = torch.cat([slot, torch.arange(admitted, admitted + joining, device=device)])
            admitted += joining
        real = slot.numel()
        filling = -real % _WHOLE
        if filling:
            # the last user again, whose sums go nowhere
            state = state[torch.arange(real + filling, device=device).clamp_max(real - 1)]
            slot = torch.cat([slot, torch.full((filling,), n, device=device)])
        meter.extend(joining + filling)
        remaining = real
        while remaining > (1.0 - _FINISHED_SHARE) * real:
            live = state.alive & (state.day < days)
            if steps % _CHECK_EVERY == 0:
                remaining = int(live[:real].sum())
                if remaining <= (1.0 - _FINISHED_SHARE) * real:
                    break
            action = act_in_blocks(policy, world.observe(state), streams, state.draw_step, deterministic)
            after, outcome = world.transition(state, action, streams)
            meter.add(state, outcome, live, real)
            state, steps = after, steps + 1
        live[real:] = False
        meter.select(live, slot, state)
        state, slot, real = state[live], slot[live], remaining
        tick(admitted - real)
    return meter.result(users, torch.cat(baseline) if baseline else None)


def act_in_blocks(policy: Policy, observation: Observation, streams: TensorStreams, step: Tensor, deterministic: bool) -> Tensor:
    """The policy's actions for ``B`` users, asked for in blocks of :data:`BLOCK` rows; the last is filled up with its last row."""
    count, parts = len(observation), []
    for low in range(0, count, BLOCK):
        rows: Any = slice(low, low + BLOCK)
        if low + BLOCK > count:
            rows = torch.arange(low, low + BLOCK, device=step.device).clamp_max(count - 1)
        action = policy.act(observation[rows], streams, step=step[rows], deterministic=deterministic)
        parts.append(torch.as_tensor(action.value)[: count - low])
    return torch.cat(parts)


def _check(worlds: Mapping[str, SimulatedWorld], policies: Mapping[str, Policy], design: Design) -> None:
    arms = list(policies)
    if len(arms) < 2:
        raise ConfigError(f"an experiment compares at least two arms, got {len(arms)}", where="policies", mend="add a baseline")
    if set(worlds) != set(arms):
        raise ConfigError(
            f"worlds are given for {sorted(worlds)}, policies for {sorted(arms)}", where="worlds", mend="give one world an arm"
        )
    named = {"baseline": (design.baseline,) if design.baseline else (), "deterministic": design.deterministic}
    for option, names in named.items():
        for name in names:
            if name not in arms:
                raise ConfigError(
                    f"{option} names an unknown arm {name!r}", where=f"Design.{option}", mend=f"the arms are: {', '.join(arms)}"
                )
    for arm in arms:
        world, policy = worlds[arm], policies[arm]
        wanted, given = world.action_spec, policy.action_spec
        if (wanted.kind, wanted.shape) != (given.kind, given.shape):
            raise ConfigError(
                f"arm {arm!r}: the policy's action is {given.kind} {given.shape}, the world takes {wanted.kind} {wanted.shape}",
                where="worlds",
                mend="build this arm's world with the policy's action kind",
            )
        if world.config.horizon_days < design.days:
            raise ConfigError(
                f"arm {arm!r}: the world ends after {world.config.horizon_days} days, the experiment after {design.days}",
                where="WorldConfig.horizon_days",
                mend="give the world a horizon of at least the experiment's days",
            )


def _check_facts(facts: Facts, world: SimulatedWorld) -> None:
    tables: dict[str, tuple[Any, int]] = {
        "exposures": (facts.exposures, world.n_items),
        "vectors": (facts.vectors, world.n_items),
        "providers": (facts.providers and facts.providers.codes, world.n_items),
        **{f"segments[{name}]": (groups.codes, world.n_users) for name, groups in facts.segments.items()},
    }
    for name, (table, rows) in tables.items():
        if table is not None and len(table) != rows:
            raise ConfigError(f"{name} has {len(table)} rows", where=f"Facts.{name}", mend=f"give one for each of {rows}")
