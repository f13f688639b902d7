"""Degenerate logs: every estimator of the registry has a defined result, or an error that says what is missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import offline_eval
from offline_eval import evaluate, value
from recrl.core.contracts import LoggedFeedback
from recrl.core.errors import DataError
from recrl.core.ragged import Offsets

NAMES = sorted(offline_eval.REGISTRY)
BY_WEIGHT = {"snips", "ncis", "replay", "sndr", "wis", "capped_wis", "wpdis", "seq_wdr", "ncis_trajectory"}
"""Those that divide by weights: undefined where the target never takes a logged action."""


def log(rewards: list[float], lengths: list[int], target: float = 0.3, guess: float = 0.25) -> LoggedFeedback:
    """Rows of users (one trajectory each), logged with propensity .5; predictions are one number."""
    n = len(rewards)
    with np.errstate(divide="ignore"):
        chances = np.full(n, np.log(target)), np.full(n, np.log(0.5))
    users = np.repeat(np.arange(len(lengths)), lengths)
    q = np.full(n, guess)
    return LoggedFeedback(np.array(rewards), *chances, users, q, q.copy(), Offsets.from_lengths(lengths), np.ones(n))


@pytest.mark.parametrize("name", NAMES)
def test_a_single_row_has_a_value_by_hand_and_an_unbounded_interval(name: str) -> None:
    w, r, q = 0.6, 1.0, 0.25
    wanted = {
        **dict.fromkeys(("mean", "mean_return", "snips", "ncis", "ncis_trajectory", "replay", "wis", "capped_wis", "wpdis"), r),
        **dict.fromkeys(("ips", "clipped_ips", "tis", "pdis", "iips", "pseudo_inverse"), w * r),
        **dict.fromkeys(("dm", "seq_dm"), q),
        **dict.fromkeys(("dr", "switch_dr", "seq_dr"), q + w * (r - q)),
        **dict.fromkeys(("sndr", "seq_wdr"), r),
        "sg_ips": w / (0.9 + 0.1 * w) * r,
        "sg_dr": q + w / (0.9 + 0.1 * w) * (r - q),
        "dr_os": q + 100 * w / (w * w + 100) * (r - q),
    }
    found = offline_eval.estimate(log([r], [1]), offline_eval.REGISTRY[name])
    assert found.value == pytest.approx(wanted[name], abs=1e-12)
    assert (found.lower, found.upper) == (-np.inf, np.inf)
    assert found.verdict == "do not use"


@pytest.mark.parametrize("name", NAMES)
def test_a_user_without_rows_changes_nothing(name: str) -> None:
    rewards = [1.0, 0.0, 1.0]
    with_one, without = log(rewards, [1, 0, 2]), log(rewards, [1, 2])
    estimator = offline_eval.REGISTRY[name]
    one, other = (offline_eval.interval(estimator.contributions(x)) for x in (with_one, without))
    assert (one.value, one.clusters, one.standard_error) == (other.value, other.clusters, other.standard_error)


@pytest.mark.parametrize("name", NAMES)
def test_all_zero_rewards_with_zero_predictions_are_worth_zero_for_sure(name: str) -> None:
    found = offline_eval.estimate(log([0.0] * 6, [2, 1, 3], guess=0.0), offline_eval.REGISTRY[name])
    assert (found.value, found.lower, found.upper) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_actions_that_the_target_never_takes(name: str) -> None:
    """Nothing logged is the target's: zero for those that weigh, the prediction for direct ones, undefined for ratios of weights."""
    lost, estimator = log([1.0, 0.0, 1.0, 1.0], [2, 2], target=0.0), offline_eval.REGISTRY[name]
    (row,) = [r for r in evaluate(lost, [name]).estimates.to_pylist() if r["policy"] == "target"]
    if name in BY_WEIGHT:
        assert np.isnan(row["value"])
        assert row["verdict"] == "do not use"
        with pytest.raises(DataError, match=r"weight|accepted"):
            value(estimator.contributions(lost))
    elif name not in ("mean", "mean_return"):
        # a sum over positions is extrapolated: two items, neither of them the target's, speak against the slate's total once
        other = -1.5 if name == "pseudo_inverse" else 0.0
        assert row["value"] == pytest.approx(0.25 if offline_eval.needs(name) & {"predictions"} else other)
        assert row["verdict"] == "do not use"


@pytest.mark.parametrize("name", NAMES)
def test_a_row_without_propensity_is_refused_by_name(name: str) -> None:
    bad = replace(log([1.0, 0.0], [1, 1]), behaviour_log_prob=np.array([np.log(0.5), -np.inf]))
    with pytest.raises(DataError, match="row 1"):
        offline_eval.REGISTRY[name].contributions(bad)
