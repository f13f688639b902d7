"""How many requests of users one core simulates a second: each response model, each way to rank, beside a reference kernel.

A user-step is one request of one live user: 6 items ranked or given, 7 behaviours and watch time drawn for each, satisfaction, leaving,
return, a history of 50 items pushed on. The catalogue has 7,583 items, vectors 32 numbers; no truth is asked for. The reference kernel is
what no step can do without: rows of the shown items gathered, 48 log-odds turned into probabilities, 12 random words mixed. It runs in
turns with the rest, so that its ratio holds on a busy machine, too. Core-seconds of one thread; least time of several runs.

python benchmarks/simulator.py --json
python benchmarks/simulator.py --small --json         # a small catalogue, few users
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import Tensor

from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from simulators.config import WorldAction, WorldConfig
from simulators.leave import LeaveLaw
from simulators.past import PAST, PastEffect
from simulators.response_model import ResponseModel
from simulators.retention import RetentionLaw
from simulators.sequence_response import SequenceResponse
from simulators.toy import toy_response
from simulators.world import RetentionWorld

_AT_A_TIME = 4
SLATE, BEHAVIOURS, ITEMS, USERS, DIM, MEMORY = 6, 7, 7_583, 27_285, 32, 32


@dataclass(frozen=True)
class Setting:
    """What is measured: a model, a way to rank, and users side by side."""

    model: str
    kind: WorldAction
    pool: int
    batch: int
    watch: bool = True


SETTINGS = {
    "latent": Setting("latent", "slate", 0, 16_384),
    "latent_without_watch": Setting("latent", "slate", 0, 16_384, watch=False),
    "latent_tiles_of_4096": Setting("latent", "slate", 0, 4_096),
    "sequence": Setting("sequence", "slate", 0, 4_096),
    "fusion_pool_200": Setting("latent", "fusion_weights", 200, 2_048),
    "embedding_pool_200": Setting("latent", "embedding", 200, 2_048),
    "embedding_full_catalogue": Setting("latent", "embedding", 0, 512),
    "full_catalogue": Setting("latent", "fusion_weights", 0, 512),
}


def sequence_model(users: int, items: int) -> SequenceResponse:
    """Random weights: what a step costs does not depend on them."""
    generator, head = torch.Generator().manual_seed(0), toy_response(users, items, DIM)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    h, edges = MEMORY, torch.arange(63)
    gates = (draw(h, 3 * h), draw(3 * h), draw(items + 1, 3 * h), draw(256, 3 * h))
    past = PastEffect(edges + 0.5, (edges / 64).expand(7, -1), torch.full((7,), 0.1), draw(7, 64, 64, 7))
    memories = torch.cat([draw(users, h), torch.full((users, PAST), 60.0)], dim=1)
    return SequenceResponse(head, *gates, draw(h), memories, draw(h, DIM + 8), past)


class Work:
    """Requests of one setting, a few at a time from the same state on.

    Args:
        setting: what is measured.
        model: the response model.
        batch: users side by side.
    """

    def __init__(self, setting: Setting, model: ResponseModel, batch: int) -> None:
        config = WorldConfig(
            action_kind=setting.kind,
            slate_size=SLATE,
            pool_size=setting.pool,
            exclude_recent=30 if setting.kind in ("fusion_weights", "embedding") else 0,
            horizon_days=3650,
            truth=False,
        )
        law = RetentionLaw.published()
        self.world = RetentionWorld(config, model, LeaveLaw.synthetic(6.0), law, baseline=torch.full((model.n_users,), 0.2))
        self.streams, generator = TensorStreams(0), torch.Generator().manual_seed(0)
        state = self.world.initial_state(self.world.population(batch), self.streams)
        spec = self.world.action_spec
        if spec.is_vector:
            self.action = torch.randn(batch, *spec.shape, generator=generator)
        else:
            self.action = torch.randint(0, self.world.n_items, (batch, SLATE), generator=generator)
        # users in the middle of their sessions
        for _ in range(3):
            state, _ = self.world.transition(state, self.action, self.streams)
        self.start = self.state = state
        self.taken = 0

    def __call__(self) -> int:
        """One request; returns the live users."""
        if self.taken % 12 == 0:
            self.state = self.start
        live, self.taken = self.state.alive, self.taken + 1
        self.state, _ = self.world.transition(self.state, self.action, self.streams)
        return int(live.sum())


def reference(batch: int, items: int) -> Callable[[], int]:
    """The kernel that no step can do without, for ``batch`` users."""
    table, generator = torch.randn(items, DIM + 8), torch.Generator().manual_seed(0)
    shown = torch.randint(0, items, (batch * SLATE,), generator=generator)
    rows = torch.empty(batch * SLATE, DIM + 8)
    probabilities = torch.empty(batch, SLATE, BEHAVIOURS + 1)
    logits, users, streams = torch.randn_like(probabilities), torch.arange(batch), TensorStreams(0)

    def once() -> int:
        torch.index_select(table, 0, shown, out=rows)
        torch.sigmoid(logits, out=probabilities)
        streams.bits(users, 1, Purpose.RESPONSES, (2 * SLATE,))
        return batch

    return once


def rates(works: dict[str, Callable[[], int]], repeats: int) -> dict[str, float]:
    """Users a core-second of each work, its least time of ``repeats`` runs, all taken in turns."""
    best = dict.fromkeys(works, math.inf)
    for name, work in (turn for _ in range(repeats) for turn in works.items()):
        # the first request of a turn finds the caches full of the others
        for _ in range(_AT_A_TIME):
            started = time.process_time()
            done = work()
            best[name] = min(best[name], (time.process_time() - started) / done)
    return {name: 1.0 / cost for name, cost in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a small catalogue, few users")
    parser.add_argument("--repeats", type=int, default=0, help="turns of a setting, of which the quickest request counts")
    parser.add_argument("--only", nargs="*", default=list(SETTINGS), choices=list(SETTINGS), metavar="KEY", help="these settings alone")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    items, users, share = (800, 500, 16) if options.small else (ITEMS, USERS, 1)
    latent = toy_response(users, items, DIM)
    silent = toy_response(users, items, DIM)
    silent.watch = None
    models: dict[tuple[str, bool], ResponseModel] = {
        ("latent", True): latent,
        ("latent", False): silent,
        ("sequence", True): sequence_model(users, items),
    }
    settings = {name: SETTINGS[name] for name in options.only}
    works = {name: Work(s, models[s.model, s.watch], max(32, s.batch // share)) for name, s in settings.items()}
    batch = 16_384 // share
    found = rates({"reference": reference(batch, items), **works}, options.repeats or (3 if options.small else 30))
    kernel = found.pop("reference")
    result: dict[str, Any] = {
        "benchmark": "simulator",
        "slate": SLATE,
        "behaviours": BEHAVIOURS,
        "items": items,
        "user_steps_per_core_second": {name: round(rate) for name, rate in found.items()},
        "reference_kernel_per_core_second": round(kernel),
        "ratio_to_reference": {name: round(rate / kernel, 5) for name, rate in found.items()},
        "bytes_a_user": {name: round(work.state.nbytes() / len(work.state)) for name, work in works.items()},
        "load_average": round(os.getloadavg()[0], 1),
    }
    if options.json:
        print(json.dumps(result))
        return
    for name, rate in found.items():
        share_of_kernel, size = rate / kernel, result["bytes_a_user"][name]
        print(f"{name:26} {rate:12,.0f} user-steps a core-second, {share_of_kernel:.4f} of the kernel; {size} bytes a user")
    print(f"{'reference kernel':26} {kernel:12,.0f}; load average {result['load_average']}")


if __name__ == "__main__":
    main()
