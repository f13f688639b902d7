"""Scripted teachers: whom they prefer, and how they err.

**Source**: Lee, Smith, Abbeel, Dragan, "B-Pref: Benchmarking Preference-Based Reinforcement Learning", NeurIPS 2021,
section 3; the order of the five is that of its published code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from recrl.core.errors import ConfigError
from recrl.core.streams import Purpose, Streams

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Teacher:
    """A scripted teacher; thresholds are in deviations of the values of training windows.

    Applied in this order: a pair whose better value is at most ``skip`` is skipped; one whose values differ by at most the threshold of
    equality is equal, whatever follows; the better one is preferred, or drawn with probability ``sigmoid(rationality * difference)``; the
    answer is a ``mistake`` now and then. Equal values are always equal.

    Attributes:
        mistake: probability of the opposite answer.
        rationality: ``None`` always sees the better one.
        discount: weight of a row against the next one; below 1 the teacher is myopic and sees the last rows best. It is applied where
            values are computed (:func:`recrl.preferences.windows.signals`).
        skip: ``None`` skips nothing.
        equal: threshold of equality; 0 leaves it to ``equal_share``.
        equal_share: share of the pairs, those that differ least, that are equal.

    >>> Teacher(mistake=0.0, equal_share=0.0).label([1.0, 0.0, 2.0], [0.0, 1.0, 2.0], 1.0, Streams(0)).tolist()
    [1.0, 0.0, 0.5]
    """

    mistake: float = 0.1
    rationality: float | None = None
    discount: float = 1.0
    skip: float | None = None
    equal: float = 0.0
    equal_share: float = 0.05

    def __post_init__(self) -> None:
        if not (0.0 <= self.mistake <= 1.0 and 0.0 <= self.equal_share < 1.0 and 0.0 < self.discount <= 1.0 and self.equal >= 0.0):
            raise ConfigError(
                f"mistake={self.mistake}, equal={self.equal}, equal_share={self.equal_share}, discount={self.discount} are out of range",
                where="teacher",
                mend="0 <= mistake <= 1, equal >= 0, 0 <= equal_share < 1, 0 < discount <= 1",
            )

    def label(self, first: ArrayLike, second: ArrayLike, deviation: float, streams: Streams, ids: ArrayLike | None = None) -> Float64:
        """Probability (0, 1/2 or 1) that the first is preferred, (P,); NaN where the pair is skipped.

        Args:
            first: value of the first segment of each pair, (P,).
            second: of the second one.
            deviation: of the values; the unit of ``skip`` and ``equal``.
            streams: of noise and mistakes.
            ids: of the pairs, (P,), which key their draws; by default 0, 1, ...
        """
        a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
        draw = streams.uniform(np.arange(a.size) if ids is None else ids, 0, Purpose.TEACHER, (2,))
        better = (a > b).astype(np.float64)
        if self.rationality is not None:
            better = (draw[:, 0] < expit(self.rationality * (a - b))).astype(np.float64)
        answer = np.where(draw[:, 1] < self.mistake, 1.0 - better, better)
        distance = np.abs(a - b)
        threshold = self.equal * deviation if self.equal else float(np.quantile(distance, self.equal_share)) if self.equal_share else 0.0
        answer[distance <= threshold] = 0.5
        if self.skip is not None:
            answer[np.maximum(a, b) <= self.skip * deviation] = np.nan
        return answer
