"""Fitting a :class:`simulators.response.LatentResponse` to a log: mini-batch maximum a posteriori, then calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError, DataError
from recrl.core.streams import Purpose, Streams
from recrl_datasets import Log
from simulators.published import CLICK_GIVEN, RATES
from simulators.response import WIDTH, LatentResponse, ResponseNotes, WatchLaw, calibrated

F = len(BEHAVIOURS)
# precision of the normal prior that holds the loadings near 1, in shares of all rows: without it they would take over the vectors' scale
_LOADING_ROWS = 0.02


@dataclass(frozen=True)
class ResponseConfig:
    """How the response model is fitted.

    Attributes:
        dim: length of user and item vectors.
        epochs: passes over the rows.
        batch: rows of a mini-batch.
        learning_rate: of Adam, falling to 0 along a cosine.
        vector_precision: precision of the normal prior on vector entries, in rows.
        bias_precision: precision of the normal prior on biases.
        min_positives: behaviours with fewer positives get no factors of their own.
        rates: calibrate to the log's own rates, or to KuaiRand's published ones (then behaviours the log lacks exist too).
    """

    dim: int = 32
    epochs: int = 12
    batch: int = 4096
    learning_rate: float = 0.03
    vector_precision: float = 14.0
    bias_precision: float = 1.5
    min_positives: int = 50
    rates: str = "log"

    def __post_init__(self) -> None:
        for name in ("dim", "epochs", "batch", "learning_rate", "vector_precision", "bias_precision", "min_positives"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}", where=f"ResponseConfig.{name}", mend="it must be positive")
        if self.rates not in ("log", "published"):
            raise ConfigError(f"rates is {self.rates!r}", where="ResponseConfig.rates", mend="choose log or published")


def fit_response(
    log: Log,
    config: ResponseConfig = ResponseConfig(),
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> LatentResponse:
    """Fit users' responses to the rows of ``log``, on ``device``; what was fitted is on the CPU.

    The loss of a row is the cross-entropy of the click and, where it was clicked, of the conditional behaviours, plus normal
    priors on vectors and biases; single-threaded runs on CPU repeat bit for bit. Users and items without rows get the mean row.

    **Errors**: :class:`DataError` for an empty log or one without clicks and non-clicks.
    """
    rows = _Rows.of(log)
    # a conditional behaviour has the clicked rows to be learned from, the click all rows
    seen = [rows.n, *[rows.clicks] * (F - 1)]
    factored = [k for k in range(F) if min(rows.positives[k], seen[k] - rows.positives[k]) >= config.min_positives]
    if 0 not in factored:
        raise DataError(
            f"{rows.positives[0]} clicks in {rows.n} rows are too few to fit",
            where="fit_response: column click",
            mend=f"give a log with at least {config.min_positives} clicks and as many rows without",
        )
    model = _descend(rows, log.n_users, log.n_items, factored, config, seed, device, progress)
    users, items = _mean_where_unseen(model.users, rows.user), _mean_where_unseen(model.items, rows.item)
    watch = _fit_watch(log, rows, users, items) if log.has("watch_seconds") else None
    notes = ResponseNotes(
        source=f"log {log.content_hash[:12]}",
        intercept_only=tuple(name for k, name in enumerate(BEHAVIOURS) if k not in factored),
        positives=tuple(int(x) for x in rows.totals),
        rows=rows.n,
        taste_spread=float((users[rows.user, : config.dim] * items[rows.item, : config.dim]).sum(1).std()),
    )
    raw = LatentResponse(users, items, torch.zeros(F), model.loadings, torch.zeros(F), watch, notes)
    rates, click_given = (RATES, CLICK_GIVEN) if config.rates == "published" else rows.rates()
    return calibrated(raw, rows.user, rows.item, rates, click_given, config.rates)


@dataclass(frozen=True, eq=False)
class _Rows:
    user: Tensor
    item: Tensor
    happened: Tensor  # (n, 7) float32
    positives: NDArray[np.int64]  # clicks; then conditional behaviours among clicked rows
    totals: NDArray[np.int64]

    @property
    def n(self) -> int:
        return int(self.user.shape[0])

    @property
    def clicks(self) -> int:
        return int(self.positives[0])

    @classmethod
    def of(cls, log: Log) -> _Rows:
        if log.n_rows == 0:
            raise DataError("the log holds no rows", where="fit_response: log", mend="check the split fractions or the filter")
        if not log.has("click"):
            raise DataError(
                "the log has no column 'click'", where="fit_response: log", mend="map one: which rows did the user respond to at all?"
            )
        bits = torch.from_numpy(log.feedback_bits().astype(np.int64))
        happened = ((bits.unsqueeze(1) >> torch.arange(F)) & 1).to(torch.float32)
        clicked = happened[:, 0] == 1
        return cls(
            torch.from_numpy(log.column("user").astype(np.int64)),
            torch.from_numpy(log.column("item").astype(np.int64)),
            happened,
            happened[clicked].sum(0).long().numpy(),
            happened.sum(0).long().numpy(),
        )

    def rates(self) -> tuple[dict[str, float], dict[str, float]]:
        share = {name: float(self.totals[k]) / self.n for k, name in enumerate(BEHAVIOURS)}
        given = {name: float(self.positives[k]) / float(self.totals[k]) for k, name in enumerate(BEHAVIOURS) if k and self.totals[k]}
        return share, given


@dataclass(frozen=True, eq=False)
class _Descended:
    users: Tensor
    items: Tensor
    loadings: Tensor


def _descend(
    rows: _Rows,
    n_users: int,
    n_items: int,
    factored: list[int],
    config: ResponseConfig,
    seed: int,
    device: torch.device | str,
    progress: Progress | None,
) -> _Descended:
    streams, d = Streams(seed), config.dim
    tables = []
    for step, count in enumerate((n_users, n_items)):
        start = streams.normal(np.arange(count), step, Purpose.INITIALISATION, (d,)) * 0.1
        tables.append(torch.cat([torch.from_numpy(start).float(), torch.zeros(count, WIDTH)], dim=1).to(device).requires_grad_())
    users, items = tables
    rate = np.clip(rows.positives / np.array([rows.n] + [rows.clicks] * (F - 1)), 1e-6, 1 - 1e-6)
    intercepts = torch.tensor(np.log(rate) - np.log1p(-rate), dtype=torch.float32, device=device).requires_grad_()
    loadings = torch.ones(F, device=device).requires_grad_()
    # heads without factors of their own stay at their intercept: biases, too, are masked
    on = torch.zeros(F, device=device)
    on[factored] = 1.0
    row_user, row_item, row_happened = (column.to(device) for column in (rows.user, rows.item, rows.happened))
    optimiser = torch.optim.Adam([users, items, intercepts, loadings], lr=config.learning_rate)
    batches = -(-rows.n // config.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.epochs * batches)
    for epoch in range(config.epochs):
        order = torch.from_numpy(streams.permutation(rows.n, epoch, Purpose.BATCHES)).to(device)
        for part in order.split(config.batch):
            u, i, y = users[row_user[part]], items[row_item[part]], row_happened[part]
            taste = (u[:, :d] * i[:, :d]).sum(1, keepdim=True) * loadings
            logits = intercepts + on * (u[:, d : d + F] + i[:, d : d + F] + taste)
            nll = cross_entropy(logits, y, reduction="none") * on
            loss = nll[:, 0].sum() + (nll[:, 1:].sum(1) * y[:, 0]).sum()
            prior = _penalty(users, d, config) + _penalty(items, d, config) + _LOADING_ROWS * rows.n * ((loadings - 1.0) ** 2).sum()
            optimiser.zero_grad()
            (loss + prior * (len(part) / rows.n)).backward()
            optimiser.step()
            schedule.step()
        if progress is not None:
            progress((epoch + 1) / config.epochs, f"response model: epoch {epoch + 1} of {config.epochs}")
    with torch.no_grad():
        mask = torch.cat([torch.ones(d, device=device), on, torch.zeros(1, device=device)])
        return _Descended((users * mask).cpu(), (items * mask).cpu(), (loadings * on).cpu())


def _penalty(table: Tensor, d: int, config: ResponseConfig) -> Tensor:
    return 0.5 * (config.vector_precision * (table[:, :d] ** 2).sum() + config.bias_precision * (table[:, d:] ** 2).sum())


def _mean_where_unseen(table: Tensor, index: Tensor) -> Tensor:
    """The table with the mean of the seen rows appended, and in place of the unseen ones."""
    seen = torch.zeros(len(table), dtype=torch.bool)
    seen[index] = True
    mean = table[seen].mean(0)
    return torch.cat([torch.where(seen.unsqueeze(1), table, mean), mean.unsqueeze(0)])


def _fit_watch(log: Log, rows: _Rows, users: Tensor, items: Tensor) -> WatchLaw:
    """Log watch time by shrunken means: by state, then item, then user; writes the bias columns of both tables in place."""
    seconds = torch.from_numpy(log.column("watch_seconds").astype(np.float64)).nan_to_num(0.0)
    y = torch.log1p(seconds)
    state = (rows.happened[:, 0] + 2 * rows.happened[:, 1]).long()
    base = torch.bincount(state, y, minlength=4) / torch.bincount(state, minlength=4).clamp_min(1)
    rest = y - base[state]
    for table, index in ((items, rows.item), (users, rows.user)):
        size = len(table) - 1
        bias = torch.bincount(index, rest, minlength=size) / (torch.bincount(index, minlength=size) + 10.0)
        table[:-1, -1], table[-1, -1] = bias.float(), 0.0
        rest = rest - bias[index]
    mean, spread = base.clone(), torch.full((4,), 0.5, dtype=torch.float64)
    for k in range(4):
        here = state == k
        if bool(here.any()):
            spread[k] = rest[here].std(correction=0).clamp_min(0.05)
            # the mean in seconds, not only in logarithms, becomes the log's
            predicted = torch.exp((y - rest)[here] + spread[k] ** 2 / 2).mean()
            mean[k] += torch.log1p(seconds[here].mean()) - torch.log(predicted)
    return WatchLaw(tuple(mean.tolist()), tuple(spread.tolist()))
