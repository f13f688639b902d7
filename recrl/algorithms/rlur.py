r"""RLUR: retention by two critics, one for returning and one for what happens at once.

    y_T  = r   + g_T (1 - terminated) min_e Q_T,e'(s', a')           r: the main signal, minus days away; g_T: 1 within a session, gamma
    across y_I  = r_I + b(s') + g_I (1 - terminated) min_e Q_I,e'(s', a')   r_I: weighted sum of the objective's other signals; b: novelty
    (RND) L_Q  = sum_e mean (Q_T,e - y_T)^2 + sum_e mean (Q_I,e - y_I)^2 L_pi = - mean w (retention_weight Q_T,1 + immediate_weight
    Q_I,1)(s, pi(s)),      w = min(exp(max(lambda log(pi/b), 0)), clip)

``a' = pi'(s') + clip(noise)``. The objective's main signal is the retention reward: ``Signal("return", discount_within=1,
discount_across=0.95)`` is the published rule. Its constraints name the immediate responses, each by weight and direction (a harm counts
against); bounds are not enforced. ``g_I`` is the discount of the first of them, ``immediate_discount`` where there are none and novelty
alone is left.

**Differences from the paper**: the actor is TD3's, a Gaussian of fixed spread around a deterministic output; returns are not divided by
what a classifier expects of the user (uncertainty); one actor serves users of high and of low activity (their activity is in the state).
``w`` takes the logged action's ratio, and is 1 for all by default.

**Metrics**: those of TD3, ``q_mean`` being that of retention; ``immediate_mean`` and ``immediate_target``, the same of the immediate
critic; ``rnd_error``, ``importance``.

**Source**: Cai et al., "Reinforcing User Retention in a Billion Scale Short Video Recommender System", WWW 2023 (arXiv 2302.01724).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from recrl.algorithms.adam import Adam
from recrl.algorithms.rnd import RND, RNDConfig
from recrl.algorithms.task import Task
from recrl.algorithms.td3 import TD3, TD3Config
from recrl.core.contracts import Transitions, Update
from recrl.core.errors import ConfigError
from recrl.core.objective import Signal
from recrl.core.torch.streams import Ahead
from recrl.policies.laws import ClippedGaussian
from recrl.policies.networks import Critics, initialise, polyak


@dataclass(frozen=True)
class RLURConfig(TD3Config):
    """Options of TD3, and those of RLUR.

    Attributes:
        retention_weight: of the retention critic in the actor's loss.
        immediate_weight: of the immediate critic, likewise.
        immediate_discount: of novelty, where the objective names no immediate responses.
        novelty_weight: of the RND bonus in the immediate reward; 0 leaves it out.
        importance: exponent of the actor's ratio to the logged law; 0 leaves it out, 1.5 is published.
        importance_clip: largest weight it may give.
    """

    retention_weight: float = 1.0
    immediate_weight: float = 1.0
    immediate_discount: float = 0.9
    novelty_weight: float = 0.01
    importance: float = 0.0
    importance_clip: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.immediate_discount <= 1.0 or self.importance < 0 or self.importance_clip < 1 or self.novelty_weight < 0:
            raise ConfigError(
                f"immediate_discount={self.immediate_discount}, importance={self.importance}, importance_clip={self.importance_clip}, "
                f"novelty_weight={self.novelty_weight} are out of range",
                where="rlur",
                mend="0 <= immediate_discount <= 1, importance >= 0, importance_clip >= 1, novelty_weight >= 0",
            )


class RLUR(TD3):
    """RLUR for vector actions: embeddings, fusion weights, continuous controls."""

    name: ClassVar[str] = "rlur"
    config_type: ClassVar[type[RLURConfig]] = RLURConfig
    config: RLURConfig

    def __init__(self, config: RLURConfig, task: Task, seed: int = 0) -> None:
        super().__init__(config, replace(task, objective=replace(task.objective, constraints=())), seed)
        self.objective = task.objective
        # members 0 and 1 judge retention, 2 and 3 what happens at once
        self._critics = Critics(self._encoder.width, task.action_spec.shape[0], config.critic_hidden, members=4)
        initialise(self._critics, seed + 1)
        self._critics.to(task.device)
        self._target_critics = deepcopy(self._critics)
        self._critic_optimiser = Adam([*self._critics.parameters(), *self._encoder.parameters()], config.critic_learning_rate)
        novelty = RNDConfig(replace(config.actor.encoder, abstraction=0))
        self._novelty = RND(novelty, task, seed) if config.novelty_weight else None

    def update(self, batch: Transitions) -> Update:
        """One critic step and one of the novelty; every ``policy_delay``-th call an actor step and a target step."""
        self._step += 1
        novelty = {} if self._novelty is None else self._novelty.update(batch).metrics
        state = self._encoder(batch.observation)  # (B, width)
        target = self._target(batch)  # (4, B)
        loss = self._update_critics(batch, state, target)
        if (self._step - 1) % self.config.policy_delay == 0:
            self._actor_metrics = self._improve(state.detach(), batch)
            polyak(self._target_policy, self._policy, self.config.tau)
            polyak(self._target_critics, self._critics, self.config.tau)
        told = {"critic_loss": loss, "target_mean": target[0].mean(), "immediate_target": target[2].mean()}
        return Update({**told, **novelty, **self._actor_metrics})

    @torch.no_grad()
    def _target(self, batch: Transitions) -> Tensor:
        """``y_T``, twice, and ``y_I``, twice: (4, B)."""
        actor, spec, size = self._target_policy.actor, self.action_spec, len(batch)
        if size not in self._noise:
            self._noise = {size: Ahead(partial(self._smoothing, size), self._streams.device)}
        state = actor.encoder(batch.next_observation)
        action = actor.head(state).add_(self._noise[size](self._step)).clamp_(spec.low, spec.high)
        following = self._target_critics(state, action).unflatten(0, (2, 2)).amin(1)  # (2, B)
        discount = torch.stack([torch.where(batch.session_end, across, within) for within, across in self._discounts()])
        return torch.addcmul(self._rewards(batch), discount * ~batch.terminated, following).repeat_interleave(2, dim=0)

    def _discounts(self) -> list[tuple[float, float]]:
        """Discounts of retention and of what happens at once, within sessions and across them."""
        objective, alone = self.objective, self.config.immediate_discount
        first = objective.constraints[0].signal if objective.constraints else Signal("novelty", 1.0, alone, alone)
        return [(signal.discount_within, signal.discount_across) for signal in (objective.main, first)]

    def _rewards(self, batch: Transitions) -> Tensor:
        """Retention reward and immediate reward, (2, B)."""
        immediate = torch.zeros_like(batch.reward[:, 0])
        for column, constraint in enumerate(self.objective.constraints, start=1):
            immediate = immediate + constraint.gain * batch.reward[:, column]
        if self._novelty is not None:
            immediate = immediate + self.config.novelty_weight * self._novelty.bonus(batch.next_observation)
        return torch.stack([batch.reward[:, 0] * self.objective.main.weight, immediate])

    def _improve(self, state: Tensor, batch: Transitions) -> dict[str, Tensor]:
        config, action = self.config, self._policy.actor.head(state)
        values = self._critics(state, action)  # (4, B)
        weight = self._weights(action.detach(), batch)
        loss = -(weight * (config.retention_weight * values[0] + config.immediate_weight * values[2])).mean()
        self._actor_optimiser.descend(loss)
        means = values.detach().mean(1)
        return {"actor_loss": loss.detach(), "q_mean": means[0], "immediate_mean": means[2], "importance": weight.mean()}

    def _weights(self, centre: Tensor, batch: Transitions) -> Tensor:
        """``w`` of each row, (B,); rows that tell no law, such as those of warm-up, count once."""
        logged, config, spec = batch.behaviour_log_prob, self.config, self.action_spec
        if not config.importance or logged is None:
            return torch.ones_like(batch.reward[:, 0])
        ratio = ClippedGaussian(centre, self._policy.spread, spec.low, spec.high).log_prob(batch.action) - logged
        exponent = config.importance * torch.nan_to_num(ratio, nan=0.0, neginf=0.0)
        return exponent.clamp_min(0.0).exp().clamp_max(config.importance_clip)

    def state_dict(self) -> dict[str, Any]:
        """That of TD3, and the novelty's."""
        return {**super().state_dict(), **({} if self._novelty is None else {"novelty": self._novelty.state_dict()})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        super().load_state_dict(state)
        if self._novelty is not None:
            self._novelty.load_state_dict(state["novelty"])
