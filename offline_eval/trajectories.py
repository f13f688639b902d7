"""Ragged trajectories: running products and sums over consecutive rows, without padding and without a loop.

A trajectory is what one value is asked for: a session, or a user's sessions one after the other. ``LoggedFeedback.trajectory`` holds
CSR offsets over the rows, ``discount`` the factor from a row to the next, so that one discount inside a session and another across its
end need nothing more (:func:`step_discounts`).

**Units**: step ``t`` of a trajectory has weight ``rho_t = prod_{s <= t} pi(a_s) / mu(a_s)`` and present value
``gamma_t = prod_{s < t} discount_s``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offline_eval.validation import MAX_LOG_WEIGHT, UndefinedError, checked, exponential, finite, log_weights, refuse, vector
from recrl.core.contracts import LoggedFeedback
from recrl.core.errors import DataError
from recrl.core.objective import Signal

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Checked feedback as ``N`` trajectories of at least one row.

    **Shapes**: ``rows`` (n,) checked; ``starts`` (N,) first row, ``lengths`` (N,), ``cluster`` (N,) user of each trajectory;
    ``log_ratio`` (n,) logarithm of ``rho_t``; ``final_value`` (N,).
    """

    rows: LoggedFeedback
    starts: Int64
    lengths: Int64
    cluster: Int64
    log_ratio: Float64
    final_value: Float64

    @cached_property
    def position(self) -> Int64:
        """Step of each row in its trajectory, from 0, ``(n,)``."""
        return np.arange(self.log_ratio.size) - np.repeat(self.starts, self.lengths)

    @cached_property
    def present(self) -> Float64:
        """``gamma_t`` of each row, ``(n,)``."""
        discount = self.rows.discount
        if discount is None:
            return np.ones_like(self.log_ratio)
        constant = float(discount[0])
        if bool((discount == constant).all()):
            table: Float64 = constant ** np.arange(int(self.lengths.max()), dtype=np.float64)
            return table[self.position]
        product = np.ones_like(discount)
        with np.errstate(divide="ignore"):
            product[1:] = exponential(running_sum(np.log(discount), self.starts)[:-1])
        product[self.starts] = 1.0
        return product

    @property
    def ends(self) -> Int64:
        """Last row of each trajectory, ``(N,)``."""
        return self.starts + self.lengths - 1

    def sum(self, values: Float64) -> Float64:
        """Sum of ``values`` (n,) over each trajectory, ``(N,)``."""
        total: Float64 = np.add.reduceat(values, self.starts)
        return total

    def ratio(self) -> Float64:
        """``rho_t`` of every step, ``(n,)``.

        **Errors**: :class:`DataError` where a weight is beyond any meaning.
        """
        refuse(
            self.log_ratio > MAX_LOG_WEIGHT,
            self.log_ratio,
            "log of the trajectory's weight",
            "check that both policies score the same actions in the same units, shorten trajectories, or use capped_wis",
            where="LoggedFeedback, row {row}",
            kind=UndefinedError,
        )
        return exponential(self.log_ratio.copy())

    def returns(self) -> Float64:
        """Discounted sum of rewards, ``(N,)``."""
        return self.sum(self.present * self.rows.reward)

    def backup(self, value: Float64) -> Float64:
        """``r_t + discount_t v_t+1`` of every row for predictions ``value`` (n,), ``final_value`` after the last row; a new array (n,)."""
        following = np.empty_like(value)
        following[:-1] = value[1:]
        following[self.ends] = self.final_value
        # in place: with a million rows a fresh array costs more than the arithmetic
        if self.rows.discount is not None:
            following *= self.rows.discount
        following += self.rows.reward
        return following


def trajectories(feedback: LoggedFeedback) -> Trajectories:
    """Check feedback and find its trajectories; those without a row are dropped.

    **Errors**: :class:`DataError` for what :func:`offline_eval.validation.checked` refuses, no trajectories, offsets that do not cover the
    rows, a trajectory of several users, or final values that are not one a trajectory.
    """
    rows = checked(feedback)
    if rows.trajectory is None:
        raise DataError(
            "the log names no trajectories",
            where="LoggedFeedback.trajectory",
            mend="give Offsets over consecutive rows (sessions, or users), or use an estimator of single rows, e.g. snips",
        )
    if rows.trajectory.total != rows.reward.size:
        raise DataError(
            f"trajectories cover {rows.trajectory.total} of {rows.reward.size} rows",
            where="LoggedFeedback.trajectory",
            mend="build the offsets from the same rows",
        )
    lengths = rows.trajectory.lengths
    filled = lengths > 0
    starts, lengths = rows.trajectory.values[:-1][filled], lengths[filled]
    changed = np.diff(rows.cluster) != 0
    changed[starts[1:] - 1] = False
    if bool(changed.any()):
        row = int(np.argmax(changed)) + 1
        raise DataError(
            f"users {rows.cluster[row - 1]} and {rows.cluster[row]} share a trajectory",
            where=f"LoggedFeedback.cluster[{row}]",
            mend="cut trajectories where the user changes",
        )
    final = np.zeros(starts.size)
    if rows.final_value is not None:
        given = finite(vector(rows.final_value, "final_value"), "final_value")
        if given.size != filled.size:
            raise DataError(
                f"final_value holds {given.size} values for {filled.size} trajectories",
                where="LoggedFeedback.final_value",
                mend="give one value a trajectory, 0 where the user is gone for good",
            )
        final = given[filled]
    return Trajectories(rows, starts, lengths, rows.cluster[starts], running_sum(log_weights(rows), starts), final)


def step_discounts(signal: Signal, session_end: ArrayLike) -> Float64:
    """``LoggedFeedback.discount`` of an objective's signal: across where a session ends after the row, within elsewhere; ``(n,)``.

    >>> step_discounts(Signal("click", discount_within=1.0, discount_across=0.9), [False, True, False]).tolist()
    [1.0, 0.9, 1.0]
    """
    return np.where(np.asarray(session_end, dtype=bool), signal.discount_across, signal.discount_within)


def running_sum(values: Float64, starts: Int64) -> Float64:
    """Sums of ``values`` (n,) from the start of each segment up to and including a row; minus infinity stays until the segment's end.

    One cumulative sum over all rows would lose digits as it grows; here each segment first takes back the total of the one before.
    """
    gone = np.isneginf(values)
    any_gone = bool(gone.any())
    steps = np.where(gone, 0.0, values) if any_gone else values.copy()
    steps[starts[1:]] -= np.add.reduceat(steps, starts)[:-1]
    np.cumsum(steps, out=steps)
    if any_gone:
        count = np.cumsum(gone)
        lengths = np.diff(np.append(starts, values.size))
        steps[count > np.repeat(count[starts] - gone[starts], lengths)] = -np.inf
    return steps
