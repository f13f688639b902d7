"""Fitting a :class:`simulators.response.LatentResponse` to a log: mini-batch maximum a posteriori, then calibration."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
from simulators.past import Ground
from simulators.published import CLICK_GIVEN, RATES
from simulators.rates import rate_shifts
from simulators.response import WIDTH, LatentResponse, ResponseNotes, WatchLaw

F = len(BEHAVIOURS)
# precision of the normal prior that holds the loadings near 1, in shares of all rows: without it they would take over the vectors' scale
_LOADING_ROWS = 0.02
# precision of item biases beyond known levels
_FIRM_ITEMS = 20.0


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
    ground: Ground | None = None,
    weights: NDArray[np.float64] | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> LatentResponse:
    """Fit users' responses to the rows of ``log``, on ``device``; what was fitted is on the CPU.

    The loss of a row is the cross-entropy of the click and, where it was clicked, of the conditional behaviours, plus normal
    priors on vectors and biases; single-threaded runs on CPU repeat bit for bit. Items without rows get the mean row. So do users, with
    biases moved until a log of unknown users would have the same rates: users with many rows differ from those with few. On a
    ``ground``, biases are what is left of users and items beyond their levels, and those of items are held nearer to nothing.

    **Shapes**: ``weights`` (n_users,) how often each user counts, 1 without; a user's own vector sees all of its rows whatever they are.

    **Errors**: :class:`DataError` for an empty log or one without clicks and non-clicks.
    """
    rows = LoggedRows.of(log, weights)
    factored = rows.factored(config.min_positives)
    model = _descend(rows, log.n_users, log.n_items, factored, config, seed, device, progress, ground)
    users, items = mean_where_unseen(model.users, rows.user), mean_where_unseen(model.items, rows.item)
    watch = fit_watch(log, rows, users, items) if log.has("watch_seconds") else None
    strangers = users[-1].repeat(len(users), 1)
    if ground is not None:
        biases = slice(config.dim, config.dim + F)
        for table, level in ((users, ground.users), (strangers, ground.users), (items, ground.items)):
            table[:, biases] += level
    spread = float((users[rows.user, : config.dim] * items[rows.item, : config.dim]).sum(1).std())
    users, intercepts, off_click = _calibrated(users, strangers, items, model.loadings, rows, rows.targets(config.rates))
    notes = replace(rows.notes(log, config.rates, factored, spread), user_precision=(config.vector_precision, config.bias_precision))
    return LatentResponse(users, items, intercepts, model.loadings, off_click, watch, notes)


@dataclass(frozen=True, eq=False)
class LoggedRows:
    """The rows of a log as tensors.

    **Shapes**: ``user``, ``item`` (n,) int64; ``happened`` (n, 7) float32; ``weight`` (n,) float32, that of the row's user, and
    ``user_weight`` (n_users,), both 1 on average; ``positives`` (7,) clicks, then conditional behaviours among clicked rows; ``totals``
    (7,) of all rows.
    """

    user: Tensor
    item: Tensor
    happened: Tensor
    weight: Tensor
    user_weight: Tensor
    positives: NDArray[np.int64]
    totals: NDArray[np.int64]

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.user.shape[0])

    @classmethod
    def of(cls, log: Log, weights: NDArray[np.float64] | None = None) -> LoggedRows:
        """The rows of ``log``.

        **Errors**: :class:`DataError` for a log without rows or clicks, and weights that do not fit.
        """
        if log.n_rows == 0:
            raise DataError("the log holds no rows", where="fit_response: log", mend="check the split fractions or the filter")
        if not log.has("click"):
            raise DataError(
                "the log has no column 'click'", where="fit_response: log", mend="map one: which rows did the user respond to at all?"
            )
        of_user = np.ones(log.n_users) if weights is None else np.asarray(weights, dtype=np.float64)
        if of_user.shape != (log.n_users,) or not bool((of_user > 0).all()):
            raise DataError(
                f"weights of shape {of_user.shape} for {log.n_users} users",
                where="fit_response: weights",
                mend="give each user a positive number",
            )
        user = log.column("user").astype(np.int64)
        weight = of_user[user]
        bits = torch.from_numpy(log.feedback_bits().astype(np.int64))
        happened = ((bits.unsqueeze(1) >> torch.arange(F)) & 1).to(torch.float32)
        clicked = happened[:, 0] == 1
        return cls(
            torch.from_numpy(user),
            torch.from_numpy(log.column("item").astype(np.int64)),
            happened,
            torch.from_numpy(weight / weight.mean()).float(),
            torch.from_numpy(of_user / weight.mean()).float(),
            happened[clicked].sum(0).long().numpy(),
            happened.sum(0).long().numpy(),
        )

    def factored(self, min_positives: int) -> list[int]:
        """Behaviours that were seen often enough, both ways, for factors of their own.

        **Errors**: :class:`DataError` where clicks are not among them.
        """
        # a conditional behaviour has the clicked rows to be learned from, the click all rows
        seen = [self.n, *[int(self.positives[0])] * (F - 1)]
        enough = [k for k in range(F) if min(self.positives[k], seen[k] - self.positives[k]) >= min_positives]
        if 0 not in enough:
            raise DataError(
                f"{self.positives[0]} clicks in {self.n} rows are too few to fit",
                where="fit_response: column click",
                mend=f"give a log with at least {min_positives} clicks and as many rows without",
            )
        return enough

    def targets(self, rates: str) -> tuple[dict[str, float], dict[str, float]]:
        """Rates of the behaviours and P(click | behaviour): the (weighted) rows' own, or the published ones."""
        if rates == "published":
            return RATES, CLICK_GIVEN
        weight, y = self.weight.double(), self.happened.double()
        share = (weight @ y / weight.sum()).numpy()
        both = (weight @ (y * y[:, :1]) / weight.sum()).numpy()
        given = {name: float(both[k] / share[k]) for k, name in enumerate(BEHAVIOURS) if k and share[k] > 0}
        return {name: float(share[k]) for k, name in enumerate(BEHAVIOURS)}, given

    def notes(self, log: Log, rates: str, factored: list[int], taste_spread: float) -> ResponseNotes:
        """Provenance of a model that was fitted to these rows."""
        return ResponseNotes(
            source=f"log {log.content_hash[:12]}",
            rates_from=rates,
            intercept_only=tuple(name for k, name in enumerate(BEHAVIOURS) if k not in factored),
            positives=tuple(int(x) for x in self.totals),
            rows=self.n,
            taste_spread=taste_spread,
        )


def _calibrated(
    users: Tensor, strangers: Tensor, items: Tensor, loadings: Tensor, rows: LoggedRows, targets: tuple[dict[str, float], dict[str, float]]
) -> tuple[Tensor, Tensor, Tensor]:
    """The user table, intercepts and P(f | no click): the rows have the targets with the users as fitted, with users like them of whom
    nothing is known, ``strangers``, and with the unknown one; those without rows are strangers.
    """

    def shifts(table: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:
        raw = LatentResponse(table, items, torch.zeros(F), loadings, torch.zeros(F))
        return rate_shifts(raw.logits(user, rows.item.unsqueeze(1))[:, 0], *targets, rows.weight)

    intercepts, off_click = shifts(users, rows.user)
    unknown = torch.full_like(rows.user, -1)
    among, nobody = ((shifts(strangers, who)[0] - intercepts).float() for who in (rows.user, unknown))
    moved = torch.cat([among.expand(len(users) - 1, -1), nobody.unsqueeze(0)])
    unseen = torch.ones(len(users), dtype=torch.bool)
    unseen[rows.user] = False
    return (
        torch.where(unseen.unsqueeze(1), strangers + torch.nn.functional.pad(moved, (users.shape[1] - WIDTH, 1)), users),
        intercepts,
        off_click,
    )


@dataclass(frozen=True, eq=False)
class _Descended:
    users: Tensor
    items: Tensor
    loadings: Tensor


def _descend(
    rows: LoggedRows,
    n_users: int,
    n_items: int,
    factored: list[int],
    config: ResponseConfig,
    seed: int,
    device: torch.device | str,
    progress: Progress | None,
    ground: Ground | None,
) -> _Descended:
    streams, d = Streams(seed), config.dim
    tables = []
    for step, count in enumerate((n_users, n_items)):
        start = streams.normal(np.arange(count), step, Purpose.INITIALISATION, (d,)) * 0.1
        tables.append(torch.cat([torch.from_numpy(start).float(), torch.zeros(count, WIDTH)], dim=1).to(device).requires_grad_())
    users, items = tables
    rate = np.clip(rows.positives / np.array([rows.n] + [rows.positives[0]] * (F - 1)), 1e-6, 1 - 1e-6)
    intercepts = torch.tensor(np.log(rate) - np.log1p(-rate), dtype=torch.float32, device=device).requires_grad_()
    loadings = torch.ones(F, device=device).requires_grad_()
    # heads without factors of their own stay at their intercept: biases, too, are masked
    on = torch.zeros(F, device=device)
    on[factored] = 1.0
    row_user, row_item, row_happened, weight = (column.to(device) for column in (rows.user, rows.item, rows.happened, rows.weight))
    # a user's prior counts as often as its rows, so that its own row is that of an unweighted fit
    user_weight, item_weight = rows.user_weight.to(device), torch.ones(n_items, device=device)
    level = torch.zeros(rows.n, 1, device=device) if ground is None else ground.logged.to(device)
    firm = replace(config, bias_precision=_FIRM_ITEMS) if ground is not None else config
    optimiser = torch.optim.Adam([users, items, intercepts, loadings], lr=config.learning_rate)
    batches = -(-rows.n // config.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.epochs * batches)
    for epoch in range(config.epochs):
        order = torch.from_numpy(streams.permutation(rows.n, epoch, Purpose.BATCHES)).to(device)
        for part in order.split(config.batch):
            u, i, y = users[row_user[part]], items[row_item[part]], row_happened[part]
            taste = (u[:, :d] * i[:, :d]).sum(1, keepdim=True) * loadings
            logits = intercepts + on * (u[:, d : d + F] + i[:, d : d + F] + taste + level[part])
            nll = cross_entropy(logits, y, reduction="none") * on
            loss = ((nll[:, 0] + nll[:, 1:].sum(1) * y[:, 0]) * weight[part]).sum()
            prior = _penalty(users, user_weight, d, config) + _penalty(items, item_weight, d, firm)
            prior = prior + _LOADING_ROWS * rows.n * ((loadings - 1.0) ** 2).sum()
            optimiser.zero_grad()
            (loss + prior * (len(part) / rows.n)).backward()
            optimiser.step()
            schedule.step()
        if progress is not None:
            progress((epoch + 1) / config.epochs, f"response model: epoch {epoch + 1} of {config.epochs}")
    with torch.no_grad():
        mask = torch.cat([torch.ones(d, device=device), on, torch.zeros(1, device=device)])
        return _Descended((users * mask).cpu(), (items * mask).cpu(), (loadings * on).cpu())


def _penalty(table: Tensor, weight: Tensor, d: int, config: ResponseConfig) -> Tensor:
    squares = config.vector_precision * (table[:, :d] ** 2).sum(1) + config.bias_precision * (table[:, d:] ** 2).sum(1)
    return 0.5 * (weight * squares).sum()


def mean_where_unseen(table: Tensor, index: Tensor) -> Tensor:
    """The table with the mean of the seen rows appended, and in place of the unseen ones."""
    seen = torch.zeros(len(table), dtype=torch.bool)
    seen[index] = True
    mean = table[seen].mean(0)
    return torch.cat([torch.where(seen.unsqueeze(1), table, mean), mean.unsqueeze(0)])


def fit_watch(log: Log, rows: LoggedRows, users: Tensor, items: Tensor) -> WatchLaw:
    """Log watch time by shrunken means: by state, then item, then user; writes the bias columns of both tables in place."""
    seconds = torch.from_numpy(log.column("watch_seconds").astype(np.float64)).nan_to_num(0.0)
    weight = rows.weight.double()
    y = torch.log1p(seconds)
    state = (rows.happened[:, 0] + 2 * rows.happened[:, 1]).long()
    base = torch.bincount(state, weight * y, minlength=4) / torch.bincount(state, weight, minlength=4).clamp_min(1e-9)
    rest = y - base[state]
    for table, index, count in ((items, rows.item, weight), (users, rows.user, torch.ones_like(weight))):
        size = len(table) - 1
        bias = torch.bincount(index, count * rest, minlength=size) / (torch.bincount(index, count, minlength=size) + 10.0)
        table[:-1, -1], table[-1, -1] = bias.float(), 0.0
        rest = rest - bias[index]
    mean, spread = base.clone(), torch.full((4,), 0.5, dtype=torch.float64)
    for k in range(4):
        here = state == k
        if bool(here.any()):
            share = weight[here] / weight[here].sum()
            centre = (share * rest[here]).sum()
            spread[k] = (share * (rest[here] - centre) ** 2).sum().sqrt().clamp_min(0.05)
            # the mean in seconds, not only in logarithms, becomes the log's
            predicted = (share * torch.exp((y - rest)[here] + spread[k] ** 2 / 2)).sum()
            mean[k] += torch.log1p((share * seconds[here]).sum()) - torch.log(predicted)
    return WatchLaw(tuple(mean.tolist()), tuple(spread.tolist()))
