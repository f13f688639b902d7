"""Maximum-likelihood logistic regression with a covariance that holds when rows of one user depend on each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from recrl.core.errors import DataError

Float = NDArray[np.float64]
_Z95 = 1.959963984540054


@dataclass(frozen=True, eq=False)
class LogisticFit:
    """Coefficients (p,) and their cluster-robust covariance (p, p)."""

    coefficients: Float
    covariance: Float

    def interval(self, k: int) -> tuple[float, float]:
        """95 % interval of one coefficient."""
        return self.contrast(np.eye(len(self.coefficients))[k])[1]

    def contrast(self, weights: Float) -> tuple[float, tuple[float, float]]:
        """A weighted sum of the coefficients, weights (p,), and its 95 % interval."""
        value, half = float(weights @ self.coefficients), _Z95 * float(np.sqrt(weights @ self.covariance @ weights))
        return value, (value - half, value + half)


def fit_logistic(
    x: Float, y: Float, cluster: NDArray[np.integer], *, where: str, weights: Float | None = None, iterations: int = 50
) -> LogisticFit:
    """Newton's method on the log-likelihood; sandwich covariance clustered by user.

    **Shapes**: ``x`` (n, p) with any intercept among its columns, ``y`` (n,) of 0 and 1, ``cluster`` (n,), ``weights`` (n,) how often
    each row counts, 1 without.

    **Errors**: :class:`DataError` where the likelihood has no maximum (constant outcome, separated or collinear columns).
    """
    n, p = x.shape
    w = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    beta = np.zeros(p)
    value = _log_likelihood(x, y, w, beta)
    for _ in range(iterations):
        mean = expit(x @ beta)
        gradient = x.T @ (w * (y - mean))
        information = (x * (w * mean * (1.0 - mean))[:, None]).T @ x
        step = _solve(information, gradient, where)
        # halve the step until the likelihood does not fall
        scale, after = 1.0, _log_likelihood(x, y, w, beta + step)
        while after < value - 1e-9 * abs(value) and scale > 1e-6:
            scale /= 2
            after = _log_likelihood(x, y, w, beta + scale * step)
        beta, gained, value = beta + scale * step, after - value, after
        if float(np.abs(scale * step).max()) < 1e-9 or (gained < 1e-12 * n and float(np.abs(step).max()) < 1e-6):
            break
    else:
        raise DataError(
            f"the logistic fit did not settle within {iterations} steps",
            where=where,
            mend="give more data: the outcome is separated by a covariate",
        )
    mean = expit(x @ beta)
    bread = np.linalg.inv((x * (w * mean * (1.0 - mean))[:, None]).T @ x)
    order = np.argsort(cluster, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(cluster[order]) != 0])
    scores = np.add.reduceat((x * (w * (y - mean))[:, None])[order], starts, axis=0)
    groups = len(starts)
    meat = scores.T @ scores * (groups / max(groups - 1, 1))
    return LogisticFit(beta, bread @ meat @ bread)


def _log_likelihood(x: Float, y: Float, w: Float, beta: Float) -> float:
    z = x @ beta
    return float((w * (y * z - np.logaddexp(0.0, z))).sum())


def _solve(information: Float, gradient: Float, where: str) -> Float:
    if not np.isfinite(information).all() or np.linalg.cond(information) > 1e14:
        raise DataError(
            "the logistic fit has no unique maximum",
            where=where,
            mend="give more data: the outcome is constant, or two covariates say the same",
        )
    return np.asarray(np.linalg.solve(information, gradient))
