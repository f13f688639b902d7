"""What a latent model foretells of users it was not fitted to: their rows are learned as their own requests come in."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl_datasets import Log
from simulators.response import LatentResponse
from simulators.response_model import replay

F = len(BEHAVIOURS)


class FoldedUsers:
    """Users of a latent model who are known by the law of all users and by their own earlier requests.

    A user's row is normal around that of an unknown user with its features, with the precisions of the fit. After each request it is
    conditioned on what happened, head by head, by one step of Newton's method: with m the mean of the row, P its covariance, h the
    gradient of a head's log-odds x in it, p the head's probability::

        P <- P - w P h h' P / (1 + w h' P h),  w = p (1 - p)        m <- m + P h (happened - p)

    Foretold is the mean over the row's law, ``sigmoid(x / sqrt(1 + pi h' P h / 8))``. The memory of a user is m and P. This serves to judge
    a model: what lives in a world has a row of its own.

    Args:
        response: the fitted model.

    **Assumptions / when it fails**: the law of a row stays normal; one step a row is rough where single rows say much.

    **Source**: assumed-density filtering (Opper, 1998); the mean of a sigmoid as MacKay, Neural Computation 1992.
    """

    def __init__(self, response: LatentResponse) -> None:
        self.response, self.n_users = response, response.n_users
        self._size = response.dim + F
        vector, bias = response.notes.user_precision
        spread = torch.cat([torch.full((response.dim,), 1.0 / vector), torch.full((F,), 1.0 / bias)])
        # a head without factors of its own has no biases of users either
        spread[response.dim :] *= response.loadings.cpu() != 0
        self._spread = torch.diag(spread).reshape(-1).to(response.device)

    @property
    def memory_size(self) -> int:
        """Numbers of m and P."""
        return self._size + self._size**2

    def initial_memory(self, user: Tensor) -> Tensor:
        """That of users who made no request: ``(B,)`` -> ``(B, M)``.

        Their row is the one that the model gives to them where it was not fitted to theirs, else that of the unknown user.
        """
        rows, nobody = self.response.user_rows(user), self.response.user_rows(torch.full_like(user, -1))
        unseen = (rows[:, : self.response.dim] == nobody[:, : self.response.dim]).all(1, keepdim=True)
        return torch.cat([torch.where(unseen, rows, nobody)[:, : self._size], self._spread.expand(len(user), -1)], dim=1)

    def advance(self, memory: Tensor, items: Tensor, feedback: Tensor) -> Tensor:
        """Memory after a request: ``(B, M)``, ``(B, C)``, ``(B, C)`` uint8 -> ``(B, M)``."""
        mean, spread = self._split(memory)
        rows = self.response.item_rows(items)
        for c in range(items.shape[1]):
            bias, gradient = self._heads(rows[:, c])
            told = ((feedback[:, c : c + 1] >> torch.arange(F, device=feedback.device)) & 1).to(torch.float32)
            for k in range(F):
                # without a click nothing is learned of what comes after one
                heard = torch.ones_like(told[:, 0]) if k == 0 else told[:, 0]
                h = gradient[:, k]
                p = torch.sigmoid(bias[:, k] + (h * mean).sum(1))
                w, across = heard * p * (1.0 - p), torch.bmm(spread, h.unsqueeze(2)).squeeze(2)
                gain = 1.0 / (1.0 + w * (h * across).sum(1))
                spread = spread - (w * gain)[:, None, None] * across.unsqueeze(2) * across.unsqueeze(1)
                mean = mean + (heard * gain * (told[:, k] - p)).unsqueeze(1) * across
        return torch.cat([mean, spread.reshape(len(mean), -1)], dim=1)

    def request_logits(self, user: Tensor, memory: Tensor, items: Tensor) -> Tensor:
        """Log-odds of the foretold means and the watch bias: ``(B, C, 8)``."""
        mean, spread = self._split(memory)
        rows = self.response.item_rows(items)
        out = []
        for c in range(items.shape[1]):
            bias, gradient = self._heads(rows[:, c])
            doubt = (torch.bmm(gradient, spread) * gradient).sum(2)
            logits = (bias + (gradient * mean.unsqueeze(1)).sum(2)) / torch.sqrt(1.0 + math.pi / 8.0 * doubt)
            out.append(torch.cat([logits, rows[:, c, -1:]], dim=1))
        return torch.stack(out, dim=1)

    def _split(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        return memory[:, : self._size], memory[:, self._size :].view(-1, self._size, self._size)

    def _heads(self, item: Tensor) -> tuple[Tensor, Tensor]:
        """What items' rows (B, D + 8) put into the heads' log-odds (B, 7), and their gradients in a user's row (B, 7, D + 7)."""
        d = self.response.dim
        one_hot = torch.eye(F, device=item.device).expand(len(item), -1, -1)
        return item[:, d : d + F], torch.cat([self.response.loadings[:, None] * item[:, None, :d], one_hot], dim=2)


def folded_logits(response: LatentResponse, log: Log) -> Tensor:
    """Logits of logged rows, ``(n, 8)``, from the law of all users and each user's own earlier requests, as if it had never been seen."""
    users = FoldedUsers(response)
    return replay(users, log, users.initial_memory(torch.arange(log.n_users)))[0]
