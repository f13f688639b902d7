"""Where tensors live: ``auto``, ``cpu``, ``cuda`` or ``mps``, checked before anything is built."""

from __future__ import annotations

import torch

from recrl.core.errors import ConfigError


def resolve_device(name: str) -> str:
    """The device that ``name`` stands for; ``auto`` takes CUDA where there is one, and the CPU elsewhere.

    **Errors**: :class:`ConfigError` for an unknown or absent device, and for ``mps``: random streams draw in 64-bit floats, which it lacks.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or not (number or "0").isdecimal():
        raise ConfigError(f"unknown device {name!r}", where="--device", mend="choose auto, cpu, cuda or mps")
    if kind == "mps":
        raise ConfigError(
            "mps has no 64-bit floats, and the random streams draw in them", where="--device", mend="choose cpu, or cuda where there is one"
        )
    count = torch.cuda.device_count() if kind == "cuda" and torch.cuda.is_available() else 0
    if kind == "cuda" and int(number or "0") >= count:
        what = f"no device {name!r}: there are {count}, numbered from 0" if count else "no cuda device is to be had here"
        raise ConfigError(what, where="--device", mend="choose cpu or auto; `recrl doctor` says what torch sees")
    return name
