r"""ESCP: a context that is the same within an environment and apart between environments, here on TD3.

    z = (s, phi(s)),   L_phi = lambda sum_i |phi_i - c_e(i)| - log det(R + eps I),   R_ef = exp(-alpha |c_e - c_f|)

``c_e`` is the running mean of the contexts of environment ``e``, which changes when the world does. Which environment a transition comes
from is told by ``Transitions.notes["environment"]``, (B,) int64, taken modulo ``environments``; who collects writes it. Without the note
``phi`` is trained by the critics alone. Everything else is TD3 on ``z``.

**Differences from the authors' code**: theirs stands on soft actor-critic, encodes a window of transitions by a GRU (take ``gru`` as the
encoder's kind for that), and has a bounded memory of environments; the determinant is that of :mod:`recrl.algorithms.abstraction`.

**Metrics**: those of TD3; ``abstraction_loss``, ``abstraction_spread``, ``abstraction_between``.

**Source**: Luo et al., "Adapt to Environment Sudden Changes by Learning a Context Sensitive Policy", AAAI 2022.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from recrl.algorithms.abstraction import Abstraction, AbstractionConfig
from recrl.algorithms.auro import with_abstraction
from recrl.algorithms.task import Task
from recrl.algorithms.td3 import TD3, TD3Config
from recrl.core.contracts import Transitions, Update
from recrl.core.errors import ConfigError
from recrl.policies.abstraction import AbstractedEncoder


@dataclass(frozen=True)
class ESCPConfig(TD3Config):
    """Options of TD3, and those of the context.

    Attributes:
        context: the context and the rate of its loss.
        environments: how many are told apart.
    """

    context: AbstractionConfig = AbstractionConfig(loss="determinant")
    environments: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.environments < 2 or not self.context.size or self.context.loss == "none":
            raise ConfigError(
                f"environments={self.environments}, context.size={self.context.size}, context.loss={self.context.loss!r}",
                where="escp",
                mend="a context of some width, with a loss, and at least two environments",
            )


class ESCP(TD3):
    """ESCP for vector actions: embeddings, fusion weights, continuous controls."""

    name: ClassVar[str] = "escp"
    config_type: ClassVar[type[ESCPConfig]] = ESCPConfig
    config: ESCPConfig

    def __init__(self, config: ESCPConfig, task: Task, seed: int = 0) -> None:
        super().__init__(replace(config, actor=with_abstraction(config.actor, config.context)), task, seed)
        assert isinstance(self._encoder, AbstractedEncoder)
        self._base = self._encoder.base
        self._context = Abstraction(self._encoder, config.context, config.environments)
        self._context_metrics: dict[str, Tensor] = {}

    def update(self, batch: Transitions) -> Update:
        """A step of TD3; every ``context.every``-th call one of the context, where environments are told."""
        update = super().update(batch)
        told = batch.notes.get("environment")
        if told is not None and (self._step - 1) % self.config.context.every == 0:
            state = self._base(batch.observation)
            self._context_metrics = self._context.learn(state, batch.reward[:, 0], told % self.config.environments)
        return Update({**update.metrics, **self._context_metrics})

    def state_dict(self) -> dict[str, Any]:
        """That of TD3, and the context's."""
        return {**super().state_dict(), "context": self._context.state_dict(), "context_metrics": self._context_metrics}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        super().load_state_dict(state)
        self._context.load_state_dict(state["context"])
        self._context_metrics = {name: value.to(self._streams.device) for name, value in state["context_metrics"].items()}
