"""Do the published simulators' modes come to what was published of them?

Whole sessions: depth and total against 19 / (2 - p) + 1/2 and p times it, for users who click with probability p. Cross session: spread
of the mean return day between environment seeds, by how alike users are. AURO: mean return day and P(1) by response rate.
GFN4Retention: mean return day as users hate more. Expected days are averaged where a law is at hand, so that little is left to chance.
PrefRec's reference environment: depth, gap and click rate of five policies over pairs of maps.

python benchmarks/fidelity.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.core.torch.streams import TensorStreams
from simulators.fidelity.auro import AuroConfig, AuroWorld
from simulators.fidelity.gfn import GfnConfig, GfnWorld
from simulators.fidelity.kuaisim import CrossSession, CrossSessionConfig, SessionConfig, WholeSession
from simulators.fidelity.laws import AURO_RATES, slate_correlation
from simulators.fidelity.prefrec import PrefRecConfig, PrefRecWorld
from simulators.fidelity.users import StandInUsers, UniformUsers
from simulators.fidelity.world import FidelityWorld

DAYS = torch.arange(1.0, 11.0)
CLICKS = (0.51, 0.595, 0.65, 0.69, 0.72)

# mean action of a user's vector; the first one with the logging noise
PREFREC_POLICIES: dict[str, Callable[[PrefRecWorld, Tensor], Tensor]] = {
    "logged": PrefRecWorld.logging_mean,
    "logging mean": PrefRecWorld.logging_mean,
    "a*": PrefRecWorld.suiting,
    "a_click": PrefRecWorld.clicked,
    "zero": lambda w, x: torch.zeros_like(x),
}


def logit(p: Any) -> Tensor:
    """Scores of probabilities, the certain ones infinite."""
    return torch.logit(torch.as_tensor(p, dtype=torch.float64)).float()


def by_chance(world: FidelityWorld, batch: int, step: int) -> Tensor:
    """Random actions."""
    generator = torch.Generator().manual_seed(step)
    if world.action_spec.is_vector:
        return torch.rand(batch, 7, generator=generator) * 2 - 1
    return torch.rand(batch, world.users.n_items, generator=generator).topk(world.config.slate_size).indices


def clicking(p: float) -> WholeSession:
    """KuaiSim's whole sessions of users who click with probability ``p`` behind both sigmoids."""
    return WholeSession(SessionConfig(similarity=0.0), UniformUsers(logit(logit(p).double())))


def whole_sessions(world: FidelityWorld, users: int) -> dict[str, Tensor]:
    """Depth and summed reward of each user's session, ILD of all slates, all clicks."""
    streams = TensorStreams(1)
    state = world.initial_state(world.population(users), streams)
    depth, total, similar, clicks = torch.zeros(users), torch.zeros(users), [], []
    while bool(state.alive.any()):
        alive = state.alive
        state, outcome = world.transition(state, by_chance(world, users, int(depth.max())), streams)
        depth += alive
        total += outcome.reward[:, 0]
        similar.append(slate_correlation(world.users.items[outcome.shown[alive]]).mean(1))
        clicks.append(outcome.feedback[alive] & 1)
    return {"depth": depth, "total": total, "ild": 1.0 - torch.cat(similar), "clicks": torch.cat(clicks).float()}


def first_return(world: FidelityWorld, users: int = 64) -> tuple[Tensor, Tensor]:
    """P(day 1..10) after each user's first session, and the day drawn from it."""
    streams = TensorStreams(5)
    state = world.initial_state(world.population(users), streams)
    for step in range(int(world.config.temper)):
        state, outcome = world.transition(state, by_chance(world, users, step), streams)
    return outcome.truth["return_days"], outcome.gap_days


def mean_day(world: FidelityWorld, users: int = 64) -> float:
    """Expected day of return after the first session."""
    return float((first_return(world, users)[0] @ DAYS).mean())


def hated(hate: float, *, bug: bool) -> GfnWorld:
    """GFN4Retention's users who hate with this probability."""
    scores = logit([0.46, 0.33, 0.02, 0.01, 0.01, 0.01, hate])
    return GfnWorld(GfnConfig(weight_bug=bug, personal_bias=False), UniformUsers(scores))


def prefrec_levels(
    seed: int, policies: Iterable[Callable[[PrefRecWorld, Tensor], Tensor]], users: int = 60, *, noisy_first: bool = False
) -> NDArray[np.float64]:
    """Mean depth, gap and click rate under each policy, ``(policies, 3)``: the same users with the same luck, all side by side."""
    world, streams, means = PrefRecWorld(PrefRecConfig(seed=seed)), TensorStreams(1), list(policies)
    many = len(means)
    state = world.initial_state(world.population(users).repeat(many), streams)
    block = torch.arange(many).repeat_interleave(users)
    mean = torch.cat([policy(world, state.taste[:users]) for policy in means])
    noisy = noisy_first & (block == 0).unsqueeze(1)
    end, depth, gap, click, made = torch.zeros(5, many, dtype=torch.float64)
    while bool(state.alive.any()):
        before = state
        state, outcome = world.transition(state, torch.where(noisy, world.logged(state, streams), mean), streams)
        for total, value in (
            (end, outcome.session_end),
            (depth, outcome.session_end * (before.requests + 1)),
            (gap, outcome.gap_days),
            (click, outcome.reward[:, 0]),
            (made, before.alive),
        ):
            total.index_add_(0, block, value.double())
    return torch.stack([depth / end, gap / end, click / made], dim=1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="fewer users and seeds")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    start, users, seeds = time.process_time(), 400 if args.small else 4_000, range(10 if args.small else 60)
    report: dict[str, Any] = {"whole_session": {}, "cross_session": {}, "auro": {}, "gfn": {}, "prefrec": {}}
    for p in CLICKS:
        found = {name: float(x.mean()) for name, x in whole_sessions(clicking(p), users).items()}
        report["whole_session"][f"p {p}"] = found | {"formula": 19 / (2 - p) + 0.5}
    shown = whole_sessions(WholeSession(SessionConfig(), StandInUsers(50, 30)), users)
    report["whole_session"]["stand-in users"] = {name: float(x.mean()) for name, x in shown.items()}
    for shared in (0.0, 0.5, 0.75):
        alike = StandInUsers(200, 30, shared=shared)
        days = [mean_day(CrossSession(CrossSessionConfig(), alike, seed=s)) for s in seeds]
        report["cross_session"][f"shared {shared}"] = {"mean": np.mean(days), "std": np.std(days, ddof=1)}
    days = [mean_day(GfnWorld(GfnConfig(), StandInUsers(200, 30), seed=s)) for s in seeds]
    report["gfn"]["shared 0.5"] = {"mean": np.mean(days), "std": np.std(days, ddof=1)}
    for name, bug in (("as published", True), ("weights mended", False)):
        report["gfn"][name] = {f"hate {h}": mean_day(hated(h, bug=bug)) for h in (0.01, 0.5)}
    for mode, dropout in (("eval", False), ("dropout", True)):
        for rate in AURO_RATES:
            law, _ = first_return(AuroWorld(AuroConfig(drift="none", dropout=dropout), UniformUsers(logit(rate))), 500)
            report["auro"][f"{mode} q {rate}"] = {"mean": float((law @ DAYS).mean()), "p1": float(law[:, 0].mean())}
    every = np.stack([prefrec_levels(seed, PREFREC_POLICIES.values(), noisy_first=True) for seed in range(2 if args.small else 8)])
    for k, name in enumerate(PREFREC_POLICIES):
        levels = zip(("depth", "gap", "click"), every[:, k].T, strict=True)
        report["prefrec"][name] = {f"{what} {how}": getattr(found, how)() for what, found in levels for how in ("mean", "min", "max")}
    if args.json:
        print(json.dumps(report | {"core_seconds": round(time.process_time() - start, 1)}, indent=2))
        return
    for part, rows in report.items():
        for name, row in rows.items():
            print(f"{part:14} {name:18}" + "  ".join(f"{key} {value:.4f}" for key, value in row.items()))


if __name__ == "__main__":
    main()
