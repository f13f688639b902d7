r"""Recall and NDCG of a ranker by full ranking: every item of the catalogue is ranked, as RecBole's ``mode: full`` does.

    Recall@K = |top K \cap R| / |R|        NDCG@K = sum_{i <= K} [i-th item in R] / log2(i + 1)  /  sum_{i <= min(|R|, K)} 1 / log2(i + 1)

Averaged over cases. For rankers by user a case is a user with held-out rows: ``R`` are its held-out items, and items it had before (in
training, for the test also in validation) are not ranked unless they are in ``R``. For sequential rankers a case is a held-out row with
a history: ``R`` is its one item, and every item is ranked.

**Source**: RecBole 1.2.1, ``recbole.evaluator``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.core.contracts import Observation
from recrl.core.errors import ConfigError
from recrl.policies.items import ItemPolicy
from recrl.policies.ranked import SequenceScores
from recrl.rankers.interactions import TEST, TRAIN, VALID, Interactions

_CASES_AT_ONCE = 512


@dataclass(frozen=True)
class RankingResult:
    """Means over ``cases``; NaN without any."""

    recall: float
    ndcg: float
    cases: int
    k: int


def evaluate_ranking(
    policy: ItemPolicy, rows: Interactions, part: int = TEST, *, k: int = 10, cases_of: ItemPolicy | None = None
) -> RankingResult:
    """Recall@k and NDCG@k of the policy's scores on the held-out rows of a part.

    Args:
        policy: what is measured.
        rows: where from.
        part: ``VALID`` or ``TEST``.
        k: ranks that count.
        cases_of: take the cases of this policy, for comparing the two; by default the policy's own.

    **Errors**: :class:`ConfigError` for the training part, another catalogue, or ``k`` beyond it.
    """
    if part not in (VALID, TEST):
        raise ConfigError(f"part {part} is not held out", where="evaluate_ranking", mend="use VALID or TEST")
    if policy.scores.items != rows.n_items or not 1 <= k <= rows.n_items:
        raise ConfigError(
            f"cannot rank the top {k} of {rows.n_items} items with a policy over {policy.scores.items}",
            where="evaluate_ranking",
            mend="use a policy trained on the same data, and k within its catalogue",
        )
    judge = (cases_of or policy).scores
    cases = _row_cases(judge, rows, part) if isinstance(judge, SequenceScores) else _user_cases(rows, part)
    found: list[Tensor] = []
    with torch.no_grad():
        for observation, relevant, left_out in cases:
            scores = policy.scores(observation, None).masked_fill(left_out & ~relevant, -torch.inf)
            found.append(ranking_metrics(scores, relevant, k))
    values = torch.cat(found, dim=1) if found else torch.empty(2, 0)
    recall, ndcg = values.double().mean(dim=1).tolist()
    return RankingResult(recall, ndcg, values.shape[1], k)


def ranking_metrics(scores: Tensor, relevant: Tensor, k: int) -> Tensor:
    """Recall@k and NDCG@k of each case.

    **Shapes**: ``scores`` (B, n), ``relevant`` (B, n) bool with at least one true value a row -> (2, B) float64.
    """
    hit = relevant.gather(1, scores.topk(k, dim=1).indices).double()  # (B, k)
    count = relevant.sum(1)
    discount = 1.0 / torch.log2(torch.arange(2, k + 2, dtype=torch.float64, device=scores.device))
    ideal = discount.cumsum(0)[count.clamp_max(k) - 1]
    return torch.stack([hit.sum(1) / count, (hit @ discount) / ideal])


def _user_cases(rows: Interactions, part: int) -> Iterator[tuple[Observation, Tensor, Tensor]]:
    """Users with rows in the part: observation, relevant items, items they had before (B, n_items)."""
    users = np.unique(rows.user[rows.part == part])
    for start in range(0, users.size, _CASES_AT_ONCE):
        batch = users[start : start + _CASES_AT_ONCE]
        held = _table(rows, batch, rows.part == part)
        before = _table(rows, batch, (rows.part == TRAIN) | ((rows.part == VALID) & (part == TEST)))
        yield Observation(user=torch.from_numpy(batch)), held, before


def _table(rows: Interactions, users: NDArray[np.int64], keep: NDArray[np.bool_]) -> Tensor:
    index = np.flatnonzero(keep & np.isin(rows.user, users))
    table = torch.zeros(users.size, rows.n_items, dtype=torch.bool)
    table[torch.from_numpy(np.searchsorted(users, rows.user[index])), torch.from_numpy(rows.item[index])] = True
    return table


def _row_cases(scores: SequenceScores, rows: Interactions, part: int) -> Iterator[tuple[Observation, Tensor, Tensor]]:
    """Rows of the part that have a history: observation, the row's item, nothing left out (B, n_items)."""
    index = rows.rows_of(part)
    for start in range(0, index.size, _CASES_AT_ONCE):
        batch = index[start : start + _CASES_AT_ONCE]
        items, bits = rows.histories(batch, scores.shape.length)
        known = items[:, -1] >= 0
        batch, items, bits = batch[known], items[known], bits[known]
        relevant = torch.zeros(batch.size, rows.n_items, dtype=torch.bool)
        relevant[torch.arange(batch.size), torch.from_numpy(rows.item[batch])] = True
        observation = Observation(
            user=torch.from_numpy(rows.user[batch]), history_items=torch.from_numpy(items), history_feedback=torch.from_numpy(bits)
        )
        yield observation, relevant, torch.zeros_like(relevant)
