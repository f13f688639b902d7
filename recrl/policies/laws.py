r"""Exact laws of bounded action vectors: a Gaussian clipped to the bounds, and one squashed into them.

Both are products over the components of an action ``a`` in ``[low, high]^d``; ``phi`` and ``Phi`` are the standard normal density and
distribution function.

- Clipped: ``a = clip(mean + spread e)``, ``e`` standard normal. Inside, the density is ``phi((a - mean) / spread) / spread``; at a bound it
  is a probability, ``Phi((low - mean) / spread)`` or ``Phi((mean - high) / spread)``. The measure is length inside plus one point mass at
  each bound, the same for every clipped law, so ratios of two of them are exact importance weights.
- Squashed: ``a = centre + half tanh(u)``, ``u = mean + spread e``. The density is ``phi((u - mean) / spread)`` over
  ``spread half (1 - tanh(u)^2)``.

**Source**: censored regression, Tobin, Econometrica 1958; squashed Gaussian, Haarnoja et al., ICML 2018, appendix C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_LOG_ROOT_2PI = 0.5 * math.log(2.0 * math.pi)
SATURATED = 1e-6
"""A squashed action is read no nearer to its bounds than this share of half the range: beyond it float32 cannot tell ``u`` any more."""


@dataclass(frozen=True, eq=False)
class ClippedGaussian:
    """A Gaussian whose draws are clipped to the bounds.

    **Shapes**: ``mean`` (B, d); ``spread`` a number or (B, d).

    >>> law = ClippedGaussian(torch.zeros(1, 1), 1.0, low=-1.0, high=1.0)
    >>> tuple(round(float(law.log_prob(torch.full((1, 1), a)).exp()), 3) for a in (0.0, 1.0, 2.0))
    (0.399, 0.159, 0.0)
    """

    mean: Tensor
    spread: Tensor | float
    low: float
    high: float

    def draw(self, noise: Tensor) -> Tensor:
        """Actions of standard normal ``noise`` (B, d)."""
        return (self.mean + self.spread * noise).clamp(self.low, self.high)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density, with log-probabilities at the bounds, of ``action`` (B, d): (B,); minus infinity outside the bounds."""
        spread = torch.zeros_like(self.mean) + self.spread
        z = (action - self.mean) / spread
        inside = -0.5 * z * z - spread.log() - _LOG_ROOT_2PI
        tail = _log_normal_cdf(torch.where(action <= self.low, z, -z))
        at_bound = (action <= self.low) | (action >= self.high)
        return _sum(torch.where(at_bound, tail, inside), action, self.low, self.high)


@dataclass(frozen=True, eq=False)
class SquashedGaussian:
    """A Gaussian in an unbounded space, squashed into the bounds by tanh.

    **Shapes**: ``mean`` and ``log_spread`` (B, d), both before squashing.
    """

    mean: Tensor
    log_spread: Tensor
    low: float
    high: float

    @property
    def centre(self) -> Tensor:
        """The squashed mean, (B, d): the median of each component."""
        return self._squash(self.mean)

    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions of standard normal ``noise`` (B, d) and their log-densities, (B, d) and (B,); gradients reach mean and spread.

        ``log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u))`` holds its digits for every ``u``.
        """
        u = self.mean + self.log_spread.exp() * noise
        squeeze = 2.0 * (math.log(2.0) - u - torch.nn.functional.softplus(-2.0 * u))
        return self._squash(u), (self._normal(noise) - squeeze).sum(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density of ``action`` (B, d): (B,); minus infinity outside the bounds."""
        y = (action - (self.high + self.low) / 2.0) / ((self.high - self.low) / 2.0)
        y = y.clamp(SATURATED - 1.0, 1.0 - SATURATED)
        z = (torch.atanh(y) - self.mean) * (-self.log_spread).exp()
        return _sum(self._normal(z) - torch.log1p(y) - torch.log1p(-y), action, self.low, self.high)

    def _normal(self, z: Tensor) -> Tensor:
        # the log-density of u, less the logarithm of half the range
        return -0.5 * z * z - self.log_spread - _LOG_ROOT_2PI - math.log((self.high - self.low) / 2.0)

    def _squash(self, u: Tensor) -> Tensor:
        action = (self.high + self.low) / 2.0 + (self.high - self.low) / 2.0 * torch.tanh(u)
        return action.clamp(self.low, self.high)


def _log_normal_cdf(z: Tensor) -> Tensor:
    """``log Phi(z)``. Far below zero torch's own loses the digits of its gradient in float32; the scaled complement keeps them."""
    below = z.clamp_max(0.0)
    far = -0.5 * below * below + torch.log(0.5 * torch.special.erfcx(below * -math.sqrt(0.5)))
    return torch.where(z < 0.0, far, torch.special.log_ndtr(z.clamp_min(0.0)))


def _sum(each: Tensor, action: Tensor, low: float, high: float) -> Tensor:
    possible = ((action >= low) & (action <= high)).all(-1)
    return torch.where(possible, each.sum(-1), -torch.inf)
