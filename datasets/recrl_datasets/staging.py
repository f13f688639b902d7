"""The folder in which a store is built, beside its place: it takes that place whole, or vanishes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from recrl.core.files import storage_error


class Staging:
    """``.<name>.<random>.tmp`` beside a store, made when it is first needed and locked while its process lives.

    ``new`` becomes the store, ``spool`` holds what does not fit in memory, ``old`` is the store that is being replaced.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder: Path | None = None
        self._lock = -1
        self._made_parent = False

    @property
    def folder(self) -> Path:
        """The folder, made now if need be."""
        if self._folder is None:
            self._made_parent = not self._path.parent.exists()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            while self._folder is None:
                made = Path(tempfile.mkdtemp(dir=self._path.parent, prefix=f".{self._path.name}.", suffix=".tmp"))
                self._lock = _lock(made)
                self._folder = made if self._lock >= 0 else None
        return self._folder

    def part(self, name: str) -> Path:
        """A folder inside it, made now if need be."""
        part = self.folder / name
        part.mkdir(exist_ok=True)
        return part

    def swap(self) -> None:
        """Put ``new`` in the place of the store; another process may do the same at the same time."""
        with standing_still(self._path, fcntl.LOCK_EX):
            try:
                with contextlib.suppress(FileNotFoundError):
                    self._path.rename(self.folder / "old")
                (self.folder / "new").rename(self._path)
            finally:
                _settle(self.folder, self._path)

    def close(self) -> None:
        """Remove what is left, and the folder of the stores where it was made for nothing."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._lock)
            if self._made_parent:
                with contextlib.suppress(OSError):
                    self._path.parent.rmdir()


@contextlib.contextmanager
def staging(path: Path) -> Iterator[Staging]:
    """A :class:`Staging` for the store ``path``; refusals of the disk inside the block are clear errors.

    **Errors**: :class:`StorageError`.
    """
    stage = Staging(path)
    try:
        remove_stale(path)
        yield stage
    except OSError as error:
        raise storage_error(error, path) from None
    finally:
        stage.close()


@contextlib.contextmanager
def standing_still(path: Path, kind: int = fcntl.LOCK_SH) -> Iterator[None]:
    """While the block runs no other process or thread moves a store in this folder; the folder itself is what is locked.

    A folder that one may not list, or that is not there, is not locked.
    """
    try:
        handle = os.open(path.parent, os.O_RDONLY)
    except (PermissionError, FileNotFoundError):
        yield
        return
    try:
        fcntl.flock(handle, kind)
        yield
    finally:
        os.close(handle)


def remove_stale(path: Path) -> None:
    """Remove the staging folders of killed processes; where one had just taken the store away, it is put back first."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[^.]+\.tmp")
    for folder in path.parent.glob(".*.tmp") if path.parent.is_dir() else ():
        with contextlib.suppress(OSError):
            lock = _lock(folder) if name.fullmatch(folder.name) else -1
            if lock >= 0:
                try:
                    with standing_still(path, fcntl.LOCK_EX):
                        _settle(folder, path)
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(lock)


def _settle(folder: Path, path: Path) -> None:
    """Put the store that was taken away back where nothing stands in its place; else it is of no use any more."""
    old = folder / "old"
    if old.exists() and not path.exists():
        old.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _lock(folder: Path) -> int:
    """A handle that locks the folder as long as this process lives, or -1 where another holds it or it is gone."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if folder.exists():
            return handle
    except BlockingIOError:
        pass
    os.close(handle)
    return -1
