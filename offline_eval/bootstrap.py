"""Resampled users: numerators and denominators are drawn together, as a ratio needs.

A thousand resamples of 27,000 users cost what one pass over 27 million numbers costs, however many rows they have.

**Source**: Efron, Annals of Statistics 1979; Chamandy et al., "Estimating uncertainty for massive data streams", 2012 (Poisson weights).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from offline_eval.contributions import ClusterSums
from recrl.core.errors import ConfigError
from recrl.core.streams import Purpose, Streams

Float64 = NDArray[np.float64]

# a tile of replicates small enough to stay in cache while it is gathered and summed
_TILE_DRAWS = 1 << 18


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


def percentile(values: Float64, share: float, missing: float) -> float:
    """The value that ``share`` of the replicates do not exceed; a replicate without weight counts as ``missing``, an infinity."""
    return float(np.quantile(np.where(np.isnan(values), missing, values), share, method="inverted_cdf"))


def _check_replicates(replicates: int) -> None:
    if replicates < 2:
        raise ConfigError(f"replicates is {replicates}; a bootstrap needs at least 2", where="interval.replicates", mend="1000 is usual")
