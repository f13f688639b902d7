"""The learners, one file a method; :data:`REGISTRY` names them."""

from __future__ import annotations

from recrl.algorithms.bc import BC
from recrl.algorithms.task import Learner
from recrl.algorithms.td3 import TD3
from recrl.algorithms.td3_bc import TD3BC

REGISTRY: dict[str, type[Learner]] = {learner.name: learner for learner in (BC, TD3, TD3BC)}
"""Learners by name; each is built as ``learner(learner.config_type(), task, seed)``."""
