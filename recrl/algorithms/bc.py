"""Behaviour cloning (BC): imitate the logged actions by maximum likelihood.

For items and slates the policy is a Plackett-Luce softmax over the catalogue, for discrete actions a softmax over the choices; cloning
items doubles as the estimated logging policy of off-policy evaluation. For vectors it is a Gaussian of fixed spread, fitted by the squared
error of its mean (the same likelihood up to constants), or a squashed Gaussian whose spread is learned too.

**Metrics**: ``loss``: mean negative log-likelihood of an action in nats; mean squared error a component for a Gaussian of fixed spread.

**Source**: Pomerleau, "ALVINN", NeurIPS 1988; the common name is behaviour cloning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from recrl.algorithms.task import Task
from recrl.core.contracts import Transitions, Update
from recrl.core.errors import ConfigError
from recrl.policies import AnyPolicy
from recrl.policies.discrete import DiscretePolicy
from recrl.policies.gaussian import GaussianPolicy
from recrl.policies.items import ItemPolicy, SoftmaxScores
from recrl.policies.vector import ActorConfig, VectorPolicy


@dataclass(frozen=True)
class BCConfig:
    """Options of behaviour cloning.

    Attributes:
        actor: the policy network.
        spread: of vector actions: ``fixed`` fits the mean alone, ``learned`` a squashed Gaussian by likelihood.
        learning_rate: of Adam.
        weight_decay: decoupled (AdamW).
    """

    actor: ActorConfig = ActorConfig()
    spread: Literal["fixed", "learned"] = "fixed"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3


def build_policy(config: BCConfig, task: Task, seed: int) -> AnyPolicy:
    """The policy that clones actions of the task's kind.

    **Errors**: :class:`ConfigError` for a kind that cannot be cloned, or items without vectors and counts.
    """
    spec, actor = task.action_spec, config.actor
    if spec.is_vector:
        return (VectorPolicy if config.spread == "fixed" else GaussianPolicy)(spec, actor, task.item_vectors, seed)
    if spec.kind == "discrete":
        return DiscretePolicy(spec, actor, task.item_vectors, seed)
    if spec.kind in ("item", "slate") and task.item_vectors is not None and task.item_log_counts is not None:
        return ItemPolicy(SoftmaxScores(actor, task.item_vectors, task.item_log_counts, seed), spec)
    raise ConfigError(
        f"bc cannot clone {spec.kind!r} actions here",
        where="bc.action_spec",
        mend="use item or slate (with item vectors and counts), discrete, embedding, fusion_weights or continuous actions",
    )


class BC:
    """Behaviour cloning for every action kind but text."""

    name: ClassVar[str] = "bc"
    config_type: ClassVar[type[BCConfig]] = BCConfig

    def __init__(self, config: BCConfig, task: Task, seed: int = 0) -> None:
        self.config, self.action_spec = config, task.action_spec
        self._policy = build_policy(config, task, seed).to(task.device)
        self._optimiser = torch.optim.AdamW(self._policy.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)

    def policy(self) -> AnyPolicy:
        """The cloned policy."""
        return self._policy

    def collect_policy(self) -> AnyPolicy:
        """The cloned policy; it draws from its own distribution."""
        return self._policy

    def observe(self, transitions: Transitions) -> None:
        """Nothing to see: cloning learns from batches alone."""

    def update(self, batch: Transitions) -> Update:
        """One likelihood step."""
        if isinstance(self._policy, VectorPolicy):
            loss = torch.nn.functional.mse_loss(self._policy.centre(batch.observation), batch.action)
        else:
            loss = -self._policy.log_prob(batch.observation, batch.action).mean()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
        return Update({"loss": loss.detach()})

    def state_dict(self) -> dict[str, Any]:
        """Network and optimiser."""
        return {"policy": self._policy.state_dict(), "optimiser": self._optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._policy.load_state_dict(state["policy"])
        self._optimiser.load_state_dict(state["optimiser"])
