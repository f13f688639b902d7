"""Saving and loading policies: ``policy.json`` says what it is, ``weights.safetensors`` holds its tensors. No pickle.

What another library writes as text (LightGBM's trees) lies beside them in files of its own, named under ``texts``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recrl.core.errors import CheckpointError
from recrl.core.files import atomic_path, read_json, write_json, write_text


def save_policy(
    folder: Path, kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], texts: Mapping[str, str] | None = None
) -> None:
    """Write a policy; the JSON goes last, so that a folder without it is visibly incomplete."""
    with atomic_path(folder / "weights.safetensors") as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    for name, text in (texts or {}).items():
        write_text(folder / name, text)
    write_json(folder / "policy.json", {"kind": kind, **config, **({"texts": sorted(texts)} if texts else {})})


def read_policy(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration (with ``kind`` and the ``texts`` by name) and tensors of a saved policy.

    **Errors**: :class:`CheckpointError` for a broken weights or text file, ``StorageError`` for a missing one.
    """
    config: dict[str, Any] = read_json(folder / "policy.json")
    path = folder / "weights.safetensors"
    try:
        # a file name only: a policy never reads outside its folder
        config["texts"] = {name: (folder / Path(name).name).read_text(encoding="utf-8") for name in config.get("texts", ())}
        return config, load_file(path)
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"the policy's weights cannot be read: {error}", where=str(path), mend="train and save the policy again"
        ) from None
