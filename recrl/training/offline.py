"""The offline loop: batches from a fixed buffer, one update a batch, metrics, checkpoints, exact resume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recrl.core.contracts import Algorithm, BatchTransform, Progress, Sampler, Stateful
from recrl.core.errors import ConfigError
from recrl.core.runs import RunFolder
from recrl.training.portions import Portion, check_portions, resume, save


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
        check_portions(self.checkpoint_every, self.log_every, "offline")


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
    parts: dict[str, Stateful] = {"algorithm": algorithm, "sampler": sampler, **{f"transform-{k}": t for k, t in enumerate(transforms)}}
    start = resume(parts, run, stream)
    portion = Portion(run, stream)
    for step in range(start + 1, config.steps + 1):
        batch = sampler.sample(config.batch_size, step)
        for transform in transforms:
            portion.add(transform.update(batch).metrics)
            batch = transform.apply(batch)
        update = algorithm.update(batch)
        if update.priorities is not None and batch.index is not None:
            sampler.update_priorities(batch.index, update.priorities)
        portion.add(update.metrics)
        if step % config.log_every == 0 or step == config.steps:
            portion.write(step)
            if progress is not None:
                progress(step / config.steps, f"{stream}: step {step:,} of {config.steps:,}")
        if step % config.checkpoint_every == 0 or step == config.steps:
            save(parts, run, stream, step)
    return start
