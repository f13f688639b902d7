r"""TSCAC: two-stage constrained actor-critic. An actor-critic a protected response, then a main policy that stays close to all of them.

Stage one, for each protected response ``i = 2..m``, with ratios ``rho_i = min(pi_i / pi_beta, c)``:

    L_i   = - mean [ rho_i A_i log pi_i(a|s) ] - b mean log pi_i(a|s)

Its updates begin with the clone ``pi_beta``: a share of them (``cloning_share``) fits it alone, then it is frozen, and what divides by it
starts. Where transitions tell their ``behaviour_log_prob`` nothing is cloned, and all of stage one is the above.

Stage two, for the main response, with the policies of stage one frozen:

    pi*(a|s)  prop. to  prod_i pi_i(a|s)^(lambda_i / Lambda)  exp( A_1(s, a) / Lambda ),     Lambda = sum_i lambda_i
    log w     = sum_i (lambda_i / Lambda) log pi_i(a|s) - log pi_beta(a|s) + A_1 / Lambda
    L         = - mean [ w log pi(a|s) ],   w over its mean of the batch, at most c, no gradient

``L`` projects the closed form ``pi*`` of ``max E_pi[A_1]  s.t.  KL(pi || pi_i) <= eps_i`` onto the network by forward KL, from actions of
``pi_beta``. Large ``lambda`` stays with the geometric mean of the policies of stage one, small ``lambda`` follows the main response alone.

Symbols: ``A_i``, ``rho``, ``pi_beta`` and the two stages are those of :mod:`recrl.algorithms.actor_critic`; ``b`` is ``imitation``, ``c``
``ratio_clip``. A response to keep low has its reward negated. Bounds are not used by the method, which constrains by closeness: they give
``slack``. Without constraints ``pi_beta`` takes the place of the geometric mean.

**Differences from the authors' code**: that of the KuaiRand experiments is deterministic over item numbers with one joint policy in stage
one (:mod:`recrl.algorithms.tscac_ddpg`); this is the method as published. The logging policy is learned from the training rows.

**Metrics**: ``stage``; ``cloning_loss``; ``critic_loss_<response>``; ``actor_loss_<response>``; ``kl_<response>``, the estimated
``KL(pi || pi_i)``; ``lambda_<response>``; ``weight_max``; ``weight_share``, the effective sample size of ``w`` as a share of the batch;
``rate_<response>``, ``slack_<response>``, ``effective_share`` as in :mod:`recrl.algorithms.actor_critic`.

**Source**: Cai et al., "Two-Stage Constrained Actor-Critic for Short Video Recommendation", WWW 2023 (arXiv 2302.01680), theorem 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar

import torch
from torch import Tensor

from recrl.algorithms.actor_critic import ActorCritic, ActorCriticConfig, Look, MultiCritic, RunningScale, one_each
from recrl.algorithms.adam import Adam
from recrl.algorithms.likelihood import build_actor
from recrl.algorithms.task import Task
from recrl.core.errors import ConfigError
from recrl.policies import AnyPolicy


@dataclass(frozen=True)
class TSCACConfig(ActorCriticConfig):
    """Options of the constrained actor-critics, ``multipliers`` and ``cloning_share``.

    Attributes:
        multipliers: ``lambda``: one for all protected responses, or one each in the order of the constraints.
        cloning_share: of ``stage_one_updates``, spent on the clone of the log before the policies of stage one begin; rounded up.
    """

    multipliers: tuple[float, ...] = (1.0,)
    cloning_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _shares(self.multipliers, len(self.multipliers))
        if not 0 < self.cloning_share < 1:
            raise ConfigError(f"cloning_share={self.cloning_share}", where="tscac", mend="give a share between 0 and 1, both excluded")

    @property
    def cloning_updates(self) -> int:
        """Updates that fit the clone."""
        return ceil(self.cloning_share * self.stage_one_updates)


def closed_form_policy(aux_log_probs: Any, advantage: Any, lam: float | Sequence[float]) -> Tensor:
    """The policy that maximises ``E_pi[A] - sum_i lam_i KL(pi || pi_i)`` (theorem 1), as probabilities.

    **Shapes**: ``aux_log_probs`` (m - 1, ..., actions); ``advantage`` (..., actions); ``lam`` one number for all auxiliaries or one each;
    result (..., actions). An infinite ``lam`` gives the geometric mean of the auxiliaries.

    **Errors**: :class:`ConfigError` for multipliers that are negative, all zero, or of another number than the auxiliaries.

    >>> aux = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]]).log()
    >>> [round(float(p), 4) for p in closed_form_policy(aux, torch.tensor([1.0, 0.0, -1.0]), 0.5)]
    [0.6761, 0.2781, 0.0458]
    """
    log_probs, gain = torch.as_tensor(aux_log_probs), torch.as_tensor(advantage)
    share, total = _shares(lam if isinstance(lam, Sequence) else (float(lam),), len(log_probs))
    return torch.softmax(geometric_mean(log_probs, share) + gain / total, dim=-1)


def geometric_mean(log_probs: Tensor, share: Sequence[float]) -> Tensor:
    """``sum_i share_i log pi_i``, not normalised; one whose share is 0 has no say, whatever it rules out."""
    return torch.stack([s * p for s, p in zip(share, log_probs, strict=True) if s > 0]).sum(0)


def _shares(lam: Sequence[float], count: int) -> tuple[list[float], float]:
    """``lambda_i / Lambda`` of ``count`` auxiliaries, and ``Lambda``."""
    each = one_each(lam, count, "tscac.multipliers")
    total = sum(each)
    if min(each) < 0 or not total > 0:
        raise ConfigError(f"multipliers {tuple(lam)}", where="tscac.multipliers", mend="give numbers of at least 0, not all of them 0")
    return [1.0 / count if total == float("inf") else x / total for x in each], total


def projection_weights(log_mean: Tensor, behaviour: Tensor, advantage: Tensor, total: float, clip: float) -> Tensor:
    """Weights ``w`` (B,) of the logged actions in stage two, without gradient, of mean 1 before they are clipped.

    ``log_mean`` (B,) is the geometric mean of the auxiliaries' log-probabilities of the logged action, ``behaviour`` (B,) the logging
    policy's, ``advantage`` (B,) the main one's, ``total`` is ``Lambda``.
    """
    log_weight = (log_mean - behaviour + advantage / total).detach()
    return torch.softmax(log_weight, 0).mul_(len(log_weight)).clamp_max_(clip)


class TSCAC(ActorCritic):
    """TSCAC for items, slates, discrete choices and vectors, with any number of constraints."""

    name: ClassVar[str] = "tscac"
    config_type: ClassVar[type[TSCACConfig]] = TSCACConfig

    def __init__(self, config: TSCACConfig, task: Task, seed: int = 0) -> None:
        super().__init__(config, task, seed)
        self.config = config
        main, protected = self.objective.main, [c.signal for c in self.objective.constraints]
        self._share, self._total = _shares(config.multipliers, max(1, len(protected)))
        self._critic, self._scale = MultiCritic(task, config, [main], seed + 1), RunningScale(1, task.device)
        self._auxiliaries = [build_actor(self.name, config.actor, task, seed + 3 + k) for k in range(len(protected))]
        if self._auxiliaries:
            self._auxiliary_critics = MultiCritic(task, config, protected, seed + 2)
            self._auxiliary_scale = RunningScale(len(protected), task.device)
            self._auxiliary_optimiser = Adam([p for aux in self._auxiliaries for p in aux.parameters()], config.actor_learning_rate)

    def auxiliaries(self) -> list[AnyPolicy]:
        """The policies of stage one, in the order of the constraints."""
        return self._auxiliaries

    def _stage_one(self, look: Look) -> dict[str, Any]:
        cloning = look.batch.behaviour_log_prob is None and self._step <= self.config.cloning_updates
        if cloning or not self._auxiliaries:
            return super()._stage_one(look)
        # the clone is frozen: what divides by it does not move
        log_probs = torch.stack([self._log_prob(aux, look) for aux in self._auxiliaries])  # (m - 1, B)
        ratio = self._ratio(log_probs, self._behaviour_log_prob(look))
        advantage, losses = self._auxiliary_critics.learn(look, look.reward[1:], ratio)
        advantage = self._scaled(self._auxiliary_scale, advantage, look)
        actor_losses = -((ratio * advantage + self.config.imitation) * log_probs).mean(1)
        self._auxiliary_optimiser.descend(actor_losses.sum())
        metrics: dict[str, Any] = {}
        for k, name in enumerate(self._names[1:]):
            metrics |= {f"critic_loss_{name}": losses[k], f"actor_loss_{name}": actor_losses[k].detach()}
        return metrics

    def _improve(self, look: Look) -> dict[str, Any]:
        log_prob, behaviour = self._log_prob(self._policy, look), self._behaviour_log_prob(look)
        ratio = self._ratio(log_prob, behaviour)
        advantage, losses = self._critic.learn(look, look.reward[:1], ratio)
        with torch.no_grad():
            auxiliary = [self._log_prob(aux, look) for aux in self._auxiliaries]
            log_mean = geometric_mean(torch.stack(auxiliary), self._share) if auxiliary else behaviour
        weight = projection_weights(log_mean, behaviour, self._scaled(self._scale, advantage, look)[0], self._total, self.config.ratio_clip)
        loss = -(weight * look.known * log_prob).mean()
        self._optimiser.descend(loss)
        main, total = self._names[0], ratio.sum().clamp_min(1e-6)
        metrics: dict[str, Any] = {
            f"critic_loss_{main}": losses[0],
            f"actor_loss_{main}": loss.detach(),
            "weight_max": weight.max(),
            "weight_share": weight.sum() ** 2 / (weight**2).sum().clamp_min(1e-12) / len(weight),
            **self._rate_metrics(*self._rates(look, ratio)),
        }
        for name, share, held in zip(self._names[1:], self._share, auxiliary, strict=False):
            metrics[f"kl_{name}"] = (ratio * (log_prob.detach() - held)).sum() / total
            metrics[f"lambda_{name}"] = share * self._total
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """That of the actor-critic, the critics, and the policies of stage one with what trains them."""
        state = {**super().state_dict(), "critic": self._critic.state_dict(), "scale": self._scale.state_dict()}
        if self._auxiliaries:
            state["auxiliaries"] = [aux.state_dict() for aux in self._auxiliaries]
            state["auxiliary_critics"] = self._auxiliary_critics.state_dict()
            state["auxiliary_scale"] = self._auxiliary_scale.state_dict()
            state["auxiliary_optimiser"] = self._auxiliary_optimiser.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        super().load_state_dict(state)
        self._critic.load_state_dict(state["critic"])
        self._scale.load_state_dict(state["scale"])
        if self._auxiliaries:
            for aux, held in zip(self._auxiliaries, state["auxiliaries"], strict=True):
                aux.load_state_dict(held)
            self._auxiliary_critics.load_state_dict(state["auxiliary_critics"])
            self._auxiliary_scale.load_state_dict(state["auxiliary_scale"])
            self._auxiliary_optimiser.load_state_dict(state["auxiliary_optimiser"])
