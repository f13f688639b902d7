"""Direct terms over large catalogues: ``v_i = E_pi q(x_i, .)`` without an array of rows x actions.

Two ways: :func:`streamed` takes all actions of a few rows at a time, exact; :func:`drawn` takes ``M`` drawn actions a row, right on
average, and says what the draws add: a row's variance is ``Var_pi(q) / M``, estimated without bias from the draws themselves. Draws of
different rows are independent, so ``sqrt(sum of variances) / n`` is their share of the standard error of ``dm``, ``dr`` and ``sndr``; the
interval by user holds it already.

The result goes into ``LoggedFeedback.target_value``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offline_eval.validation import refuse
from recrl.core.errors import ConfigError, DataError

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class DrawnTerm:
    """A direct term from drawn actions.

    **Shapes**: ``value`` (n,) the mean over a row's draws; ``variance`` (n,) what the draws add to it.
    """

    value: Float64
    variance: Float64

    @property
    def standard_error(self) -> float:
        """Of the mean over rows, from the draws alone."""
        return float(np.sqrt(self.variance.sum())) / self.value.size


def streamed(
    probabilities: Callable[[Int64], ArrayLike], predicted: Callable[[Int64], ArrayLike], rows: int, *, rows_at_once: int = 256
) -> Float64:
    """The direct term of every row over all actions, (rows,).

    Args:
        probabilities: from row numbers (b,) to the target policy's probabilities (b, A).
        predicted: from row numbers (b,) to predicted rewards of all actions (b, A).
        rows: how many rows.
        rows_at_once: rows held together; memory is a few times ``rows_at_once * A`` numbers.

    **Errors**: :class:`DataError` for shapes that do not fit, and probabilities that do not sum to 1.

    >>> import numpy as np
    >>> streamed(lambda rows: np.tile([0.25, 0.75], (len(rows), 1)), lambda rows: np.tile([0.0, 1.0], (len(rows), 1)), 3).tolist()
    [0.75, 0.75, 0.75]
    """
    out = np.empty(rows)
    for start in range(0, rows, rows_at_once):
        part = np.arange(start, min(start + rows_at_once, rows))
        chance, q = np.asarray(probabilities(part)), np.asarray(predicted(part))
        _same_shape(chance, q, part.size, "probabilities and predicted rewards")
        total = chance.sum(axis=1, dtype=np.float64)
        refuse(~(np.abs(total - 1.0) < 1e-4), total, "the sum of target probabilities", "list all actions", where="row {row} of a portion")
        out[part] = np.einsum("ba,ba->b", chance, q)
    return out


def drawn(
    draw: Callable[[Int64, int], ArrayLike],
    predicted: Callable[[Int64, Int64], ArrayLike],
    rows: int,
    *,
    draws: int = 16,
    rows_at_once: int = 65_536,
) -> DrawnTerm:
    """The direct term of every row from ``draws`` actions of the target policy.

    Args:
        draw: from row numbers (b,) and ``M`` to actions (b, M), drawn independently from the target policy.
        predicted: from row numbers (b,) and actions (b, M) to predicted rewards (b, M).
        rows: how many rows.
        draws: actions a row, at least 2: one tells no variance.
        rows_at_once: rows held together.

    **Errors**: :class:`ConfigError` for fewer than 2 draws, :class:`DataError` for shapes that do not fit.
    """
    if draws < 2:
        raise ConfigError(f"draws is {draws}; the variance they add needs at least 2", where="drawn.draws", mend="16 is usual")
    value, variance = np.empty(rows), np.empty(rows)
    for start in range(0, rows, rows_at_once):
        part = np.arange(start, min(start + rows_at_once, rows))
        action = np.asarray(draw(part, draws))
        q = np.asarray(predicted(part, action), dtype=np.float64)
        _same_shape(action, q, part.size, "drawn actions and predicted rewards")
        value[part] = q.mean(axis=1)
        variance[part] = q.var(axis=1, ddof=1) / draws
    return DrawnTerm(value, variance)


def category_log_prob(
    probabilities: Callable[[Int64], ArrayLike], category: ArrayLike, logged_category: ArrayLike, *, rows_at_once: int = 256
) -> Float64:
    """Log-probability of each row's logged *category* under a policy over items, (n,): the weights of marginalised IPS (MIPS).

    Where the reward depends on the item's category alone, items need not be the unit: put these of both policies into
    ``LoggedFeedback.target_log_prob`` and ``behaviour_log_prob``, and ``ips`` is MIPS (every other estimator works as well). Overlap is
    asked of categories only, and weights are means of those of items: their variance can only fall.

    Args:
        probabilities: from row numbers (b,) to the policy's probabilities of all items (b, A).
        category: (A,) non-negative integer category of each item.
        logged_category: (n,) category of each logged item.
        rows_at_once: rows held together.

    **When it fails**: items of a category are worth different rewards and the policies prefer different ones of them; the bias is that
    difference (a direct effect of the item).

    **Source**: Saito and Joachims, "Off-policy evaluation for large action spaces via embeddings", ICML 2022.

    **Errors**: :class:`DataError` for shapes that do not fit, categories that are no integers, probabilities that do not sum to 1.

    >>> import numpy as np
    >>> found = category_log_prob(lambda rows: np.tile([0.2, 0.3, 0.5], (len(rows), 1)), [0, 0, 1], [0, 1])
    >>> np.exp(found).round(3).tolist()
    [0.5, 0.5]
    """
    of_item, wanted = np.asarray(category), np.asarray(logged_category)
    for name, array in (("category", of_item), ("logged_category", wanted)):
        if array.ndim != 1 or array.dtype.kind not in "iu" or (array.size and int(array.min()) < 0):
            what = f"{name} is {array.dtype} {array.shape}"
            raise DataError(what, where=f"category_log_prob.{name}", mend="give non-negative integers, one an item and one a row")
    out = np.empty(wanted.size)
    for start in range(0, wanted.size, rows_at_once):
        part = np.arange(start, min(start + rows_at_once, wanted.size))
        chance = np.asarray(probabilities(part), dtype=np.float64)
        if chance.shape != (part.size, of_item.size):
            what = f"probabilities have shape {chance.shape} for {part.size} rows and {of_item.size} items"
            raise DataError(what, where="category_log_prob", mend="give (rows, items)")
        total = chance.sum(axis=1)
        refuse(~(np.abs(total - 1.0) < 1e-4), total, "the sum of probabilities", "list all items", where="row {row} of a portion")
        out[part] = np.einsum("ba,ba->b", chance, of_item == wanted[part, None])
    with np.errstate(divide="ignore"):
        return np.log(out)


def _same_shape(left: NDArray[np.generic], right: NDArray[np.generic], rows: int, what: str) -> None:
    if left.ndim != 2 or left.shape != right.shape or left.shape[0] != rows:
        raise DataError(
            f"{what} have shapes {left.shape} and {right.shape} for {rows} rows", where="catalogue", mend="give (rows, actions)"
        )
