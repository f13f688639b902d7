"""Responses of boosted trees, tabulated: groups of users by items, each user's own level, and what its past adds."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.errors import ContractError
from recrl.core.streams import Purpose, Streams
from simulators.past import PAST, PastEffect
from simulators.response import WIDTH, LatentResponse, ResponseNotes, WatchLaw, reading_response, write_response

F = len(BEHAVIOURS)
_PLATFORM_DIM = 16
_NAMES = ("table", "offsets", "group", "off_click")


class BoostedResponse:
    """Log-odds of the seven heads, click first and the others given the click, read from a table.

    ::

        logit_f(u, i) = table[group_u, i, f] + offsets[u, f] + past_f(counts of u)

    A group is represented by one of its users, for whom the trees were asked about every item; a user's offset is the mean difference
    between its own trees and that user's. Trees themselves are not walked in a step. :attr:`table_error` is what that costs; the past
    costs nothing, see :class:`simulators.past.PastEffect`. Its counts are what the model remembers of a user.

    Args:
        table: (G, n_items + 1, 8): seven log-odds and the bias of log watch time; the last item row serves unknown items.
        offsets: (n_users + 1, 8); the last row serves unknown users.
        group: (n_users + 1,) int64 rows of the table.
        off_click: (7,) P(f | no click); that of click is 0.
        past: what counts of the user's rows and behaviours add; ``None`` for nothing.
        memories: (n_users, 9) their pasts at the end of the log; none seen without.
        watch: law of watch time, or ``None``.
        notes: provenance.
        table_error: root mean square difference of P(click) between table and trees over random (user, item) pairs.

    **Errors**: :class:`ContractError` for shapes that do not fit.
    """

    def __init__(
        self,
        table: Tensor,
        offsets: Tensor,
        group: Tensor,
        off_click: Tensor,
        past: PastEffect | None = None,
        memories: Tensor | None = None,
        watch: WatchLaw | None = None,
        notes: ResponseNotes = ResponseNotes(),  # noqa: B008 - frozen
        table_error: float = 0.0,
    ) -> None:
        fits = table.ndim == 3 and table.shape[2] == WIDTH and offsets.ndim == 2 and offsets.shape[1] == WIDTH
        if not fits or group.shape != offsets.shape[:1] or off_click.shape != (F,):
            raise ContractError(
                f"table {tuple(table.shape)}, offsets {tuple(offsets.shape)}, group {tuple(group.shape)} do not fit",
                where="BoostedResponse",
                mend="fit the simulator again",
            )
        self.table, self.offsets, self.off_click = (x.detach().to(torch.float32).contiguous() for x in (table, offsets, off_click))
        self.group = group.to(torch.int64)
        self.past = past
        nothing = self.offsets.new_zeros(len(offsets) - 1, 0) if past is None else past.nothing(len(offsets) - 1)
        self.memories = nothing if memories is None else memories.detach().to(torch.float32).contiguous()
        if self.memories.shape != nothing.shape:
            raise ContractError(
                f"memories {tuple(self.memories.shape)}, not {tuple(nothing.shape)}",
                where="BoostedResponse",
                mend="fit the simulator again",
            )
        self._memory_rows = torch.cat([self.memories, nothing[:1]])
        self.watch, self.notes, self.table_error = watch, notes, table_error

    @property
    def memory_size(self) -> int:
        """9 numbers of the past, or 0 where it adds nothing."""
        return 0 if self.past is None else PAST

    @property
    def n_users(self) -> int:
        """Users with a row of their own."""
        return len(self.offsets) - 1

    @property
    def n_items(self) -> int:
        """Items with a column of their own."""
        return int(self.table.shape[1]) - 1

    @property
    def device(self) -> torch.device:
        """Where the tables live."""
        return self.table.device

    def initial_memory(self, user: Tensor) -> Tensor:
        """Counts of users as the log left them, none for unknown ones: ``(B,)`` -> ``(B, M)``."""
        return self._memory_rows.index_select(0, self._row(user))

    def advance(self, memory: Tensor, items: Tensor, feedback: Tensor) -> Tensor:
        """Counts after a request."""
        return memory if self.past is None else self.past.counted(memory, feedback)

    def request_logits(self, user: Tensor, memory: Tensor, items: Tensor) -> Tensor:
        """Log-odds of click and, given a click, of the others, then the bias of log watch time: ``(B, C, 8)``."""
        row = self._row(user)
        item = torch.where((items >= 0) & (items < self.n_items), items, self.n_items)
        place = self.group.index_select(0, row).unsqueeze(1) * (self.n_items + 1) + item
        logits = self.table.view(-1, WIDTH).index_select(0, place.reshape(-1)).view(*items.shape, WIDTH)
        return logits.add_(self._levels(row, memory).unsqueeze(1))

    @cached_property
    def _tastes(self) -> LatentResponse:
        return self.platform()

    @property
    def dim(self) -> int:
        """Length of the vectors that stand for the table's tastes, see :meth:`platform`."""
        return self._tastes.dim

    def tastes(self, user: Tensor, memory: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors of users (B, D) and of items (B, C, D), and the loadings (7,): the leading directions of the table."""
        return self._tastes.tastes(user, memory, items)

    def with_unseen(self, count: int, streams: Streams) -> BoostedResponse:
        """The model with ``count`` more users: each has the features of one of the users, and no past."""
        like = torch.from_numpy(streams.integers(self.n_users, np.arange(count), 0, Purpose.USERS)).to(self.device)
        offsets, group = (torch.cat([x[:-1], x[:-1][like], x[-1:]]) for x in (self.offsets, self.group))
        theirs = self.memories[like] if self.past is None else self.past.unseen(self.memories, like)
        memories = torch.cat([self.memories, theirs])
        return BoostedResponse(
            self.table, offsets, group, self.off_click, self.past, memories, self.watch, self.notes, table_error=self.table_error
        )

    def _row(self, user: Tensor) -> Tensor:
        return torch.where((user >= 0) & (user < self.n_users), user, self.n_users)

    def _levels(self, row: Tensor, memory: Tensor) -> Tensor:
        """What users add to all items: ``(B, 8)``."""
        level = self.offsets.index_select(0, row)
        if self.past is not None:
            level[:, :F] += self.past.logits(memory)
        return level

    def logits(self, users: Tensor, items: Tensor) -> Tensor:
        """Log-odds: ``(B,)``, ``(B, C)`` -> ``(B, C, 7)``."""
        return self.request_logits(users, self.initial_memory(users), items)[..., :F]

    def marginals(self, logits: Tensor) -> Tensor:
        """Marginal probabilities of the seven behaviours from :meth:`logits`."""
        p = torch.sigmoid(logits)
        marginal = (p - self.off_click) * p[..., :1] + self.off_click
        marginal[..., :1] = p[..., :1]
        return marginal

    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Marginal probability of each behaviour: ``(B,)``, ``(B, C)`` -> ``(B, C, 7)``."""
        return self.marginals(self.logits(users, items))

    def platform(self) -> LatentResponse:
        """The table as tastes: the leading directions of groups by items in the log-odds of a click, heads loaded by least squares."""
        table = self.table[..., :F].double()
        groups, items = table.mean(1), table.mean(0)
        centred = table - groups.unsqueeze(1) - items + table.mean((0, 1))
        left, size, right = torch.linalg.svd(centred[..., 0], full_matrices=False)
        d = min(_PLATFORM_DIM, len(size))
        scale = size[:d].sqrt()
        taste = (left[:, :d] * size[:d]) @ right[:d]
        loadings = (centred * taste.unsqueeze(2)).sum((0, 1)) / (taste**2).sum().clamp_min(1e-12)
        level = self._levels(torch.arange(self.n_users + 1, device=self.device), self._memory_rows).double()
        users = torch.cat([(left[:, :d] * scale)[self.group], level[:, :F] + groups[self.group], level[:, F:]], dim=1)
        item_bias = items - table.mean((0, 1))
        catalogue = torch.cat([right[:d].T * scale, item_bias, self.table[..., F].double().mean(0).unsqueeze(1)], dim=1)
        zero = torch.zeros(F, device=self.device)
        return LatentResponse(users, catalogue, zero, loadings, self.off_click, self.watch, self.notes)

    def to(self, device: torch.device | str) -> BoostedResponse:
        """The same model on another device."""
        tables = {name: getattr(self, name).to(device) for name in (*_NAMES, "memories")}
        past = None if self.past is None else self.past.to(device)
        return BoostedResponse(**tables, past=past, watch=self.watch, notes=self.notes, table_error=self.table_error)

    def save(self, folder: Path) -> None:
        """Write ``response.safetensors`` and ``response.json`` into ``folder``."""
        tensors = {name: getattr(self, name) for name in _NAMES}
        if self.past is not None:
            tensors |= {"memories": self.memories, **self.past.tensors()}
        write_response(folder, tensors, self.watch, self.notes, kind="boosted", table_error=self.table_error)

    @classmethod
    def load(cls, folder: Path) -> BoostedResponse:
        """Read what :meth:`save` wrote.

        **Errors**: :class:`StorageError` for a missing or broken file.
        """
        with reading_response(folder) as saved:
            tensors, error = {name: saved.tensors[name] for name in _NAMES}, float(saved.described["table_error"])
            past, memories = PastEffect.of_tensors(saved.tensors), saved.tensors.get("memories")
            return cls(**tensors, past=past, memories=memories, watch=saved.watch, notes=saved.notes, table_error=error)
