"""Atomic files: a reader sees the old content or the new, never a half; a full or read-only disk is a clear error."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recrl.core.errors import StorageError

_MENDS = {
    errno.ENOSPC: "free some disk space, then run the same command again",
    errno.EDQUOT: "free some of your quota, then run the same command again",
    errno.EROFS: "choose a folder on a writable disk",
    errno.EACCES: "choose a folder you may write to",
    errno.EPERM: "choose a folder you may write to",
}


def storage_error(error: OSError, path: Path) -> StorageError:
    """An operating-system error as a StorageError with its mend."""
    mend = _MENDS.get(error.errno or 0, "check the path and its permissions")
    return StorageError(f"cannot write {path.name}: {error.strerror or error}", where=str(path), mend=mend)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is synced and takes its place, else it is removed.

    **Errors**: :class:`StorageError` where the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
    except OSError as error:
        raise storage_error(error, path) from None
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise storage_error(error, path) from None
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write indented JSON atomically; NaN and infinity are refused, JSON has no word for them."""
    write_text(path, json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    **Errors**: :class:`StorageError` for a missing or broken file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StorageError(f"{path.name} is missing", where=str(path), mend="check the folder, or make it again") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StorageError(
            f"{path.name} is not valid JSON: {error}", where=str(path), mend="delete it and run the command that makes it again"
        ) from None
    except OSError as error:
        raise StorageError(
            f"cannot read {path.name}: {error.strerror}", where=str(path), mend="check the path and its permissions"
        ) from None
