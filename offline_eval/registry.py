"""Every estimator by name."""

from __future__ import annotations

from typing import Literal

from offline_eval import bandit, doubly_robust, sequential, slates
from recrl.core.contracts import Estimator
from recrl.core.errors import ConfigError

REGISTRY: dict[str, Estimator] = {**bandit.REGISTRY, **doubly_robust.REGISTRY, **sequential.REGISTRY, **slates.REGISTRY}
"""Estimators by name, with default options."""


Need = Literal["predictions", "trajectory"]

_PREDICTED = {*doubly_robust.REGISTRY, "seq_dm", "seq_dr", "seq_wdr"}


def needs(estimator: str | Estimator) -> frozenset[Need]:
    """What :class:`LoggedFeedback` must hold beyond rewards, log-probabilities and users for an estimator of the registry.

    ``predictions``: ``target_value`` (and ``logged_value``); ``trajectory``: consecutive steps, with their discounts.

    >>> sorted(needs("seq_dr")), sorted(needs("snips"))
    (['predictions', 'trajectory'], [])
    """
    name = resolve(estimator).name
    found: set[Need] = set()
    if name in _PREDICTED:
        found.add("predictions")
    if name in sequential.REGISTRY or name in slates.REGISTRY:
        found.add("trajectory")
    return frozenset(found)


def resolve(estimator: str | Estimator) -> Estimator:
    """An estimator by name, or the estimator given.

    **Errors**: :class:`ConfigError` for an unknown name.
    """
    if not isinstance(estimator, str):
        return estimator
    if estimator not in REGISTRY:
        raise ConfigError(f"unknown estimator {estimator!r}", where="estimators", mend=f"choose from: {', '.join(REGISTRY)}")
    return REGISTRY[estimator]
