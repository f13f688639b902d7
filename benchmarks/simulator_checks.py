"""Does the simulated world behave? Policies apart under every scenario, nothing of it without an effect of satisfaction.

Four policies choose slates from the pool: at random, by the items' mean click rate, by the user's own click probability (myopic), and by
the user's own expected satisfaction (the oracle of the next request). The same users with the same luck live under each, until they
churn or pass 30 days. P(1): share of sessions whose user is back the next day; `expected`: mean of the hazards that were drawn
from. Differences are paired by user.

python benchmarks/simulator_checks.py --data ml-100k --users 5000 --json     # the prepared store, fitted by FitConfig.ratings()
python benchmarks/simulator_checks.py --small --json                         # a self-made world of 100 users and 200 items
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import Tensor

from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from simulators.config import Scenario, WorldConfig
from simulators.leave import LeaveLaw
from simulators.retention import RetentionLaw
from simulators.state import UserState
from simulators.toy import toy_response
from simulators.world import RetentionWorld

Ranking = Callable[[UserState, Tensor], Tensor]
"""Scores (B, C) of candidates (B, C) for users."""


@dataclass(frozen=True, eq=False)
class Lived:
    """What became of each user: (users,) counts of sessions, returns next day, all returns, their days, and summed day-1 hazards."""

    sessions: Tensor
    next_day: Tensor
    returns: Tensor
    days: Tensor
    expected: Tensor

    def share(self) -> float:
        """P(1)."""
        return float(self.next_day.sum() / self.sessions.sum())


def rankings(world: RetentionWorld) -> dict[str, Ranking]:
    """The four policies, worst first."""
    response, noise = world.response, TensorStreams(99, world.device)
    worth = torch.tensor(world.satisfaction.weights, device=world.device)
    everything = torch.arange(world.n_items, device=world.device)
    some = torch.arange(min(world.n_users, 500), device=world.device)
    popularity = torch.stack([response.scores(u[None], everything[None])[0, :, 0] for u in some]).mean(0)
    return {
        "random": lambda s, c: noise.uniform(s.uid, s.counter, Purpose.EXPLORATION, (c.shape[1],)),
        "popularity": lambda s, c: popularity[c],
        "myopic click": lambda s, c: response.scores(s.user, c)[..., 0],
        "oracle": lambda s, c: (response.scores(s.user, c) * worth).sum(-1),
    }


def lived(world: RetentionWorld, ranking: Ranking, users: int, seed: int = 5, requests: int = 10_000) -> Lived:
    """Lives of users under a ranking, until all are gone or have made so many requests."""
    streams = TensorStreams(seed, world.device)
    state = world.initial_state(world.population(users, seed), streams)
    sessions, next_day, returns, days, expected = torch.zeros(5, users, dtype=torch.float64)
    for _ in range(requests):
        candidates = world.observe(state).candidates
        slate = candidates.gather(1, ranking(state, candidates).topk(world.config.shown, dim=1).indices)
        state, outcome = world.transition(state, slate, streams)
        end, back = outcome.session_end, outcome.session_end & ~outcome.terminated
        sessions += end
        next_day += outcome.gap_days == 1
        returns += back
        days += torch.where(back, outcome.gap_days, 0.0)
        expected += torch.where(end, outcome.truth["return_hazards"][:, 0], 0.0)
        if not bool(state.alive.any()):
            break
    return Lived(sessions, next_day, returns, days, expected)


def difference(a: Lived, b: Lived, of: str = "next_day") -> tuple[float, float]:
    """Mean of ``of`` a session under ``b`` less that under ``a``, and its standard error, paired by user (delta method)."""
    parts, means = [], []
    for arm in (a, b):
        total = getattr(arm, of)
        mean = total.sum() / arm.sessions.sum()
        means.append(float(mean))
        parts.append((total - mean * arm.sessions) / arm.sessions.mean())
    return means[1] - means[0], float((parts[1] - parts[0]).std() / len(parts[0]) ** 0.5)


def small_world(scenario: Scenario = "strong", *, leave: LeaveLaw | None = None) -> RetentionWorld:
    """100 users, 200 items, pools of 100."""
    config = WorldConfig(action_kind="slate", pool_size=100, exclude_recent=12, history=18, scenario=scenario)
    law = leave or LeaveLaw.synthetic(mean_depth=4.0, max_requests=30)
    return RetentionWorld(config, toy_response(100, 200), law, RetentionLaw.published())


def worlds(data: str) -> Callable[[Scenario], RetentionWorld]:
    """The world of a prepared store under any scenario."""
    import recrl_datasets as rd
    from simulators.fit import FitConfig, fit_world

    store = rd.open_store(f"stores/{data}")
    log = store.log()
    fitted = fit_world(log, config=FitConfig.ratings() if log.has("rating") else FitConfig(), sessions=rd.sessions(log, rule="day"))
    return lambda scenario: fitted.world(WorldConfig(action_kind="slate", scenario=scenario))


def table(world: RetentionWorld, users: int) -> dict[str, dict[str, float]]:
    """One row a policy: P(1), its expectation, mean gap of returns, sessions a user, and the gain over the policy before."""
    rows: dict[str, dict[str, float]] = {}
    before: Lived | None = None
    for name, ranking in rankings(world).items():
        life = lived(world, ranking, users)
        rows[name] = {
            "p1": life.share(),
            "expected": float(life.expected.sum() / life.sessions.sum()),
            "mean_gap_days": float(life.days.sum() / life.returns.sum()),
            "sessions": float(life.sessions.mean()),
        }
        if before is not None:
            rows[name]["gain"], rows[name]["gain_error"] = difference(before, life)
        before = life
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="a prepared store under stores/")
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--small", action="store_true", help="the self-made world, 300 users")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    build = small_world if args.small or not args.data else worlds(args.data)
    users = 300 if args.small else args.users
    report: dict[str, Any] = {"data": args.data or "self-made", "users": users}
    report["scenarios"] = {scenario: table(build(scenario), users) for scenario in get_args(Scenario)}
    report["core_seconds"] = round(time.process_time() - start, 1)
    report["load_average"] = os.getloadavg()[0]
    if args.json:
        print(json.dumps(report, indent=2))
        return
    for scenario, rows in report["scenarios"].items():
        for name, row in rows.items():
            print(f"{scenario:8} {name:14}" + "  ".join(f"{key} {value:.4f}" for key, value in row.items()))


if __name__ == "__main__":
    main()
