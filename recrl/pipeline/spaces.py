"""What a sweep may vary: ranges of a learner's options, stated or usual ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from recrl.core.errors import ConfigError

USUAL: dict[str, str] = {
    "learning_rate": "1e-4..1e-2 log",
    "actor_learning_rate": "3e-5..3e-3 log",
    "critic_learning_rate": "1e-4..1e-2 log",
    "generator_learning_rate": "1e-4..1e-2 log",
    "weight_decay": "1e-5..1e-1 log",
    "alpha": "0.3..10 log",
    "expectile": "0.5..0.95",
    "inverse_temperature": "0.3..10 log",
    "temperature": "0.1..10 log",
    "conservative_weight": "0.1..10 log",
    "imitation": "0.001..1 log",
    "perturbation": "0.01..0.3 log",
}
"""Ranges by name of an option: every learner that has the option is given the same one."""


@dataclass(frozen=True)
class Range:
    """One option and where it may lie.

    >>> Range.parse("td3_bc.alpha=0.5..8 log").learner
    'td3_bc'
    """

    learner: str
    option: str
    distribution: BaseDistribution

    @staticmethod
    def parse(text: str) -> Range:
        """From the command line: ``alpha=0.5..8``, ``alpha=0.5..8 log``, ``iql.expectile=0.5,0.7,0.9``, ``policy_delay=1..4``.

        Whole ends mean whole numbers. Without a learner the range is for all that have the option.

        **Errors**: :class:`ConfigError` for anything else.
        """
        name, sign, values = text.partition("=")
        learner, _, option = name.strip().rpartition(".")
        try:
            if not sign or not option:
                raise ValueError
            return Range(learner, option, _distribution(values.strip()))
        except ValueError:
            mend = "write 'alpha=0.5..8 log', 'policy_delay=1..4' or 'iql.expectile=0.5,0.7,0.9', each in quotes"
            raise ConfigError(f"{text!r} is no range", where="--space", mend=mend) from None


def _distribution(values: str) -> BaseDistribution:
    if ".." not in values:
        choices = [_number(part) for part in values.split(",")]
        return CategoricalDistribution(choices)
    ends, _, scale = values.partition(" ")
    if scale not in ("", "log"):
        raise ValueError
    low, high = (_number(part) for part in ends.split(".."))
    if low >= high:
        raise ValueError
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=scale == "log")
    return FloatDistribution(low, high, log=scale == "log")


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def space_of(learner: str, config: Any, asked: Sequence[Range]) -> dict[str, BaseDistribution]:
    """Ranges of a learner's options: those asked for, or the usual ones of the options it has; none for a learner without any.

    **Errors**: :class:`ConfigError` for an option that a named learner does not have.
    """
    known = {field.name for field in fields(config)}
    found: dict[str, BaseDistribution] = {}
    for one in asked:
        if one.learner not in ("", learner):
            continue
        if one.option not in known:
            if one.learner:
                raise ConfigError(f"{learner} has no option {one.option!r}", where="--space", mend=f"it has {', '.join(sorted(known))}")
            continue
        found[one.option] = one.distribution
    return found or {name: _distribution(values) for name, values in USUAL.items() if name in known and not asked}
