"""Runs policies on simulated users: one pass an arm, many users side by side, per-user sums out.

At most ``tile`` users are in memory at a time; as users churn or pass the last day, waiting ones take their places. Policies are
called on blocks of one fixed size, because the last bits of a matrix product depend on its shape: so no number depends on ``tile``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import Observation, Outcome, Policy, Progress, World
from recrl.core.errors import ConfigError
from recrl.core.streams import Purpose, Streams
from recrl.core.torch.streams import TensorStreams
from simulators.ab.design import Design
from simulators.ab.results import ExperimentResult, UserMetrics
from simulators.config import WorldConfig

BLOCK = 512
"""Rows of every call of a policy."""

_COLUMNS = ("requests", "sessions", "shown", "watch_seconds", *BEHAVIOURS, "returns", "gap_days", "churned", "first_return_day")
# how often finished users are looked for, and the share of them at which the rest moves together
_CHECK_EVERY, _FINISHED_SHARE = 4, 0.125


class SimulatedWorld(World, Protocol):
    """A world with a population; its states are structs such as :class:`simulators.state.UserState`."""

    config: WorldConfig
    device: torch.device

    def population(self, n: int, seed: int = 0) -> Tensor:
        """Ids of ``n`` simulated users ``(n,)``."""
        ...


def run_experiment(
    worlds: Mapping[str, SimulatedWorld],
    policies: Mapping[str, Policy],
    design: Design,
    *,
    progress: Progress | None = None,
    tile: int = 4096,
) -> ExperimentResult:
    """Run every arm and return what its users did.

    Args:
        worlds: one world an arm. Arms whose policies take different actions need worlds of different action kinds; all must
            stand on the same fitted parameters, which is the caller's duty.
        policies: one policy an arm, by the same names; their order is the order of the arms.
        design: users, days, pairing, seed.
        progress: called with the finished share, 0 to 1, and a line of text.
        tile: users in memory at a time; changes speed and memory, and no result.

    **Errors**: :class:`ConfigError` for arms, action kinds or horizons that do not fit, before anything runs. Ctrl-C leaves nothing behind.
    """
    started = time.perf_counter()
    _check(worlds, policies, design, tile)
    share_of_arm = assign_users({arm: worlds[arm] for arm in policies}, design)
    done, total = 0, sum(users.numel() for users in share_of_arm.values())

    def tick(arm: str, before: int, finished: int) -> None:
        if progress is not None:
            progress((before + finished) / total, f"arm {arm}: {finished} of {share_of_arm[arm].numel()} users done")

    found = {}
    for arm, users in share_of_arm.items():
        streams = TensorStreams(design.seed, worlds[arm].device)
        sure = arm in design.deterministic
        found[arm] = simulate_arm(
            worlds[arm], policies[arm], users, design.days, streams, deterministic=sure, tile=tile, tick=partial(tick, arm, done)
        )
        done += users.numel()
    return ExperimentResult(design, found, time.perf_counter() - started)


def assign_users(worlds: Mapping[str, SimulatedWorld], design: Design) -> dict[str, Tensor]:
    """Ids of each arm's users: all of them in every arm when paired, else a random share."""
    population = {arm: world.population(design.users, design.seed) for arm, world in worlds.items()}
    first = next(iter(population.values())).cpu()
    for arm, users in population.items():
        if not torch.equal(users.cpu(), first):
            raise ConfigError(f"the world of arm {arm!r} has other users", where="worlds", mend="build the worlds of all arms from one fit")
    if design.paired:
        return population
    arm_of_user = Streams(design.seed).integers(len(worlds), np.arange(design.users), 0, Purpose.SPLITS)
    shares = {arm: users[torch.from_numpy(arm_of_user == k).to(users.device)] for k, (arm, users) in enumerate(population.items())}
    small = [arm for arm, users in shares.items() if users.numel() < 2]
    if small:
        raise ConfigError(f"{design.users} users leave fewer than 2 for arm {small[0]!r}", where="Design.users", mend="simulate more users")
    return shares


@torch.no_grad()
def simulate_arm(
    world: SimulatedWorld,
    policy: Policy,
    users: Tensor,
    days: int,
    streams: TensorStreams,
    *,
    deterministic: bool = False,
    tile: int = 4096,
    tick: Callable[[int], None] = lambda finished: None,
) -> UserMetrics:
    """Let ``users`` (n,) live with ``policy`` until each has churned or passed day ``days``; ``tick`` hears how many have."""
    n, device = users.numel(), world.device
    totals = torch.zeros(n, len(_COLUMNS), dtype=torch.float64, device=device)
    daily_requests = torch.zeros(n * days, device=device)
    daily_watch = torch.zeros(n * days, device=device)
    has_watch = True
    admitted = min(tile, n)
    slot = torch.arange(admitted, device=device)
    state = world.initial_state(users[:admitted], streams)
    steps = 0
    while slot.numel():
        live = state.alive & (state.day < days)
        action = act_in_blocks(policy, world.observe(state), streams, state.draw_step, deterministic)
        after, outcome = world.transition(state, action, streams)
        has_watch = outcome.watch_seconds is not None
        gains = _gains(state, outcome, live)
        totals.index_add_(0, slot, gains)
        cell = slot * days + state.day.to(torch.int64).clamp_max(days - 1)
        daily_requests.index_add_(0, cell, gains[:, 0].float())
        daily_watch.index_add_(0, cell, gains[:, _COLUMNS.index("watch_seconds")].float())
        state, steps = after, steps + 1
        if steps % _CHECK_EVERY:
            continue
        keep = state.alive & (state.day < days)
        remaining = int(keep.sum())
        if remaining > (1.0 - _FINISHED_SHARE) * slot.numel():
            continue
        state, slot = state[keep], slot[keep]
        joining = min(tile - remaining, n - admitted)
        if joining:
            fresh = world.initial_state(users[admitted : admitted + joining], streams)
            state = type(state).concatenate([state, fresh])
            slot = torch.cat([slot, torch.arange(admitted, admitted + joining, device=device)])
            admitted += joining
        tick(admitted - slot.numel())
    return _user_metrics(users, totals, daily_requests, daily_watch if has_watch else None, days)


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


def _gains(state: Any, outcome: Outcome, live: Tensor) -> Tensor:
    """What one request adds to each user's sums: ``(B, columns)`` float64, zero for users who are done."""
    bits = torch.arange(len(BEHAVIOURS), device=live.device, dtype=torch.uint8)
    behaviours = ((outcome.feedback.unsqueeze(-1) >> bits) & 1).sum(1)
    returns = outcome.session_end & ~outcome.terminated
    gap = outcome.gap_days * returns
    watch = outcome.watch_seconds.double().sum(1) if outcome.watch_seconds is not None else torch.zeros_like(gap)
    singles = (
        (live, outcome.session_end, (outcome.shown >= 0).sum(1), watch),
        (returns, gap, outcome.terminated, gap * (state.session == 0)),
    )
    before, behind = (torch.stack([x.double() for x in part], dim=1) for part in singles)
    return torch.cat([before, behaviours.double(), behind], dim=1) * live.unsqueeze(1)


def _user_metrics(users: Tensor, totals: Tensor, daily_requests: Tensor, daily_watch: Tensor | None, days: int) -> UserMetrics:
    columns: dict[str, NDArray[np.float64]] = dict(zip(_COLUMNS, np.ascontiguousarray(totals.cpu().numpy().T), strict=True))
    requests = daily_requests.view(-1, days).cpu().numpy()
    columns["active_days"] = (requests > 0).sum(axis=1).astype(np.float64)
    columns["returned_next_day"] = (columns["first_return_day"] == 1).astype(np.float64)
    watch = None
    if daily_watch is None:
        del columns["watch_seconds"]
    else:
        watch = daily_watch.view(-1, days).cpu().numpy()
    return UserMetrics(users.cpu().numpy(), columns, requests, watch)


def _check(worlds: Mapping[str, SimulatedWorld], policies: Mapping[str, Policy], design: Design, tile: int) -> None:
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
    if tile < 1:
        raise ConfigError(f"tile is {tile}", where="run_experiment.tile", mend="4096 users at a time is usual")
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
