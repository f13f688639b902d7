"""Where a log can speak for a target policy, and whether its propensities mean what they say: reliability, overlap holes, cohorts.

None needs an array of rows x actions: a policy enters through the log-probabilities of logged actions and of actions drawn from it.
Each answer is an Arrow table, ready for ``RunFolder.write_table``.

**Assumptions**: users are independent; draws are from the policy named.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from offline_eval.bandit import IPS
from offline_eval.contributions import ClusterSums, dense_clusters, standard_error, sum_rows
from offline_eval.diagnostics import diagnose
from offline_eval.validation import checked, finite, vector, weights
from recrl.core.contracts import LoggedFeedback
from recrl.core.errors import ConfigError, DataError

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

HOLE = 0.5
"""A group of actions is a hole where the log shows less than this share of what the target policy would do in it."""


def reliability(logged_log_prob: ArrayLike, drawn_log_prob: ArrayLike, cluster: ArrayLike, *, bins: int = 10) -> pa.Table:
    """Whether actions of a stated propensity happen as often as it says, by tenths of the propensity.

    Were the behaviour model right, the log-propensities of logged actions would be spread as those of actions drawn from the model. So bins
    of equally many drawn ones should hold equally many logged ones; ``ratio`` is logged over drawn, with a standard error by user.
    A ratio off 1 says by which factor propensities there are too small: weights are too large by as much.

    **Shapes**: ``logged_log_prob``, ``cluster`` (n,); ``drawn_log_prob`` (n, M), under the model, of actions drawn from it.

    **Returns** columns ``bin``, ``from_propensity``, ``to_propensity``, ``drawn_share``, ``logged_share``, ``ratio``, ``error``. Equal
    propensities fall into one bin, so that a uniform logger has one.

    **Errors**: :class:`DataError` for shapes that do not fit, NaN or a propensity of 0.
    """
    if bins < 1:
        raise ConfigError(f"bins is {bins}; at least 1 is needed", where="reliability.bins", mend="10 is usual")
    logged = finite(vector(logged_log_prob, "logged_log_prob"), "logged_log_prob")
    drawn = _drawn(drawn_log_prob, logged.size)
    finite(drawn.ravel(), "drawn_log_prob")
    inner = np.unique(np.quantile(drawn, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf"))
    # a value above the last edge has a bin of its own, if there is any
    edges = inner[inner < drawn.max()]
    of_logged, of_drawn = np.searchsorted(edges, logged), np.searchsorted(edges, drawn)
    ids, index = dense_clusters(np.asarray(cluster))
    rows, ends = [], np.exp(np.concatenate([[-np.inf], edges, [np.inf]]))
    for b in range(edges.size + 1):
        drawn_share = float(np.mean(of_drawn == b))
        # both sides by user: a user's own contexts are in both
        sums = sum_rows(np.stack([(of_logged == b) * 1.0, (of_drawn == b).mean(axis=1)]), index, ids.size)
        ratio = ClusterSums(sums[:1], sums[1:], ids)
        rows.append(
            {
                "bin": b,
                "from_propensity": float(ends[b]),
                "to_propensity": min(float(ends[b + 1]), 1.0),
                "drawn_share": drawn_share,
                "logged_share": float(np.mean(of_logged == b)),
                "ratio": float(ratio.ratios().sum()),
                "error": standard_error(ratio),
            }
        )
    return pa.Table.from_pylist(rows)


def overlap_holes(feedback: LoggedFeedback, logged_group: ArrayLike, drawn_group: ArrayLike) -> pa.Table:
    """What the target policy would do in each group of actions, and how much of it the log can speak for.

    A group is whatever a category is worth asking about: an item's category, its popularity, its age. With full overlap and right
    propensities the weighted share of the log's rows in a group is the target's share of it; ``seen`` is their ratio. A ``hole`` has a
    ``seen`` below :data:`HOLE`, for a target share of at least one in a hundred: estimates there are of other actions.

    **Shapes**: ``feedback`` (n,) rows; ``logged_group`` (n,) integers of logged actions; ``drawn_group`` (n, M) of actions drawn from the
    target policy.

    **Returns** columns ``group``, ``rows``, ``logged_share``, ``target_share``, ``weighted_share``, ``seen``, its ``error`` by user and
    ``hole``; the group with the largest target share first.
    """
    rows = checked(feedback)
    group = np.asarray(logged_group)
    drawn = _drawn(drawn_group, rows.reward.size)
    if group.shape != rows.reward.shape:
        raise DataError(f"logged_group has shape {group.shape} for {rows.reward.size} rows", where="overlap_holes", mend="give one a row")
    w, (ids, index), found = weights(rows), dense_clusters(rows.cluster), []
    for g in np.union1d(group, drawn):
        of_target = (drawn == g).mean(axis=1)
        target_share, weighted = float(of_target.mean()), float((w * (group == g)).mean())
        sums = sum_rows(np.stack([w * (group == g), of_target]), index, ids.size)
        ratio = ClusterSums(sums[:1], sums[1:], ids)
        seen = weighted / target_share if target_share else float("nan")
        found.append(
            {
                "group": int(g),
                "rows": int((group == g).sum()),
                "logged_share": float(np.mean(group == g)),
                "target_share": target_share,
                "weighted_share": weighted,
                "seen": seen,
                "error": standard_error(ratio) if target_share else float("nan"),
                "hole": bool(target_share >= 0.01 and seen < HOLE),
            }
        )
    return pa.Table.from_pylist(sorted(found, key=lambda row: -row["target_share"]))


def by_cohort(feedback: LoggedFeedback, cohort: ArrayLike) -> pa.Table:
    """Diagnostics of the weights in each group of rows: whose value an estimate really tells.

    **Shapes**: ``feedback`` (n,) rows; ``cohort`` (n,) integers, say new and known users.

    **Returns** columns ``cohort``, ``rows``, ``users``, ``ess``, ``ess_share``, ``effective_users``, ``mean_weight``, ``weight_share`` (of
    all weight), ``verdict``, ``reasons``.
    """
    rows = checked(feedback)
    group = np.asarray(cohort)
    if group.shape != rows.reward.shape:
        raise DataError(f"cohort has shape {group.shape} for {rows.reward.size} rows", where="by_cohort.cohort", mend="give one a row")
    whole, found = IPS().contributions(rows), []
    total = float(whole.weights.sum())
    for g in np.unique(group):
        mine = group == g
        part = type(whole)(whole.numerators[:, mine], whole.denominators[:, mine], whole.cluster[mine], whole.weights[mine])
        seen = diagnose(part)
        found.append(
            {
                "cohort": int(g),
                **{name: getattr(seen, name) for name in ("rows", "users", "ess", "ess_share", "effective_users", "mean_weight")},
                "weight_share": float(part.weights.sum()) / total if total > 0 else 0.0,
                "verdict": seen.verdict,
                "reasons": "; ".join(seen.reasons),
            }
        )
    return pa.Table.from_pylist(found)


def _drawn(values: ArrayLike, rows: int) -> NDArray[Any]:
    drawn = np.asarray(values)
    if drawn.ndim != 2 or drawn.shape[0] != rows or drawn.shape[1] == 0:
        raise DataError(f"drawn actions have shape {drawn.shape} for {rows} rows", where="overlap", mend="give (rows, draws)")
    return drawn
