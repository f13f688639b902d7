"""KuaiRand rows of the TSCAC study: the 150 videos most viewed in the training part.

Users, histories and watch time (in seconds) are as they are. These rows are nearly a bandit: most users have a single row a session. The
sweep over the 150 policies that always show one video tells how much of a gain is popularity.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from recrl.reproductions.tscac.rows import CAP, PROTECTED, Rows, picked
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
    log = Log.from_arrays(columns, n_users=whole.n_users, n_items=ITEMS)
    last = [int(part.column("timestamp_ms").max()) for part in (cut.train, cut.valid)]
    file = folder / f"kuairand-{log.content_hash[:16]}-{updates}.safetensors"
    return Rows(log, discount=DISCOUNT, session_rule="day", updates=updates, moments=(last[0], last[1]), kept=file)


def events(rows: Rows) -> dict[str, int]:
    """Test rows of each behaviour."""
    return {name: int(rows.test_part.column(name).sum()) for name in (*PROTECTED, *PRINTED) if rows.log.has(name)}


def constants(rows: Rows) -> dict[str, Any]:
    """Watch time of the policies that always show one video, by capped NCIS; validation rows choose the best of them."""
    found = {}
    for name, part in rows.parts.items():
        weight = torch.exp(-picked(rows.behaviour[name], part.action)).clamp_max(CAP).double().numpy()
        item, reward = part.action.numpy(), part.reward[:, 0].double().numpy()
        total = np.bincount(item, weight, ITEMS)
        found[name] = np.bincount(item, weight * reward, ITEMS) / np.maximum(total, 1e-9)
    best = int(found["validation"].argmax())
    quantiles = dict(
        zip(
            ("least", "quarter", "median", "three_quarters", "most"), np.quantile(found["test"], np.linspace(0, 1, 5)).tolist(), strict=True
        )
    )
    return {"chosen_on_validation": float(found["test"][best]), **quantiles}
