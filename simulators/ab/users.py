"""What one arm's users did: sums a user, the same by day, and how often each item was shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from simulators.ab.design import MetricSpec

Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class UserMetrics:
    """Sums of one arm over each of its users.

    Attributes:
        uid: (n,) simulated user, in the order of the population.
        columns: (n,) each: ``requests``, ``sessions``, ``shown``, ``watch_seconds``, the seven behaviours, ``returns`` (sessions that a
            return follows), ``gap_days`` (their sum), ``churned``, ``active_days``, ``first_return_day`` (gap after the first session, 0
            for none), ``returned_next_day``, ``active_day_7`` and ``active_day_30``, ``novelty_bits`` and ``diversity`` (sums over
            shown items and over requests), ``provider_<k>`` (shown items of provider group ``k``).
        daily: (n, days) each, by the names of :data:`simulators.ab.design.DAILY`.
        covariates: (n,) each, from before the experiment: ``baseline`` is the satisfaction a user is used to, ``pre_<column>`` what it
            did in the days before.
        item_exposures: (n_items,) how often each item was shown.
    """

    uid: NDArray[np.int64]
    columns: Mapping[str, Float64]
    daily: Mapping[str, NDArray[Any]]
    covariates: Mapping[str, Float64] = field(default_factory=dict)
    item_exposures: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def users(self) -> int:
        """Number of users."""
        return int(self.uid.size)

    def ratio(self, metric: MetricSpec, *, covariates: bool = False) -> tuple[Float64, Float64] | None:
        """Numerator and denominator of a metric for each user; ``None`` where the arm has no value for it.

        With ``covariates``, those of the days before the experiment.
        """
        prefix, source = ("pre_", self.covariates) if covariates else ("", self.columns)
        if prefix + metric.numerator not in source:
            return None
        denominator = np.ones(self.users) if metric.denominator == "users" else source[prefix + metric.denominator]
        return (source[prefix + metric.numerator], denominator) if denominator.sum() > 0 else None

    def active(self) -> NDArray[np.bool_]:
        """Whether each user had a request on each day, ``(n, days)``."""
        return self.daily["requests"] > 0

    def first_returns(self, days: int) -> tuple[Float64, NDArray[np.bool_]]:
        """Day of the first return and whether it was seen within ``days`` days; both ``(n,)``."""
        gap, last = self.columns["first_return_day"], days - 1
        seen = (gap > 0) & (gap <= last)
        return np.where(seen, gap, float(last)), seen

    @classmethod
    def concatenate(cls, parts: Sequence[UserMetrics]) -> UserMetrics:
        """Users of several parts, one after the other."""
        # an arm without users in some part has no columns to tell there
        parts = [part for part in parts if part.users] or parts[:1]
        first = parts[0]
        if len(parts) == 1:
            return first
        return cls(
            np.concatenate([part.uid for part in parts]),
            {name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns},
            {name: np.concatenate([part.daily[name] for part in parts]) for name in first.daily},
            {name: np.concatenate([part.covariates[name] for part in parts]) for name in first.covariates},
            np.sum([part.item_exposures for part in parts], axis=0),
        )

    def to_table(self) -> pa.Table:
        """One row a user: ``uid``, the columns, ``before:<covariate>``, and ``daily:<column>`` as lists; exposures go apart."""
        columns: dict[str, pa.Array] = {"uid": pa.array(self.uid)}
        columns |= {name: pa.array(x) for name, x in self.columns.items()}
        columns |= {f"before:{name}": pa.array(x) for name, x in self.covariates.items()}
        for name, x in self.daily.items():
            columns[f"daily:{name}"] = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(x).reshape(-1)), x.shape[1])
        return pa.table(columns)
