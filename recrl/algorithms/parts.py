"""What actor-critic learners over vectors share: what they accept, targets, weights of rows, noise made ahead, and their state."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from recrl.algorithms.task import Task
from recrl.core.contracts import Stateful, Transitions
from recrl.core.errors import ConfigError
from recrl.core.objective import Signal
from recrl.core.streams import Purpose
from recrl.core.torch.streams import Ahead, TensorStreams


def check_task(name: str, task: Task) -> None:
    """A task of vector actions and one signal.

    **Errors**: :class:`ConfigError` for any other.
    """
    if not task.action_spec.is_vector:
        raise ConfigError(
            f"{name} learns vector actions, not {task.action_spec.kind!r}",
            where=f"{name}.action_spec",
            mend="use embedding, fusion_weights or continuous actions",
        )
    if task.objective.constraints:
        raise ConfigError(
            f"{name} maximises one signal and honours no constraints",
            where="objective.constraints",
            mend="drop the constraints, or fold them into the main signal",
        )


def check_ranges(name: str, values: Mapping[str, float], least: float = 0.0, most: float = float("inf")) -> None:
    """Options that must lie in ``(least, most]``.

    **Errors**: :class:`ConfigError` that names the first one outside.
    """
    for option, value in values.items():
        if not least < value <= most:
            raise ConfigError(f"{option}={value} is out of range", where=f"{name}.{option}", mend=f"{least:g} < {option} <= {most:g}")


def bootstrapped(batch: Transitions, main: Signal, next_value: Tensor) -> Tensor:
    """``r + g (1 - terminated) V(s')``, (B,), with ``g`` the discount within a session or across its end."""
    discount = torch.where(batch.session_end, main.discount_across, main.discount_within) * ~batch.terminated
    return torch.addcmul(batch.reward[:, 0] * main.weight, discount, next_value)


def row_weights(batch: Transitions) -> Tensor:
    """Weights of a mean over the rows, (B,): the sampling corrections, or ones, over their sum."""
    weight = torch.ones_like(batch.reward[:, 0]) if batch.weight is None else batch.weight
    return weight / weight.sum().clamp_min(1e-8)


def known_weights(batch: Transitions) -> Tensor:
    """Weights of a mean over the rows whose target is known, (B,): a truncated row has no next state in the record."""
    known = (~batch.truncated | batch.terminated).to(batch.reward.dtype)
    if batch.weight is not None:
        known = known * batch.weight
    return known / known.sum().clamp_min(1.0)


def critic_loss(values: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """``sum_e sum_rows weight (Q_e - y)^2`` of values (E, B), targets (B,) and weights (B,)."""
    return (torch.nn.functional.mse_loss(values, target.expand_as(values), reduction="none") @ weights).sum()


class Noise:
    """Standard normal draws of the updates, made for many updates at a time; a function of seed and update number alone.

    Args:
        seed: of the streams.
        device: where draws are made.
        shape: of the draws of a row.
    """

    MOST = 1 << 20
    """Numbers made at a time."""

    def __init__(self, seed: int, device: str | torch.device, shape: tuple[int, ...]) -> None:
        self.streams, self._shape = TensorStreams(seed, device), shape
        self._ahead: dict[int, Ahead] = {}  # of the batch size at hand

    def __call__(self, size: int, step: int) -> Tensor:
        """Draws of update ``step``: (size, *shape)."""
        if size not in self._ahead:
            numbers = size * torch.Size(self._shape).numel()
            steps = max(1, min(Ahead.STEPS, self.MOST // numbers))
            self._ahead = {size: Ahead(partial(self._draw, size), self.streams.device, steps)}
        return self._ahead[size](step)

    def _draw(self, size: int, steps: Tensor) -> Tensor:
        return self.streams.normal(steps, 0, Purpose.EXPLORATION, (size, *self._shape))

    def state_dict(self) -> dict[str, Any]:
        """The seed."""
        return {"seed": self.streams.seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.streams = TensorStreams(int(state["seed"]), self.streams.device)
        self._ahead.clear()


class ByParts:
    """A learner from batches alone, whose state is that of its parts, by name, and the number of its updates."""

    _step: int

    def _parts(self) -> dict[str, Stateful]:
        raise NotImplementedError

    def observe(self, transitions: Transitions) -> None:
        """Nothing to see: learning is from batches alone."""

    def state_dict(self) -> dict[str, Any]:
        """Networks, targets, optimisers, and the seed and step that key the noise."""
        return {**{name: part.state_dict() for name, part in self._parts().items()}, "step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self._step = int(state["step"])
