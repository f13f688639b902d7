"""Encoders of histories: padding, other users and what lies too far back say nothing; order does where it should."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import Observation
from recrl.policies.encoders import Encoder, EncoderConfig, build_encoder
from recrl.policies.networks import initialise
from tests.support import small

HISTORY = 6
CONFIGS = {
    "history": EncoderConfig("history", history=HISTORY),
    "gru": EncoderConfig("gru", history=HISTORY, width=8, layers=2),
    "transformer": EncoderConfig("transformer", history=HISTORY, width=8, layers=2, heads=2),
    "gru, learned items": EncoderConfig("gru", history=HISTORY, width=8, layers=1, learned_items=True),
    "transformer, learned items": EncoderConfig("transformer", history=HISTORY, width=8, layers=1, heads=4, learned_items=True),
}
LEARNED = [name for name in CONFIGS if name != "history"]


def built(name: str, vectors: torch.Tensor | None = None) -> Encoder:
    encoder = build_encoder(CONFIGS[name], small.item_vectors() if vectors is None else vectors)
    initialise(encoder, 3)
    return encoder


def observation(rows: list[list[int]], length: int | None = None, seed: int = 0) -> Observation:
    """Histories, oldest first, with feedback and clocks that depend on items and row alone; padded on the left to ``length``."""
    length = max(map(len, rows)) if length is None else length
    items = torch.tensor([[-1] * (length - len(row)) + row for row in rows], dtype=torch.int64).reshape(len(rows), length)
    feedback = torch.where(items >= 0, (items * 37 + 11) % (1 << len(BEHAVIOURS)), 0).to(torch.uint8)
    clock = torch.rand(len(rows), 4, generator=torch.Generator().manual_seed(seed))
    return Observation(history_items=items, history_feedback=feedback, clock=clock)


histories = st.lists(st.lists(st.integers(0, small.N_ITEMS + 3), max_size=HISTORY), min_size=1, max_size=5)


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=15)
@given(rows=histories, more=st.integers(0, 9))
def test_padding_on_the_left_changes_nothing(name, rows, more):
    encoder = built(name)
    length = max(map(len, rows))
    short, long = encoder(observation(rows)), encoder(observation(rows, length + more))
    assert torch.isfinite(short).all()
    assert short.shape == (len(rows), encoder.width)
    assert torch.allclose(short, long, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=15)
@given(rows=histories, data=st.data())
def test_rows_are_encoded_each_for_itself(name, rows, data):
    encoder, batch = built(name), observation(rows)
    whole = encoder(batch)
    order = torch.tensor(data.draw(st.permutations(range(len(rows)))))
    assert torch.allclose(encoder(batch[order]), whole[order], atol=1e-6)
    assert torch.allclose(encoder(batch[:1]), whole[:1], atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_only_the_newest_items_are_read(name):
    encoder = built(name)
    whole = observation([[1, 2, 3, 4, 5, 6, 7, 8], [8, 8, 3, 4, 5, 6, 7, 8]])
    encoded = encoder(whole)
    cut = Observation(
        history_items=whole.history_items[:, -HISTORY:], history_feedback=whole.history_feedback[:, -HISTORY:], clock=whole.clock
    )
    assert torch.equal(encoder(cut), encoded)
    assert torch.allclose(encoded[0, :-4], encoded[1, :-4], atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_unknown_items_are_items_of_the_zero_vector(name):
    vectors = small.item_vectors()
    vectors[4] = 0.0
    encoder = built(name, vectors)
    if "learned" in name:
        encoder.tokens.learned.weight.data[5] = 0.0
    items = torch.tensor([[2, 4, 1], [2, 400, 1]])
    feedback = torch.tensor([[1, 3, 0], [1, 3, 0]], dtype=torch.uint8)
    encoded = encoder(Observation(history_items=items, history_feedback=feedback, clock=torch.zeros(2, 4)))
    assert torch.allclose(encoded[0], encoded[1], atol=1e-6)
    # it was shown nonetheless: what the user did with it counts
    other = encoder(Observation(history_items=items, history_feedback=feedback.roll(1, 1), clock=torch.zeros(2, 4)))
    assert not torch.allclose(other, encoded, atol=1e-3)


@pytest.mark.parametrize("name", LEARNED)
def test_an_empty_history_has_a_state_and_takes_no_columns(name):
    encoder = built(name)
    none, padded = observation([[], []], 0), observation([[], []], 4)
    assert torch.isfinite(encoder(none)).all()
    assert torch.allclose(encoder(none), encoder(padded), atol=1e-6)
    if name.startswith("gru"):
        assert (encoder(none)[:, :-5] == 0).all()


@pytest.mark.parametrize("name", LEARNED)
def test_gradients_reach_every_parameter(name):
    encoder = built(name)
    assert all(isinstance(p, torch.nn.Parameter) for p in encoder.parameters())
    weight = torch.linspace(-1, 1, encoder.width)
    (encoder(observation([list(range(HISTORY)), [3, 1], []])) * weight).sum().backward()
    for parameter_name, parameter in encoder.named_parameters():
        assert torch.isfinite(parameter.grad).all(), parameter_name
        # a shift of all keys moves no attention weight: the softmax takes it out
        if not parameter_name.endswith("key.bias"):
            assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", CONFIGS)
def test_the_order_of_items_matters_to_encoders_that_read_it(name):
    encoder = built(name)
    clock = torch.zeros(2, 4)
    items = torch.tensor([[1, 2, 3, 4], [4, 2, 3, 1]])
    feedback = torch.ones(2, 4, dtype=torch.uint8)
    encoded = encoder(Observation(history_items=items, history_feedback=feedback, clock=clock))
    assert not torch.allclose(encoded[0], encoded[1], atol=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_no_encoder_waits_for_the_device(name):
    """Nothing reads a value of a tensor on the host, or makes a shape of one."""

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert not any(word in str(func) for word in ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique"))
            return func(*args, **(kwargs or {}))

    encoder, batch = built(name), observation([[1, 2, 3], [4]])
    with Watch():
        encoder(batch)
        with pytest.raises(AssertionError):
            bool(batch.clock.sum() > 0)


@pytest.mark.parametrize("name", LEARNED)
def test_norms_start_as_no_change_and_biases_at_zero(name):
    for parameter_name, parameter in built(name).named_parameters():
        last = parameter_name.rpartition(".")[2]
        if last.startswith("bias"):
            assert (parameter == 0).all(), parameter_name
        elif "norm" in parameter_name:
            assert (parameter == 1).all(), parameter_name
        else:
            bound = parameter.shape[-1] ** -0.5
            assert 0.5 * bound < parameter.abs().max() <= bound, parameter_name
