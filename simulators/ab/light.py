"""Users without a simulator, thousands of experiments a minute: what statistics are checked on, with effects that are known.

A user comes on day 0, and on each later day with a probability of its own, ``share_u``. On a day it makes ``1 + Poisson(depth_u)``
requests of six items, clicks each with probability ``rate_u``, and watches. Users differ in all three, and alike: so days of one user
go together, and sums are skewed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulators.ab.users import UserMetrics

Float64 = NDArray[np.float64]
_SLATE = 6


@dataclass(frozen=True, eq=False)
class LightUsers:
    """What users are like.

    **Shapes**: all (n,): ``share`` in [.25, .75], ``depth`` > 0, ``rate`` in (0, 1).
    """

    share: Float64
    depth: Float64
    rate: Float64

    @classmethod
    def draw(cls, n: int, rng: np.random.Generator) -> LightUsers:
        """``n`` users."""
        taste = rng.normal(size=n)
        share = 0.25 + 0.5 / (1.0 + np.exp(-taste - 0.5 * rng.normal(size=n)))
        return cls(share, np.exp(0.4 * taste + 0.3 * rng.normal(size=n)), 1.0 / (1.0 + np.exp(-0.5 * taste)))

    def live(self, days: int, rng: np.random.Generator, *, lift: float = 0.0, earlier: UserMetrics | None = None) -> UserMetrics:
        """What they do in ``days`` days, with ``lift`` (at most .25) added to every ``share``.

        ``lift`` raises the mean of ``active_days`` by ``lift * (days - 1)``. ``earlier`` days of the same users become covariates.
        """
        n = self.share.size
        active = rng.random((n, days)) < (self.share + lift)[:, None]
        active[:, 0] = True
        requests = np.where(active, 1.0 + rng.poisson(self.depth[:, None], (n, days)), 0.0)
        click = rng.binomial((_SLATE * requests).astype(np.int64), self.rate[:, None]).astype(np.float64)
        watch = requests * 60.0 * np.exp(0.5 * rng.normal(size=(n, days)))
        days_of = {"requests": requests, "sessions": active, "shown": _SLATE * requests, "click": click, "watch_seconds": watch}
        daily = {name: part.astype(np.float32) for name, part in days_of.items()}
        columns = {name: part.sum(axis=1).astype(np.float64) for name, part in days_of.items()}
        columns["active_days"] = columns["sessions"]
        later = active[:, 1:]
        columns["first_return_day"] = np.where(later.any(axis=1), later.argmax(axis=1) + 1.0, 0.0) if days > 1 else np.zeros(n)
        columns["returned_next_day"] = (columns["first_return_day"] == 1.0).astype(np.float64)
        before = {} if earlier is None else {f"pre_{name}": column for name, column in earlier.columns.items()}
        return UserMetrics(np.arange(n), columns, daily, before)
