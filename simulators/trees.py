"""Gradient-boosted trees over rows of (user, user's earlier rows, item, item's rows), and what can be tabulated of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError, DataError
from recrl.core.streams import Purpose, Streams
from recrl_datasets import Log, Store, UserItemFeatures
from simulators.past import COUNTS, PRIOR_ROWS, Ground, PastEffect
from simulators.response_fit import LoggedRows

F = len(BEHAVIOURS)
Float32 = NDArray[np.float32]
_FOLDS = 5
# trees without a better held-out loss after which a head stops
_PATIENCE = 30
_ROWS_AT_ONCE = 50_000

Mixing = Literal["all", "crossed", "apart"]
"""Which features may meet in a tree: ``all``; those of user and item (``crossed``), apart from counts of the user's past; or each kind
``apart``. The past has two to a tree then: how many rows, and one rate."""


@dataclass(frozen=True)
class BoostedConfig:
    """How the trees are fitted and tabulated.

    Attributes:
        trees: of each head, at most: those after the one with the least held-out loss are left out.
        held_out: share of users that only say when to stop.
        leaves: of a tree.
        learning_rate: weight of a tree.
        min_leaf_rows: rows that a leaf needs.
        groups: user groups of the table; as many as users and it is exact.
        min_positives: behaviours with fewer positives get an intercept only.
        rates: calibrate to the log's own rates, or to KuaiRand's published ones.
    """

    trees: int = 400
    held_out: float = 0.1
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
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out is {self.held_out}", where="BoostedConfig.held_out", mend="give a share of the users")
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

    def check(self, log: Log) -> None:
        """**Errors**: :class:`DataError` for features of another store."""
        if (len(self.user), len(self.item)) != (log.n_users, log.n_items):
            raise DataError(
                f"features of {len(self.user)} users and {len(self.item)} items",
                where="SideFeatures",
                mend="make them of the same store",
            )


class Trees:
    """One booster a head; heads without one are constant.

    Counts of a user are of its earlier requests, counts of an item of other users' rows (five folds of users), so that no row's
    own outcome is among its features. Asked about an item as such, all training rows count.

    Args:
        log: training rows.
        rows: the same rows as tensors.
        sides: what else is known of users and items.
        config: how many trees, and of which size.
        seed: of the folds and of LightGBM.
        mixing: which features may meet in a tree. Where the past has only itself to meet, :meth:`past_effect` tabulates it exactly.
        progress: told after each head.
    """

    def __init__(
        self, log: Log, rows: LoggedRows, sides: SideFeatures, config: BoostedConfig, seed: int, progress: Progress, mixing: Mixing = "all"
    ) -> None:
        # half a second of import that nobody else need pay
        import lightgbm

        y, weight = rows.happened.numpy(), rows.weight.numpy()
        self.overall = y.mean(0)
        self.sides = sides
        self.item_counts = _tallies(log.column("item"), y, log.n_items)
        self._crossed = self._crossed_counts(log, y, seed)
        features = self.rows(log.column("user"), log.column("item"), earlier_counts(log, y), self._crossed)
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
        if mixing != "all":
            options["interaction_constraints"] = self._constraints(mixing, features.shape[1])
        held = (Streams(seed).uniform(log.user_keys, 2, Purpose.SPLITS) < config.held_out)[log.column("user")]
        self.boosters: list[Any] = []
        for k, name in enumerate(BEHAVIOURS):
            asked, booster = (y[:, 0] == 1) | (k == 0), None
            if k in factored:
                # a log of a few users has nobody to spare
                spared = held & asked if len(np.unique(y[held & asked, k])) == 2 else np.zeros_like(held)
                learned, watched = (lightgbm.Dataset(features[at], y[at, k], weight=weight[at]) for at in (asked & ~spared, spared))
                stop = [lightgbm.early_stopping(_PATIENCE, verbose=False)] if spared.any() else []
                watched.reference = learned
                booster = lightgbm.train(options, learned, config.trees, valid_sets=[watched] if stop else None, callbacks=stop)
            self.boosters.append(booster)
            progress((k + 1) / F, f"boosted trees: {name}")

    @property
    def _past(self) -> int:
        """The column at which the user's past begins."""
        return self.sides.user.shape[1]

    def _constraints(self, mixing: Mixing, width: int) -> list[list[int]]:
        first = self._past
        user, item = list(range(first)), list(range(first + COUNTS, width))
        pairs = [[first, first + 1 + j] for j in range(F)]
        return [group for group in ([user + item] if mixing == "crossed" else [user, item]) if group] + pairs

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
        shrunk = (counts[:, 1:] + PRIOR_ROWS * self.overall) / (counts[:, :1] + PRIOR_ROWS)
        return np.concatenate([np.log1p(counts[:, :1]), shrunk], axis=1, dtype=np.float32)

    def logits(self, features: NDArray[np.floating[Any]]) -> Float32:
        """Log-odds (n, 7) of click and, given a click, of the others; 0 for heads without trees."""
        out = np.zeros((len(features), F), dtype=np.float32)
        for k, booster in enumerate(self.boosters):
            if booster is not None:
                out[:, k] = booster.predict(features, raw_score=True, num_threads=1)
        return out

    def pair_logits(self, user: NDArray[np.integer], item: NDArray[np.integer]) -> Float32:
        """Log-odds (n, 7) of users of whom nothing was seen, -1 the average one, with items, in portions."""
        nothing = np.zeros((len(user), COUNTS), dtype=np.float32)
        return self._in_portions(lambda part: self.rows(user[part], item[part], nothing[part], self.item_counts[item[part]]), len(user))

    def logged_logits(self, log: Log) -> Float32:
        """The same of the rows that the trees were fitted to, each item counted without the row's fold of users."""
        user, item, nothing = log.column("user"), log.column("item"), np.zeros((log.n_rows, COUNTS), dtype=np.float32)
        return self._in_portions(lambda part: self.rows(user[part], item[part], nothing[part], self._crossed[part]), log.n_rows)

    def _in_portions(self, features: Any, count: int) -> Float32:
        step = _ROWS_AT_ONCE
        parts = [self.logits(features(slice(lo, lo + step))) for lo in range(0, count, step)]
        return np.concatenate(parts) if parts else np.zeros((0, F), np.float32)

    def past_effect(self) -> PastEffect:
        """What the past adds to the log-odds of a user of whom nothing was seen, exactly; not for ``mixing="all"``.

        Trees split the number of rows and one rate at most, so the effect is a sum over the seven rates of step functions of two numbers.
        """
        first = self._past
        edges = [np.unique([t for booster in self.boosters if booster for t in _thresholds(booster, first + j)]) for j in range(COUNTS)]
        widest = max(len(e) for e in edges[1:])
        rates = np.full((F, widest), np.inf, dtype=np.float32)
        for j, e in enumerate(edges[1:]):
            rates[j, : len(e)] = e
        start = self.rows(np.array([-1]), np.array([0]), np.zeros((1, COUNTS), np.float32), np.zeros((1, COUNTS), np.float32))

        def effect(j: int) -> Float32:
            """Log-odds (E + 1, R + 1, 7) as the rows and the rate j vary; without j, (E + 1, 1, 7) as the rows do."""
            here, there = _inside(edges[0]), _inside(edges[1 + j], widest) if j >= 0 else start[0, first + 1 : first + 2]
            grid = np.repeat(start.astype(np.float64), len(here) * len(there), axis=0)
            grid[:, first] = np.repeat(here, len(there))
            if j >= 0:
                grid[:, first + 1 + j] = np.tile(there, len(here))
            return self.logits(grid).reshape(len(here), len(there), F)

        alone = effect(-1)
        table = np.stack([effect(j) - alone for j in range(F)])
        table[0] += alone - self.logits(start)
        # rows are whole numbers: halves between them, whatever the logarithm rounds to
        rows = np.floor(np.expm1(edges[0])).astype(np.float32) + np.float32(0.5)
        return PastEffect(*(torch.from_numpy(np.asarray(x, dtype=np.float32)) for x in (rows, rates, self.overall, table)))

    def levels(self, log: Log) -> tuple[Tensor, Tensor]:
        """Log-odds of users (n_users + 1, 7) and of items (n_items + 1, 7), whose sum is :meth:`pair_logits`, where they do not meet.

        The last user is the average one, the last item the mean of the log's rows.
        """
        everyone, items = np.r_[np.arange(log.n_users), -1], np.arange(log.n_items)
        of_item = self.pair_logits(np.full(log.n_items, -1), items)
        of_user = self.pair_logits(everyone, np.zeros_like(everyone)) - of_item[0]
        share = np.bincount(log.column("item"), minlength=log.n_items) / log.n_rows
        of_item = np.vstack([of_item, (share @ of_item).astype(np.float32)])
        return torch.from_numpy(of_user), torch.from_numpy(of_item)


def fit_ground(
    log: Log,
    sides: SideFeatures,
    config: BoostedConfig = BoostedConfig(),
    *,
    weights: NDArray[np.float64] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Ground:
    """What trees say of users, items and the past, each apart from the others, for another model to be fitted on.

    **Errors**: :class:`DataError` for an empty log, one without clicks and non-clicks, or features of another store.
    """
    rows = LoggedRows.of(log, weights)
    sides.check(log)
    trees = Trees(log, rows, sides, config, seed, progress or (lambda share, what: None), mixing="apart")
    users, items = trees.levels(log)
    logged = torch.from_numpy(trees.logged_logits(log))
    centre = logged.mean(0)
    return Ground(users - centre, items, logged - centre, trees.past_effect())


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


def _thresholds(booster: Any, feature: int) -> Iterator[float]:
    """Where the trees of a booster split a feature: values up to a threshold go left."""
    open_nodes: list[Mapping[str, Any]] = [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]
    while open_nodes:
        node = open_nodes.pop()
        if "split_feature" in node:
            open_nodes += [node["left_child"], node["right_child"]]
            if node["split_feature"] == feature:
                yield float(node["threshold"])


def _inside(edges: NDArray[np.float64], count: int | None = None) -> NDArray[np.float64]:
    """A value in each of the bins that the edges cut, the last one repeated for ``count`` edges."""
    last = edges[-1] + 1.0 if len(edges) else 0.0
    return np.r_[edges, np.full(1 + ((count or len(edges)) - len(edges)), last)]
