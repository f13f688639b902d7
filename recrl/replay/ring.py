"""A ring of collected transitions: ids and one feedback byte an item, no features that a gather could rebuild.

At history 50 a transition of the simulator takes under 600 bytes (:meth:`RingBuffer.bytes_per_transition`); a control task stores its
two feature vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from recrl.core.contracts import Observation, Transitions
from recrl.core.errors import ConfigError

_FIELDS = ("action", "reward", "terminated", "truncated", "session_end", "behaviour_log_prob", "cluster")
# what a state keeps: candidates and their scores belong to one request and are not learned from
_STATE = tuple(f.name for f in fields(Observation) if f.name not in ("candidates", "candidate_scores"))


class RingBuffer:
    """The newest ``capacity`` transitions.

    Fields that no batch has are not stored; one that some batches lack is NaN (0 for integers and flags) there. Integers are narrowed
    to 32 bits (feedback stays one byte) and widened again by :meth:`gather`. ``features`` of a state that also has a history are left
    out.

    Args:
        capacity: transitions kept.
        device: where they live.
    """

    def __init__(self, capacity: int, device: torch.device | str = "cpu") -> None:
        if capacity < 1:
            raise ConfigError(f"capacity={capacity} must be at least 1", where="RingBuffer.capacity")
        self.capacity, self.device = capacity, torch.device(device)
        self._columns: dict[str, Tensor] = {}
        self._size = self._next = 0

    def __len__(self) -> int:
        return self._size

    def bytes_per_transition(self) -> int:
        """Bytes that one transition takes."""
        return sum(c[0].numel() * c.element_size() for c in self._columns.values())

    def add(self, batch: Transitions) -> None:
        """Append a batch; the oldest transitions make room.

        **Errors**: :class:`ConfigError` for a batch larger than the ring.
        """
        if len(batch) > self.capacity:
            raise ConfigError(
                f"a batch of {len(batch)} does not fit a ring of {self.capacity}", where="RingBuffer.add", mend="raise the capacity"
            )
        given = _flatten(batch)
        at = (torch.arange(len(batch), device=self.device) + self._next) % self.capacity
        for name in given.keys() - self._columns.keys():
            # seen for the first time (warm-up has no log-probabilities): unknown for what is stored already
            unknown = float("nan") if given[name].is_floating_point() else 0
            self._columns[name] = torch.full(
                (self.capacity, *given[name].shape[1:]), unknown, dtype=_narrow(given[name].dtype), device=self.device
            )
        for name, column in self._columns.items():
            if name in given:
                column[at] = given[name].to(self.device, column.dtype)
            else:
                column[at] = torch.nan if column.is_floating_point() else 0
        self._next = (self._next + len(batch)) % self.capacity
        self._size = min(self._size + len(batch), self.capacity)

    def gather(self, index: Tensor) -> Transitions:
        """Transitions at ring positions ``index`` (B,)."""
        picked = {name: _widen(column.index_select(0, index)) for name, column in self._columns.items()}

        def state(prefix: str) -> Observation:
            return Observation(**{name: picked.get(prefix + name) for name in _STATE})

        rest: dict[str, Any] = {name: picked.get(name) for name in _FIELDS}
        notes = {name.removeprefix("note."): values for name, values in picked.items() if name.startswith("note.")}
        return Transitions(observation=state("s."), next_observation=state("n."), index=index, notes=notes, **rest)

    def state_dict(self) -> dict[str, Any]:
        """Every stored transition and where the ring stands."""
        kept = {name: column[: self._size] for name, column in self._columns.items()}
        return {"columns": kept, "size": self._size, "next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._size, self._next = int(state["size"]), int(state["next"])
        self._columns = {}
        for name, kept in state["columns"].items():
            column = torch.zeros(self.capacity, *kept.shape[1:], dtype=kept.dtype, device=self.device)
            column[: self._size] = kept.to(self.device)
            self._columns[name] = column


def _flatten(batch: Transitions) -> dict[str, Tensor]:
    given = {name: getattr(batch, name) for name in _FIELDS} | {f"note.{name}": values for name, values in batch.notes.items()}
    for prefix, observation in (("s.", batch.observation), ("n.", batch.next_observation)):
        given |= {prefix + name: getattr(observation, name) for name in _STATE}
        if observation.history_items is not None:
            given[prefix + "features"] = None
    return {name: values for name, values in given.items() if values is not None}


def _narrow(dtype: torch.dtype) -> torch.dtype:
    return torch.int32 if dtype == torch.int64 else dtype


def _widen(values: Tensor) -> Tensor:
    return values.to(torch.int64) if values.dtype == torch.int32 else values
