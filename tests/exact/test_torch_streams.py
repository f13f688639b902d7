"""Random streams on tensors: the words that torch mixes on an accelerator are those that NumPy mixes on the CPU; draws made ahead."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recrl.core.streams import Purpose
from recrl.core.torch.streams import Ahead, TensorStreams

WORDS = st.integers(-(2**63), 2**63 - 1)


def by_torch(seed: int) -> TensorStreams:
    """Streams that mix as they do on an accelerator."""
    streams = TensorStreams(seed)
    streams._host = None
    return streams


@given(seed=st.integers(-(2**70), 2**70), ids=st.lists(WORDS, min_size=1, max_size=9), steps=st.lists(WORDS, min_size=9, max_size=9))
def test_torch_mixes_the_words_of_numpy(seed, ids, steps):
    ids, step = torch.tensor(ids), torch.tensor(steps[: len(ids)])
    for at in (step, steps[0]):
        ours, theirs = TensorStreams(seed), by_torch(seed)
        assert torch.equal(ours.bits(ids, at, Purpose.RETURN, (2, 3)), theirs.bits(ids, at, Purpose.RETURN, (2, 3)))
        assert torch.equal(ours.uniform(ids, at, Purpose.DRIFT), theirs.uniform(ids, at, Purpose.DRIFT))


@given(seed=st.integers(0, 2**64), ids=st.lists(WORDS, min_size=0, max_size=5), shape=st.tuples(st.integers(1, 4), st.integers(1, 3)))
def test_planes_are_the_same_words_in_another_order(seed, ids, shape):
    ids = torch.tensor(ids, dtype=torch.int64)
    for at in (ids * 3, 5):
        for streams in (TensorStreams(seed), by_torch(seed)):
            words = streams.bits(ids, at, Purpose.RESPONSES, shape)
            assert torch.equal(streams.planes(ids, at, Purpose.RESPONSES, shape), words.movedim(1, 0))


@pytest.mark.parametrize("draw", ["uniform", "normal", "gumbel"])
def test_draws_are_those_of_torch(draw):
    ids = torch.arange(100)
    ours, theirs = (getattr(streams, draw)(ids, 3, Purpose.USERS, (4,)) for streams in (TensorStreams(5), by_torch(5)))
    assert torch.equal(ours, theirs)


def test_draws_made_ahead_depend_on_the_step_alone():
    made = []

    def draw(steps: torch.Tensor) -> torch.Tensor:
        made.append(len(steps))
        return TensorStreams(1).normal(steps, 0, Purpose.EXPLORATION, (3,))

    ahead, other = (Ahead(draw, torch.device("cpu")) for _ in range(2))
    in_order = [ahead(step).clone() for step in range(200)]
    assert sum(made) == 4 * Ahead.STEPS
    assert all(torch.equal(other(step), in_order[step]) for step in (150, 63, 64, 0, 199))
    assert torch.stack(in_order).unique().numel() == 600


def test_nobody_draws_nothing():
    nobody = torch.empty(0, dtype=torch.int64)
    for streams in (TensorStreams(1), by_torch(1)):
        assert streams.normal(nobody, 0, Purpose.USERS, (3,)).shape == (0, 3)
        assert streams.bits(nobody, nobody, Purpose.USERS).shape == (0,)
