"""Candidates of a request, and how an action ranks them into a slate."""

from __future__ import annotations

import torch
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.errors import ConfigError
from recrl.core.streams import Purpose, Streams
from recrl.core.torch.streams import TensorStreams
from simulators.response import LatentResponse

_ORDERS = 64
_TILE = 32_768


class CandidatePools:
    """Random candidate pools without an array of them: a pool is a window of one of 64 fixed random orders of the catalogue.

    Items of a pool differ, each item is in a pool with the same probability, and a handle of eight bytes stands for it. Items
    shown lately are passed over; windows are longer by as many, so that ``size`` candidates are left.

    Args:
        items: size of the catalogue.
        size: candidates of a request.
        exclude: how many recently shown items may have to be passed over.
        device: where the orders live.

    **Errors**: :class:`ConfigError` when the catalogue is too small.
    """

    def __init__(self, items: int, size: int, exclude: int, device: torch.device | str = "cpu") -> None:
        if size + exclude > items:
            raise ConfigError(
                f"pool_size={size} and exclude_recent={exclude} do not fit a catalogue of {items} items",
                where="WorldConfig.pool_size",
                mend="lower one of them, or set pool_size=0 for the full catalogue",
            )
        self.items, self.size, self.exclude = items, size, exclude
        self.window = size + exclude
        # the orders belong to the world, not to a run: their seed is fixed
        orders = torch.stack([torch.from_numpy(Streams(0).permutation(items, k, Purpose.CANDIDATES)) for k in range(_ORDERS)])
        where = torch.empty_like(orders).scatter_(1, orders, torch.arange(items).expand(_ORDERS, -1))
        self._stride = items + self.window - 1
        # every window as a row of one overlapping view
        self._windows = (
            torch.cat([orders, orders[:, : self.window - 1]], dim=1).to(torch.int32).reshape(-1).to(device).unfold(0, self.window, 1)
        )
        self._where = where.to(torch.int32).reshape(-1).to(device)

    def draw(self, ids: Tensor, step: Tensor, streams: TensorStreams) -> Tensor:
        """Handles of new pools, ``(B,)`` int64."""
        return streams.integers(_ORDERS * self.items, ids, step, Purpose.CANDIDATES)

    def open(self, handle: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """Items of each window and whether each is a candidate: ``(B,)``, history ``(B, H)`` -> two ``(B, window)``."""
        order, start = handle // self.items, handle % self.items
        ids = self._windows.index_select(0, order * self._stride + start)
        valid = torch.ones(ids.shape[0], self.window + 1, dtype=torch.bool, device=ids.device)
        if self.exclude:
            recent = history[:, -self.exclude :].to(torch.int64)
            place = self._where[order.unsqueeze(1) * self.items + recent.clamp_min(0)] - start.unsqueeze(1)
            place = torch.where(place < 0, place + self.items, place)
            # what is not in the window goes to the spare last column
            valid.scatter_(1, torch.where((recent >= 0) & (place < self.window), place, self.window), False)
            valid = valid[:, :-1]
            return ids, valid & (valid.cumsum(1, dtype=torch.int16) <= self.size)
        return ids, valid[:, :-1]

    def listed(self, handle: Tensor, history: Tensor) -> Tensor:
        """The candidates themselves: ``(B, size)`` int64."""
        ids, valid = self.open(handle, history)
        out = torch.empty(ids.shape[0], self.size + 1, dtype=torch.int64, device=ids.device)
        place = torch.where(valid, valid.cumsum(1) - 1, self.size)
        return out.scatter_(1, place, ids.to(torch.int64))[:, :-1]


class Ranker:
    """Turns fusion weights or query vectors into slates.

    Fusion weights w (B, 7) score a candidate ``sum_f w_f P_f(u, i) / spread_f``, where ``P_f`` are the predicted marginals and ``spread_f``
    their standard deviation over random pairs; a behaviour that is predicted the same for all items counts nothing. A
    query vector (B, D) scores ``<query, item vector>``. The best ``slate`` candidates are shown, best first.

    Args:
        scorer: the platform's predictions.
        item_vectors: (n_items, D) what query vectors are matched with.
        pools: candidates; ``None`` ranks the full catalogue.
        slate: items to show.
        exclude: recently shown items that the full catalogue passes over.
    """

    def __init__(self, scorer: LatentResponse, item_vectors: Tensor, pools: CandidatePools | None, slate: int, exclude: int) -> None:
        self.scorer, self.item_vectors, self.pools = scorer, item_vectors.contiguous(), pools
        self.slate, self.exclude = slate, exclude
        self.spread = _spread(scorer)
        told = self.spread > 1e-6
        self._weight = torch.where(told, 1.0 / self.spread.clamp_min(1e-6), 0.0)
        # click first: every other marginal needs it
        self._heads = [0, *(k for k in range(1, len(BEHAVIOURS)) if bool(told[k]))]
        self._off_click = scorer.off_click[self._heads].unsqueeze(1)
        self._all = torch.arange(scorer.n_items, device=scorer.device).unsqueeze(0)

    def slates(self, kind: str, action: Tensor, user: Tensor, pool: Tensor, history: Tensor) -> Tensor:
        """Slates ``(B, K)`` int64 for a batch of vector actions."""
        width = self.pools.window if self.pools else self.scorer.n_items
        # a multiple of 32 users: see _WHOLE in simulators.world
        tile = max(1, _TILE // (32 * width)) * 32 if action.device.type == "cpu" else max(len(action), 1)
        parts = []
        for lo in range(0, max(len(action), 1), tile):
            part = slice(lo, lo + tile)
            parts.append(self._tile(kind, action[part], user[part], pool[part], history[part]))
        return torch.cat(parts)

    def _tile(self, kind: str, action: Tensor, user: Tensor, pool: Tensor, history: Tensor) -> Tensor:
        fusion = kind == "fusion_weights"
        table = self.scorer.items[:-1] if fusion else self.item_vectors
        if self.pools is None:
            ids, valid = self._all.expand(len(action), -1), self._not_recent(history)
            rows = table.expand(len(action), -1, -1)
        else:
            ids, valid = self.pools.open(pool, history)
            rows = table.index_select(0, ids.reshape(-1)).view(*ids.shape, table.shape[1])
        score = self._fused(action, user, rows) if fusion else _inner(action.unsqueeze(1), rows).squeeze(1)
        best = score.masked_fill_(~valid, -torch.inf).topk(self.slate, dim=1).indices
        return ids.gather(1, best).to(torch.int64)

    def _fused(self, action: Tensor, user: Tensor, rows: Tensor) -> Tensor:
        """Scores (B, C) up to a constant of the user: ``P(click) (w_click + sum_f w_f (P(f | click) - e_f))``."""
        query, bias = self.scorer.queries(user, self._heads)
        p = torch.sigmoid_(_inner(query, rows).add_(bias.unsqueeze(2)))
        weight = (action * self._weight)[:, self._heads].unsqueeze(2)
        click = p[:, 0].clone()
        p.sub_(self._off_click)
        p[:, 0] = 1.0
        return (p * weight).sum(1).mul_(click)

    def _not_recent(self, history: Tensor) -> Tensor:
        valid = torch.ones(len(history), self.scorer.n_items + 1, dtype=torch.bool, device=history.device)
        if self.exclude:
            recent = history[:, -self.exclude :].to(torch.int64)
            valid.scatter_(1, torch.where(recent >= 0, recent, self.scorer.n_items), False)
        return valid[:, :-1]


def _spread(scorer: LatentResponse, pairs: int = 20_000) -> Tensor:
    """Standard deviation of each predicted marginal over random (user, item) pairs, ``(7,)``."""
    draws = Streams(0)
    users = torch.from_numpy(draws.integers(scorer.n_users, range(pairs), 0, Purpose.USERS)).to(scorer.device)
    items = torch.from_numpy(draws.integers(scorer.n_items, range(pairs), 1, Purpose.USERS)).to(scorer.device)
    return scorer.scores(users, items.unsqueeze(1))[:, 0].std(0)


def _inner(query: Tensor, rows: Tensor) -> Tensor:
    """Inner products ``(B, A, d), (B, C, d) -> (B, A, C)``: one product a user, whose bits do not depend on the batch."""
    return torch.bmm(query, rows.transpose(1, 2))
