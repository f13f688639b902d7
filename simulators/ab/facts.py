"""What an experiment is told of items and users beside the world: for guardrails, exposure and segments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recrl.core.errors import ConfigError

_BINS = 4


@dataclass(frozen=True, eq=False)
class Groups:
    """A partition of items or users.

    **Shapes**: ``codes`` (n,) int64 positions in ``names``, -1 for none.
    """

    codes: NDArray[np.int64]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        low, high = (int(f(self.codes)) if self.codes.size else 0 for f in (np.min, np.max))
        if low < -1 or high >= max(len(self.names), 1):
            raise ConfigError(
                f"codes run from {low} to {high} for {len(self.names)} names", where="Groups.codes", mend="give positions in names, or -1"
            )

    @classmethod
    def of(cls, values: ArrayLike, most: int = 12) -> Groups:
        """Groups of a feature: its values, the rarest together as ``other``; a number with more values than ``most`` by its quartiles.

        >>> Groups.of(["b", "a", "b"]).names
        ('a', 'b')
        """
        given = np.asarray(values)
        if given.dtype.kind in "fiub" and len(np.unique(given)) > most:
            known = np.isfinite(given.astype(np.float64))
            edges = np.unique(np.quantile(given[known], np.linspace(0, 1, _BINS + 1))[1:-1])
            codes = np.where(known, np.searchsorted(edges, given, side="right"), -1)
            bounds = ["", *(f"{edge:g}" for edge in edges), ""]
            names = tuple(f"{low or '..'} to {high or '..'}" for low, high in pairwise(bounds))
            return cls(codes.astype(np.int64), names)
        labels = np.array(["none" if value is None else str(value) for value in given.tolist()])
        found, counts = np.unique(labels, return_counts=True)
        if len(found) > most:
            kept = found[np.argsort(-counts, kind="stable")[: most - 1]]
            labels = np.where(np.isin(labels, kept), labels, "other")
        found, codes = np.unique(labels, return_inverse=True)
        return cls(codes.astype(np.int64), tuple(str(name) for name in found))


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known beside the world; what is absent is not reported.

    Attributes:
        exposures: (n_items,) how often the log showed each item: novelty.
        vectors: (n_items, d) what makes items alike: slate diversity.
        providers: who made each item, or its category: exposure by group.
        segments: partitions of the catalogue's users by name, such as an activity group.
    """

    exposures: NDArray[np.int64] | None = None
    vectors: NDArray[np.float32] | None = None
    providers: Groups | None = None
    segments: Mapping[str, Groups] = field(default_factory=dict)

    def novelty_bits(self) -> NDArray[np.float64] | None:
        """``-log2`` of each item's share of the log, one more showing for every item, ``(n_items,)``."""
        if self.exposures is None:
            return None
        count = self.exposures + 1.0
        return np.asarray(-np.log2(count / count.sum()))

    def directions(self) -> NDArray[np.float32] | None:
        """Item vectors of length one, ``(n_items, d)``; items without a vector keep none."""
        if self.vectors is None:
            return None
        length = np.linalg.norm(self.vectors, axis=1, keepdims=True)
        return np.asarray(self.vectors / np.maximum(length, 1e-12), dtype=np.float32)
