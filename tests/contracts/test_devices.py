"""The same code on every device, and no wait for it inside an update.

The device here is ``meta``: tensors with shapes and no numbers. Whatever mixes it with the CPU raises, and so does whatever asks for a
number on the host, which is what would make an update wait for an accelerator.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recrl.algorithms import REGISTRY
from recrl.cli import main
from recrl.core.errors import ConfigError
from recrl.core.objective import Objective, Signal
from recrl.core.torch.devices import resolve_device
from recrl.core.torch.streams import TensorStreams
from recrl.pipeline.learn import as_item_policy
from recrl.policies import load_policy
from recrl.replay.logged import LoggedBuffer
from recrl.replay.ring import RingBuffer
from recrl.replay.samplers import UniformSampler
from tests.support import small

META = torch.device("meta")
KINDS = [("bc", "item"), *((name, "embedding") for name in REGISTRY), ("td3", "fusion_weights")]


def sampler(kind: str) -> UniformSampler:
    """Batches of the small log, on the device from the columns on."""
    vectors = {"embedding": small.item_vectors().to(META), "fusion_weights": torch.zeros(small.N_ITEMS, 7, device=META)}
    encode = None if kind == "item" else lambda user, item: vectors[kind][item]
    buffer = LoggedBuffer(small.small_log(), Objective(main=Signal("long_view")), history=5, encode_action=encode, device=META)
    return UniformSampler(buffer, torch.arange(len(buffer)), seed=0)


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_an_update_neither_mixes_devices_nor_waits(name, kind):
    # counts are copied into a parameter before it is moved
    task = replace(small.task(kind), item_vectors=small.item_vectors().to(META), device="meta")
    learner, batches = REGISTRY[name](REGISTRY[name].config_type(), task, 0), sampler(kind)
    for step in range(4):
        batch = batches.sample(16, step)
        metrics = learner.update(batch).metrics
        assert batch.reward.device == META
        assert all(value.device == META for value in metrics.values() if isinstance(value, Tensor))
    for policy in (learner.policy(), learner.collect_policy()):
        assert policy.act(batch.observation, TensorStreams(0, META), step=3).value.device == META


def test_a_ring_remembers_and_gives_back_without_waiting():
    ring, batch = RingBuffer(20, META), sampler("embedding").sample(8, 0)
    for _ in range(4):
        ring.add(batch)
    assert ring.gather(torch.arange(5, device=META)).observation.history_items.device == META
    assert UniformSampler(ring, None, 0).sample(6, 1).reward.device == META


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_a_loaded_policy_moves_whole(name, kind, tmp_path):
    learner = REGISTRY[name](REGISTRY[name].config_type(), small.task(kind), 0)
    policy = learner.policy() if kind == "fusion_weights" else as_item_policy(learner.policy(), SETTING, 1.0)
    policy.save(tmp_path)
    moved = load_policy(tmp_path).to(META)
    for module in moved.modules():
        # tensors that a module holds beside its parameters and buffers would stay behind
        held = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False)), **vars(module)}
        assert not [key for key, value in held.items() if isinstance(value, Tensor) and value.device != META]


class SETTING:
    """As much of a setting as an item policy needs."""

    class log:
        n_items = small.N_ITEMS


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tpu", "unknown device 'tpu'"),
        ("cuda:x", "unknown device 'cuda:x'"),
        ("cuda", "no cuda device is to be had here"),
        ("mps", "mps has no 64-bit floats, and the random streams draw in them"),
    ],
)
def test_a_device_that_is_not_to_be_had_is_refused(name, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=message):
        resolve_device(name)


def test_auto_takes_cuda_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (resolve_device("auto"), resolve_device("cuda"), resolve_device("cuda:1")) == ("cuda", "cuda", "cuda:1")
    with pytest.raises(ConfigError, match="no device 'cuda:2': there are 2, numbered from 0"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("verb", ["demo", "replay", "train bc", "online", "ope x", "ab random popularity", "simulate fit"])
def test_every_verb_that_computes_asks_for_the_device_first(verb, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*verb.split(), "--device", "tpu", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["what"] == "unknown device 'tpu'"
    assert not list(tmp_path.iterdir()), "nothing is made before the device is known"
