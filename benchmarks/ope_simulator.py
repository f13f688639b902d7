"""Off-policy estimates in the simulator: rank correlation with the simulated truth, interval coverage, and how often a verdict was right.

Seven policies (uniform, and softmax over the platform's predicted clicks or likes, for items; Plackett-Luce for slates of three) are judged
from logs of four loggers, over four seeds, in the toy world with item and with slate actions: 224 cells. A log holds the first 8
requests of 1,000 users. Two questions: clicks a request, by estimators of rows, for which everything that the policy changes later (who
stays, what is left to show) is a trap; and clicks a user, by estimators of sequences. The truth is the same policy in the same world, with
20,000 users of its own. Estimators of rows are also held against what they can tell: the policy for one request in the logger's states
(``held_here``).

Every log is a line of --out; a run that was stopped goes on where it was.

python benchmarks/ope_simulator.py --json
python benchmarks/ope_simulator.py --small --json         # 14 cells, 60 users
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

import offline_eval
from offline_eval.selection import rank_correlation
from recrl.core.contracts import LoggedFeedback
from recrl.core.objective import Objective, Signal
from recrl.core.ragged import Offsets
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from simulators.toy import TOY_CONFIG, toy_world
from simulators.world import RetentionWorld

REQUESTS, DRAWS, LIKE = 8, 6, 2
WORLDS = {"item": 1, "slate": 3}
POLICIES = {"uniform": (0, 0.0), **{f"{name} {s:+g}": (k, s) for name, k in (("click", 0), ("like", LIKE)) for s in (-0.5, 0.7, 1.5)}}
LOGGERS = {"uniform": (0, 0.0), "click +0.5": (0, 0.5), "click +1.5": (0, 1.5), "like -0.5": (LIKE, -0.5)}
BY_ROW, BY_USER = ("snips", "ncis", "dm", "sndr"), ("wis", "wpdis", "pdis", "seq_dm", "seq_wdr")


@dataclass(frozen=True, eq=False)
class Life:
    """Requests of users, user by user: ``scores`` (n, C, 7), chosen positions (n, K), clicks (n,), lengths (users,)."""

    scores: Tensor
    chosen: Tensor
    clicks: NDArray[np.float64]
    lengths: NDArray[np.int64]


def world_of(kind: str) -> RetentionWorld:
    config = replace(TOY_CONFIG, action_kind=kind, slate_size=WORLDS[kind], observe_scores=True, truth=False)
    return toy_world(config, Objective(Signal("click")))


def log_chances(scores: Tensor, policy: tuple[int, float]) -> Tensor:
    """Unnormalised log-chance of each candidate, (..., C): sharpness times the standardised prediction."""
    score = scores[..., policy[0]].logit(eps=1e-6)
    return policy[1] * (score - score.mean(-1, keepdim=True)) / score.std(-1, keepdim=True)


def slate_log_prob(logits: Tensor, chosen: Tensor) -> Tensor:
    """Plackett-Luce: each position is a softmax over what is left; (..., C), (..., K) -> (...)."""
    total, left = torch.zeros(chosen.shape[:-1]), logits.clone()
    for k in range(chosen.shape[-1]):
        pick = chosen[..., k : k + 1]
        total += left.log_softmax(-1).gather(-1, pick).squeeze(-1)
        left = left.scatter(-1, pick, -torch.inf)
    return total


def draw_slates(logits: Tensor, uniform: Tensor, size: int) -> Tensor:
    """Gumbel's trick: the ``size`` largest of logits plus noise; (..., C) -> (..., size)."""
    noise = -torch.log(-torch.log(uniform.clamp(1e-12, 1 - 1e-7)))
    return torch.topk(logits + noise, size).indices


@torch.no_grad()
def live(world: RetentionWorld, policy: tuple[int, float], users: int, seed: int, keep: bool) -> Life:
    """The first REQUESTS requests of users; without ``keep`` only clicks and lengths."""
    streams, state = TensorStreams(seed), None
    streams = TensorStreams(seed)
    state = world.initial_state(world.population(users, seed), streams)
    seen, columns = [], []
    for _ in range(REQUESTS):
        observation = world.observe(state)
        logits = log_chances(observation.candidate_scores, policy)
        uniform = streams.uniform(state.uid, state.counter, Purpose.EXPLORATION, (logits.shape[1],))
        chosen = draw_slates(logits, uniform, world.config.shown)
        items = observation.candidates.gather(1, chosen)
        seen.append(state.alive)
        state, outcome = world.transition(state, items if world.action_spec.shape else items.squeeze(1), streams)
        columns.append((observation.candidate_scores, chosen, outcome.reward[:, 0]) if keep else (outcome.reward[:, 0],))
    mask = torch.stack(seen, dim=1)
    stacked = [torch.stack(column, dim=1)[mask] for column in zip(*columns, strict=True)]
    scores, picked = (stacked[0], stacked[1]) if keep else (torch.empty(0), torch.empty(0))
    return Life(scores, picked, stacked[-1].double().numpy(), mask.sum(1).numpy())


def features(scores: Tensor, chosen: Tensor, request: Tensor) -> Tensor:
    """What a reward model sees: mean predicted click, long view and like of what is shown, and which request it is; (..., 4)."""
    shown = scores[..., :3].gather(-2, chosen[..., None].expand(*chosen.shape, 3)).mean(-2)
    return torch.cat([shown, request[..., None].expand(*shown.shape[:-1], 1)], dim=-1)


def judged(life: Life, logger: tuple[int, float], target: tuple[int, float], seed: int) -> tuple[LoggedFeedback, LoggedFeedback]:
    """Rows with predicted rewards, and users' sequences with predicted returns, both cross-fitted ridge."""
    user = np.repeat(np.arange(life.lengths.size), life.lengths)
    request = torch.as_tensor(np.concatenate([np.arange(n) for n in life.lengths])).float()
    logits = log_chances(life.scores, target)
    columns = (slate_log_prob(logits, life.chosen), slate_log_prob(log_chances(life.scores, logger), life.chosen))
    offsets = Offsets.from_lengths(life.lengths)
    log = LoggedFeedback(life.clicks, *(x.double().numpy() for x in columns), user, trajectory=offsets)
    x = features(life.scores, life.chosen, request).double().numpy()
    streams = TensorStreams(seed + 77)

    def actions(rows: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """DRAWS slates of the target policy; all candidates where one item is shown."""
        at, count = torch.as_tensor(rows), life.chosen.shape[1]
        scores, candidates = life.scores[at][:, None], life.scores.shape[1]
        if count == 1:
            picked, chance = torch.arange(candidates).expand(len(at), -1)[..., None], logits[at].double().softmax(-1)
        else:
            uniform = streams.uniform(at, 0, Purpose.CANDIDATES, (DRAWS * candidates,)).view(len(at), DRAWS, candidates)
            picked = draw_slates(logits[at][:, None].expand(-1, DRAWS, -1), uniform, count)
            chance = torch.full(picked.shape[:2], 1 / DRAWS, dtype=torch.float64)
        wide = scores.expand(-1, picked.shape[1], -1, -1)
        return features(wide, picked, request[at][:, None].expand(-1, picked.shape[1])).double().numpy(), chance.numpy()

    rows = offline_eval.cross_fit(log, x, actions, model="ridge", folds=2, seed=seed)
    return rows, offline_eval.fitted_q(log, x, actions, model="ridge", folds=2, iterations=REQUESTS, seed=seed)


def truths(kind: str, users: int) -> dict[str, dict[str, float]]:
    """Clicks a request and clicks a user of each policy, with their standard errors."""
    world, found = world_of(kind), {}
    for name, policy in POLICIES.items():
        life = live(world, policy, users, 10**6, keep=False)
        sums, counts = np.add.reduceat(life.clicks, np.cumsum(life.lengths) - life.lengths), life.lengths
        rate = sums.sum() / counts.sum()
        errors = (float((sums - rate * counts).std() / counts.mean() / users**0.5), float(sums.std() / users**0.5))
        found[name] = {"row": rate, "user": float(sums.mean()), "row_error": errors[0], "user_error": errors[1]}
    return found


def truths_here(kind: str, users: int) -> dict[tuple[str, str], float]:
    """Clicks a request if each policy chose for one request in the states that each logger leads to: what rows alone can tell.

    The toy's predictions are its true chances, so that no outcome needs to be drawn.
    """
    world, found = world_of(kind), {}
    for logger, policy in LOGGERS.items():
        life = live(world, policy, users, 10**6 + 1, keep=True)
        for name, target in POLICIES.items():
            logits = log_chances(life.scores, target)
            if world.config.shown == 1:
                mean = (logits.softmax(-1) * life.scores[..., 0]).sum(-1).mean()
            else:
                uniform = TensorStreams(5).uniform(torch.arange(len(logits)), 0, Purpose.CANDIDATES, (logits.shape[1],))
                mean = life.scores[..., 0].gather(1, draw_slates(logits, uniform, world.config.shown)).mean()
            found[logger, name] = float(mean)
    return found


def held_here(cells: list[dict[str, Any]], users: int) -> None:
    """Tell of each estimate by rows whether its interval holds what rows can tell."""
    here = {kind: truths_here(kind, users) for kind in WORLDS}
    for cell in cells:
        if cell["estimator"] in BY_ROW:
            cell["held_here"] = bool(cell["lower"] <= here[cell["world"]][cell["logger"], cell["policy"]] <= cell["upper"])


def one_log(kind: str, logger: str, seed: int, users: int, truth: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Every policy judged from one log by every estimator."""
    life = live(world_of(kind), LOGGERS[logger], users, seed, keep=True)
    cells = []
    for name, target in POLICIES.items():
        logs = dict(zip(("row", "user"), judged(life, LOGGERS[logger], target, seed), strict=True))
        for unit, estimators in (("row", BY_ROW), ("user", BY_USER)):
            for estimator in estimators:
                found = offline_eval.estimate(logs[unit], offline_eval.REGISTRY[estimator])
                true = truth[name][unit]
                cells.append(
                    {
                        **{"world": kind, "logger": logger, "seed": seed, "policy": name, "estimator": estimator, "truth": true},
                        **{"value": found.value, "lower": found.lower, "upper": found.upper, "verdict": found.verdict},
                        "held": bool(found.lower <= true <= found.upper),
                    }
                )
    return cells


def summary(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Rank correlation by log, coverage, and hit rates of verdicts, each with its count."""

    def grouped(key: Callable[[dict[str, Any]], Any], rows: list[dict[str, Any]]) -> dict[Any, list[dict[str, Any]]]:
        out = defaultdict(list)
        for row in rows:
            out[key(row)].append(row)
        return out

    table: dict[str, Any] = {}
    for (kind, estimator), rows in grouped(lambda r: (r["world"], r["estimator"]), cells).items():
        logs = grouped(lambda r: (r["logger"], r["seed"]), rows).values()
        ranks = [rank_correlation([r["truth"] for r in log], [r["value"] for r in log]) for log in logs]
        half = float(stats.t.ppf(0.975, max(len(ranks) - 1, 1)) * np.std(ranks, ddof=1) / len(ranks) ** 0.5) if len(ranks) > 1 else None
        error = [abs(r["value"] - r["truth"]) / r["truth"] for r in rows]
        verdicts = grouped(lambda r: r["verdict"], rows)
        table[f"{kind} {estimator}"] = {
            "cells": len(rows),
            "rank": float(np.mean(ranks)),
            "rank_half_width": half,
            "covered": float(np.mean([r["held"] for r in rows])),
            **({"covered_here": float(np.mean([r["held_here"] for r in rows]))} if estimator in BY_ROW else {}),
            "median_error": float(np.median(error)),
            "verdicts": {
                v: {"cells": len(part), **{key: float(np.mean([r[key] for r in part])) for key in ("held", "held_here") if key in part[0]}}
                for v, part in verdicts.items()
            },
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--truth-users", type=int, default=20_000)
    parser.add_argument("--out", type=Path, help="JSON lines, one a log; kept, and gone on with")
    parser.add_argument("--small", action="store_true", help="14 cells, 60 users")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    loggers = list(LOGGERS)
    if options.small:
        options.users, options.seeds, options.truth_users, loggers = 60, 1, 120, loggers[1:2]
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="fitted Q evaluation has not settled")
    started, asked = time.process_time(), [options.users, options.truth_users]
    done: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    if options.out and options.out.exists():
        for line in options.out.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if entry["asked"] == asked:
                done[tuple(entry["key"])] = entry["cells"]
    for kind in WORLDS:
        keys = [(kind, logger, seed) for logger in loggers for seed in range(options.seeds)]
        truth = truths(kind, options.truth_users) if any(key not in done for key in keys) else {}
        for key in keys:
            if key not in done:
                done[key] = one_log(*key, options.users, truth)
                if options.out:
                    with options.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps({"asked": asked, "key": key, "cells": done[key]}) + "\n")
    cells = [cell for part in done.values() for cell in part]
    held_here(cells, options.truth_users // 2)
    table = summary(cells)
    if not options.json:
        for name, row in table.items():
            print(f"{name:15} {row}")
    print(json.dumps({"benchmark": "ope_simulator", "core_seconds": round(time.process_time() - started, 1), "table": table}))


if __name__ == "__main__":
    main()
