"""Everything the world knows of its users, as a struct of tensors: one row a user, no Python objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recrl.core.errors import StorageError
from recrl.core.files import atomic_path

WHOLE = 64
"""On CPU, torch computes what is left over after whole vectors by other instructions, whose last bits differ: batches are filled up to a
multiple of this, so that a user's numbers depend on nobody else (with one thread)."""


@dataclass(frozen=True, eq=False)
class UserState:
    """State of ``B`` users, each on a clock of its own.

    Attributes:
        uid: (B,) int64 identity of the simulated user, which keys all of its random draws.
        user: (B,) int64 catalogue user whose tastes it has, -1 for an unknown one.
        counter: (B,) int64 requests ever made: the step of its random draws.
        session: (B,) int32 sessions before this one.
        requests: (B,) int32 requests so far in this session.
        day: (B,) float32 clock, in days since the start.
        since: (B,) float32 days between the end of the last session and the start of this one, 0 in the first.
        satisfaction: (B,) float32 running satisfaction.
        baseline: (B,) float32 the user's own baseline of it.
        fatigue: (B,) float32 requests of earlier sessions, as far as not yet rested off.
        gap_memory: (B,) float32 running mean of log gaps.
        rates: (B, 7) float32 running mean of the feedback, what a platform can see.
        history_items: (B, H) int32 shown items, oldest first, -1 where none.
        history_feedback: (B, H) uint8 their feedback.
        memory: (B, M) float32 what the response model remembers of the user, M = 0 where it remembers nothing.
        pool: (B,) int64 handle of the candidates of the coming request.
        alive: (B,) bool neither churned nor past the horizon.
    """

    uid: Tensor
    user: Tensor
    counter: Tensor
    session: Tensor
    requests: Tensor
    day: Tensor
    since: Tensor
    satisfaction: Tensor
    baseline: Tensor
    fatigue: Tensor
    gap_memory: Tensor
    rates: Tensor
    history_items: Tensor
    history_feedback: Tensor
    memory: Tensor
    pool: Tensor
    alive: Tensor

    def __len__(self) -> int:
        return int(self.uid.shape[0])

    def map(self, function: Callable[[Tensor], Tensor]) -> UserState:
        """Apply ``function`` to every tensor."""
        return UserState(*(function(getattr(self, f.name)) for f in fields(self)))

    def __getitem__(self, index: Any) -> UserState:
        """Rows of the batch: a slice, a mask or positions."""
        return self.map(lambda x: x[index])

    def where(self, mask: Tensor, other: UserState) -> UserState:
        """Rows of ``self`` where ``mask`` (B,) is true, else rows of ``other``."""

        def choose(name: str) -> Tensor:
            a = getattr(self, name)
            return torch.where(mask if a.ndim == 1 else mask.unsqueeze(1), a, getattr(other, name))

        return UserState(*(choose(f.name) for f in fields(self)))

    @staticmethod
    def concatenate(parts: Sequence[UserState]) -> UserState:
        """Users of several states, one after the other."""
        return UserState(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(UserState)))

    @property
    def draw_step(self) -> Tensor:
        """A step for policies, (B,) int64: differs between requests and between simulated users of one catalogue user."""
        return (self.uid << 24) + self.counter

    def nbytes(self) -> int:
        """Bytes that the tensors take."""
        return sum(x.numel() * x.element_size() for x in (getattr(self, f.name) for f in fields(self)))

    def save(self, path: Path) -> None:
        """Write the state as one safetensors file, atomically."""
        with atomic_path(Path(path)) as temporary:
            save_file({f.name: getattr(self, f.name).cpu().contiguous() for f in fields(self)}, temporary)

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> UserState:
        """Read what :meth:`save` wrote.

        **Errors**: :class:`StorageError` for a missing or broken file.
        """
        try:
            tensors = load_file(path, device=str(device))
            return cls(*(tensors[f.name] for f in fields(cls)))
        except (OSError, KeyError, SafetensorError) as error:
            raise StorageError(f"the user state cannot be read: {error}", where=str(path), mend="start the simulation again") from None


class Rows:
    """Some users of a batch: on the CPU their positions, so that only they cost something; elsewhere a mask over everybody, because to
    count them would wait for the device.

    Args:
        mask: (B,) bool.
        everybody: compute for everybody on the CPU, too.
    """

    def __init__(self, mask: Tensor, everybody: bool = False) -> None:
        self.mask = mask
        self.index: Tensor | None = None
        if mask.device.type == "cpu" and not everybody:
            index = mask.nonzero().squeeze(1)
            # whole vectors; the last user comes several times, with the same numbers
            self.index = torch.cat([index, index[-1:].expand(-len(index) % WHOLE)]) if len(index) else index

    @property
    def nobody(self) -> bool:
        """Whether it is known that there are none."""
        return self.index is not None and not len(self.index)

    def of(self, x: Tensor) -> Tensor:
        """Rows of ``x`` (B, ...) to compute with."""
        return x if self.index is None else x.index_select(0, self.index)

    def put(self, x: Tensor, new: Tensor) -> Tensor:
        """``x`` (B, ...), which may be overwritten, with ``new`` rows in these places."""
        return torch.where(self._like(x), new, x) if self.index is None else x.index_copy_(0, self.index, new)

    def fill(self, x: Tensor, value: float) -> Tensor:
        """``x`` (B, ...), which may be overwritten, with one value in these places."""
        return x.masked_fill(self._like(x), value) if self.index is None else x.index_fill_(0, self.index, value)

    def _like(self, x: Tensor) -> Tensor:
        return self.mask.view(-1, *(1,) * (x.ndim - 1))
