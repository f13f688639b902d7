"""What off-policy estimates cost beside the Open Bandit Pipeline: rows, ragged sequences, intervals by user, a catalogue of 7,583 items.

Both sides get the same nuisance arrays, ours with the reduction from (rows x actions) to rows counted in; values must agree to 1e-6.
Times are least core-milliseconds of interleaved runs. The catalogue part runs in a process of its own, whose peak memory is reported.

python benchmarks/ope.py --json
python benchmarks/ope.py --small --json         # a fiftieth of the rows
python benchmarks/ope.py --parts obp ragged --json
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

import offline_eval
from offline_eval.catalogue import drawn, streamed
from offline_eval.contributions import cluster_sums
from offline_eval.trajectories import trajectories
from recrl.core.contracts import LoggedFeedback
from recrl.core.ragged import Offsets

PARTS = ("obp", "ragged", "intervals", "catalogue")
ACTIONS, ITEMS, ROWS, USERS = 10, 7_583, 1_436_609, 27_285
Work = Callable[[], object]


def core_ms(works: Mapping[str, Work], repeats: int = 7) -> dict[str, float]:
    """Least core time of each work, taken in turns."""
    best = dict.fromkeys(works, math.inf)
    for _ in range(repeats):
        for name, work in works.items():
            started = time.process_time()
            work()
            best[name] = min(best[name], 1e3 * (time.process_time() - started))
    return best


def beside_obp(rows: int) -> dict[str, Any]:
    """Value and cost of each estimator that both have, from arrays (rows, ACTIONS)."""
    from obp import ope as obp

    rng = np.random.default_rng(0)
    target, predicted = rng.dirichlet(np.ones(ACTIONS), rows), rng.random((rows, ACTIONS))
    action, reward, propensity = rng.integers(0, ACTIONS, rows), rng.random(rows), np.full(rows, 1 / ACTIONS)
    position, row, user = np.zeros(rows, dtype=int), np.arange(rows), np.arange(rows) // 20
    theirs = {
        "reward": reward,
        "action": action,
        "position": position,
        "pscore": propensity,
        "action_dist": target[:, :, None],
        "estimated_rewards_by_reg_model": predicted[:, :, None],
    }
    ours = LoggedFeedback(reward, np.log(target[row, action]), np.log(propensity), user)
    pairs: dict[str, Any] = {
        "ips": obp.InverseProbabilityWeighting(),
        "clipped_ips": obp.InverseProbabilityWeighting(lambda_=10.0),
        "snips": obp.SelfNormalizedInverseProbabilityWeighting(),
        "dm": obp.DirectMethod(),
        "dr": obp.DoublyRobust(),
        "sndr": obp.SelfNormalizedDoublyRobust(),
        "switch_dr": obp.SwitchDoublyRobust(lambda_=10.0),
        "dr_os": obp.DoublyRobustWithShrinkage(lambda_=100.0),
        "sg_ips": obp.SubGaussianInverseProbabilityWeighting(lambda_=0.1),
        "sg_dr": obp.SubGaussianDoublyRobust(lambda_=0.1),
    }
    found = {}
    for name, peer in pairs.items():
        predicts = bool(offline_eval.needs(name))

        def here(name: str = name, predicts: bool = predicts) -> float:
            given = ours
            if predicts:
                direct = np.einsum("na,na->n", target, predicted)
                given = LoggedFeedback(reward, ours.target_log_prob, ours.behaviour_log_prob, user, direct, predicted[row, action])
            return offline_eval.value(offline_eval.REGISTRY[name].contributions(given))

        cost = core_ms({"ours": here, "obp": lambda peer=peer: peer.estimate_policy_value(**theirs)})
        apart = abs(here() / peer.estimate_policy_value(**theirs) - 1)
        assert apart < 1e-6, (name, apart)
        found[name] = {**{k: round(v, 2) for k, v in cost.items()}, "times": round(cost["obp"] / cost["ours"], 2), "apart": apart}
    return found


def sessions_log(sessions: int) -> LoggedFeedback:
    """Sessions of 20 steps on average, two a user."""
    rng = np.random.default_rng(1)
    lengths = rng.geometric(1 / 20, sessions)
    steps = int(lengths.sum())
    behaviour = rng.normal(-2.0, 0.3, steps)
    columns = (rng.random(steps), behaviour + rng.normal(-0.005, 0.1, steps), behaviour, np.repeat(np.arange(sessions) // 2, lengths))
    predicted = (rng.random(steps), rng.random(steps))
    return LoggedFeedback(*columns, *predicted, Offsets.from_lengths(lengths), np.full(steps, 0.95))


def pdis_by_loop(log: LoggedFeedback) -> float:
    """Per-decision importance sampling, one step at a time."""
    assert log.trajectory is not None
    starts, total = log.trajectory.values.tolist(), 0.0
    target, behaviour, reward, discount = (x.tolist() for x in (log.target_log_prob, log.behaviour_log_prob, log.reward, log.discount))
    for k in range(len(starts) - 1):
        weight, present = 0.0, 1.0
        for i in range(starts[k], starts[k + 1]):
            weight += target[i] - behaviour[i]
            total += math.exp(weight) * present * reward[i]
            present *= discount[i]
    return total / (len(starts) - 1)


def ragged(sessions: int) -> dict[str, float]:
    """Sequences of any length, beside a Python loop."""
    log = sessions_log(sessions)
    works: dict[str, Work] = {"weights": lambda: trajectories(log).ratio()}
    for name in ("pdis", "wis", "seq_dr", "wpdis", "seq_wdr"):
        works[name] = lambda name=name: offline_eval.REGISTRY[name].contributions(log)
    cost = core_ms(works) | core_ms({"pdis by a Python loop": lambda: pdis_by_loop(log)}, repeats=2)
    loop, ours = pdis_by_loop(log), offline_eval.value(offline_eval.PDIS().contributions(log))
    assert abs(loop - ours) < 1e-9 * abs(loop)
    return {"steps": log.reward.size, **{k: round(v, 2) for k, v in cost.items()}}


def intervals(rows: int, users: int) -> dict[str, float]:
    """From rows to an interval by user; a bootstrap has 1,000 resamples."""
    rng = np.random.default_rng(0)
    columns = (rng.random(rows), rng.normal(-0.02, 0.2, rows), np.zeros(rows), np.sort(rng.integers(0, users, rows)))
    contributions = offline_eval.SNIPS().contributions(LoggedFeedback(*columns))
    works: dict[str, Work] = {"sums by user": lambda: cluster_sums(contributions)}
    for method in ("delta", "skew_t", "bootstrap", "poisson_bootstrap"):
        works[method] = lambda method=method: offline_eval.interval(contributions, method=method)
    return {k: round(v, 2) for k, v in core_ms(works, repeats=3).items()}


def catalogue(rows: int) -> dict[str, float]:
    """DR with a personal softmax policy over all items: the direct term streamed exactly, and drawn from cohorts' policies."""
    rng, width, cohorts = np.random.default_rng(2), 8, 50
    tastes, items = rng.normal(size=(rows, width)).astype(np.float32), rng.normal(size=(ITEMS, width)).astype(np.float32)
    worth = (0.3 * items + 0.1).T.copy()
    item, user = rng.integers(0, ITEMS, rows), np.arange(rows) * USERS // rows
    reward = (rng.random(rows) < 0.3).astype(float)
    target = np.empty(rows)

    def probabilities(row: np.ndarray) -> np.ndarray:
        chance = np.exp(0.2 * tastes[row] @ items.T)
        chance /= chance.sum(axis=1, keepdims=True)
        target[row] = chance[np.arange(row.size), item[row]]
        return chance

    started = time.process_time()
    direct = streamed(probabilities, lambda row: tastes[row] @ worth, rows)
    logged = np.einsum("nd,nd->n", tastes, worth.T[item]).astype(float)
    exact = LoggedFeedback(reward, np.log(target), np.full(rows, -np.log(ITEMS)), user, direct, logged)
    value = offline_eval.interval(offline_eval.DR().contributions(exact))
    found = {"rows": rows, "streamed_core_s": time.process_time() - started, "dr": value.value, "dr_se": value.standard_error}

    cumulative = rng.dirichlet(np.full(ITEMS, 0.5), cohorts).cumsum(axis=1)
    started = time.process_time()

    def draw(row: np.ndarray, count: int) -> np.ndarray:
        out, uniform = np.empty((row.size, count), dtype=np.int64), rng.random((row.size, count))
        for cohort in range(cohorts):
            mine = row % cohorts == cohort
            out[mine] = np.searchsorted(cumulative[cohort], uniform[mine])
        return out.clip(max=ITEMS - 1)

    term = drawn(draw, lambda row, action: np.einsum("nd,nmd->nm", tastes[row], worth.T[action]), rows)
    plain = LoggedFeedback(reward, np.zeros(rows), np.zeros(rows), user, term.value, logged)
    whole = offline_eval.interval(offline_eval.DM().contributions(plain)).standard_error
    found |= {"drawn_core_s": time.process_time() - started, "drawn_se": term.standard_error, "dm_se": whole}
    return {**found, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--small", action="store_true", help="a fiftieth of the rows")
    parser.add_argument("--catalogue", action="store_true", help="only the catalogue, in this process")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    share = 50 if options.small else 1
    if options.catalogue:
        print(json.dumps(catalogue(ROWS // share)))
        return
    found: dict[str, Any] = {"benchmark": "ope", "share_of_rows": 1 / share, "load": os.getloadavg()[0]}
    if "obp" in options.parts:
        try:
            found["beside_obp_core_ms"] = beside_obp(1_000_000 // share)
        except ImportError as error:
            found["beside_obp_core_ms"] = f"left out, make peers: {error}"
    if "ragged" in options.parts:
        found["ragged_core_ms"] = ragged(40_000 // share)
    if "intervals" in options.parts:
        found["interval_core_ms"] = intervals(ROWS // share, USERS // share)
    if "catalogue" in options.parts:
        command = [sys.executable, __file__, "--catalogue", *(["--small"] if options.small else [])]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
        found["catalogue"] = {k: float(f"{v:.4g}") for k, v in json.loads(ran.stdout).items()}
    print(json.dumps(found, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
