"""What a user's own past adds to its log-odds: step functions of counts, tabulated from boosted trees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS, unpack
from recrl.core.errors import ContractError

F = len(BEHAVIOURS)
COUNTS = F + 1
"""Counts of a user's past: rows shown, then each behaviour among them."""

PAST = COUNTS + 1
"""Numbers that stand for a user's past: counts, and how many rows they may stand for."""

PRIOR_ROWS = 20.0
"""Rows of the overall rate that a rate of a few rows is mixed with."""

NAMES = ("rows", "rates", "overall", "table")


class PastEffect:
    """Log-odds that depend on how much a user was shown and how often it did what.

    With n rows and c_j times behaviour j among them::

        effect_f = sum_j table_j[bin of n, bin of r_j, f]          r_j = (c_j + 20 overall_j) / (n + 20)

    A value lies in bin b when it is above b of the edges. Counts are all that is remembered, and a limit of n. In a log, n tells how
    active a user is more than what rows do to it, and it would grow without end in a simulation: where n would pass the limit all counts
    are scaled down to it, so that older rows fade. A log is read without one.

    Args:
        rows: (E,) rising edges of n.
        rates: (7, R) rising edges of each r_j, filled up with infinity.
        overall: (7,) rates of the log.
        table: (7, E + 1, R + 1, 7).

    **Errors**: :class:`ContractError` for shapes that do not fit.
    """

    def __init__(self, rows: Tensor, rates: Tensor, overall: Tensor, table: Tensor) -> None:
        if tuple(table.shape) != (F, len(rows) + 1, rates.shape[-1] + 1, F) or len(rates) != F or tuple(overall.shape) != (F,):
            raise ContractError(
                f"table {tuple(table.shape)} for {len(rows)} edges of rows and {tuple(rates.shape)} of rates",
                where="PastEffect",
                mend="fit the simulator again",
            )
        self.rows, self.rates, self.overall, self.table = (x.detach().to(torch.float32).contiguous() for x in (rows, rates, overall, table))
        self._flat = self.table.view(-1, F)
        self._prior = PRIOR_ROWS * self.overall
        bits = torch.from_numpy(unpack(np.arange(256, dtype=np.uint8)).astype(np.float32))
        self._marks = torch.cat([torch.ones(256, 1), bits], dim=1).to(table.device)

    def nothing(self, users: int) -> Tensor:
        """The past of users who were shown nothing, without limit: ``(B, 9)``."""
        past = self.overall.new_zeros(users, PAST)
        past[:, COUNTS] = torch.inf
        return past

    def counted(self, past: Tensor, feedback: Tensor) -> Tensor:
        """The past after a request: ``(B, 9)``, feedback bytes ``(B, C)`` -> ``(B, 9)``."""
        # sums of whole numbers: exact in any order
        new = self._marks.index_select(0, feedback.reshape(-1).to(torch.int64)).view(*feedback.shape, COUNTS).sum(1)
        counts, limit = past[:, :COUNTS] + new, past[:, COUNTS:]
        kept = torch.minimum(counts[:, :1], limit)
        return torch.cat([kept, counts[:, 1:] * (kept / counts[:, :1].clamp_min(1.0)), limit], dim=1)

    def settled(self, past: Tensor) -> Tensor:
        """The past of users at the end of a log, limited to the rows it had of them; without rows, to those of the mean user."""
        rows = past[:, :1]
        seen = rows > 0
        mean = torch.round((rows * seen).sum() / seen.sum().clamp_min(1)).clamp_min(1.0)
        return torch.cat([past[:, :COUNTS], torch.where(seen, rows, mean)], dim=1)

    def unseen(self, past: Tensor, like: Tensor) -> Tensor:
        """The past of users who were never logged: nothing, limited as that of the users ``like`` (m,) in ``past``: ``(m, 9)``."""
        return torch.cat([past.new_zeros(len(like), COUNTS), past[like, COUNTS:]], dim=1)

    def logits(self, past: Tensor) -> Tensor:
        """Effect on the log-odds of click and, given a click, of the others: ``(B, 9)`` -> ``(B, 7)``."""
        n = past[:, :1]
        rate = ((past[:, 1:COUNTS] + self._prior) / (n + PRIOR_ROWS)).t().contiguous()
        across = self.rates.shape[1] + 1
        place = torch.searchsorted(self.rates, rate) + torch.bucketize(n[:, 0].contiguous(), self.rows) * across
        out = torch.zeros(len(past), F, device=past.device)
        for j in range(F):
            # one after the other: a sum over a dimension may depend on the batch in its last bits
            out += self._flat.index_select(0, place[j] + j * (len(self.rows) + 1) * across)
        return out

    def scaled(self, factor: float) -> PastEffect:
        """The effect times a number."""
        return PastEffect(self.rows, self.rates, self.overall, self.table * factor)

    def to(self, device: torch.device | str) -> PastEffect:
        """The same effect on another device."""
        return PastEffect(*(getattr(self, name).to(device) for name in NAMES))

    def tensors(self) -> dict[str, Tensor]:
        """What :meth:`of_tensors` builds it from."""
        return {f"past.{name}": getattr(self, name) for name in NAMES}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> PastEffect | None:
        """The effect among the tensors of a saved model, ``None`` where there is none."""
        return cls(*(tensors[f"past.{name}"] for name in NAMES)) if f"past.{NAMES[0]}" in tensors else None


@dataclass(frozen=True, eq=False)
class Ground:
    """What is known of log-odds before a model of responses is fitted on top.

    Levels of users (n_users + 1, 7) and of items (n_items + 1, 7), the last ones unknown; ``logged`` (n, 7), their sum along the log's
    rows, where an item's level knows nothing of the row itself, 0 in the mean, so that what it is added to keeps its own intercept;
    and what counts of a user's past add.
    """

    users: Tensor
    items: Tensor
    logged: Tensor
    past: PastEffect
