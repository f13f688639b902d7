"""Options of the simulated world, and the named scenarios of satisfaction's effect on return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from recrl.core.errors import ConfigError
from simulators.drift import DriftConfig

WorldAction = Literal["item", "slate", "fusion_weights", "embedding"]
Scenario = Literal["fitted", "weak", "strong"]

ETA_WEAK: Final = 1.0
"""Log-odds of return a unit of satisfaction adds in scenario ``weak``."""

ETA_STRONG: Final = 5.0
"""The same in scenario ``strong``."""

# beyond ten years a clock in single precision no longer sees a request go by
_LONGEST = 3650


@dataclass(frozen=True)
class WorldConfig:
    """Options of a :class:`simulators.world.RetentionWorld`.

    Attributes:
        action_kind: what a policy decides: one ``item``, a ``slate``, ``fusion_weights`` over the seven predicted behaviours,
            or an ``embedding`` that is matched with item vectors.
        slate_size: items shown at a request (1 for ``action_kind="item"``).
        pool_size: candidates of a request, drawn anew for each; 0 for the full catalogue.
        exclude_recent: how many of the last shown items are kept out of the candidates.
        history: shown items that a user remembers.
        horizon_days: a user whose next session would start on this day or later is truncated.
        scenario: effect of satisfaction on return: ``fitted`` (what the log supports), ``weak`` or ``strong``.
        slate_reward: whether behaviours and watch time are averaged or summed over the slate.
        request_seconds: time a request takes on the user's clock.
        observe_scores: add ``candidates`` and their predicted behaviours to the observation.
        truth: put true probabilities, hazards and the state of the drift into ``Outcome.truth``.
        drift: how the world changes with the calendar; not at all by default.
    """

    action_kind: WorldAction = "fusion_weights"
    slate_size: int = 6
    pool_size: int = 200
    exclude_recent: int = 30
    history: int = 50
    horizon_days: int = 30
    scenario: Scenario = "fitted"
    slate_reward: Literal["mean", "sum"] = "mean"
    request_seconds: float = 30.0
    observe_scores: bool = False
    truth: bool = True
    drift: DriftConfig = DriftConfig()

    def __post_init__(self) -> None:
        for name, kinds in (("action_kind", get_args(WorldAction)), ("scenario", get_args(Scenario)), ("slate_reward", ("mean", "sum"))):
            if getattr(self, name) not in kinds:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}", where=f"WorldConfig.{name}", mend=f"choose one of {', '.join(kinds)}"
                )
        for name, least in (("slate_size", 1), ("pool_size", 0), ("exclude_recent", 0), ("history", 1), ("horizon_days", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}", where=f"WorldConfig.{name}", mend=f"it must be at least {least}")
        if self.horizon_days > _LONGEST:
            raise ConfigError(
                f"horizon_days is {self.horizon_days}",
                where="WorldConfig.horizon_days",
                mend=f"clocks are exact for at most {_LONGEST} days",
            )
        if self.slate_size > 255:
            raise ConfigError(f"slate_size is {self.slate_size}", where="WorldConfig.slate_size", mend="at most 255 items fit a request")
        if self.exclude_recent > self.history:
            raise ConfigError(
                f"exclude_recent={self.exclude_recent} reaches beyond history={self.history}",
                where="WorldConfig.exclude_recent",
                mend="raise history or lower exclude_recent",
            )
        if 0 < self.pool_size < self.shown:
            raise ConfigError(
                f"pool_size={self.pool_size} cannot fill a slate of {self.shown}",
                where="WorldConfig.pool_size",
                mend="raise pool_size, or set 0",
            )
        if not 0 < self.request_seconds <= 3600:
            raise ConfigError(
                f"request_seconds is {self.request_seconds}", where="WorldConfig.request_seconds", mend="give 1 to 3600 seconds"
            )

    @property
    def shown(self) -> int:
        """Items shown at a request."""
        return 1 if self.action_kind == "item" else self.slate_size
