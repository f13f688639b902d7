r"""Quirks of the authors' TSCAC code (AIDefender/TSCAC, commit 9d8ef5f), as functions, to compare with; nothing else here uses them.

Its KuaiRand path holds columns of shape (B, 1) beside vectors of shape (B,), and broadcasting makes matrices of them:

- the distance to the logged action becomes ``mean_i (mu_i - mean a)^2 + Var(a)``: a pull of every action to the batch's mean action;
- the temporal-difference target becomes ``r + g mean(not done) Q'``: no row is terminal, the discount shrinks for all;
- the reward weights of Wide&Deep and DeepFM become their mean.

The gate of stage two is a Gaussian density, at most ``1 / (sigma sqrt(2 pi))``, clipped to [0, 1]; watch time is cut to whole units of ten
seconds; policies of one number (the item's rank by popularity) are compared by a Gaussian of spread 25 around it.

**Source**: reading of that code; Cai et al., WWW 2023 (arXiv 2302.01680).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def broadcast_imitation(action: Tensor, logged: Tensor) -> Tensor:
    """The imitation loss of actions (B,) as a (B, 1) column against logged ones (B,): a number."""
    return ((action.unsqueeze(1) - logged.unsqueeze(0)) ** 2).mean()


def broadcast_target(reward: Tensor, discount: float, not_done: Tensor, following: Tensor) -> Tensor:
    """The target that a (B, B) matrix of targets amounts to, (B,)."""
    return reward + discount * not_done.to(reward.dtype).mean() * following


def density_gate(action: Tensor, auxiliary: Tensor, spread: float) -> Tensor:
    """``clip(N(action; auxiliary, spread), 0, 1)``, without gradient, of one-number actions (B,)."""
    z = (action - auxiliary).detach() / spread
    return (torch.exp(-0.5 * z * z) / (spread * math.sqrt(2.0 * math.pi))).clamp(0.0, 1.0)


def whole_units(watch_seconds: Tensor, unit: float = 10.0) -> Tensor:
    """Watch time as the reference stores it: whole units of ten seconds."""
    return torch.floor(watch_seconds / unit)


def surrogate_log_probs(logged: Tensor, chosen: Tensor, spread: float = 25.0) -> Tensor:
    """Log-density (B,) of logged item ranks under a policy that names the rank ``chosen``, as the published evaluation takes it."""
    return -0.5 * ((logged - chosen) / spread) ** 2 - math.log(spread * math.sqrt(2.0 * math.pi))
