"""The offline loop: batches from a fixed buffer, one update a batch, metrics, checkpoints, exact resume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from recrl.core.contracts import Algorithm, BatchTransform, Progress, Sampler
from recrl.core.runs import RunFolder
from recrl.training.portions import Learning, WalkConfig, walk


@dataclass(frozen=True)
class OfflineConfig(WalkConfig):
    """Length and portions of offline training: a step is an update."""

    where: ClassVar[str] = "offline"


def train_offline(
    algorithm: Algorithm,
    sampler: Sampler,
    config: OfflineConfig,
    run: RunFolder,
    *,
    stream: str,
    transforms: Sequence[BatchTransform] = (),
    progress: Progress | None = None,
    tensorboard: bool = False,
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
        tensorboard: write the metrics for TensorBoard too.

    Returns:
        The step the run started from (0 unless resumed).

    **Errors**: :class:`RecrlError` when a loss is not finite.
    """
    learning = Learning(algorithm, sampler, config.batch_size, transforms)
    return walk(config, learning.update, learning.parts, run, stream=stream, progress=progress, tensorboard=tensorboard)
