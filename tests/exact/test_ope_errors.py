"""What cannot be evaluated is refused with the array, the row and the mend."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pytest

import offline_eval
from recrl.core.contracts import Contributions, LoggedFeedback
from recrl.core.errors import ConfigError, DataError, RecrlError
from recrl.core.ragged import Offsets


def feedback(**changes: Any) -> LoggedFeedback:
    columns: dict[str, Any] = {
        "reward": np.array([1.0, 0.0, 1.0]),
        "target_log_prob": np.array([-0.5, -1.0, -2.0]),
        "behaviour_log_prob": np.array([-1.0, -1.0, -1.0]),
        "cluster": np.array([0, 0, 1]),
    }
    return LoggedFeedback(**(columns | changes))


BAD = [
    (dict(reward=np.array([1.0, np.nan, 1.0])), "reward is nan in row 1 (1 such rows)", "LoggedFeedback.reward[1]"),
    (dict(reward=np.array([1.0, 0.0, np.inf])), "reward is inf in row 2", "LoggedFeedback.reward[2]"),
    (dict(reward=np.ones((3, 1))), "reward has shape (3, 1), expected (n,)", "LoggedFeedback.reward"),
    (dict(reward=np.array(["a", "b", "c"])), "reward is not numeric", "LoggedFeedback.reward"),
    (dict(target_log_prob=np.array([-1.0, np.nan, 0.0])), "target_log_prob is nan in row 1", "LoggedFeedback.target_log_prob[1]"),
    (dict(target_log_prob=np.array([-1.0, 0.0, np.inf])), "target_log_prob is inf in row 2", "LoggedFeedback.target_log_prob[2]"),
    (dict(target_log_prob=np.zeros((3, 1))), "target_log_prob has shape (3, 1)", "LoggedFeedback.target_log_prob"),
    (dict(target_log_prob=np.zeros(2)), "target_log_prob holds 2 values for 3 rows", "LoggedFeedback.target_log_prob"),
    (
        dict(behaviour_log_prob=np.array([-1.0, -np.inf, -1.0])),
        "behaviour_log_prob is -inf in row 1",
        "LoggedFeedback.behaviour_log_prob[1]",
    ),
    (dict(behaviour_log_prob=np.array([np.nan, -1.0, -1.0])), "behaviour_log_prob is nan in row 0", "LoggedFeedback.behaviour_log_prob[0]"),
    (dict(cluster=np.array([0.0, 0.5, 1.0])), "clusters are float64, not integers", "LoggedFeedback.cluster"),
    (dict(cluster=np.array(["u", "v", "w"])), "not integers", "LoggedFeedback.cluster"),
    (dict(cluster=np.zeros((3, 1), dtype=int)), "cluster has shape (3, 1)", "LoggedFeedback.cluster"),
    (dict(cluster=np.array([0, 1])), "cluster holds 2 values for 3 rows", "LoggedFeedback.cluster"),
    (
        dict(target_value=np.array([0.0, np.nan, 0.0]), logged_value=np.zeros(3)),
        "target_value is nan in row 1",
        "LoggedFeedback.target_value[1]",
    ),
    (dict(target_value=np.zeros(3), logged_value=np.zeros(4)), "logged_value holds 4 values for 3 rows", "LoggedFeedback.logged_value"),
    (
        dict(reward=np.array([]), target_log_prob=np.array([]), behaviour_log_prob=np.array([]), cluster=np.array([], dtype=int)),
        "there are no rows to evaluate",
        "LoggedFeedback.reward",
    ),
]


@pytest.mark.parametrize("name", sorted(offline_eval.REGISTRY))
@pytest.mark.parametrize(("changes", "what", "where"), BAD, ids=[what for _, what, _ in BAD])
def test_bad_feedback_is_refused_by_every_estimator(name: str, changes: dict[str, Any], what: str, where: str) -> None:
    with pytest.raises(DataError, match=re.escape(what)) as caught:
        offline_eval.REGISTRY[name].contributions(feedback(**changes))
    assert caught.value.where == where
    assert caught.value.mend


@pytest.mark.parametrize("name", ["dr", "sndr"])
def test_doubly_robust_asks_for_predictions(name: str) -> None:
    with pytest.raises(DataError, match=f"{name} needs predicted rewards"):
        offline_eval.REGISTRY[name].contributions(feedback())


@pytest.mark.parametrize("name", ["ips", "snips"])
def test_a_meaningless_weight_is_refused_unless_capped(name: str) -> None:
    log = feedback(target_log_prob=np.array([800.0, 0.0, 0.0]))
    with pytest.raises(DataError, match=re.escape("target_log_prob - behaviour_log_prob is 801.0 in row 0")):
        offline_eval.REGISTRY[name].contributions(log)
    assert np.isfinite(offline_eval.value(offline_eval.NCIS().contributions(log)))


@pytest.mark.parametrize("cap", [0.0, -1.0, float("inf"), float("nan")])
def test_caps_are_positive_and_finite(cap: float) -> None:
    for kind in (offline_eval.NCIS, offline_eval.ClippedIPS):
        with pytest.raises(ConfigError, match=f"cap is {cap}"):
            kind(cap)


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"level": 1.0}, "level is 1.0"),
    ({"level": 0.0}, "level is 0.0"),
    ({"level": float("nan")}, "level is nan"),
    ({"method": "magic"}, "unknown interval method 'magic'"),
    ({"method": "bootstrap", "replicates": 1}, "replicates is 1"),
    ({"method": "poisson_bootstrap", "replicates": 0}, "replicates is 0"),
]


@pytest.mark.parametrize(("options", "what"), OPTIONS)
def test_interval_options_are_checked(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(what)):
        offline_eval.interval(offline_eval.IPS().contributions(feedback()), **options)


def test_unknown_estimator_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown estimator 'magic'") as caught:
        offline_eval.evaluate(feedback(), ["magic"])
    assert "snips" in caught.value.mend


@pytest.mark.parametrize("name", sorted(offline_eval.REGISTRY))
def test_what_an_estimator_needs_is_what_it_asks_for(name: str) -> None:
    """It takes a log with what it needs and refuses one without any part of it."""
    have = {
        "predictions": {"target_value": np.ones(3), "logged_value": np.ones(3)},
        "trajectory": {"trajectory": Offsets.from_lengths([2, 1])},
    }
    needed = offline_eval.needs(name)
    full = {key: value for need in needed for key, value in have[need].items()}
    offline_eval.REGISTRY[name].contributions(feedback(**full))
    for need in needed:
        with pytest.raises(DataError):
            offline_eval.REGISTRY[name].contributions(feedback(**{k: v for k, v in full.items() if k not in have[need]}))


def test_no_overlap_is_an_error_for_self_normalised_values_and_zero_for_ips() -> None:
    nowhere = np.full(3, -np.inf)
    with pytest.raises(DataError, match="every importance weight is zero"):
        offline_eval.snips(nowhere, np.zeros(3), np.ones(3), cluster=np.arange(3))
    assert offline_eval.value(offline_eval.IPS().contributions(feedback(target_log_prob=nowhere))) == 0.0


def test_rows_as_clusters_are_announced() -> None:
    with pytest.warns(UserWarning, match="rows count as independent"):
        found = offline_eval.ncis([0.0, 0.0], [0.0, 0.0], [1.0, 0.0])
    assert found.interval.clusters == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        offline_eval.ncis([0.0, 0.0], [0.0, 0.0], [1.0, 0.0], cluster=[0, 1])


def test_misshapen_contributions_are_refused() -> None:
    with pytest.raises(DataError, match="do not fit"):
        offline_eval.value(Contributions(np.ones((1, 3)), np.ones((1, 2)), np.arange(3), np.ones(3)))
    with pytest.raises(DataError, match="no rows"):
        offline_eval.value(Contributions(np.ones((1, 0)), np.ones((1, 0)), np.arange(0), np.ones(0)))
    first, other = (offline_eval.IPS().contributions(feedback(cluster=np.array(ids))) for ids in ([0, 0, 1], [0, 1, 2]))
    with pytest.raises(DataError, match="different rows"):
        offline_eval.difference(first, other)


def test_every_error_is_a_recrl_error() -> None:
    with pytest.raises(RecrlError):
        offline_eval.snips([0.0], [0.0, 0.0], [1.0], cluster=[0])
