"""What happens to shown items: feedback bytes and watch time, drawn from log-odds, sixteen bits a draw."""

from __future__ import annotations

import torch
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from simulators.response import WatchLaw, normal_quantiles

F = len(BEHAVIOURS)
# collects the lowest bit of each of eight bytes into the highest byte
_PACK = 0x0102040810204080
# leaves out the byte of the draw that belongs to no behaviour
_SEVEN = 0x00FF_FFFF_FFFF_FFFF


class FeedbackLaw:
    """Draws what users do with shown items.

    In memory, items come first, then users, then behaviours: what belongs to a user then meets every item in one long run, where
    runs of eight numbers would cost five times as much.

    Args:
        off_click: (7,) probability of each behaviour without a click; that of the click itself is 0.
        watch: law of watch time, or ``None``.
    """

    def __init__(self, off_click: Tensor, watch: WatchLaw | None) -> None:
        device = off_click.device
        self._off_click = torch.cat([off_click, off_click.new_zeros(1)])
        self._ones = torch.ones(1, 8, device=device)
        self._has_watch = watch is not None
        if watch is not None:
            # by the two lowest feedback bits
            self._watch_mean = torch.tensor(watch.mean, dtype=torch.float32, device=device)
            self._watch_spread = torch.tensor(watch.spread, dtype=torch.float32, device=device)
            self._quantiles = normal_quantiles().to(device)

    def chances(self, logits: Tensor, factor: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """P(click) and P(f | click), ``(K, B, 8)``, and P(f | no click), ``(B, 8)`` or ``(K, B, 8)``.

        ``factor`` (B,) multiplies all marginals, as far as the click leaves room: P(f | click) stays.
        """
        p, off = torch.sigmoid(logits), self._off_click.expand(logits.shape[1], -1)
        if factor is None:
            return p, off
        click = p[..., 0]
        changed = (click * factor).clamp_max_(1.0)
        # the marginal is P(click) P(f | click) + (1 - P(click)) off
        off = off * (factor * (1.0 - click) / (1.0 - changed).clamp_min_(1e-6)).unsqueeze(2)
        p[..., 0] = changed
        return p, off

    def marginals(self, logits: Tensor, factor: Tensor | None = None) -> Tensor:
        """Marginal probabilities of the seven behaviours, ``(B, K, 7)``, from logits ``(K, B, 8)``."""
        p, off = self.chances(logits, factor)
        click = p[..., :1].clone()
        marginal = p.sub_(off).mul_(click).add_(off)
        marginal[..., :1] = click
        return marginal.transpose(0, 1)[..., :F].contiguous()

    def draw(self, logits: Tensor, words: Tensor, factor: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Feedback bytes ``(B, K)``, behaviour rates over the slate ``(B, 7)``, watch seconds ``(B, K)``.

        **Shapes**: ``logits`` (K, B, 8): click, the others given a click, bias of log watch time; ``words`` (K, B, 2) int64 random bits.
        """
        k, b = logits.shape[:2]
        # eight 16-bit draws an item; the last one gives all of them a fraction, so that the rarest behaviour keeps its rate
        draw = words.view(torch.int16).view(k, b, 8).to(torch.float32)
        last = draw[..., 7] + 32_768.0
        fraction = last * 2.0**-16 + 32_768.0
        if draw.device.type == "cpu":
            # as a product with ones: the same bits in half the time
            draw.view(-1, 8).addmm_(fraction.view(-1, 1), self._ones)
        else:
            draw.add_(fraction.unsqueeze(2))
        draw.mul_(2.0**-16)
        p, off = self.chances(logits, factor)
        clicked = _as_words(p.gt_(draw))
        happened = _as_words(draw.lt_(off.contiguous()))
        # what would happen after a click where the lowest byte says click, else what happens without
        click = clicked & 1
        happened.add_(clicked.sub_(happened).mul_(click)).bitwise_and_(_SEVEN)
        rates = happened.sum(0).unsqueeze(1).view(torch.uint8)[:, :F].to(torch.float32) / k
        feedback = happened.mul_(_PACK).bitwise_right_shift_(56).t().to(torch.uint8, memory_format=torch.contiguous_format)
        return feedback, rates, self._watched(feedback, logits, last) if self._has_watch else None

    def _watched(self, feedback: Tensor, logits: Tensor, last: Tensor) -> Tensor:
        """Watch seconds (B, K)."""
        state = (feedback & 3).to(torch.int64).view(-1)
        mean, spread = (table.index_select(0, state).view(feedback.shape) for table in (self._watch_mean, self._watch_spread))
        normal = self._quantiles.index_select(0, (last * 2.0**-4).to(torch.int64).view(-1)).view(last.shape)
        return torch.expm1(mean.add_(logits[..., 7].t()).add_(spread.mul_(normal.t()))).clamp_min_(0.0)


def _as_words(happened: Tensor) -> Tensor:
    """Zeros and ones ``(K, B, 8)`` as one byte each of a word: ``(K, B)`` int64."""
    # to bytes with a sign, or to bool, at a fifth of what unsigned bytes cost
    return happened.to(torch.int8).view(torch.int64).squeeze(2)
