"""Values and standard errors of anything of the form ``sum_k (sum_i N_ki / sum_i D_ki)``, clustered by user.

One pass over the rows gives sums for each user; every value, standard error, interval and bootstrap is then a matter of
users, not of rows.

With ``R_k = sum_i N_ki / sum_i D_ki`` and ``h_kg = D_kg / sum_g D_kg`` (the leverage of user ``g``), the influence of user
``g`` on the value is ``psi_g = sum_k (N_kg - R_k D_kg) / sum_g D_kg``. The delta method takes the variance
``G / (G - 1) * sum_g psi_g^2``. Here each user's influence is divided by ``1 - h_kg`` and the sum multiplied by
``(G - 1) / G`` instead: the delete-one-user jackknife in closed form, known as CR3. Both are the same where users weigh
alike; where few users carry the estimate the plain form is too small.

**Assumptions**: users are independent of each other; rows of one user may depend on each other in any way.

**Source**: Liang and Zeger, Biometrika 1986 (clusters); Bell and McCaffrey, Survey Methodology 2002 (CR3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recrl.core.contracts import Contributions
from recrl.core.errors import DataError

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ClusterSums:
    """Sums of an estimate's contributions for each user.

    **Shapes**: ``numerators``, ``denominators`` (k, G) float64; ``ids`` (G,) int64, ascending cluster ids.
    """

    numerators: Float64
    denominators: Float64
    ids: Int64

    @property
    def count(self) -> int:
        """Number of clusters ``G``."""
        return int(self.ids.size)

    def ratios(self) -> Float64:
        """The ``k`` ratios whose sum is the value.

        **Errors**: :class:`DataError` where a denominator is zero: the weights of every row vanish.
        """
        totals = self.denominators.sum(axis=1)
        if not bool(np.all(totals > 0)):
            raise DataError(
                "the estimate is undefined: every importance weight is zero",
                where="contributions.denominators",
                mend="the target policy never takes a logged action; compare policies that overlap with the log; ips is then 0",
            )
        ratios: Float64 = self.numerators.sum(axis=1) / totals
        return ratios


def cluster_sums(contributions: Contributions) -> ClusterSums:
    """Sum rows into users in one pass.

    **Errors**: :class:`DataError` for an empty or misshapen set of contributions.
    """
    numerators, denominators, cluster = _rows(contributions)
    ids, index = dense_clusters(cluster)
    return ClusterSums(sum_rows(numerators, index, ids.size), sum_rows(denominators, index, ids.size), ids)


def _rows(contributions: Contributions) -> tuple[Float64, Float64, NDArray[np.integer]]:
    """Numerators and denominators (k, n), and clusters (n,)."""
    numerators = np.atleast_2d(np.asarray(contributions.numerators, dtype=np.float64))
    denominators = np.atleast_2d(np.asarray(contributions.denominators, dtype=np.float64))
    cluster = np.asarray(contributions.cluster)
    if numerators.shape != denominators.shape or cluster.shape != numerators.shape[1:]:
        raise DataError(
            f"numerators {numerators.shape}, denominators {denominators.shape} and cluster {cluster.shape} do not fit",
            where="Contributions",
            mend="numerators and denominators are (k, n), cluster is (n,)",
        )
    if cluster.size == 0:
        raise DataError("there are no rows to evaluate", where="Contributions.cluster", mend="check the filter or split that made the log")
    return numerators, denominators, cluster


def dense_clusters(cluster: NDArray[np.integer]) -> tuple[Int64, Int64]:
    """Ascending cluster ids ``(G,)`` and each row's position among them ``(n,)``."""
    cluster = cluster.astype(np.int64, copy=False)
    low, high = int(cluster.min()), int(cluster.max())
    if high - low <= 4 * cluster.size:
        # ids are dense enough to count instead of sort
        shifted = cluster - low
        present = np.bincount(shifted, minlength=high - low + 1) > 0
        return np.flatnonzero(present) + low, (np.cumsum(present) - 1)[shifted]
    ids, index = np.unique(cluster, return_inverse=True)
    return ids, index


def sum_rows(values: Float64, index: Int64, count: int) -> Float64:
    """Sums of ``values`` (k, n) over rows with the same ``index`` -> (k, count)."""
    return np.stack([np.bincount(index, weights=row, minlength=count) for row in values])


def value(contributions: Contributions | ClusterSums) -> float:
    """The estimate itself; from rows without a look at whose they are."""
    if isinstance(contributions, ClusterSums):
        return float(contributions.ratios().sum())
    numerators, denominators, _ = _rows(contributions)
    # the sums of n ones need no addition
    totals = [row[:1] * row.size if row.strides == (0,) else row.sum(keepdims=True) for row in denominators]
    return value(ClusterSums(numerators.sum(axis=1, keepdims=True), np.stack(totals), np.zeros(1, dtype=np.int64)))


def influence(sums: ClusterSums) -> Float64:
    """How far the value moves when a user is left out, with the sign turned: ``(G,)``; infinite for a user who carries all weight."""
    totals = sums.denominators.sum(axis=1, keepdims=True)
    residual = sums.numerators - sums.ratios()[:, None] * sums.denominators
    rest = totals - sums.denominators
    # rounding may leave a sliver of weight to the rest: that is none
    alone = rest <= 1e-12 * totals
    moved: Float64 = np.where(alone, np.inf, residual / np.where(alone, 1.0, rest)).sum(axis=0)
    return moved


def plain_influence(sums: ClusterSums) -> Float64:
    """``psi_g`` of each user, (G,), without the division by 1 minus its leverage; they sum to 0."""
    totals = sums.denominators.sum(axis=1, keepdims=True)
    each: Float64 = ((sums.numerators - sums.ratios()[:, None] * sums.denominators) / totals).sum(axis=0)
    return each


def standard_error(contributions: Contributions | ClusterSums) -> float:
    """User-clustered standard error with the small-cluster correction described above; infinite with one user."""
    sums = as_sums(contributions)
    if sums.count < 2:
        return float("inf")
    return float(np.sqrt((sums.count - 1) / sums.count * np.sum(influence(sums) ** 2)))


def linearised(
    value: Float64 | float, influence: Float64, share: Float64, thinnest: Float64, cluster: NDArray[np.integer], weights: Float64
) -> Contributions:
    """Contributions of a value that is no short sum of ratios, from the influence of each row or trajectory on it.

    The first term's numerators are the value plus ``N`` times the influence, so that their mean is the value exactly. As the
    delete-one-user error of a ratio divides a user's influence by 1 minus its leverage, so does this one by 1 minus the sum of its
    ``share``. The second term is worth 0: with ``thinnest`` as denominators it makes the error infinite where one user carries all
    of that weight, and the value undefined where there is none. A bootstrap resamples the linearised value.

    **Shapes**: ``value`` scalar, or (N,) with the value as its mean; ``influence`` (N,), with sum 0; ``share`` (N,) the largest share
    of any total that a row holds; ``thinnest`` (N,) the weights behind the smallest total; ``cluster``, ``weights`` (N,).
    """
    index = dense_clusters(np.asarray(cluster))[1]
    left = 1.0 - np.bincount(index, weights=share)[index]
    moved = influence.size * influence / np.where(left > 1e-12, left, 1.0)
    numerator = value + moved - moved.mean()
    return Contributions(np.stack([numerator, np.zeros_like(moved)]), np.stack([np.ones_like(moved), thinnest]), cluster, weights)


def difference(first: Contributions, second: Contributions) -> Contributions:
    """Contributions of ``first - second`` on the same rows, for example a policy's gain over the logging policy.

    Both sides move together when users are resampled, so that the interval is as narrow as it may be.

    **Errors**: :class:`DataError` when the two come from different rows.
    """
    if not np.array_equal(first.cluster, second.cluster):
        raise DataError("the two estimates stand on different rows", where="difference", mend="compute both from one LoggedFeedback")
    return replace(
        first,
        numerators=np.concatenate([np.atleast_2d(first.numerators), -np.atleast_2d(second.numerators)]),
        denominators=np.concatenate([np.atleast_2d(first.denominators), np.atleast_2d(second.denominators)]),
    )


def between_logs(first: Contributions, second: Contributions) -> Contributions:
    """Contributions of ``first - second`` for estimates from two logs of different users, say an estimate and the truth measured elsewhere.

    Both logs' users count as units, so that an interval holds both errors: its variance is the sum of the two.

    >>> import numpy as np
    >>> one, two = (Contributions(x[None], np.ones((1, 4)), np.arange(4), np.ones(4)) for x in (np.arange(4.0), np.zeros(4)))
    >>> value(between_logs(one, two))
    1.5
    """
    parts = [(np.atleast_2d(c.numerators), np.atleast_2d(c.denominators), dense_clusters(np.asarray(c.cluster))) for c in (first, second)]
    (top, bottom, (ids, index)), (top2, bottom2, (_, index2)) = parts
    absent, absent2 = np.zeros((len(top), index2.size)), np.zeros((len(top2), index.size))
    return Contributions(
        numerators=np.block([[top, absent], [absent2, -top2]]),
        denominators=np.block([[bottom, absent], [absent2, bottom2]]),
        cluster=np.concatenate([index, ids.size + index2]),
        weights=np.concatenate([first.weights, second.weights]),
    )


def as_sums(contributions: Contributions | ClusterSums) -> ClusterSums:
    """The sums given, or those of the rows given."""
    return contributions if isinstance(contributions, ClusterSums) else cluster_sums(contributions)
