r"""AURO: retention learned under drift, with a state abstraction that follows value and exploration that is guarded.

    z     = (s, phi(s))
    y     = r + g (1 - terminated) min_e Q'_e(z', pi'(z') + clip(noise))          g = discount within or across sessions
    L_Q   = sum_e mean (Q_e(z, a) - y)^2
    L_pi  = - mean Q_1(z, pi(z))      [+ mean_d (pi(z) - a)^2, with the value scaled as in TD3+BC, where ``cloning_alpha`` > 0]
    L_phi = J / B^2 over quartiles of V(s) = mean_e Q'_e(z', pi'(z'))  at s'=s     (:mod:`recrl.algorithms.abstraction`)

Collection explores along the gradient of ``Q_UB = mu + beta sigma`` and executes the jittered candidate of the highest mean value, or the
actor's own action (:mod:`recrl.policies.guarded`); the deployed policy is ``pi(z)``.
``Signal(discount_within=1, discount_across=gamma)`` is RLUR's rule of discounting, which AURO shares.

``phi`` is trained by ``L_phi`` and, as a part of the state, by ``L_Q``; ``L_pi`` stops at ``z``. The state below ``phi`` is trained by
``L_Q`` alone, where its encoder has parameters.

**Differences from the paper and its code**: in ``docs/algorithms/auro.md``; the code's own rules are in
:mod:`recrl.algorithms.parity.auro`.

**Metrics**: those of TD3; ``abstraction_loss``, ``abstraction_spread`` (variance of phi over the batch), ``abstraction_between`` (that of
the centroids); ``guard_step`` (mean accepted k), ``guard_kept`` (share of k = 0), ``guard_far`` (share of the farthest candidate),
``guard_gain`` (mean rise of the mean value) of what was collected last; with cloning ``bc_error`` and ``lambda``.

**Source**: AURO, "Adaptive User Retention Optimization", WWW 2025 (arXiv 2310.03984).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from recrl.algorithms.abstraction import Abstraction, AbstractionConfig, abstraction_loss, cluster_bins, value_bins
from recrl.algorithms.task import Task
from recrl.algorithms.td3 import TD3, TD3Config
from recrl.core.contracts import Observation, Transitions, Update
from recrl.core.errors import ConfigError
from recrl.policies.abstraction import AbstractedEncoder
from recrl.policies.guarded import Guarded, GuardedConfig, GuardedPolicy, guarded_actions
from recrl.policies.vector import ActorConfig, VectorPolicy

__all__ = ["AURO", "AUROConfig", "ExplorationConfig", "Guarded", "abstraction_loss", "guard_metrics", "guarded_actions", "value_bins"]


@dataclass(frozen=True)
class ExplorationConfig:
    """How a learner looks around the actor's action.

    Attributes:
        beta: weight of the critics' disagreement in the direction.
        step: distance between candidates, as a share of half the action range.
        candidates: how many, the actor's own action included; 1 leaves the Gaussian of ``actor.exploration`` alone.
        guard: accept by the mean value; otherwise the farthest candidate is taken.
        jitter: spread of the Gaussian on every candidate but the actor's own, before one is accepted, as a share of half the action range.
    """

    beta: float = 4.66
    step: float = 0.05
    candidates: int = 10
    guard: bool = True
    jitter: float = 0.01

    def around(self, actor: ActorConfig, critic_hidden: tuple[int, ...]) -> GuardedConfig:
        """The configuration of the exploring policy."""
        own = {"beta": self.beta, "step": self.step, "candidates": self.candidates, "guard": self.guard}
        return GuardedConfig(actor.encoder, actor.hidden, self.jitter, critic_hidden, **own)  # type: ignore[arg-type]


@dataclass(frozen=True)
class AUROConfig(TD3Config):
    """Options of TD3, and those of AURO.

    Attributes:
        abstraction: ``phi`` and its loss.
        groups: what the groups of that loss are cut by: the ``value`` of a state, or ``clusters`` (k-means) of the states themselves.
        explore: how transitions are collected.
        cloning_alpha: TD3+BC's weight of the value against imitation, for learning from logs; 0 leaves imitation out.
    """

    abstraction: AbstractionConfig = AbstractionConfig()
    groups: Literal["value", "clusters"] = "value"
    explore: ExplorationConfig = ExplorationConfig()
    cloning_alpha: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.explore.around(self.actor, self.critic_hidden)
        if self.cloning_alpha < 0:
            raise ConfigError(f"cloning_alpha={self.cloning_alpha} is negative", where="auro.cloning_alpha", mend="cloning_alpha >= 0")


def with_abstraction(actor: ActorConfig, abstraction: AbstractionConfig) -> ActorConfig:
    """The actor whose encoder has this abstraction beside its state."""
    return replace(actor, encoder=replace(actor.encoder, abstraction=abstraction.size, abstraction_hidden=abstraction.hidden))


def guard_metrics(transitions: Transitions, candidates: int) -> dict[str, Tensor]:
    """What the guard did in collected transitions; nothing where none was at work."""
    if "guard_step" not in transitions.notes:
        return {}
    chosen = transitions.notes["guard_step"]
    shares = {"guard_kept": (chosen == 0).float().mean(), "guard_far": (chosen == candidates - 1).float().mean()}
    return {"guard_step": chosen.mean(), **shares, "guard_gain": transitions.notes["guard_gain"].mean()}


class AURO(TD3):
    """AURO for vector actions: embeddings, fusion weights, continuous controls."""

    name: ClassVar[str] = "auro"
    config_type: ClassVar[type[AUROConfig]] = AUROConfig
    config: AUROConfig

    def __init__(self, config: AUROConfig, task: Task, seed: int = 0) -> None:
        super().__init__(replace(config, actor=with_abstraction(config.actor, config.abstraction)), task, seed)
        self._abstraction: Abstraction | None = None
        if isinstance(self._encoder, AbstractedEncoder) and config.abstraction.loss != "none":
            self._abstraction = Abstraction(self._encoder, config.abstraction)
        self._abstraction_metrics: dict[str, Tensor] = {}
        self._explorer = GuardedPolicy.around(self._policy, self._critics, config.explore.around(self.config.actor, config.critic_hidden))
        self._guard_metrics: dict[str, Tensor] = {}

    def collect_policy(self) -> VectorPolicy:
        """The current actor, guarded; with one candidate, the actor with its Gaussian."""
        return self._explorer if self.config.explore.candidates > 1 else self._policy

    @torch.no_grad()
    def rise(self, observation: Observation, action: Tensor) -> Tensor:
        """By how much the critics' mean value of actions (B, d) is above that of the actor's own, (B,)."""
        actor = self._policy.actor
        z = actor.encoder(observation)
        return (self._critics(z, action) - self._critics(z, actor.head(z))).mean(0)

    def observe(self, transitions: Transitions) -> None:
        """Note what the guard did."""
        self._guard_metrics = guard_metrics(transitions, self.config.explore.candidates)

    def update(self, batch: Transitions) -> Update:
        """A step of TD3; every ``abstraction.every``-th call one of the abstraction."""
        update = super().update(batch)
        if self._abstraction is not None and (self._step - 1) % self.config.abstraction.every == 0:
            self._abstraction_metrics = self._update_abstraction(self._abstraction, batch)
        return Update({**update.metrics, **self._abstraction_metrics, **self._guard_metrics})

    @torch.no_grad()
    def values(self, observation: Observation) -> Tensor:
        """Values of states, (B,): the mean of the target critics at the target actor's action."""
        actor = self._target_policy.actor
        z = actor.encoder(observation)
        return self._target_critics(z, actor.head(z)).mean(0)

    def _update_abstraction(self, abstraction: Abstraction, batch: Transitions) -> dict[str, Tensor]:
        with torch.no_grad():
            state, value = abstraction.encoder.base(batch.observation), self.values(batch.observation)
        clusters = cluster_bins(state, self.config.abstraction.bins) if self.config.groups == "clusters" else None
        return abstraction.learn(state, value, clusters)

    def _actor_loss(self, value: Tensor, action: Tensor, logged_action: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        alpha = self.config.cloning_alpha
        if not alpha:
            return super()._actor_loss(value, action, logged_action)
        scale = alpha / value.detach().abs().mean().clamp_min(1e-6)
        imitation = ((action - logged_action) ** 2).mean()
        return -scale * value.mean() + imitation, {"bc_error": imitation.detach(), "lambda": scale}

    def state_dict(self) -> dict[str, Any]:
        """That of TD3, and the abstraction's."""
        own = {} if self._abstraction is None else {"abstraction": self._abstraction.state_dict()}
        return {**super().state_dict(), **own, "abstraction_metrics": self._abstraction_metrics}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        super().load_state_dict(state)
        if self._abstraction is not None:
            self._abstraction.load_state_dict(state["abstraction"])
        self._abstraction_metrics = {name: value.to(self._streams.device) for name, value in state["abstraction_metrics"].items()}
