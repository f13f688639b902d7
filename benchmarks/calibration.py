"""How well fitted simulators describe users they have not seen: five user folds of the KuaiRand-Pure rows; the tables in docs/simulator.md.

Every user is held out once. Gates, on each fold:

* each of 7 rates: |simulated - held out| <= max(5 % of held out, z standard errors of the difference), z Bonferroni over 7 at 5 %;
* P(click | long_view) within .01; calibration error of clicks (ten bins) below .02;
* return hazards of days 1 to 7 (Kaplan-Meier on held-out users) within max(.02, 3 standard errors);
* published return law: P(1), hazards of days 2 to 8 against KuaiRand-Pure's published gaps, on simulated sessions.

Standard errors are clustered by user. Areas under the curve stand beside those of item popularity (its shrunken rate) and of LightGBM on
features of user and item, counts of other users' rows of the item and, `running`, counts of the user's earlier rows: all that the
simulator is told, too. `cold` is the same without them. LightGBM stops by a tenth of the training users. The gate is the mean
difference over the folds, paired, above 0; behaviours with fewer than 50 positives in a fold are reported, not gated. A latent user's
row is inferred from its earlier rows (`simulators.fold_in`).

RECRL_KUAIRAND_ROOT=... python benchmarks/calibration.py --json                                      # latent: 3 minutes
RECRL_KUAIRAND_ROOT=... python benchmarks/calibration.py --models latent sequence boosted --json     # 15 minutes
python benchmarks/calibration.py --small --json                                                      # self-made rows: seconds; for CI
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import norm

import recrl_datasets as rd
from recrl.core.behaviours import BEHAVIOURS
from recrl.core.streams import Purpose, Streams
from recrl.core.torch.streams import TensorStreams
from recrl_datasets import Log, Store
from simulators.calibration import auc_influence, calibration_error, calibration_table, ratio
from simulators.fit import FitConfig, activity_groups, fit_world
from simulators.fold_in import folded_logits
from simulators.past import Ground
from simulators.published import GAP_COUNTS
from simulators.response import LatentResponse
from simulators.response_fit import LoggedRows, ResponseConfig
from simulators.response_model import replay
from simulators.sequence_fit import SequenceConfig
from simulators.toy import TOY_CONFIG, toy_world
from simulators.trees import BoostedConfig, SideFeatures, Trees, earlier_counts, fit_ground

Float = NDArray[np.float64]
FOLDS, FEW, Z95 = 5, 50, 1.959963984540054
Z_RATES = float(norm.ppf(1.0 - 0.05 / 2 / len(BEHAVIOURS)))
RELATIVE, GIVEN, ECE, HAZARD = 0.05, 0.01, 0.02, 0.02
PRIOR_ROWS = 20.0
GATE = ("popularity", "lightgbm_running")
Row = dict[str, Any]


def folds_of(log: Log, seed: int) -> NDArray[np.int64]:
    """Fold of each user, by a hash of the raw id."""
    return Streams(seed).integers(FOLDS, log.user_keys, 0, Purpose.SPLITS)


def rivals(train: Log, test: Log, sides: SideFeatures, config: BoostedConfig) -> dict[str, Float]:
    """Scores (n, 7) of held-out rows by item popularity and by LightGBM, with and without the user's earlier rows."""
    rows, happened = LoggedRows.of(train), LoggedRows.of(test).happened.numpy()
    y, item = rows.happened.double().numpy(), train.column("item")
    count = np.bincount(item, minlength=train.n_items)[:, None]
    hits = np.stack([np.bincount(item, weights=y[:, k], minlength=train.n_items) for k in range(len(BEHAVIOURS))], axis=1)
    popular = (hits + PRIOR_ROWS * y.mean(0)) / (count + PRIOR_ROWS)
    trees = Trees(train, rows, sides, config, 0, lambda share, what: None)
    user, shown = test.column("user"), test.column("item")
    out = {"popularity": popular[shown]}
    for name, seen in (("cold", np.zeros((test.n_rows, 8), np.float32)), ("running", earlier_counts(test, happened))):
        p = expit(trees.logits(trees.rows(user, shown, seen, trees.item_counts[shown])).astype(np.float64))
        p[:, 1:] *= p[:, :1]
        out[f"lightgbm_{name}"] = p
    return out


def rate_rows(p: Float, train: Log, test: Log) -> Iterator[Row]:
    """The seven rates with the standard error of their difference: both logs are samples of users."""
    for k, name in enumerate(BEHAVIOURS):
        if not test.has(name):
            continue
        errors, logged = [], 0.0
        for log in (train, test):
            y = log.column(name).astype(np.float64)
            logged, (low, high) = ratio(y, np.ones(y.size), log.column("user"))
            errors.append((high - low) / 2 / Z95)
        gate = max(RELATIVE * logged, Z_RATES * float(np.hypot(*errors)))
        simulated = float(p[:, k].mean())
        yield {
            "quantity": name,
            "simulated": simulated,
            "logged": logged,
            "bound": gate,
            "holds": abs(simulated - logged) <= gate,
            "positives": int(test.column(name).sum()),
        }


def auc_rows(p: Float, others: dict[str, Float], test: Log) -> Iterator[Row]:
    """AUC of each behaviour beside the rivals', intervals clustered by user, also of the difference."""
    user = test.column("user").astype(np.int64)
    for k, name in enumerate(BEHAVIOURS):
        y = test.column(name).astype(np.float64) if test.has(name) else np.zeros(0)
        if not 0 < y.sum() < y.size:
            continue
        auc, influence = auc_influence(p[:, k], y, user)
        row: Row = {"behaviour": name, "positives": int(y.sum()), "auc": auc, "half": Z95 * float(np.sqrt((influence**2).sum()))}
        for other, score in others.items():
            rival, theirs = auc_influence(score[:, k], y, user)
            half = Z95 * float(np.sqrt(((influence - theirs) ** 2).sum()))
            row |= {other: rival, f"over_{other}": [auc - rival - half, auc - rival + half]}
        yield row


def pooled(folds: list[dict[str, Any]]) -> list[Row]:
    """Areas of all folds together: means, and intervals of the mean difference; users of different folds are independent.

    ``above``: the interval lies above 0 for every rival of the gate, ``GATE``. Behaviours with few positives are reported alone.
    """
    out = []
    for name in BEHAVIOURS:
        rows = [r for f in folds for r in f["auc"] if r["behaviour"] == name]
        if not rows:
            continue
        row: Row = {"behaviour": name, "positives": sum(r["positives"] for r in rows), "auc": float(np.mean([r["auc"] for r in rows]))}
        for other in (key.removeprefix("over_") for key in rows[0] if key.startswith("over_")):
            spans = np.array([r[f"over_{other}"] for r in rows])
            middle, half = spans.mean(), float(np.sqrt((np.diff(spans)[:, 0] ** 2).sum())) / 2 / len(rows)
            row |= {other: float(np.mean([r[other] for r in rows])), f"over_{other}": [float(middle - half), float(middle + half)]}
        judged = min(r["positives"] for r in rows) >= FEW
        row["above"] = all(row[f"over_{other}"][0] > 0 for other in GATE) if judged else None
        out.append(row)
    return out


def fold(store: Store | None, log: Log, number: int, config: FitConfig, others: dict[str, Float], grounds: list[Ground]) -> dict[str, Any]:
    """One fold: fitted to the users of the other four. Rivals and ground are the same for all models, fitted where they are wanting."""
    began = time.process_time()
    inside = folds_of(log, 0)[log.column("user")] == number
    train, test = log.select(~inside), log.select(inside)
    groups = None if store is None else activity_groups(store)
    sides = SideFeatures.none(train) if store is None else SideFeatures.of(store, train)
    if not others:
        others.update(rivals(train, test, sides, config.boosted))
    if not grounds and config.model != "boosted":
        grounds.append(fit_ground(train, sides, config.boosted))
    ground = grounds[0] if grounds else None
    fitted = fit_world(train, sessions=rd.sessions(train, rule="day"), groups=groups, sides=sides, ground=ground, config=config)
    logits = replay(fitted.response, test)[0][:, : len(BEHAVIOURS)]
    p = foretold = fitted.response.marginals(logits).double().numpy()
    if isinstance(fitted.response, LatentResponse):
        # this model's users are rows, not pasts: of held-out ones theirs are inferred
        foretold = fitted.response.marginals(folded_logits(fitted.response, test)[:, : len(BEHAVIOURS)]).double().numpy()
    held = {(r["quantity"], r["group"]): r for r in calibration_table(fitted, rd.sessions(test, rule="day")).to_pylist()}
    views = held["click_given", "long_view"]
    hazards = []
    for k in range(1, 8):
        row = held.get(("return_hazard", f"day {k}"))
        if row:
            gate = max(HAZARD, 3.0 * (row["upper"] - row["lower"]) / 2 / Z95)
            holds = abs(row["simulated"] - row["logged"]) <= gate
            hazards.append({"day": k, "simulated": row["simulated"], "logged": row["logged"], "bound": gate, "holds": holds})
    error = calibration_error(p[:, 0], test.column("click").astype(np.float64))
    return {
        "model": config.model,
        "fold": number,
        "users": int((test.user_offsets.lengths > 0).sum()),
        "rows": test.n_rows,
        "rates": list(rate_rows(p, train, test)),
        "click_given_long_view": {
            "simulated": views["simulated"],
            "logged": views["logged"],
            "holds": abs(views["simulated"] - views["logged"]) <= GIVEN,
        },
        "ece_click": {"value": error, "holds": error < ECE},
        "auc": list(auc_rows(foretold, others, test)),
        "hazards": hazards,
        "core_seconds": time.process_time() - began,
    }


def published(users: int) -> dict[str, Any]:
    """Gaps of simulated sessions under the published law, no effect of satisfaction, against the published counts."""
    world, streams = toy_world(replace(TOY_CONFIG, scenario="fitted", truth=False)), TensorStreams(0)
    state, gaps = world.initial_state(world.population(users), streams), []
    while bool(state.alive.any()):
        state, outcome = world.transition(state, torch.zeros(users, 7), streams)
        gaps.append(outcome.gap_days[outcome.session_end].numpy())
    counts = np.bincount(np.concatenate(gaps).astype(int), minlength=12)[1:12].astype(float)
    logged, days = np.array(GAP_COUNTS, dtype=float), np.arange(1, 11)
    at_risk = lambda c: c / c[::-1].cumsum()[::-1]  # noqa: E731
    given = counts[:10] / counts[:10].sum()
    hazards = {
        "not before": [at_risk(counts)[1:8], at_risk(logged)[1:8]],
        "not before, and within 10 days": [at_risk(counts[:10])[1:8], at_risk(logged[:10])[1:8]],
    }
    return {
        "sessions": int(counts.sum()),
        "next_day": {"simulated": float(given[0]), "published": 0.617, "holds": abs(float(given[0]) - 0.617) <= 0.01},
        "mean_gap_within_10": {"simulated": float(given @ days), "published": float(logged[:10] @ days / logged[:10].sum())},
        "mean_gap_capped_at_10": {
            "simulated": float((counts[:10] @ days + 10 * counts[10]) / counts.sum()),
            "published": float((np.minimum(np.arange(1, 17), 10) * logged).sum() / logged.sum()),
        },
        "hazards_2_to_8": {
            name: {"simulated": ours.tolist(), "published": theirs.tolist(), "holds": bool(np.abs(ours - theirs).max() <= HAZARD)}
            for name, (ours, theirs) in hazards.items()
        },
        "churn_share_of_sessions": float(counts[10] / counts.sum()),
    }


def small_log(users: int = 400, days: int = 14, seed: int = 0) -> Log:
    """Rows of users of different keenness who come on random days."""
    rng = np.random.default_rng(seed)
    here = np.argwhere(rng.random((users, days)) < rng.beta(2, 2, users)[:, None])
    depth = rng.geometric(0.4, len(here)) * 2
    user, day = here[:, 0].repeat(depth), here[:, 1].repeat(depth)
    request = np.arange(user.size) - np.repeat(depth.cumsum() - depth, depth)
    click = rng.random(user.size) < rng.beta(4, 4, users)[user]
    columns: dict[str, NDArray[Any]] = {"user": user.astype(np.int32), "item": rng.integers(0, 60, user.size).astype(np.int32)}
    columns["timestamp_ms"] = day * 86_400_000 + request // 2 * 60_000
    for name, rate in (("click", 1.0), ("long_view", 0.7), ("like", 0.2), ("comment", 0.1), ("follow", 0.1), ("forward", 0.1)):
        columns[name] = (click & (rng.random(user.size) < rate)).astype(np.uint8)
    columns["hate"] = (rng.random(user.size) < 0.03).astype(np.uint8)
    return Log.from_arrays(columns, n_users=users, n_items=60, observed_until_ms=days * 86_400_000 - 1)


def measure(models: list[str], store: Store | None, log: Log, base: FitConfig, folds: Sequence[int], users: int) -> dict[str, Any]:
    """These folds of all models, and how many gates hold."""
    law, out = published(users), []
    for number in folds:
        others: dict[str, Float] = {}
        grounds: list[Ground] = []
        for model in models:
            out.append(fold(store, log, number, replace(base, model=model), others, grounds))
            print(f"fold {number}, {model}: {out[-1]['core_seconds']:.0f} core-seconds", file=sys.stderr, flush=True)
    return summed(models, out) | {"folds": out, "z_rates": Z_RATES, "published": law}


def summed(models: list[str], out: list[dict[str, Any]]) -> dict[str, Any]:
    """Over folds: areas, and how many gates hold."""
    holds = {}
    for model in models:
        mine = [f for f in out if f["model"] == model]
        checks = {
            "rates": [r["holds"] for f in mine for r in f["rates"]],
            "click_given_long_view": [f["click_given_long_view"]["holds"] for f in mine],
            "ece_click": [f["ece_click"]["holds"] for f in mine],
            "hazards": [h["holds"] for f in mine for h in f["hazards"]],
        }
        holds[model] = {name: f"{sum(each)} of {len(each)}" for name, each in checks.items()}
    areas = {model: pooled([f for f in out if f["model"] == model]) for model in models}
    return {"areas": areas, "holds": holds}


def beside(row: Row) -> str:
    """Rivals' areas and the intervals of the differences."""
    return " ".join(f"{n} {row[n]:.4f} [{row['over_' + n][0]:+.4f}, {row['over_' + n][1]:+.4f}]" for n in row if f"over_{n}" in row)


def show(found: dict[str, Any]) -> None:
    """The tables of docs/simulator.md."""
    for f in found["folds"]:
        print(f"\n{f['model']}, fold {f['fold']}: {f['users']} users, {f['rows']} rows, {f['core_seconds']:.0f} core-seconds")
        for r in f["rates"]:
            print(f"  {r['quantity']:10s} {r['simulated']:.5f} {r['logged']:.5f} within {r['bound']:.5f} {r['holds']} ({r['positives']})")
        print(f"  P(click | long view) {f['click_given_long_view']}\n  ECE of clicks {f['ece_click']}")
        for h in f["hazards"]:
            print(f"  return, day {h['day']}: {h['simulated']:.3f} {h['logged']:.3f} within {h['bound']:.3f} {h['holds']}")
        for a in f["auc"]:
            print(f"  AUC {a['behaviour']:10s} {a['auc']:.3f} +- {a['half']:.3f} ({a['positives']}) {beside(a)}")
    for model, areas in found["areas"].items():
        print(f"\n{model}, all folds")
        for a in areas:
            print(f"  AUC {a['behaviour']:10s} {a['auc']:.4f} ({a['positives']}) above {a['above']} {beside(a)}")
    print(json.dumps({"holds": found["holds"], "published": found["published"]}, indent=1))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["latent"], choices=["latent", "sequence", "boosted"])
    parser.add_argument("--root", type=Path, default=os.environ.get("RECRL_KUAIRAND_ROOT"), help="folder of the KuaiRand-Pure rows")
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(FOLDS)), choices=range(FOLDS), help="these folds alone")
    parser.add_argument("--small", action="store_true", help="self-made rows, two folds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.small:
        base = FitConfig(
            response=ResponseConfig(dim=4, epochs=2),
            sequence=SequenceConfig(dim=4, memory=16, epochs=2),
            boosted=BoostedConfig(trees=10, groups=4),
        )
        found = measure(options.models, None, small_log(), base, range(2), 300)
    elif options.root is None:
        parser.error("name the folder of the KuaiRand-Pure rows: --root, or RECRL_KUAIRAND_ROOT; or --small")
    else:
        with tempfile.TemporaryDirectory() as folder:
            store = rd.prepare("kuairand-pure", root=Path(options.root), stores=Path(folder))
            found = measure(options.models, store, store.log(), FitConfig(), options.folds, 20_000)
    if options.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
