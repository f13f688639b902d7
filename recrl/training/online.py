"""The online loop: collect, remember, learn; metrics, checkpoints, exact resume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from recrl.core.contracts import Action, ActionSpec, Algorithm, BatchTransform, Observation, Policy, Progress, Stateful
from recrl.core.errors import ConfigError
from recrl.core.runs import RunFolder
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.policies.networks import draw_ids
from recrl.replay.ring import RingBuffer
from recrl.replay.samplers import UniformSampler
from recrl.training.collect import Collector
from recrl.training.portions import Portion, check_portions, resume, save


@dataclass(frozen=True)
class OnlineConfig:
    """How long and in what portions a learner collects and trains.

    Attributes:
        steps: environment steps; each gives one transition of every user side by side.
        warmup: steps with uniformly random actions before the first update.
        updates_per_step: updates after each later step.
        batch_size: transitions an update.
        log_every: steps a metric row averages over.
        checkpoint_every: steps between checkpoints; a multiple of ``log_every``.
    """

    steps: int = 5_000
    warmup: int = 50
    updates_per_step: int = 1
    batch_size: int = 256
    log_every: int = 100
    checkpoint_every: int = 1_000

    def __post_init__(self) -> None:
        for name in ("steps", "updates_per_step", "batch_size", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1", where=f"online.{name}")
        if self.warmup < 1:
            raise ConfigError(
                f"warmup={self.warmup} must be at least 1", where="online.warmup", mend="a first batch needs something to draw from"
            )
        check_portions(self.checkpoint_every, self.log_every, "online")


class UniformActions:
    """Uniformly random vector actions, for warm-up."""

    def __init__(self, action_spec: ActionSpec) -> None:
        self.action_spec = action_spec

    def act(self, observation: Observation, streams: TensorStreams, *, step: torch.Tensor | int = 0, deterministic: bool = False) -> Action:
        """Draw inside the bounds."""
        spec = self.action_spec
        device = next(a.device for a in (observation.features, observation.user) if a is not None)
        draw = streams.uniform(draw_ids(observation, device), step, Purpose.EXPLORATION, spec.shape)
        return Action(spec.low + (spec.high - spec.low) * draw)


def train_online(
    algorithm: Algorithm,
    collector: Collector,
    buffer: RingBuffer,
    config: OnlineConfig,
    run: RunFolder,
    *,
    stream: str,
    seed: int,
    transforms: Sequence[BatchTransform] = (),
    progress: Progress | None = None,
) -> int:
    """Collect and train to ``config.steps`` steps, from the newest checkpoint where there is one; returns the step it started from.

    On CPU and in a simulated world the result does not depend on where a run was interrupted: users, their clocks and the replay buffer are
    part of the checkpoint.

    **Errors**: :class:`RecrlError` when a loss is not finite.
    """
    sampler = UniformSampler(buffer, None, seed)
    parts: dict[str, Stateful] = {"algorithm": algorithm, "collector": collector, "buffer": buffer}
    parts |= {f"transform-{k}": t for k, t in enumerate(transforms)}
    start = resume(parts, run, stream)
    uniform: Policy = UniformActions(algorithm.action_spec)  # type: ignore[assignment]
    portion = Portion(run, stream)
    for step in range(start + 1, config.steps + 1):
        policy = uniform if step <= config.warmup else algorithm.collect_policy()
        gathered = collector.collect(policy, step)
        algorithm.observe(gathered)
        buffer.add(gathered)
        portion.add({f"reward_{k}": gathered.reward[:, k].mean() for k in range(gathered.reward.shape[1])})
        for update in range(config.updates_per_step if step > config.warmup else 0):
            batch = sampler.sample(config.batch_size, step * config.updates_per_step + update)
            for transform in transforms:
                portion.add(transform.update(batch).metrics)
                batch = transform.apply(batch)
            portion.add(algorithm.update(batch).metrics)
        if step % config.log_every == 0 or step == config.steps:
            portion.write(step)
            if progress is not None:
                progress(step / config.steps, f"{stream}: step {step:,} of {config.steps:,}")
        if step % config.checkpoint_every == 0 or step == config.steps:
            save(parts, run, stream, step)
    return start
