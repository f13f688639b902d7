"""Tensor views of NumPy arrays, Observations and Transitions; no copy on CPU where the memory allows it."""

from __future__ import annotations

import warnings
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.core.contracts import Observation, Transitions


def as_tensor(array: NDArray[Any] | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """A tensor over the same memory on CPU, a copy on another device. Read-only arrays (memory maps, Arrow) share too.

    The caller must not write into a view of a read-only array.
    """
    if isinstance(array, Tensor):
        return array.to(device)
    if not array.flags.writeable:
        # torch has no read-only tensors and warns; the docstring hands the duty to the caller
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return torch.from_numpy(array).to(device)
    return torch.from_numpy(array).to(device)


def observation_to(observation: Observation, device: torch.device | str = "cpu") -> Observation:
    """Every array of an Observation as a tensor on ``device``."""
    return observation.map(lambda array: as_tensor(array, device))


def transitions_to(batch: Transitions, device: torch.device | str = "cpu") -> Transitions:
    """Every array of Transitions as a tensor on ``device``."""
    changed: dict[str, Any] = {}
    for f in fields(batch):
        value = getattr(batch, f.name)
        if isinstance(value, Observation):
            changed[f.name] = observation_to(value, device)
        elif isinstance(value, np.ndarray | Tensor):
            changed[f.name] = as_tensor(value, device)
    changed["notes"] = {name: as_tensor(value, device) for name, value in batch.notes.items()}
    return replace(batch, **changed)
