"""Wide&Deep and DeepFM of RecBole on the rows of the TSCAC study: a score of every item, for policies that show by them.

The loss is the likelihood of the item shown, by a softmax of the scores, with each row weighted by its responses:

    L = - mean [ R log softmax(score)(item) ],    R = 30 watch_seconds / 10 + 0.1 (click + like + long_view),    over its mean

The softmax's sum runs over the item shown and 31 drawn uniformly, which count for all the others. RecBole's networks on batches of our
sampler, so that they spend the same updates as the others. A row's fields are its user, its item, the item shown last, the hour, and the
share of clicks in the history in quarters.

**Source**: baselines of Cai et al., WWW 2023 (arXiv 2302.01680), in their code a regression on the item's number with the same weights
(watch time in tens of seconds at 30).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.policies.history import behaviours
from recrl.rankers.recbole_shims import import_recbole, use_recbole
from recrl.replay.samplers import UniformSampler
from recrl.reproductions.tscac.rows import BATCH, PROTECTED, SIGNALS, Rows

SUPERVISED = {"wide&deep": "WideDeep", "deepfm": "DeepFM"}
"""Our name and RecBole's."""
WEIGHTS = {"watch_seconds": 3.0, **dict.fromkeys(PROTECTED, 0.1)}
"""Of each response in ``R``; watch time at 30 for ten seconds."""
DRAWN = 31

_CHUNK = 128


def item_scores(method: str, rows: Rows, updates: int, seed: int) -> dict[str, Tensor]:
    """Scores of every item, (n, items), for the rows of each part.

    **Errors**: :class:`recrl.core.errors.MissingDependencyError` without RecBole.
    """
    with tempfile.TemporaryDirectory(prefix="recrl-recbole-") as folder, use_recbole(Path(folder)):
        recbole = _configuration(SUPERVISED[method], rows, Path(folder), seed)
        utils = import_recbole("recbole.utils")
        utils.init_seed(seed, True)
        dataset = import_recbole("recbole.data").create_dataset(recbole)
        dataset._change_feat_format()
        model = utils.get_model(SUPERVISED[method])(recbole, dataset)
        optimiser, sampler = torch.optim.Adam(model.parameters(), 1e-3), UniformSampler(rows.buffer, rows.train_rows, seed)
        table, weight = _items(dataset, rows.log.n_items), response_weights(rows.buffer.reward)
        weight = weight / weight[rows.train_rows].mean()
        streams, rows_of_batch = TensorStreams(seed), torch.arange(BATCH)
        for k in range(updates):
            index = _known(sampler.sample(BATCH, k).index)
            shown = rows.buffer.item[index].long()
            others = streams.integers(rows.log.n_items, rows_of_batch, k, Purpose.CANDIDATES, (DRAWN,))
            candidates = torch.cat([shown.unsqueeze(1), others], 1)
            scores = _scores(model, dataset, index, table[candidates])
            loss = -(weight[index] * sampled_log_softmax(scores, candidates, rows.log.n_items)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        model.eval()
        return {name: _of_every_item(model, dataset, table, _known(part.index)) for name, part in rows.parts.items()}


def response_weights(reward: Tensor) -> Tensor:
    """``R`` (n,) of rewards (n, signals): watch time in tens of seconds at 30, the others at 0.1."""
    return reward @ torch.tensor([WEIGHTS[name] for name in SIGNALS])


def sampled_log_softmax(scores: Tensor, candidates: Tensor, items: int) -> Tensor:
    """Log-probability (B,) of the first of the candidates (B, 1 + d); others, drawn uniformly with replacement, count where they differ.

    >>> everything = torch.tensor([[2, 0, 1, 3]])
    >>> scores = torch.tensor([[0.3, 0.1, -0.2, 0.5]])
    >>> bool(torch.isclose(sampled_log_softmax(scores, everything, 4), torch.log_softmax(scores, 1)[:, 0]))
    True
    """
    others = candidates[:, 1:] != candidates[:, :1]
    # d draws of which each other item gets its share, for items - 1 of them
    stands_for = torch.log((items - 1) / others.sum(1, keepdim=True).clamp_min(1))
    rest = (scores[:, 1:] + stands_for).masked_fill(~others, -torch.inf)
    return scores[:, 0] - torch.logsumexp(torch.cat([scores[:, :1], rest], 1), 1)


def _configuration(model: str, rows: Rows, folder: Path, seed: int) -> Any:
    columns = _fields(rows)
    (folder / "log").mkdir()
    columns.write_csv(folder / "log" / "log.inter", separator="\t")
    options = {
        "data_path": str(folder),
        "seed": seed,
        "load_col": {"inter": [name.split(":")[0] for name in columns.columns]},
        "train_neg_sample_args": None,
        "use_gpu": False,
        "show_progress": False,
    }
    return import_recbole("recbole.config").Config(model=model, dataset="log", config_dict=options)


def _fields(rows: Rows) -> pl.DataFrame:
    """RecBole's columns, one row a row of the log."""
    states = rows.buffer.observation(torch.arange(len(rows.buffer)))
    seen = states.history_items >= 0
    clicked = behaviours(states.history_feedback)[..., BEHAVIOURS.index("click")] * seen
    return pl.DataFrame(
        {
            "user_id:token": rows.buffer.user.numpy(),
            "item_id:token": rows.buffer.item.numpy(),
            "last:token": states.history_items[:, -1].numpy(),
            "hour:token": (24 * states.clock[:, 3]).long().numpy(),
            "clicks:token": (4 * clicked.sum(1) / seen.sum(1).clamp_min(1)).round().long().numpy(),
            "label:float": rows.buffer.reward[:, SIGNALS.index("click")].numpy(),
        }
    )


def _known(index: Any) -> Tensor:
    assert isinstance(index, Tensor)
    return index


def _items(dataset: Any, items: int) -> Tensor:
    """RecBole's numbers of our items, (items,)."""
    known = dataset.field2token_id["item_id"]
    # an item without a row in the log is RecBole's padding
    return torch.tensor([known.get(str(k), 0) for k in range(items)])


def _scores(model: Any, dataset: Any, index: Tensor, ids: Tensor) -> Tensor:
    """Scores (B, d) of items (B, d), in RecBole's numbers, in the states of rows (B,)."""
    interaction = import_recbole("recbole.data.interaction").Interaction
    asked = {name: value.repeat_interleave(ids.shape[1]) for name, value in dataset.inter_feat[index].interaction.items()}
    asked["item_id"] = ids.flatten()
    out: Tensor = model.forward(interaction(asked))
    return out.view(ids.shape)


@torch.no_grad()
def _of_every_item(model: Any, dataset: Any, table: Tensor, index: Tensor) -> Tensor:
    return torch.cat([_scores(model, dataset, part, table.expand(len(part), -1)) for part in index.split(_CHUNK)])
