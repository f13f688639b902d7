"""Responses of a user who is what was shown to it and what it did: a GRU that moves one step a shown item."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.errors import ContractError
from recrl.core.streams import Purpose, Streams
from simulators.past import PAST, PastEffect
from simulators.response import TABLES, LatentResponse, reading_response, write_response

F = len(BEHAVIOURS)
# users of a matrix product: one shape whatever the batch, because the last bits of a product depend on its shape
_ROWS = 256
_WIDTH_OF = 16
_NAMES = ("recurrent", "recurrent_bias", "item_gates", "feedback_gates", "start", "memories", "read_out")


def gru_step(memory: Tensor, gates: Tensor, recurrent: Tensor, recurrent_bias: Tensor) -> Tensor:
    """One step of a GRU whose input part is known: ``(B, H)``, ``(B, 3 H)`` -> ``(B, H)``.

    With ``gates = W x + b`` for the input, in the order reset, update, candidate, and ``g = memory U + c``::

        r = sigmoid(gates_r + g_r);  z = sigmoid(gates_z + g_z);  n = tanh(gates_n + r g_n);  memory <- n + z (memory - n)

    **Shapes**: ``recurrent`` U (H, 3 H), ``recurrent_bias`` c (3 H,).

    **Source**: Cho et al., EMNLP 2014, in the form of ``torch.nn.GRU``.
    """
    h = memory.shape[1]
    g = torch.addmm(recurrent_bias, memory, recurrent)
    both = torch.sigmoid(gates[:, : 2 * h] + g[:, : 2 * h])
    new = torch.tanh(torch.addcmul(gates[:, 2 * h :], both[:, :h], g[:, 2 * h :]))
    return torch.lerp(new, memory, both[:, h:])


class SequenceResponse:
    """A user's row of tastes and biases is read off the state of a GRU over everything it was shown.

    ::

        row_u = row_0u + read_out^T h_u + past(counts of u)        h_u <- GRU(h_u, item, feedback)      one step for each shown item

    From the row on everything is as in :class:`simulators.response.LatentResponse`: click first, the others given the click, one sigmoid.
    The state, and counts where there is a :class:`simulators.past.PastEffect`, is all that is remembered: an unchanged history is never
    encoded again, and one step costs the same after 5 items as after 5,000. What items and feedback bytes put into the gates is tabulated.

    On CPU with one thread a user's numbers do not depend on the batch: products run on blocks of 256 users, the last one filled up.

    Args:
        head: item rows, intercepts, loadings, law of watch time; its user rows are ``row_0u``.
        recurrent: (H, 3 H) and
        recurrent_bias: (3 H,) of the GRU; H a multiple of 16.
        item_gates: (n_items + 1, 3 H) what an item puts into the gates; the last row serves unknown items.
        feedback_gates: (256, 3 H) what a feedback byte puts into them.
        start: (H,) state of a user who has seen nothing.
        memories: (n_users, H) state of each user at the end of the log, with a ``past`` its 9 numbers behind it.
        read_out: (H, D + 8) from states to user rows.
        past: what counts of the user's rows and behaviours add to its biases; ``None`` for nothing.

    **Errors**: :class:`ContractError` for shapes that do not fit.
    """

    def __init__(
        self,
        head: LatentResponse,
        recurrent: Tensor,
        recurrent_bias: Tensor,
        item_gates: Tensor,
        feedback_gates: Tensor,
        start: Tensor,
        memories: Tensor,
        read_out: Tensor,
        past: PastEffect | None = None,
    ) -> None:
        h = int(recurrent.shape[0])
        wanted = {
            "recurrent": (h, 3 * h),
            "recurrent_bias": (3 * h,),
            "item_gates": (head.n_items + 1, 3 * h),
            "feedback_gates": (256, 3 * h),
            "start": (h,),
            "memories": (head.n_users, h + (PAST if past else 0)),
            "read_out": (h, head.users.shape[1]),
        }
        given = dict(zip(_NAMES, (recurrent, recurrent_bias, item_gates, feedback_gates, start, memories, read_out), strict=True))
        for name, shape in wanted.items():
            if tuple(given[name].shape) != shape:
                raise ContractError(
                    f"{name} has shape {tuple(given[name].shape)}, not {shape}", where="SequenceResponse", mend="fit the simulator again"
                )
        if h % _WIDTH_OF:
            raise ContractError(f"the state holds {h} numbers", where="SequenceResponse", mend=f"give a multiple of {_WIDTH_OF}")
        self.head = head
        as_float = [given[name].detach().to(head.device, torch.float32).contiguous() for name in _NAMES]
        self.recurrent, self.recurrent_bias, self.item_gates, self.feedback_gates, self.start, self.memories, self.read_out = as_float
        self.past = past
        nothing = [] if past is None else [past.nothing(1)]
        self._memory_rows = torch.cat([self.memories, torch.cat([self.start.unsqueeze(0), *nothing], dim=1)])
        self.off_click, self.watch, self.notes = head.off_click, head.watch, head.notes

    @property
    def memory_size(self) -> int:
        """``H``, and 9 numbers where there is a ``past``: they stand for what was."""
        return int(self.recurrent.shape[0]) + (PAST if self.past else 0)

    @property
    def dim(self) -> int:
        """Length of user and item vectors."""
        return self.head.dim

    @property
    def n_users(self) -> int:
        """Users whose past the model knows."""
        return self.head.n_users

    @property
    def n_items(self) -> int:
        """Items with a row of their own."""
        return self.head.n_items

    @property
    def device(self) -> torch.device:
        """Where the tables live."""
        return self.head.device

    @property
    def item_vectors(self) -> Tensor:
        """Vectors of the known items, ``(n_items, D)``."""
        return self.head.item_vectors

    def initial_memory(self, user: Tensor) -> Tensor:
        """Memory of users as the log left them, that of nothing seen for unknown ones: ``(B,)`` -> ``(B, M)``."""
        return self._memory_rows.index_select(0, torch.where((user >= 0) & (user < self.n_users), user, self.n_users))

    def advance(self, memory: Tensor, items: Tensor, feedback: Tensor) -> Tensor:
        """Memory after a request: ``(B, M)``, items ``(B, C)``, feedback ``(B, C)`` uint8 -> ``(B, M)``, one GRU step an item.

        **Cost**: 6 H^2 multiplications an item and user; no word of the earlier history is read.
        """
        item = torch.where((items >= 0) & (items < self.n_items), items, self.n_items).to(torch.int64)
        byte = feedback.to(torch.int64)
        state = _in_blocks(self._advanced, memory[:, : self.recurrent.shape[0]], item, byte)
        return state if self.past is None else torch.cat([state, self.past.counted(memory[:, -PAST:], feedback)], dim=1)

    def _advanced(self, memory: Tensor, item: Tensor, byte: Tensor) -> Tensor:
        for k in range(item.shape[1]):
            gates = self.item_gates.index_select(0, item[:, k]).add_(self.feedback_gates.index_select(0, byte[:, k]))
            memory = gru_step(memory, gates, self.recurrent, self.recurrent_bias)
        return memory

    def user_rows(self, user: Tensor, memory: Tensor | None = None) -> Tensor:
        """Rows of users with these memories, else as the log left them, intercepts included: ``(B,)`` -> ``(B, D + 8)``."""
        known = self.initial_memory(user) if memory is None else memory
        return self.head.user_rows(user) + self._read(known)

    def _read(self, memory: Tensor) -> Tensor:
        """What memories add to user rows: ``(B, M)`` -> ``(B, D + 8)``."""
        rows = _in_blocks(lambda m: m @ self.read_out, memory[:, : self.recurrent.shape[0]])
        if self.past is not None:
            rows[:, self.dim : self.dim + F] += self.past.logits(memory[:, -PAST:])
        return rows

    def request_logits(self, user: Tensor, memory: Tensor, items: Tensor) -> Tensor:
        """Log-odds of click and, given a click, of the others, then the bias of log watch time: ``(B, C, 8)``."""
        return self.head.logits_of_rows(self.user_rows(user, memory), self.head.item_rows(items))

    def tastes(self, user: Tensor, memory: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors of users with these memories (B, D) and of items (B, C, D), and the loadings (7,)."""
        return self.user_rows(user, memory)[:, : self.dim], self.head.item_rows(items)[..., : self.dim], self.head.loadings

    def with_unseen(self, count: int, streams: Streams) -> SequenceResponse:
        """The model with ``count`` more users, who have seen nothing; rows ``row_0u`` are drawn as those of a latent model."""
        tables = {name: getattr(self, name) for name in _NAMES}
        theirs = self._memory_rows[-1:].repeat(count, 1)
        if self.past is not None:
            like = torch.from_numpy(streams.integers(self.n_users, np.arange(count), 1, Purpose.USERS)).to(self.device)
            theirs[:, -PAST:] = self.past.unseen(self.memories[:, -PAST:], like)
        tables["memories"] = torch.cat([self.memories, theirs])
        return SequenceResponse(self.head.with_unseen(count, streams), **tables, past=self.past)

    def logits(self, users: Tensor, items: Tensor) -> Tensor:
        """Log-odds for users as the log left them: ``(B,)``, ``(B, C)`` -> ``(B, C, 7)``."""
        return self.request_logits(users, self.initial_memory(users), items)[..., :F]

    def marginals(self, logits: Tensor) -> Tensor:
        """Marginal probabilities of the seven behaviours from :meth:`logits`."""
        return self.head.marginals(logits)

    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Marginal probability of each behaviour for users as the log left them: ``(B,)``, ``(B, C)`` -> ``(B, C, 7)``."""
        return self.marginals(self.logits(users, items))

    def platform(self) -> LatentResponse:
        """The tastes of users as the log left them, as a table."""
        head = self.head
        users = self._read(self._memory_rows) + head.users
        return LatentResponse(users, head.items, head.intercepts, head.loadings, head.off_click, head.watch, head.notes)

    def to(self, device: torch.device | str) -> SequenceResponse:
        """The same model on another device."""
        past = None if self.past is None else self.past.to(device)
        return SequenceResponse(self.head.to(device), **{name: getattr(self, name).to(device) for name in _NAMES}, past=past)

    def save(self, folder: Path) -> None:
        """Write ``response.safetensors`` and ``response.json`` into ``folder``."""
        tensors = {name: getattr(self, name) for name in _NAMES} | {f"head.{name}": getattr(self.head, name) for name in TABLES}
        tensors |= {} if self.past is None else self.past.tensors()
        write_response(folder, tensors, self.watch, self.notes, kind="sequence")

    @classmethod
    def load(cls, folder: Path) -> SequenceResponse:
        """Read what :meth:`save` wrote.

        **Errors**: :class:`StorageError` for a missing or broken file.
        """
        with reading_response(folder) as saved:
            head = {name: saved.tensors[f"head.{name}"] for name in TABLES}
            gates, past = {name: saved.tensors[name] for name in _NAMES}, PastEffect.of_tensors(saved.tensors)
            return cls(LatentResponse(**head, watch=saved.watch, notes=saved.notes), **gates, past=past)


def _in_blocks(function: Callable[..., Tensor], *columns: Tensor) -> Tensor:
    """``function`` of rows (B, ...), computed on the CPU in blocks of one shape."""
    batch = len(columns[0])
    if columns[0].device.type != "cpu":
        return function(*columns)
    short = -batch % _ROWS
    if short and batch:
        columns = tuple(torch.cat([x, x[-1:].expand(short, *x.shape[1:])]) for x in columns)
    parts = [function(*(x[lo : lo + _ROWS] for x in columns)) for lo in range(0, batch, _ROWS)]
    return torch.cat(parts)[:batch] if parts else function(*columns)
