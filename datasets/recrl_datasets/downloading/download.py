"""Datasets from their owners' own addresses: licence first, resumable, checked against the owners' checksum, unpacked whole."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError, DataError, StorageError
from recrl.core.files import read_json, storage_error, write_json
from recrl_datasets.downloading.archives import unpack
from recrl_datasets.downloading.transfer import discard, fetch, megabytes, part_of, read_text
from recrl_datasets.loaders.open_bandit import OPEN_BANDIT
from recrl_datasets.schema import nearest

_NOTE = ".recrl-download.json"


@dataclass(frozen=True)
class Published:
    """An archive as its owners publish it.

    Attributes:
        name: the dataset's name on the command line.
        address: where its owners keep it.
        size: bytes of the archive.
        unpacked: bytes once unpacked, roughly; four times as much is refused.
        checksum: ``md5:`` or ``sha256:`` and the hex digest that the owners publish, or ``None`` where none is known.
        folder: the folder it is unpacked into.
        licence: the owners' terms, in a line.
        terms: where the terms stand.
        asks: whether the terms restrict what may be done, so that consent is asked for.
    """

    name: str
    address: str
    size: int
    unpacked: int
    checksum: str | None
    folder: str
    licence: str
    terms: str
    asks: bool

    @property
    def archive(self) -> str:
        """Name of the archive's file."""
        return self.address.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Downloaded:
    """What a download left.

    Attributes:
        folder: the folder with the dataset's files, the ``--root`` of ``recrl data prepare``.
        fetched: whether anything was done; false where the files were there already.
        checked: against what the archive was checked, in words.
        notes: what the user should know.
    """

    folder: Path
    fetched: bool
    checked: str
    notes: tuple[str, ...] = ()


def _movielens(name: str, size: int, unpacked: int, md5: str, readme: str, folder: str = "") -> Published:
    base = "https://files.grouplens.org/datasets/movielens"
    licence = "GroupLens: for research, no commercial use without permission, redistribution only as the README allows"
    return Published(name, f"{base}/{name}.zip", size, unpacked, f"md5:{md5}", folder or name, licence, f"{base}/{readme}", asks=True)


def _kuairand(name: str, size: int, unpacked: int, md5: str, folder: str) -> Published:
    address = f"https://zenodo.org/records/10439422/files/{folder}.tar.gz"
    terms = "https://creativecommons.org/licenses/by-sa/4.0/"
    return Published(name, address, size, unpacked, f"md5:{md5}", folder, "CC BY-SA 4.0", terms, asks=False)


def _open_bandit(name: str) -> Published:
    address, terms = "https://research.zozo.com/data_release/open_bandit_dataset.zip", "https://research.zozo.com/data.html"
    return Published(name, address, 412_931_917, 11_000_000_000, None, "open_bandit_dataset", "CC BY 4.0", terms, asks=False)


PUBLISHED: dict[str, Published] = {
    published.name: published
    for published in (
        _movielens("ml-100k", 4_924_029, 16_000_000, "0e33842e24a9c977be4e0107933c0723", "ml-100k-README.txt"),
        _movielens("ml-1m", 5_917_549, 25_000_000, "c4d9eecfca2ab87c1945afe126590906", "ml-1m-README.txt"),
        _movielens("ml-10m", 65_566_137, 270_000_000, "ce571fd55effeba0271552578f2648bd", "ml-10m-README.html", "ml-10M100K"),
        _movielens("ml-20m", 198_702_078, 880_000_000, "cd245b17a1ae2cc31bb14903e1204af3", "ml-20m-README.html"),
        _movielens("ml-25m", 261_978_986, 1_200_000_000, "6b51fb2759a8657d3bfcbfc42b592ada", "ml-25m-README.html"),
        _movielens("ml-32m", 238_950_008, 1_000_000_000, "d472be332d4daa821edc399621853b57", "ml-32m-README.html"),
        _kuairand("kuairand-pure", 47_432_272, 194_000_000, "0820331067a3784d9691136f772b35a7", "KuaiRand-Pure"),
        _kuairand("kuairand-1k", 1_135_436_720, 4_300_000_000, "6b0b9c8222d67fcd4c676218edca3f1f", "KuaiRand-1K"),
        _kuairand("kuairand-27k", 9_892_191_178, 46_000_000_000, "3e3c799a24e2d23a4d2c757fbf9adf59", "KuaiRand-27K"),
        *(_open_bandit(source.name) for source in OPEN_BANDIT),
    )
}
"""Every dataset that can be downloaded, by name."""


def find_published(name: str) -> Published:
    """The published archive of dataset ``name``.

    **Errors**: :class:`ConfigError` with the nearest name.
    """
    if name not in PUBLISHED:
        raise ConfigError(
            f"recrl knows no address of {name!r}", where="dataset", mend=f"{nearest(name, PUBLISHED)}there are: {', '.join(PUBLISHED)}"
        )
    return PUBLISHED[name]


def present(name: str, to: Path | str = "downloads") -> Path | None:
    """The folder of dataset ``name`` under ``to`` when a download left it there and all its files still have their sizes."""
    published = find_published(name)
    folder = Path(to) / published.folder
    note = _read_note(folder)
    if note is None:
        return None
    whole = all((folder / file).is_file() and (folder / file).stat().st_size == size for file, size in note["files"].items())
    return folder if whole else None


def download(
    name: str,
    to: Path | str = "downloads",
    *,
    accept_licence: bool = False,
    source: str | Path | None = None,
    keep_archive: bool = False,
    progress: Progress | None = None,
) -> Downloaded:
    """Bring dataset ``name`` from its owners into a folder under ``to``; where it is there whole already, do nothing.

    A transfer that broke off goes on where it stopped. The archive is checked against the owners' checksum, then unpacked beside its
    place and moved there whole.

    Args:
        name: a key of :data:`PUBLISHED`.
        to: where the dataset's folder is made.
        accept_licence: that you have read the terms and keep to them; needed where they restrict use.
        source: another address (a mirror) or an archive on this machine; it must have the owners' checksum all the same.
        keep_archive: leave the archive beside the folder.
        progress: called with the finished share and a line of text.

    **Errors**: :class:`ConfigError` for an unknown name or a licence not accepted; :class:`StorageError` for a broken transfer or a full
    disk; :class:`DataError` for a wrong checksum, a broken archive or one that writes elsewhere.
    """
    published = find_published(name)
    report = progress or (lambda done, text: None)
    there = present(name, to)
    if there is not None:
        report(1.0, "already there")
        return Downloaded(there, False, "the files have the sizes that they were unpacked with")
    folder = Path(to) / published.folder
    _refuse_others(folder, name)
    if published.asks and not accept_licence:
        raise ConfigError(
            f"the licence of {name} restricts its use ({published.licence})",
            where=published.terms,
            mend="read it there, and give --accept-licence (in Python: accept_licence=True)",
        )
    given = _given(source)
    archive = given or Path(to) / published.archive
    fresh = not archive.is_file()
    try:
        if fresh:
            checked, notes = _fetch(published, archive, str(source or published.address), report)
        else:
            # given, or fetched and checked before, and then the disk was full, say
            report(0.7, f"checking {archive.name}")
            checked, notes = _check(published, archive, "remove it, or give the file as its owners publish it")
        _room(folder, published.unpacked)
        if folder.exists():
            # only what an earlier download left, and that not whole
            shutil.rmtree(folder)
        unpack(
            archive,
            folder,
            limit=4 * published.unpacked,
            progress=lambda done, text: report(0.75 + 0.25 * done, text),
            seal=lambda top, files: write_json(top / _NOTE, {"name": name, "checked": checked, "files": files}),
        )
        if given is None and not keep_archive:
            archive.unlink()
    except DataError:
        if fresh:
            archive.unlink(missing_ok=True)
        raise
    except OSError as error:
        raise storage_error(error, archive) from None
    report(1.0, "done")
    return Downloaded(folder, True, checked, notes)


def _given(source: str | Path | None) -> Path | None:
    """The archive on this machine that ``source`` names, if it is not an address."""
    if source is None or "://" in str(source):
        return None
    if not Path(source).is_file():
        raise StorageError(f"there is no file {source}", where="--source", mend="give the path of the archive, or an http or https address")
    return Path(source)


def _fetch(published: Published, archive: Path, address: str, report: Progress) -> tuple[str, tuple[str, ...]]:
    """Fetch, check, and only then give the archive its name."""
    part, known = part_of(archive), published.checksum is not None
    held = part.stat().st_size if part.is_file() else 0
    _room(archive, max(published.size - held, 0) + published.unpacked)
    fetch(
        address,
        archive,
        size=published.size if known else None,
        checked=known,
        progress=lambda done, text: report(0.7 * done, f"{archive.name}: {text}"),
    )
    report(0.7, f"checking {archive.name}")
    try:
        found = _check(published, part, "it was broken on its way and is removed: run the same command again")
    except DataError:
        discard(archive)
        raise
    part.rename(archive)
    discard(archive)
    return found


def _check(published: Published, archive: Path, mend: str) -> tuple[str, tuple[str, ...]]:
    """Against what the archive was checked, and notes; an archive of another checksum is refused."""
    expected = published.checksum or _beside(published)
    if expected is None:
        size = archive.stat().st_size
        other = f" (it has {size:,} bytes; recrl knows it with {published.size:,})" if size != published.size else ""
        return "its own checksums", (f"the owners' checksum of {published.archive} is not known to recrl{other}",)
    kind, digest = expected.split(":")
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found == digest:
        return f"the owners' {kind} {digest}", ()
    if published.checksum and _beside(published) == f"{kind}:{found}":
        mend = (
            "its owners have changed it: a newer recrl may know it, or fetch and unpack it yourself and give its folder to `data prepare`"
        )
    raise DataError(f"{published.archive} has {kind} {found}, its owners publish {digest}", where=str(archive), mend=mend)


def _beside(published: Published) -> str | None:
    """The checksum in the ``.md5`` file beside the archive, where its owners keep one."""
    text = read_text(f"{published.address}.md5")
    found = re.search(r"\b[0-9a-fA-F]{32}\b", text or "")
    return f"md5:{found[0].lower()}" if found else None


def _refuse_others(folder: Path, name: str) -> None:
    """A folder that a download did not make, or that holds other files besides, is not replaced."""
    if not folder.exists():
        return
    note = _read_note(folder)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    others = sorted(found - {_NOTE, *(note["files"] if note else ())})
    if others:
        raise StorageError(
            f"{folder} is there, and {others[0]} in it is not from `recrl data download`",
            where=str(folder),
            mend=f"`recrl data prepare {name} --root {folder}` reads what is there; move it away, or choose another --to, to download anew",
        )


def _read_note(folder: Path) -> dict[str, Any] | None:
    try:
        note = read_json(folder / _NOTE)
    except StorageError:
        return None
    return note if isinstance(note, dict) and isinstance(note.get("files"), dict) else None


def _room(path: Path, needed: int) -> None:
    folder = next(parent for parent in path.resolve().parents if parent.exists())
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise storage_error(error, path) from None
    if free < needed:
        raise StorageError(
            f"{folder} has {megabytes(free)} free, {path.name} and what it unpacks to need about {megabytes(needed)}",
            where=str(folder),
            mend="free some disk space, or choose another folder with --to; what has arrived is kept",
        )
