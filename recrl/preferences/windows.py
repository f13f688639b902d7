"""Segments to compare: fixed windows of requests, or runs of whole sessions; and what there is to like in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recrl.core.errors import ConfigError, DataError
from recrl.core.ragged import Offsets
from recrl.preferences.trajectories import Trajectories

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
PreferenceTask = Literal["depth", "return", "both"]
"""What a scripted teacher wants: deep sessions (D), short return gaps (R), or both (B)."""
TASKS: tuple[PreferenceTask, ...] = ("depth", "return", "both")


@dataclass(frozen=True)
class WindowConfig:
    """How segments are cut.

    Attributes:
        kind: ``requests`` cuts windows of ``length`` rows, over session ends; ``sessions`` takes runs of whole sessions, which differ in
            length.
        length: rows of a window; of runs of sessions, the most that are shown.
        stride: rows from one window to the next of a user.
        sessions: sessions of a run.
    """

    kind: Literal["requests", "sessions"] = "requests"
    length: int = 24
    stride: int = 12
    sessions: int = 2

    def __post_init__(self) -> None:
        if min(self.length, self.stride, self.sessions) < 1:
            raise ConfigError(
                f"length={self.length}, stride={self.stride}, sessions={self.sessions} must be positive",
                where="windows",
                mend="give 1 or more",
            )


@dataclass(frozen=True, eq=False)
class Windows:
    """Segments of trajectories.

    **Shapes**: W windows: ``start``, ``end`` (W,) rows shown; ``judged_end`` (W,) rows that are judged (a run of sessions is judged whole,
    even where only its first rows are shown); ``user`` (W,), ascending; ``by_sessions`` whether depth is a mean over sessions.
    """

    start: Int64
    end: Int64
    judged_end: Int64
    user: Int64
    by_sessions: bool

    def __len__(self) -> int:
        return int(self.start.size)


def cut_windows(trajectories: Trajectories, config: WindowConfig) -> Windows:
    """Every window of the trajectories, users in ascending order.

    Rows of a user's last session are in none: nobody knows when its user came back.

    **Errors**: :class:`DataError` when there is none.
    """
    by_sessions = config.kind == "sessions"
    pieces = _runs(trajectories, config.sessions) if by_sessions else _windows(trajectories, config)
    start, end = pieces
    if start.size == 0:
        what = f"{config.sessions} sessions" if by_sessions else f"{config.length} rows"
        raise DataError(
            f"no user has {what} before the last session", where="windows", mend="cut shorter segments, or take a log with longer histories"
        )
    segment = np.searchsorted(trajectories.offsets.values, start, side="right") - 1
    user = trajectories.user[segment]
    order = np.argsort(user, kind="stable")
    shown = np.minimum(end, start + config.length) if by_sessions else end
    return Windows(start[order], shown[order], end[order], user[order], by_sessions)


def _windows(trajectories: Trajectories, config: WindowConfig) -> tuple[Int64, Int64]:
    # known rows come first in each segment
    usable = trajectories.offsets.sum(trajectories.known).astype(np.int64)
    count = np.maximum(0, (usable - config.length) // config.stride + 1)
    of = Offsets.from_lengths(count)
    start = trajectories.offsets.values[:-1][of.segment_ids()] + of.positions() * config.stride
    return start, start + config.length


def _runs(trajectories: Trajectories, sessions: int) -> tuple[Int64, Int64]:
    ends = np.flatnonzero(trajectories.ends & trajectories.known)
    if ends.size == 0:
        return ends, ends
    segment = np.searchsorted(trajectories.offsets.values, ends, side="right") - 1
    begins = np.append(0, ends[:-1] + 1)
    fresh = np.append(True, segment[1:] != segment[:-1])
    begins[fresh] = trajectories.offsets.values[segment[fresh]]
    first = np.arange(max(0, ends.size - sessions + 1))
    first = first[segment[first] == segment[first + sessions - 1]]
    return begins[first], ends[first + sessions - 1] + 1


def signals(trajectories: Trajectories, windows: Windows, discount: float = 1.0, max_gap_days: float = 10.0) -> tuple[Float64, Float64]:
    """How deep the sessions of each window are, and how many days their users stayed away, (W,) each, as somebody sees them who weighs a
    row ``k`` places before the last one by ``discount ** k``.

    Depth is minus the number of session ends in a fixed window, and rows a session in a run of sessions. The gap is the mean over the
    session ends in the window, NaN where there is none.
    """
    cut = Offsets.from_lengths(windows.judged_end - windows.start)
    row = windows.start[cut.segment_ids()] + cut.positions()
    weight = discount ** (cut.lengths[cut.segment_ids()] - 1 - cut.positions()).astype(np.float64)
    ended = weight * trajectories.ends[row]
    exits, away = cut.sum(ended), cut.sum(ended * np.minimum(trajectories.gap_days[row], max_gap_days))
    depth = cut.sum(weight) / exits if windows.by_sessions else -exits
    gap = np.divide(away, exits, out=np.full(len(windows), np.nan), where=exits > 0)
    return depth, gap


@dataclass(frozen=True)
class Yardstick:
    """Means and deviations of depth and gap in training windows, in which a teacher measures.

    ``D = z(depth)``, ``R = - z(gap)`` and ``B = D + R``; a window without a session end has the mean gap.
    """

    depth_mean: float
    depth_deviation: float
    gap_mean: float
    gap_deviation: float

    @classmethod
    def of(cls, depth: Float64, gap: Float64) -> Yardstick:
        """The yardstick of training windows."""
        known = gap[~np.isnan(gap)]
        if known.size == 0:
            return cls(float(depth.mean()), _positive(depth), 0.0, 1.0)
        return cls(float(depth.mean()), _positive(depth), float(known.mean()), _positive(known))

    def value(self, task: PreferenceTask, depth: Float64, gap: Float64) -> Float64:
        """How good windows are, (W,)."""
        deep = (depth - self.depth_mean) / self.depth_deviation
        soon = -(np.where(np.isnan(gap), self.gap_mean, gap) - self.gap_mean) / self.gap_deviation
        return {"depth": deep, "return": soon, "both": deep + soon}[task]


def _positive(values: Float64) -> float:
    return float(values.std()) or 1.0
