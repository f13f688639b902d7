"""Do the statistics of A/B tests hold? False positives with and without peeking, coverage, power, CUPED.

A/A experiments of 2,000 users in two arms and 30 days: users of a light outcome generator, who differ from each other, and users of the
simulator: one large population that lived once under one policy, split anew each time. `fixed`: the test at the planned end; `naive
peeking`: some day's fixed test below 5 %; `sequential`: some day's always-valid p-value below 5 %. Then, on effects that are known:
coverage of both intervals, whether planned power is met, and whether CUPED narrows as its correlation predicts. Last, planned power in
the whole simulator: two constant rankings of a toy world, their difference measured on many twins, the users planned from a pilot, and
that many new users, randomised to arms, asked again and again.

python benchmarks/ab_statistics.py --json
python benchmarks/ab_statistics.py --only simulator_power --json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from scipy.stats import binom

from simulators.ab import UserMetrics
from simulators.ab.breakdown import cuped_rows
from simulators.ab.comparison import Comparison
from simulators.ab.design import DAILY_METRICS, METRICS, Design
from simulators.ab.light import LightUsers
from simulators.ab.sequential import confidence_sequence, daily_effects, normal_p
from simulators.ab.statistics import minimum_detectable_effect, users_needed, welch

LEVEL, USERS, DAYS = 0.95, 2_000, 30
Pair = tuple[UserMetrics, UserMetrics]


def light_pairs(count: int, seed: int) -> Iterator[Pair]:
    """A/A experiments of the light generator."""
    for k in range(count):
        rng = np.random.default_rng((seed, k))
        first, second = (LightUsers.draw(USERS // 2, rng).live(DAYS, rng) for _ in range(2))
        yield first, second


def simulated_users(users: int) -> UserMetrics:
    """One population of the simulator under one policy, in the scenario in which satisfaction matters most."""
    import torch

    from recrl.core.contracts import Action
    from recrl.core.torch.streams import TensorStreams
    from simulators.ab.experiment import simulate_arm
    from simulators.toy import TOY_CONFIG, toy_world

    world = toy_world(replace(TOY_CONFIG, truth=False, horizon_days=DAYS, action_kind="slate"))

    class Shown:
        """The first candidates of the pool."""

        action_spec = world.action_spec

        def act(self, observation: Any, streams: Any, *, step: Any = 0, deterministic: bool = False) -> Action:
            return Action(observation.candidates[:, : world.action_spec.shape[0]])

        def log_prob(self, observation: Any, action: Any) -> Any:
            return torch.zeros(len(observation))

        def save(self, folder: Any) -> None:
            raise NotImplementedError

    return simulate_arm(world, Shown(), world.population(users, 0), DAYS, TensorStreams(0))


def split_pairs(everybody: UserMetrics, count: int, seed: int) -> Iterator[Pair]:
    """A/A experiments: other users of one population each time, in two arms by chance."""
    for k in range(count):
        chosen = np.random.default_rng((seed, k)).permutation(everybody.users)[:USERS]
        first, second = (part_of(everybody, rows) for rows in np.split(chosen, 2))
        yield first, second


def part_of(users: UserMetrics, rows: Any) -> UserMetrics:
    """Some of the users."""
    columns = {name: column[rows] for name, column in users.columns.items()}
    return UserMetrics(users.uid[rows], columns, {name: column[rows] for name, column in users.daily.items()})


def false_positives(pairs: Iterator[Pair], tell: Callable[[str], None]) -> dict[str, Any]:
    """Shares of A/A experiments that find something, by metric."""
    found: dict[str, dict[str, list[bool]]] = {}
    ratio: dict[str, float] = {}
    count = 0
    for count, (first, second) in enumerate(pairs, start=1):
        for metric in METRICS:
            effects = [arm.ratio(metric) for arm in (first, second)]
            if effects[0] is not None and effects[1] is not None:
                p = Comparison(Design(users=USERS, days=DAYS, paired=False), {"a": second, "b": first}).effect(metric.name, "b").p_value
                found.setdefault(metric.name, {}).setdefault("fixed", []).append(p < 1 - LEVEL)
        for metric in DAILY_METRICS:
            effects_by_day = daily_effects(first, second, metric, same_users=False)
            if effects_by_day is None:
                continue
            sequence = confidence_sequence(effects_by_day, LEVEL)
            daily = [normal_p(e, s) for e, s in zip(effects_by_day.effect, effects_by_day.error, strict=True)]
            mine = found.setdefault(metric.name, {})
            mine.setdefault("naive peeking", []).append(min(daily) < 1 - LEVEL)
            mine.setdefault("sequential", []).append(bool(sequence.p_value[-1] < 1 - LEVEL))
            ratio[metric.name] = min(ratio.get(metric.name, np.inf), float(sequence.information_ratio[-1]))
        if count % 100 == 0:
            tell(f"{count} A/A experiments")
    low, high = (float(x) / count for x in binom.ppf([0.005, 0.995], count, 1 - LEVEL))
    shares = {metric: {way: float(np.mean(hits)) for way, hits in ways.items()} for metric, ways in found.items()}
    fixed = [ways["fixed"] for ways in shares.values() if "fixed" in ways]
    return {
        "experiments": count,
        "band_99": [low, high],
        "false_positives": shares,
        "least_information_ratio": ratio,
        "fixed_inside_band": all(low <= share <= high for share in fixed),
        "fixed_mean": float(np.mean(fixed)),
        "sequential_worst": max(ways["sequential"] for ways in shares.values() if "sequential" in ways),
    }


def coverage(count: int, seed: int, lift: float = 0.03) -> dict[str, Any]:
    """How often intervals hold the known effect on active days: at the end, and on every day at once."""
    metric = next(m for m in DAILY_METRICS if m.name == "active_days")
    truth, fixed, always = lift * np.arange(DAYS), 0, 0
    for k in range(count):
        rng = np.random.default_rng((seed, k))
        treated = LightUsers.draw(USERS // 2, rng).live(DAYS, rng, lift=lift)
        base = LightUsers.draw(USERS // 2, rng).live(DAYS, rng)
        effect = welch(treated.columns["active_days"], base.columns["active_days"], LEVEL)
        fixed += effect.lower <= truth[-1] <= effect.upper
        found = daily_effects(treated, base, metric, same_users=False)
        assert found is not None
        sequence = confidence_sequence(found, LEVEL)
        always += bool(np.all((sequence.lower <= truth) & (truth <= sequence.upper)))
    low, high = (float(x) / count for x in binom.ppf([0.005, 0.995], count, LEVEL))
    return {"experiments": count, "band_99": [low, high], "fixed": fixed / count, "all_days_at_once": always / count}


def planned_power(count: int, seed: int, target: float = 0.8) -> dict[str, Any]:
    """The effect that the planner says is found with probability ``target``, planted and looked for."""
    plan_users = USERS // 2
    pilot = LightUsers.draw(200_000, np.random.default_rng((seed, 1_000_000))).live(DAYS, np.random.default_rng((seed, 1_000_001)))
    deviation = float(pilot.columns["active_days"].std(ddof=1))
    effect = minimum_detectable_effect(deviation, plan_users, LEVEL, target)
    lift, hits = effect / (DAYS - 1), 0
    for k in range(count):
        rng = np.random.default_rng((seed, k))
        treated = LightUsers.draw(plan_users, rng).live(DAYS, rng, lift=lift)
        base = LightUsers.draw(plan_users, rng).live(DAYS, rng)
        hits += welch(treated.columns["active_days"], base.columns["active_days"], LEVEL).p_value < 1 - LEVEL
    error = float(np.sqrt(target * (1 - target) / count))
    return {
        "experiments": count,
        "effect": effect,
        "planned": target,
        "found": hits / count,
        "standard_errors": (hits / count - target) / error,
        "inside_3": bool(abs(hits / count - target) <= 3 * error),
    }


def simulator_power(count: int, seed: int, target: float = 0.8, days: int = 5) -> dict[str, Any]:
    """Experiments of as many simulated users as the planner asks for, on an effect known from many twins."""
    import torch

    from recrl.core.contracts import Action
    from simulators.ab.experiment import run_experiment
    from simulators.toy import TOY_CONFIG, toy_world

    world = toy_world(replace(TOY_CONFIG, truth=False, horizon_days=days))

    class Ranking:
        """The same fusion weights for everybody."""

        action_spec = world.action_spec

        def __init__(self, weight: float) -> None:
            self.weight = weight

        def act(self, observation: Any, streams: Any, *, step: Any = 0, deterministic: bool = False) -> Action:
            # of two behaviours the second counts for more and more: another ranking, not another scale
            value = torch.ones(len(observation), *self.action_spec.shape)
            value[:, 1] = self.weight
            return Action(value)

        def log_prob(self, observation: Any, action: Any) -> Any:
            return torch.zeros(len(observation))

        def save(self, folder: Any) -> None:
            raise NotImplementedError

    policies = {"base": Ranking(1.0), "new": Ranking(-1.0)}

    def experiment(users: int, number: int, *, paired: bool) -> Any:
        design = Design(users=users, days=days, paired=paired, seed=seed + number)
        return run_experiment(dict.fromkeys(policies, world), policies, design)

    twins = experiment(40_000, 0, paired=True)
    pilot = experiment(4_000, 1, paired=False)
    error = float(np.sqrt(target * (1 - target) / count))
    planned: dict[str, tuple[Any, float, int]] = {}
    for name in ("requests", "click_rate"):
        truth = twins.effect(name, "new")
        # of two like arms: what one user deviates by, as the delta method sees it
        deviation = float(pilot.effect(name, "new").standard_error * np.sqrt(pilot.user_metrics["new"].users / 2))
        planned[name] = truth, deviation, users_needed(abs(truth.effect), deviation, LEVEL, target)
    # users live alone: one large experiment is as many small ones, each of users with neighbouring numbers
    largest = max(users for _, _, users in planned.values())
    everybody = experiment(2 * largest * count, 2, paired=False).user_metrics
    found: dict[str, Any] = {"days": days, "experiments": count, "planned": target}
    for name, (truth, deviation, users) in planned.items():
        design, hits = Design(users=2 * users, days=days, paired=False), 0
        for k in range(count):
            arms = {arm: part_of(all_of, all_of.uid // world.n_users // (2 * users) == k) for arm, all_of in everybody.items()}
            hits += Comparison(design, arms).effect(name, "new").p_value < 1 - LEVEL
        found[name] = {
            "effect": truth.effect,
            "effect_error": truth.standard_error,
            "deviation": deviation,
            "users_an_arm": users,
            "found": hits / count,
            "standard_errors": (hits / count - target) / error,
            "inside_3": bool(abs(hits / count - target) <= 3 * error),
        }
    return found


def cuped_reduction(count: int, seed: int) -> dict[str, Any]:
    """Variance of estimates over experiments with and without CUPED, beside what the correlation predicts."""
    design = Design(users=USERS, days=DAYS, paired=False, pre_days=DAYS)
    plain, sharp, predicted = [], [], []
    for k in range(count):
        rng = np.random.default_rng((seed, k))
        arms = {}
        for name in ("a", "b"):
            users = LightUsers.draw(USERS // 2, rng)
            arms[name] = users.live(DAYS, rng, earlier=users.live(DAYS, rng))
        comparison = Comparison(design, arms)
        row = next(row for row in cuped_rows(comparison) if row["metric"] == "active_days")
        plain.append(comparison.effect("active_days", "b").effect)
        sharp.append(row["effect"])
        predicted.append(row["predicted_reduction"])
    measured = 1.0 - float(np.var(sharp) / np.var(plain))
    return {"experiments": count, "predicted_reduction": float(np.mean(predicted)), "variance_reduction": measured}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=1_000)
    parser.add_argument("--population", type=int, default=100_000, help="users of the simulator that are split anew each time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("simulator_power",), help="this part alone")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    started = time.process_time()

    def tell(text: str) -> None:
        if not options.json:
            print(f"{time.process_time() - started:6.0f} core-s  {text}", flush=True)

    if options.only:
        print(json.dumps(simulator_power(max(400, options.experiments // 2), options.seed), indent=None if options.json else 2))
        return
    found: dict[str, Any] = {"users": USERS, "days": DAYS, "level": LEVEL}
    found["light"] = false_positives(light_pairs(options.experiments, options.seed), tell)
    tell("simulating one population")
    everybody = simulated_users(options.population)
    found["simulator"] = false_positives(split_pairs(everybody, options.experiments, options.seed + 1), tell)
    found["coverage"] = coverage(options.experiments, options.seed + 2)
    found["power"] = planned_power(max(400, options.experiments), options.seed + 3)
    found["cuped"] = cuped_reduction(options.experiments, options.seed + 4)
    found["simulator_power"] = simulator_power(max(400, options.experiments // 2), options.seed + 5)
    found["core_seconds"] = time.process_time() - started
    print(json.dumps(found) if options.json else json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
