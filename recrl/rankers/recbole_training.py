"""RecBole's own training loop, kept at the ends of epochs so that it goes on exactly where it was stopped.

RecBole's checkpoints are pickles, are written for its best epoch alone and hold no random state: what goes on from them is another
training. Here its trainer runs as it is, and before each epoch all that the rest depends on is kept: weights, optimiser, the counters of
early stopping, the weights of the best epoch so far, the states of the global generators that RecBole draws from (Python's, NumPy's,
torch's and the accelerator's) and of its loaders' own. On CPU the training that goes on ends with the bits of one that never stopped.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recrl.core.contracts import Progress
from recrl.core.errors import CheckpointError
from recrl.rankers.journal import Journal

_COUNTERS = ("cur_step", "best_valid_score", "best_valid_result")


class RecBoleTraining:
    """A trainer of RecBole with its loaders; inside :func:`recrl.rankers.recbole_shims.use_recbole`.

    Args:
        trainer: RecBole's, with its fresh model.
        train: loader of training rows.
        valid: loader of validation rows; ``None`` without any.
        journal: where training is kept; without one it begins anew when it was stopped.
    """

    def __init__(self, trainer: Any, train: Any, valid: Any, journal: Journal | None = None) -> None:
        self._trainer, self._train, self._valid, self._journal = trainer, train, valid, journal
        self._train_epoch = trainer._train_epoch
        # RecBole calls these by name: its loop stays its own
        trainer._train_epoch, trainer._save_checkpoint = self._epoch, self._keep_best
        self.metrics: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}

    def fit(self, progress: Progress | None = None) -> dict[str, float]:
        """Train to the end, from the newest checkpoint where there is one; RecBole's best validation result.

        Afterwards :attr:`best` holds the weights of the best epoch (of the last one without validation rows) and :attr:`metrics` the
        ``train_loss`` and ``valid_mrr@10`` of all epochs.

        **Errors**: :class:`CheckpointError` for a checkpoint that does not fit the model.
        """
        held = self._journal.newest() if self._journal else None
        if held is not None:
            try:
                self._load_state(*held)
            except (KeyError, RuntimeError, ValueError) as error:
                raise CheckpointError(
                    f"the checkpoint does not fit this ranker: {error}", mend="remove the run's checkpoints folder to start again"
                ) from None

        def evaluated(epoch: int, score: float) -> None:
            self._record(epoch + 1, "valid_mrr@10", score)
            if progress:
                progress((epoch + 1) / self._trainer.epochs, f"epoch {epoch + 1}, MRR@10 {score:.4f}")

        # RecBole's sequential models turn anomaly detection on: it records a stack trace for every operation and changes no number
        with torch.autograd.set_detect_anomaly(False):
            _, best = self._trainer.fit(self._train, self._valid, verbose=False, saved=True, show_progress=False, callback_fn=evaluated)
        if self._journal:
            self._journal.record(self.metrics)
        return {metric: float(value) for metric, value in (best or {}).items()}

    def _epoch(self, data: Any, epoch: int, **options: Any) -> Any:
        """RecBole's epoch; all before it is done, its evaluation included: this is where the training is kept."""
        if self._journal and epoch > self._trainer.start_epoch:
            self._journal.keep(epoch, self._state(), self.metrics)
        loss = self._train_epoch(data, epoch, **options)
        self._record(epoch + 1, "train_loss", sum(loss) if isinstance(loss, tuple) else loss)
        return loss

    def _keep_best(self, *_: Any, **__: Any) -> None:
        self.best = {name: weight.detach().clone() for name, weight in self._trainer.model.state_dict().items()}

    def _record(self, step: int, name: str, value: float) -> None:
        self.metrics.append({"step": step, "name": name, "value": float(value)})

    def _state(self) -> dict[str, Any]:
        trainer = self._trainer
        return {
            "model": trainer.model.state_dict(),
            "optimiser": trainer.optimizer.state_dict(),
            "counters": {name: _plain(getattr(trainer, name)) for name in _COUNTERS},
            "best": self.best,
            "loaders": [loader.generator.get_state() for loader in self._loaders],
            "generators": _global_generators(trainer.device),
        }

    def _load_state(self, step: int, state: Mapping[str, Any]) -> None:
        trainer = self._trainer
        trainer.start_epoch = step
        trainer.model.load_state_dict(state["model"])
        trainer.optimizer.load_state_dict(state["optimiser"])
        for name in _COUNTERS:
            setattr(trainer, name, state["counters"][name])
        self.best, self.metrics = dict(state["best"]), list(state["metrics"])
        for loader, generator in zip(self._loaders, state["loaders"], strict=True):
            loader.generator.set_state(generator)
        _set_global_generators(trainer.device, state["generators"])

    @property
    def _loaders(self) -> list[Any]:
        return [loader for loader in (self._train, self._valid) if loader is not None]


def _plain(value: Any) -> Any:
    """RecBole's scores are NumPy numbers in ordered mappings."""
    if isinstance(value, Mapping):
        return {key: float(score) for key, score in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def _global_generators(device: torch.device) -> dict[str, Any]:
    version, python, gauss = random.getstate()
    _, numpy, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "python": [version, torch.tensor(python), gauss],
        "numpy": [torch.from_numpy(np.asarray(numpy).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "accelerator": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _set_global_generators(device: torch.device, state: Mapping[str, Any]) -> None:
    version, python, gauss = state["python"]
    random.setstate((version, tuple(python.tolist()), gauss))
    numpy, *rest = state["numpy"]
    np.random.set_state(("MT19937", numpy.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["accelerator"] is not None:
        torch.cuda.set_rng_state(state["accelerator"], device)
