"""What is optimised and measured: one spec for training, off-policy evaluation, A/B tests and the dashboard."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from recrl.core.errors import ConfigError


@dataclass(frozen=True)
class Signal:
    """One reward signal with its own discount.

    ``name`` is a behaviour, ``watch_seconds``, ``rating`` or ``return`` (minus the days until the user is back, paid when a session ends;
    :meth:`Objective.churn_days` for who never is).
    ``discount_within`` applies from request to request inside a session, ``discount_across`` over a session
    boundary (1 and 0 give RLUR's rule: undiscounted inside a session, nothing beyond).
    """

    name: str
    weight: float = 1.0
    discount_within: float = 0.99
    discount_across: float = 0.99

    def __post_init__(self) -> None:
        for field in ("discount_within", "discount_across"):
            value = getattr(self, field)
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"{field} of signal {self.name!r} is {value}; a discount lies in [0, 1]", where=f"objective.{field}")


_CONSTRAINT = re.compile(r"([a-z_]+)(?:(>=|<=)([-+.\deE]+))?(?:@([.\deE-]+))?")


@dataclass(frozen=True)
class Constraint:
    """A bound on a response: ``at_least`` for interactions to protect, ``at_most`` for harms such as hate.

    **Units**: ``bound`` is a mean a request, as tables of rates show it; ``None`` where a method needs none.
    """

    signal: Signal
    direction: Literal["at_least", "at_most"]
    bound: float | None = None

    @property
    def gain(self) -> float:
        """What one unit of the response counts for a learner that maximises it: the signal's weight, negative for a harm."""
        return self.signal.weight if self.direction == "at_least" else -self.signal.weight

    @staticmethod
    def parse(text: str, discount: float = 0.99) -> Constraint:
        """A constraint as a command line writes it: ``like>=0.2``, ``hate<=0.001``, ``like`` without a bound; ``@0.9`` is its discount.

        A response without a bound is protected from below, ``hate`` from above.

        **Errors**: :class:`ConfigError` for anything else.

        >>> Constraint.parse("hate<=0.001@0.9").gain
        -1.0
        """
        found = _CONSTRAINT.fullmatch(text.replace(" ", ""))
        if found is None:
            raise ConfigError(
                f"{text!r} is no constraint", where="--constraints", mend="write 'like>=0.2', 'hate<=0.001' or 'like', each in quotes"
            )
        name, sign, bound, own = found.groups()
        try:
            held = float(own) if own else discount
            most = sign == "<=" or (sign is None and name == "hate")
            return Constraint(Signal(name, 1.0, held, held), "at_most" if most else "at_least", float(bound) if bound else None)
        except ValueError:
            raise ConfigError(f"{text!r} holds no number where one is due", where="--constraints", mend="write 'like>=0.2@0.9'") from None


@dataclass(frozen=True)
class Objective:
    """Main reward, constrained responses, and who counts as gone.

    Attributes:
        main: the signal to maximise.
        constraints: responses to protect, each with its own discount.
        max_gap_days: a user who has not returned within this many days counts as churned.
    """

    main: Signal = Signal("long_view")
    constraints: tuple[Constraint, ...] = ()
    max_gap_days: int = 10

    def __post_init__(self) -> None:
        names = [s.name for s in self.signals]
        if len(set(names)) != len(names):
            raise ConfigError(f"each signal may appear once; got {names}", where="objective.constraints", mend="name each response once")
        if self.max_gap_days < 1:
            raise ConfigError(f"max_gap_days is {self.max_gap_days}; it must be at least 1", where="objective.max_gap_days")
        if any(s.name == "return" and s.discount_across >= 1.0 for s in self.signals):
            raise ConfigError(
                "the days away of a user who never comes back have no sum without a discount",
                where="objective.discount_across of signal 'return'",
                mend="choose a discount across sessions below 1, such as 0.95",
            )

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Main signal first, then the constrained ones: the column order of every reward array."""
        return (self.main, *(c.signal for c in self.constraints))

    def churn_days(self, signal: Signal) -> float:
        """What a user who never comes back costs under the signal ``return``, in days: ``max_gap_days / (1 - discount_across)``.

        As if away for ``max_gap_days`` again and again. Were it less, to lose a user, whose life ends there, could cost less than to keep
        one whose gaps go on.

        >>> Objective().churn_days(Signal("return", discount_within=1.0, discount_across=0.9))
        100.0
        """
        return round(self.max_gap_days / (1.0 - signal.discount_across), 9)

    def protecting(self, constraints: tuple[str, ...], discount: float = 0.99) -> Objective:
        """The same objective with constraints as a command line writes them (:meth:`Constraint.parse`)."""
        return replace(self, constraints=tuple(Constraint.parse(text, discount) for text in constraints))
