"""Unpacking zip and tar.gz archives from elsewhere: nothing outside the folder, no links, no flood, all or nothing."""

from __future__ import annotations

import contextlib
import gzip
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from recrl.core.contracts import Progress
from recrl.core.errors import DataError
from recrl.core.files import storage_error

_CHUNK = 1 << 20
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, RuntimeError, NotImplementedError)


@dataclass(frozen=True)
class _Member:
    """One regular file of an archive, and how far through the archive it stands (0 to 1)."""

    name: str
    open: Callable[[], IO[bytes] | None]
    share: float


def unpack(archive: Path, target: Path, *, limit: int, progress: Progress, seal: Callable[[Path, dict[str, int]], None]) -> None:
    """Unpack ``archive`` into the new folder ``target``, whole or not at all; a single top folder is left out.

    Checksums inside the archive (CRC-32 of a zip's files, of a gzip stream) are checked. Resource forks of macOS are skipped.

    Args:
        archive: a ``.zip``, ``.tar.gz`` or ``.tgz`` file.
        target: the folder to make; it must not be there.
        limit: bytes that may be written.
        progress: called with the finished share and a line of text.
        seal: called with the whole folder, before it takes its place, and its files' sizes in bytes by their path in it.

    **Errors**: :class:`DataError` for a broken archive, one that holds links, devices, paths out of its folder or a path twice, or
    that unpacks to more than ``limit``; :class:`StorageError` where the disk refuses. Nothing half-written is left.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
        try:
            _write(archive, folder, limit, progress)
            tops = list(folder.iterdir())
            top = tops[0] if len(tops) == 1 and tops[0].is_dir() else folder
            top.chmod(0o755)
            seal(top, {path.relative_to(top).as_posix(): path.stat().st_size for path in sorted(top.rglob("*")) if path.is_file()})
            top.rename(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise storage_error(error, target) from None


def _write(archive: Path, folder: Path, limit: int, progress: Progress) -> None:
    written = 0
    with _reading(archive):
        for member in (_zip if _begins(archive, b"PK") else _tar)(archive):
            path = _inside(member.name, archive)
            if path is None:
                continue
            progress(member.share, f"unpacking {path.name}")
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            source = member.open()
            assert source is not None
            with source, _new(place, archive, member.name) as out:
                while chunk := source.read(_CHUNK):
                    written += len(chunk)
                    if written > limit:
                        raise _refused(archive, f"unpacks to more than {limit:,} bytes")
                    out.write(chunk)
    if written == 0:
        raise _refused(archive, "holds no files")


def _begins(archive: Path, magic: bytes) -> bool:
    with archive.open("rb") as file:
        return file.read(len(magic)) == magic


def _zip(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        total, done = sum(m.file_size for m in members) or 1, 0
        for info in members:
            if info.is_dir():
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                raise _refused(archive, f"holds a link ({info.filename!r})")
            yield _Member(info.filename, lambda info=info: file.open(info), done / total)  # type: ignore[misc]
            done += info.file_size


def _tar(archive: Path) -> Iterator[_Member]:
    size = archive.stat().st_size or 1
    with archive.open("rb") as raw, gzip.GzipFile(fileobj=raw) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as file:
            for info in file:
                if info.isdir():
                    continue
                if not info.isreg():
                    raise _refused(archive, f"holds a link or a device ({info.name!r})")
                yield _Member(info.name, lambda info=info: file.extractfile(info), raw.tell() / size)  # type: ignore[misc]
        # the checksum of the stream stands at its very end
        while stream.read(_CHUNK):
            pass


def _inside(name: str, archive: Path) -> PurePosixPath | None:
    """The path under the target folder; ``None`` for what macOS adds."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name) or not path.parts:
        raise _refused(archive, f"would write outside its folder ({name!r})")
    return None if path.parts[0] == "__MACOSX" or path.name.startswith("._") or path.name == ".DS_Store" else path


@contextlib.contextmanager
def _new(place: Path, archive: Path, name: str) -> Iterator[IO[bytes]]:
    try:
        file = place.open("xb")
    except (FileExistsError, IsADirectoryError):
        raise _refused(archive, f"holds {name!r} twice") from None
    with file:
        yield file


@contextlib.contextmanager
def _reading(archive: Path) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise DataError(
            f"{archive.name} is cut off or broken ({str(error) or type(error).__name__})",
            where=str(archive),
            mend="remove it, and fetch it again",
        ) from None


def _refused(archive: Path, what: str) -> DataError:
    return DataError(f"{archive.name} {what}: it is not unpacked", where=str(archive), mend="fetch it again from its owners")
