"""Fitting a :class:`simulators.boosted_response.BoostedResponse`: gradient-boosted trees, then their tables, then calibration."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import Progress
from recrl.core.streams import Purpose, Streams
from recrl_datasets import Log
from simulators.boosted_response import BoostedResponse
from simulators.rates import rate_shifts
from simulators.response import WIDTH
from simulators.response_fit import LoggedRows, fit_watch
from simulators.response_model import replay
from simulators.trees import BoostedConfig, SideFeatures, Trees

F = len(BEHAVIOURS)
_PROBES = 16
_PAIRS = 20_000


def fit_boosted(
    log: Log,
    config: BoostedConfig = BoostedConfig(),  # noqa: B008 - frozen
    *,
    sides: SideFeatures | None = None,
    weights: NDArray[np.float64] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> BoostedResponse:
    """Fit trees to the rows of ``log`` and tabulate them; single-threaded and repeatable.

    Features of users and items meet in trees, a user's past does not meet them: its effect is tabulated exactly. Users are grouped by what
    their trees say of 16 items, each user's mean taken out; the user nearest a group's centre stands for it.

    **Shapes**: ``weights`` (n_users,) how often each user counts, 1 without.

    **Errors**: :class:`DataError` for an empty log, one without clicks and non-clicks, or features of another store.
    """
    tell: Progress = progress or (lambda share, what: None)
    rows = LoggedRows.of(log, weights)
    sides = sides or SideFeatures.none(log)
    sides.check(log)
    trees = Trees(log, rows, sides, config, seed, lambda share, what: tell(0.6 * share, what), mixing="crossed")
    tell(0.6, "boosted trees: tables")
    group, offsets, table = _tabulate(trees, log, config.groups, seed)
    bias = [torch.zeros(log.n_users + 1, WIDTH), torch.zeros(log.n_items + 1, WIDTH)]
    watch = fit_watch(log, rows, *bias) if log.has("watch_seconds") else None
    offsets[:, F:], table[..., F:] = bias[0][:, F:], bias[1][:, F:]
    past, zero = trees.past_effect(), torch.zeros(F)
    logits, memories = replay(BoostedResponse(table, offsets, group, zero, past), log)
    shifts, off_click = rate_shifts(logits[:, :F], *rows.targets(config.rates), rows.weight)
    offsets[:, :F] += shifts.float()
    factored = [k for k, booster in enumerate(trees.boosters) if booster is not None]
    centred = table[..., 0] - table[..., 0].mean(1, keepdim=True) - table[..., 0].mean(0)
    notes = rows.notes(log, config.rates, factored, float(centred.std()))
    error = _table_error(trees, BoostedResponse(table, offsets, group, off_click, past), shifts, log, seed)
    tell(1.0, "boosted trees: calibrated")
    return BoostedResponse(table, offsets, group, off_click, past, past.settled(memories), watch, notes, error)


def _tabulate(trees: Trees, log: Log, groups: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Group (n_users + 1,), offsets (n_users + 1, 8) and table (G, n_items + 1, 8) of uncalibrated log-odds; the last column is 0."""
    rows = Streams(seed).integers(log.n_rows, np.arange(_PROBES), 0, Purpose.CANDIDATES)
    probes = log.column("item")[rows].astype(np.int64)
    everyone = np.r_[np.arange(log.n_users), -1]
    profile = trees.pair_logits(np.repeat(everyone, _PROBES), np.tile(probes, everyone.size)).reshape(everyone.size, _PROBES, F)
    level = profile.mean(1)
    shape = (profile - level[:, None]).reshape(everyone.size, -1)
    # with a group for everybody the table is the trees themselves
    code, distance = np.arange(everyone.size), np.zeros(everyone.size)
    if groups < everyone.size:
        centres = MiniBatchKMeans(min(groups, len(np.unique(shape, axis=0))), random_state=seed, n_init=1).fit(shape)
        code, distance = centres.labels_, ((shape - centres.cluster_centers_[centres.labels_]) ** 2).sum(1)
    order = np.lexsort((distance, code))
    used, first = np.unique(code[order], return_index=True)
    stands = order[first]
    group = np.searchsorted(used, code)
    items = np.arange(log.n_items)
    table = np.zeros((used.size, log.n_items + 1, WIDTH), dtype=np.float32)
    for g, user in enumerate(everyone[stands]):
        table[g, :-1, :F] = trees.pair_logits(np.full(log.n_items, user), items)
    # the unknown item is the average one of the log
    share = np.bincount(log.column("item"), minlength=log.n_items) / log.n_rows
    table[:, -1, :F] = np.einsum("i,gif->gf", share, table[:, :-1, :F])
    offsets = np.zeros((everyone.size, WIDTH), dtype=np.float32)
    offsets[:, :F] = level - level[stands][group]
    return torch.from_numpy(group), torch.from_numpy(offsets), torch.from_numpy(table)


def _table_error(trees: Trees, model: BoostedResponse, shifts: Tensor, log: Log, seed: int) -> float:
    """Root mean square difference of P(click) over random pairs of a user with rows, of whom nothing was seen, and an item."""
    seen = np.flatnonzero(log.user_offsets.lengths > 0)
    draws = Streams(seed)
    user = seen[draws.integers(seen.size, np.arange(_PAIRS), 1, Purpose.USERS)]
    item = draws.integers(log.n_items, np.arange(_PAIRS), 2, Purpose.USERS)
    exact = torch.sigmoid(torch.from_numpy(trees.pair_logits(user, item)[:, 0]) + shifts[0].float())
    who = torch.from_numpy(user)
    table = model.request_logits(who, model.initial_memory(torch.full_like(who, -1)), torch.from_numpy(item).unsqueeze(1))
    return float((exact - torch.sigmoid(table[:, 0, 0])).square().mean().sqrt())
