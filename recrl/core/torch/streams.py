"""Counter-based random streams on tensors; bit for bit those of :mod:`recrl.core.streams`, on CPU and CUDA.

On the CPU the words come from NumPy, which mixes them two to four times as fast as torch; both see the same memory. Elsewhere torch
mixes them: it has no 64-bit unsigned arithmetic, so words are int64 (wrap-around multiplication and addition are the same bits) and
the logical shift is an arithmetic one with the sign bits masked off.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from recrl.core.streams import C1, C2, M1, M2, Purpose, Streams, key_of, mix


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


_C1, _C2, _M1, _M2 = _signed(C1), _signed(C2), _signed(M1), _signed(M2)


def _shift(z: Tensor, k: int) -> Tensor:
    return (z >> k).bitwise_and_((1 << (64 - k)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)).mul_(_M1)
    z.bitwise_xor_(_shift(z, 27)).mul_(_M2)
    return z.bitwise_xor_(_shift(z, 31))


class TensorStreams:
    """Random streams on tensors of one device.

    Args:
        seed: any integer; the same seed gives the same bits as :class:`recrl.core.streams.Streams`.
        device: where draws are made; no call moves data to the host.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.seed = int(seed)
        self.device = torch.device(device)
        self._host = Streams(self.seed) if self.device.type == "cpu" else None
        self._counters: dict[int, Tensor] = {}

    def bits(self, ids: Tensor, step: Tensor | int, purpose: Purpose, shape: tuple[int, ...] = ()) -> Tensor:
        """64 random bits for each id: ``ids`` ``(B,)``, ``step`` scalar or ``(B,)`` -> ``(B, *shape)`` int64."""
        return self._top_bits(64, ids, step, purpose, shape)

    def _top_bits(self, keep: int, ids: Tensor, step: Tensor | int, purpose: Purpose, shape: tuple[int, ...]) -> Tensor:
        """The highest ``keep`` of 64 random bits."""
        if self._host is not None:
            drawn = self._host.bits(ids.numpy(), step.numpy() if isinstance(step, Tensor) else step, purpose, shape)
            drawn >>= np.uint64(64 - keep)
            if drawn.size == 0:
                # NumPy gives an array without rows strides of 0, which torch will not view as another type
                return torch.empty(drawn.shape, dtype=torch.int64)
            return torch.from_numpy(drawn.view(np.int64))
        base = self._bases(ids, step, purpose)
        words = _mix(base.unsqueeze(-1) + self._counter(math.prod(shape))).reshape(base.shape[0], *shape)
        return words if keep == 64 else _shift(words, 64 - keep)

    def _bases(self, ids: Tensor, step: Tensor | int, purpose: Purpose) -> Tensor:
        base = _mix(ids.to(torch.int64) * _C1 + _signed(key_of(self.seed, purpose)))
        offset = step.to(torch.int64) * _C2 if isinstance(step, Tensor) else _signed((int(step) * C2) & (2**64 - 1))
        return _mix(base + offset)

    def _counter(self, count: int) -> Tensor:
        counter = self._counters.get(count)
        if counter is None:
            counter = torch.arange(1, count + 1, dtype=torch.int64, device=self.device) * _C2
            self._counters[count] = counter
        return counter

    def planes(self, ids: Tensor, step: Tensor | int, purpose: Purpose, shape: tuple[int, int]) -> Tensor:
        """The words of :meth:`bits` with the first axis of ``shape`` (K, M) in front: ``(K, B, M)`` int64, in long runs."""
        k, m = shape
        if self._host is None:
            base = self._bases(ids, step, purpose).unsqueeze(1)
            return _mix((base + self._counter(k * m)[:m]).reshape(1, -1) + (self._counter(k * m) - _C2)[::m].unsqueeze(1)).view(k, -1, m)
        host = self._host.bases(ids.numpy(), step.numpy() if isinstance(step, Tensor) else step, purpose)
        counter = np.arange(k * m, dtype=np.uint64) * np.uint64(C2)
        words = (host[:, None] + (counter[:m] + np.uint64(C2))).reshape(1, -1) + counter[::m, None]
        return torch.from_numpy(mix(words).view(np.int64).reshape(k, len(host), m))

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
        return self._top_bits(keep, ids, step, purpose, shape).to(dtype).mul_(2.0**-keep)

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
        radius = torch.log1p(-u[..., 0]).mul_(-2.0).sqrt_()
        return radius.mul_((u[..., 1] * (2.0 * math.pi)).cos_())

    def gumbel(self, ids: Tensor, step: Tensor | int, purpose: Purpose, shape: tuple[int, ...] = ()) -> Tensor:
        """Standard Gumbel draws (float32): the top ``k`` of ``logits + gumbel`` is a Plackett-Luce sample."""
        u = self.uniform(ids, step, purpose, shape, torch.float64)
        return (-torch.log(-torch.log(u.clamp_min(2.0**-54)))).to(torch.float32)

    def integers(self, high: int, ids: Tensor, step: Tensor | int, purpose: Purpose, shape: tuple[int, ...] = ()) -> Tensor:
        """Integers in ``0..high-1``: ``(B, *shape)`` int64."""
        return self.uniform(ids, step, purpose, shape, torch.float64).mul_(high).to(torch.int64).clamp_max_(high - 1)


class Ahead:
    """Draws of coming steps, made for many steps at a time: the draw of a step is a function of the seed and the step alone.

    A small draw costs what its forty operations cost to start; together with its neighbours it costs a tenth.

    Args:
        draw: step numbers (n,) int64 -> (n, ...), a row a step.
        device: where the steps live.
        steps: how many at a time; draws do not depend on it.
    """

    STEPS = 64

    def __init__(self, draw: Callable[[Tensor], Tensor], device: torch.device, steps: int = STEPS) -> None:
        self._draw, self._device, self._steps = draw, device, steps
        self._block, self._rows = -1, torch.empty(0)

    def __call__(self, step: int) -> Tensor:
        """The draw of ``step`` >= 0; a view that the next steps do not overwrite."""
        block, row = divmod(step, self._steps)
        if block != self._block:
            first = block * self._steps
            self._rows, self._block = self._draw(torch.arange(first, first + self._steps, device=self._device)), block
        return self._rows[row]
