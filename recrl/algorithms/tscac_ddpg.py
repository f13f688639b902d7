r"""TSCAC, deterministic: the variant of the published experiments, with one stage-one actor a protected response.

    y_i   = r_i + g_i (1 - terminated) Q'_i(s', mu'_i(s'))                               critics, one batched pass
    L_i   = - mean Q_i(s, mu_i(s)) / mean|Q_i|  +  b |mu_i(s) - a|^2                      stage one, i = 2..m
    h_i   = exp( -|mu(s) - mu_i(s)|^2 / (2 sigma^2) ),   rho = prod_i h_i^lambda_i        no gradient
    L     = - mean [ rho Q_1(s, mu(s)) ] / mean|Q_1|  +  b |mu(s) - a|^2  +  k sum_i |mu(s) - mu_i(s)|^2      stage two

``|x|^2`` is a mean over components, in units of half the action range. Symbols: ``mu`` the main actor, ``mu_i`` the frozen ones, ``Q'``,
``mu'`` Polyak targets, ``g_i`` the discount within or across sessions. In stage two every response has a critic of the main actor, for the
metrics; ``Q_1`` alone moves it. In stage one the main actor clones the log.

``joint_stage_one`` trains one stage-one actor on the weighted sum of all responses, as the authors' code does (it is their RCPO
multi-critic); quirks of that code are in :mod:`recrl.algorithms.parity.tscac`.

**Differences from the authors' code**: actions in units of half the range; the gate is a kernel of height 1, not a density; ``Q`` over its
mean absolute value, as in TD3+BC, so that ``b`` and ``k`` mean the same for all rewards.

**Metrics**: ``stage``; ``cloning_loss``; ``critic_loss_<response>``; ``actor_loss``, ``actor_loss_<response>``; ``gate``, the mean of
``rho``; ``distance_<response>``, the root mean square of ``mu - mu_i``; ``lambda_<response>``; ``bc_error``; ``value_<response>``, the mean
``Q_i(s, mu(s))``; ``slack_<response>``, ``value`` times one minus the mean discount (a mean a request) less the bound.

**Source**: Cai et al., WWW 2023 (arXiv 2302.01680), deterministic variant; Gaussian closeness and penalty as in its KuaiRand experiments.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recrl.algorithms.actor_critic import one_each
from recrl.algorithms.adam import Adam
from recrl.algorithms.likelihood import shared_state
from recrl.algorithms.task import Task
from recrl.core.contracts import Transitions, Update
from recrl.core.errors import ConfigError
from recrl.policies.encoders import build_encoder
from recrl.policies.networks import Critics, initialise, polyak
from recrl.policies.vector import ActorConfig, VectorPolicy


@dataclass(frozen=True)
class TSCACDDPGConfig:
    """Options of deterministic TSCAC.

    Attributes:
        actor: the policy network.
        critic_hidden: hidden sizes of each critic.
        actor_learning_rate: of Adam.
        critic_learning_rate: of Adam.
        tau: Polyak step of the targets.
        stage_one_updates: updates of the first stage.
        imitation: ``b``, weight of the distance to the logged action.
        multipliers: ``lambda`` of the gate: one for all protected responses, or one each in the order of the constraints.
        closeness: ``k``, weight of the distance to the stage-one actors.
        bandwidth: ``sigma`` of the gate, as a share of half the action range.
        joint_stage_one: one stage-one actor on the weighted sum of all responses in place of one each.
    """

    actor: ActorConfig = ActorConfig()
    critic_hidden: tuple[int, ...] = (128, 128)
    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 1e-3
    tau: float = 0.005
    stage_one_updates: int = 1_000
    imitation: float = 0.4
    multipliers: tuple[float, ...] = (1.0,)
    closeness: float = 0.1
    bandwidth: float = 0.4
    joint_stage_one: bool = False

    def __post_init__(self) -> None:
        if self.stage_one_updates < 0 or not 0 < self.tau <= 1 or self.bandwidth <= 0 or min(self.imitation, self.closeness) < 0:
            raise ConfigError(
                f"stage_one_updates={self.stage_one_updates}, tau={self.tau}, bandwidth={self.bandwidth}, imitation={self.imitation}, "
                f"closeness={self.closeness} are out of range",
                where="tscac_ddpg",
                mend="0 < tau <= 1, bandwidth > 0, the others at least 0",
            )


def closeness_gate(main: Tensor, auxiliaries: Tensor, multipliers: Tensor, bandwidth: float) -> Tensor:
    """``rho`` (B,) in (0, 1] of actions ``main`` (B, d) and those of stage one (n, B, d), without gradient; ``multipliers`` (n, 1)."""
    square = ((main - auxiliaries) ** 2).mean(-1).detach()  # (n, B)
    return torch.exp(-(multipliers * square).sum(0) / (2.0 * bandwidth**2))


class ResponseCritics(nn.Module):
    """Independent action values over one encoder: states (B, width), actions (B, d) for all or (E, B, d) one a member -> (E, B)."""

    def __init__(self, config: TSCACDDPGConfig, task: Task, members: int, seed: int) -> None:
        super().__init__()
        self.encoder = build_encoder(config.actor.encoder, task.item_vectors)
        self.critics = Critics(self.encoder.width, task.action_spec.shape[0], config.critic_hidden, members)
        initialise(self, seed)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Values of all members."""
        if action.ndim == 2:
            return self.critics(state, action)
        x = torch.cat([state.expand(len(action), -1, -1), action], dim=2)
        for layer in self.critics.layers:
            x = torch.relu_(layer(x))
        return torch.linalg.vecdot(x, self.critics.last.weight.mT) + self.critics.last.bias.squeeze(-1)


class Stage:
    """Deterministic actors with a critic a response: actor ``k`` climbs its own critic, or the one actor a weighted sum of all of them."""

    def __init__(self, config: TSCACDDPGConfig, task: Task, columns: list[int], actors: list[VectorPolicy], seed: int) -> None:
        self.actors = actors
        self._config, self.columns = config, columns
        self._half = actors[0].actor.half_range
        self._critics = ResponseCritics(config, task, len(columns), seed).to(task.device)
        self._target_critics, self._targets = deepcopy(self._critics), deepcopy(actors)
        self._critic_optimiser = Adam(self._critics.parameters(), config.critic_learning_rate)
        self._actor_optimiser = Adam([p for actor in actors for p in actor.actor.parameters()], config.actor_learning_rate)
        signals = [task.objective.signals[k] for k in columns]
        self._within, self._across = (
            torch.tensor([[getattr(s, name)] for s in signals], device=task.device) for name in ("discount_within", "discount_across")
        )

    def target(self, batch: Transitions, reward: Tensor) -> Tensor:
        """``y``, (m, B); a terminated row's is its reward."""
        with torch.no_grad():
            following = shared_state(self._target_critics.encoder, batch.next_observation)
            action = torch.stack([act(actor, batch.next_observation, following) for actor in self._targets])
            state = self._target_critics.encoder(batch.next_observation) if following is None else following
            value = self._target_critics(state, action.squeeze(0) if len(action) == 1 else action)
            discount = torch.where(batch.session_end, self._across, self._within) * ~batch.terminated
            return torch.addcmul(reward[self.columns], discount, value)

    def learn_values(self, batch: Transitions, state: Tensor | None, reward: Tensor) -> Tensor:
        """One critic step; losses (m,)."""
        known = (~batch.truncated | batch.terminated).to(reward.dtype)
        known = known if batch.weight is None else known * batch.weight
        encoded = self._critics.encoder(batch.observation) if state is None else state
        error = self.target(batch, reward) - self._critics(encoded, batch.action)
        losses = (error**2 * known).sum(1) / known.sum().clamp_min(1e-6)
        self._critic_optimiser.descend(losses.sum())
        polyak(self._target_critics, self._critics, self._config.tau)
        return losses.detach()

    def actions(self, batch: Transitions, state: Tensor | None) -> Tensor:
        """Actions of all actors, (n, B, d), with gradients."""
        return torch.stack([act(actor, batch.observation, state) for actor in self.actors])

    def values(self, batch: Transitions, state: Tensor | None, action: Tensor) -> Tensor:
        """Values (m, B) of actions (n, B, d); gradients reach the actions alone."""
        encoded = self._critics.encoder(batch.observation).detach() if state is None else state
        return self._critics(encoded, action.squeeze(0) if len(action) == 1 else action)

    def first_value(self, batch: Transitions, state: Tensor | None, action: Tensor) -> Tensor:
        """Values (B,) of actions (B, d) for the first response alone; gradients reach the actions alone."""
        encoded = self._critics.encoder(batch.observation).detach() if state is None else state
        return self._critics.critics.first(encoded, action)

    def climb(self, loss: Tensor) -> None:
        """One step of the actors down ``loss``, and their targets after them."""
        self._actor_optimiser.descend(loss)
        for target, actor in zip(self._targets, self.actors, strict=True):
            polyak(target, actor, self._config.tau)

    def imitation(self, action: Tensor, logged: Tensor) -> Tensor:
        """Squared distance to the logged actions, in units of half the range, (n,)."""
        return (((action - logged) / self._half) ** 2).mean((1, 2))

    def state_dict(self) -> dict[str, Any]:
        """Actors, critics, targets and optimisers."""
        return {
            "actors": [actor.state_dict() for actor in self.actors],
            "targets": [actor.state_dict() for actor in self._targets],
            "critics": self._critics.state_dict(),
            "target_critics": self._target_critics.state_dict(),
            "actor_optimiser": self._actor_optimiser.state_dict(),
            "critic_optimiser": self._critic_optimiser.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        for name, held in (("actors", self.actors), ("targets", self._targets)):
            for actor, values in zip(held, state[name], strict=True):
                actor.load_state_dict(values)
        self._critics.load_state_dict(state["critics"])
        self._target_critics.load_state_dict(state["target_critics"])
        self._actor_optimiser.load_state_dict(state["actor_optimiser"])
        self._critic_optimiser.load_state_dict(state["critic_optimiser"])


def act(policy: VectorPolicy, observation: Any, state: Tensor | None) -> Tensor:
    """The deterministic action (B, d) in states that are encoded already, where encoders have no parameters."""
    return policy.actor(observation) if state is None else policy.actor.head(state)


class TSCACDDPG:
    """Deterministic TSCAC for embeddings, fusion weights and continuous controls, with any number of constraints."""

    name: ClassVar[str] = "tscac_ddpg"
    config_type: ClassVar[type[TSCACDDPGConfig]] = TSCACDDPGConfig

    def __init__(self, config: TSCACDDPGConfig, task: Task, seed: int = 0) -> None:
        if not task.action_spec.is_vector:
            raise ConfigError(
                f"tscac_ddpg learns vector actions, not {task.action_spec.kind!r}",
                where="tscac_ddpg.action_spec",
                mend="use embedding, fusion_weights or continuous actions, or tscac for items",
            )
        self.config, self.action_spec, self.objective = config, task.action_spec, task.objective
        constraints, everything = task.objective.constraints, list(range(len(task.objective.signals)))
        protected = everything[1:]
        self._names = [s.name for s in task.objective.signals]
        self._gains = torch.tensor([[task.objective.main.weight], *([c.gain] for c in constraints)], device=task.device)
        seeds = [seed, *(seed + 2 + k for k in protected)]
        made = [VectorPolicy(task.action_spec, config.actor, task.item_vectors, k).to(task.device) for k in seeds]
        self._main = Stage(config, task, everything, made[:1], seed + 1)
        self._one: Stage | None = None
        if protected:
            columns, actors = (everything, made[1:2]) if config.joint_stage_one else (protected, made[1:])
            self._one = Stage(config, task, columns, actors, seed + 2)
        self._held = ["joint"] if config.joint_stage_one else self._names[1:]
        held = len(self._one.actors) if self._one else 0
        self._lambda = one_each(config.multipliers, held, "tscac_ddpg.multipliers")
        self._multipliers = torch.tensor(self._lambda, device=task.device).unsqueeze(1)
        self._half, self._step = made[0].actor.half_range, 0

    def policy(self) -> VectorPolicy:
        """The main actor: in the first stage a clone of the log."""
        return self._main.actors[0]

    def collect_policy(self) -> VectorPolicy:
        """The main actor with its Gaussian exploration."""
        return self._main.actors[0]

    def auxiliaries(self) -> list[VectorPolicy]:
        """The actors of stage one: one a constraint, or the joint one."""
        return self._one.actors if self._one else []

    def observe(self, transitions: Transitions) -> None:
        """Nothing to see: learning is from batches alone."""

    def update(self, batch: Transitions) -> Update:
        """One step of the stage at hand."""
        self._step += 1
        state = shared_state(self.policy().actor.encoder, batch.observation)
        reward = batch.reward.T * self._gains
        if self._step <= self.config.stage_one_updates:
            return Update({"stage": 1.0, **self._stage_one(batch, state, reward)})
        return Update({"stage": 2.0, **self._stage_two(batch, state, reward)})

    def _stage_one(self, batch: Transitions, state: Tensor | None, reward: Tensor) -> dict[str, Any]:
        imitation = self._main.imitation(self._main.actions(batch, state), batch.action).sum()
        self._main.climb(imitation)
        metrics: dict[str, Any] = {"cloning_loss": imitation.detach()}
        if self._one is None:
            return metrics
        losses = self._one.learn_values(batch, state, reward)
        actions = self._one.actions(batch, state)
        values = self._one.values(batch, state, actions)
        climbed = values.sum(0, keepdim=True) if self.config.joint_stage_one else values
        scale = climbed.detach().abs().mean(1).clamp_min(1e-6)
        loss = self.config.imitation * self._one.imitation(actions, batch.action) - climbed.mean(1) / scale
        self._one.climb(loss.sum())
        metrics |= {f"critic_loss_{self._names[k]}": found for k, found in zip(self._one.columns, losses, strict=True)}
        return metrics | {f"actor_loss_{name}": found for name, found in zip(self._held, loss.detach(), strict=True)}

    def _stage_two(self, batch: Transitions, state: Tensor | None, reward: Tensor) -> dict[str, Any]:
        losses = self._main.learn_values(batch, state, reward)
        action = self._main.actions(batch, state)
        main = self._main.first_value(batch, state, action[0])
        with torch.no_grad():
            values = self._main.values(batch, state, action)
        scale = main.detach().abs().mean().clamp_min(1e-6)
        imitation = self._main.imitation(action, batch.action).sum()
        metrics: dict[str, Any] = {f"critic_loss_{name}": found for name, found in zip(self._names, losses, strict=True)}
        if self._one is None:
            loss = self.config.imitation * imitation - main.mean() / scale
        else:
            with torch.no_grad():
                held = self._one.actions(batch, state) / self._half
            gate = closeness_gate(action[0] / self._half, held, self._multipliers, self.config.bandwidth)
            square = ((action / self._half - held) ** 2).mean((1, 2))
            loss = self.config.imitation * imitation + self.config.closeness * square.sum() - (gate * main).mean() / scale
            metrics["gate"] = gate.mean()
            for name, far, multiplier in zip(self._held, square.detach().sqrt(), self._lambda, strict=True):
                metrics |= {f"distance_{name}": far, f"lambda_{name}": multiplier}
        self._main.climb(loss)
        return {**metrics, "actor_loss": loss.detach(), "bc_error": imitation.detach(), **self._levels(batch, values.mean(1))}

    def _levels(self, batch: Transitions, values: Tensor) -> dict[str, Tensor]:
        """Values of all responses under the main actor, and the slack of those with a bound."""
        found = {f"value_{name}": value for name, value in zip(self._names, values / self._gains.squeeze(1), strict=True)}
        for constraint in self.objective.constraints:
            if constraint.bound is not None:
                signal = constraint.signal
                step = 1.0 - torch.where(batch.session_end, signal.discount_across, signal.discount_within).mean()
                sign = 1.0 if constraint.direction == "at_least" else -1.0
                found[f"slack_{signal.name}"] = sign * (found[f"value_{signal.name}"] * step - constraint.bound)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Both stages and the step."""
        return {"main": self._main.state_dict(), "one": self._one.state_dict() if self._one else {}, "step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._main.load_state_dict(state["main"])
        if self._one is not None:
            self._one.load_state_dict(state["one"])
        self._step = int(state["step"])
