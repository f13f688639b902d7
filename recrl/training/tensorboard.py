"""Metrics for TensorBoard, beside the Parquet ones: ``tensorboard --logdir RUN/tensorboard``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import closing

import pyarrow.parquet as pq

from recrl.core.errors import MissingDependencyError
from recrl.core.files import storage_error
from recrl.core.runs import RunFolder


def check_tensorboard() -> None:
    """Whether scalars can be written, asked before a run begins.

    **Errors**: :class:`MissingDependencyError` where TensorBoard is not installed.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401 - a second of import that other runs need not pay
    except ImportError:
        raise MissingDependencyError(
            "TensorBoard is not installed",
            where="--tensorboard",
            mend="pip install tensorboard, or leave --tensorboard out: metrics are written as Parquet in any case",
        ) from None


class TensorBoard:
    """Scalars of one metric stream, under ``tensorboard/<stream>`` of the run.

    Args:
        run: the run.
        stream: name of the metric stream.
        start: the step training goes on from: what an interrupted run wrote beyond it is taken off the curves.
    """

    def __init__(self, run: RunFolder, stream: str, start: int) -> None:
        check_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self._folder = run.path / "tensorboard" / stream
        try:
            self._writer = SummaryWriter(str(self._folder), purge_step=start + 1)
        except OSError as error:
            raise storage_error(error, self._folder) from None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The values of one step; they are on disk when this returns.

        **Errors**: ``StorageError`` where the disk refuses.
        """
        try:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()
        except OSError as error:
            raise storage_error(error, self._folder) from None

    def close(self) -> None:
        """Let go of the file."""
        self._writer.close()


def mirror(run: RunFolder, stream: str) -> None:
    """Write a stream that is already there as Parquet, in the place of what TensorBoard showed of it."""
    rows = pq.read_table(run.path / "metrics" / stream, columns=["step", "name", "value"]).sort_by("step").to_pylist()
    with closing(TensorBoard(run, stream, 0)) as scalars:
        for step, group in itertools.groupby(rows, key=lambda row: int(row["step"])):
            scalars.write(step, {row["name"]: row["value"] for row in group})
