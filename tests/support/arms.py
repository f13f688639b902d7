"""Policies and experiments of A/B tests that other processes can import."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from recrl.core.contracts import Action, ActionSpec, Observation
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from simulators.ab import Design, Experiment, Facts, Groups
from simulators.toy import TOY_CONFIG, toy_world


class Constant:
    """The same fusion weights for everybody."""

    def __init__(self, spec: ActionSpec, weights: float) -> None:
        self.action_spec, self.weights = spec, weights

    def act(self, observation: Observation, streams: TensorStreams, *, step: Tensor | int = 0, deterministic: bool = False) -> Action:
        return Action(torch.full((len(observation), *self.action_spec.shape), self.weights))

    def log_prob(self, observation: Observation, action: Tensor) -> Tensor:
        return torch.zeros(len(observation))

    def save(self, folder: Path) -> None:
        raise NotImplementedError


class Network(Constant):
    """Fusion weights from a small network of the user's state, with noise: what bit-equality is hard for."""

    def __init__(self, spec: ActionSpec, features: int, seed: int = 0) -> None:
        super().__init__(spec, 0.0)
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(features, 48), nn.ReLU(), nn.Linear(48, spec.shape[0]), nn.Tanh())

    def act(self, observation: Observation, streams: TensorStreams, *, step: Tensor | int = 0, deterministic: bool = False) -> Action:
        weights = self.net(observation.features)
        if not deterministic:
            weights = weights + 0.1 * streams.normal(observation.user, step, Purpose.EXPLORATION, self.action_spec.shape)
        return Action(weights.clamp(-1.0, 1.0))


class Deadly(Constant):
    """Kills its process, as a machine without memory does, when it is asked while ``switch`` is there; one process, once."""

    def __init__(self, spec: ActionSpec, weights: float, switch: Path) -> None:
        super().__init__(spec, weights)
        self.switch = switch

    def act(self, observation: Observation, streams: TensorStreams, *, step: Tensor | int = 0, deterministic: bool = False) -> Action:
        try:
            self.switch.unlink()
        except FileNotFoundError:
            return super().act(observation, streams, step=step, deterministic=deterministic)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("killed")


def toy_facts() -> Facts:
    """Facts of the toy's 40 items and 50 users."""
    return Facts(
        exposures=np.arange(40, dtype=np.int64),
        vectors=np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32),
        providers=Groups(np.arange(40) % 3, ("x", "y", "z")),
        segments={"half": Groups(np.arange(50) % 2, ("even", "odd"))},
    )


def toy_experiment(users: int, days: int = 2, **options: object) -> Experiment:
    """A network with noise against constant weights, on the toy's users, with all that is known of items."""
    world = toy_world(replace(TOY_CONFIG, truth=False))
    policies = {"network": Network(world.action_spec, world.n_features), "constant": Constant(world.action_spec, 0.5)}
    design = Design(users=users, days=days, **options)  # type: ignore[arg-type]
    return Experiment(dict.fromkeys(policies, world), policies, design, toy_facts())
