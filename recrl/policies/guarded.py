r"""Guarded exploration: step along the gradient of an optimistic value, accept by the mean value.

    mu = (Q_1 + Q_2) / 2,   sigma = |Q_1 - Q_2| / 2,   Q_UB = mu + beta sigma
    g  = grad_a Q_UB / |grad_a Q_UB|   at a_T = pi(s), a sample
    a_0 = a_T,   a_k = clip(clip(a_T + k step g) + e_k),   e_k Gaussian,   k = 1 .. candidates - 1
    a_E = argmax_k mu(s, a_k)

``k = 0`` is always a candidate and nothing is added to what is accepted, so ``mu(s, a_E) >= mu(s, a_T)`` of the action that is executed:
candidates that look good through uncertainty alone are refused, and so is jitter that leads down. Without the guard the farthest
candidate is taken, which with two of them is OAC's shift and noise.

**Source**: AURO (arXiv 2310.03984), guarded exploration; the optimistic value is that of OAC (Ciosek et al., NeurIPS 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from recrl.core.contracts import Action, ActionSpec, Observation
from recrl.core.errors import ConfigError, ContractError
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.policies.encoders import Encoder
from recrl.policies.laws import ClippedGaussian
from recrl.policies.networks import Actor, Critics, draw_ids
from recrl.policies.vector import ActorConfig, VectorPolicy

Values = Callable[[Tensor], Tensor]
"""Twin values of several actions a state: (B, n, d) -> (2, B, n)."""


@dataclass(frozen=True, eq=False)
class Guarded:
    """What the guard let through.

    **Shapes**: ``action`` (B, d); ``centre`` (B, d), the same without its jitter; ``chosen`` (B,) int64, the accepted ``k``; ``gain`` (B,),
    ``mu(a_E) - mu(a_T)``, never negative under the guard.
    """

    action: Tensor
    centre: Tensor
    chosen: Tensor
    gain: Tensor


def optimistic(values: Tensor, beta: float) -> Tensor:
    """``mu + beta sigma`` of twin values: (2, ...) -> (...)."""
    return values.mean(0) + beta * 0.5 * (values[0] - values[1]).abs()


def guarded_actions(
    action: Tensor,
    values: Values,
    *,
    beta: float = 4.66,
    step: float = 0.1,
    candidates: int = 10,
    low: float = -1.0,
    high: float = 1.0,
    guard: bool = True,
    jitter: Tensor | None = None,
) -> Guarded:
    """Explore from ``action`` (B, d) along each sample's own normalised gradient of the optimistic value.

    Args:
        action: what the actor would do.
        values: the twin critics; asked once for ``action`` and once for all candidates.
        beta: weight of the critics' disagreement in the direction.
        step: distance between candidates, in units of the action.
        candidates: how many, the actor's own action included.
        low: lower bound of every component.
        high: upper bound of every component.
        guard: accept by the mean value; otherwise the farthest candidate is taken.
        jitter: (B, candidates - 1, d), added to all candidates but the actor's own action before one of them is accepted.

    **Assumptions / when it fails**: where the gradient is 0, the action stays as it is. Nothing waits for the device.

    >>> toward = lambda actions: -((actions - 0.25) ** 2).sum(-1).expand(2, -1, -1)  # both critics agree: best at 0.25
    >>> found = guarded_actions(torch.zeros(1, 1), toward, step=0.1, candidates=6)
    >>> found.chosen.tolist(), round(float(found.action), 2)
    ([2], 0.2)
    """
    start = action.detach().unsqueeze(1)
    with torch.enable_grad():
        start = start.requires_grad_()
        bound = optimistic(values(start), beta).sum()
        (gradient,) = torch.autograd.grad(bound, start)
    with torch.no_grad():
        direction = gradient / torch.linalg.vector_norm(gradient, dim=-1, keepdim=True).clamp_min(1e-12)
        steps = torch.arange(candidates, device=action.device, dtype=action.dtype) * step
        centres = (start + steps.unsqueeze(1) * direction).clamp_(low, high)  # (B, n, d)
        reached = centres if jitter is None else torch.cat([centres[:, :1], (centres[:, 1:] + jitter).clamp_(low, high)], dim=1)
        mean = values(reached).mean(0)  # (B, n)
        best = mean.argmax(1) if guard else torch.full_like(mean[:, 0], candidates - 1, dtype=torch.int64)
        gain = mean.gather(1, best.unsqueeze(1)).squeeze(1) - mean[:, 0]
        action, centre = (of.take_along_dim(best[:, None, None], 1).squeeze(1) for of in (reached, centres))
        return Guarded(action, centre, best, gain)


@dataclass(frozen=True)
class GuardedConfig(ActorConfig):
    """An actor, and how it explores; ``exploration`` is the spread of the jitter of candidates, as a share of half the action range.

    Attributes:
        critic_hidden: hidden sizes of the twin critics.
        beta: weight of the critics' disagreement in the direction of exploration.
        step: distance between candidates, as a share of half the action range.
        candidates: how many, the actor's own action included.
        guard: accept by the mean value; otherwise the farthest candidate is taken.
    """

    critic_hidden: tuple[int, ...] = (128, 128)
    beta: float = 4.66
    step: float = 0.1
    candidates: int = 10
    guard: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1 or self.step < 0 or self.beta < 0:
            raise ConfigError(
                f"candidates={self.candidates}, step={self.step}, beta={self.beta} are out of range",
                where="guarded",
                mend="candidates >= 1, step >= 0, beta >= 0",
            )


class GuardedActor(Actor):
    """An actor that looks around before it acts: Observation (B) -> (B, d)."""

    def __init__(self, encoder: Encoder, config: GuardedConfig, spec: ActionSpec) -> None:
        super().__init__(encoder, config.hidden, spec.shape[0], spec.low, spec.high)
        self.critics = Critics(encoder.width, spec.shape[0], config.critic_hidden)
        self.config, self.low, self.high = config, spec.low, spec.high

    def head(self, state: Tensor) -> Tensor:
        """Guarded actions of encoded states (B, width); no gradient passes."""
        return self.explored(state).action

    def explored(self, state: Tensor, jitter: Tensor | None = None) -> Guarded:
        """Guarded actions of encoded states, of jittered candidates, with what the guard did."""
        state, config = state.detach(), self.config
        return guarded_actions(
            super().head(state),
            lambda actions: self.critics.each(state, actions),
            beta=config.beta,
            step=config.step * self.half_range,
            candidates=config.candidates,
            low=self.low,
            high=self.high,
            guard=config.guard,
            jitter=jitter,
        )


class GuardedPolicy(VectorPolicy):
    """A vector policy that explores by :func:`guarded_actions`, with Gaussian jitter on the candidates.

    What the guard accepts is executed as it is. A choice among jittered candidates has no density that could be written down:
    ``has_law`` is false under the guard and ``act`` tells no ``log_prob``. Without the guard it is the Gaussian around the farthest
    candidate, clipped, and exact.

    ``Action.notes`` holds ``guard_step``, the accepted ``k``, and ``guard_gain``, both (B,) float32.
    """

    kind = "guarded"
    config_type: ClassVar[type[ActorConfig]] = GuardedConfig
    config: GuardedConfig
    actor: GuardedActor

    def __init__(self, action_spec: ActionSpec, config: GuardedConfig, item_vectors: Tensor | None = None, seed: int = 0) -> None:
        super().__init__(action_spec, config, item_vectors, seed)

    @property
    def has_law(self) -> bool:
        """Whether ``log_prob`` exists."""
        return not self.config.guard and self.config.candidates > 1

    def _build_actor(self, encoder: Encoder) -> GuardedActor:
        return GuardedActor(encoder, self.config, self.action_spec)

    @classmethod
    def around(cls, policy: VectorPolicy, critics: Critics, config: GuardedConfig) -> GuardedPolicy:
        """The explorer of a learner: it shares the learner's networks, and so what they learn."""
        explorer = cls(policy.action_spec, config, policy.item_vectors)
        actor, own = explorer.actor, policy.actor
        actor.encoder, actor.body, actor.critics = own.encoder, own.body, critics
        return explorer

    @torch.no_grad()
    def act(self, observation: Observation, streams: TensorStreams, *, step: Tensor | int = 0, deterministic: bool = False) -> Action:
        """Actions and what the guard did; the draw of a user depends on its id and ``step`` alone."""
        state, others = self.actor.encoder(observation), self.config.candidates - 1
        jitter = None
        if others and not deterministic:
            shape = (others, *self.action_spec.shape)
            jitter = self.spread * streams.normal(draw_ids(observation, state.device), step, Purpose.EXPLORATION, shape)
        found = self.actor.explored(state, jitter)
        notes = {"guard_step": found.chosen.to(torch.float32), "guard_gain": found.gain}
        law = ClippedGaussian(found.centre, self.spread, self.action_spec.low, self.action_spec.high)
        return Action(found.action, law.log_prob(found.action) if self.has_law and not deterministic else None, notes)

    def log_prob(self, observation: Observation, action: Tensor) -> Tensor:
        """Log-density of ``action`` around the farthest candidate, (B,).

        **Errors**: :class:`ContractError` under the guard.
        """
        if not self.has_law:
            raise ContractError(
                "a choice among jittered candidates has no density",
                where="GuardedPolicy.log_prob",
                mend="weigh nothing by it, or set guard=False with two candidates or more",
            )
        return super().log_prob(observation, action)
