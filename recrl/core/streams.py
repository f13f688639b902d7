"""Counter-based random streams: a draw is a pure function of (seed, purpose, id, step, index).

No draw depends on other users, on batch order, on shards or on how many draws came before, so arm A and
arm B of an experiment see the same users and the same noise, and a resumed run goes on exactly.

**Construction**: SplitMix64. ``base = mix(mix(key + id * C1) + step * C2)`` opens a SplitMix64 sequence
for each (id, step); draw ``i`` is ``mix(base + (i + 1) * C2)``. :mod:`recrl.core.torch.streams` gives the same bits
on tensors.

**Source**: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

import math
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

C1 = 0xD1342543DE82EF95
C2 = 0x9E3779B97F4A7C15
M1 = 0xBF58476D1CE4E5B9
M2 = 0x94D049BB133111EB


class Purpose(IntEnum):
    """What a stream is for; one independent stream each. Numbers are part of the format: never renumber."""

    USERS = 1
    RESPONSES = 2
    LEAVING = 3
    RETURN = 4
    DRIFT = 5
    EXPLORATION = 6
    BATCHES = 7
    INITIALISATION = 8
    SPLITS = 9
    BOOTSTRAP = 10
    CANDIDATES = 11
    TEACHER = 12


def mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: a bijection of 64-bit words that scatters every input bit."""
    z = z ^ (z >> np.uint64(30))
    # z is ours from here on: no more fresh arrays than need be
    z *= np.uint64(M1)
    z ^= z >> np.uint64(27)
    z *= np.uint64(M2)
    z ^= z >> np.uint64(31)
    return z


@lru_cache(maxsize=4096)
def key_of(seed: int, purpose: int) -> int:
    """The 64-bit key of one (seed, purpose) pair."""
    word = np.array([(seed * C1 + purpose * C2) & (2**64 - 1)], dtype=np.uint64)
    return int(mix(mix(word))[0])


class Streams:
    """Random streams on NumPy arrays.

    Args:
        seed: any integer; equal seeds give equal draws for ever.

    >>> a = Streams(7).uniform([3, 5], step=2, purpose=Purpose.RETURN)
    >>> b = Streams(7).uniform([5], step=2, purpose=Purpose.RETURN)
    >>> bool(a[1] == b[0])
    True
    """

    def __init__(self, seed: int) -> None:
        self.seed = int(seed)

    def bits(self, ids: ArrayLike, step: ArrayLike, purpose: Purpose, shape: tuple[int, ...] = ()) -> NDArray[np.uint64]:
        """64 random bits for each id: ``ids`` ``(B,)`` and ``step`` scalar or ``(B,)`` -> ``(B, *shape)`` uint64."""
        base = self.bases(ids, step, purpose)
        counter = np.arange(1, math.prod(shape) + 1, dtype=np.uint64) * np.uint64(C2)
        return mix(base[:, None] + counter).reshape(base.shape[0], *shape)

    def bases(self, ids: ArrayLike, step: ArrayLike, purpose: Purpose) -> NDArray[np.uint64]:
        """Where the sequences of :meth:`bits` begin, ``(B,)`` uint64: draw ``i`` is ``mix(base + (i + 1) * C2)``."""
        # through int64, so that negative ids wrap as they do on tensors
        id_words = np.atleast_1d(np.asarray(ids, dtype=np.int64)).view(np.uint64)
        step_words = np.atleast_1d(np.asarray(step, dtype=np.int64)).view(np.uint64)
        base = mix(id_words * np.uint64(C1) + np.uint64(key_of(self.seed, purpose)))
        return mix(base + step_words * np.uint64(C2))

    def uniform(self, ids: ArrayLike, step: ArrayLike, purpose: Purpose, shape: tuple[int, ...] = ()) -> NDArray[np.float64]:
        """Uniform draws in [0, 1), 53 bits: ``(B, *shape)``."""
        return (self.bits(ids, step, purpose, shape) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, ids: ArrayLike, step: ArrayLike, purpose: Purpose, shape: tuple[int, ...] = ()) -> NDArray[np.float64]:
        """Standard normal draws by Box-Muller: ``(B, *shape)``."""
        u = self.uniform(ids, step, purpose, (*shape, 2))
        return np.sqrt(-2.0 * np.log1p(-u[..., 0])) * np.cos(2.0 * np.pi * u[..., 1])

    def integers(self, high: int, ids: ArrayLike, step: ArrayLike, purpose: Purpose, shape: tuple[int, ...] = ()) -> NDArray[np.int64]:
        """Integers in ``0..high-1`` (bias below ``high * 2**-53``): ``(B, *shape)``."""
        return np.minimum((self.uniform(ids, step, purpose, shape) * high).astype(np.int64), high - 1)

    def permutation(self, n: int, step: int, purpose: Purpose) -> NDArray[np.int64]:
        """A random order of ``0..n-1``: sorts one 64-bit draw an element."""
        return np.argsort(self.bits(np.arange(n), step, purpose)[:], kind="stable")
