"""Atomic files: a reader sees the old content or the new, never a half; a full or read-only disk is a clear error."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
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
        temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
        # as any new file is made: who may read it is the user's umask
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise storage_error(error, path) from None
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise storage_error(error, path) from None
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk: a power cut takes nothing of it."""
    if os.name == "nt" and path.is_dir():
        # Windows has no such call for folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what killed writes have left anywhere in ``folder``; for the one process that writes there."""
    for path in list(folder.rglob(".*.tmp")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """While the block runs no other process or thread is in it for the same folder, which is made if need be.

    A disk that knows no locks gives none.

    **Errors**: :class:`StorageError` where the folder cannot be made.
    """
    handle = -1
    try:
        while handle < 0:
            folder.mkdir(parents=True, exist_ok=True)
            handle = _locked(folder)
    except OSError as error:
        raise storage_error(error, folder) from None
    try:
        yield
    finally:
        unlock(handle)


def unlock(handle: int) -> None:
    """Let a handle's lock go and close it: closing alone would leave it locked in a child that was forked meanwhile."""
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def _locked(folder: Path) -> int:
    """A handle of the folder with its lock, or -1 where the folder went away while the lock was waited for."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return -1
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX)
    with contextlib.suppress(FileNotFoundError):
        if os.fstat(handle).st_ino == folder.stat().st_ino:
            return handle
    os.close(handle)
    return -1


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
