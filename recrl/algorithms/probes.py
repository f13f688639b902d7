"""What an abstraction encodes: probes of ``phi`` against the drift that the simulator knows and against estimated values."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.metrics import silhouette_score

from recrl.core.errors import DataError


def linear_r2(features: ArrayLike, truth: ArrayLike, *, groups: ArrayLike | None = None, folds: int = 5, ridge: float = 1e-3) -> float:
    """R^2 of a linear map from ``features`` to ``truth`` on rows it was not fitted to; below 0 where the mean would do better.

    Args:
        features: (n, d), for example ``phi`` averaged over the users of a day.
        truth: (n,) or (n, m), for example the state of the drift.
        groups: (n,) rows of one group stay together, for example those of one drift segment; by default each row is its own.
        folds: parts that are left out in turn; groups go to them in their order, round and round.
        ridge: penalty, of standardised features, as a share of the rows.

    **Errors**: :class:`DataError` for fewer groups than two, or a truth that never varies.

    >>> x = np.random.default_rng(0).normal(size=(200, 3))
    >>> round(linear_r2(x, 2 * x[:, 0] - x[:, 2]), 3)
    1.0
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(truth, dtype=np.float64).reshape(len(np.asarray(truth)), -1)
    _, group = np.unique(np.arange(len(x)) if groups is None else np.asarray(groups), return_inverse=True)
    fold = group % min(folds, int(group.max()) + 1)
    if fold.max() < 1 or not float(y.var(0).sum()) > 0:
        raise DataError("nothing to be foretold", where="linear_r2", mend="give at least two groups and a truth that varies")
    left = np.zeros_like(y)
    for k in range(int(fold.max()) + 1):
        held = fold == k
        mean, spread = x[~held].mean(0), x[~held].std(0) + 1e-9
        z, centre = (x - mean) / spread, y[~held].mean(0)
        inner = z[~held].T @ z[~held] + ridge * (~held).sum() * np.eye(x.shape[1])
        weight = np.linalg.solve(inner, z[~held].T @ (y[~held] - centre))
        left[held] = y[held] - centre - z[held] @ weight
    return float(1.0 - (left**2).sum() / ((y - y.mean(0)) ** 2).sum())


def value_correlation(phi: ArrayLike, values: ArrayLike, most: int = 400) -> float:
    """Spearman's correlation of ``|phi_i - phi_j|`` and ``|V_i - V_j|`` over pairs of (at most ``most``) states: (n, d), (n,)."""
    x, v = (np.asarray(a, dtype=np.float64)[:most] for a in (phi, values))
    i, j = np.triu_indices(len(x), 1)
    return float(stats.spearmanr(np.linalg.norm(x[i] - x[j], axis=1), np.abs(v[i] - v[j])).statistic)


def value_silhouette(phi: ArrayLike, values: ArrayLike, bins: int = 4) -> float:
    """Silhouette, -1 to 1, of bins of equal size by value in the space of ``phi``: (n, d), (n,)."""
    v = np.asarray(values, dtype=np.float64)
    rank: NDArray[np.int64] = v.argsort(kind="stable").argsort(kind="stable")
    return float(silhouette_score(np.asarray(phi, dtype=np.float64), rank * bins // len(v)))
