"""Responses of boosted trees, tabulated: groups of users by items, and each user's own level."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.errors import ContractError
from simulators.response import WIDTH, LatentResponse, ResponseNotes, WatchLaw, reading_response, write_response

F = len(BEHAVIOURS)
_PLATFORM_DIM = 16
_NAMES = ("table", "offsets", "group", "off_click")


class BoostedResponse:
    """Log-odds of the seven heads, click first and the others given the click, read from a table.

    ::

        logit_f(u, i) = table[group_u, i, f] + offsets[u, f]

    A group is represented by one of its users, for whom the trees were asked about every item; a user's offset is the mean difference
    between its own trees and that user's. Trees themselves are not walked in a step. :attr:`table_error` is what that costs.

    Args:
        table: (G, n_items + 1, 8): seven log-odds and the bias of log watch time; the last item row serves unknown items.
        offsets: (n_users + 1, 8); the last row serves unknown users.
        group: (n_users + 1,) int64 rows of the table.
        off_click: (7,) P(f | no click); that of click is 0.
        watch: law of watch time, or ``None``.
        notes: provenance.
        table_error: root mean square difference of P(click) between table and trees over random (user, item) pairs.

    **Errors**: :class:`ContractError` for shapes that do not fit.
    """

    memory_size = 0

    def __init__(
        self,
        table: Tensor,
        offsets: Tensor,
        group: Tensor,
        off_click: Tensor,
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
        self.watch, self.notes, self.table_error = watch, notes, table_error

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
        """Nothing is remembered: ``(B,)`` -> ``(B, 0)``."""
        return self.offsets.new_zeros(len(user), 0)

    def advance(self, memory: Tensor, items: Tensor, feedback: Tensor) -> Tensor:
        """Nothing is remembered."""
        return memory

    def request_logits(self, user: Tensor, memory: Tensor, items: Tensor) -> Tensor:
        """Log-odds of click and, given a click, of the others, then the bias of log watch time: ``(B, C, 8)``."""
        row = torch.where((user >= 0) & (user < self.n_users), user, self.n_users)
        item = torch.where((items >= 0) & (items < self.n_items), items, self.n_items)
        place = self.group.index_select(0, row).unsqueeze(1) * (self.n_items + 1) + item
        logits = self.table.view(-1, WIDTH).index_select(0, place.reshape(-1)).view(*items.shape, WIDTH)
        return logits.add_(self.offsets.index_select(0, row).unsqueeze(1))

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
        user_bias = self.offsets[:, :F].double() + groups[self.group]
        users = torch.cat([(left[:, :d] * scale)[self.group], user_bias, self.offsets[:, F:].double()], dim=1)
        item_bias = items - table.mean((0, 1))
        catalogue = torch.cat([right[:d].T * scale, item_bias, self.table[..., F].double().mean(0).unsqueeze(1)], dim=1)
        zero = torch.zeros(F, device=self.device)
        return LatentResponse(users, catalogue, zero, loadings, self.off_click, self.watch, self.notes)

    def to(self, device: torch.device | str) -> BoostedResponse:
        """The same model on another device."""
        return BoostedResponse(
            **{name: getattr(self, name).to(device) for name in _NAMES}, watch=self.watch, notes=self.notes, table_error=self.table_error
        )

    def save(self, folder: Path) -> None:
        """Write ``response.safetensors`` and ``response.json`` into ``folder``."""
        tensors = {name: getattr(self, name) for name in _NAMES}
        write_response(folder, tensors, self.watch, self.notes, kind="boosted", table_error=self.table_error)

    @classmethod
    def load(cls, folder: Path) -> BoostedResponse:
        """Read what :meth:`save` wrote.

        **Errors**: :class:`StorageError` for a missing or broken file.
        """
        with reading_response(folder) as saved:
            tensors, error = {name: saved.tensors[name] for name in _NAMES}, float(saved.described["table_error"])
            return cls(**tensors, watch=saved.watch, notes=saved.notes, table_error=error)
