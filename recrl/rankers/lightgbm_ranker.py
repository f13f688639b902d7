"""LightGBM over user and item features: a ranker (lambdarank) and a response baseline (one classifier a behaviour).

Features come from :class:`recrl_datasets.UserItemFeatures`, fitted on training rows; the item's popularity is one of them. Statistics of a
training row hold the row itself, shrunk with the weight of 20 rows: that flatters training, not the validation that stops it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file, save_file

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import Progress
from recrl.core.errors import CheckpointError, ConfigError, DataError
from recrl.core.files import atomic_path, read_json, write_json, write_text
from recrl.core.streams import Purpose, Streams
from recrl.policies.boosted import BoostedScores
from recrl.rankers.journal import Journal
from recrl_datasets import Log, UserItemFeatures

_QUERY_ROWS = 10_000
"""Rows of one user that LightGBM's lambdarank takes."""
_KEEP_EVERY = 20
"""Rounds between checkpoints of a training that is kept."""


@dataclass(frozen=True)
class LightGBMConfig:
    """How trees are grown.

    Attributes:
        trees: boosting rounds, at most.
        stopping_rounds: rounds without a better result on the validation rows after which growing stops.
        leaves: of a tree.
        learning_rate: shrinkage of a tree.
        min_rows: rows of a leaf, at least.
        negatives: items drawn at random beside each positive row (ranker).
    """

    trees: int = 200
    stopping_rounds: int = 20
    leaves: int = 31
    learning_rate: float = 0.05
    min_rows: int = 20
    negatives: int = 4

    def __post_init__(self) -> None:
        for name, least in {"trees": 1, "stopping_rounds": 1, "leaves": 2, "min_rows": 1, "negatives": 1}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least {least}", where=f"ranker.lightgbm.{name}")

    def parameters(self, seed: int, **more: Any) -> dict[str, Any]:
        """LightGBM's parameters: one thread and fixed seeds, so that equal rows give equal trees."""
        return {
            "num_leaves": self.leaves,
            "learning_rate": self.learning_rate,
            "min_data_in_leaf": self.min_rows,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
            **more,
        }


def fit_lightgbm(
    train: Log,
    valid: Log,
    features: UserItemFeatures,
    *,
    positives: str = "all",
    config: LightGBMConfig = LightGBMConfig(),
    seed: int = 0,
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> tuple[BoostedScores, list[dict[str, Any]]]:
    """Train a ranker by lambdarank, and the log of training (``step``, ``name``, ``value``).

    A query is a user: its rows, 1 where the behaviour ``positives`` happened (``all``: everywhere) and 0 elsewhere, and ``negatives`` items
    drawn at random for each 1, as 0; items that are a 1 of this user are not drawn. Of very long users the latest rows are taken.
    Rounds stop by NDCG@10 on queries of the validation rows. With a ``journal`` the trees are kept every 20 rounds; a training that was
    stopped goes on from there and grows the trees it would have grown.

    **Errors**: :class:`DataError` without a positive training row.
    """
    queries = _queries(train, positives, config.negatives, seed)
    if not queries.label.any():
        raise DataError(f"no training row has {positives!r}", where="lightgbm", mend="choose another behaviour, or all")
    held = _queries(valid, positives, config.negatives, seed + 1)
    parameters = config.parameters(seed, objective="lambdarank", metric="ndcg", eval_at=[10])
    booster, metrics = _grow(parameters, config, queries, held if held.label.any() else None, features, "ndcg@10", journal, progress)
    scores = BoostedScores(booster, torch.from_numpy(features.user), torch.from_numpy(features.item))
    return scores, metrics


class LightGBMResponse:
    """Probability of each behaviour given user and item features: a baseline for response models.

    Args:
        boosters: a classifier for each behaviour, as LightGBM's text.
        user_features: (n_users, Du).
        item_features: (n_items, Di).
    """

    def __init__(self, boosters: Mapping[str, str], user_features: NDArray[np.float32], item_features: NDArray[np.float32]) -> None:
        import lightgbm

        self.behaviours = tuple(boosters)
        self._texts = dict(boosters)
        self._boosters = {name: lightgbm.Booster(model_str=text) for name, text in boosters.items()}
        self._users, self._items = user_features, item_features

    @classmethod
    def fit(
        cls,
        train: Log,
        valid: Log,
        features: UserItemFeatures,
        *,
        config: LightGBMConfig = LightGBMConfig(),
        seed: int = 0,
        progress: Progress | None = None,
    ) -> LightGBMResponse:
        """Fit a classifier for each behaviour that both happened and did not in the training rows.

        Rounds stop by log loss on the validation rows, where there are any.

        **Errors**: :class:`DataError` where no behaviour varies.
        """
        names = [name for name in BEHAVIOURS if train.has(name) and 0 < int((train.column(name) > 0).sum()) < train.n_rows]
        if not names:
            raise DataError("no behaviour varies in the training rows", where="LightGBMResponse.fit", mend="give a log with feedback")
        boosters = {}
        for k, name in enumerate(names):
            told = progress and partial(_tell, progress, k, len(names), name)
            held = _rows(valid, name) if valid.n_rows else None
            parameters = config.parameters(seed, objective="binary", metric="binary_logloss")
            boosters[name], _ = _grow(parameters, config, _rows(train, name), held, features, "binary_logloss", None, told)
        return cls(boosters, features.user, features.item)

    def probabilities(self, user: ArrayLike, item: ArrayLike) -> NDArray[np.float32]:
        """Probability of each of :attr:`behaviours`: (n,), (n,) -> (n, len(behaviours))."""
        pairs = np.concatenate([self._users[np.asarray(user)], self._items[np.asarray(item)]], axis=1)
        return np.stack([np.asarray(b.predict(pairs, num_threads=1), dtype=np.float32) for b in self._boosters.values()], axis=1)

    def auc(self, log: Log) -> dict[str, float]:
        """Area under the ROC curve of each behaviour over the rows of ``log``; NaN where it does not vary there."""
        from sklearn.metrics import roc_auc_score

        predicted = self.probabilities(log.column("user"), log.column("item"))
        out = {}
        for k, name in enumerate(self.behaviours):
            happened = log.column(name) > 0
            out[name] = float(roc_auc_score(happened, predicted[:, k])) if 0 < happened.sum() < happened.size else float("nan")
        return out

    def save(self, folder: Path) -> None:
        """Write ``<behaviour>.txt`` in LightGBM's text format, the features, and last ``response.json``."""
        for name, text in self._texts.items():
            write_text(folder / f"{name}.txt", text)
        with atomic_path(folder / "features.safetensors") as temporary:
            save_file({"user": np.ascontiguousarray(self._users), "item": np.ascontiguousarray(self._items)}, temporary)
        write_json(folder / "response.json", {"behaviours": list(self.behaviours)})

    @classmethod
    def load(cls, folder: Path) -> LightGBMResponse:
        """Read what :meth:`save` wrote.

        **Errors**: ``StorageError`` for a missing folder, :class:`CheckpointError` for a broken one.
        """
        names = [name for name in read_json(folder / "response.json")["behaviours"] if name in BEHAVIOURS]
        try:
            features = load_file(folder / "features.safetensors")
            return cls({name: (folder / f"{name}.txt").read_text(encoding="utf-8") for name in names}, features["user"], features["item"])
        # LightGBM and safetensors raise errors of their own, both plain Exceptions
        except Exception as error:
            raise CheckpointError(f"the response model cannot be read: {error}", where=str(folder), mend="fit and save it again") from None


def _tell(progress: Progress, k: int, count: int, name: str, done: float, text: str) -> None:
    progress((k + done) / count, f"{name}: {text}")


@dataclass(frozen=True, eq=False)
class _Rows:
    """Labelled (user, item) pairs; ``sizes`` are the pairs of each query, for a ranker."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    label: NDArray[np.int8]
    sizes: NDArray[np.int64] | None = None


def _rows(log: Log, behaviour: str) -> _Rows:
    user, item = (log.column(name).astype(np.int64) for name in ("user", "item"))
    return _Rows(user, item, (log.column(behaviour) > 0).astype(np.int8))


def _queries(log: Log, positives: str, negatives: int, seed: int) -> _Rows:
    ends = log.user_offsets.values[1:][log.column("user")]
    kept = np.flatnonzero(ends - np.arange(log.n_rows) <= _QUERY_ROWS // (1 + negatives))
    user, item = (log.column(name)[kept].astype(np.int64) for name in ("user", "item"))
    label = np.ones(kept.size, dtype=np.int8) if positives == "all" else (log.column(positives)[kept] > 0).astype(np.int8)
    rows = np.flatnonzero(label)
    drawn = (Streams(seed).uniform(rows, 0, Purpose.BATCHES, (negatives,)) * log.n_items).astype(np.int64)
    other = np.repeat(user[rows], negatives)
    drawn = drawn.ravel()
    taken = np.isin(other * log.n_items + drawn, user[rows] * log.n_items + item[rows])
    user, item = np.concatenate([user, other[~taken]]), np.concatenate([item, drawn[~taken]])
    label = np.concatenate([label, np.zeros(int((~taken).sum()), dtype=np.int8)])
    # in random order: LightGBM breaks ties by position, and positives that stood first would flatter every round with ties
    order = np.lexsort((Streams(seed).uniform(np.arange(user.size), 1, Purpose.BATCHES), user))
    sizes = np.bincount(user, minlength=log.n_users)
    return _Rows(user[order], item[order], label[order], sizes[sizes > 0])


def _grow(
    parameters: Mapping[str, Any],
    config: LightGBMConfig,
    rows: _Rows,
    held: _Rows | None,
    features: UserItemFeatures,
    metric: str,
    journal: Journal | None,
    progress: Progress | None,
) -> tuple[str, list[dict[str, Any]]]:
    """Grow trees on ``rows``; the text of the booster at its best round, and the validation metric of each round.

    LightGBM goes on from a booster's text with the scores it had: a round depends on nothing else, as no rows or features are drawn.
    """
    import lightgbm

    def dataset(part: _Rows, reference: Any = None) -> Any:
        pairs = np.concatenate([features.user[part.user], features.item[part.item]], axis=1)
        return lightgbm.Dataset(pairs, part.label, group=part.sizes, reference=reference)

    kept = journal.newest() if journal else None
    start, state = kept or (0, {"booster": "", "metrics": []})
    metrics: list[dict[str, Any]] = list(state["metrics"])
    sign = -1.0 if metric == "binary_logloss" else 1.0

    def best() -> int:
        """The first round that no other is better than."""
        return int(max(metrics, key=lambda row: sign * row["value"])["step"]) if metrics else config.trees

    def after_round(grown: Any) -> None:
        done = grown.iteration + 1
        if grown.evaluation_result_list:
            metrics.append({"step": done, "name": f"valid_{metric}", "value": float(grown.evaluation_result_list[0][2])})
        if progress:
            progress(done / config.trees, f"round {done}")
        # the number of rounds asked for is the same wherever growing began: LightGBM writes it beside the trees
        if done == config.trees or (metrics and done - best() >= config.stopping_rounds):
            raise lightgbm.callback.EarlyStopException(best() - 1, [])
        if journal and done % _KEEP_EVERY == 0:
            journal.keep(done, {"booster": grown.model.model_to_string(num_iteration=-1)}, metrics)

    train = dataset(rows)
    booster = lightgbm.train(
        dict(parameters),
        train,
        config.trees,
        valid_sets=[dataset(held, train)] if held is not None else None,
        init_model=lightgbm.Booster(model_str=state["booster"]) if start else None,
        callbacks=[after_round],
    )
    if journal:
        journal.record(metrics)
    text: str = booster.model_to_string(num_iteration=booster.best_iteration)
    return text, metrics
