"""What every response model offers: latent factors, a sequence-encoded user, boosted trees. The world knows no more of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import torch
from torch import Tensor

from recrl.core.errors import StorageError
from recrl.core.files import read_json
from recrl.core.streams import Streams
from recrl_datasets import Log
from simulators.boosted_response import BoostedResponse
from simulators.response import LatentResponse, ResponseNotes, WatchLaw
from simulators.sequence_response import SequenceResponse

KINDS: Final[dict[str, Any]] = {"latent": LatentResponse, "sequence": SequenceResponse, "boosted": BoostedResponse}
"""The response models by the name that their files carry."""


@runtime_checkable
class ResponseModel(Protocol):
    """Responses of users to shown items.

    A model may keep a *memory* of each user: ``M`` numbers that :meth:`advance` moves on with what was shown and what happened. Models
    that remember nothing have ``memory_size`` 0 and an empty memory. Click first, everything else given the click::

        P(f) = P(click) P(f | click) + (1 - P(click)) off_click_f

    **Shapes**: ``off_click`` (7,); users (B,), -1 for an unknown one; items (B, C), outside the catalogue the mean item; feedback (B, C)
    uint8; memory (B, M) float32; logits (B, C, 8): click, the six others given a click, and the bias of log watch time.
    """

    off_click: Tensor
    watch: WatchLaw | None
    notes: ResponseNotes

    @property
    def memory_size(self) -> int:
        """``M``; 0 for a model that remembers nothing."""

    @property
    def n_users(self) -> int:
        """Users that the model knows."""

    @property
    def n_items(self) -> int:
        """Items that the model knows."""

    @property
    def device(self) -> torch.device:
        """Where the tables live."""

    @property
    def dim(self) -> int:
        """Length ``D`` of the vectors of :meth:`tastes`."""

    def initial_memory(self, user: Tensor) -> Tensor:
        """Memory of users as the log left them, that of nothing seen for unknown users: ``(B,)`` -> ``(B, M)``."""

    def advance(self, memory: Tensor, items: Tensor, feedback: Tensor) -> Tensor:
        """Memory after a request."""

    def request_logits(self, user: Tensor, memory: Tensor, items: Tensor) -> Tensor:
        """Log-odds and watch bias of shown items, ``(B, C, 8)``."""

    def tastes(self, user: Tensor, memory: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors of users (B, D) and of items (B, C, D), and the loadings (7,) by which their products enter the log-odds.

        What drifts in tastes turns these vectors, whatever else the log-odds are made of.
        """

    def with_unseen(self, count: int, streams: Streams) -> ResponseModel:
        """The model with ``count`` more users, numbered from ``n_users`` on, who were never logged.

        They are drawn from the law of the fitted ones and have no past.
        """

    def marginals(self, logits: Tensor) -> Tensor:
        """Marginal probabilities of the seven behaviours from the first seven logits."""

    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Marginal probabilities ``(B, C, 7)`` for users as the log left them."""

    def platform(self) -> LatentResponse:
        """What ranks where a world is given no scorer: this model's tastes as a table of vectors, without further memory."""

    def to(self, device: torch.device | str) -> ResponseModel:
        """The same model on another device."""

    def save(self, folder: Path) -> None:
        """Write the model into ``folder``."""


class Replayed(Protocol):
    """The part of a :class:`ResponseModel` that reads a log."""

    @property
    def memory_size(self) -> int:
        """``M``; 0 for a model that remembers nothing."""

    def initial_memory(self, user: Tensor) -> Tensor:
        """Memory of users before they are read: ``(B,)`` -> ``(B, M)``."""

    def advance(self, memory: Tensor, items: Tensor, feedback: Tensor) -> Tensor:
        """Memory after a request."""

    def request_logits(self, user: Tensor, memory: Tensor, items: Tensor) -> Tensor:
        """Log-odds and watch bias of shown items, ``(B, C, 8)``."""


@torch.no_grad()
def replay(response: Replayed, log: Log, memories: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Logits of every logged row given the earlier requests of its user, and nothing of the later ones, and users' memories at the end.

    Rows of one user and time are one request. Users start with ``memories`` (n_users, M), else that of an unknown user; one pass for each
    row number.

    **Shapes**: -> (n, 8), (n_users, M).
    """
    user, item = (torch.from_numpy(log.column(name).astype("int64")) for name in ("user", "item"))
    memories = (response.initial_memory(torch.full((log.n_users,), -1)) if memories is None else memories).clone()
    if response.memory_size == 0:
        return response.request_logits(user, memories[user], item.unsqueeze(1))[:, 0], memories
    feedback = torch.from_numpy(log.feedback_bits().copy()).unsqueeze(1)
    time = torch.from_numpy(log.column("timestamp_ms").astype("int64"))
    new_request = torch.cat([torch.ones(1, dtype=torch.bool), (user[1:] != user[:-1]) | (time[1:] != time[:-1])])
    offsets = torch.from_numpy(log.user_offsets.values)
    length, order = offsets.diff().sort(descending=True, stable=True)
    first, memory = offsets[:-1][order], memories[order]
    before, out = memory.clone(), torch.empty(len(user), 8)
    for k in range(int(length.max()) if len(length) else 0):
        live = int((length > k).sum())
        row = first[:live] + k
        # rows of one request are met with the memory before it
        before[:live] = torch.where(new_request[row].unsqueeze(1), memory[:live], before[:live])
        out[row] = response.request_logits(user[row], before[:live], item[row].unsqueeze(1))[:, 0]
        memory[:live] = response.advance(memory[:live], item[row].unsqueeze(1), feedback[row])
    memories[order] = memory
    return out, memories


def load_response(folder: Path | str) -> ResponseModel:
    """Read what a response model's ``save`` wrote.

    **Errors**: :class:`StorageError` for a missing or broken file.
    """
    kind = read_json(Path(folder) / "response.json").get("kind", "latent")
    if kind not in KINDS:
        raise StorageError(f"unknown kind {kind!r}", where=str(Path(folder) / "response.json"), mend=f"known are {', '.join(KINDS)}")
    model: ResponseModel = KINDS[kind].load(Path(folder))
    return model
