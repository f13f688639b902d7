"""What both loops share: going on from a checkpoint, and metrics averaged over a portion of steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from recrl.core.contracts import Stateful
from recrl.core.errors import ConfigError, RecrlError
from recrl.core.runs import RunFolder
from recrl.training.checkpoints import load_latest, save_checkpoint


def check_portions(checkpoint_every: int, log_every: int, where: str) -> None:
    """Checkpoints fall on the ends of metric portions, so that a resumed run writes the same rows.

    **Errors**: :class:`ConfigError` when they do not.
    """
    if checkpoint_every % log_every:
        raise ConfigError(
            f"checkpoint_every={checkpoint_every} is no multiple of log_every={log_every}",
            where=f"{where}.checkpoint_every",
            mend=f"choose {math.ceil(checkpoint_every / log_every) * log_every}",
        )


def resume(parts: Mapping[str, Stateful], run: RunFolder, stream: str) -> int:
    """Restore ``parts`` from the newest checkpoint of ``stream`` and drop later metrics; returns its step, 0 where there is none."""
    held = load_latest(run.checkpoints / stream)
    start = 0
    if held is not None:
        start, state = held
        for name, part in parts.items():
            part.load_state_dict(state[name])
    run.truncate_metrics(stream, start)
    return start


def save(parts: Mapping[str, Stateful], run: RunFolder, stream: str, step: int) -> None:
    """Write the checkpoint of ``step``."""
    save_checkpoint(run.checkpoints / stream, step, {name: part.state_dict() for name, part in parts.items()})


class Portion:
    """Sums of metrics since the last row. Tensors are added where they live and read once a portion: no update waits for the device."""

    def __init__(self, run: RunFolder, stream: str) -> None:
        self._run, self._stream = run, stream
        self._sums: dict[str, torch.Tensor | float] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Add one step's metrics."""
        for name, value in metrics.items():
            value = value.detach() if isinstance(value, torch.Tensor) else value
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def write(self, step: int) -> None:
        """Append the means as rows of ``step`` and begin the next portion.

        **Errors**: :class:`RecrlError` when one is not finite.
        """
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        broken = [name for name, mean in means.items() if not math.isfinite(mean)]
        if broken:
            raise RecrlError(
                f"{', '.join(broken)} of {self._stream} is not finite by step {step}",
                where=f"metrics/{self._stream}",
                mend="lower the learning rate, or look at the rewards with `recrl data describe`",
            )
        self._run.append_metrics(self._stream, [{"step": step, "name": name, "value": mean} for name, mean in means.items()])
        self._sums, self._counts = {}, {}
