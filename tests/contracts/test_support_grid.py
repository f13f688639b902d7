"""The table of what works with what (docs/policies.md): each cell is tried, in both directions."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest
import torch

from recrl.algorithms import REGISTRY
from recrl.algorithms.bc import BC, BCConfig
from recrl.algorithms.task import Task
from recrl.core.contracts import ActionKind, ActionSpec, Observation, Transitions
from recrl.core.errors import ConfigError
from recrl.core.objective import Objective, Signal
from recrl.core.torch.streams import TensorStreams
from recrl.core.torch.views import transitions_to
from recrl.policies.encoders import EncoderConfig
from recrl.policies.items import item_spec
from recrl.policies.vector import ActorConfig
from tests.conftest import REPOSITORY
from tests.support import small

ROWS = 6
KINDS = get_args(ActionKind)
ENCODERS = {
    "flat": EncoderConfig("flat", features=3),
    "history": EncoderConfig("history", history=4),
    "gru": EncoderConfig("gru", history=4, width=8, layers=1),
    "transformer": EncoderConfig("transformer", history=4, width=8, layers=1, heads=2),
}
SPECS = {
    "item": item_spec(small.N_ITEMS),
    "slate": item_spec(small.N_ITEMS, 3),
    "discrete": ActionSpec("discrete", choices=5),
    "fusion_weights": ActionSpec("fusion_weights", (7,)),
    "embedding": ActionSpec("embedding", (4,)),
    "continuous": ActionSpec("continuous", (2,)),
    "text": ActionSpec("text", (4,), choices=5),
}


def table() -> dict[str, dict[str, str]]:
    """Cells of the documented grid by learner and column."""
    page = (REPOSITORY / "docs" / "policies.md").read_text(encoding="utf-8")
    lines = page.split("## What works with what")[1].split("## ")[0].splitlines()
    head, _, *body = ([cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line.startswith("|"))
    names = [name.replace(" ", "_") for name in head]
    return {row[0]: dict(zip(names[1:], row[1:], strict=True)) for row in body}


TABLE = table()


def batch(kind: str) -> Transitions:
    """A few transitions with everything that an observation may hold."""
    rng = torch.Generator().manual_seed(0)
    seen = Observation(
        features=torch.rand(ROWS, 3, generator=rng),
        user=torch.arange(ROWS),
        history_items=torch.randint(-1, small.N_ITEMS, (ROWS, 4), generator=rng).sort(1).values,
        history_feedback=torch.randint(0, 128, (ROWS, 4), generator=rng, dtype=torch.uint8),
        clock=torch.rand(ROWS, 4, generator=rng),
    )
    spec, none = SPECS[kind], torch.zeros(ROWS, dtype=torch.bool)
    if spec.is_vector:
        action = 2 * torch.rand(ROWS, *spec.shape, generator=rng) - 1
    else:
        action = torch.rand(ROWS, spec.choices or 0, generator=rng).argsort(1)[:, : spec.shape[0] if spec.shape else 1]
        action = action if spec.shape else action.squeeze(1)
    return Transitions(seen, action, torch.rand(ROWS, 1, generator=rng), seen, none, none, none)


def test_the_table_has_every_learner_and_every_kind():
    assert set(TABLE) == set(REGISTRY)
    assert all(set(row) == {*KINDS, "encoders"} for row in TABLE.values())
    assert set(ENCODERS) == set(get_args(get_type_hints(EncoderConfig)["kind"]))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", REGISTRY)
def test_each_cell_is_what_the_table_says(name, kind, encoder):
    learner, spec = REGISTRY[name], SPECS[kind]
    config = learner.config_type(actor=ActorConfig(ENCODERS[encoder], hidden=(8,)))
    task = Task(spec, Objective(Signal("reward")), small.item_vectors(), torch.zeros(small.N_ITEMS))
    supported = TABLE[name][kind] == "yes" and encoder in TABLE[name]["encoders"].split(", ")
    if not supported:
        with pytest.raises(ConfigError):
            learner(config, task)
        return
    one, rows = learner(config, task), batch(kind)
    for _ in range(2):
        metrics = one.update(rows).metrics
        assert all(torch.isfinite(torch.as_tensor(value)).all() for value in metrics.values())
    for policy in {id(policy): policy for policy in (one.policy(), one.collect_policy())}.values():
        action = policy.act(rows.observation, TensorStreams(0))
        assert action.value.shape == (ROWS, *spec.shape)
        if getattr(policy, "has_law", True):
            assert torch.isfinite(policy.log_prob(rows.observation, action.value)).all()


@pytest.mark.parametrize(
    ("kind", "encoder", "options"),
    [("slate", "gru", {}), ("discrete", "transformer", {}), ("continuous", "transformer", {"spread": "learned"})],
)
def test_no_head_and_no_encoder_waits_for_the_device(kind, encoder, options):
    """On the meta device there are shapes and no values: whatever reads one, or mixes devices, fails."""
    config = BCConfig(ActorConfig(ENCODERS[encoder], hidden=(8,)), **options)
    task = Task(SPECS[kind], Objective(), small.item_vectors().to("meta"), torch.zeros(small.N_ITEMS), device="meta")
    one, rows = BC(config, task), transitions_to(batch(kind), "meta")
    one.update(rows)
    action = one.policy().act(rows.observation, TensorStreams(0, "meta"), step=3)
    assert action.log_prob.device.type == "meta"
