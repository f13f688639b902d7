"""Values and intervals of anything of the form ``sum_k (sum_i N_ki / sum_i D_ki)``, clustered by user.

One pass over the rows gives sums for each user; every value, standard error, interval and bootstrap is then a matter of
users, not of rows: a thousand resamples of 27,000 users cost what one pass over 27 million numbers costs.

With ``R_k = sum_i N_ki / sum_i D_ki`` and ``h_kg = D_kg / sum_g D_kg`` (the leverage of user ``g``), the influence of user
``g`` on the value is ``psi_g = sum_k (N_kg - R_k D_kg) / sum_g D_kg``. The delta method takes the variance
``G / (G - 1) * sum_g psi_g^2``. Here each user's influence is divided by ``1 - h_kg`` and the sum multiplied by
``(G - 1) / G`` instead: the delete-one-user jackknife in closed form, known as CR3. Both are the same where users weigh
alike; where few users carry the estimate the plain form is too small. Quantiles are Student's t with ``G - 1`` degrees.

**Assumptions**: users are independent of each other; rows of one user may depend on each other in any way. The interval
is for the expectation of the estimate, so it does not show the bias of a capped or self-normalised estimator.

**Source**: Liang and Zeger, Biometrika 1986 (clusters); Bell and McCaffrey, Survey Methodology 2002 (CR3); Efron, Annals of
Statistics 1979 (bootstrap); Chamandy et al., "Estimating uncertainty for massive data streams", 2012 (Poisson weights).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from recrl.core.contracts import Contributions
from recrl.core.errors import ConfigError, DataError
from recrl.core.streams import Purpose, Streams

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Method = Literal["delta", "bootstrap", "poisson_bootstrap"]

# a tile of replicates small enough to stay in cache while it is gathered and summed
_TILE_DRAWS = 1 << 18


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval.

    ``standard_error`` is infinite, and the interval unbounded, where a single user carries the whole estimate.
    """

    value: float
    lower: float
    upper: float
    level: float
    method: str
    clusters: int
    standard_error: float


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
    ids, index = dense_clusters(cluster)
    return ClusterSums(sum_rows(numerators, index, ids.size), sum_rows(denominators, index, ids.size), ids)


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
    """The estimate itself."""
    return float(_sums(contributions).ratios().sum())


def influence(sums: ClusterSums) -> Float64:
    """How far the value moves when a user is left out, with the sign turned: ``(G,)``; infinite for a user who carries all weight."""
    totals = sums.denominators.sum(axis=1, keepdims=True)
    residual = sums.numerators - sums.ratios()[:, None] * sums.denominators
    rest = totals - sums.denominators
    # rounding may leave a sliver of weight to the rest: that is none
    alone = rest <= 1e-12 * totals
    moved: Float64 = np.where(alone, np.inf, residual / np.where(alone, 1.0, rest)).sum(axis=0)
    return moved


def standard_error(contributions: Contributions | ClusterSums) -> float:
    """User-clustered standard error with the small-cluster correction described above; infinite with one user."""
    sums = _sums(contributions)
    if sums.count < 2:
        return float("inf")
    return float(np.sqrt((sums.count - 1) / sums.count * np.sum(influence(sums) ** 2)))


def interval(
    contributions: Contributions | ClusterSums,
    level: float = 0.95,
    method: Method = "delta",
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> Interval:
    """Value and confidence interval, with users as the independent units.

    Args:
        contributions: rows, or the sums of :func:`cluster_sums`.
        level: nominal coverage, between 0 and 1.
        method: ``delta`` (closed form, Student's t), ``bootstrap`` (percentiles over resampled users) or
            ``poisson_bootstrap`` (the same with independent Poisson weights: results of shards add up).
        replicates: resamples of a bootstrap.
        seed: seed of a bootstrap's draws.

    **Assumptions / when it fails**: under about 500 users, or with rewards rarer than one in fifty, the sums are skewed
    and every method covers less than it says; :mod:`offline_eval.diagnostics` then warns.

    **Errors**: :class:`ConfigError` for a level outside (0, 1), an unknown method or fewer than 2 replicates;
    :class:`DataError` where the value is undefined.
    """
    if not 0.0 < level < 1.0:
        raise ConfigError(f"level is {level}; a confidence level lies between 0 and 1", where="interval.level", mend="0.95 is usual")
    if method not in get_args(Method):
        raise ConfigError(
            f"unknown interval method {method!r}", where="interval.method", mend=f"choose one of: {', '.join(get_args(Method))}"
        )
    sums = _sums(contributions)
    estimate = value(sums)
    if method == "delta" or sums.count < 2:
        error = standard_error(sums)
        reach = error * float(stats.t.ppf(0.5 + level / 2, sums.count - 1)) if np.isfinite(error) else float("inf")
        return Interval(estimate, estimate - reach, estimate + reach, level, method, sums.count, error)
    draw = bootstrap_sums if method == "bootstrap" else poisson_sums
    values = replicate_values(*draw(sums, replicates, seed))
    lower, upper = _percentiles(values, level)
    error = float(np.std(values, ddof=1)) if bool(np.isfinite(values).all()) else float("inf")
    return Interval(estimate, lower, upper, level, method, sums.count, error)


def bootstrap_sums(sums: ClusterSums, replicates: int, seed: int = 0) -> tuple[Float64, Float64]:
    """Sums over users drawn with replacement: numerators and denominators, each ``(k, replicates)``.

    Replicate ``b`` is a pure function of ``seed`` and ``b``.
    """
    _check_replicates(replicates)
    streams, count = Streams(seed), sums.count
    out = np.empty((2, *sums.numerators.shape[:1], replicates))
    tile = max(1, _TILE_DRAWS // count)
    for start in range(0, replicates, tile):
        ids = np.arange(start, min(start + tile, replicates))
        # two draws from each 64-bit word; scaling 32 bits to the users is uneven by less than count / 2**32
        words = streams.bits(ids, 0, Purpose.BOOTSTRAP, ((count + 1) // 2,)).view(np.uint32)[:, :count]
        drawn = (words.astype(np.uint64) * np.uint64(count)) >> np.uint64(32)
        for part, values in zip(out, (sums.numerators, sums.denominators), strict=True):
            for k, row in enumerate(values):
                part[k, ids] = np.take(row, drawn).sum(axis=1)
    return out[0], out[1]


def poisson_sums(sums: ClusterSums, replicates: int, seed: int = 0) -> tuple[Float64, Float64]:
    """Sums over users with independent Poisson(1) weights: numerators and denominators, each ``(k, replicates)``.

    A user's weight in a replicate is a pure function of ``seed``, the user's id and the replicate, so the sums of
    shards of a log add up to the sums of the log, however its rows were dealt out.
    """
    _check_replicates(replicates)
    streams = Streams(seed)
    law = stats.poisson.cdf(np.arange(20), 1.0)
    out = np.zeros((2, *sums.numerators.shape[:1], replicates))
    tile = max(1, _TILE_DRAWS // replicates)
    for start in range(0, sums.count, tile):
        part = slice(start, start + tile)
        uniform = streams.uniform(sums.ids[part], 0, Purpose.BOOTSTRAP, (replicates,))
        counts = np.searchsorted(law, uniform, side="right").astype(np.float64)
        out[0] += sums.numerators[:, part] @ counts
        out[1] += sums.denominators[:, part] @ counts
    return out[0], out[1]


def replicate_values(numerators: Float64, denominators: Float64) -> Float64:
    """The value in each replicate ``(replicates,)``; NaN where the replicate holds no weight at all."""
    with np.errstate(divide="ignore", invalid="ignore"):
        values: Float64 = np.where(denominators > 0, numerators / denominators, np.nan).sum(axis=0)
    return values


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


def _sums(contributions: Contributions | ClusterSums) -> ClusterSums:
    return contributions if isinstance(contributions, ClusterSums) else cluster_sums(contributions)


def _check_replicates(replicates: int) -> None:
    if replicates < 2:
        raise ConfigError(f"replicates is {replicates}; a bootstrap needs at least 2", where="interval.replicates", mend="1000 is usual")


def _percentiles(values: Float64, level: float) -> tuple[float, float]:
    """Percentile interval; a replicate without weight could have been anything and counts against both ends."""
    tail = (1.0 - level) / 2
    lower = np.quantile(np.where(np.isnan(values), -np.inf, values), tail, method="inverted_cdf")
    upper = np.quantile(np.where(np.isnan(values), np.inf, values), 1.0 - tail, method="inverted_cdf")
    return float(lower), float(upper)
