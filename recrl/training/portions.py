"""What both loops share: one update, and the walk over steps with its metrics, checkpoints and exact resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from recrl.core.contracts import Algorithm, BatchTransform, Progress, Sampler, Stateful
from recrl.core.errors import CheckpointError, ConfigError, RecrlError
from recrl.core.runs import RunFolder
from recrl.training.checkpoints import load_latest, save_checkpoint
from recrl.training.memory import keep_freed_memory
from recrl.training.tensorboard import TensorBoard


@dataclass(frozen=True)
class WalkConfig:
    """How long and in what portions a learner trains.

    Attributes:
        steps: updates; online, steps of every user side by side.
        batch_size: transitions an update.
        log_every: steps a metric row averages over.
        checkpoint_every: steps between checkpoints; a multiple of ``log_every``, so that a resumed run writes the same rows.
    """

    steps: int = 2_000
    batch_size: int = 256
    log_every: int = 100
    checkpoint_every: int = 500
    where: ClassVar[str] = "training"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "checkpoint_every"):
            self._at_least(name, 1)
        if self.checkpoint_every % self.log_every:
            raise ConfigError(
                f"checkpoint_every={self.checkpoint_every} is no multiple of log_every={self.log_every}",
                where=f"{self.where}.checkpoint_every",
                mend=f"choose {math.ceil(self.checkpoint_every / self.log_every) * self.log_every}",
            )

    def _at_least(self, name: str, least: int, mend: str = "") -> None:
        value = getattr(self, name)
        if value < least:
            raise ConfigError(f"{name}={value} must be at least {least}", where=f"{self.where}.{name}", mend=mend)


class Portion:
    """Sums of metrics since the last row. Tensors are added where they live and read once a portion: no update waits for the device."""

    def __init__(self, run: RunFolder, stream: str, scalars: TensorBoard | None = None) -> None:
        self._run, self._stream, self._scalars = run, stream, scalars
        self._sums: dict[str, torch.Tensor | float] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Add one step's metrics."""
        for name, value in metrics.items():
            value = value.detach() if isinstance(value, torch.Tensor) else value
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def write(self, step: int) -> None:
        """Append the means as rows of ``step`` and begin the next portion."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        self.record(step, means)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Append ``values`` as rows of ``step``.

        **Errors**: :class:`RecrlError` when one is not finite.
        """
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise RecrlError(
                f"{', '.join(broken)} of {self._stream} is not finite by step {step}",
                where=f"metrics/{self._stream}",
                mend="lower the learning rate, or look at the rewards with `recrl data describe`",
            )
        self._run.append_metrics(self._stream, [{"step": step, "name": name, "value": value} for name, value in values.items()])
        if self._scalars is not None:
            self._scalars.write(step, values)


class Learning:
    """Updates of a learner, one batch each.

    Args:
        algorithm: the learner; changed in place.
        sampler: where batches come from; it gets the priorities that an update reports.
        batch_size: transitions an update.
        transforms: applied to each batch in order; each learns from the batch as it receives it.
    """

    def __init__(self, algorithm: Algorithm, sampler: Sampler, batch_size: int, transforms: Sequence[BatchTransform]) -> None:
        self._algorithm, self._sampler, self._size, self._transforms = algorithm, sampler, batch_size, transforms

    @property
    def parts(self) -> dict[str, Stateful]:
        """What a checkpoint must hold."""
        transforms: dict[str, Stateful] = {f"transform-{k}": transform for k, transform in enumerate(self._transforms)}
        return {"algorithm": self._algorithm, "sampler": self._sampler, **transforms}

    def update(self, number: int, portion: Portion) -> None:
        """Learn from batch ``number``."""
        batch = self._sampler.sample(self._size, number)
        for transform in self._transforms:
            portion.add(transform.update(batch).metrics)
            batch = transform.apply(batch)
        update = self._algorithm.update(batch)
        if update.priorities is not None and batch.index is not None:
            self._sampler.update_priorities(batch.index, update.priorities)
        portion.add(update.metrics)


def walk(
    config: WalkConfig,
    step: Callable[[int, Portion], None],
    parts: Mapping[str, Stateful],
    run: RunFolder,
    *,
    stream: str,
    progress: Progress | None,
    tensorboard: bool,
) -> int:
    """Take ``step(k, portion)`` for k = 1..steps, from the newest checkpoint where there is one; returns the step it started from.

    What came after the last checkpoint, metrics included, is done again.
    """
    keep_freed_memory()
    start = resume(parts, run, stream)
    scalars = TensorBoard(run, stream, start) if tensorboard else None
    with closing(scalars) if scalars is not None else nullcontext():
        portion = Portion(run, stream, scalars)
        for k in range(start + 1, config.steps + 1):
            step(k, portion)
            if k % config.log_every == 0 or k == config.steps:
                portion.write(k)
                if progress is not None:
                    progress(k / config.steps, f"{stream}: step {k:,} of {config.steps:,}")
            if k % config.checkpoint_every == 0 or k == config.steps:
                save(parts, run, stream, k)
    return start


def resume(parts: Mapping[str, Stateful], run: RunFolder, stream: str) -> int:
    """Restore ``parts`` from the newest checkpoint of ``stream`` and drop later metrics; returns its step, 0 where there is none.

    **Errors**: :class:`CheckpointError` for a checkpoint that cannot be read, or of other parts.
    """
    held = load_latest(run.checkpoints / stream)
    start = 0
    if held is not None:
        start, state = held
        if lacking := sorted(parts.keys() - state.keys()):
            raise CheckpointError(
                f"the checkpoint of step {start} holds no state of {', '.join(lacking)}",
                where=str(run.checkpoints / stream),
                mend="it was written by another version: remove the checkpoints folder to start again from step 0",
            )
        for name, part in parts.items():
            part.load_state_dict(state[name])
    run.truncate_metrics(stream, start)
    return start


def save(parts: Mapping[str, Stateful], run: RunFolder, stream: str, step: int) -> None:
    """Write the checkpoint of ``step``."""
    save_checkpoint(run.checkpoints / stream, step, {name: part.state_dict() for name, part in parts.items()})
