"""No step waits for the device: what looks at a value, or copies between host and device, is found without any accelerator.

A step runs on torch's ``meta`` device, whose tensors have shapes and no values. Whatever needs a value on the host (``item``, ``bool``,
``nonzero``, a mask as an index, ``cpu``, ``numpy``, a Python branch on a tensor) cannot be answered there and raises; copies to the
device, which torch makes while the host waits, and operations on tensors of both sides are watched for.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recrl.core.errors import ContractError

_DEVICE = "meta"
_MAKERS = (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)


def check_no_sync(build: Callable[[str], Callable[[], object]], name: str, steps: int = 3) -> None:
    """A step of ``name`` never waits for the device and holds everything on it.

    Args:
        build: makes a learner, sampler, world ... on the device that it is given, and returns one step of it.
        name: what is checked, for the error.
        steps: how many are taken; a learner may do more in some than in others.

    **When it fails**: what waits only for certain values is not seen, nor are waits inside other libraries.

    **Errors**: ``ContractError`` that names the file and line.

    >>> totals = torch.zeros(3, device="meta")
    >>> check_no_sync(lambda device: lambda: totals.add_(1.0), "a counter")
    >>> check_no_sync(lambda device: lambda: totals.sum().item(), "a reader")
    Traceback (most recent call last):
    ...
    recrl.core.errors.ContractError: ...
    """
    step = build(_DEVICE)
    try:
        with _Calls(), _Kernels():
            for _ in range(steps):
                step()
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise ContractError(
            f"broken clause: no step waits for the device; {name}: {str(error).splitlines()[0]}",
            where=_place(error),
            mend="keep values in tensors of the device: torch.where for branches, masks as weights, numbers prepared before",
        ) from error


class _Calls(TorchFunctionMode):
    """Finds tensors that are made on the device from values of the host."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _MAKERS and out.device.type == _DEVICE and not (isinstance(args[0], torch.Tensor) and args[0].device.type == _DEVICE):
            raise RuntimeError(f"torch.{func.__name__} copies values of the host to the device")
        return out


class _Kernels(TorchDispatchMode):
    """Finds copies from the host to the device, and operations on tensors of both; a lone number of the host is no tensor to a kernel."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        out = func(*args, **(kwargs or {}))
        host = [tensor for tensor in given if tensor.device.type != _DEVICE]
        on_device = any(isinstance(leaf, torch.Tensor) and leaf.device.type == _DEVICE for leaf in (*given, *tree_leaves(out)))
        copies = len(host) == len(given)
        if on_device and any(copies or tensor.ndim for tensor in host):
            raise RuntimeError(f"{func} takes a tensor of the host, shape {tuple(host[0].shape)}")
        return out


def _place(error: BaseException) -> str:
    """The innermost line outside torch and this file."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if "torch" not in Path(frame.filename).parts and frame.filename != __file__]
    return f"{outside[-1].filename}:{outside[-1].lineno}: {outside[-1].line}" if outside else ""
