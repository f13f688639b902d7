"""Batches of whole sessions or user trajectories: ragged, rows in order, each row a transition.

A :class:`Segments` source holds trajectories (:class:`LoggedSessions` over a log, :class:`recrl.replay.session_buffer.SessionBuffer` over
what a collector gathered); :class:`SessionSampler` draws from any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.core.contracts import Transitions
from recrl.core.errors import ConfigError, DataError
from recrl.core.ragged import Offsets
from recrl.core.streams import Purpose, Streams
from recrl.replay.logged import LoggedBuffer
from recrl_datasets import Log

Int64 = NDArray[np.int64]
Unit = Literal["session", "user"]
"""What one segment holds: a session, or all that a user did."""


class Segments(Protocol):
    """Anything that holds trajectories of users."""

    def lengths(self) -> Int64:
        """Rows of each segment that can be drawn now, (S,), on the host."""
        ...

    def gather(self, segment: Int64, start: Int64, length: Int64) -> Transitions:
        """Rows ``start .. start + length`` of each ``segment`` (G,), one segment after the other, with ``segments`` that cut them."""
        ...


class LoggedSessions:
    """Trajectories of a log.

    What a view of the log leaves out is not reached into: the last row of a trajectory is truncated where the view ends, and where the
    view skips rows a new segment begins. A request of several items is several rows of one state.

    Args:
        buffer: transitions of the log.
        view: the part to draw from, for example the training split.
        unit: one segment a session or a user.
    """

    def __init__(self, buffer: LoggedBuffer, view: Log, unit: Unit = "session") -> None:
        self._buffer = buffer.within(view)
        self._rows = buffer.rows_of(view, with_next=False)
        rows, user = self._rows.cpu().numpy(), view.column("user")
        begins = np.ones(rows.size, dtype=bool)
        begins[1:] = (np.diff(rows) != 1) | (user[1:] != user[:-1])
        if unit == "session":
            begins |= buffer.session_starts()[rows]
        self._offsets = Offsets.from_starts(begins)

    def lengths(self) -> Int64:
        """Rows of each segment, (S,)."""
        return self._offsets.lengths

    def gather(self, segment: Int64, start: Int64, length: Int64) -> Transitions:
        """Rows of segments; ``index`` are row numbers of the buffer."""
        cut = Offsets.from_lengths(length)
        at = (self._offsets.values[segment] + start)[cut.segment_ids()] + cut.positions()
        return self._buffer.gather(self._rows[_tensor(at, self._rows.device)], segments=cut)


class SessionSampler:
    """Segments drawn uniformly with replacement, whole or as windows; batch ``step`` is a function of source, seed and ``step`` alone.

    Segments shorter than ``min_length`` are passed over; of one longer than ``max_length`` a window of that length is drawn, every
    window alike. With both equal all segments of a batch have one length, as preference learning wants them.

    Args:
        source: where segments come from.
        seed: of the BATCHES stream.
        min_length: rows that a segment has at least.
        max_length: rows that a drawn segment has at most; ``None`` for whole ones.

    **Errors**: :class:`ConfigError` for lengths that contradict; :class:`DataError` when there is nothing to draw from.
    """

    def __init__(self, source: Segments, seed: int, *, min_length: int = 1, max_length: int | None = None) -> None:
        if min_length < 1 or (max_length is not None and max_length < min_length):
            raise ConfigError(
                f"min_length={min_length} and max_length={max_length} leave nothing",
                where="SessionSampler",
                mend="1 <= min_length <= max_length",
            )
        self.source, self.min_length, self.max_length = source, min_length, max_length
        self._streams = Streams(seed)

    def sample(self, size: int, step: int) -> Transitions:
        """``size`` segments, one after the other; ``segments`` tells where each begins."""
        lengths = self.source.lengths()
        usable = np.flatnonzero(lengths >= self.min_length)
        if usable.size == 0:
            raise DataError(
                f"none of {lengths.size} segments has {self.min_length} rows",
                where="SessionSampler.sample",
                mend="lower min_length, or collect until sessions have ended",
            )
        draw = self._streams.uniform(np.arange(size), step, Purpose.BATCHES, (2,))
        segment = usable[_floor(draw[:, 0], usable.size)]
        length = np.minimum(lengths[segment], self.max_length or lengths[segment])
        return self.source.gather(segment, _floor(draw[:, 1], lengths[segment] - length + 1), length)

    def update_priorities(self, index: Tensor, priorities: Tensor) -> None:
        """Uniform sampling has no priorities."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the draw is counter-based."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""


def _floor(share: NDArray[np.float64], count: int | Int64) -> Int64:
    """Numbers in ``0..count-1`` of uniform draws."""
    return np.minimum((share * count).astype(np.int64), np.asarray(count) - 1)


def _tensor(numbers: Int64, device: torch.device) -> Tensor:
    return torch.from_numpy(numbers).to(device)
