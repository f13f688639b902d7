r"""PrefRec: learn from a reward that was itself learned from preferences between stretches of users' lives.

The reward model maximises the likelihood of the given preferences (Bradley-Terry). ``R`` is a segment's summed or mean reward, ``y`` the
probability with which the first of two segments is preferred::

    L_r   = - sum_e mean [ y log s(R_e(first) - R_e(second)) + (1 - y) log s(R_e(second) - R_e(first)) ]     s = sigmoid, e = members

The policy then learns from the normalised reward ``r``, which reaches it in its batches
(:class:`recrl.preferences.reward.PreferenceReward`), so that no gradient of the losses below reaches the reward model::

    u     = min_k Q'_k(s, a) - V(s)
    L_V   = mean |w - 1(u < 0)| u^2                                      expectile regression, w = 1/2 is the mean
    L_Q   = sum_k mean (Q_k(s, a) - r - g (1 - terminated) V(s'))^2      no action outside the data in the target
    L_pi  = mean min(exp(beta u), cap) |pi(s) - a|^2                     actor_loss = "awr"
          = - lam mean Q_1(s, pi(s)) + mean_d (pi(s) - a)^2              "dpg_bc", lam = alpha / mean |Q_1|
          = - mean Q_1(s, pi(s))                                         "dpg"

Symbols: ``s`` encoded state, ``a`` logged action, ``Q'`` Polyak targets, ``g`` the discount within a session or across its end. With
``value = "policy"`` the value is fitted at ``pi(s)`` instead of ``a``; with ``"none"`` there is none: the target is TD3's,
``min_k Q'_k(s', pi'(s') + noise)``, and ``awr`` takes ``min_k Q'_k(s, pi(s))`` in the place of ``V(s)``.

An encoder with parameters is trained by ``L_Q`` alone; ``V`` and ``Q'`` read its Polyak target.

**Metrics**: ``critic_loss``, ``target_mean``, ``value_loss``, ``value_mean``, ``advantage_mean`` (of ``u``), ``actor_loss``, ``bc_error``
(mean squared distance to the logged action), ``weight_mean`` (``awr``), ``q_mean``, ``lambda`` (``dpg_bc``).

**Source**: Xue et al., "PrefRec: Recommender Systems with Human Preferences for Reinforcing Long-term User Engagement", KDD 2023. What its
abstract does not tell is taken from what it leans on (see ``docs/algorithms/prefrec.md``): Kostrikov, Nair, Levine, "Offline Reinforcement
Learning with Implicit Q-Learning", ICLR 2022; Christiano et al., NeurIPS 2017, equation 1; Fujimoto and Gu, NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from recrl.algorithms.adam import Adam
from recrl.algorithms.task import Task
from recrl.core.contracts import Transitions, Update
from recrl.core.errors import ConfigError
from recrl.core.streams import Purpose
from recrl.core.torch.streams import Ahead, TensorStreams
from recrl.policies.networks import Critics, initialise, mlp, polyak
from recrl.policies.vector import ActorConfig, VectorPolicy


def preference_loss(first: Tensor, second: Tensor, preferred: Tensor) -> Tensor:
    """Bradley-Terry cross-entropy of predicted segment returns, the mean over pairs, summed over ensemble members.

    Args:
        first: predicted return of the first segment of each pair, (P,) or (E, P).
        second: of the second one, likewise.
        preferred: probability that the first is preferred, (P,); 1/2 for equals.

    **Shapes**: () -> a scalar in nats.

    >>> preference_loss(torch.zeros(3), torch.zeros(3), torch.tensor([1.0, 0.0, 0.5])).item()  # nothing known: log 2
    0.6931471824645996
    """
    logits = first - second
    each = binary_cross_entropy_with_logits(logits, preferred.to(logits.dtype).expand_as(logits), reduction="none")
    return each.mean(-1).sum()


def expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """``|w - 1(u < 0)| u^2`` of errors ``u`` (...), of the same shape: its minimiser is the ``w``-expectile; 1/2 gives half the square."""
    return torch.where(error < 0, 1.0 - expectile, expectile) * error.square()


@dataclass(frozen=True)
class PrefRecConfig:
    """Options of PrefRec's policy optimiser; those of the reward model are :class:`recrl.preferences.reward.RewardConfig`.

    Attributes:
        actor: the policy network.
        critic_hidden: hidden sizes of the twin critics and of the value.
        actor_loss: ``awr`` imitates logged actions by their advantage and asks no critic beside the data; ``dpg_bc`` follows the critic
            near the data; ``dpg`` follows it anywhere.
        value: the value is fitted at the ``logged`` action, at the ``policy``'s, or there is ``none``.
        expectile: ``w``; 0.5 is the mean, towards 1 the best action in the data.
        beta: inverse temperature of ``awr``.
        weight_cap: largest weight of ``awr``.
        alpha: weight of the critic in ``dpg_bc``.
        learning_rate: of Adam, for actor, critics and value.
        tau: Polyak step of the targets.
        target_noise: spread of the smoothing noise, as a share of half the action range (``value = none``).
        target_clip: bound of it, likewise.
    """

    actor: ActorConfig = ActorConfig()
    critic_hidden: tuple[int, ...] = (128, 128)
    actor_loss: Literal["awr", "dpg_bc", "dpg"] = "awr"
    value: Literal["logged", "policy", "none"] = "logged"
    expectile: float = 0.7
    beta: float = 3.0
    weight_cap: float = 100.0
    alpha: float = 0.3
    learning_rate: float = 3e-4
    tau: float = 0.005
    target_noise: float = 0.2
    target_clip: float = 0.5

    def __post_init__(self) -> None:
        if not (0.0 < self.expectile < 1.0 and 0.0 < self.tau <= 1.0 and min(self.beta, self.alpha) >= 0.0 < self.weight_cap):
            raise ConfigError(
                f"expectile={self.expectile}, tau={self.tau}, beta={self.beta}, alpha={self.alpha}, weight_cap={self.weight_cap} misfit",
                where="prefrec",
                mend="0 < expectile < 1, 0 < tau <= 1, beta >= 0, alpha >= 0, weight_cap > 0",
            )


class PrefRec:
    """PrefRec's policy optimiser for vector actions: embeddings, fusion weights, continuous controls.

    Alone it learns from the objective's main signal; with a reward that was learned from preferences in its batches it is PrefRec.
    """

    name: ClassVar[str] = "prefrec"
    config_type: ClassVar[type[PrefRecConfig]] = PrefRecConfig

    def __init__(self, config: PrefRecConfig, task: Task, seed: int = 0) -> None:
        if not task.action_spec.is_vector:
            raise ConfigError(
                f"prefrec learns vector actions, not {task.action_spec.kind!r}",
                where="prefrec.action_spec",
                mend="use embedding, fusion_weights or continuous actions",
            )
        if task.objective.constraints:
            raise ConfigError(
                "prefrec maximises one signal and honours no constraints",
                where="objective.constraints",
                mend="drop the constraints, or let preferences say what matters",
            )
        self.config, self.action_spec, self.objective = config, task.action_spec, task.objective
        self._policy = VectorPolicy(task.action_spec, config.actor, task.item_vectors, seed).to(task.device)
        self._encoder = self._policy.actor.encoder
        self._critics = Critics(self._encoder.width, task.action_spec.shape[0], config.critic_hidden)
        initialise(self._critics, seed + 1)
        self._critics.to(task.device)
        self._value = mlp([self._encoder.width, *config.critic_hidden, 1])
        initialise(self._value, seed + 2)
        self._value.to(task.device)
        self._target_policy, self._target_critics = deepcopy(self._policy), deepcopy(self._critics)
        self._learns_states = any(True for _ in self._encoder.parameters())
        self._actor_optimiser = Adam(self._policy.actor.body.parameters(), config.learning_rate)
        self._critic_optimiser = Adam([*self._critics.parameters(), *self._encoder.parameters()], config.learning_rate)
        self._value_optimiser = Adam(self._value.parameters(), config.learning_rate)
        self._streams = TensorStreams(seed, task.device)
        self._step = 0
        self._noise: dict[int, Ahead] = {}  # of the batch size at hand

    def policy(self) -> VectorPolicy:
        """The current actor."""
        return self._policy

    def collect_policy(self) -> VectorPolicy:
        """The current actor with its Gaussian exploration."""
        return self._policy

    def observe(self, transitions: Transitions) -> None:
        """Nothing to see: learning is from batches alone."""

    def update(self, batch: Transitions) -> Update:
        """One step each of value, critics, actor and targets."""
        self._step += 1
        state = self._encoder(batch.observation)  # (B, width)
        with torch.no_grad():
            slow = self._target_policy.actor.encoder(batch.observation) if self._learns_states else state
        advantage, metrics = self._update_value(batch, slow)
        metrics |= self._update_critics(batch, state)
        metrics |= self._update_actor(batch, state.detach(), advantage)
        if self.config.value == "none":
            polyak(self._target_policy, self._policy, self.config.tau)
        elif self._learns_states:
            polyak(self._target_policy.actor.encoder, self._encoder, self.config.tau)
        polyak(self._target_critics, self._critics, self.config.tau)
        return Update(metrics)

    def _update_value(self, batch: Transitions, slow: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Fit ``V``; returns the advantage of the logged action, (B,), before the step."""
        with torch.no_grad():
            logged = self._target_critics(slow, batch.action).amin(0)
            if self.config.value != "logged":
                chosen = self._target_critics(slow, self._policy.actor.head(slow)).amin(0)
        if self.config.value == "none":
            advantage = logged - chosen
            return advantage, {"advantage_mean": advantage.mean()}
        value = self._value(slow).squeeze(1)
        error = (logged if self.config.value == "logged" else chosen) - value
        loss = _mean(expectile_loss(error, self.config.expectile), batch.weight)
        self._value_optimiser.descend(loss)
        value, advantage = value.detach(), logged - value.detach()
        return advantage, {"value_loss": loss.detach(), "value_mean": value.mean(), "advantage_mean": advantage.mean()}

    @torch.no_grad()
    def _target(self, batch: Transitions) -> Tensor:
        """Targets of the critics, (B,)."""
        actor, main, spec, size = self._target_policy.actor, self.objective.main, self.action_spec, len(batch)
        following = actor.encoder(batch.next_observation)
        if self.config.value == "none":
            if size not in self._noise:
                self._noise = {size: Ahead(partial(self._smoothing, size), self._streams.device)}
            action = actor.head(following).add_(self._noise[size](self._step)).clamp_(spec.low, spec.high)
            value = self._target_critics(following, action).amin(0)
        else:
            value = self._value(following).squeeze(1)
        discount = torch.where(batch.session_end, main.discount_across, main.discount_within) * ~batch.terminated
        return torch.addcmul(batch.reward[:, 0] * main.weight, discount, value)

    def _smoothing(self, size: int, steps: Tensor) -> Tensor:
        """Noise of the target actions at ``steps`` (n,): (n, size, d)."""
        half = self._policy.actor.half_range
        noise = self._streams.normal(steps, 0, Purpose.EXPLORATION, (size, *self.action_spec.shape))
        return noise.mul_(self.config.target_noise * half).clamp_(-self.config.target_clip * half, self.config.target_clip * half)

    def _update_critics(self, batch: Transitions, state: Tensor) -> dict[str, Tensor]:
        target = self._target(batch)
        # a truncated row has no next state in the record: its target is unknown
        known = (~batch.truncated | batch.terminated).to(target.dtype)
        if batch.weight is not None:
            known = known * batch.weight
        errors = (self._critics(state, batch.action) - target).square()  # (2, B)
        loss = (errors @ (known / known.sum().clamp_min(1.0))).sum()
        self._critic_optimiser.descend(loss)
        return {"critic_loss": loss.detach(), "target_mean": target.mean()}

    def _update_actor(self, batch: Transitions, state: Tensor, advantage: Tensor) -> dict[str, Tensor]:
        config, action = self.config, self._policy.actor.head(state)
        distance = (action - batch.action).square()  # (B, d)
        metrics = {"bc_error": distance.detach().mean()}
        if config.actor_loss == "awr":
            weight = (config.beta * advantage).exp().clamp_max(config.weight_cap)
            loss = _mean(weight * distance.sum(1), batch.weight)
            metrics["weight_mean"] = weight.mean()
        else:
            value = self._critics.first(state, action)
            metrics["q_mean"] = value.detach().mean()
            loss = -_mean(value, batch.weight)
            if config.actor_loss == "dpg_bc":
                scale = config.alpha / value.detach().abs().mean().clamp_min(1e-6)
                loss = scale * loss + _mean(distance.mean(1), batch.weight)
                metrics["lambda"] = scale
        self._actor_optimiser.descend(loss)
        return {"actor_loss": loss.detach(), **metrics}

    def state_dict(self) -> dict[str, Any]:
        """Networks, targets, optimisers, and the seed and step that key the noise."""
        return {
            **{name: part.state_dict() for name, part in self._parts().items()},
            "step": self._step,
            "seed": self._streams.seed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self._step = int(state["step"])
        self._streams = TensorStreams(int(state["seed"]), self._streams.device)
        self._noise.clear()

    def _parts(self) -> dict[str, Any]:
        return {
            "policy": self._policy,
            "critics": self._critics,
            "value": self._value,
            "target_policy": self._target_policy,
            "target_critics": self._target_critics,
            "actor_optimiser": self._actor_optimiser,
            "critic_optimiser": self._critic_optimiser,
            "value_optimiser": self._value_optimiser,
        }


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Mean over a batch, (B,) -> (); ``weight`` (B,) corrects the sampling."""
    return values.mean() if weight is None else (values * weight).sum() / weight.sum().clamp_min(1e-6)
