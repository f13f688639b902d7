"""Fitting a :class:`simulators.boosted_response.BoostedResponse`: gradient-boosted trees, then their table, then calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError, DataError
from recrl.core.streams import Purpose, Streams
from recrl_datasets import Log, Store, UserItemFeatures
from simulators.boosted_response import BoostedResponse
from simulators.rates import rate_shifts
from simulators.response import WIDTH
from simulators.response_fit import LoggedRows, fit_watch

F = len(BEHAVIOURS)
Float32 = NDArray[np.float32]
_PRIOR_ROWS = 20.0
_FOLDS = 5
_PROBES = 16
_ROWS_AT_ONCE = 50_000
_PAIRS = 20_000


@dataclass(frozen=True)
class BoostedConfig:
    """How the trees are fitted and tabulated.

    Attributes:
        trees: of each head.
        leaves: of a tree.
        learning_rate: weight of a tree.
        min_leaf_rows: rows that a leaf needs.
        groups: user groups of the table; as many as users and it is exact.
        min_positives: behaviours with fewer positives get an intercept only.
        rates: calibrate to the log's own rates, or to KuaiRand's published ones.
    """

    trees: int = 120
    leaves: int = 15
    learning_rate: float = 0.05
    min_leaf_rows: int = 100
    groups: int = 64
    min_positives: int = 50
    rates: str = "log"

    def __post_init__(self) -> None:
        for name in ("trees", "learning_rate", "min_leaf_rows", "groups", "min_positives"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}", where=f"BoostedConfig.{name}", mend="it must be positive")
        if self.leaves < 2:
            raise ConfigError(f"leaves is {self.leaves}", where="BoostedConfig.leaves", mend="a tree has at least 2")
        if self.rates not in ("log", "published"):
            raise ConfigError(f"rates is {self.rates!r}", where="BoostedConfig.rates", mend="choose log or published")


@dataclass(frozen=True, eq=False)
class SideFeatures:
    """What is known of users and items besides the rows: ``user`` (n_users, Du), ``item`` (n_items, Di) float32."""

    user: Float32
    item: Float32

    @classmethod
    def of(cls, store: Store, log: Log) -> SideFeatures:
        """Columns of the store's tables that do not leak, as :class:`recrl_datasets.UserItemFeatures` makes them; no counts of rows."""
        made = UserItemFeatures.fit(log, store)
        keep = [[k for k, name in enumerate(names) if "train " not in name] for names in (made.user_names, made.item_names)]
        return cls(np.ascontiguousarray(made.user[:, keep[0]]), np.ascontiguousarray(made.item[:, keep[1]]))

    @classmethod
    def none(cls, log: Log) -> SideFeatures:
        """Nothing known."""
        return cls(np.zeros((log.n_users, 0), np.float32), np.zeros((log.n_items, 0), np.float32))


class Trees:
    """One booster a head over rows of (user, user's earlier rows, item, item's rows); heads without one are constant.

    Counts of a user are of its earlier requests, counts of an item of other users' rows (five folds of users), so that no row's
    own outcome is among its features. Asked about the log's end, both count all training rows.

    **Shapes**: ``happened`` (n, 7).
    """

    def __init__(self, log: Log, rows: LoggedRows, sides: SideFeatures, config: BoostedConfig, seed: int, progress: Progress) -> None:
        # half a second of import that nobody else need pay
        import lightgbm

        y, weight = rows.happened.numpy(), rows.weight.numpy()
        self.overall = y.mean(0)
        self.sides = sides
        self.user_counts = _tallies(log.column("user"), y, log.n_users)
        self.item_counts = _tallies(log.column("item"), y, log.n_items)
        features = self.rows(log.column("user"), log.column("item"), earlier_counts(log, y), self._crossed_counts(log, y, seed))
        factored = rows.factored(config.min_positives)
        options = {
            "objective": "binary",
            "num_leaves": config.leaves,
            "learning_rate": config.learning_rate,
            "min_data_in_leaf": config.min_leaf_rows,
            "feature_fraction": 0.5,
            "max_bin": 63,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "seed": seed,
            "verbosity": -1,
        }
        clicked = np.flatnonzero(y[:, 0] == 1)
        self.boosters: list[Any] = []
        for k, name in enumerate(BEHAVIOURS):
            at = np.arange(len(y)) if k == 0 else clicked
            booster = None
            if k in factored:
                data = lightgbm.Dataset(features[at], y[at, k], weight=weight[at], free_raw_data=True)
                booster = lightgbm.train(options, data, num_boost_round=config.trees)
            self.boosters.append(booster)
            progress((k + 1) / F, f"boosted trees: {name}")

    def _crossed_counts(self, log: Log, y: Float32, seed: int) -> Float32:
        """Counts (n, 8) of each row's item among the users of the other folds."""
        item, fold = log.column("item"), Streams(seed).permutation(log.n_users, 0, Purpose.SPLITS)[log.column("user")] % _FOLDS
        inside = np.stack([_tallies(item[fold == j], y[fold == j], log.n_items) for j in range(_FOLDS)])
        return np.asarray(self.item_counts[item] - inside[fold, item])

    def rows(self, user: NDArray[np.integer], item: NDArray[np.integer], seen: Float32, shown: Float32) -> Float32:
        """Feature rows from counts (n, 8) of the user and of the item: rows, then each behaviour; user -1 is the average one."""
        users = np.vstack([self.sides.user, self.sides.user.mean(0, keepdims=True)]) if len(self.sides.user) else self.sides.user
        parts = (users[user], self._rates(seen), self.sides.item[item], self._rates(shown))
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def _rates(self, counts: Float32) -> Float32:
        shrunk = (counts[:, 1:] + _PRIOR_ROWS * self.overall) / (counts[:, :1] + _PRIOR_ROWS)
        return np.concatenate([np.log1p(counts[:, :1]), shrunk], axis=1, dtype=np.float32)

    def at_end(self, user: NDArray[np.integer], item: NDArray[np.integer]) -> Float32:
        """Feature rows of pairs at the end of the log; user -1 is the average one, of whom nothing was seen."""
        seen = np.where((user >= 0)[:, None], self.user_counts[user], 0.0).astype(np.float32)
        return self.rows(user, item, seen, self.item_counts[item])

    def logits(self, features: Float32) -> Float32:
        """Log-odds (n, 7) of click and, given a click, of the others; 0 for heads without trees."""
        out = np.zeros((len(features), F), dtype=np.float32)
        for k, booster in enumerate(self.boosters):
            if booster is not None:
                out[:, k] = booster.predict(features, raw_score=True, num_threads=1)
        return out

    def cold_logits(self, log: Log) -> Tensor:
        """Log-odds (n, 7) of the logged rows, had nothing been seen of their users."""
        user, item = log.column("user"), log.column("item")
        nothing = np.zeros((log.n_rows, F + 1), dtype=np.float32)
        return torch.from_numpy(self.logits(self.rows(user, item, nothing, self.item_counts[item])))

    def pair_logits(self, user: NDArray[np.integer], item: NDArray[np.integer]) -> Float32:
        """Log-odds (n, 7) of pairs at the end of the log, in portions."""
        step = _ROWS_AT_ONCE
        parts = [self.logits(self.at_end(user[lo : lo + step], item[lo : lo + step])) for lo in range(0, len(user), step)]
        return np.concatenate(parts) if parts else np.zeros((0, F), np.float32)


def earlier_counts(log: Log, happened: Float32) -> Float32:
    """Rows and behaviours of each row's user in its earlier requests: ``(n, 8)``."""
    marks = np.concatenate([np.ones((log.n_rows, 1), np.float32), happened], axis=1).astype(np.float64)
    before = np.vstack([np.zeros((1, F + 1)), np.cumsum(marks, axis=0)])
    user, time = log.column("user"), log.column("timestamp_ms")
    new_user = np.r_[True, user[1:] != user[:-1]]
    new_request = new_user | np.r_[True, time[1:] != time[:-1]]
    starts = [np.maximum.accumulate(np.where(flag, np.arange(log.n_rows), 0)) for flag in (new_request, new_user)]
    return np.asarray(before[starts[0]] - before[starts[1]], dtype=np.float32)


def _tallies(index: NDArray[np.integer], happened: Float32, size: int) -> Float32:
    columns = [np.bincount(index, minlength=size), *(np.bincount(index, weights=happened[:, k], minlength=size) for k in range(F))]
    return np.stack(columns, axis=1).astype(np.float32)


def fit_boosted(
    log: Log,
    config: BoostedConfig = BoostedConfig(),
    *,
    sides: SideFeatures | None = None,
    weights: NDArray[np.float64] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> BoostedResponse:
    """Fit trees to the rows of ``log`` and tabulate them; single-threaded and repeatable.

    Users are grouped by what their trees say of 16 items, each user's mean taken out; the user nearest a group's centre stands for
    it. The log's rates hold for users with rows and, separately, for those without and for the unknown one.

    **Shapes**: ``weights`` (n_users,) how often each user counts, 1 without.

    **Errors**: :class:`DataError` for an empty log, one without clicks and non-clicks, or features of another store.
    """
    tell: Progress = progress or (lambda share, what: None)
    rows = LoggedRows.of(log, weights)
    sides = sides or SideFeatures.none(log)
    if (len(sides.user), len(sides.item)) != (log.n_users, log.n_items):
        raise DataError(
            f"features of {len(sides.user)} users and {len(sides.item)} items",
            where="fit_boosted: sides",
            mend="make them of the same store",
        )
    trees = Trees(log, rows, sides, config, seed, lambda share, what: tell(0.6 * share, what))
    tell(0.6, "boosted trees: table")
    group, offsets, table = _tabulate(trees, log, config.groups, seed)
    bias = [torch.zeros(log.n_users + 1, WIDTH), torch.zeros(log.n_items + 1, WIDTH)]
    watch = fit_watch(log, rows, *bias) if log.has("watch_seconds") else None
    offsets[:, F:], table[..., F:] = bias[0][:, F:], bias[1][:, F:]
    raw = BoostedResponse(table, offsets, group, torch.zeros(F))
    targets, item = rows.targets(config.rates), rows.item.unsqueeze(1)
    known, off_click = rate_shifts(raw.logits(rows.user, item)[:, 0], *targets, rows.weight)
    # users of the log of whom nothing would have been seen; then the average one
    cold = [rate_shifts(trees.cold_logits(log), *targets, rows.weight)[0]]
    cold.append(rate_shifts(raw.logits(torch.full_like(rows.user, -1), item)[:, 0], *targets, rows.weight)[0])
    seen = torch.from_numpy(log.user_offsets.lengths > 0).unsqueeze(1)
    offsets[:-1, :F] += torch.where(seen, known, cold[0]).float()
    offsets[-1, :F] += cold[1].float()
    error = _table_error(trees, BoostedResponse(table, offsets, group, off_click), known.numpy(), log, seed)
    factored = [k for k, booster in enumerate(trees.boosters) if booster is not None]
    centred = table[..., 0] - table[..., 0].mean(1, keepdim=True) - table[..., 0].mean(0)
    notes = rows.notes(log, config.rates, factored, float(centred.std()))
    tell(1.0, "boosted trees: calibrated")
    return BoostedResponse(table, offsets, group, off_click, watch, notes, error)


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


def _table_error(trees: Trees, model: BoostedResponse, shift: NDArray[np.float64], log: Log, seed: int) -> float:
    """Root mean square difference of P(click) over random pairs of a user with rows and an item."""
    seen = np.flatnonzero(log.user_offsets.lengths > 0)
    draws = Streams(seed)
    user = seen[draws.integers(seen.size, np.arange(_PAIRS), 1, Purpose.USERS)]
    item = draws.integers(log.n_items, np.arange(_PAIRS), 2, Purpose.USERS)
    exact = torch.sigmoid(torch.from_numpy(trees.pair_logits(user, item)[:, 0] + shift[0].astype(np.float32)))
    table = torch.sigmoid(model.logits(torch.from_numpy(user), torch.from_numpy(item).unsqueeze(1))[:, 0, 0])
    return float((exact - table).square().mean().sqrt())
