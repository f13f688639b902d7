"""Fitting a :class:`simulators.sequence_response.SequenceResponse`: trees, truncated back-propagation along users' rows, calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError
from recrl.core.streams import Purpose, Streams
from recrl_datasets import Log
from simulators.past import PAST, Ground
from simulators.rates import rate_shifts
from simulators.response import WIDTH, LatentResponse
from simulators.response_fit import LoggedRows, fit_watch, mean_where_unseen
from simulators.response_model import replay
from simulators.sequence_response import SequenceResponse, gru_step

F = len(BEHAVIOURS)
# precision of the normal priors on the loadings, in shares of all rows
_FIRM, _LOOSE = 0.04, 0.0004
# epochs without a better held-out loss after which the fit stops
_PATIENCE = 2
# of two readings of the past, trees on its counts and the GRU, each weighs half: they err in different ways
_HALF = 0.5
# what trees have not said of an item is this much nearer to nothing: precision of its priors, times
_FIRMER = 4.0


@dataclass(frozen=True)
class SequenceConfig:
    """How the sequence model is fitted.

    Attributes:
        dim: length of user and item vectors.
        memory: numbers of a user's state, a multiple of 16.
        epochs: passes over the rows, at most: those after the one with the least held-out loss are undone.
        held_out: share of users that only say when to stop.
        lanes: users read side by side.
        window: rows of a lane between two steps of the optimiser; gradients go no further back.
        learning_rate: of Adam.
        vector_precision: precision of the normal prior on entries of item vectors, in rows.
        bias_precision: precision of the normal prior on item biases.
        weight_decay: of the GRU and what is read off it, decoupled.
        min_positives: behaviours with fewer positives get no factors of their own.
        rates: calibrate to the log's own rates, or to KuaiRand's published ones.
    """

    dim: int = 16
    memory: int = 32
    epochs: int = 15
    held_out: float = 0.1
    lanes: int = 64
    window: int = 32
    learning_rate: float = 0.003
    vector_precision: float = 14.0
    bias_precision: float = 1.5
    weight_decay: float = 0.01
    min_positives: int = 50
    rates: str = "log"

    def __post_init__(self) -> None:
        for name in ("dim", "memory", "epochs", "lanes", "window", "learning_rate", "vector_precision", "bias_precision", "min_positives"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}", where=f"SequenceConfig.{name}", mend="it must be positive")
        if self.memory % 16:
            raise ConfigError(f"memory is {self.memory}", where="SequenceConfig.memory", mend="give a multiple of 16")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out is {self.held_out}", where="SequenceConfig.held_out", mend="give a share of the users")
        if not self.weight_decay >= 0:
            raise ConfigError(f"weight_decay is {self.weight_decay}", where="SequenceConfig.weight_decay", mend="give 0 or more")
        if self.rates not in ("log", "published"):
            raise ConfigError(f"rates is {self.rates!r}", where="SequenceConfig.rates", mend="choose log or published")


def fit_sequence(
    log: Log,
    config: SequenceConfig = SequenceConfig(),
    *,
    ground: Ground | None = None,
    weights: NDArray[np.float64] | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> SequenceResponse:
    """Fit the sequence model to the rows of ``log``, on ``device``; what was fitted is on the CPU.

    Users are laid end to end in ``lanes``; a user's state starts afresh at its first row and is carried on from window to window. A row
    is predicted from the state before its request. The loss is that of :func:`simulators.response_fit.fit_response`; single-threaded
    runs on CPU repeat bit for bit.

    On a ``ground`` of boosted trees, the network is fitted on top of the levels of users and items alone. What the past says is then the
    mean of two readings, the trees' of its counts and the network's of its course.

    **Shapes**: ``weights`` (n_users,) how often each user counts, 1 without.

    **Errors**: :class:`DataError` for an empty log, one without clicks and non-clicks.
    """
    rows = LoggedRows.of(log, weights)
    factored = rows.factored(config.min_positives)
    parts = _descend(rows, log, factored, config, seed, device, progress or (lambda share, what: None), ground)
    head_items = mean_where_unseen(parts["items"], rows.item)
    users = torch.zeros(log.n_users + 1, config.dim + WIDTH)
    watch = fit_watch(log, rows, users, head_items) if log.has("watch_seconds") else None
    item_gates = head_items[:, : config.dim + F] @ parts["item_in"] + parts["bias_in"]
    bits = (torch.arange(256).unsqueeze(1) >> torch.arange(F)) & 1
    gates = (parts["recurrent"], parts["recurrent_bias"], item_gates, bits.float() @ parts["feedback_in"], parts["start"])
    read_out = torch.cat([parts["read_out"], torch.zeros(config.memory, 1)], dim=1)
    past = None
    if ground is not None:
        biases, past = slice(config.dim, config.dim + F), ground.past.scaled(_HALF)
        read_out = _HALF * read_out
        head_items[:, biases] = _HALF * head_items[:, biases] + ground.items
        users[:, biases] = ground.users
    zero = torch.zeros(F)
    nobody = torch.zeros(log.n_users, config.memory + (0 if past is None else PAST))
    raw = SequenceResponse(LatentResponse(users, head_items, zero, parts["loadings"], zero), *gates, nobody, read_out, past)
    logits, memories = replay(raw, log)
    intercepts, off_click = rate_shifts(logits[:, :F], *rows.targets(config.rates), rows.weight)
    vectors = (memories[:, : config.memory] @ read_out)[rows.user, : config.dim]
    notes = rows.notes(log, config.rates, factored, float((vectors * head_items[rows.item, : config.dim]).sum(1).std()))
    head = LatentResponse(users, head_items, intercepts, parts["loadings"], off_click, watch, notes)
    if past is not None:
        memories[:, config.memory :] = past.settled(memories[:, config.memory :])
    return SequenceResponse(head, *gates, memories, read_out, past)


@dataclass(frozen=True, eq=False)
class Lanes:
    """Rows of whole users laid end to end: ``row`` (T, lanes), -1 behind a lane's end; whether a user, and a request, begins there."""

    row: Tensor
    user_starts: Tensor
    request_starts: Tensor

    @classmethod
    def of(cls, log: Log, order: NDArray[np.int64], lanes: int) -> Lanes:
        """Lanes of the users in ``order``, as even as whole users allow."""
        offsets = log.user_offsets
        users = order[offsets.lengths[order] > 0]
        length = offsets.lengths[users]
        rows, start = int(length.sum()), np.cumsum(length) - length
        if not rows:
            return cls(torch.zeros(0, 1, dtype=torch.int64), *(torch.zeros(0, 1, dtype=torch.bool) for _ in range(2)))
        lane = start // -(-rows // lanes)
        _, first = np.unique(lane, return_index=True)
        lane = np.repeat(np.arange(first.size), np.diff(np.r_[first, users.size]))
        at = start - start[first][lane]
        row = np.full((int((at + length).max()), first.size), -1)
        within = np.arange(rows) - np.repeat(start, length)
        row[np.repeat(at, length) + within, np.repeat(lane, length)] = np.repeat(offsets.values[users], length) + within
        user, time = log.column("user"), log.column("timestamp_ms")
        new_user = np.r_[True, user[1:] != user[:-1]]
        new_request = new_user | np.r_[True, time[1:] != time[:-1]]
        return cls(torch.from_numpy(row), *(torch.from_numpy(flag[row] | (row < 0)) for flag in (new_user, new_request)))


def _start(log: Log, config: SequenceConfig, rows: LoggedRows, seed: int, device: torch.device | str) -> dict[str, Tensor]:
    streams, d, h = Streams(seed), config.dim, config.memory

    def draw(step: int, count: int, width: int, scale: float) -> Tensor:
        return torch.from_numpy(streams.normal(np.arange(count), step, Purpose.INITIALISATION, (width,)) * scale).float()

    rate = np.clip(rows.positives / np.array([rows.n] + [rows.positives[0]] * (F - 1)), 1e-6, 1 - 1e-6)
    parts = {
        "items": torch.cat([draw(0, log.n_items, d, 0.1), torch.zeros(log.n_items, WIDTH)], dim=1),
        "item_in": draw(1, d + F, 3 * h, 0.5 * (d + F) ** -0.5),
        "feedback_in": draw(2, F, 3 * h, 0.5),
        "bias_in": torch.zeros(3 * h),
        "recurrent": draw(3, h, 3 * h, h**-0.5),
        "recurrent_bias": torch.zeros(3 * h),
        "start": torch.zeros(h),
        "read_out": draw(4, h, d + F, 0.1 * h**-0.5),
        "intercepts": torch.from_numpy(np.log(rate) - np.log1p(-rate)).float(),
        "loadings": torch.ones(F),
    }
    # remember long to begin with
    parts["bias_in"][h : 2 * h] = 1.0
    return {name: value.to(device).requires_grad_() for name, value in parts.items()}


class _Net:
    """Parameters, and the loss of a window of lanes."""

    def __init__(
        self, rows: LoggedRows, start: dict[str, Tensor], factored: list[int], config: SequenceConfig, ground: Ground | None
    ) -> None:
        device = start["items"].device
        self.p, self.config = start, config
        self.item, self.happened, self.weight = (column.to(device) for column in (rows.item, rows.happened, rows.weight))
        self.on = torch.zeros(F, device=device)
        self.on[factored] = 1.0
        self.level = None if ground is None else ground.logged.to(device)

    def fresh(self, lanes: Lanes) -> tuple[Tensor, Tensor]:
        """States now, and before the present request, at the beginning of lanes."""
        state = self.p["start"].detach().expand(lanes.row.shape[1], -1)
        return state, state

    def window(self, lanes: Lanes, lo: int, states: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Summed loss and number of the rows from ``lo`` on, and the states after them."""
        p, d, (state, before) = self.p, self.config.dim, states
        part = slice(lo, lo + self.config.window)
        index, fresh, asked = (x[part].to(self.item.device) for x in (lanes.row, lanes.user_starts, lanes.request_starts))
        row, valid = index.clamp_min(0), (index >= 0).to(torch.float32)
        shown, y = p["items"][self.item[row]], self.happened[row]
        gates = shown[..., : d + F] @ p["item_in"] + y @ p["feedback_in"] + p["bias_in"]
        met = []
        for t in range(len(row)):
            state = torch.where(fresh[t].unsqueeze(1), p["start"], state)
            before = torch.where(asked[t].unsqueeze(1), state, before)
            met.append(before)
            state = gru_step(state, gates[t], p["recurrent"], p["recurrent_bias"])
        user = torch.stack(met) @ p["read_out"]
        taste = (user[..., :d] * shown[..., :d]).sum(-1, keepdim=True) * p["loadings"]
        beyond = user[..., d:] + shown[..., d : d + F] + taste
        logits = p["intercepts"] + self.on * (beyond if self.level is None else beyond + self.level[row])
        nll = cross_entropy(logits, y, reduction="none") * self.on
        loss = (nll[..., 0] + nll[..., 1:].sum(-1) * y[..., 0]) * self.weight[row] * valid
        return loss.sum(), valid.sum(), (state.detach(), before.detach())

    def prior(self) -> Tensor:
        """Negative log density of item rows, in rows, and of the loadings, in shares of all rows."""
        items, config, d = self.p["items"], self.config, self.config.dim
        squares = config.vector_precision * (items[:, :d] ** 2).sum() + config.bias_precision * (items[:, d:] ** 2).sum()
        squares = squares * (1.0 if self.level is None else _FIRMER)
        # the click's loading holds the scale of the vectors; the others say how far its taste is theirs
        away = (self.p["loadings"] - 1.0) ** 2
        return 0.5 * squares + 0.5 * len(self.item) * (_FIRM * away[0] + _LOOSE * away[1:].sum())

    @torch.no_grad()
    def held_out(self, lanes: Lanes) -> float:
        """Mean loss of lanes that are not learned from."""
        states, total, count = self.fresh(lanes), 0.0, 0.0
        for lo in range(0, len(lanes.row), self.config.window):
            loss, rows, states = self.window(lanes, lo, states)
            total, count = total + float(loss), count + float(rows)
        return total / max(count, 1.0)


def _descend(
    rows: LoggedRows,
    log: Log,
    factored: list[int],
    config: SequenceConfig,
    seed: int,
    device: torch.device | str,
    progress: Progress,
    ground: Ground | None,
) -> dict[str, Tensor]:
    net = _Net(rows, _start(log, config, rows, seed, device), factored, config, ground)
    held = Streams(seed).uniform(log.user_keys, 1, Purpose.SPLITS) < config.held_out
    decayed = ("item_in", "feedback_in", "recurrent", "read_out")
    groups = [
        {"params": [net.p[name] for name in decayed], "weight_decay": config.weight_decay},
        {"params": [value for name, value in net.p.items() if name not in decayed], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)
    # a log of a few users has nobody to spare
    held &= bool(log.user_offsets.lengths[held].sum())
    watched = Lanes.of(log, np.flatnonzero(held) if held.any() else np.arange(log.n_users), config.lanes)
    best, least, since = {name: value.detach().clone() for name, value in net.p.items()}, float("inf"), 0
    for epoch in range(config.epochs):
        order = Streams(seed).permutation(log.n_users, epoch, Purpose.BATCHES)
        lanes = Lanes.of(log, order[~held[order]], config.lanes)
        states = net.fresh(lanes)
        for lo in range(0, len(lanes.row), config.window):
            loss, count, states = net.window(lanes, lo, states)
            optimiser.zero_grad()
            ((loss + net.prior() * (count / rows.n)) / count.clamp_min(1.0)).backward()
            optimiser.step()
        now = net.held_out(watched)
        since = 0 if now < least else since + 1
        if now < least:
            best, least = {name: value.detach().clone() for name, value in net.p.items()}, now
        progress((epoch + 1) / config.epochs, f"sequence model: epoch {epoch + 1} of at most {config.epochs}, held-out loss {now:.4f}")
        if since == _PATIENCE:
            break
    # heads without factors of their own stay at their intercept
    on, out = net.on.cpu(), {name: value.cpu() for name, value in best.items()}
    mask = torch.cat([torch.ones(config.dim), on])
    return out | {
        "items": out["items"] * torch.cat([mask, torch.zeros(1)]),
        "read_out": out["read_out"] * mask,
        "loadings": out["loadings"] * on,
    }
