"""Counter-based random streams on tensors; bit for bit those of :mod:`recrl.core.streams`, on CPU and CUDA.

torch has no 64-bit unsigned arithmetic, so words are int64 (wrap-around multiplication and addition are
the same bits) and the logical shift is an arithmetic one with the sign bits masked off.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recrl.core.streams import C1, C2, M1, M2, Purpose, key_of


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


_C1, _C2, _M1, _M2 = _signed(C1), _signed(C2), _signed(M1), _signed(M2)


def _shift(z: Tensor, k: int) -> Tensor:
    return (z >> k) & ((1 << (64 - k)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _M1
    z = (z ^ _shift(z, 27)) * _M2
    return z ^ _shift(z, 31)


class TensorStreams:
    """Random streams on tensors of one device.

    Args:
        seed: any integer; the same seed gives the same bits as :class:`recrl.core.streams.Streams`.
        device: where draws are made; no call moves data to the host.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.seed = int(seed)
        self.device = torch.device(device)
        self._keys = {purpose: _signed(key_of(self.seed, purpose)) for purpose in Purpose}
        self._counters: dict[int, Tensor] = {}

    def bits(self, ids: Tensor, step: Tensor | int, purpose: Purpose, shape: tuple[int, ...] = ()) -> Tensor:
        """64 random bits for each id: ``ids`` ``(B,)``, ``step`` scalar or ``(B,)`` -> ``(B, *shape)`` int64."""
        base = _mix(ids.to(torch.int64) * _C1 + self._keys[purpose])
        offset = step.to(torch.int64) * _C2 if isinstance(step, Tensor) else _signed((int(step) * C2) & (2**64 - 1))
        base = _mix(base + offset)
        count = math.prod(shape)
        counter = self._counters.get(count)
        if counter is None:
            counter = torch.arange(1, count + 1, dtype=torch.int64, device=self.device) * _C2
            self._counters[count] = counter
        return _mix(base.unsqueeze(-1) + counter).reshape(base.shape[0], *shape)

    def uniform(
        self,
        ids: Tensor,
        step: Tensor | int,
        purpose: Purpose,
        shape: tuple[int, ...] = (),
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Uniform draws in [0, 1): 24 bits in float32, 53 bits in float64; ``(B, *shape)``."""
        keep = 53 if dtype == torch.float64 else 24
        return _shift(self.bits(ids, step, purpose, shape), 64 - keep).to(dtype) * 2.0**-keep

    def normal(
        self,
        ids: Tensor,
        step: Tensor | int,
        purpose: Purpose,
        shape: tuple[int, ...] = (),
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Standard normal draws by Box-Muller: ``(B, *shape)``."""
        u = self.uniform(ids, step, purpose, (*shape, 2), dtype)
        return torch.sqrt(-2.0 * torch.log1p(-u[..., 0])) * torch.cos(2.0 * math.pi * u[..., 1])

    def gumbel(self, ids: Tensor, step: Tensor | int, purpose: Purpose, shape: tuple[int, ...] = ()) -> Tensor:
        """Standard Gumbel draws (float32): the top ``k`` of ``logits + gumbel`` is a Plackett-Luce sample."""
        u = self.uniform(ids, step, purpose, shape, torch.float64)
        return (-torch.log(-torch.log(u.clamp_min(2.0**-54)))).to(torch.float32)

    def integers(self, high: int, ids: Tensor, step: Tensor | int, purpose: Purpose, shape: tuple[int, ...] = ()) -> Tensor:
        """Integers in ``0..high-1``: ``(B, *shape)`` int64."""
        return (self.uniform(ids, step, purpose, shape, torch.float64) * high).to(torch.int64).clamp_max(high - 1)
