"""Candidates of a request, and how an action ranks them into a slate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.errors import ConfigError
from recrl.core.streams import Purpose, Streams
from recrl.core.torch.streams import TensorStreams
from simulators.drift import Drift
from simulators.fusion import FusionScale
from simulators.response import LatentResponse
from simulators.state import WHOLE, UserState

_ORDERS = 64
# positions of a run of scores, in the full catalogue and in a pool
_RUN, _SHORT_RUN = 32, 8
_LOG2E = math.log2(math.e)


class CandidatePools:
    """Random candidate pools without an array of them: a pool is a window of one of 64 fixed random orders of the catalogue.

    Items of a pool differ, each item is in a pool with the same probability, and a handle of eight bytes stands for it. Items
    shown lately are passed over; windows are longer by as many, so that ``size`` candidates are left.

    Args:
        items: size of the catalogue.
        size: candidates of a request.
        exclude: how many recently shown items may have to be passed over.
        device: where the orders live.
        drift: where given, items that are not born or dead are passed over, too.

    **Errors**: :class:`ConfigError` when the catalogue is too small.
    """

    def __init__(self, items: int, size: int, exclude: int, device: torch.device | str = "cpu", drift: Drift | None = None) -> None:
        live = items if drift is None else drift.fewest_live
        if size + exclude > live:
            raise ConfigError(
                f"pool_size={size} and exclude_recent={exclude} do not fit a catalogue of {live} items",
                where="WorldConfig.pool_size",
                mend="lower one of them, or set pool_size=0 for the full catalogue",
            )
        self.items, self.size, self.exclude, self._drift = items, size, exclude, drift
        # the orders belong to the world, not to a run: their seed is fixed
        orders = torch.stack([torch.from_numpy(Streams(0).permutation(items, k, Purpose.CANDIDATES)) for k in range(_ORDERS)])
        where = torch.empty_like(orders).scatter_(1, orders, torch.arange(items).expand(_ORDERS, -1))
        needed = size + exclude if drift is None or live == items else _longest_window(orders, drift, size + exclude)
        # whole runs, where the catalogue has as many; what is too much is no candidate
        self.window = min(needed + -needed % _SHORT_RUN, items)
        self._stride = items + self.window - 1
        # every window as a row of one overlapping view
        self._windows = (
            torch.cat([orders, orders[:, : self.window - 1]], dim=1).to(torch.int32).reshape(-1).to(device).unfold(0, self.window, 1)
        )
        self._where = where.to(torch.int32).reshape(-1).to(device)

    def draw(self, ids: Tensor, step: Tensor, streams: TensorStreams) -> Tensor:
        """Handles of new pools, ``(B,)`` int64."""
        return streams.integers(_ORDERS * self.items, ids, step, Purpose.CANDIDATES)

    def open(self, handle: Tensor, history: Tensor, day: Tensor) -> tuple[Tensor, Tensor]:
        """Items of each window and whether each is a candidate on ``day`` (B,): ``(B,)``, history ``(B, H)`` -> two ``(B, window)``."""
        order, start = handle // self.items, handle % self.items
        ids = self._windows.index_select(0, order * self._stride + start)
        valid = torch.ones(ids.shape[0], self.window + 1, dtype=torch.bool, device=ids.device)
        if self.exclude:
            recent = history[:, -self.exclude :].to(torch.int64)
            flat = (order.unsqueeze(1) * self.items + recent.clamp_min(0)).view(-1)
            place = self._where.index_select(0, flat).view(recent.shape) - start.unsqueeze(1)
            place = torch.where(place < 0, place + self.items, place)
            # what is not in the window goes to the spare last column
            valid.scatter_(1, torch.where((recent >= 0) & (place < self.window), place, self.window), False)
        valid = valid[:, :-1]
        live = None if self._drift is None else self._drift.live(day, ids)
        if live is not None:
            valid = valid & live
        if self.window == self.size:
            return ids, valid
        return ids, valid & (valid.cumsum(1, dtype=torch.int16) <= self.size)

    def listed(self, handle: Tensor, history: Tensor, day: Tensor) -> Tensor:
        """The candidates themselves: ``(B, size)`` int64."""
        ids, valid = self.open(handle, history, day)
        out = torch.empty(ids.shape[0], self.size + 1, dtype=torch.int64, device=ids.device)
        place = torch.where(valid, valid.cumsum(1) - 1, self.size)
        return out.scatter_(1, place, ids.to(torch.int64))[:, :-1]


class Ranker:
    """Turns fusion weights or query vectors into slates.

    Fusion weights (B, 7) score a candidate as :mod:`simulators.fusion` says, from the scorer's predictions. A query vector (B, D) scores
    ``<query, item vector>``. The best ``slate`` candidates are shown, best first.

    Args:
        scorer: the platform's predictions.
        item_vectors: (n_items, D) what query vectors are matched with.
        pools: candidates; ``None`` ranks the full catalogue.
        slate: items to show.
        exclude: recently shown items that the full catalogue passes over.
        drift: where given, the full catalogue holds the items that live on the day.
    """

    def __init__(
        self,
        scorer: LatentResponse,
        item_vectors: Tensor,
        pools: CandidatePools | None,
        slate: int,
        exclude: int,
        drift: Drift | None = None,
    ) -> None:
        self.scorer, self.pools, self.slate, self.exclude, self._drift = scorer, pools, slate, exclude, drift
        scale = FusionScale.of(scorer)
        self.spread, self._unit, told = scale.spread, scale.unit, scale.told
        self._heads = [k for k in range(1, len(BEHAVIOURS)) if bool(told[k])]
        self.item_vectors, self._taste_vectors = item_vectors.contiguous(), scorer.item_vectors.contiguous()
        # log-odds in powers of two, with their sign turned
        self._biases = (scorer.items[:-1, scorer.dim :] * -_LOG2E).contiguous()
        self._loads = [-_LOG2E * float(x) for x in scorer.loadings]
        # the full catalogue is filled up to whole runs, by items that are never shown
        spare = (0, 0, 0, _RUN - scorer.n_items % _RUN)
        self._everything = [torch.nn.functional.pad(table, spare) for table in (self.item_vectors, self._taste_vectors)]
        self._bias_rows = torch.nn.functional.pad(self._biases, spare).t().contiguous()

    def slates(self, kind: str, action: Tensor, state: UserState) -> Tensor:
        """Slates ``(B, K)`` int64 for a batch of vector actions."""
        tile = (WHOLE if self.pools is None else 8 * WHOLE) if action.device.type == "cpu" else max(len(action), 1)
        parts = []
        for lo in range(0, max(len(action), 1), tile):
            part = slice(lo, lo + tile)
            parts.append(self._tile(kind, action[part], state.user[part], state.pool[part], state.history_items[part], state.day[part]))
        return torch.cat(parts)

    def _tile(self, kind: str, action: Tensor, user: Tensor, pool: Tensor, history: Tensor, day: Tensor) -> Tensor:
        fusion = kind == "fusion_weights"
        rows = self.scorer.user_rows(user) if fusion else action
        query = rows[:, : self.scorer.dim] if fusion else action
        if self.pools is None:
            # one product of one shape: its bits do not depend on the batch
            taste = torch.mm(query, self._everything[fusion].t())
            score = self._fused(action, rows, taste, self._bias_rows) if fusion else taste
            return _best(self._candidates_of(score, history, day), self.slate)
        ids, valid = self.pools.open(pool, history, day)
        flat = ids.view(-1)
        vectors = (self._taste_vectors if fusion else self.item_vectors).index_select(0, flat).unflatten(0, ids.shape)
        # one product a user, whose bits do not depend on the batch
        taste = torch.bmm(query.unsqueeze(1), vectors.transpose(1, 2)).squeeze(1)
        score = taste
        if fusion:
            score = self._fused(action, rows, taste, self._biases.index_select(0, flat).unflatten(0, ids.shape).movedim(2, 0))
        return ids.gather(1, _best(score.masked_fill_(~valid, -torch.inf), self.slate)).to(torch.int64)

    def _fused(self, action: Tensor, rows: Tensor, taste: Tensor, bias: Tensor) -> Tensor:
        """Scores (B, C) up to means and a positive factor of the user: ``P(click) (w_click + sum_f w_f (P(f | click) - e_f))``.

        Log-odds are the taste, loaded, and biases of item and user, so that ``P = v / (v + 2^x)`` with x of taste and item and v of the
        user: one product for all behaviours, and few passes over the candidates.

        **Shapes**: user rows (B, D + 8); taste (B, C); bias (8, C) or (8, B, C).
        """
        weight = action * self._unit
        constant = weight[:, 0] - (weight * self.scorer.off_click).sum(1)
        score = constant.unsqueeze(1).expand_as(taste).contiguous()
        of_user = torch.exp2(rows[:, self.scorer.dim :] * _LOG2E)
        # on CPU, a behaviour that nobody here asks for costs nothing
        asked = weight.any(0).tolist() if taste.device.type == "cpu" else [True] * len(BEHAVIOURS)
        x = torch.empty_like(taste)
        for k in (*(k for k in self._heads if asked[k]), 0):
            v = of_user[:, k : k + 1]
            torch.add(bias[k], taste, alpha=self._loads[k], out=x).exp2_().add_(v)
            score = score.addcdiv_(weight[:, k : k + 1] * v, x) if k else score.div_(x)
        return score

    def _candidates_of(self, score: Tensor, history: Tensor, day: Tensor) -> Tensor:
        """Scores of the whole catalogue: items shown lately, without life, or there to fill up the last run are out of the question."""
        n = self.scorer.n_items
        score[:, n:] = -torch.inf
        live = None if self._drift is None else self._drift.live(day)
        if live is not None:
            score[:, :n].masked_fill_(~live, -torch.inf)
        if not self.exclude:
            return score
        recent = history[:, -self.exclude :].to(torch.int64)
        return score.scatter_(1, torch.where(recent >= 0, recent, n), -torch.inf)


def _best(score: Tensor, count: int) -> Tensor:
    """Positions of the highest scores, best first: ``(B, C)`` -> ``(B, count)`` int64.

    The best lie in the runs with the highest maxima: so few scores are sorted.
    """
    length = _RUN if score.shape[1] >= 4 * _RUN * count else _SHORT_RUN
    runs = score.shape[1] // length
    if score.shape[1] % length or runs < 4 * count:
        return score.topk(count, dim=1).indices
    # run g holds positions g, g + runs, g + 2 runs, ...
    laid = score.view(-1, length, runs)
    run = laid.amax(1).topk(count, dim=1).indices
    few = laid.gather(2, run.unsqueeze(1).expand(-1, length, -1)).reshape(len(score), -1)
    best = few.topk(count, dim=1).indices
    return best // count * runs + run.gather(1, best % count)


def _longest_window(orders: Tensor, drift: Drift, count: int) -> int:
    """How long a window of an order must be to hold ``count`` live items, wherever it begins and whatever the day."""
    longest, previous = count, None
    for day in range(drift.horizon_days + 1):
        live = drift.live(torch.tensor([float(day)], device=drift.device))
        assert live is not None
        alive = live[0].cpu()
        if previous is not None and torch.equal(alive, previous):
            continue
        previous = alive
        # the same number live in every order: places by order, and once more around
        place = alive[orders].nonzero()[:, 1].view(len(orders), -1)
        around = torch.cat([place, place[:, :count] + orders.shape[1]], dim=1)
        # a window that begins right behind a live item ends at the count-th one after it
        longest = max(longest, int((around[:, count:] - around[:, :-count]).max()))
    return longest
