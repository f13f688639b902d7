"""A queue of rows: columns that grow at one end and are dropped at the other, each row under a number that it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Rows:
    """Rows ``first .. first + size`` of named columns, in a ring that grows by half when it is full.

    A column that some batches lack is NaN (0 for integers and flags) there.

    Args:
        device: where the columns live.
        narrow: keep 64-bit integers in 32 bits; :meth:`take` widens them.
    """

    def __init__(self, device: torch.device, narrow: bool = True) -> None:
        self.device, self.first, self.size = device, 0, 0
        self._room, self._narrow = 0, narrow
        self._columns: dict[str, Tensor] = {}

    def numbers(self) -> NDArray[np.int64]:
        """Numbers of the rows that are held, oldest first."""
        return np.arange(self.first, self.first + self.size)

    def row_bytes(self) -> int:
        """Bytes that one row takes."""
        return sum(c[0].numel() * c.element_size() for c in self._columns.values())

    def nbytes(self) -> int:
        """Bytes that the ring takes, free room included."""
        return self._room * self.row_bytes()

    def append(self, rows: Mapping[str, Tensor], count: int) -> int:
        """Append ``count`` rows; returns the number of the first of them."""
        if self.size + count > self._room:
            self._grow(max(self._room * 3 // 2, self.size + count))
        for name in rows.keys() - self._columns.keys():
            self._columns[name] = self._unknown(rows[name])
        number = self.first + self.size
        at = self._places(torch.arange(number, number + count, device=self.device))
        for name, column in self._columns.items():
            if name in rows:
                column[at] = rows[name].to(self.device, column.dtype)
            else:
                column[at] = torch.nan if column.is_floating_point() else 0
        self.size += count
        return number

    def take(self, numbers: Tensor) -> dict[str, Tensor]:
        """Rows by their numbers (...), as columns (..., *shape)."""
        at = self._places(numbers)
        return {name: _widen(column[at]) for name, column in self._columns.items()}

    def drop(self, until: int) -> None:
        """Forget the rows before number ``until``."""
        self.size -= until - self.first
        self.first = until

    def _places(self, numbers: Tensor) -> Tensor:
        return numbers % max(1, self._room)

    def _unknown(self, like: Tensor) -> Tensor:
        dtype = torch.int32 if self._narrow and like.dtype == torch.int64 else like.dtype
        unknown = float("nan") if dtype.is_floating_point else 0
        return torch.full((self._room, *like.shape[1:]), unknown, dtype=dtype, device=self.device)

    def _grow(self, room: int) -> None:
        numbers = torch.from_numpy(self.numbers()).to(self.device)
        held = {name: column[self._places(numbers)] for name, column in self._columns.items()}
        self._room = room
        for name, values in held.items():
            self._columns[name] = torch.zeros(room, *values.shape[1:], dtype=values.dtype, device=self.device)
            self._columns[name][self._places(numbers)] = values

    def state_dict(self) -> dict[str, Any]:
        """The rows that are held, and their numbers."""
        at = self._places(torch.from_numpy(self.numbers()).to(self.device))
        return {"first": self.first, "size": self.size, "columns": {name: column[at] for name, column in self._columns.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.first, self.size, self._room = int(state["first"]), 0, 0
        self._columns = {}
        rows = {name: column.to(self.device) for name, column in state["columns"].items()}
        self.append(rows, int(state["size"]))


def _widen(values: Tensor) -> Tensor:
    return values.to(torch.int64) if values.dtype == torch.int32 else values
