"""Recall@10 and NDCG@10 of rankers trained by `recrl train` and by RecBole's own run_recbole: the table in docs/rankers.md.

Both train on the MovieLens 100K that ships with RecBole, with the same seed and settings, each in its own process. RecBole reads its file;
`recrl train` reads its store, cuts as RecBole does and hands rows over in the order of that file. The networks are small: two
epochs take about a minute a model on one core; RecBole's defaults are `--length 50 --size 64 --epochs 300`.

python benchmarks/recbole_parity.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recrl.rankers import RECBOLE_MODELS, SEQUENTIAL

TOLERANCE = 1e-4


def settings_of(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """RecBole's settings beyond those that `recrl train` has options for."""
    shared: dict[str, Any] = {"metric_decimal_place": 8}
    if model == "sasrec":
        shared["inner_size"] = 4 * options.size
    if model == "gru4rec":
        shared["hidden_size"] = 2 * options.size
    return shared


def ours(model: str, options: argparse.Namespace, folder: Path, file: Path) -> dict[str, float]:
    """Test metrics of `recrl train MODEL`."""
    command = [sys.executable, "-m", "recrl.cli", "train", model, "--data", "ml-100k", "--seed", str(options.seed), "--json"]
    command += ["--stores", str(folder / "stores"), "--runs", str(folder / "runs")]
    command += ["--ranker.split", "recbole", "--ranker.positives", "all", "--ranker.order-as", str(file)]
    for name, value in (("epochs", options.epochs), ("embedding-size", options.size), ("length", options.length)):
        command += [f"--ranker.recbole.{name}", str(value)]
    command += ["--ranker.recbole.settings", *(f"{name}={value}" for name, value in settings_of(model, options).items())]
    ranking = call(command, folder)["ranking"]
    return {row["metric"]: row["value"] for row in ranking if row["part"] == "test"}


def theirs(model: str, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Test metrics of run_recbole."""
    words = ["--model", model, "--epochs", options.epochs, "--size", options.size, "--length", options.length, "--seed", options.seed]
    return call([sys.executable, __file__, "--reference", *map(str, words)], folder)


def call(command: list[str], folder: Path) -> dict[str, Any]:
    """The JSON object that a command prints last; it runs in ``folder``."""
    done = subprocess.run(command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def reference(options: argparse.Namespace) -> None:
    """Run RecBole on its own file and print its test metrics."""
    from recrl.rankers.recbole_shims import run_recbole

    (model,) = options.model
    asked = {"seed": options.seed, "epochs": options.epochs, "embedding_size": options.size, "MAX_ITEM_LIST_LENGTH": options.length}
    asked |= {"metrics": ["Recall", "MRR", "NDCG"], "show_progress": False, "state": "ERROR", "gpu_id": "", **settings_of(model, options)}
    if model in SEQUENTIAL:
        asked["train_neg_sample_args"] = None
    if model == "sasrec":
        asked["hidden_size"] = options.size
    with tempfile.TemporaryDirectory() as folder:
        asked["checkpoint_dir"] = f"{folder}/saved"
        result = run_recbole(Path(folder), model=RECBOLE_MODELS[model], dataset="ml-100k", config_dict=asked)["test_result"]
    print(json.dumps({name: float(result[name]) for name in ("recall@10", "ndcg@10")}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=list(RECBOLE_MODELS), choices=list(RECBOLE_MODELS))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--size", type=int, default=32, help="of embeddings")
    parser.add_argument("--length", type=int, default=10, help="items that a sequential ranker reads")
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--reference", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reference:
        reference(options)
        return 0
    from recrl_datasets.movielens import ml_100k_files

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in options.model:
            started = time.perf_counter()
            own = ours(model, options, Path(folder), ml_100k_files()["ml-100k.inter"])
            between = time.perf_counter()
            recbole = theirs(model, options, Path(folder))
            seconds = {"seconds": between - started, "recbole_seconds": time.perf_counter() - between}
            for metric, value in recbole.items():
                rows.append({"model": model, "metric": metric, "recrl": own[metric], "recbole": value, **seconds})
                if not options.json:
                    print(f"{model:10} {metric:10} recrl {own[metric]:.6f}   RecBole {value:.6f}", flush=True)
    worst = max(abs(row["recrl"] - row["recbole"]) for row in rows)
    asked = {name: getattr(options, name) for name in ("epochs", "size", "length", "seed")}
    print(json.dumps({"benchmark": "recbole_parity", **asked, "largest_difference": worst, "agrees": worst <= TOLERANCE, "cells": rows}))
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
