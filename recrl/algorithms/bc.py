"""Behaviour cloning (BC): imitate the logged actions by maximum likelihood.

For item actions the policy is a softmax over the catalogue and the loss is the cross-entropy of the shown item; it doubles as the
estimated logging policy of off-policy evaluation. For vector actions the policy is a Gaussian of fixed spread and the loss is
the squared error of its mean, the same likelihood up to constants.

**Metrics**: ``loss``: mean negative log-likelihood (items, nats) or mean squared error a component (vectors).

**Source**: Pomerleau, "ALVINN", NeurIPS 1988; the common name is behaviour cloning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from recrl.algorithms.task import Task
from recrl.core.contracts import Transitions, Update
from recrl.core.errors import ConfigError
from recrl.policies.items import ItemPolicy, SoftmaxScores
from recrl.policies.vector import ActorConfig, VectorPolicy


@dataclass(frozen=True)
class BCConfig:
    """Options of behaviour cloning.

    Attributes:
        actor: the policy network.
        learning_rate: of Adam.
        weight_decay: decoupled (AdamW).
    """

    actor: ActorConfig = ActorConfig()
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3


class BC:
    """Behaviour cloning for item and vector actions."""

    name: ClassVar[str] = "bc"
    config_type: ClassVar[type[BCConfig]] = BCConfig

    def __init__(self, config: BCConfig, task: Task, seed: int = 0) -> None:
        self.config, self.action_spec = config, task.action_spec
        self._policy: ItemPolicy | VectorPolicy
        if task.action_spec.is_vector:
            self._policy = VectorPolicy(task.action_spec, config.actor, task.item_vectors, seed)
        elif task.action_spec.kind == "item" and task.item_vectors is not None and task.item_log_counts is not None:
            scores = SoftmaxScores(config.actor, task.item_vectors, task.item_log_counts, seed)
            self._policy = ItemPolicy(scores, task.action_spec)
        else:
            raise ConfigError(
                f"bc cannot clone {task.action_spec.kind!r} actions here",
                where="bc.action_spec",
                mend="use item (with item vectors and counts), embedding, fusion_weights or continuous actions",
            )
        self._policy.to(task.device)
        self._optimiser = torch.optim.AdamW(self._policy.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)

    def policy(self) -> ItemPolicy | VectorPolicy:
        """The cloned policy."""
        return self._policy

    def collect_policy(self) -> ItemPolicy | VectorPolicy:
        """The cloned policy; it draws from its own distribution."""
        return self._policy

    def observe(self, transitions: Transitions) -> None:
        """Nothing to see: cloning learns from batches alone."""

    def update(self, batch: Transitions) -> Update:
        """One likelihood step."""
        if isinstance(self._policy, VectorPolicy):
            loss = torch.nn.functional.mse_loss(self._policy.actor(batch.observation), batch.action)
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
