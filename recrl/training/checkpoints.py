"""Checkpoints: nested state as safetensors plus JSON, whole or not at all. No pickle.

``<folder>/step-000000500/{tensors.safetensors, state.json, SHA256SUMS}``; the folder is written beside its place, synced and renamed, so
that a kill or a power cut in the middle of a write leaves the previous checkpoint in force. Where a file does not have its checksum
(``sha256sum -c SHA256SUMS`` checks by hand), the checkpoint before serves instead.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recrl.core.errors import CheckpointError
from recrl.core.files import storage_error, sync

KEEP = 2
"""Checkpoints kept; the older one serves when the newer one is damaged."""

_FILES = ("state.json", "tensors.safetensors")


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Write ``state`` (nested dicts, lists, tensors, numbers, strings) as the checkpoint of ``step``.

    Older ones than the last :data:`KEEP` are removed, and later ones, which a run that went on from an earlier one has left behind.

    **Errors**: ``StorageError`` where the disk refuses; the earlier checkpoints stay untouched.
    """
    final = folder / f"step-{step:09d}"
    temporary = folder / f".{final.name}.tmp"
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_encode(state, tensors))
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(tensors, temporary / "tensors.safetensors")
        (temporary / "state.json").write_text(structure)
        (temporary / "SHA256SUMS").write_text("".join(f"{_digest(temporary / name)}  {name}\n" for name in _FILES))
        for path in (*temporary.iterdir(), temporary):
            sync(path)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise storage_error(_as_os_error(error), final) from None
    held = _steps(folder)
    for old in {*held[: held.index(final) + 1][:-KEEP], *held[held.index(final) + 1 :]}:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_latest(folder: Path, device: torch.device | str = "cpu") -> tuple[int, dict[str, Any]] | None:
    """Step and state of the newest readable checkpoint, or ``None`` when there is none yet.

    **Errors**: :class:`CheckpointError` when checkpoints exist but none can be read.
    """
    broken = ""
    for path in reversed(_steps(folder)):
        try:
            sums = "".join(f"{_digest(path / name)}  {name}\n" for name in _FILES)
            if (path / "SHA256SUMS").read_text() != sums:
                raise ValueError("its files do not have their checksums")
            tensors = load_file(path / "tensors.safetensors", device=str(device))
            state: dict[str, Any] = _decode(json.loads((path / "state.json").read_text()), tensors)
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            broken = broken or f"{path.name}: {error}"
            continue
        return int(path.name.split("-")[1]), state
    if broken:
        raise CheckpointError(
            f"no checkpoint can be read ({broken})", where=str(folder), mend="remove the checkpoints folder to start again from step 0"
        )
    return None


def _steps(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step-*") if p.is_dir())


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _as_os_error(error: OSError | SafetensorError) -> OSError:
    """The operating system's error, whose number safetensors tells in its text."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


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
            # a copy of its own: a loaded tensor is a window on the mapped file
            return tensors[content].clone()
        case "dict":
            return {key: _decode(value, tensors) for key, value in content}
        case "list":
            return [_decode(value, tensors) for value in content]
        case "tuple":
            return tuple(_decode(value, tensors) for value in content)
        case _:
            return content
