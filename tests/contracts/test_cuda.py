"""CUDA does what the CPU does, up to rounding: every learner's updates from one state and batch, the simulator's step, the random streams.

Skipped where there is no CUDA. The comparison itself runs anywhere, with the CPU as the second device, where nothing may differ.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from recrl.algorithms import REGISTRY
from recrl.checks.clauses import copied
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.core.torch.views import transitions_to
from simulators.toy import TOY_CONFIG, toy_world
from tests.contracts.test_no_sync import moved
from tests.contracts.test_registered import SUPPORTED
from tests.support import small

ROUNDING = 0.01
"""Share of what an update changes by which devices may differ. Adam's first steps are as long for a gradient of 1e-9 as for one of 1, so
that rounding turns a few of them round; a wrong term changes most."""
UPDATES = 2
"""Actors and targets may learn from every second one."""
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here"))
DEVICES = ["cpu", CUDA]
LEARNERS = [(name, kinds[0]) for name, kinds in SUPPORTED.items()]


def tolerated(device: str) -> float:
    """Nothing on the CPU."""
    return 0.0 if device == "cpu" else ROUNDING


def numbers(node: Any, path: str = "") -> dict[str, Tensor]:
    """All tensors of a nested structure by their path, on the CPU in 64 bits; moments of optimisers, whose units are others, left out."""
    if isinstance(node, Tensor):
        return {path: node.detach().cpu().double()}
    if is_dataclass(node):
        node = {f.name: getattr(node, f.name) for f in fields(node)}
    elif isinstance(node, list | tuple):
        node = dict(enumerate(node))
    parts = node.items() if isinstance(node, dict) else ()
    return {at: tensor for name, part in parts if "optim" not in str(name) for at, tensor in numbers(part, f"{path}/{name}").items()}


def apart(start: dict[str, Tensor], ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """How far two states lie from each other, as a share of what ``ours`` has moved from the start."""
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: tensor.shape for name, tensor in theirs.items()}
    assert all(bool(tensor.isfinite().all()) for tensor in ours.values())
    # what a batch fills anew, such as anchors, has another shape before
    kept = [name for name, tensor in ours.items() if name in start and start[name].shape == tensor.shape]
    far, way = (torch.cat([(ours[name] - other[name]).flatten() for name in kept]).norm() for other in (theirs, start))
    return float(far / way)


def learner_on(name: str, kind: str, device: str) -> Any:
    """A learner with its default options."""
    return REGISTRY[name](REGISTRY[name].config_type(), replace(small.task(kind), device=device), 0)


def learned(name: str, kind: str, start: dict[str, Any], device: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state after updates from a state and a batch, and the metrics of the last one."""
    learner = learner_on(name, kind, device)
    learner.load_state_dict(copied(start))
    batch = transitions_to(small.buffer(kind).gather(torch.arange(10) * 8 + 3), device)
    for _ in range(UPDATES):
        update = learner.update(batch)
    state = {part: held for part, held in learner.state_dict().items() if "metrics" not in part}
    return numbers(state), numbers(dict(update.metrics))


def test_every_learner_is_asked() -> None:
    assert set(SUPPORTED) == set(REGISTRY)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "kind"), LEARNERS)
def test_updates_agree(name: str, kind: str, device: str) -> None:
    start = learner_on(name, kind, "cpu").state_dict()
    ours, told = learned(name, kind, start, "cpu")
    theirs, also = learned(name, kind, start, device)
    assert apart(numbers(start), ours, theirs) <= tolerated(device)
    assert told
    torch.testing.assert_close(also, told, rtol=tolerated(device), atol=tolerated(device) * 0.1)


def shaken(node: Any, by: float) -> Any:
    """The same numbers, each another by so much of itself."""
    if isinstance(node, Tensor) and node.is_floating_point():
        return node * (1 + by * torch.randn(node.shape, generator=torch.Generator().manual_seed(1)))
    return {name: shaken(part, by) for name, part in node.items()} if isinstance(node, dict) else node


@pytest.mark.parametrize("name", ["td3", "prefrec", "tscac"])
def test_rounding_is_told_from_another_number(name: str) -> None:
    """Weights that start a rounding apart end within the tolerance, those that start a hundredth apart do not."""
    kind = SUPPORTED[name][0]
    start = learner_on(name, kind, "cpu").state_dict()
    ours, _ = learned(name, kind, start, "cpu")
    rounded, other = (apart(numbers(start), ours, learned(name, kind, shaken(start, by), "cpu")[0]) for by in (1e-7, 1e-2))
    assert 0 < rounded < ROUNDING < other


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["fusion_weights", "embedding"])
def test_a_simulated_request_agrees(kind: str, device: str) -> None:
    """States, clicks, satisfaction, who leaves and who is back when, of 64 users; draws are the same bits, so outcomes are, too."""

    def lived(where: str) -> Any:
        world = moved(toy_world(replace(TOY_CONFIG, action_kind=kind)), where)
        streams = TensorStreams(0, where)
        state = world.initial_state(torch.arange(64, device=where), streams)
        action = torch.full((64, *world.action_spec.shape), 0.5, device=where)
        return world.transition(state, action, streams)

    torch.testing.assert_close(
        numbers(lived(device)), numbers(lived("cpu")), rtol=tolerated(device) * 0.01, atol=tolerated(device) * 0.01, equal_nan=True
    )


@pytest.mark.parametrize("device", DEVICES)
def test_random_streams_agree(device: str) -> None:
    """The words are the same bits; normals, which take logarithms and roots, up to rounding."""
    ours, theirs = TensorStreams(3), TensorStreams(3, device)
    ids = torch.arange(1000)
    assert torch.equal(ours.bits(ids, 2, Purpose.EXPLORATION), theirs.bits(ids.to(device), 2, Purpose.EXPLORATION).cpu())
    normals = [s.normal(i, 2, Purpose.EXPLORATION, (3,)).cpu() for s, i in ((ours, ids), (theirs, ids.to(device)))]
    torch.testing.assert_close(*normals, rtol=tolerated(device) * 0.001, atol=tolerated(device) * 0.001)
