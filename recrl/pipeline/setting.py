"""A prepared dataset with everything the stages share: split, transitions, item vectors, predicted behaviours."""

from __future__ import annotations

from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds
from torch import Tensor

from recrl.algorithms.task import Task
from recrl.core.contracts import ActionSpec
from recrl.core.errors import ConfigError, DataError
from recrl.core.files import read_json
from recrl.core.objective import Objective, Signal
from recrl.core.runs import RunFolder
from recrl.core.torch.views import as_tensor
from recrl.pipeline.data import DataOptions, session_rule_of
from recrl.policies.fusion import PredictedBehaviours
from recrl.policies.items import item_spec
from recrl.rankers.ranker import Ranker, spread_evenly
from recrl.replay.logged import ActionEncoder, LoggedBuffer
from recrl_datasets import Log, Split, Store, split_by_time
from simulators.response import LatentResponse
from simulators.response_fit import fit_response

LogAction = Literal["item", "embedding", "fusion_weights"]
"""Action kinds that a learner can take from a log."""


class Setting:
    """One dataset, split by time, ready for learners, estimates and simulators.

    Everything learned here (item vectors, counts, predicted behaviours) comes from the training part.
    """

    def __init__(self, store: Store, options: DataOptions) -> None:
        self.store, self.options = store, options
        self.log: Log = store.log()
        self.split: Split = split_by_time(self.log)
        self.session_rule = session_rule_of(store, options.session_rule)
        self.objective = Objective(main=Signal(options.signal))

    @cached_property
    def log_counts(self) -> Tensor:
        """Log of one plus the training count of each item, (n_items,)."""
        counts = np.bincount(self.split.train.column("item"), minlength=self.log.n_items)
        return torch.log1p(as_tensor(counts).to(torch.float32))

    @cached_property
    def known_test_share(self) -> float:
        """Share of test rows whose user has training rows, 0 to 1; what depends on a user's own past is untrained for the others."""
        known = self.split.train.user_offsets.lengths > 0
        test = self.split.test.column("user")
        return float(known[test].mean()) if test.size else 0.0

    @cached_property
    def item_vectors(self) -> Tensor:
        """Item vectors as ``options.vectors`` says, (n_items, d), columns of one spread in [-1, 1].

        By default a truncated SVD of the training user-item table (1 for a long view, 0.3 for any row).
        """
        source = self.options.vectors_folder
        if source is not None:
            return ranker_item_vectors(source, self.store)
        return svd_item_vectors(self.split.train, self.options.vector_size)

    @cached_property
    def responses(self) -> LatentResponse:
        """The platform's own response predictions, fitted on training rows."""
        return fit_response(self.split.train)

    @cached_property
    def predictions(self) -> PredictedBehaviours:
        """Predicted behaviours for fusion weights, standardised over users and the whole catalogue.

        So the mean of shown items is not zero: it points where the logging policy's choice differs from the catalogue, and that is what
        cloning imitates.
        """
        return PredictedBehaviours.of(self.responses)

    def action_spec(self, kind: LogAction) -> ActionSpec:
        """Spec of an action of this kind on this log."""
        if kind == "item":
            return item_spec(self.log.n_items)
        return ActionSpec(kind, (self.item_vectors.shape[1] if kind == "embedding" else 7,))

    def task(self, kind: LogAction, device: str = "cpu", objective: Objective | None = None) -> Task:
        """The task a learner of this action kind is given; ``objective`` in place of the main signal alone."""
        return Task(self.action_spec(kind), objective or self.objective, self.item_vectors.to(device), self.log_counts.to(device), device)

    def buffer(self, kind: LogAction, device: str = "cpu", *, history: int, objective: Objective | None = None) -> LoggedBuffer:
        """Transitions with actions of this kind, and states that remember ``history`` items.

        A log of shown items holds no vector actions. The action that stands for a shown item is its vector (``embedding``) or
        its standardised predicted behaviours for that user (``fusion_weights``): ranking by it favours items alike.
        """
        return LoggedBuffer(
            self.log,
            objective or self.objective,
            history=history,
            session_rule=self.session_rule,
            encode_action=self._encoder(kind, device),
            device=device,
        )

    def _encoder(self, kind: LogAction, device: str) -> ActionEncoder | None:
        if kind == "item":
            return None
        if kind == "embedding":
            vectors = self.item_vectors.to(device)
            return lambda user, item: vectors[item]
        predictions = deepcopy(self.predictions).to(device)
        return predictions.as_weights


def svd_item_vectors(log: Log, size: int) -> Tensor:
    """Item vectors from a log by truncated SVD, (n_items, size), components in [-1, 1].

    **Errors**: :class:`DataError` where the log has fewer users or items than ``size``.
    """
    if min(log.n_users, log.n_items) <= size:
        raise DataError(
            f"{log.n_users} users and {log.n_items} items do not support vectors of length {size}",
            where="--vector-size",
            mend=f"choose at most {min(log.n_users, log.n_items) - 1}",
        )
    liked = log.column("long_view").astype(np.float64) if log.has("long_view") else np.ones(log.n_rows)
    table = csr_matrix((0.3 + 0.7 * liked, (log.column("user"), log.column("item"))), shape=(log.n_users, log.n_items))
    # a fixed start makes the Lanczos iteration, and so the vectors, the same every time
    _, values, right = svds(table, k=size, v0=np.ones(min(table.shape)))
    order = np.argsort(-values)
    vectors = right[order].T * np.sqrt(values[order])
    return spread_evenly(torch.from_numpy(vectors)).to(torch.float32)


def ranker_item_vectors(folder: Path, store: Store) -> Tensor:
    """Item vectors of the ranker saved in ``folder``, (n_items, d), components in [-1, 1].

    **Errors**: :class:`ConfigError` for a policy that is no ranker or has no vectors, and those of :func:`check_source`.
    """
    vectors = Ranker.load(folder).item_vectors(bounded=True)
    check_source(folder, len(vectors), store, "--vectors")
    return vectors


def check_source(folder: Path, items: int, store: Store, where: str) -> None:
    """Check that the saved policy in ``folder``, over so many ``items``, may serve learners on this log.

    **Errors**: :class:`ConfigError` for one that was trained on other data, or on rows after the cut that splits this log.
    """
    # a policy that was taken out of its run tells its size alone
    run = RunFolder(folder.resolve().parents[2])
    known = (run.path / "config.json").is_file()
    data = read_json(run.path / "environment.json")["data_hash"] if known else store.content_hash
    mend = f"train it with --data {store.name}"
    if items != len(store.items) or data != store.content_hash:
        raise ConfigError(f"{folder.name} was trained on other data, of {items} items", where=where, mend=mend)
    if known and run.config.get("learner", {}).get("options", {}).get("split") == "recbole":
        raise ConfigError(f"{folder.name} has learned from rows after the cut by time", where=where, mend=f"{mend} --ranker.split time")
