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

from recrl.core.errors import StorageError
from recrl.core.files import storage_error, unlock


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
            while self._folder is None:
                # another process may remove the parent that it made for nothing, or a folder that is not locked yet
                with contextlib.suppress(FileNotFoundError):
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                    made = Path(tempfile.mkdtemp(dir=self._path.parent, prefix=f".{self._path.name}.", suffix=".tmp"))
                    self._lock = _lock(made)
                    self._folder = made if self._lock >= 0 else None
        return self._folder

    def part(self, name: str) -> Path:
        """A folder inside it, made now if need be."""
        part = self.folder / name
        part.mkdir(exist_ok=True)
        return part

    def swap(self, replaces: int | None = None) -> None:
        """Put ``new`` in the place of the store, where ``replaces`` is given only if that is its inode still.

        **Errors**: :class:`StorageError` where another store has taken its place meanwhile.
        """
        with standing_still(self._path, fcntl.LOCK_EX):
            if replaces is not None and (not self._path.exists() or self._path.stat().st_ino != replaces):
                raise StorageError(
                    f"{self._path.name} was made again meanwhile, and stays", where=str(self._path), mend="run the same command again"
                )
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
    """While the block runs no other process or thread puts a store in its place; the folder that holds it is what is locked.

    A folder that one may not list, that is not there, or whose disk knows no locks is not locked.
    """
    handle = -1
    try:
        with contextlib.suppress(OSError):
            # of a link, the folder that holds what it leads to
            handle = os.open(Path(os.path.realpath(path)).parent, os.O_RDONLY)
            fcntl.flock(handle, kind)
        yield
    finally:
        if handle >= 0:
            unlock(handle)


def remove_stale(path: Path) -> None:
    """Remove the staging folders of killed processes; where one had just taken the store away, it is put back first."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[^.]+\.tmp")
    found = [folder for folder in path.parent.glob(".*.tmp") if name.fullmatch(folder.name)] if path.parent.is_dir() else []
    stale: dict[Path, int] = {}
    try:
        if found:
            with standing_still(path, fcntl.LOCK_EX):
                for folder in found:
                    with contextlib.suppress(OSError):
                        lock = _lock(folder)
                        if lock >= 0:
                            stale[folder] = lock
                            _settle(folder, path)
        for folder in stale:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        for lock in stale.values():
            os.close(lock)


def _settle(folder: Path, path: Path) -> None:
    """Put the store that was taken away back where nothing stands in its place; else it goes with the folder."""
    if (folder / "old").exists() and not path.exists():
        (folder / "old").rename(path)


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
