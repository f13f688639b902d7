"""What the simulated state would have been along a log: the covariates of leaving and returning, by the world's own recursions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recrl.core.ragged import Offsets
from recrl_datasets import Sessions
from recrl_datasets.sessions import row_days
from simulators.satisfaction import Satisfaction

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Trace:
    """Covariates along the sessions of a log.

    **Shapes**: by request (R,): ``position`` earlier requests in the session, ``deviation`` of satisfaction from the baseline after the
    request, ``last`` whether the session ended there, ``known`` whether that could be seen, ``session`` its session. By session (S,):
    ``fatigue`` and ``memory`` before it, ``end_deviation`` after its last request.
    """

    position: NDArray[np.int64]
    deviation: Float
    last: NDArray[np.bool_]
    known: NDArray[np.bool_]
    session: NDArray[np.int64]
    fatigue: Float
    memory: Float
    end_deviation: Float
    memory_mean: float


def trace(
    sessions: Sessions, satisfaction: Satisfaction, baseline: Float, *, half_life_days: float, memory_decay: float, max_days: int
) -> Trace:
    """Follow every user through the log.

    **Shapes**: ``baseline`` (n_users,).
    """
    worth = satisfaction.of_bits().astype(np.float64)[sessions.log.feedback_bits()]
    request = sessions.rows.sum(worth) / sessions.rows.lengths
    session_of = sessions.requests.segment_ids()
    position = sessions.requests.positions()
    gap = np.maximum(sessions.gap_whole_days, 0).astype(np.float64)
    before = np.r_[0.0, gap[:-1]]
    first_session = sessions.users.positions() == 0
    log_gap = np.log(np.clip(gap, 1, None))
    completed = (sessions.gap_whole_days >= 1) & (sessions.gap_whole_days <= max_days)
    memory_mean = float(log_gap[completed].mean()) if completed.any() else 0.0
    # deviations: d <- decay * d + (1 - decay) * (s - baseline), calmed by the days away before a session
    surplus = request - baseline[sessions.user][session_of]
    calm = np.where((position == 0) & ~first_session[session_of], satisfaction.decay_per_day ** before[session_of], 1.0)
    deviation = _along(sessions.users.through(sessions.requests), satisfaction.decay * calm, (1.0 - satisfaction.decay) * surplus, 0.0)
    # fatigue and memory after the gap that follows each session; shifted, they are those before the next one
    rested = np.exp2(-gap / half_life_days)
    fatigue = _along(sessions.users, rested, rested * sessions.depth, 0.0)
    returned = sessions.gap_whole_days >= 1
    memory = _along(
        sessions.users,
        np.where(returned, memory_decay, 1.0),
        np.where(returned, (1.0 - memory_decay) * log_gap, 0.0),
        memory_mean,
    )
    last = np.zeros(position.size, dtype=bool)
    last[sessions.requests.values[1:] - 1] = True
    # a session that touches the log's end may have gone on
    cut = sessions.exposure_whole_days < 1 if sessions.rule == "day" else sessions.exposure_days * 1440.0 <= sessions.gap_minutes
    return Trace(
        position=position,
        deviation=deviation,
        last=last,
        known=~(last & (cut & sessions.censored)[session_of]),
        session=session_of,
        fatigue=np.where(first_session, 0.0, np.r_[0.0, fatigue[:-1]]),
        memory=np.where(first_session, memory_mean, np.r_[0.0, memory[:-1]]),
        end_deviation=deviation[sessions.requests.values[1:] - 1],
        memory_mean=memory_mean,
    )


def session_weekdays(sessions: Sessions) -> NDArray[np.int64]:
    """Weekday of each session's last row by the platform's calendar, 0 Monday: ``(S,)``."""
    last = sessions.requests.through(sessions.rows).values[1:] - 1
    # the first day of 1970 was a Thursday
    return np.asarray((row_days(sessions.log)[last] + 3) % 7)


def _along(segments: Offsets, factor: Float, addend: Float, start: float) -> Float:
    """``z_k = factor_k * z_(k-1) + addend_k`` along each segment from ``start``; one vectorised step for each position."""
    out = np.empty(segments.total)
    order = np.argsort(-segments.lengths, kind="stable")
    lengths, first = segments.lengths[order], segments.values[:-1][order]
    z = np.full(segments.count, start)
    for k in range(int(lengths[0]) if lengths.size else 0):
        live = int(np.searchsorted(-lengths, -k, side="left"))
        at = first[:live] + k
        z[:live] = factor[at] * z[:live] + addend[at]
        out[at] = z[:live]
    return out
