"""Saved policies by path. Loads no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from recrl.core.errors import ConfigError


def saved_policy(path: Path | str, where: str) -> Path:
    """Folder of the one policy that ``path`` stands for: a saved policy, or a run that holds one.

    **Errors**: :class:`ConfigError` where there is none, or more than one; ``where`` names the option.
    """
    path = Path(path)
    if (path / "policy.json").is_file():
        return path
    inside = sorted(found.parent for found in (path / "artifacts" / "policies").glob("*/policy.json"))
    if len(inside) != 1:
        what = f"{path} holds {len(inside)} policies" if inside else f"no saved policy in {path}"
        mend = f"name one: {', '.join(map(str, inside))}" if inside else "give the path of a run or of a saved policy"
        raise ConfigError(what, where=where, mend=mend)
    return inside[0]


def policy_digest(folder: Path) -> str:
    """Name of a saved policy and a hash of its files: equal for equal ones, wherever they lie."""
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        digest.update(file.name.encode() + file.read_bytes())
    return f"{folder.name} {digest.hexdigest()[:16]}"
