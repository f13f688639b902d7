"""Recall@10 and NDCG@10 of rankers trained by `recrl train` and by RecBole's own run_recbole: the table in docs/rankers.md.

Both train on the MovieLens 100K that ships with RecBole, with the same seed and settings, each in its own process. RecBole reads its file;
`recrl train` reads its store, cuts as RecBole does and hands rows over in the order of that file. By default the networks are small: two
epochs take about a minute a model on one core. RecBole's own defaults are `--size 64 --length 50 --epochs 300`: minutes for BPR and
LightGCN, and two to four minutes an epoch for SASRec and GRU4Rec, on one core.

python benchmarks/recbole_parity.py --json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl

from recrl.rankers import RECBOLE_MODELS, SEQUENTIAL

TOLERANCE = 1e-4
# one thread; and glibc keeps what is freed: giving 100 MB tensors back after each step took a third of SASRec's time
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(32 << 30), "MALLOC_TOP_PAD_": str(512 << 20)}


def settings_of(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """RecBole's settings beyond those that `recrl train` has options for."""
    shared: dict[str, Any] = {"metric_decimal_place": 8}
    if model == "sasrec":
        shared["inner_size"] = 4 * options.size
    if model == "gru4rec":
        shared["hidden_size"] = 2 * options.size
    return shared


def ours(model: str, seed: int, options: argparse.Namespace, folder: Path, file: Path) -> dict[str, float]:
    """Test metrics of `recrl train MODEL`, the epochs it trained and the best of them by MRR@10 on the validation rows."""
    command = [sys.executable, "-m", "recrl.cli", "train", model, "--data", "ml-100k", "--seed", str(seed), "--json"]
    command += ["--stores", str(folder / "stores"), "--runs", str(folder / "runs")]
    command += ["--ranker.split", "recbole", "--ranker.positives", "all", "--ranker.order-as", str(file)]
    for name, value in (("epochs", options.epochs), ("embedding-size", options.size), ("length", options.length)):
        command += [f"--ranker.recbole.{name}", str(value)]
    command += ["--ranker.recbole.settings", *(f"{name}={value}" for name, value in settings_of(model, options).items())]
    done = call(command, folder)
    valid = pl.read_parquet(folder / done["run"] / "metrics" / f"train-{model}" / "*.parquet").filter(pl.col("name") == "valid_mrr@10")
    found = {row["metric"]: row["value"] for row in done["ranking"] if row["part"] == "test"}
    return {**found, "epochs": len(valid), "best_epoch": valid.sort("value", "step", descending=[True, False])["step"][0]}


def theirs(model: str, seed: int, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Test metrics of run_recbole."""
    words = ["--model", model, "--epochs", options.epochs, "--size", options.size, "--length", options.length, "--seed", seed]
    return call([sys.executable, __file__, "--reference", *map(str, words)], folder)


def call(command: list[str], folder: Path) -> dict[str, Any]:
    """The JSON object that a command prints last; it runs in ``folder``."""
    done = subprocess.run(command, cwd=folder, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit status {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def reference(options: argparse.Namespace) -> None:
    """Run RecBole on its own file and print its test metrics."""
    from recrl.rankers.recbole_shims import run_recbole

    (model,), (seed,) = options.model, options.seed
    asked = {"seed": seed, "epochs": options.epochs, "embedding_size": options.size, "MAX_ITEM_LIST_LENGTH": options.length}
    asked |= {"metrics": ["Recall", "MRR", "NDCG"], "show_progress": False, "state": "ERROR", "gpu_id": "", **settings_of(model, options)}
    if model in SEQUENTIAL:
        asked["train_neg_sample_args"] = None
    if model == "sasrec":
        asked["hidden_size"] = options.size
    with tempfile.TemporaryDirectory() as folder:
        asked["checkpoint_dir"] = f"{folder}/saved"
        result = run_recbole(Path(folder), model=RECBOLE_MODELS[model], dataset="ml-100k", config_dict=asked)["test_result"]
    print(json.dumps({name: float(result[name]) for name in ("recall@10", "ndcg@10")}))


def compared(model: str, seed: int, options: argparse.Namespace, folder: Path, file: Path) -> list[dict[str, Any]]:
    """A row for each metric, also told on stderr: long runs are seen to go on."""
    started = time.perf_counter()
    own = ours(model, seed, options, folder, file)
    between = time.perf_counter()
    recbole = theirs(model, seed, options, folder)
    shared = {"model": model, "seed": seed, "epochs": own["epochs"], "best_epoch": own["best_epoch"]}
    seconds = {"seconds": between - started, "recbole_seconds": time.perf_counter() - between}
    for metric, value in recbole.items():
        print(f"{model} seed {seed}, {own['epochs']} epochs: {metric} {own[metric]:.6f}, RecBole {value:.6f}", file=sys.stderr, flush=True)
    return [{**shared, "metric": metric, "recrl": own[metric], "recbole": value, **seconds} for metric, value in recbole.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=list(RECBOLE_MODELS), choices=list(RECBOLE_MODELS))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--size", type=int, default=32, help="of embeddings")
    parser.add_argument("--length", type=int, default=10, help="items that a sequential ranker reads")
    parser.add_argument("--seed", type=int, nargs="+", default=[2020])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--reference", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reference:
        reference(options)
        return 0
    from recrl_datasets import REGISTRY

    rows: list[dict[str, Any]] = []
    for model, seed in itertools.product(options.model, options.seed):
        with tempfile.TemporaryDirectory() as folder:
            rows += compared(model, seed, options, Path(folder), REGISTRY["ml-100k"].files(None)["ml-100k.inter"])
    worst = max(abs(row["recrl"] - row["recbole"]) for row in rows)
    asked = {name: getattr(options, name) for name in ("epochs", "size", "length")}
    done = {"benchmark": "recbole_parity", **asked, "largest_difference": worst, "agrees": worst <= TOLERANCE, "cells": rows}
    print(json.dumps(done) if options.json else f"largest difference {worst:.1e}")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
