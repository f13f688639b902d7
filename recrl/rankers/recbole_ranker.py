"""BPR, LightGCN, SASRec and GRU4Rec, trained by RecBole on the rows of a log.

Rows are written as RecBole's atomic files into a private folder; RecBole numbers users and items as they appear there, trains with its own
loaders, losses and early stopping (best MRR@10 on the validation rows), and its weights come back in the log's own index spaces.
RecBole's ids start at 1: its item ``k`` is the item whose dense index is its token, 0 is padding.

Nothing is left behind: no files, no log lines, no global seed (:mod:`recrl.rankers.recbole_shims`).
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError, DataError
from recrl.policies.ranked import FactorScores, SequenceConfig, SequenceScores
from recrl.rankers import RECBOLE_MODELS, SEQUENTIAL
from recrl.rankers.interactions import TEST, TRAIN, VALID, Interactions
from recrl.rankers.journal import Journal
from recrl.rankers.recbole_shims import import_recbole, use_recbole
from recrl.rankers.recbole_training import RecBoleTraining

_NAME = "log"
_FIXED = {"model", "dataset", "eval_args", "benchmark_filename", "valid_metric", "reproducibility"}
_WHERE = "ranker.recbole.settings"
_WORD = re.compile(r"[A-Za-z0-9_.@-]+")


@dataclass(frozen=True)
class RecBoleConfig:
    """How RecBole trains a ranker; what is not named here has RecBole's own default.

    Attributes:
        epochs: passes over the training rows, at most.
        stopping_step: evaluations in a row without a better MRR@10 on the validation rows after which training stops.
        learning_rate: of Adam.
        batch_size: rows a step.
        embedding_size: length of user and item vectors.
        length: most recent items that a sequential ranker reads.
        settings: any other setting of RecBole, as `name=value` with a JSON value or a word.
    """

    epochs: int = 50
    stopping_step: int = 10
    learning_rate: float = 1e-3
    batch_size: int = 2048
    embedding_size: int = 64
    length: int = 50
    settings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "embedding_size", "length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1", where=f"ranker.recbole.{name}")


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained ranker: its scores, the log of training (``step``, ``name``, ``value``), and RecBole's best validation result."""

    scores: FactorScores | SequenceScores
    metrics: list[dict[str, Any]]
    valid: dict[str, float]


def fit_recbole(
    name: str,
    rows: Interactions,
    config: RecBoleConfig,
    *,
    seed: int,
    feedback: int = 0,
    device: str = "cpu",
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Train the ranker ``name`` on the training rows; the best epoch on the validation rows is kept (the last one without any).

    With a ``journal`` the training is kept at the end of each epoch, and goes on from there: on CPU with the bits it would have had.

    Args:
        name: one of :data:`recrl.rankers.RECBOLE_MODELS`.
        rows: positive rows; those of the test part number users and items and are not learned from.
        config: how RecBole trains.
        seed: RecBole's seed; equal rows and seeds give RecBole's own results.
        feedback: bits that an item of a history must have one of to be read when the policy acts (how ``rows`` were chosen).
        device: ``cpu`` or a CUDA device.
        journal: where the training is kept while it goes on.
        progress: told after each epoch that is evaluated.

    **Errors**: ``MissingDependencyError`` without RecBole; :class:`ConfigError` for a setting it does not take;
    :class:`DataError` for rows that it cannot learn from; ``CheckpointError`` for a journal of another training.
    """
    _check_rows(rows, name in SEQUENTIAL, device)
    with tempfile.TemporaryDirectory(prefix="recrl-recbole-") as folder, use_recbole(Path(folder)):
        _write_atomic(rows, Path(folder) / _NAME)
        try:
            return _fit(name, rows, _configuration(name, config, seed, Path(folder), device), feedback, journal, progress)
        except (ValueError, TypeError, NotImplementedError) as error:
            # what RecBole raises for sizes that do not fit, unknown losses, and a loss that is no number
            raise ConfigError(f"RecBole stopped: {error}", where=f"ranker {name}", mend="change its settings") from error


def _fit(name: str, rows: Interactions, recbole: Any, feedback: int, journal: Journal | None, progress: Progress | None) -> Fitted:
    """The steps of RecBole's ``run_recbole``, in its order, so that equal seeds draw equal numbers."""
    utils = import_recbole("recbole.utils")
    utils.init_seed(recbole["seed"], True)
    dataset = _dataset_type(name in SEQUENTIAL)(recbole)
    train, valid = _loaders(recbole, dataset)
    # once more: the model starts from the seed, whatever the data drew
    utils.init_seed(recbole["seed"], True)
    model = utils.get_model(RECBOLE_MODELS[name])(recbole, train._dataset).to(recbole["device"])
    training = RecBoleTraining(utils.get_trainer(recbole["MODEL_TYPE"], RECBOLE_MODELS[name])(recbole, model), train, valid, journal)
    best = training.fit(progress)
    model.load_state_dict(training.best)
    scores = _sequence_scores(name, model, dataset, rows, feedback) if name in SEQUENTIAL else _factor_scores(model, dataset, rows)
    return Fitted(scores.cpu(), training.metrics, best)


def _check_rows(rows: Interactions, sequential: bool, device: str) -> None:
    if device.split(":")[0] not in ("cpu", "cuda"):
        raise ConfigError(f"RecBole does not train on {device!r}", where="--device", mend="choose cpu or cuda")
    train = np.bincount(rows.user[rows.part == TRAIN], minlength=rows.n_users)
    if train.max(initial=0) < (2 if sequential else 1):
        raise DataError("no user has enough training rows", where="rankers", mend="choose more positives, or another split")
    seen = np.bincount(np.unique(rows.user * rows.n_items + rows.item) // rows.n_items, minlength=rows.n_users)
    if not sequential and seen.max() >= rows.n_items:
        raise DataError(
            f"user {int(seen.argmax())} has seen every item: there is none to rank it below",
            where="rankers",
            mend="choose fewer positives (for example like), or a sequential ranker",
        )


def _configuration(name: str, config: RecBoleConfig, seed: int, folder: Path, device: str) -> Any:
    """RecBole's Config of this training.

    **Errors**: :class:`ConfigError` for a setting that is unknown, has an option of its own, or follows from the data.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    own: dict[str, Any] = {
        "data_path": str(folder),
        "checkpoint_dir": str(folder / "saved"),
        "load_col": {"inter": ["user_id", "item_id", "timestamp", "part"], "user": ["user_id"], "item": ["item_id"]},
        "gpu_id": visible,
        "seed": seed,
        "show_progress": False,
        "epochs": config.epochs,
        "stopping_step": config.stopping_step,
        "learning_rate": config.learning_rate,
        "train_batch_size": config.batch_size,
        "MAX_ITEM_LIST_LENGTH": config.length,
        "embedding_size": config.embedding_size,
    }
    if name == "sasrec":
        own["hidden_size"] = config.embedding_size
    asked = dict(_setting(text) for text in config.settings)
    for key in sorted(asked.keys() & (own.keys() | _FIXED)):
        raise ConfigError(f"{key} is not for settings", where=_WHERE, mend="it has an option of its own, or follows from the data")
    if asked.get("hidden_act", "gelu") != "gelu":
        raise ConfigError("SASRec acts with hidden_act=gelu alone", where=_WHERE, mend="leave hidden_act out")
    if name in SEQUENTIAL and asked.get("loss_type", "CE") == "CE":
        own["train_neg_sample_args"] = None
    recbole = import_recbole("recbole.config").Config(model=RECBOLE_MODELS[name], dataset=_NAME, config_dict={**own, **asked})
    # what its files of defaults do not name is a slip that RecBole would pass over
    for key in sorted(asked.keys() - recbole.internal_config_dict.keys()):
        near = difflib.get_close_matches(key, recbole.internal_config_dict, n=1)
        raise ConfigError(
            f"{RECBOLE_MODELS[name]} has no setting {key!r}", where=_WHERE, mend=f"did you mean {near[0]}?" if near else "leave it out"
        )
    recbole["device"] = torch.device(device)
    return recbole


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError:
        parsed = value
    # RecBole evaluates strings as Python: only plain words may reach it
    plain = not isinstance(parsed, str) or _WORD.fullmatch(parsed)
    if not name.isidentifier() or not plain or (isinstance(parsed, list | dict) and any(isinstance(v, str) for v in parsed)):
        raise ConfigError(f"setting {text!r} cannot be read", where=_WHERE, mend="write name=value, for example n_layers=1")
    return name, parsed


def _write_atomic(rows: Interactions, folder: Path) -> None:
    folder.mkdir()
    inter = {
        "user_id:token": rows.user,
        "item_id:token": rows.item,
        "timestamp:float": rows.time,
        "part:float": rows.part.astype(np.float64),
    }
    users, items = {"user_id:token": np.arange(rows.n_users)}, {"item_id:token": np.arange(rows.n_items)}
    for suffix, table in {"inter": pl.DataFrame(inter), "user": pl.DataFrame(users), "item": pl.DataFrame(items)}.items():
        table.write_csv(folder / f"{_NAME}.{suffix}", separator="\t")


def _dataset_type(sequential: bool) -> type[Any]:
    """RecBole's dataset, cut where ``part`` says; orders, numbers and histories are RecBole's."""
    module = import_recbole("recbole.data.dataset")
    base: Any = module.SequentialDataset if sequential else module.Dataset

    class CutDataset(base):
        inter_feat: Any

        def build(self) -> list[Any]:
            self._change_feat_format()
            if sequential:
                self.sort(by=self.time_field)
            else:
                self.shuffle()
            users, part = self.inter_feat[self.uid_field].numpy(), self.inter_feat["part"].numpy()
            _, first, inverse = np.unique(users, return_index=True, return_inverse=True)
            # each user's rows together, users as they appear
            order = np.argsort(first[inverse], kind="stable")
            return [self.copy(self.inter_feat[order[part[order] == k]]) for k in (TRAIN, VALID, TEST)]

        def data_augmentation(self) -> None:
            """Every row but a user's first becomes (history, target): RecBole's lists, by one gather, of items alone."""
            self._aug_presets()
            self.sort(by=[self.uid_field, self.time_field], ascending=True)
            users, items = self.inter_feat[self.uid_field].numpy(), self.inter_feat[self.iid_field].numpy()
            position = np.arange(users.size) - np.searchsorted(users, users)
            target = np.flatnonzero(position > 0)
            length = np.minimum(position[target], self.max_item_list_len)
            source = (target - length)[:, None] + np.arange(self.max_item_list_len)
            known = np.arange(self.max_item_list_len) < length[:, None]
            lists = np.where(known, items[np.where(known, source, 0)], 0)
            pairs = self.inter_feat[target]
            interaction = import_recbole("recbole.data.interaction").Interaction
            pairs.update(
                interaction({self.item_list_length_field: torch.from_numpy(length), f"{self.iid_field}_list": torch.from_numpy(lists)})
            )
            self.inter_feat = pairs

    return CutDataset


def _loaders(recbole: Any, dataset: Any) -> tuple[Any, Any]:
    """Loaders of the training and the validation rows; ``None`` without validation rows."""
    utils = import_recbole("recbole.data.utils")
    parts = dataset.build()
    samplers = utils.create_samplers(recbole, dataset, parts)
    train = utils.get_dataloader(recbole, "train")(recbole, parts[0], samplers[0], shuffle=recbole["shuffle"])
    if len(parts[1]) == 0:
        return train, None
    return train, utils.get_dataloader(recbole, "valid")(recbole, parts[1], samplers[1], shuffle=False)


def _dense(dataset: Any, field: str) -> Tensor:
    """Dense index of RecBole's id ``k + 1``, (n,)."""
    tokens: Sequence[str] = dataset.field2id_token[field][1:]
    return torch.from_numpy(np.asarray(tokens).astype(np.int64))


def _in_our_order(table: Tensor, dense: Tensor) -> Tensor:
    out = torch.empty_like(table[1:])
    out[dense] = table[1:]
    return out


def _log_counts(rows: Interactions) -> Tensor:
    return torch.from_numpy(np.log1p(rows.counts()).astype(np.float32))


@torch.no_grad()
def _factor_scores(model: Any, dataset: Any, rows: Interactions) -> FactorScores:
    model.eval()
    # LightGCN's vectors are what its propagation makes of its embeddings
    users, items = model() if hasattr(model, "norm_adj_matrix") else (model.user_embedding.weight, model.item_embedding.weight)
    known: NDArray[np.bool_] = np.bincount(rows.user[rows.part == TRAIN], minlength=rows.n_users) > 0
    return FactorScores(
        _in_our_order(users.cpu(), _dense(dataset, "user_id")),
        torch.from_numpy(known),
        _in_our_order(items.cpu(), _dense(dataset, "item_id")),
        _log_counts(rows),
    )


@torch.no_grad()
def _sequence_scores(name: str, model: Any, dataset: Any, rows: Interactions, feedback: int) -> SequenceScores:
    weights = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    vectors = weights.pop("item_embedding.weight")
    if name == "sasrec":
        shape = SequenceConfig(
            network="sasrec",
            length=model.max_seq_length,
            size=model.hidden_size,
            inner=model.inner_size,
            layers=model.n_layers,
            heads=model.n_heads,
            epsilon=model.layer_norm_eps,
            feedback=feedback,
        )
        weights = _sasrec_weights(weights)
    else:
        shape = SequenceConfig(
            network="gru4rec",
            length=model.max_seq_length,
            size=model.embedding_size,
            inner=model.hidden_size,
            layers=model.num_layers,
            feedback=feedback,
        )
        weights = {key.replace("gru_layers.", "gru."): value for key, value in weights.items()}
    scores = SequenceScores(shape, _log_counts(rows))
    scores.table.weight.copy_(torch.cat([vectors[:1], _in_our_order(vectors, _dense(dataset, "item_id"))]))
    scores.encoder.load_state_dict(weights)
    return scores.requires_grad_(False)


def _sasrec_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """RecBole's SASRec weights under the names of :class:`recrl.policies.ranked.SASRecEncoder`."""
    names = {
        "position_embedding.": "positions.",
        "multi_head_attention.LayerNorm.": "attention_norm.",
        "multi_head_attention.": "",
        "feed_forward.LayerNorm.": "output_norm.",
        "feed_forward.dense_1.": "wide.",
        "feed_forward.dense_2.": "narrow.",
        "trm_encoder.layer.": "layers.",
        "LayerNorm.": "norm.",
    }
    renamed = {}
    for key, value in weights.items():
        for theirs, ours in names.items():
            # the outer norm's name is a part of the inner ones': those were replaced before
            key = key.replace(theirs, ours) if theirs != "LayerNorm." or key.startswith(theirs) else key
        renamed[key] = value
    return renamed
