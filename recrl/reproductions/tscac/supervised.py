"""Wide&Deep and DeepFM of RecBole on the rows of the TSCAC study: the click's log-odds of every item, for policies that show by them.

RecBole's models and losses, on batches of our sampler, so that they spend the same updates as the others. A row's fields are its user, its
item, the item shown last, the hour, and the share of clicks in the history in quarters.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.policies.history import behaviours
from recrl.rankers.recbole_shims import import_recbole, use_recbole
from recrl.replay.samplers import UniformSampler
from recrl.reproductions.tscac.rows import BATCH, SIGNALS, Rows

SUPERVISED = {"wide&deep": "WideDeep", "deepfm": "DeepFM"}
"""Our name and RecBole's."""

_CHUNK = 128


def click_scores(method: str, rows: Rows, updates: int, seed: int) -> dict[str, Tensor]:
    """Log-odds of a click for every item, (n, items), for the rows of each part.

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
        with torch.autograd.set_detect_anomaly(False):
            for k in range(updates):
                loss = model.calculate_loss(dataset.inter_feat[sampler.sample(BATCH, k).index])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        model.eval()
        return {name: _of_every_item(model, dataset, _known(part.index), rows.log.n_items) for name, part in rows.parts.items()}


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


@torch.no_grad()
def _of_every_item(model: Any, dataset: Any, index: Tensor, items: int) -> Tensor:
    interaction = import_recbole("recbole.data.interaction").Interaction
    known = dataset.field2token_id["item_id"]
    # an item without a row in the log is RecBole's padding
    ids = torch.tensor([known.get(str(k), 0) for k in range(items)])
    out = []
    for part in index.split(_CHUNK):
        asked = {name: value.repeat_interleave(items) for name, value in dataset.inter_feat[part].interaction.items()}
        asked["item_id"] = ids.repeat(len(part))
        out.append(torch.logit(model.predict(interaction(asked)), eps=1e-6).view(len(part), items))
    return torch.cat(out)
