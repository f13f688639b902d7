"""What users do with a shown item: latent factors, click first, everything else conditional on the click, one sigmoid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.config import from_dict, to_dict
from recrl.core.errors import ContractError, StorageError
from recrl.core.files import atomic_path, read_json, write_json
from recrl.core.streams import Purpose, Streams
from simulators.rates import rate_shifts

WIDTH = 8
"""Columns beside the vector in a table row: one bias for each behaviour, then the bias of log watch time."""

TABLES = ("users", "items", "intercepts", "loadings", "off_click")
"""What a :class:`LatentResponse` is made of."""

# users whose items' vectors are gathered at a time
_BLOCK = 2048


@dataclass(frozen=True)
class WatchLaw:
    """Watch time given what happened: ``log(1 + seconds) = mean + user bias + item bias + spread * normal``, cut at 0 seconds.

    Attributes:
        mean: by (no click, click, long view without click, click and long view): the two lowest feedback bits.
        spread: in the same order.
    """

    mean: tuple[float, float, float, float]
    spread: tuple[float, float, float, float]


@dataclass(frozen=True)
class ResponseNotes:
    """What a reader of a response model must know.

    Attributes:
        source: what it was fitted to.
        rates_from: ``log`` or ``published``: what the intercepts were calibrated to.
        intercept_only: behaviours with too few positives for factors of their own.
        positives: positives seen of each behaviour.
        rows: rows it was fitted on.
        taste_spread: standard deviation of <user vector, item vector> over those rows: near 0, the log tells no personal taste.
        user_precision: of the normal law of users that a latent model was fitted with: entries of vectors, biases.
    """

    source: str = "self-made"
    rates_from: str = "self-made"
    intercept_only: tuple[str, ...] = ()
    positives: tuple[int, ...] = (0,) * len(BEHAVIOURS)
    rows: int = 0
    taste_spread: float = 0.0
    user_precision: tuple[float, float] = (14.0, 1.5)


class LatentResponse:
    """Responses of users to items.

    With user vectors p, item vectors q, biases a, b, c and loadings l::

        P(click)          = sigmoid(c_1 + a_u1 + b_i1 + l_1 <p_u, q_i>)
        P(f | click)      = sigmoid(c_f + a_uf + b_if + l_f <p_u, q_i>)      f = long_view ... hate
        P(f | no click)   = e_f

    One taste serves all behaviours, so that the rare ones borrow from the frequent; what tells behaviours apart are the loadings
    and the biases of users and items. The marginal is
    ``P(f) = P(click) P(f | click) + (1 - P(click)) e_f``. Users or items outside the tables get the mean row.

    Args:
        users: (n_users + 1, D + 8): vector, seven biases, bias of log watch time; the last row serves unknown users.
        items: (n_items + 1, D + 8), likewise.
        intercepts: (7,) c.
        loadings: (7,) l; 0 for behaviours without factors of their own.
        off_click: (7,) e; that of click is 0.
        watch: law of watch time, or ``None`` where the log has none.
        notes: provenance.

    **Errors**: :class:`ContractError` for shapes that do not fit.
    """

    def __init__(
        self,
        users: Tensor,
        items: Tensor,
        intercepts: Tensor,
        loadings: Tensor,
        off_click: Tensor,
        watch: WatchLaw | None = None,
        notes: ResponseNotes = ResponseNotes(),
    ) -> None:
        f = len(BEHAVIOURS)
        width = users.shape[-1]
        if users.ndim != 2 or items.ndim != 2 or items.shape[1] != width or width <= WIDTH or not len(users) * len(items):
            raise ContractError(
                f"user table {tuple(users.shape)} and item table {tuple(items.shape)} do not fit",
                where="LatentResponse",
                mend=f"both need a vector plus {WIDTH} columns, and a last row for the unknown",
            )
        if any(tuple(x.shape) != (f,) for x in (intercepts, loadings, off_click)):
            raise ContractError(f"intercepts, loadings and off_click need {f} values each", where="LatentResponse")
        as_float = [x.detach().to(torch.float32).contiguous() for x in (users, items, intercepts, loadings, off_click)]
        self.users, self.items, self.intercepts, self.loadings, self.off_click = as_float
        self.watch, self.notes = watch, notes
        # what a request gathers: intercepts folded into the user rows, vectors apart from biases
        self._user_rows = self.users.clone()
        self._user_rows[:, self.dim : self.dim + f] += self.intercepts
        # items from row 1 on, between two rows for the unknown
        both_ends = torch.cat([self.items[-1:], self.items])
        self._user_parts, self._item_parts = (
            (rows[:, : self.dim].contiguous(), rows[:, self.dim :].contiguous()) for rows in (self._user_rows, both_ends)
        )
        self._load = torch.cat([self.loadings, self.loadings.new_zeros(1)])

    @property
    def memory_size(self) -> int:
        """0: tastes do not change with what was shown."""
        return 0

    @property
    def dim(self) -> int:
        """Length of user and item vectors."""
        return int(self.users.shape[1]) - WIDTH

    @property
    def n_users(self) -> int:
        """Users with a row of their own."""
        return int(self.users.shape[0]) - 1

    @property
    def n_items(self) -> int:
        """Items with a row of their own."""
        return int(self.items.shape[0]) - 1

    @property
    def device(self) -> torch.device:
        """Where the tables live."""
        return self.users.device

    @property
    def item_vectors(self) -> Tensor:
        """Vectors of the known items, ``(n_items, D)``."""
        return self.items[:-1, : self.dim]

    @property
    def user_vectors(self) -> Tensor:
        """Vectors of the known users, ``(n_users, D)``."""
        return self.users[:-1, : self.dim]

    def user_rows(self, user: Tensor) -> Tensor:
        """Rows of users, intercepts included: ``(B,)`` -> ``(B, D + 8)``."""
        return self._user_rows.index_select(0, _or_unknown(user, self.n_users))

    def item_rows(self, item: Tensor) -> Tensor:
        """Rows of items: ``(B, C)`` -> ``(B, C, D + 8)``."""
        return self.items.index_select(0, _or_unknown(item, self.n_items).reshape(-1)).view(*item.shape, self.items.shape[1])

    def logits_of_rows(self, user_rows: Tensor, item_rows: Tensor) -> Tensor:
        """Log-odds of click and, given a click, of the others; last column: bias of log watch time. -> ``(B, C, 8)``."""
        d = self.dim
        user = user_rows.unsqueeze(1)
        taste = (item_rows[..., :d] * user[..., :d]).sum(-1, keepdim=True)
        return (item_rows[..., d:] + user[..., d:]).addcmul_(taste, self._load)

    def initial_memory(self, user: Tensor) -> Tensor:
        """Nothing: ``(B, 0)``."""
        return torch.zeros(len(user), 0, device=self.device)

    def advance(self, memory: Tensor, items: Tensor, feedback: Tensor) -> Tensor:
        """The same nothing."""
        return memory

    def request_logits(self, user: Tensor, memory: Tensor, items: Tensor) -> Tensor:
        """Log-odds and watch bias as from :meth:`logits_of_rows`, ``(B, C, 8)``; in memory, items come before users.

        Long runs: for each item, one run over all users and their vectors.
        """
        b, c = items.shape
        row = _or_unknown(user, self.n_users)
        item = items.t().contiguous().clamp(-1, self.n_items).add_(1)
        taste = torch.empty(c, b, 1, device=self.device)
        block = _BLOCK if self.device.type == "cpu" else max(b, 1)
        for lo in range(0, b, block):
            # what is gathered stays in the cache
            vectors = self._user_parts[0].index_select(0, row[lo : lo + block])
            shown = self._item_parts[0].index_select(0, item[:, lo : lo + block].reshape(-1)).view(c, *vectors.shape)
            taste[:, lo : lo + block, 0] = shown.mul_(vectors).sum(2)
        logits = self._item_parts[1].index_select(0, item.view(-1)).view(c, b, WIDTH).add_(self._user_parts[1].index_select(0, row))
        return logits.addcmul_(taste, self._load).transpose(0, 1)

    def tastes(self, user: Tensor, memory: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors of users (B, D) and of items (B, C, D), and the loadings (7,)."""
        return self.user_rows(user)[:, : self.dim], self.item_rows(items)[..., : self.dim], self.loadings

    def with_unseen(self, count: int, streams: Streams) -> LatentResponse:
        """The model with ``count`` more users, whose rows are normal with the mean and the covariance of the users' own."""
        known = self.users[:-1].double().cpu()
        mean = known.mean(0)
        # the root of a covariance that may be singular, as where vectors are 0
        size, directions = torch.linalg.eigh((known - mean).T @ (known - mean) / len(known))
        noise = torch.from_numpy(streams.normal(np.arange(count), 0, Purpose.USERS, (len(mean),)))
        drawn = mean + noise * size.clamp_min(0.0).sqrt() @ directions.T
        users = torch.cat([self.users[:-1], drawn.to(self.users), self.users[-1:]])
        return LatentResponse(users, self.items, self.intercepts, self.loadings, self.off_click, self.watch, self.notes)

    def platform(self) -> LatentResponse:
        """What ranks where a world is given no scorer: the model itself."""
        return self

    def logits(self, users: Tensor, items: Tensor) -> Tensor:
        """Log-odds of click and, given a click, of the other behaviours: ``(B,)``, ``(B, C)`` -> ``(B, C, 7)``."""
        return self.logits_of_rows(self.user_rows(users), self.item_rows(items))[..., : len(BEHAVIOURS)]

    def queries(self, users: Tensor, heads: list[int]) -> tuple[Tensor, Tensor]:
        """The linear form of some heads: ``(B,)`` -> query ``(B, A, D + 8)`` and bias ``(B, A)``, logits = <query, item row> + bias."""
        rows, d = self.user_rows(users), self.dim
        one_hot = torch.eye(WIDTH, device=self.device)[heads]
        query = torch.cat([rows[:, None, :d] * self._load[heads].unsqueeze(1), one_hot.expand(len(rows), -1, -1)], dim=2)
        return query, rows[:, d:][:, heads]

    def marginals(self, logits: Tensor) -> Tensor:
        """Marginal probabilities of the seven behaviours from :meth:`logits`."""
        p = torch.sigmoid(logits)
        click = p[..., :1]
        marginal = (p - self.off_click) * click + self.off_click
        marginal[..., :1] = click
        return marginal

    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Marginal probability of each behaviour: ``(B,)``, ``(B, C)`` -> ``(B, C, 7)``."""
        return self.marginals(self.logits(users, items))

    def click_probability(self, users: Tensor, items: Tensor) -> Tensor:
        """P(click): ``(B,)``, ``(B, C)`` -> ``(B, C)``."""
        return torch.sigmoid(self.logits(users, items)[..., 0])

    def to(self, device: torch.device | str) -> LatentResponse:
        """The same model on another device."""
        users, items, intercepts, loadings, off_click = (
            x.to(device) for x in (self.users, self.items, self.intercepts, self.loadings, self.off_click)
        )
        return LatentResponse(users, items, intercepts, loadings, off_click, watch=self.watch, notes=self.notes)

    def save(self, folder: Path) -> None:
        """Write ``response.safetensors`` and ``response.json`` into ``folder``."""
        write_response(folder, {name: getattr(self, name) for name in TABLES}, self.watch, self.notes)

    @classmethod
    def load(cls, folder: Path) -> LatentResponse:
        """Read what :meth:`save` wrote.

        **Errors**: :class:`StorageError` for a missing or broken file.
        """
        with reading_response(folder) as saved:
            return cls(**{name: saved.tensors[name] for name in TABLES}, watch=saved.watch, notes=saved.notes)


def write_response(folder: Path, tensors: Mapping[str, Tensor], watch: WatchLaw | None, notes: ResponseNotes, **described: Any) -> None:
    """Write the tensors of a response model as ``response.safetensors`` and what describes them as ``response.json``, each atomically."""
    with atomic_path(Path(folder) / "response.safetensors") as temporary:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    write_json(Path(folder) / "response.json", {**described, "notes": to_dict(notes), "watch": asdict(watch) if watch else None})


@dataclass(frozen=True)
class SavedResponse:
    """What :func:`write_response` wrote; ``described`` holds the whole of ``response.json``."""

    tensors: Mapping[str, Tensor]
    watch: WatchLaw | None
    notes: ResponseNotes
    described: Mapping[str, Any]


@contextmanager
def reading_response(folder: Path) -> Iterator[SavedResponse]:
    """What :func:`write_response` wrote into ``folder``, to build a model of.

    **Errors**: :class:`StorageError` for a missing or broken file, and where the model misses a part.
    """
    path = Path(folder) / "response.safetensors"
    data = read_json(Path(folder) / "response.json")
    try:
        watch = from_dict(WatchLaw, data["watch"], where="response.json") if data["watch"] else None
        yield SavedResponse(load_file(path), watch, from_dict(ResponseNotes, data["notes"], where="response.json"), data)
    except (OSError, KeyError, SafetensorError) as error:
        raise StorageError(f"the response model cannot be read: {error}", where=str(path), mend="fit the simulator again") from None


def _or_unknown(index: Tensor, count: int) -> Tensor:
    return torch.where((index >= 0) & (index < count), index, count)


def calibrated(
    response: LatentResponse, users: Tensor, items: Tensor, rates: dict[str, float], click_given: dict[str, float], rates_from: str
) -> LatentResponse:
    """The model with intercepts moved so that its mean marginals over the pairs equal ``rates`` and P(click | f) equals ``click_given``.

    A behaviour of rate 0 is switched off.

    **Shapes**: ``users``, ``items`` (n,).

    **Errors**: :class:`ContractError` where no model has these rates, such as more clicks with a like than clicks.
    """
    shifts, off_click = rate_shifts(response.logits(users, items.unsqueeze(1))[:, 0], rates, click_given)
    return LatentResponse(
        response.users,
        response.items,
        response.intercepts + shifts.to(response.device),
        response.loadings,
        off_click.to(response.device),
        watch=response.watch,
        notes=ResponseNotes(**(asdict(response.notes) | {"rates_from": rates_from})),
    )


def normal_quantiles(count: int = 4096) -> Tensor:
    """Midpoint quantiles of the standard normal law, ``(count,)``: a draw is a look-up."""
    p = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    z = torch.special.ndtri(p)
    # unit variance in spite of the cut tails
    return torch.as_tensor(z / float(np.sqrt(float((z * z).mean())))).to(torch.float32)
