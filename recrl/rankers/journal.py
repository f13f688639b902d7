"""What a run keeps of a ranker's training while it goes on: the newest checkpoints and the metrics up to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recrl.core.errors import CheckpointError
from recrl.core.runs import RunFolder
from recrl.training.checkpoints import load_latest, save_checkpoint


class Journal:
    """Checkpoints and metrics of one training.

    Args:
        run: the run that keeps them.
        stream: name of the metric stream, and of the folder of checkpoints.
        asked: what decides the result; a checkpoint of another training is refused.
    """

    def __init__(self, run: RunFolder, stream: str, asked: Mapping[str, Any]) -> None:
        self._run, self._stream, self._asked = run, stream, dict(asked)
        self._written = 0

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """Step and state (``metrics`` in it) to go on from, ``None`` at the start; what was recorded after it is dropped.

        **Errors**: :class:`CheckpointError` where no checkpoint can be read, or it is of another training.
        """
        folder = self._run.checkpoints / self._stream
        held = load_latest(folder)
        if held is not None and held[1].pop("asked", None) != self._asked:
            raise CheckpointError(
                "the checkpoint is of a training with other options",
                where=str(folder),
                mend="remove the checkpoints folder to start again from step 0",
            )
        self._run.truncate_metrics(self._stream, held[0] if held else 0)
        self._written = len(held[1]["metrics"]) if held else 0
        return held

    def record(self, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Append what is new among all ``metrics`` (``step``, ``name``, ``value``) of the training."""
        self._run.append_metrics(self._stream, metrics[self._written :])
        self._written = len(metrics)

    def keep(self, step: int, state: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> None:
        """Write the checkpoint of ``step``: everything that going on from there needs."""
        self.record(metrics)
        save_checkpoint(self._run.checkpoints / self._stream, step, {**state, "metrics": list(metrics), "asked": self._asked})
