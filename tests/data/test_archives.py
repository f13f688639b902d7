"""Archives that are broken or mean harm are not unpacked, and nothing of them is left."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import recrl_datasets as rd
from recrl.core.errors import DataError
from tests.data.hosting import Publish, names, tarred, tree, zipped


@pytest.mark.parametrize(("kind", "make"), [("zip", zipped), ("tar.gz", tarred)])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_archive_leaves_nothing(kind: str, make: Callable[..., bytes], share: float, publish: Publish, tmp_path: Path) -> None:
    content = make()
    publish(content[: int(share * len(content))] or b"PK", kind, known=False)
    with pytest.raises(DataError, match="is cut off or broken"):
        rd.download("toy", tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("kind", "make"), [("zip", zipped), ("tar.gz", tarred)])
def test_a_flipped_byte_is_found_by_the_archives_own_checksum(
    kind: str, make: Callable[..., bytes], publish: Publish, tmp_path: Path
) -> None:
    content = bytearray(make())
    content[len(content) // 2] ^= 1
    publish(bytes(content), kind, known=False)
    with pytest.raises(DataError, match="is cut off or broken"):
        rd.download("toy", tmp_path)
    assert names(tmp_path) == []


def link(kind: bytes, name: str = "set/l", to: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def zip_link() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("set/l")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return out.getvalue()


def encrypted() -> bytes:
    content = bytearray(zipped())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(magic)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(magic, at + 1)
    return bytes(content)


HOSTILE = {
    "zip-slip": (zipped({"../../evil": b"x"}), "zip", "would write outside its folder"),
    "slip further down": (zipped({"a/../../../evil": b"x"}), "zip", "would write outside its folder"),
    "absolute": (zipped({"/evil": b"x"}, top=""), "zip", "would write outside its folder"),
    "backslashes": (zipped({"..\\..\\evil": b"x"}, top=""), "zip", "would write outside its folder"),
    "a drive": (zipped({"C:\\evil": b"x"}, top=""), "zip", "would write outside its folder"),
    "a link in a zip": (zip_link(), "zip", "holds a link"),
    "twice": (zipped({"a": b"1", "./a": b"2"}), "zip", "holds 'set/./a' twice"),
    "a flood": (zipped({"a": b"\0" * 90_000}, method=zipfile.ZIP_DEFLATED), "zip", "unpacks to more than 80,000 bytes"),
    "nothing": (zipped({}), "zip", "holds no files"),
    "encrypted": (encrypted(), "zip", "is cut off or broken"),
    "tar slip": (tarred({"../../evil": b"x"}), "tar.gz", "would write outside its folder"),
    "tar absolute": (tarred({"/evil": b"x"}, ""), "tar.gz", "would write outside its folder"),
    "tar symlink": (tarred(None, "set/", link(tarfile.SYMTYPE)), "tar.gz", "holds a link or a device"),
    "tar hard link": (tarred(None, "set/", link(tarfile.LNKTYPE, to="set/README")), "tar.gz", "holds a link or a device"),
    "tar device": (tarred(None, "set/", link(tarfile.CHRTYPE)), "tar.gz", "holds a link or a device"),
    "tar flood": (tarred({"a": b"\0" * 90_000}), "tar.gz", "unpacks to more than 80,000 bytes"),
    "not a tar": (gzip.compress(b"hello" * 999, mtime=0), "tar.gz", "is cut off or broken"),
    "neither": (b"<html>", "tar.gz", "is cut off or broken"),
}


@pytest.mark.parametrize(("content", "kind", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_archives_are_not_unpacked(content: bytes, kind: str, message: str, publish: Publish, tmp_path: Path) -> None:
    publish(content, kind)
    with pytest.raises(DataError) as caught:
        rd.download("toy", tmp_path / "to" / "here")
    assert message in caught.value.what
    assert caught.value.where
    assert caught.value.mend
    assert names(tmp_path) == ["to"]
    assert names(tmp_path / "to" / "here") == []


def test_what_macos_adds_is_left_out(publish: Publish, tmp_path: Path) -> None:
    publish(zipped({"set/a": b"1", "set/._a": b"x", "__MACOSX/set/._a": b"x", "set/.DS_Store": b"x"}, top=""))
    assert tree(rd.download("toy", tmp_path).folder) == {"a": b"1"}
