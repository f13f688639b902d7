r"""What the constrained actor-critics share: a critic a response in one batched pass, ratios to the logging policy, and two stages.

    y_i   = r_i + g_i (1 - terminated) V'_i(s')            g_i = the response's own discount, within sessions or across them
    L_V   = sum_i  sum_b rho (V_i(s) - y_i)^2 / sum_b rho   over rows whose next state is in the record
    A_i   = y_i - V_i(s)                                   over its running root mean square (``standardise``)
    rho   = min( pi(a|s) / pi_beta(a|s), ratio_clip )      in log space, no gradient

In the first ``stage_one_updates`` updates the policy clones the log by likelihood; the clone is then frozen as ``pi_beta`` and what
follows starts from it. (TSCAC clones in a share of them, and divides by the frozen clone in the others.) Where transitions tell their
``behaviour_log_prob`` (collected ones do), nothing is cloned and that is ``pi_beta``.
Weighting the critics' errors by ``rho`` makes ``V_i`` the value of the policy that learns, not of the one that logged.

**Estimated rates**: ``rate_<response> = sum rho r / sum rho`` over the batch, the mean a request under the policy, corrected for the choice
of this action alone; ``slack_<response>`` is its distance to the constraint's bound, positive where the constraint holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recrl.algorithms.adam import Adam
from recrl.algorithms.likelihood import Likelihood, build_actor, encoder_of
from recrl.algorithms.task import Task
from recrl.core.contracts import Transitions, Update
from recrl.core.errors import ConfigError
from recrl.core.objective import Signal
from recrl.core.torch.streams import TensorStreams
from recrl.policies import AnyPolicy
from recrl.policies.encoders import build_encoder
from recrl.policies.networks import Critics, initialise, polyak
from recrl.policies.vector import ActorConfig


@dataclass(frozen=True)
class ActorCriticConfig:
    """Options that the constrained actor-critics share.

    Attributes:
        actor: the policy network.
        critic_hidden: hidden sizes of each critic.
        actor_learning_rate: of Adam.
        critic_learning_rate: of Adam.
        tau: Polyak step of the target critics.
        stage_one_updates: updates of the first stage.
        ratio_clip: largest weight of a row.
        imitation: weight of the logged action's likelihood beside the standardised advantage.
        standardise: divide each response's advantage by its running root mean square, so that multipliers mean the same for all.
        sampled_items: items that stand for the catalogue in a softmax over items; 0 for the whole catalogue.
    """

    actor: ActorConfig = ActorConfig()
    critic_hidden: tuple[int, ...] = (128, 128)
    actor_learning_rate: float = 1e-3
    critic_learning_rate: float = 1e-3
    tau: float = 0.01
    stage_one_updates: int = 1_000
    ratio_clip: float = 10.0
    imitation: float = 0.01
    standardise: bool = True
    sampled_items: int = 0

    def __post_init__(self) -> None:
        if self.stage_one_updates < 0 or not 0 < self.tau <= 1 or self.ratio_clip <= 0 or self.imitation < 0:
            raise ConfigError(
                f"stage_one_updates={self.stage_one_updates}, tau={self.tau}, ratio_clip={self.ratio_clip}, imitation={self.imitation} are "
                "out of range",
                where="actor-critic",
                mend="stage_one_updates >= 0, 0 < tau <= 1, ratio_clip > 0, imitation >= 0",
            )


class StateValues(nn.Module):
    """``members`` independent state values over one encoder, in one pass: (B, width) -> (E, B)."""

    def __init__(self, task: Task, config: ActorCriticConfig, members: int, seed: int) -> None:
        super().__init__()
        self.encoder = build_encoder(config.actor.encoder, task.item_vectors)
        self.critics = Critics(self.encoder.width, 0, config.critic_hidden, members)
        initialise(self, seed)

    def forward(self, state: Tensor) -> Tensor:
        """Values of encoded states."""
        return self.critics(state, state[:, :0])


class MultiCritic:
    """One state value a response, learned together: no gradient of one reaches another (but through an encoder that learns).

    Args:
        task: what is learned on.
        config: networks and rates.
        signals: the responses, each with its discounts.
        seed: of the networks.
    """

    def __init__(self, task: Task, config: ActorCriticConfig, signals: Sequence[Signal], seed: int) -> None:
        self._values = StateValues(task, config, len(signals), seed).to(task.device)
        self._target = deepcopy(self._values)
        self._optimiser = Adam(self._values.parameters(), config.critic_learning_rate)
        self._tau = config.tau
        self._within, self._across = (
            torch.tensor([[getattr(s, name)] for s in signals], device=task.device) for name in ("discount_within", "discount_across")
        )

    def target(self, batch: Transitions, reward: Tensor) -> Tensor:
        """``y`` of each response, (m, B); a terminated row's is its reward."""
        with torch.no_grad():
            following = self._target(self._target.encoder(batch.next_observation))  # (m, B)
            discount = torch.where(batch.session_end, self._across, self._within) * ~batch.terminated
            return torch.addcmul(reward, discount, following)

    def learn(self, look: Look, reward: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """One step on rewards (m, B) with ratios (m, B) or (B,).

        Returns advantages (m, B), 0 where the next state is unknown, and losses (m,).
        """
        batch, known = look.batch, look.known
        target = self.target(batch, reward)
        value = self._values(self._values.encoder(batch.observation) if look.state is None else look.state)
        weight = ratio.expand_as(target) * known
        if batch.weight is not None:
            weight = weight * batch.weight
        error = target - value
        losses = (weight * error**2).sum(1) / weight.sum(1).clamp_min(1e-6)
        self._optimiser.descend(losses.sum())
        polyak(self._target, self._values, self._tau)
        return error.detach() * known, losses.detach()

    def state_dict(self) -> dict[str, Any]:
        """Networks, targets and optimiser."""
        return {"values": self._values.state_dict(), "target": self._target.state_dict(), "optimiser": self._optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._values.load_state_dict(state["values"])
        self._target.load_state_dict(state["target"])
        self._optimiser.load_state_dict(state["optimiser"])


class RunningScale:
    """Running root mean square of ``count`` rows of numbers: the first batch sets it, later ones move it by a hundredth."""

    def __init__(self, count: int, device: str) -> None:
        self._square = torch.ones(count, device=device)
        self._started = torch.zeros((), device=device)

    def __call__(self, values: Tensor, known: Tensor) -> Tensor:
        """``values`` (count, B) over their scale; rows that are not ``known`` (B,) are 0 and do not count."""
        square = (values**2).sum(1) / known.sum().clamp_min(1)
        self._square.lerp_(square, 0.01 + 0.99 * (1.0 - self._started))
        self._started.fill_(1.0)
        return values / self._square.sqrt().clamp_min(1e-6).unsqueeze(1)

    def state_dict(self) -> dict[str, Any]:
        """The mean square, and whether there is one."""
        return {"square": self._square, "started": self._started}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._square.copy_(state["square"])
        self._started.copy_(state["started"])


@dataclass(frozen=True, eq=False)
class Look:
    """What one update knows of its batch: the shared state (B, width), the items drawn for the softmax, rewards with their signs (m, B)."""

    batch: Transitions
    state: Tensor | None
    drawn: Tensor | None
    reward: Tensor

    @property
    def known(self) -> Tensor:
        """Rows whose next state is in the record or needs none, (B,)."""
        return ~self.batch.truncated | self.batch.terminated


class ActorCritic:
    """A learner of one stochastic policy from vector rewards; what makes a method is ``_improve``."""

    name: ClassVar[str]

    def __init__(self, config: ActorCriticConfig, task: Task, seed: int = 0) -> None:
        self.action_spec, self.objective, self._shared = task.action_spec, task.objective, config
        self._policy = build_actor(self.name, config.actor, task, seed)
        self._behaviour = deepcopy(self._policy).requires_grad_(False)
        self._optimiser = Adam(self._policy.parameters(), config.actor_learning_rate)
        self._likelihood = Likelihood(config.sampled_items, task.item_log_counts, seed, task.device)
        gains = [task.objective.main.weight, *(c.gain for c in task.objective.constraints)]
        self._gains = torch.tensor(gains, device=task.device).unsqueeze(1)
        self._names = [signal.name for signal in task.objective.signals]
        self._step = 0

    def policy(self) -> AnyPolicy:
        """The policy as it would be deployed now: in the first stage the clone, then what stands on it."""
        return self._policy

    def collect_policy(self) -> AnyPolicy:
        """The same: it draws from its own law."""
        return self._policy

    def observe(self, transitions: Transitions) -> None:
        """Nothing to see: learning is from batches alone."""

    def update(self, batch: Transitions) -> Update:
        """One step of the stage at hand.

        **Errors**: :class:`ConfigError` for rewards that are not the objective's signals.
        """
        if batch.reward.shape[1] != len(self.objective.signals):
            raise ConfigError(
                f"the batch holds {batch.reward.shape[1]} rewards, the objective {len(self.objective.signals)} signals",
                where=f"{self.name}.update",
                mend="build the buffer with the learner's objective",
            )
        self._step += 1
        state, drawn = self._likelihood.begin(batch, encoder_of(self._policy), self._step)
        look = Look(batch, state, drawn, batch.reward.T * self._gains)
        if self._step <= self._shared.stage_one_updates:
            return Update({"stage": 1.0, **self._stage_one(look)})
        return Update({"stage": 2.0, **self._improve(look)})

    def _stage_one(self, look: Look) -> dict[str, Any]:
        """Clone the log; the frozen copy follows, so that it is there when whatever divides by it begins."""
        if look.batch.behaviour_log_prob is not None:
            return {}
        loss = -self._log_prob(self._policy, look).mean()
        self._optimiser.descend(loss)
        polyak(self._behaviour, self._policy, 1.0)
        return {"cloning_loss": loss.detach()}

    def _improve(self, look: Look) -> dict[str, Any]:
        raise NotImplementedError

    def _log_prob(self, policy: AnyPolicy, look: Look) -> Tensor:
        return self._likelihood.log_prob(policy, look.batch, look.state, look.drawn)

    @torch.no_grad()
    def _behaviour_log_prob(self, look: Look) -> Tensor:
        """``log pi_beta(a|s)``, (B,): as it was told, or the clone's."""
        told = look.batch.behaviour_log_prob
        return self._log_prob(self._behaviour, look) if told is None else told

    def _ratio(self, log_prob: Tensor, behaviour: Tensor) -> Tensor:
        """``rho``, of the shape of ``log_prob``."""
        return torch.exp((log_prob.detach() - behaviour).clamp_max(20.0)).clamp_max(self._shared.ratio_clip)

    def _scaled(self, scale: RunningScale, advantage: Tensor, look: Look) -> Tensor:
        """Advantages (k, B), over their scale where that is asked for."""
        return scale(advantage, look.known) if self._shared.standardise else advantage

    def _climb(self, log_prob: Tensor, ratio: Tensor, advantage: Tensor) -> Tensor:
        """One step of the policy along ``rho A grad log pi`` plus imitation; returns the loss."""
        loss = -((ratio * advantage + self._shared.imitation) * log_prob).mean()
        self._optimiser.descend(loss)
        return loss.detach()

    def _rates(self, look: Look, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """Estimated means a request under the policy (m,), and the effective sample size as a share of the batch."""
        total = ratio.sum().clamp_min(1e-6)
        return (look.batch.reward * ratio.unsqueeze(1)).sum(0) / total, total**2 / (ratio**2).sum().clamp_min(1e-12) / ratio.numel()

    def _rate_metrics(self, rates: Tensor, share: Tensor) -> dict[str, Tensor]:
        found = {"effective_share": share}
        for name, rate in zip(self._names, rates, strict=True):
            found[f"rate_{name}"] = rate
        for constraint, rate in zip(self.objective.constraints, rates[1:], strict=True):
            if constraint.bound is not None:
                sign = 1.0 if constraint.direction == "at_least" else -1.0
                found[f"slack_{constraint.signal.name}"] = sign * (rate - constraint.bound)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Policy, the frozen clone, optimiser and step."""
        return {
            "policy": self._policy.state_dict(),
            "behaviour": self._behaviour.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "step": self._step,
            "seed": self._likelihood.streams.seed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._policy.load_state_dict(state["policy"])
        self._behaviour.load_state_dict(state["behaviour"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._step = int(state["step"])
        self._likelihood.streams = TensorStreams(int(state["seed"]), self._likelihood.streams.device)


def one_each(numbers: Sequence[float], count: int, where: str) -> list[float]:
    """One number a protected response: as given, or the one that stands for all.

    **Errors**: :class:`ConfigError` for another number of them.
    """
    if len(numbers) not in (1, count):
        raise ConfigError(f"{len(numbers)} numbers for {count} protected responses", where=where, mend="give one for all, or one each")
    return list(numbers) * count if len(numbers) == 1 else list(numbers)
