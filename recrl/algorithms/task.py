"""What a learner is told about its task before it sees the first batch, and how it is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from recrl.core.contracts import ActionSpec, Algorithm
from recrl.core.objective import Objective
from recrl.policies import AnyPolicy


@dataclass(frozen=True, eq=False)
class Task:
    """The task a learner works on.

    Attributes:
        action_spec: what an action is.
        objective: rewards (columns of ``Transitions.reward``) and their discounts.
        item_vectors: (n_items, d), for encoders and embedding actions; ``None`` in control tasks.
        item_log_counts: (n_items,) log of one plus the training count, for item softmaxes.
        device: where networks live.
    """

    action_spec: ActionSpec
    objective: Objective = Objective()
    item_vectors: Tensor | None = None
    item_log_counts: Tensor | None = None
    device: str = "cpu"


class Learner(Algorithm, Protocol):
    """An algorithm of the registry: built from its options, a task and a seed."""

    config_type: ClassVar[type[Any]]

    def __init__(self, config: Any, task: Task, seed: int = 0) -> None: ...

    def policy(self) -> AnyPolicy:
        """The policy as it would be deployed now."""
        ...
