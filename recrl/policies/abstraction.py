"""A state and what is abstracted from it, side by side: ``z = (s, phi(s))``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recrl.core.contracts import Observation


class AbstractedEncoder(nn.Module):
    """An encoder with an abstraction of its state beside it.

    ``phi`` is linear, ReLU, norm in every hidden layer, linear and tanh at the end, so that its distances are bounded by ``2 sqrt(size)``
    and losses that push abstractions apart come to an end.

    Args:
        base: encoder of the state, Observation (B) -> (B, ``base_width``).
        base_width: width of that state.
        size: width of the abstraction.
        hidden: hidden sizes of ``phi``.

    **Shapes**: Observation (B) -> (B, base_width + size).

    **Source**: AURO (arXiv 2310.03984), section on state abstraction; there without the tanh, and with dropout.
    """

    def __init__(self, base: nn.Module, base_width: int, size: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.base, self.base_width, self.width = base, base_width, base_width + size
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise([base_width, *hidden]):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU(inplace=True), nn.LayerNorm(fan_out)]
        self.layers = nn.Sequential(*layers, nn.Linear([base_width, *hidden][-1], size), nn.Tanh())

    def forward(self, observation: Observation) -> Tensor:
        """Encode a batch."""
        state = self.base(observation)
        return torch.cat([state, self.phi(state)], dim=1)

    def phi(self, state: Tensor) -> Tensor:
        """The abstraction of states: (B, base_width) -> (B, size), in [-1, 1]."""
        out: Tensor = self.layers(state)
        return out
