"""Off-policy estimates of item policies on the test part of a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from offline_eval import Evaluation, combine, evaluate
from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import LoggedFeedback, Progress
from recrl.core.runs import RunFolder
from recrl.pipeline.policies import history_of
from recrl.pipeline.setting import Setting
from recrl.policies.items import ItemPolicy
from recrl.replay.logged import LoggedBuffer

ROWS_AT_ONCE = 256
"""Rows scored together; with 8,000 items and 7 behaviours this takes about 60 MB."""


def estimate(
    setting: Setting,
    policies: Mapping[str, ItemPolicy],
    behaviour: ItemPolicy,
    run: RunFolder,
    *,
    estimators: Sequence[str] = ("ips", "snips", "ncis"),
    level: float = 0.95,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Evaluation:
    """Estimate each policy on the test rows, for each signal the log holds, and write ``estimates`` and ``estimates_weights``.

    The logging propensities of these logs are unknown; ``behaviour`` stands in for them, an estimate fitted on training rows. Its error is
    not part of the intervals: read the verdicts.
    """
    buffer = setting.buffer("item", device, history=max(map(history_of, (behaviour, *policies.values()))))
    rows = buffer.rows_of(setting.split.test, with_next=False)
    user = buffer.user[rows].cpu().numpy().astype(np.int64)
    logged = log_probs(behaviour, buffer, rows, None)
    signals = [name for name in (*BEHAVIOURS, "watch_seconds", "rating") if setting.log.has(name)]
    test = setting.split.test
    evaluations = []
    for k, (name, policy) in enumerate(policies.items()):
        target = log_probs(policy, buffer, rows, progress and (lambda share, k=k, name=name: progress((k + share) / len(policies), name)))
        for signal in signals:
            feedback = LoggedFeedback(test.column(signal).astype(np.float64), target, logged, user)
            evaluations.append(evaluate(feedback, estimators, policy=name, signal=signal, level=level))
    combined = combine(evaluations)
    run.write_table("estimates", combined.estimates)
    run.write_table("estimates_weights", combined.weights)
    return combined


@torch.no_grad()
def log_probs(policy: ItemPolicy, buffer: LoggedBuffer, rows: torch.Tensor, progress: object) -> NDArray[np.float64]:
    """Log-probability of the logged item of each row under ``policy``, (n,); scored in portions, where the buffer lives."""
    policy, out = policy.to(buffer.device), []
    for start in range(0, rows.numel(), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        out.append(policy.log_prob(buffer.observation(part), buffer.item[part].to(torch.int64)))
        if callable(progress):
            progress(min(1.0, (start + ROWS_AT_ONCE) / rows.numel()))
    return torch.cat(out).cpu().double().numpy()
