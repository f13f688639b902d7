"""What RecBole 1.2.1 needs to run beside today's NumPy, SciPy and torch, applied for as long as it is used and taken back after.

RecBole was written for NumPy 1, SciPy 1.10 and torch 2.5, and treats the process as its own: it seeds the global generators, reads the
command line, hides GPUs, writes into the working directory and turns autograd's anomaly detection on. Inside :func:`use_recbole`

- NumPy has the aliases that NumPy 2 dropped (``float_``, ``complex_``, ``unicode_`` and those that RecBole sets itself);
- ``scipy.sparse.dok_matrix`` has ``_update`` (LightGCN fills its adjacency matrix with it);
- ``torch.load`` unpickles files of one private folder, which this process wrote a moment ago, and no others;
- the command line and the logger are out of its sight, and TensorBoard files are not written.

Afterwards the aliases are gone and the global generators, cuDNN's switches, anomaly detection and ``CUDA_VISIBLE_DEVICES`` are what
they were.
Ray is never imported by what is used here; :func:`run_recbole` hands RecBole's own entry point an empty stand-in for it.
Give the block to one thread at a time: what it replaces is the process's.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import random
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch

from recrl.core.errors import MissingDependencyError

_MISSING = object()
_NUMPY_1 = {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}
_SET_BY_RECBOLE = ("bool", "int", "float", "complex", "object", "str", "long", "unicode")
MEND = "pip install 'recrl[recbole]' && pip install --no-deps recbole==1.2.1"
"""How to install RecBole: its metadata pins an old ray, so it comes without its dependencies, which the extra lists."""


@contextmanager
def use_recbole(folder: Path) -> Iterator[None]:
    """Let RecBole run inside the block and leave the process as it was.

    Args:
        folder: private folder of this use; checkpoints that RecBole writes there may be read back with ``torch.load``.

    **Errors**: :class:`MissingDependencyError` where RecBole or something it imports is not installed.
    """
    with ExitStack() as stack:
        stack.enter_context(_numpy_aliases())
        stack.enter_context(_replaced(scipy.sparse.dok_matrix, "_update", _dok_update))
        stack.enter_context(_replaced(torch, "load", _loading_from(folder)))
        stack.enter_context(_replaced(sys, "argv", sys.argv[:1]))
        stack.enter_context(_global_state())
        stack.enter_context(_quiet())
        trainer = import_recbole("recbole.trainer.trainer")
        stack.enter_context(_replaced(trainer, "get_tensorboard", lambda logger: _NoTensorBoard()))
        yield


def import_recbole(module: str = "recbole") -> Any:
    """A module of RecBole.

    **Errors**: :class:`MissingDependencyError` where it, or something it imports, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        absent = error.name or ""
        what = "RecBole is not installed" if absent.split(".")[0] == "recbole" else f"RecBole needs {absent}, which is not installed"
        raise MissingDependencyError(what, where="recrl.rankers", mend=MEND) from None


def missing_recbole() -> MissingDependencyError | None:
    """What keeps RecBole from being used here; ``None`` where it can be."""
    try:
        with use_recbole(Path(os.devnull)):
            return None
    except MissingDependencyError as error:
        return error


def run_recbole(folder: Path, **arguments: Any) -> dict[str, Any]:
    """RecBole's own ``run_recbole``, untouched, for comparisons; what it writes lands in ``folder``.

    The entry point imports ray for its hyper-parameter search: without ray an empty module stands in and only the search is missing.

    **Errors**: those of :func:`use_recbole`.
    """
    with use_recbole(folder), chdir(folder), ExitStack() as stack:
        # its logger wraps the streams and adds handlers
        for name in ("stdout", "stderr"):
            stack.enter_context(_replaced(sys, name, getattr(sys, name)))
        stack.enter_context(_replaced(logging.root, "handlers", list(logging.root.handlers)))
        if importlib.util.find_spec("ray") is None:
            ray = types.ModuleType("ray")
            vars(ray)["tune"] = types.ModuleType("ray.tune")
            stack.callback(sys.modules.pop, "ray")
            sys.modules["ray"] = ray
        result: dict[str, Any] = import_recbole("recbole.quick_start").run_recbole(**arguments)
    return result


class _NoTensorBoard:
    """Takes what RecBole's trainer reports; its event files would land in the working directory."""

    def add_scalar(self, *_: Any) -> None: ...

    def add_hparams(self, *_: Any) -> None: ...


def _dok_update(matrix: Any, entries: dict[tuple[int, int], float]) -> None:
    matrix._dict.update(entries)


def _loading_from(folder: Path) -> Callable[..., Any]:
    load, inside = torch.load, folder.resolve()

    def load_own(file: Any, *args: Any, **options: Any) -> Any:
        if isinstance(file, str | os.PathLike) and Path(file).resolve().is_relative_to(inside):
            options["weights_only"] = False
        return load(file, *args, **options)

    return load_own


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """``owner.name`` is ``value`` inside the block, and what it was (or absent) after it."""
    before = vars(owner).get(name, _MISSING)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextmanager
def _numpy_aliases() -> Iterator[None]:
    names = (*_NUMPY_1, *_SET_BY_RECBOLE)
    before = {name: vars(np).get(name, _MISSING) for name in names}
    for name, kind in _NUMPY_1.items():
        setattr(np, name, kind)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is not _MISSING:
                setattr(np, name, value)
            elif name in vars(np):
                delattr(np, name)


@contextmanager
def _global_state() -> Iterator[None]:
    """Global generators, switches of torch and the visible devices are put back after the block."""
    # importing any of RecBole's sequential models turns it on: one of them does, and they come together
    anomalies = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    cudnn, visible = torch.backends.cudnn, os.environ.get("CUDA_VISIBLE_DEVICES")
    switches = cudnn.benchmark, cudnn.deterministic
    python, numpy, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    accelerator = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(tensors)
        if accelerator:
            torch.cuda.set_rng_state_all(accelerator)
        cudnn.benchmark, cudnn.deterministic = switches
        torch.autograd.set_detect_anomaly(*anomalies)
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)
