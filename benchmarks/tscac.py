"""TSCAC and the constrained baselines on KuaiRand rows, judged off-policy; and updates per core-second.

Rows of the 150 videos most viewed in the training part (time split 70/15/15; users, histories and watch time as they are, in seconds).
States hold what came before a row. The logging policy is a clone fitted on training rows, its number of updates chosen by validation
rows; options of each method are chosen there too, four of each (the most watch time among those that keep every protected response at
cloning's level, else the least loss); test rows are looked at once. Estimates: NCIS with cap 10, SNIPS, DR, with user-clustered intervals
and effective sample size. A signal with fewer than 100 test events is not judged. A sweep over the 150 policies that always show one video
tells how much of a gain is popularity. These rows are nearly a bandit: most users have a single row a session.

Each cell (method, option, seed) is one JSON file in --cells: a run that was stopped goes on where it was, and later ones add seeds.

python benchmarks/tscac.py --root DATA --json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from numpy.typing import NDArray
from torch.profiler import ProfilerActivity, profile

from offline_eval import DR, NCIS, SNIPS, estimate
from recrl.algorithms import REGISTRY
from recrl.algorithms.task import Task
from recrl.core.contracts import ActionSpec, LoggedFeedback, Observation, Transitions
from recrl.core.files import read_json, write_json
from recrl.core.objective import Objective, Signal
from recrl.core.torch.views import as_tensor
from recrl.pipeline.setting import svd_item_vectors
from recrl.policies.encoders import EncoderConfig, build_encoder
from recrl.policies.items import ItemPolicy, item_spec
from recrl.policies.networks import initialise, mlp
from recrl.policies.vector import ActorConfig
from recrl.replay.logged import LoggedBuffer
from recrl.replay.ring import RingBuffer
from recrl.replay.samplers import UniformSampler
from recrl_datasets import Log, Split, prepare, split_by_time

ITEMS, BATCH, CAP, LEAST_EVENTS, HISTORY = 150, 256, 10.0, 100, 20
PROTECTED = ("click", "like", "long_view")
SIGNALS = ("watch_seconds", *PROTECTED)
PRINTED = ("comment", "follow", "forward", "hate")
ACTOR = ActorConfig(EncoderConfig(history=HISTORY), hidden=(128, 128))
METHODS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "tscac": ("tscac", [{"multipliers": (x,)} for x in (0.1, 0.3, 1.0, 3.0)]),
    "rcpo multi-critic": ("rcpo", [{"critics": "separate", "multipliers": (x,)} for x in (0.0, 3.0, 10.0, 30.0)]),
    "rcpo": ("rcpo", [{"multipliers": (x,)} for x in (0.0, 3.0, 10.0, 30.0)]),
    "joint critic": ("joint_critic", [{"weights": (5.0,), "imitation": x} for x in (0.003, 0.03, 0.3, 1.0)]),
    "pareto": ("pareto", [{"imitation": x} for x in (0.003, 0.03, 0.3, 1.0)]),
}
MATRIX_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
Float64 = NDArray[np.float64]


class Rows:
    """The rows of the most viewed videos, split by time, with the logging policy and predicted rewards; all from training rows."""

    def __init__(self, root: Path | None, stores: Path, updates: int) -> None:
        whole = prepare("kuairand-pure", root, stores=stores).log()
        cut = split_by_time(whole, (0.7, 0.15, 0.15))
        most = np.sort(np.argsort(-np.bincount(cut.train.column("item"), minlength=whole.n_items), kind="stable")[:ITEMS])
        kept = np.flatnonzero(np.isin(whole.column("item"), most))
        names = ["user", "item", "timestamp_ms", *(n for n in (*SIGNALS, *PRINTED) if whole.has(n))]
        columns = {name: whole.column(name)[kept] for name in names}
        columns["item"] = np.searchsorted(most, columns["item"]).astype(np.int32)
        self.log = Log.from_arrays(columns, n_users=whole.n_users, n_items=ITEMS)
        # the moments that split the whole log, since the 150 are chosen by its training part
        moments = [int(part.column("timestamp_ms").max()) for part in (cut.train, cut.valid)]
        part = np.searchsorted(moments, self.log.column("timestamp_ms"), side="left")
        train, valid, test = (self.log.select(part == k) for k in range(3))
        self.split = Split(train, valid, test, cut.note)
        self.objective = Objective(Signal("watch_seconds")).protecting(PROTECTED)
        self.buffer = LoggedBuffer(self.log, self.objective, history=HISTORY, session_rule="day")
        self.vectors = svd_item_vectors(self.split.train, 32)
        counts = np.bincount(self.split.train.column("item"), minlength=ITEMS)
        self.task = Task(item_spec(ITEMS), self.objective, self.vectors, torch.log1p(as_tensor(counts).float()))
        self.parts = {name: self._part(view) for name, view in (("validation", self.split.valid), ("test", self.split.test))}
        self.train_rows = self.buffer.rows_of(self.split.train, with_next=False)
        self._logging(updates)
        self._predictions(updates)

    def _part(self, view: Log) -> Transitions:
        return self.buffer.gather(self.buffer.rows_of(view, with_next=False))

    def _logging(self, updates: int) -> None:
        kind = REGISTRY["bc"]
        clone = kind(kind.config_type(actor=ACTOR), self.task, 99)
        sampler, best = UniformSampler(self.buffer, self.train_rows, 99), -np.inf
        for k in range(updates):
            clone.update(sampler.sample(BATCH, k))
            if (k + 1) % max(1, updates // 10) == 0:
                found = {name: self._law(clone.policy(), part) for name, part in self.parts.items()}
                fit = float(_picked(found["validation"], self.parts["validation"].action).mean())
                if fit > best:
                    best, self.behaviour = fit, found
        self.likelihood = best

    @staticmethod
    @torch.no_grad()
    def _law(policy: Any, part: Transitions) -> torch.Tensor:
        assert isinstance(policy, ItemPolicy)
        return torch.cat([policy.log_probs(part.observation[k : k + 2_048]) for k in range(0, len(part), 2_048)])

    def _predictions(self, updates: int) -> None:
        """Predicted rewards of every video, (n, items, signals), for doubly robust estimates."""
        encoder = build_encoder(ACTOR.encoder, self.vectors)
        net = mlp([encoder.width, 64, ITEMS * len(SIGNALS)])
        initialise(net, 98)
        optimiser, sampler = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.1), UniformSampler(self.buffer, self.train_rows, 98)
        scale = self.buffer.reward[self.train_rows].std(0)

        def predicted(observation: Observation) -> torch.Tensor:
            out: torch.Tensor = net(encoder(observation)).view(-1, ITEMS, len(SIGNALS))
            return out

        for k in range(updates):
            batch = sampler.sample(BATCH, k)
            chosen = predicted(batch.observation)[torch.arange(BATCH), batch.action]
            loss = ((chosen - batch.reward / scale) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            self.predicted = {name: predicted(part.observation) * scale for name, part in self.parts.items()}

    def judged(self, law: torch.Tensor, name: str) -> dict[str, dict[str, Any]]:
        """Estimates of each signal for a policy's law (n, items) over the rows of a part."""
        part, out = self.parts[name], {}
        assert part.cluster is not None
        logged, behaviour = (_picked(x, part.action).double().numpy() for x in (law, self.behaviour[name]))
        value = torch.einsum("ni,nis->ns", law.exp(), self.predicted[name]).double().numpy()
        own = self.predicted[name][torch.arange(len(part)), part.action].double().numpy()
        for k, signal in enumerate(SIGNALS):
            rows = LoggedFeedback(part.reward[:, k].double().numpy(), logged, behaviour, part.cluster.numpy(), value[:, k], own[:, k])
            found: dict[str, Any] = {"events": int((part.reward[:, k] > 0).sum())}
            for estimator in (NCIS(CAP), SNIPS(), DR()):
                one = estimate(rows, estimator)
                found[estimator.name] = [one.value, one.lower, one.upper]
            weight = np.minimum(np.exp(logged - behaviour), CAP)
            found["effective_share"] = float(weight.sum() ** 2 / (weight**2).sum() / len(weight))
            out[signal] = found
        return out

    def train(self, learner: str, options: dict[str, Any], updates: int, seed: int) -> dict[str, Any]:
        """One cell: train, then judge on validation and test rows."""
        kind = REGISTRY[learner]
        config = kind.config_type(actor=ACTOR, stage_one_updates=updates // 2, **options)
        one = kind(config, self.task, seed)
        sampler = UniformSampler(self.buffer, self.buffer.rows_of(self.split.train), seed)
        for k in range(updates):
            metrics = one.update(sampler.sample(BATCH, k)).metrics
        last = {name: float(x) for name, x in metrics.items()}
        return {"metrics": last, **{name: self.judged(self._law(one.policy(), part), name) for name, part in self.parts.items()}}

    def constants(self) -> dict[str, Any]:
        """Watch time of the policies that always show one video: capped NCIS, which of them is best chosen on validation rows."""
        found = {}
        for name, part in self.parts.items():
            weight = torch.exp(-_picked(self.behaviour[name], part.action)).clamp_max(CAP).double().numpy()
            item, reward = part.action.numpy(), part.reward[:, 0].double().numpy()
            total = np.bincount(item, weight, ITEMS)
            found[name] = np.bincount(item, weight * reward, ITEMS) / np.maximum(total, 1e-9)
        chosen = int(found["validation"].argmax())
        quantiles = np.quantile(found["test"], (0.0, 0.25, 0.5, 0.75, 1.0)).tolist()
        return {"chosen on validation": chosen, "its test watch_seconds": float(found["test"][chosen]), "test quantiles": quantiles}


def _picked(law: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    return law.gather(1, action.unsqueeze(1)).squeeze(1)


def chosen(cells: list[dict[str, Any]], clone: dict[str, Any]) -> int:
    """Which option of a method, by validation rows alone: averages over seeds come in."""
    share = [min(cell["validation"][s]["ncis"][0] / clone["validation"][s]["ncis"][0] for s in PROTECTED) for cell in cells]
    watch = [cell["validation"]["watch_seconds"]["ncis"][0] for cell in cells]
    keep = [k for k, x in enumerate(share) if x >= 1.0]
    return max(keep, key=lambda k: watch[k]) if keep else int(np.argmax(share))


def study(arguments: argparse.Namespace) -> dict[str, Any]:
    """The table, cell by cell."""
    rows = Rows(arguments.root, arguments.stores, arguments.updates)
    clone = {name: rows.judged(law, name) for name, law in rows.behaviour.items()}
    events = {s: clone["test"][s]["events"] for s in SIGNALS}
    events |= {s: int(rows.split.test.column(s).sum()) for s in PRINTED if rows.log.has(s)}
    out: dict[str, Any] = {
        "rows": {
            name: view.n_rows for name, view in (("train", rows.split.train), ("validation", rows.split.valid), ("test", rows.split.test))
        },
        "updates": arguments.updates,
        "validation log-likelihood of the clone": rows.likelihood,
        "test events": events,
        "not measurable": [s for s, n in events.items() if n < LEAST_EVENTS],
        "constant policies": rows.constants(),
        "bc": clone["test"],
        "methods": {},
    }
    for method, (learner, options) in METHODS.items():
        per_seed = []
        for seed in range(arguments.seeds):
            cells = []
            for k, option in enumerate(options[: arguments.options]):
                path = arguments.cells / f"{method.replace(' ', '-')}-{k}-seed{seed}-{arguments.updates}.json"
                if not path.is_file():
                    write_json(path, {"option": option, **rows.train(learner, option, arguments.updates, seed)})
                    print(f"{path.name} done", file=sys.stderr, flush=True)
                cells.append(read_json(path))
            best = chosen(cells, clone)
            per_seed.append({"seed": seed, "option": cells[best]["option"], "metrics": cells[best]["metrics"], "test": cells[best]["test"]})
        out["methods"][method] = per_seed
    return out


def speed(rounds: int, count: int = 15) -> dict[str, Any]:
    """Updates per core-second at batch 256 and layers of 256 and 256, sampling included, beside TD3 in interleaved rounds."""
    work = {"td3": _work("td3", 1, 2)}
    for signals in (2, 5):
        work |= {f"tscac, {signals} responses, stage {stage}": _work("tscac", signals, stage) for stage in (1, 2)}
    work |= {f"{name}, 2 responses": _work(name, 2, 2) for name in ("tscac_ddpg", "rcpo", "pareto", "joint_critic")}
    rates: dict[str, list[float]] = {name: [] for name in work}
    for function in work.values():
        function(count)
    for _ in range(rounds):
        for name, function in work.items():
            started = time.process_time()
            function(count)
            rates[name].append(count / (time.process_time() - started))
    out: dict[str, Any] = {"load average": os.getloadavg()[0]}
    for name, function in work.items():
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            function(count)
        events = seen.key_averages()
        products = sum(e.self_cpu_time_total for e in events if e.key in MATRIX_PRODUCTS) / sum(e.self_cpu_time_total for e in events)
        out[name] = {"median": float(np.median(rates[name])), "best": max(rates[name]), "outside matrix products": 1.0 - products}
    return out


def _work(name: str, signals: int, stage: int, kept: int = 10_000) -> Callable[[int], None]:
    """A function that does ``n`` updates: 17 features; 150 choices, or 6 numbers for learners of vectors."""
    draw, never = torch.Generator().manual_seed(0), torch.zeros(kept, dtype=torch.bool)
    vectors = name in ("td3", "tscac_ddpg")
    action = torch.rand(kept, 6, generator=draw) * 2 - 1 if vectors else torch.randint(0, ITEMS, (kept,), generator=draw)
    seen, then = (Observation(features=torch.randn(kept, 17, generator=draw)) for _ in range(2))
    ring = RingBuffer(kept)
    ring.add(Transitions(seen, action, torch.rand(kept, signals, generator=draw), then, never, never, never))
    goal = Objective(Signal("click")).protecting(("like", "follow", "comment", "hate")[: signals - 1])
    spec = ActionSpec("continuous", (6,)) if vectors else ActionSpec("discrete", choices=ITEMS)
    config = REGISTRY[name].config_type(actor=ActorConfig(EncoderConfig("flat", features=17), (256, 256)), critic_hidden=(256, 256))
    if name != "td3":
        config = replace(config, stage_one_updates=0 if stage == 2 else 10**9)
    learner, sampler, done = REGISTRY[name](config, Task(spec, goal), 0), UniformSampler(ring, None, 0), [0]

    def update(count: int) -> None:
        for _ in range(count):
            done[0] += 1
            learner.update(sampler.sample(BATCH, done[0]))

    return update


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=None, help="folder of the KuaiRand-Pure files")
    parser.add_argument("--stores", type=Path, default=Path("stores"))
    parser.add_argument("--cells", type=Path, default=Path("runs/bench-tscac"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=3_000)
    parser.add_argument("--options", type=int, default=4, help="options tried of each method")
    parser.add_argument("--speed", action="store_true", help="updates per core-second in place of the study")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="one seed, two options, 300 updates: no verdict")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.updates, arguments.options, arguments.rounds = 1, 300, 2, 3
    found = speed(arguments.rounds) if arguments.speed else study(arguments)
    if arguments.quick:
        print("quick: no verdict", file=sys.stderr)
    if arguments.json:
        print(json.dumps(found))
    elif arguments.speed:
        for name, row in found.items():
            print(f"{name:<32} {row if isinstance(row, float) else json.dumps(row)}")
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    print({k: v for k, v in found.items() if k not in ("bc", "methods")})
    print(f"{'policy':<20}" + "".join(f"{s:>34}" for s in SIGNALS) + "   effective share")
    rows = [("bc", found["bc"]), *((f"{m} seed {x['seed']}", x["test"]) for m, each in found["methods"].items() for x in each)]
    for name, test in rows:
        for estimator in ("ncis", "snips", "dr"):
            cells = "".join("{:>14.4f} [{:.4f}, {:.4f}]".format(*test[s][estimator]) for s in SIGNALS)
            print(f"{name:<20}{estimator:<6}{cells}   {test[SIGNALS[0]]['effective_share']:.3f}")


if __name__ == "__main__":
    main()
