"""Saving and loading policies: ``policy.json`` says what it is, ``weights.safetensors`` holds its tensors. No pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recrl.core.errors import CheckpointError
from recrl.core.files import atomic_path, read_json, write_json


def save_policy(folder: Path, kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a policy; the JSON goes last, so that a folder without it is visibly incomplete."""
    with atomic_path(folder / "weights.safetensors") as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    write_json(folder / "policy.json", {"kind": kind, **config})


def read_policy(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration (with ``kind``) and tensors of a saved policy.

    **Errors**: :class:`CheckpointError` for a broken weights file, ``StorageError`` for a missing one.
    """
    config: dict[str, Any] = read_json(folder / "policy.json")
    path = folder / "weights.safetensors"
    try:
        return config, load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"the policy's weights cannot be read: {error}", where=str(path), mend="train and save the policy again"
        ) from None
