"""Direct terms over catalogues, streamed and drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from offline_eval.catalogue import drawn, streamed
from recrl.core.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
CHANCE, Q = RNG.dirichlet(np.ones(11), 700), RNG.normal(size=(700, 11))
EXACT = (CHANCE * Q).sum(axis=1)


@pytest.mark.parametrize("rows_at_once", [1, 64, 10_000])
def test_streaming_is_the_sum_over_all_actions(rows_at_once: int) -> None:
    found = streamed(lambda rows: CHANCE[rows], lambda rows: Q[rows], 700, rows_at_once=rows_at_once)
    np.testing.assert_allclose(found, EXACT, rtol=0, atol=1e-12)


def test_draws_are_right_on_average_and_state_their_variance() -> None:
    """2,000 repetitions of 8 draws for 5 rows: means within 5 standard errors, the stated variance within 5 %: false alarm below 1e-4."""
    rng = np.random.default_rng(1)
    row = np.repeat(np.arange(5), 2_000)

    def draw(rows: np.ndarray, count: int) -> np.ndarray:
        u = rng.random((rows.size, count))
        return (u[:, :, None] > CHANCE[row[rows]].cumsum(axis=1)[:, None]).sum(axis=2).clip(max=10)

    found = drawn(draw, lambda rows, actions: Q[row[rows][:, None], actions], row.size, draws=8, rows_at_once=999)
    true = ((CHANCE * Q**2).sum(axis=1) - EXACT**2)[:5] / 8
    value, variance = found.value.reshape(5, -1), found.variance.reshape(5, -1)
    assert np.all(np.abs(value.mean(axis=1) - EXACT[:5]) < 5 * np.sqrt(true / 2_000))
    np.testing.assert_allclose(variance.mean(axis=1), true, rtol=0.06)
    np.testing.assert_allclose(value.var(axis=1), true, rtol=0.16)
    assert found.standard_error == pytest.approx(np.sqrt(variance.sum()) / row.size)


BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: drawn(lambda r, m: np.zeros((r.size, m), int), lambda r, a: Q[r], 5, draws=4), DataError, "shapes"),
    (lambda: drawn(lambda r, m: np.zeros((r.size, m), int), lambda r, a: a * 1.0, 5, draws=1), ConfigError, "at least 2"),
    (lambda: streamed(lambda r: CHANCE[r] / 2, lambda r: Q[r], 5), DataError, "sum of target"),
    (lambda: streamed(lambda r: CHANCE[r][:, :3], lambda r: Q[r], 5), DataError, "shapes"),
]


@pytest.mark.parametrize(("work", "kind", "what"), BAD)
def test_what_does_not_fit_is_refused(work: Any, kind: type[Exception], what: str) -> None:
    with pytest.raises(kind, match=what):
        work()
