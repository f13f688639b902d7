"""Checkpoints: nested state as safetensors plus JSON, whole or not at all. No pickle.

``<folder>/step-000000500/{tensors.safetensors, state.json}``; the folder is written beside its place and renamed, so that a kill
in the middle of a write leaves the previous checkpoint in force.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recrl.core.errors import CheckpointError
from recrl.core.files import storage_error

KEEP = 2
"""Checkpoints kept; the older one serves when the newer one is damaged."""


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Write ``state`` (nested dicts, lists, tensors, numbers, strings) as the checkpoint of ``step``.

    **Errors**: ``StorageError`` where the disk refuses; the earlier checkpoints stay untouched.
    """
    final = folder / f"step-{step:09d}"
    temporary = folder / f".step-{step:09d}.{os.getpid()}.tmp"
    tensors: dict[str, Tensor] = {}
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        structure = json.dumps(_encode(state, tensors))
        save_file(tensors, temporary / "tensors.safetensors")
        (temporary / "state.json").write_text(structure)
        for file in temporary.iterdir():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        cause = error if isinstance(error, OSError) else OSError(28, str(error))
        raise storage_error(cause, final) from None
    for old in _steps(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_latest(folder: Path, device: torch.device | str = "cpu") -> tuple[int, dict[str, Any]] | None:
    """Step and state of the newest readable checkpoint, or ``None`` when there is none yet.

    **Errors**: :class:`CheckpointError` when checkpoints exist but none can be read.
    """
    broken = ""
    for path in reversed(_steps(folder)):
        try:
            tensors = load_file(path / "tensors.safetensors", device=str(device))
            state: dict[str, Any] = _decode(json.loads((path / "state.json").read_text()), tensors)
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            broken = f"{path.name}: {error}"
            continue
        return int(path.name.split("-")[1]), state
    if broken:
        raise CheckpointError(
            f"no checkpoint can be read ({broken})", where=str(folder), mend="remove the checkpoints folder to start again from step 0"
        )
    return None


def _steps(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step-*") if p.is_dir())


def _encode(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, Tensor):
        name = f"t{len(tensors)}"
        # cloned: safetensors refuses tensors that share memory
        tensors[name] = node.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if isinstance(node, Mapping):
        return {"dict": [[key, _encode(value, tensors)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        return {"tuple" if isinstance(node, tuple) else "list": [_encode(value, tensors) for value in node]}
    if node is None or isinstance(node, bool | int | float | str):
        return {"value": node}
    raise CheckpointError(
        f"cannot store a {type(node).__name__}", where="state_dict", mend="return tensors, numbers, strings, lists and dicts only"
    )


def _decode(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    ((kind, content),) = node.items()
    match kind:
        case "tensor":
            return tensors[content]
        case "dict":
            return {key: _decode(value, tensors) for key, value in content}
        case "list":
            return [_decode(value, tensors) for value in content]
        case "tuple":
            return tuple(_decode(value, tensors) for value in content)
        case _:
            return content
