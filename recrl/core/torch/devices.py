"""Where tensors live: ``auto``, ``cpu``, ``cuda`` or ``mps``, checked before anything is built."""

from __future__ import annotations

import torch

from recrl.core.errors import ConfigError


def resolve_device(name: str) -> str:
    """The device that ``name`` stands for; ``auto`` takes CUDA where there is one.

    **Errors**: :class:`ConfigError` for an unknown or absent device.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        # random streams need 64-bit floats, which MPS lacks: it is taken only where asked for
        return "cuda" if there["cuda"] else "cpu"
    kind = name.split(":")[0]
    if kind not in there:
        raise ConfigError(f"unknown device {name!r}", where="--device", mend="choose auto, cpu, cuda or mps")
    if not there[kind]:
        raise ConfigError(
            f"no {kind} device is to be had here", where="--device", mend="choose cpu or auto; `recrl doctor` says what torch sees"
        )
    return name
