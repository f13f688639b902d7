"""What a learned reward knows: accuracy on held-out pairs by kind, calibration, and how much of it is about the action."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from recrl.core.contracts import Transitions
from recrl.core.errors import DataError
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.preferences.pairs import PairBatches
from recrl.preferences.reward import LearnedReward

_LEAST_SHARE = 0.005


@dataclass(frozen=True)
class Accuracy:
    """Share of pairs of one kind whose better segment the reward finds: all, given, within user, across users, close, middling, far.

    ``given`` counts the labels as they were given; the others the noise-free ones where a scripted teacher knows them, else those given.
    ``close`` to ``far`` are thirds by how much the two segments differ. Equals are left out.
    """

    kind: str
    pairs: int
    right: float


@dataclass(frozen=True)
class Bin:
    """Pairs whose predicted probability falls into one tenth: their mean prediction, and the share in which the first was preferred."""

    low: float
    pairs: int
    predicted: float
    preferred: float


@dataclass(frozen=True)
class Inspection:
    """What a reward knows of some pairs.

    Attributes:
        accuracies: by kind.
        rank_correlation: Spearman's, between predicted returns and the values that a scripted teacher knows; NaN for a person's labels.
        calibration: predicted against given labels, ten bins.
    """

    accuracies: tuple[Accuracy, ...]
    rank_correlation: float
    calibration: tuple[Bin, ...]

    def right(self, kind: str = "all") -> float:
        """Accuracy of one kind; NaN where there is no such pair."""
        return next((a.right for a in self.accuracies if a.kind == kind), float("nan"))


def inspect_reward(reward: LearnedReward, batches: PairBatches) -> Inspection:
    """What ``reward`` knows of labelled pairs, held-out ones for an honest answer."""
    pairs = batches.pairs
    returns, probability = (found.double().cpu().numpy() for found in reward.judge(batches))
    truth = np.where(np.isnan(pairs.truth), pairs.preferred, pairs.truth)
    distance = np.abs(pairs.first_value - pairs.second_value)
    kinds = {
        "all": np.ones(len(pairs), dtype=bool),
        "within user": pairs.same_user,
        "across users": ~pairs.same_user,
    }
    if not np.isnan(distance).any():
        order = np.argsort(np.argsort(distance, kind="stable")) * 3 // max(1, len(pairs))
        kinds |= {name: order == third for third, name in enumerate(("close", "middling", "far"))}
    found = [_accuracy(kind, probability, truth, chosen) for kind, chosen in kinds.items()]
    found.append(_accuracy("given", probability, pairs.preferred, kinds["all"]))
    values = np.concatenate([pairs.first_value, pairs.second_value])
    rank = float("nan") if np.isnan(values).any() else float(spearmanr(returns.reshape(-1), values).statistic)
    return Inspection(tuple(a for a in found if a.pairs), rank, _calibration(probability, pairs.preferred))


def _accuracy(kind: str, probability: NDArray[np.float64], truth: NDArray[np.float64], chosen: NDArray[np.bool_]) -> Accuracy:
    decided = chosen & (truth != 0.5)
    right = (probability > 0.5) == (truth > 0.5)
    return Accuracy(kind, int(decided.sum()), float(right[decided].mean()) if decided.any() else float("nan"))


def _calibration(probability: NDArray[np.float64], given: NDArray[np.float64]) -> tuple[Bin, ...]:
    tenth = np.minimum((probability * 10).astype(np.int64), 9)
    bins = []
    for k in range(10):
        inside = tenth == k
        if inside.any():
            bins.append(Bin(k / 10, int(inside.sum()), float(probability[inside].mean()), float(given[inside].mean())))
    return tuple(bins)


def action_share(reward: LearnedReward, batch: Transitions, mean: Tensor, spread: Tensor | float, seed: int, draws: int = 8) -> float:
    """Share of the reward's variance that is about the action, 0 to 1: below .005 a policy has nothing to learn from it.

    ``draws`` actions of each state come from a Gaussian around ``mean`` (B, d), the logging policy's, clipped to the bounds of the batch's
    actions; their variance within states over all variance.
    """
    if len(batch) < 2:
        raise DataError("a share of variance needs at least two states", where="action_share.batch", mend="give more rows")
    streams, low, high = TensorStreams(seed, mean.device), batch.action.amin(), batch.action.amax()
    rows = torch.arange(len(batch), device=mean.device)
    scores = []
    for k in range(draws):
        noise = streams.normal(rows, k, Purpose.EXPLORATION, mean.shape[1:])
        scores.append(reward.score(replace(batch, action=(mean + spread * noise).clamp(low, high))))
    drawn = torch.stack(scores)  # (draws, B)
    return float(drawn.var(0).mean() / drawn.flatten().var().clamp_min(1e-12))


def too_little_action(share: float) -> bool:
    """Whether a share of :func:`action_share` is too small to learn a policy from."""
    return share < _LEAST_SHARE
