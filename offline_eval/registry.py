"""Every estimator by name."""

from __future__ import annotations

from offline_eval import bandit, doubly_robust, sequential
from recrl.core.contracts import Estimator
from recrl.core.errors import ConfigError

REGISTRY: dict[str, Estimator] = {**bandit.REGISTRY, **doubly_robust.REGISTRY, **sequential.REGISTRY}
"""Estimators by name, with default options."""


def resolve(estimator: str | Estimator) -> Estimator:
    """An estimator by name, or the estimator given.

    **Errors**: :class:`ConfigError` for an unknown name.
    """
    if not isinstance(estimator, str):
        return estimator
    if estimator not in REGISTRY:
        raise ConfigError(f"unknown estimator {estimator!r}", where="estimators", mend=f"choose from: {', '.join(REGISTRY)}")
    return REGISTRY[estimator]
