"""Choosing: how much an estimator should cap (SLOPE), which estimator to believe, and which policy to take.

* :func:`slope`: from candidates of falling variance and growing bias, such as caps from large to small, the last whose interval
  still meets those of all before it.
* :func:`cross_validated`: each estimator on part of the users against an unbiased one on the others.
* :func:`importance_fitted`: the log is cut in two by the target policy's own weights, so that one part is what a policy as far from the
  logger as the target would have logged; each estimator is held against that part's plain mean.
* :func:`rank_correlation`, :func:`regret_at`, :func:`sharpe_ratio_at`, :func:`violation_at`: how good a choice of policies was, once
  the truth is known.

**When it fails**: all three selectors see the same log as the estimators. With few effective users their own noise exceeds what they
compare, and none sees confounding. Whether choosing pays at all is measured in ``docs/off_policy.md``; an interval made after a choice is
too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from offline_eval.contributions import ClusterSums, cluster_sums, standard_error, value
from offline_eval.registry import resolve
from offline_eval.validation import checked, weights
from recrl.core.contracts import Estimator, LoggedFeedback
from recrl.core.errors import ConfigError, DataError
from recrl.core.streams import Purpose, Streams

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen, and why.

    Attributes:
        estimator: the chosen one.
        index: its place among the candidates.
        values: (k,) their estimates on the whole log.
        scores: (k,) what they were compared by: half-widths for :func:`slope`, estimated mean squared errors otherwise.
    """

    estimator: Estimator
    index: int
    values: Float64
    scores: Float64

    @property
    def value(self) -> float:
        """The chosen estimate."""
        return float(self.values[self.index])


Selector = Callable[[LoggedFeedback, Sequence[str | Estimator]], Choice]


def slope(feedback: LoggedFeedback, candidates: Sequence[str | Estimator], *, level: float = 0.95, monotone: bool = False) -> Choice:
    """The candidate of least variance that does not contradict a less biased one.

    Candidates are sorted from the widest interval to the narrowest. ``monotone=False`` is SLOPE++, which assumes nothing of how the bias
    grows: candidate ``i`` stands while ``|v_i - v_j| <= c_i + (sqrt(6) - 1) c_j`` for all ``j`` before it, ``c`` the half-widths by user.
    ``monotone=True`` is SLOPE: the intervals ``v_j -+ 2 c_j`` up to ``i`` have a point in common, which needs a bias that grows as the
    width falls.

    **Source**: Su, Srinath and Krishnamurthy, ICML 2020; Tucker and Lee, "Improved estimator selection for off-policy evaluation", 2021.

    **Errors**: :class:`ConfigError` for no candidates.

    >>> import numpy as np
    >>> from offline_eval import ClippedIPS
    >>> log_w = np.random.default_rng(0).normal(-0.5, 1.0, 4000)
    >>> log = LoggedFeedback(np.ones(4000), log_w, np.zeros(4000), np.arange(4000) // 4)
    >>> slope(log, [ClippedIPS(cap) for cap in (1000.0, 30.0, 5.0, 1.0, 0.2)]).estimator.cap
    5.0
    """
    asked, sums = _candidates(feedback, candidates)
    values = np.array([value(s) for s in sums])
    half = np.array([standard_error(s) for s in sums]) * stats.t.ppf(0.5 + level / 2, max(sums[0].count - 1, 1))
    order = np.argsort(-half, kind="stable")
    chosen, low, high = int(order[0]), -np.inf, np.inf
    for place, i in enumerate(order):
        before = order[:place]
        if monotone:
            low, high = max(low, values[i] - 2 * half[i]), min(high, values[i] + 2 * half[i])
            stands = low <= high
        else:
            stands = bool(np.all(np.abs(values[i] - values[before]) <= half[i] + (np.sqrt(6.0) - 1.0) * half[before]))
        if not stands:
            break
        chosen = int(i)
    return Choice(asked[chosen], chosen, values, half)


def cross_validated(
    feedback: LoggedFeedback,
    candidates: Sequence[str | Estimator],
    *,
    judge: str | Estimator = "ips",
    splits: int = 20,
    seed: int = 0,
) -> Choice:
    """The candidate whose estimates on half of the users come closest to an unbiased one's on the other half.

    The judge's noise is the same for every candidate and cancels on average.

    Args:
        feedback: the log, with predictions where a candidate or the judge needs them.
        candidates: estimators.
        judge: an unbiased estimator: ``ips``, ``dr``, ``pdis``, ``seq_dr``.
        splits: random halves.
        seed: of the halves.

    **Source**: Cief, Kveton and Kompan, "Cross-validated off-policy evaluation", 2024 (halves of users here).

    **Errors**: :class:`ConfigError` for no candidates, :class:`DataError` for fewer than four users.
    """
    asked, sums = _candidates(feedback, candidates)
    judged = cluster_sums(resolve(judge).contributions(feedback))
    _enough(judged.count)
    errors = np.zeros(len(asked))
    for split in range(splits):
        half = _half(judged.ids, seed, split)
        reference = value(_users(judged, ~half))
        errors += [_squared(_users(s, half), reference) for s in sums]
    best = int(np.argmin(errors))
    return Choice(asked[best], best, np.array([_defined(s) for s in sums]), errors / splits)


def importance_fitted(
    feedback: LoggedFeedback, candidates: Sequence[str | Estimator], *, share: float = 0.3, splits: int = 20, seed: int = 0
) -> Choice:
    """The candidate that comes closest to the plain mean of rows which a policy like the target would have logged.

    A row goes to the mock target's part with chance ``rho = k w / (1 + k w)``, to the mock logger's otherwise, ``k`` such that ``share`` of
    the rows go. Then rows of the mock logger have weight ``rho / (1 - rho) = k w`` against the mock target, up to a known
    factor: as uneven as the real weights. The two parts come from different users, so that no user's luck is on both sides.
    Direct terms are the mock target's mean predictions.

    **When it fails**: the parts are smaller than the log, so variance weighs more than it should; the mock target also meets other
    contexts than the real one.

    **Source**: after Udagawa et al., "Policy-adaptive estimator selection", AAAI 2023, who train a network for ``rho``; this is a closed
    form.

    **Errors**: :class:`ConfigError` for no candidates or a share outside (0, 1), :class:`DataError` for fewer than four users.
    """
    if not 0.0 < share < 1.0:
        raise ConfigError(f"share is {share}; it lies between 0 and 1", where="importance_fitted.share", mend="0.3 is usual")
    asked, whole = _candidates(feedback, candidates)
    rows = checked(feedback)
    _enough(np.unique(rows.cluster).size)
    odds = _scaled(weights(rows), share)
    chance = odds / (1.0 + odds)
    errors, used = np.zeros(len(asked)), 0
    for split in range(splits):
        mine = _half(rows.cluster, seed, split)
        picked = Streams(seed).uniform(np.arange(odds.size), split, Purpose.SPLITS) < chance
        target, logger = np.flatnonzero(~mine & picked), np.flatnonzero(mine & ~picked)
        if not (target.size and logger.size):
            continue
        used += 1
        factor = np.log((1.0 - chance.mean()) / chance.mean())
        with np.errstate(divide="ignore"):
            mock = replace(
                rows,
                reward=rows.reward[logger],
                target_log_prob=np.log(odds[logger]) + factor,
                behaviour_log_prob=np.zeros(logger.size),
                cluster=rows.cluster[logger],
                target_value=None if rows.logged_value is None else np.full(logger.size, rows.logged_value[target].mean()),
                logged_value=None if rows.logged_value is None else rows.logged_value[logger],
                trajectory=None,
                final_value=None,
            )
        reference = float(rows.reward[target].mean())
        errors += [_squared(cluster_sums(e.contributions(mock)), reference) for e in asked]
    if not used:
        raise DataError("no split left rows on both sides", where="importance_fitted", mend="give more rows, or a larger share")
    best = int(np.argmin(errors))
    return Choice(asked[best], best, np.array([_defined(s) for s in whole]), errors / used)


def rank_correlation(truth: ArrayLike, estimate: ArrayLike) -> float:
    """Spearman's correlation of policies' true and estimated values; 0 where either side is constant."""
    true, found = _policies(truth, estimate)
    if np.ptp(true) == 0 or np.ptp(found) == 0:
        return 0.0
    return float(stats.spearmanr(true, found).statistic)


def regret_at(truth: ArrayLike, estimate: ArrayLike, k: int = 1) -> float:
    """How much the best of the ``k`` policies with the highest estimates falls short of the best policy."""
    true, found = _policies(truth, estimate)
    return float(true.max() - true[_top(found, k)].max())


def sharpe_ratio_at(truth: ArrayLike, estimate: ArrayLike, k: int, logged: float) -> float:
    """Gain of the best of the top ``k`` policies over the logging policy, in deviations of their true values: risk against return.

    **Source**: Kiyohara et al., "Towards assessing and benchmarking risk-return tradeoff of off-policy evaluation", ICLR 2024.
    """
    true, found = _policies(truth, estimate)
    if k < 2:
        raise ConfigError(f"k is {k}; a deviation needs at least 2 policies", where="sharpe_ratio_at.k")
    top = true[_top(found, k)]
    spread = float(top.std(ddof=1))
    gain = float(top.max()) - logged
    return gain / spread if spread > 0 else float(np.inf * np.sign(gain)) if gain else 0.0


def violation_at(truth: ArrayLike, estimate: ArrayLike, k: int, least: float) -> float:
    """Share of the top ``k`` policies whose true value lies below ``least``: what a live test would have to stop."""
    true, found = _policies(truth, estimate)
    return float(np.mean(true[_top(found, k)] < least))


def _candidates(feedback: LoggedFeedback, candidates: Sequence[str | Estimator]) -> tuple[list[Estimator], list[ClusterSums]]:
    asked = [resolve(candidate) for candidate in candidates]
    if not asked:
        raise ConfigError("there are no candidates to choose from", where="selection.candidates", mend="give at least one estimator")
    return asked, [cluster_sums(estimator.contributions(feedback)) for estimator in asked]


def _enough(users: int) -> None:
    if users < 4:
        raise DataError(f"{users} users cannot be halved", where="LoggedFeedback.cluster", mend="give the rows of more users")


def _half(ids: Int64, seed: int, split: int) -> NDArray[np.bool_]:
    """A random half of the users, by id: two lists of one user's rows agree."""
    bits: NDArray[np.bool_] = Streams(seed).uniform(ids, split, Purpose.BOOTSTRAP) < 0.5
    return bits


def _users(sums: ClusterSums, kept: NDArray[np.bool_]) -> ClusterSums:
    return ClusterSums(sums.numerators[:, kept], sums.denominators[:, kept], sums.ids[kept])


def _defined(sums: ClusterSums) -> float:
    return value(sums) if sums.count and bool(np.all(sums.denominators.sum(axis=1) > 0)) else float("nan")


def _squared(sums: ClusterSums, reference: float) -> float:
    """Squared distance; infinite where the estimate is undefined, so that nobody chooses it."""
    found = _defined(sums)
    return (found - reference) ** 2 if np.isfinite(found) else float("inf")


def _scaled(w: Float64, share: float) -> Float64:
    """``k w`` with ``k w / (1 + k w)`` of mean ``share``, by bisection on the logarithm of ``k``."""
    if not share < float(np.mean(w > 0)):
        raise DataError(
            "too few rows have any weight", where="LoggedFeedback.target_log_prob", mend="compare policies that overlap, or a smaller share"
        )
    low, high = -400.0, 400.0
    for _ in range(80):
        middle = (low + high) / 2
        odds = np.exp(middle) * w
        mean = float(np.mean(1.0 - 1.0 / (1.0 + odds)))
        low, high = (middle, high) if mean < share else (low, middle)
    scaled: Float64 = np.exp(low) * w
    return scaled


def _policies(truth: ArrayLike, estimate: ArrayLike) -> tuple[Float64, Float64]:
    true, found = np.asarray(truth, dtype=np.float64), np.asarray(estimate, dtype=np.float64)
    if true.ndim != 1 or true.shape != found.shape or true.size < 2:
        raise DataError(f"values {true.shape} and estimates {found.shape} do not fit", where="selection", mend="give two or more policies")
    return true, found


def _top(estimates: Float64, k: int) -> Int64:
    if not 1 <= k <= estimates.size:
        raise ConfigError(f"k is {k} of {estimates.size} policies", where="selection.k", mend="give 1 up to the number of policies")
    return np.argsort(-estimates, kind="stable")[:k]
