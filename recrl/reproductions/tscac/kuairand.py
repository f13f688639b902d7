"""KuaiRand rows of the TSCAC study: the 150 videos most viewed in the training part.

Users, histories and watch time (in seconds) are as they are. These rows are nearly a bandit: most users have a single row a session. The
sweep over the 150 policies that always show one video tells how much of a gain is popularity.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from recrl.reproductions.tscac.estimates import CAP, picked
from recrl.reproductions.tscac.rows import PROTECTED, Rows
from recrl_datasets import Log, prepare, split_by_time

ITEMS, DISCOUNT, LEAST_EVENTS = 150, 0.99, 100
PRINTED = ("comment", "follow", "forward", "hate")


def kuairand_rows(root: Path, stores: Path, updates: int, folder: Path) -> Rows:
    """The rows, split at the moments that split the whole log, since its training part chooses the videos."""
    whole = prepare("kuairand-pure", root, stores=stores).log()
    cut = split_by_time(whole, (0.7, 0.15, 0.15))
    most = np.sort(np.argsort(-np.bincount(cut.train.column("item"), minlength=whole.n_items), kind="stable")[:ITEMS])
    kept = np.flatnonzero(np.isin(whole.column("item"), most))
    names = ["user", "item", "timestamp_ms", *(n for n in ("watch_seconds", *PROTECTED, *PRINTED) if whole.has(n))]
    columns = {name: whole.column(name)[kept] for name in names}
    columns["item"] = np.searchsorted(most, columns["item"]).astype(np.int32)
    log = Log.from_arrays(columns, n_users=whole.n_users, n_items=most.size)
    last = [int(part.column("timestamp_ms").max()) for part in (cut.train, cut.valid)]
    file = folder / f"kuairand-{log.content_hash[:16]}-{updates}.safetensors"
    return Rows(log, discount=DISCOUNT, session_rule="day", updates=updates, moments=(last[0], last[1]), kept=file)


def events(rows: Rows) -> dict[str, int]:
    """Test rows of each behaviour."""
    return {name: int(rows.test_part.column(name).sum()) for name in (*PROTECTED, *PRINTED) if rows.log.has(name)}


def swept(rows: Rows) -> dict[str, np.ndarray]:
    """By part, watch time of each policy that always shows one video, by capped NCIS."""
    found = {}
    for name, part in rows.parts.items():
        weight = torch.exp(-picked(rows.behaviour[name], part.action)).clamp_max(CAP).double().numpy()
        item, reward = part.action.numpy(), part.reward[:, 0].double().numpy()
        total = np.bincount(item, weight, rows.log.n_items)
        found[name] = np.bincount(item, weight * reward, rows.log.n_items) / np.maximum(total, 1e-9)
    return found


def best_constant(rows: Rows) -> int:
    """The video that validation rows choose, to be shown always."""
    return int(swept(rows)["validation"].argmax())


def constants(rows: Rows) -> dict[str, float]:
    """The sweep on test rows: the video that validation rows choose, and quantiles over all videos."""
    test = swept(rows)["test"]
    quantiles = zip(("least", "quarter", "median", "three_quarters", "most"), np.quantile(test, np.linspace(0, 1, 5)).tolist(), strict=True)
    return {"chosen_on_validation": float(test[best_constant(rows)]), **dict(quantiles)}
