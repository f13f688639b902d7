"""How the world changes with the calendar: seven kinds of drift, each a function of its own seed and the day alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.errors import ConfigError, ContractError
from recrl.core.streams import Purpose, Streams

DriftKind = Literal["none", "glitch", "held", "weekly", "regimes", "taste", "mix", "N0", "N1", "N2", "N3", "N4", "N5", "N6"]
_KINDS: Final = get_args(DriftKind)[:7]
# amplitude and days a period
_USUAL: Final = {
    "none": (0.0, 1),
    "glitch": (0.2, 7),
    "held": (0.2, 7),
    "weekly": (0.3, 7),
    "regimes": (0.3, 14),
    "taste": (0.2, 7),
    "mix": (0.5, 7),
}
_PIECEWISE: Final = ("held", "regimes", "mix")
GLITCH_SHARE: Final = 1e-3
"""Share of the time that a ``glitch`` lasts: one step in 1,000."""

# which part of the path a draw belongs to
_MULTIPLIER, _SINE, _WALK, _SIGN, _PLANES, _MIX, _BIRTH, _LIFE, _FADE = range(9)


@dataclass(frozen=True)
class DriftConfig:
    """What drifts, and how.

    ==========  ===========  ==========================================================================  =========  ======
    kind        as in briefs  rule                                                                        amplitude  period
    ==========  ===========  ==========================================================================  =========  ======
    none        N0           nothing drifts
    glitch      N1           response probabilities times m ~ U[1 - a, 1 + a] in the middle thousandth    .2         7
                             of every period, else 1
    held        N2           the same m, held for the whole period                                       .2         7
    weekly      N3           response log-odds + A_f sin(2 pi t / period + phi_f) + random walk,         .3         7
                             A_f ~ a U[.5, 1.5]
    regimes     N4           log-odds of return + a or - a, the sign turns at every switch               .3         14
    taste       N5           user vectors turn by ``a`` radians a period; items fade with age            .2         7
    mix         N6           groups arrive in proportion to share * exp(a U[-1, 1]), drawn each period   .5         7
    ==========  ===========  ==========================================================================  =========  ======

    AURO counts steps, a thousand of which are 100 sessions of a user slot. Here the calendar decides: what is kept of its glitch is
    the share of time, a thousandth (ten minutes in the middle of every week), and of its evident intent one ``m`` a period.
    Items may come and go under every kind.

    Attributes:
        kind: one of the names above, or its ``N`` code.
        amplitude: the ``a`` of the table; ``None`` takes the usual one of the kind.
        period_days: whole days of a period; ``None`` takes the usual one of the kind.
        switch_days: days on which ``held``, ``regimes`` and ``mix`` switch, rising, instead of every period.
        walk: standard deviation of the daily step of the random walk of ``weekly``.
        fade: mean log-odds that an item's click loses for good as it ages, under ``taste``; items differ, from 0 to twice as much.
        fade_half_life_days: age at which half of it is lost.
        newborn_share: share of the catalogue that is born later than day 0.
        newborn_days: those are born evenly over days 1 to this.
        item_life_days: mean days that an item lives (exponential); 0 for ever.
        unseen_share: share of the simulated users whom no log has shown: drawn from the law of the fitted ones, unknown to the platform.
        seed: seed of the path, apart from that of the users.

    **Errors**: :class:`ConfigError` for an option out of range.
    """

    kind: DriftKind = "none"
    amplitude: float | None = None
    period_days: int | None = None
    switch_days: tuple[int, ...] = ()
    walk: float = 0.05
    fade: float = 0.5
    fade_half_life_days: float = 7.0
    newborn_share: float = 0.0
    newborn_days: int = 30
    item_life_days: float = 0.0
    unseen_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(DriftKind):
            raise ConfigError(f"kind is {self.kind!r}", where="DriftConfig.kind", mend=f"choose one of {', '.join(get_args(DriftKind))}")
        if self.kind[1:].isdigit():
            object.__setattr__(self, "kind", _KINDS[int(self.kind[1:])])
        if not 0.0 <= self.size < (1.0 if self.kind in ("glitch", "held") else np.inf):
            raise ConfigError(
                f"amplitude is {self.amplitude}", where="DriftConfig.amplitude", mend="give 0 or more, below 1 where it multiplies"
            )
        for name, least in (("period", 1), ("walk", 0), ("fade", 0), ("item_life_days", 0), ("newborn_days", 1)):
            if not getattr(self, name) >= least:
                where = "DriftConfig.period_days" if name == "period" else f"DriftConfig.{name}"
                raise ConfigError(f"{name} is {getattr(self, name)}", where=where, mend=f"it must be at least {least}")
        if not self.fade_half_life_days > 0:
            raise ConfigError(
                f"half life is {self.fade_half_life_days}", where="DriftConfig.fade_half_life_days", mend="it must be positive"
            )
        for name in ("newborn_share", "unseen_share"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)}", where=f"DriftConfig.{name}", mend="give a share from 0 to below 1")
        self._check_switches()

    def _check_switches(self) -> None:
        days = self.switch_days
        if days and self.kind not in _PIECEWISE:
            raise ConfigError(f"{self.kind} does not switch", where="DriftConfig.switch_days", mend=f"leave it empty, or use {_PIECEWISE}")
        if any(b <= a for a, b in zip((0, *days), days, strict=False)):
            raise ConfigError(f"switch_days are {days}", where="DriftConfig.switch_days", mend="give rising days from 1 on")

    @property
    def code(self) -> str:
        """The kind as the literature on simulators counts it: ``N0`` to ``N6``."""
        return f"N{_KINDS.index(self.kind)}"

    @property
    def size(self) -> float:
        """The amplitude in force."""
        return _USUAL[self.kind][0] if self.amplitude is None else self.amplitude

    @property
    def period(self) -> int:
        """The days of a period in force."""
        return _USUAL[self.kind][1] if self.period_days is None else self.period_days


class Drift:
    """The path of one drift: pure functions of the absolute calendar day, the same for every policy that lives through it.

    Values are looked up in tables by whole day, made once from counter-based draws: a longer horizon continues the same path, no
    step waits for the device, and a user's bits depend on nobody else. Days beyond the horizon count as its last. What does not drift
    is ``None``, so that a step can leave it out.

    Args:
        config: what drifts.
        horizon_days: last day that will be asked for.
        dim: length of user vectors, for ``taste``.
        n_items: size of the catalogue, for items that fade, come or go.
        groups: (n_users,) activity group of each user, -1 for none, for ``mix``.
        device: where the tables live.

    **Errors**: :class:`ConfigError` where the kind needs one of these and it is missing, or no item would be left.

    >>> drift = Drift(DriftConfig("held", seed=3))
    >>> m = drift.factor(torch.tensor([0.2, 6.9, 7.0]))
    >>> bool(m[0] == m[1]), bool(m[1] == m[2])
    (True, False)
    """

    def __init__(
        self,
        config: DriftConfig,
        *,
        horizon_days: int = 30,
        dim: int = 0,
        n_items: int = 0,
        groups: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if horizon_days < 0:
            raise ConfigError(f"horizon_days is {horizon_days}", where="Drift.horizon_days", mend="it must be at least 0")
        needs = {"taste": (dim > 0, "dim"), "mix": (groups is not None, "groups")}.get(config.kind, (True, ""))
        if not needs[0]:
            raise ConfigError(f"{config.kind} needs {needs[1]}", where=f"Drift.{needs[1]}", mend="give it, or choose another kind")
        self.config, self.horizon_days, self.device = config, horizon_days, torch.device(device)
        self._draws = Streams(config.seed)
        self._days = np.arange(horizon_days + 1)
        kind = config.kind
        self._factor = self._on_device(self._multipliers()) if kind in ("glitch", "held") else None
        self._response = self._on_device(self._weekly()) if kind == "weekly" else None
        self._return = self._on_device(self._regimes()) if kind == "regimes" else None
        self._turn: Tensor | None = None
        self._mix: Tensor | None = None
        self._birth: Tensor | None = None
        self._death: Tensor | None = None
        self._fade: Tensor | None = None
        if kind == "taste":
            self._make_turn(dim)
        if kind == "mix" and groups is not None:
            self._make_mix(groups)
        self._make_items(n_items)

    # ------------------------------------------------------------------ the tables

    def _on_device(self, values: NDArray[np.generic]) -> Tensor:
        kind = np.float32 if np.issubdtype(values.dtype, np.floating) else values.dtype
        return torch.from_numpy(np.ascontiguousarray(values, dtype=kind)).to(self.device)

    def _segments(self) -> NDArray[np.int64]:
        """Number of the period of each day."""
        switches = self.config.switch_days
        return np.searchsorted(switches, self._days, side="right") if switches else self._days // self.config.period

    def _multipliers(self) -> NDArray[np.float64]:
        return 1.0 + self.config.size * (2.0 * self._draws.uniform(_MULTIPLIER, self._segments(), Purpose.DRIFT) - 1.0)

    def _weekly(self) -> NDArray[np.float64]:
        c, f = self.config, len(BEHAVIOURS)
        height, phase = self._draws.uniform(_SINE, 0, Purpose.DRIFT, (2, f))[0]
        angle = 2.0 * np.pi * (self._days[:, None] / c.period + phase)
        # the walk starts from 0
        steps = self._draws.normal(_WALK, self._days, Purpose.DRIFT, (f,)) * (self._days > 0)[:, None]
        return c.size * (0.5 + height) * np.sin(angle) + c.walk * np.cumsum(steps, axis=0)

    def _regimes(self) -> NDArray[np.float64]:
        first = self._draws.integers(2, _SIGN, 0, Purpose.DRIFT)[0]
        return np.where((self._segments() + first) % 2 == 0, self.config.size, -self.config.size)

    def _make_turn(self, dim: int) -> None:
        """Random planes of two coordinates each; with an odd number of them one stays as it is."""
        order = np.argsort(self._draws.uniform(_PLANES, np.arange(dim), Purpose.DRIFT))
        partner, sign = np.arange(dim), np.zeros(dim)
        a, b = order[0 : dim - 1 : 2], order[1::2]
        partner[a], partner[b] = b, a
        sign[a], sign[b] = -1.0, 1.0
        angle = self.config.size * self._days / self.config.period
        self._turn = self._on_device(np.stack([np.cos(angle), np.sin(angle), angle], axis=1))
        self._partner, self._sign = self._on_device(partner), self._on_device(sign)

    def _make_mix(self, groups: Tensor) -> None:
        code = groups.cpu().numpy().astype(np.int64)
        # users of no group are the last one
        code = np.where(code < 0, code.max(initial=-1) + 1, code)
        count = np.bincount(code)
        if not count.sum():
            raise ConfigError("nobody belongs to a group", where="Drift.groups", mend="give one code a user")
        tilt = 2.0 * self._draws.uniform(_MIX, self._segments(), Purpose.DRIFT, (len(count),)) - 1.0
        weight = count * np.exp(self.config.size * tilt)
        share = weight / weight.sum(1, keepdims=True)
        self._mix, self._bounds = self._on_device(share), self._on_device(np.cumsum(share, axis=1)[:, :-1])
        self._members = self._on_device(np.argsort(code, kind="stable"))
        self._starts = self._on_device(np.concatenate([[0], np.cumsum(count)]))

    def _make_items(self, n_items: int) -> None:
        c, ids = self.config, np.arange(n_items)
        comes_and_goes = c.newborn_share > 0 or c.item_life_days > 0
        if comes_and_goes and not n_items:
            raise ConfigError("items come and go, but there are none", where="Drift.n_items", mend="give the size of the catalogue")
        late, when = self._draws.uniform(_BIRTH, ids, Purpose.DRIFT, (2,)).T
        birth = np.where(late < c.newborn_share, 1 + np.floor(when * c.newborn_days), 0).astype(np.int64)
        if comes_and_goes:
            span = np.ceil(-c.item_life_days * np.log1p(-self._draws.uniform(_LIFE, ids, Purpose.DRIFT)))
            death = birth + np.maximum(span, 1).astype(np.int64) if c.item_life_days else np.full(n_items, 2**31, dtype=np.int64)
            self._birth, self._death = self._on_device(birth), self._on_device(death)
            change = np.zeros(self.horizon_days + 2, dtype=np.int64)
            np.add.at(change, np.minimum(birth, len(change) - 1), 1)
            np.add.at(change, np.minimum(death, len(change) - 1), -1)
            self.fewest_live = int(np.cumsum(change)[:-1].min())
        else:
            self.fewest_live = n_items
        if c.kind == "taste" and n_items and c.fade > 0:
            self._birth = self._on_device(birth)
            self._fade = self._on_device(-2.0 * c.fade * self._draws.uniform(_FADE, ids, Purpose.DRIFT))
            self._wear = self._on_device(1.0 - np.exp2(-self._days / c.fade_half_life_days))

    def _day(self, day: Tensor) -> Tensor:
        return day.to(torch.int64).clamp(0, self.horizon_days)

    # ------------------------------------------------------------------ what a step asks

    def factor(self, day: Tensor) -> Tensor | None:
        """What multiplies response probabilities on ``day`` (B,), cut at 1 by the caller: ``(B,)``."""
        if self._factor is None:
            return None
        held = self._factor[self._day(day)]
        if self.config.kind == "held":
            return held
        period = float(self.config.period)
        phase = torch.remainder(day, period)
        inside = (phase >= 0.5 * period) & (phase < (0.5 + GLITCH_SHARE) * period)
        return torch.where(inside, held, 1.0)

    def response_shift(self, day: Tensor) -> Tensor | None:
        """What is added to the log-odds of the seven behaviours: ``(B,)`` -> ``(B, 7)``."""
        return None if self._response is None else self._response[self._day(day)]

    def return_shift(self, day: Tensor) -> Tensor | None:
        """What is added to the log-odds of returning: ``(B,)`` -> ``(B,)``."""
        return None if self._return is None else self._return[self._day(day)]

    def turned(self, day: Tensor, user_rows: Tensor) -> Tensor:
        """User rows ``(B, dim + ...)`` with their vectors turned as far as on ``day`` (B,): an orthogonal map, the rest stays."""
        if self._turn is None:
            return user_rows
        dim = len(self._partner)
        if user_rows.shape[1] < dim:
            raise ContractError(f"user rows of {user_rows.shape[1]} columns for vectors of {dim}", where="Drift.turned")
        vector, turn = user_rows[:, :dim], self._turn[self._day(day)]
        across = vector[:, self._partner] * self._sign
        # an unpaired coordinate has nothing across and stays
        along = torch.where(self._sign == 0.0, 1.0, turn[:, :1])
        return torch.cat([vector * along + across * turn[:, 1:2], user_rows[:, dim:]], dim=1)

    def item_shift(self, day: Tensor, items: Tensor) -> Tensor | None:
        """What is added to the log-odds of a click as items age: ``(B,)``, ``(B, C)`` -> ``(B, C)``, at most 0."""
        if self._fade is None or self._birth is None:
            return None
        age = self._day(day).unsqueeze(1) - self._birth[items]
        return self._fade[items] * self._wear[age.clamp(0, self.horizon_days)]

    def live(self, day: Tensor, items: Tensor | None = None) -> Tensor | None:
        """Whether items are born and not dead on ``day`` (B,): of ``items`` (B, C) or of the whole catalogue -> bool of that shape."""
        if self._birth is None or self._death is None:
            return None
        today = self._day(day).unsqueeze(1)
        birth, death = (self._birth, self._death) if items is None else (self._birth[items], self._death[items])
        return (birth <= today) & (today < death)

    def user_mix(self, day: Tensor) -> Tensor | None:
        """Share of each group among the users who arrive on ``day``: ``(B,)`` -> ``(B, G)``; users of no group are the last."""
        return None if self._mix is None else self._mix[self._day(day)]

    def arriving(self, day: Tensor, draws: Tensor) -> Tensor | None:
        """Catalogue users who arrive on ``day`` (B,), from two uniform draws each: ``(B, 2)`` -> ``(B,)`` int64."""
        if self._mix is None:
            return None
        group = (draws[:, :1] >= self._bounds[self._day(day)]).sum(1)
        start, end = self._starts[group], self._starts[group + 1]
        place = start + (draws[:, 1] * (end - start)).to(torch.int64)
        return self._members[torch.minimum(place, end - 1)]

    def truth(self, day: Tensor) -> Tensor:
        """The state of the drift, for probes only: ``(B,)`` -> ``(B, m)``.

        ``m`` is 0 for ``none``; the multiplier (1) of ``glitch`` and ``held``; the shifts of ``weekly`` (7) and ``regimes`` (1); the angle
        of ``taste`` (1); the shares of ``mix`` (G).
        """
        angle = None if self._turn is None else self._turn[self._day(day)][:, 2]
        for value in (self.factor(day), self.response_shift(day), self.return_shift(day), angle, self.user_mix(day)):
            if value is not None:
                return value if value.ndim == 2 else value.unsqueeze(1)
        return day.new_zeros(len(day), 0)
