"""How long an A/B test of many simulated users takes, from the policies to the tables, and in how much memory.

Two small policies of fusion weights over pools of 200 candidates, in a world of KuaiRand-Pure's size (27,000 users, 7,583 items, latent
model with random tastes, published return hazards, scenario `strong`). `--depth` states the requests of a session: about 2 is what
KuaiRand's thinned rows show, 6 is a rested user elsewhere. The work is in user-steps, one request of one user; seconds are of the
clock. `--kill-after` stops the run with SIGKILL after so many seconds; the same command then goes on.

python benchmarks/ab_scale.py --users 100000 --days 30 --shards 2 --json
python benchmarks/ab_scale.py --users 1000000 --days 30 --shards 2 --depth 2 --folder runs/million --kill-after 600
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from simulator import sequence_model  # benchmarks/simulator.py, beside this script

from recrl.pipeline.shards import EngineOptions, simulate_in_shards
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig, VectorPolicy
from simulators.ab import Design, Experiment
from simulators.ab.parts import pieces_there
from simulators.boosted_response import BoostedResponse
from simulators.config import WorldConfig
from simulators.leave import LeaveLaw
from simulators.past import PastEffect
from simulators.response import WIDTH
from simulators.retention import RetentionLaw
from simulators.satisfaction import Satisfaction
from simulators.toy import toy_response
from simulators.world import RetentionWorld, mean_satisfaction

USERS, ITEMS, DIM = 27_000, 7_583, 32


def boosted_model() -> BoostedResponse:
    """Random tables: what a step costs does not depend on them."""
    generator, latent = torch.Generator().manual_seed(0), toy_response(1, 1, DIM)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.5 - 0.5

    groups, edges = 64, torch.arange(63)
    past = PastEffect(edges + 0.5, (edges / 64).expand(7, -1), torch.full((7,), 0.1), draw(7, 64, 64, 7) / 7)
    table, offsets = draw(groups, ITEMS + 1, WIDTH), draw(USERS + 1, WIDTH)
    return BoostedResponse(table, offsets, torch.arange(USERS + 1) % groups, latent.off_click, past, watch=latent.watch)


MODELS = {
    "latent": lambda: toy_response(USERS, ITEMS, DIM),
    "sequence": lambda: sequence_model(USERS, ITEMS),
    "boosted": boosted_model,
}


def experiment(options: argparse.Namespace) -> Experiment:
    """Two small networks that weigh predicted behaviours, on the same users."""
    config = WorldConfig(truth=False, scenario="strong", horizon_days=options.days, pool_size=options.pool)
    response = MODELS[options.model]()
    # a user's own baseline over 256 items tells it well enough
    baseline = mean_satisfaction(response, Satisfaction(), torch.arange(0, ITEMS, ITEMS // 256))
    world = RetentionWorld(config, response, LeaveLaw.synthetic(options.depth), RetentionLaw.published(), baseline=baseline)
    encoder = EncoderConfig(kind="flat", features=world.n_features)
    actor = ActorConfig(encoder=encoder, hidden=(64, 64))
    policies = {name: VectorPolicy(world.action_spec, actor, seed=seed).eval() for seed, name in enumerate(("first", "second"))}
    design = Design(
        users=options.users, days=options.days, deterministic=("first", "second"), eta_scenario="strong", eta=world.retention.eta_s
    )
    return Experiment(dict.fromkeys(policies, world), policies, design)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Simulate what is missing, make the tables, and say what it took."""
    asked = experiment(options)
    there = sum(high - low for low, high in pieces_there(folder))
    started = time.perf_counter()
    users = simulate_in_shards(asked, folder, EngineOptions(options.engine, options.shards), None if options.json else tell)
    simulated = time.perf_counter() - started
    tables = asked.result(users, simulated).tables()
    seconds = time.perf_counter() - started
    row = tables["ab_design"].to_pylist()[0]
    depth = {r["arm"]: r["mean"] for r in tables["ab_metrics"].to_pylist() if r["metric"] == "session_depth"}
    sizes = [path.stat().st_size for path in folder.glob("*.parquet")]
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    ours = resource.getrusage(resource.RUSAGE_SELF)
    core = sum(usage.ru_utime + usage.ru_stime for usage in (children, ours))
    return {
        "model": options.model,
        "users": options.users,
        "days": options.days,
        "shards": options.shards,
        "users_found_done": there,
        "session_depth": depth,
        "user_steps": row["user_steps"],
        "seconds": seconds,
        "seconds_of_tables": seconds - simulated,
        "core_seconds": core,
        "user_steps_per_second": row["user_steps"] / seconds if there == 0 else None,
        "peak_mb_main": ours.ru_maxrss / 1024,
        "peak_mb_worker": children.ru_maxrss / 1024,
        "disk_mb": sum(sizes) / 2**20,
        "load": os.getloadavg()[0],
        "digest": digest(tables),
    }


def digest(tables: Mapping[str, Any]) -> str:
    """A hash of every table but the one that tells the time."""
    import hashlib

    found = hashlib.sha256()
    for name, table in sorted(tables.items()):
        if name != "ab_design":
            found.update(json.dumps(table.to_pylist(), sort_keys=True).encode())
    return found.hexdigest()[:16]


def tell(done: float, text: str) -> None:
    """Progress on one line of stderr."""
    print(f"\r{done:6.1%} {text}", end="", file=sys.stderr, flush=True)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(MODELS), default="latent")
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--pool", type=int, default=200)
    parser.add_argument("--depth", type=float, default=2.0, help="requests of a rested user's session at baseline")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--engine", choices=("process", "ray"), default="process")
    parser.add_argument("--folder", type=Path, help="where parts are kept; a temporary folder by default")
    parser.add_argument("--kill-after", type=float, help="seconds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.kill_after:
        timer = threading.Timer(options.kill_after, lambda: os.kill(os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    with tempfile.TemporaryDirectory() as temporary:
        found = measure(options, options.folder or Path(temporary))
    print(json.dumps(found) if options.json else "\n" + json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
