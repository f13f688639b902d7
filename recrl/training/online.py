"""The online loop: collect, remember, learn, now and then evaluate; metrics, checkpoints, exact resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol

import torch

from recrl.core.contracts import (
    Action,
    ActionSpec,
    Algorithm,
    BatchTransform,
    Observation,
    Policy,
    Progress,
    Sampler,
    Stateful,
    Transitions,
)
from recrl.core.errors import ConfigError
from recrl.core.runs import RunFolder
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.policies.networks import draw_ids
from recrl.replay.ring import RingBuffer
from recrl.replay.samplers import UniformSampler
from recrl.training.collect import Collector
from recrl.training.portions import Learning, Portion, WalkConfig, walk

Evaluate = Callable[[Policy], Mapping[str, float]]
"""Metrics of a policy on users or episodes of its own, with streams of its own: training goes on as if it had not been asked."""


@dataclass(frozen=True)
class OnlineConfig(WalkConfig):
    """Length and portions of online training: a step gives one transition of every user side by side.

    Attributes:
        warmup: steps with uniformly random actions before the first update.
        updates_per_step: updates after each later step.
        evaluate_every: steps between evaluations; 0 evaluates only after the last step.
    """

    steps: int = 5_000
    checkpoint_every: int = 1_000
    warmup: int = 50
    updates_per_step: int = 1
    evaluate_every: int = 500
    where: ClassVar[str] = "online"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least("updates_per_step", 1)
        self._at_least("warmup", 1, "a first batch needs something to draw from")
        self._at_least("evaluate_every", 0)

    def evaluates_at(self, step: int) -> bool:
        """Whether the policy is evaluated after this step."""
        return step == self.steps or (self.evaluate_every > 0 and step % self.evaluate_every == 0)


class Memory(Stateful, Protocol):
    """A replay buffer: what is collected goes in, a sampler draws from it."""

    def add(self, batch: Transitions) -> None:
        """Remember a batch."""
        ...


class UniformActions:
    """Uniformly random actions, for warm-up: vectors inside their bounds, indices of the whole catalogue."""

    def __init__(self, action_spec: ActionSpec) -> None:
        self.action_spec = action_spec

    def act(self, observation: Observation, streams: TensorStreams, *, step: torch.Tensor | int = 0, deterministic: bool = False) -> Action:
        """Draw, and tell how likely the draw was."""
        spec = self.action_spec
        device = next(a.device for a in (observation.features, observation.user) if a is not None)
        drawn = partial(streams.uniform, draw_ids(observation, device), step, Purpose.EXPLORATION)
        if spec.choices is None:
            value, log_prob = spec.low + (spec.high - spec.low) * drawn(spec.shape), -spec.shape[0] * math.log(spec.high - spec.low)
        else:
            size = spec.shape[0] if spec.shape else 1
            value = drawn((spec.choices,)).topk(size, dim=1).indices
            value, log_prob = value if spec.shape else value.squeeze(1), -math.log(math.perm(spec.choices, size))
        return Action(value, torch.full((len(value),), log_prob, device=device))


def train_online(
    algorithm: Algorithm,
    collector: Collector,
    buffer: Memory,
    config: OnlineConfig,
    run: RunFolder,
    *,
    stream: str,
    seed: int,
    sampler: Sampler | None = None,
    transforms: Sequence[BatchTransform] = (),
    evaluate: Evaluate | None = None,
    progress: Progress | None = None,
    tensorboard: bool = False,
) -> int:
    """Collect and train to ``config.steps`` steps, from the newest checkpoint where there is one.

    On CPU the result does not depend on where a run was interrupted: collector, replay buffer and sampler are part of the checkpoint.

    Args:
        algorithm: the learner; changed in place.
        collector: users or tasks side by side.
        buffer: what is remembered.
        config: length and portions.
        run: where metrics (stream ``stream``) and checkpoints (``checkpoints/<stream>``) go.
        stream: name of the metric stream.
        seed: of the default sampler.
        sampler: draws from ``buffer`` and gets priorities back; the default draws uniformly from a :class:`RingBuffer`.
        transforms: applied to each batch in order.
        evaluate: asked every ``config.evaluate_every`` steps and after the last one.
        progress: told after every portion.
        tensorboard: write the metrics for TensorBoard too.

    Returns:
        The step the run started from (0 unless resumed).

    **Errors**: :class:`RecrlError` when a loss is not finite; :class:`ConfigError` for another buffer without a sampler.
    """
    if sampler is None:
        if not isinstance(buffer, RingBuffer):
            raise ConfigError(f"nothing draws from a {type(buffer).__name__}", where="train_online.sampler", mend="give its sampler")
        sampler = UniformSampler(buffer, None, seed)
    learning = Learning(algorithm, sampler, config.batch_size, transforms)
    warmup: Policy = UniformActions(algorithm.action_spec)  # type: ignore[assignment]

    def take(step: int, portion: Portion) -> None:
        gathered = collector.collect(warmup if step <= config.warmup else algorithm.collect_policy(), step)
        algorithm.observe(gathered)
        buffer.add(gathered)
        portion.add({f"reward_{k}": gathered.reward[:, k].mean() for k in range(gathered.reward.shape[1])})
        for k in range(config.updates_per_step if step > config.warmup else 0):
            learning.update(step * config.updates_per_step + k, portion)
        if evaluate is not None and config.evaluates_at(step):
            portion.record(step, evaluate(algorithm.policy()))

    parts = {**learning.parts, "collector": collector, "buffer": buffer}
    return walk(config, take, parts, run, stream=stream, progress=progress, tensorboard=tensorboard)
