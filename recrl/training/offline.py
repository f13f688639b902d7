"""The offline loop: batches from a fixed buffer, one update a batch, metrics, checkpoints, exact resume."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from recrl.core.contracts import Algorithm, BatchTransform, Progress, Sampler, Stateful
from recrl.core.errors import ConfigError, RecrlError
from recrl.core.runs import RunFolder
from recrl.training.checkpoints import load_latest, save_checkpoint


@dataclass(frozen=True)
class OfflineConfig:
    """How long and in what portions a learner trains.

    Attributes:
        steps: updates.
        batch_size: transitions an update.
        log_every: updates a metric row averages over.
        checkpoint_every: updates between checkpoints; a multiple of ``log_every``, so that a resumed run writes the same rows.
    """

    steps: int = 2_000
    batch_size: int = 256
    log_every: int = 100
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1", where=f"offline.{name}")
        if self.checkpoint_every % self.log_every:
            raise ConfigError(
                f"checkpoint_every={self.checkpoint_every} is no multiple of log_every={self.log_every}",
                where="offline.checkpoint_every",
                mend=f"choose {math.ceil(self.checkpoint_every / self.log_every) * self.log_every}",
            )


def train_offline(
    algorithm: Algorithm,
    sampler: Sampler,
    config: OfflineConfig,
    run: RunFolder,
    *,
    stream: str,
    transforms: Sequence[BatchTransform] = (),
    progress: Progress | None = None,
) -> int:
    """Train ``algorithm`` to ``config.steps`` updates, from its newest checkpoint where there is one.

    On CPU the result does not depend on where a run was interrupted; what came after the last checkpoint is computed again.

    Args:
        algorithm: the learner; changed in place.
        sampler: where batches come from.
        config: length and portions.
        run: where metrics (stream ``stream``) and checkpoints (``checkpoints/<stream>``) go.
        stream: name of the metric stream.
        transforms: applied to each batch in order; each learns from the batch as it receives it.
        progress: told after every portion.

    Returns:
        The step the run started from (0 unless resumed).

    **Errors**: :class:`RecrlError` when a loss is not finite.
    """
    folder = run.checkpoints / stream
    parts: dict[str, Stateful] = {"algorithm": algorithm, "sampler": sampler, **{f"transform-{k}": t for k, t in enumerate(transforms)}}
    held = load_latest(folder)
    start = 0
    if held is not None:
        start, state = held
        for name, part in parts.items():
            part.load_state_dict(state[name])
    run.truncate_metrics(stream, start)

    sums: dict[str, torch.Tensor | float] = {}
    since = start
    for step in range(start + 1, config.steps + 1):
        batch = sampler.sample(config.batch_size, step)
        for transform in transforms:
            learned = transform.update(batch)
            _add(sums, learned.metrics)
            batch = transform.apply(batch)
        update = algorithm.update(batch)
        if update.priorities is not None and batch.index is not None:
            sampler.update_priorities(batch.index, update.priorities)
        _add(sums, update.metrics)
        if step % config.log_every == 0 or step == config.steps:
            rows = [{"step": step, "name": name, "value": float(total) / (step - since)} for name, total in sums.items()]
            _refuse_divergence(rows, stream, step)
            run.append_metrics(stream, rows)
            sums, since = {}, step
            if progress is not None:
                progress(step / config.steps, f"{stream}: step {step:,} of {config.steps:,}")
        if step % config.checkpoint_every == 0 or step == config.steps:
            save_checkpoint(folder, step, {name: part.state_dict() for name, part in parts.items()})
    return start


def _add(sums: dict[str, torch.Tensor | float], metrics: Mapping[str, Any]) -> None:
    # tensors are added where they live; they are read once a portion, so that no update waits for the device
    for name, value in metrics.items():
        value = value.detach() if isinstance(value, torch.Tensor) else value
        sums[name] = sums[name] + value if name in sums else value


def _refuse_divergence(rows: Sequence[Mapping[str, Any]], stream: str, step: int) -> None:
    broken = [str(row["name"]) for row in rows if not math.isfinite(float(row["value"]))]
    if broken:
        raise RecrlError(
            f"{', '.join(broken)} of {stream} is not finite by step {step}",
            where=f"metrics/{stream}",
            mend="lower the learning rate, or look at the rewards with `recrl data describe`",
        )
