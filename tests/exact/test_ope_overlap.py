"""Reliability of propensities, overlap holes and cohorts on logs where the answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from offline_eval.overlap import by_cohort, overlap_holes, reliability
from recrl.core.contracts import LoggedFeedback
from recrl.core.errors import ConfigError, DataError

ROWS, DRAWS = 20_000, 4
LOGGER, TARGET = np.array([0.1, 0.2, 0.7, 0.0]), np.array([0.1, 0.1, 0.2, 0.6])
RNG = np.random.default_rng(0)
ACTION = RNG.choice(4, ROWS, p=LOGGER)
USER = np.arange(ROWS) // 5


def test_right_propensities_are_reliable_and_wrong_ones_say_by_how_much() -> None:
    """Ratios within 5 standard errors of the truth: false alarm below 1e-5. A model that swaps two actions is off by factors of 2."""
    drawn = RNG.choice(3, (ROWS, DRAWS), p=LOGGER[:3])
    right = reliability(np.log(LOGGER[ACTION]), np.log(LOGGER[drawn]), USER).to_pylist()
    assert len(right) == 3
    assert [r["to_propensity"] for r in right][:2] == pytest.approx([0.1, 0.2])
    assert all(abs(r["ratio"] - 1) < 5 * r["error"] for r in right)
    assert sum(r["logged_share"] for r in right) == pytest.approx(1.0)
    swapped = np.array([0.2, 0.1, 0.7])
    drawn = RNG.choice(3, (ROWS, DRAWS), p=swapped)
    wrong = reliability(np.log(swapped[ACTION]), np.log(swapped[drawn]), USER).to_pylist()
    for row, truth in zip(wrong, (2.0, 0.5, 1.0), strict=True):
        assert abs(row["ratio"] - truth) < 5 * row["error"]
        assert row["error"] < 0.1 * truth


def test_a_uniform_logger_has_one_bin() -> None:
    (row,) = reliability(np.full(50, np.log(0.1)), np.full((50, 3), np.log(0.1)), np.arange(50)).to_pylist()
    assert (row["ratio"], row["error"]) == (1.0, 0.0)


def test_actions_that_the_log_lacks_are_a_hole() -> None:
    drawn = RNG.choice(4, (ROWS, DRAWS), p=TARGET)
    feedback = LoggedFeedback(np.ones(ROWS), np.log(TARGET[ACTION]), np.log(LOGGER[ACTION]), USER)
    found = {row["group"]: row for row in overlap_holes(feedback, ACTION, drawn).to_pylist()}
    assert next(iter(found)) == 3
    assert (found[3]["hole"], found[3]["rows"], found[3]["seen"]) == (True, 0, 0.0)
    for group in (0, 1, 2):
        assert not found[group]["hole"]
        assert found[group]["seen"] == pytest.approx(1.0, abs=5 * found[group]["error"])
        assert found[group]["target_share"] == pytest.approx(TARGET[group], abs=0.01)


def test_cohorts_by_hand() -> None:
    feedback = LoggedFeedback(np.ones(4), np.log([1.0, 1.0, 3.0, 1.0]), np.zeros(4), np.array([0, 0, 1, 2]))
    first, second = by_cohort(feedback, [0, 0, 1, 1]).to_pylist()
    assert (first["rows"], first["users"], first["ess"], first["mean_weight"]) == (2, 1, 2.0, 1.0)
    assert (second["rows"], second["users"], second["mean_weight"]) == (2, 2, 2.0)
    assert second["ess"] == pytest.approx(16 / 10)
    assert (first["weight_share"], second["weight_share"]) == pytest.approx((2 / 6, 4 / 6))
    assert first["verdict"] == "do not use"


BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: reliability(np.zeros(3), np.zeros((4, 2)), np.arange(3)), DataError, "for 3 rows"),
    (lambda: reliability(np.array([0.0, np.nan]), np.zeros((2, 2)), np.arange(2)), DataError, "nan"),
    (lambda: reliability(np.zeros(2), np.zeros((2, 2)), np.arange(2), bins=0), ConfigError, "bins is 0"),
    (lambda: overlap_holes(LoggedFeedback(*np.zeros((3, 2)), np.arange(2)), [1], [[1], [1]]), DataError, "for 2 rows"),
    (lambda: by_cohort(LoggedFeedback(*np.zeros((3, 2)), np.arange(2)), [1]), DataError, "for 2 rows"),
]


@pytest.mark.parametrize(("work", "kind", "what"), BAD, ids=[what for *_, what in BAD])
def test_what_does_not_fit_is_refused(work: Any, kind: type[Exception], what: str) -> None:
    with pytest.raises(kind, match=what):
        work()
