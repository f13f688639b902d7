"""Collected sessions: a step costs what was shown and done, the history before a session is kept once; states are rebuilt by gather."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recrl.core.contracts import Observation, Transitions
from recrl.core.errors import ConfigError, ContractError
from recrl.core.ragged import Offsets
from recrl.replay.rows import Rows
from recrl.replay.sessions import Int64, Unit

_STEP = ("action", "reward", "terminated", "truncated", "session_end", "behaviour_log_prob", "cluster", "item")
# what a state holds besides its history; candidates and their scores belong to one request and are not learned from
_STATE = ("user", "clock", "features", "tokens")


class SessionBuffer:
    """The newest closed segments, ``capacity`` steps at most, from batches that hold one transition of each user side by side.

    Row ``k`` of every batch belongs to lane ``k``. A lane's segment closes where its user is gone (terminated, truncated), where the
    session ends (``unit="session"``), where the lane goes on in another state than it ended in (a fresh user, an episode that was cut), and
    after ``max_length`` steps. Closed segments alone are drawn, and make room whole, oldest first.

    A segment of n steps takes n actions, rewards, flags, clocks and shown items with one feedback byte each, one more clock, and the
    history before it (5 bytes an item); histories of the states between are windows of what was shown. Nothing is padded. ``features`` are
    kept where there is no history (control tasks).

    Args:
        capacity: steps of closed segments that are kept.
        unit: what a segment is.
        shown: items that a request shows: the history moves on by so many.
        max_length: steps after which a segment is closed in any case; ``None`` for 1,000, or the capacity where that is less.
        device: where the columns live.

    **Errors**: :class:`ConfigError` for a ``max_length`` beyond the capacity.
    """

    def __init__(
        self, capacity: int, *, unit: Unit = "session", shown: int = 1, max_length: int | None = None, device: torch.device | str = "cpu"
    ) -> None:
        max_length = min(1_000, capacity) if max_length is None else max_length
        if not 1 <= max_length <= capacity or shown < 1:
            raise ConfigError(
                f"capacity={capacity}, max_length={max_length}, shown={shown} do not fit",
                where="SessionBuffer",
                mend="1 <= max_length <= capacity, shown >= 1",
            )
        self.capacity, self.unit, self.shown, self.max_length = capacity, unit, shown, max_length
        self.device = torch.device(device)
        # of closed segments: steps, states (one more a segment), items (history and shown), and the segments themselves
        self._steps, self._states, self._items = Rows(self.device), Rows(self.device), Rows(self.device)
        self._segments = Rows(torch.device("cpu"), narrow=False)
        # of open ones: every lane's steps, row number = step * lanes + lane; since which step a lane's segment runs; what stood before it
        self._open = Rows(self.device)
        self._now, self._began = 0, np.zeros(0, dtype=np.int64)
        self._before: dict[str, Tensor] = {}
        self._ended_in: dict[str, Tensor] = {}

    def __len__(self) -> int:
        """Steps of closed segments."""
        return self._steps.size

    def lengths(self) -> Int64:
        """Steps of each closed segment, oldest first, (S,)."""
        return self._segment_columns(self._segments.numbers())["length"]

    def nbytes(self) -> int:
        """Bytes that are held, those of open segments and of room to grow included."""
        return sum(rows.nbytes() for rows in (self._steps, self._states, self._items, self._segments, self._open))

    def bytes_per_transition(self) -> float:
        """Bytes that a step of a closed segment takes, its share of histories and offsets included."""
        held = sum(rows.size * rows.row_bytes() for rows in (self._steps, self._states, self._items, self._segments))
        return held / max(1, len(self))

    def add(self, batch: Transitions) -> None:
        """Take one step of every lane. Flags are read on the host, once a call.

        **Errors**: :class:`ConfigError` when the number of lanes changes; :class:`ContractError` when the history does not move on by
        ``shown`` items.
        """
        lanes = len(batch)
        if self._now == 0:
            self._began = np.zeros(lanes, dtype=np.int64)
        if lanes != self._began.size:
            raise ConfigError(
                f"a batch of {lanes} after batches of {self._began.size}",
                where="SessionBuffer.add",
                mend="add the batches of one collector: the same users side by side",
            )
        state, following = _state(batch.observation), _state(batch.next_observation)
        ends, jumps, moves_on = self._flags(batch, state, following)
        if not moves_on:
            raise ContractError(
                f"the history of the next state is not that of the state with {self.shown} more items",
                where="SessionBuffer.add",
                mend="set shown to the number of items a request shows (at most the length of the history)",
            )
        self._close(np.flatnonzero(jumps & (self._began < self._now)), self._ended_in)
        self._began[jumps] = self._now
        fresh = torch.from_numpy(self._began == self._now).to(self.device).unsqueeze(1)
        history = {name: state.pop(name) for name in ("history_items", "history_feedback") if name in state}
        self._before = {name: torch.where(fresh, now, self._before.get(name, now)) for name, now in history.items()}
        given = {f"t.{name}": getattr(batch, name) for name in _STEP} | {f"t.note.{name}": values for name, values in batch.notes.items()}
        given |= {f"s.{name}": values for name, values in state.items()}
        given |= {f"h.{name}": following[name][:, -self.shown :] for name in history}
        self._open.append({name: values for name, values in given.items() if values is not None}, lanes)
        self._now += 1
        self._ended_in = following
        self._close(np.flatnonzero(ends | (self._now - self._began >= self.max_length)), following)
        self._open.drop(int(self._began.min()) * lanes)
        self._make_room()

    def _flags(self, batch: Transitions, state: dict[str, Tensor], following: dict[str, Tensor]) -> tuple[Any, Any, bool]:
        ends = batch.terminated | batch.truncated
        if self.unit == "session":
            ends = ends | batch.session_end
        jumps, wrong = torch.ones_like(ends), torch.zeros_like(ends)
        if self._now > 0:
            jumps = ~torch.stack([(self._ended_in[name] == values).reshape(len(batch), -1).all(1) for name, values in state.items()]).all(0)
        if "history_items" in state:
            kept = state["history_items"].shape[1] - self.shown
            if kept < 0:
                return ends, jumps, False
            names = ("history_items", "history_feedback")
            wrong = torch.stack([(following[n][:, :kept] != state[n][:, self.shown :]).any(1) for n in names]).any(0)
        # one wait for the device a step
        read = torch.stack([ends, jumps, wrong]).cpu().numpy()
        return read[0], read[1], not read[2].any()

    def _close(self, lanes: Int64, ended_in: Mapping[str, Tensor]) -> None:
        """Move the open segments of ``lanes`` (S,) to the closed ones."""
        if lanes.size == 0:
            return
        steps = Offsets.from_lengths(self._now - self._began[lanes])
        of, place = steps.segment_ids(), steps.positions()
        rows = self._open.take(self._tensor((self._began[lanes][of] + place) * self._began.size + lanes[of]))
        done, states, shown = ({n[2:]: v for n, v in rows.items() if n.startswith(kind)} for kind in ("t.", "s.", "h."))
        table = {"steps": self._steps.append(done, steps.total) + steps.values[:-1], "length": steps.lengths}
        # the states before its steps, and the one after the last
        inner, last = self._tensor(np.arange(steps.total) + of), self._tensor(steps.values[1:] + np.arange(steps.count))
        ended = {name: ended_in[name][self._tensor(lanes)] for name in states}
        total = steps.total + steps.count
        self._states.append({name: _woven(total, (inner, v), (last, ended[name])) for name, v in states.items()}, total)
        table |= self._close_items(lanes, steps, shown)
        self._segments.append({name: torch.from_numpy(values) for name, values in table.items()}, lanes.size)
        self._began[lanes] = self._now

    def _close_items(self, lanes: Int64, steps: Offsets, shown: Mapping[str, Tensor]) -> dict[str, Int64]:
        """Append each segment's history and shown items; returns where they begin and how long the history is."""
        none = np.zeros(lanes.size, dtype=np.int64)
        if not shown:
            return {"items": none, "past": none}
        before = self._before["history_items"][self._tensor(lanes)]
        past = (before >= 0).sum(1).cpu().numpy()
        stream, kept = Offsets.from_lengths(past + steps.lengths * self.shown), Offsets.from_lengths(past)
        of, place = kept.segment_ids(), kept.positions()
        old = self._tensor(stream.values[:-1][of] + place)
        row, column = self._tensor(lanes[of]), self._tensor((before.shape[1] - past)[of] + place)
        first_shown = (stream.values[:-1] + past)[steps.segment_ids()] + steps.positions() * self.shown
        new = self._tensor((first_shown[:, None] + np.arange(self.shown)).ravel())
        items = {n: _woven(stream.total, (old, self._before[n][row, column]), (new, v.flatten())) for n, v in shown.items()}
        return {"items": self._items.append(items, stream.total) + stream.values[:-1], "past": past}

    def _make_room(self) -> None:
        excess = self._steps.size - self.capacity
        if excess <= 0:
            return
        number = self._segments.first + int(np.searchsorted(self.lengths().cumsum(), excess)) + 1
        if number == self._segments.first + self._segments.size:
            ends = {"steps": self._steps.first + self._steps.size, "items": self._items.first + self._items.size}
        else:
            ends = {name: int(values[0]) for name, values in self._segment_columns(np.array([number])).items()}
        self._steps.drop(ends["steps"])
        self._states.drop(ends["steps"] + number)
        self._items.drop(ends["items"])
        self._segments.drop(number)

    def gather(self, segment: Int64, start: Int64, length: Int64) -> Transitions:
        """Rows ``start .. start + length`` of each ``segment`` (G,), counted from the oldest; ``index`` numbers all steps ever closed."""
        number = self._segments.first + segment
        table, cut = self._segment_columns(number), Offsets.from_lengths(length)
        of = cut.segment_ids()
        place = start[of] + cut.positions()
        index = self._tensor(table["steps"][of] + place)
        # a segment's states begin where its steps do, one later for every segment before it
        state = index + self._tensor(number[of])
        shown_until = self._tensor((table["items"] + table["past"])[of] + place * self.shown)
        begin = self._tensor(table["items"][of])
        picked = self._steps.take(index)
        return Transitions(
            observation=self._observation(state, begin, shown_until),
            next_observation=self._observation(state + 1, begin, shown_until + self.shown),
            index=index,
            segments=cut,
            notes={name.removeprefix("note."): values for name, values in picked.items() if name.startswith("note.")},
            **{name: picked.get(name) for name in _STEP},
        )

    def _observation(self, state: Tensor, begin: Tensor, until: Tensor) -> Observation:
        fields: dict[str, Any] = self._states.take(state)
        if self._before:
            back = torch.arange(-self._before["history_items"].shape[1], 0, device=self.device)
            at = until.unsqueeze(1) + back  # (B, H)
            there = at >= begin.unsqueeze(1)
            items = self._items.take(torch.maximum(at, begin.unsqueeze(1)))
            fields["history_items"] = torch.where(there, items["history_items"], -1)
            fields["history_feedback"] = torch.where(there, items["history_feedback"], 0)
        return Observation(**fields)

    def _segment_columns(self, numbers: Int64) -> dict[str, Int64]:
        if self._segments.size == 0:
            return {name: np.zeros(0, dtype=np.int64) for name in ("steps", "length", "items", "past")}
        return {name: values.numpy() for name, values in self._segments.take(torch.from_numpy(numbers)).items()}

    def _tensor(self, numbers: Int64) -> Tensor:
        return torch.from_numpy(numbers).to(self.device)

    def state_dict(self) -> dict[str, Any]:
        """Closed and open segments, and where each lane stands."""
        parts = ("steps", "states", "items", "segments", "open")
        return {
            **{name: getattr(self, f"_{name}").state_dict() for name in parts},
            "now": self._now,
            "began": torch.from_numpy(self._began.copy()),
            "before": dict(self._before),
            "ended_in": dict(self._ended_in),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        for name in ("steps", "states", "items", "segments", "open"):
            getattr(self, f"_{name}").load_state_dict(state[name])
        self._now, self._began = int(state["now"]), state["began"].cpu().numpy().copy()
        self._before = {name: values.to(self.device) for name, values in state["before"].items()}
        self._ended_in = {name: values.to(self.device) for name, values in state["ended_in"].items()}


def _woven(total: int, *parts: tuple[Tensor, Tensor]) -> Tensor:
    """One column of ``total`` rows from (places, values) that fill it."""
    column = parts[0][1].new_empty(total, *parts[0][1].shape[1:])
    for places, values in parts:
        column[places] = values.to(column.dtype)
    return column


def _state(observation: Observation) -> dict[str, Tensor]:
    """The arrays of a state that are kept; a history makes its flat features superfluous."""
    names = (*_STATE, "history_items", "history_feedback")
    present = {name: getattr(observation, name) for name in names if getattr(observation, name) is not None}
    if "history_items" in present:
        present.pop("features", None)
    return present
