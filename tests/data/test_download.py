"""Downloads against a server on loopback: whole, broken, changed, refused, stalled, checked, and never half there."""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import errno
import hashlib
import io
import os
import shutil
import socket
import ssl
import threading
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recrl_datasets as rd
from recrl.core.errors import ConfigError, DataError, StorageError
from recrl_datasets.downloading import transfer
from recrl_datasets.downloading.download import PUBLISHED, Published
from tests.data.hosting import FILES, Handler, Host, Publish, names, serving, tarred, tree, zipped


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses between tries are noted, not kept."""
    noted: list[float] = []
    monkeypatch.setattr(transfer.time, "sleep", noted.append)
    return noted


def until_done(to: Path, limit: int = 60) -> rd.Downloaded:
    """The same command again and again, as a user would."""
    for _ in range(limit):
        with contextlib.suppress(StorageError):
            return rd.download("toy", to)
    raise AssertionError("never done")


@pytest.mark.parametrize(("kind", "make"), [("zip", zipped), ("tar.gz", tarred)])
@pytest.mark.parametrize("top", ["set/", ""])
def test_a_whole_transfer(kind: str, make: Callable[..., bytes], top: str, host: Host, publish: Publish, tmp_path: Path) -> None:
    toy = publish(make(top=top), kind)
    stages: list[tuple[float, str]] = []
    done = rd.download("toy", tmp_path, progress=lambda share, text: stages.append((share, text)))
    assert (done.folder, done.fetched) == (tmp_path / "toy-set", True)
    assert tree(done.folder) == FILES
    assert names(tmp_path) == ["toy-set"]
    assert done.checked == f"the owners' {toy.checksum.replace(':', ' ')}"  # type: ignore[union-attr]
    assert [share for share, _ in stages] == sorted(share for share, _ in stages)
    assert stages[-1] == (1.0, "done")
    assert rd.present("toy", tmp_path) == done.folder
    again = rd.download("toy", tmp_path)
    assert (again.folder, again.fetched) == (done.folder, False)
    assert len(host.log) == 1


def test_the_archive_can_be_kept(publish: Publish, tmp_path: Path) -> None:
    publish(content := zipped())
    rd.download("toy", tmp_path, keep_archive=True)
    assert names(tmp_path) == ["set.zip", "toy-set"]
    assert (tmp_path / "set.zip").read_bytes() == content


@pytest.mark.parametrize("every", [97, 1000, 4096])
def test_broken_at_every_kth_byte(every: int, host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(content := zipped())
    host.cuts = [every] * (len(content) // every)
    assert tree(until_done(tmp_path).folder) == FILES
    assert host.sent == len(content)  # nothing came twice
    assert names(tmp_path) == ["toy-set"]


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 6000), max_size=8), length=st.booleans(), validators=st.sampled_from(["both", "etag", "time", "none"]))
def test_broken_anywhere(cuts: list[int], length: bool, validators: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = zipped()
    with serving() as host:
        host.files["/set.zip"], host.cuts, host.length = content, list(cuts), length
        host.etag = host.etag if validators in ("both", "etag") else None
        host.last_modified = host.last_modified if validators in ("both", "time") else None
        path, part = tmp_path_factory.mktemp("d") / "set.zip", None
        while part is None:
            with contextlib.suppress(StorageError):
                part = transfer.fetch(f"{host.address}/set.zip", path, size=len(content), checked=True, progress=lambda *_: None)
    if length:
        assert part.read_bytes() == content
        assert host.sent == len(content)
    else:
        # an answer without a length ends where it ends: only the checksum can tell
        assert content.startswith(part.read_bytes())


def test_a_server_without_ranges_is_asked_for_the_whole(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(content := zipped())
    host.ranges, host.cuts = False, [1000, 2000]
    assert tree(rd.download("toy", tmp_path).folder) == FILES
    assert [count for _, _, count in host.log] == [1000, 2000, len(content)]
    assert host.log[1][1] == "bytes=1000-"


@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_changed_file_is_fetched_anew(if_range: bool, known: bool, host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(zipped({"a": b"x" * 6000}), known=known)
    host.if_range, host.cuts = if_range, [1000] * 5
    with pytest.raises(StorageError, match="broke off"):
        rd.download("toy", tmp_path)
    # as long as before
    publish(zipped(other := {"a": b"y" * 6000}), known=known)
    host.changed()
    host.log.clear()
    assert tree(rd.download("toy", tmp_path).folder) == other
    asked = [asked for path, asked, _ in host.log if not path.endswith(".md5")]
    assert asked == (["bytes=5000-"] if if_range else ["bytes=5000-", None])


def test_a_shorter_file_is_fetched_anew(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(zipped(), known=False)
    host.etag = host.last_modified = None
    host.cuts = [1000] * 5
    with pytest.raises(StorageError, match="broke off"):
        rd.download("toy", tmp_path)
    publish(zipped(other := {"b": b"y"}), known=False)
    assert tree(rd.download("toy", tmp_path).folder) == other


def test_without_validator_and_checksum_parts_are_not_joined(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(zipped({"a": b"x" * 6000}), known=False)
    host.etag = host.last_modified = None
    host.cuts = [1000]
    rd.download("toy", tmp_path)
    assert [asked for _, asked, _ in host.log if asked] == []


def test_without_validator_the_checksum_judges(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(zipped({"a": b"x" * 6000}))
    host.etag = host.last_modified = None
    host.cuts = [1000] * 5
    with pytest.raises(StorageError, match="broke off"):
        rd.download("toy", tmp_path)
    publish(zipped(other := {"a": b"y" * 6000}))
    with pytest.raises(DataError, match="its owners publish"):
        rd.download("toy", tmp_path)
    assert names(tmp_path) == []
    assert tree(rd.download("toy", tmp_path).folder) == other


def test_weak_etags_do_not_validate(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(zipped(), known=False)
    host.etag, host.last_modified, host.cuts = 'W/"one"', None, [1000]
    rd.download("toy", tmp_path)
    assert [asked for _, asked, _ in host.log if asked] == []


def test_a_wrong_checksum_leaves_nothing(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(content := zipped(), md5="0" * 32)
    with pytest.raises(DataError) as caught:
        rd.download("toy", tmp_path)
    assert caught.value.what == f"set.zip has md5 {hashlib.md5(content).hexdigest()}, its owners publish {'0' * 32}"
    assert "run the same command again" in caught.value.mend
    assert names(tmp_path) == []
    publish(content)
    assert tree(rd.download("toy", tmp_path).folder) == FILES


def test_the_owners_word_of_today_tells_a_changed_file(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(content := zipped(), md5="0" * 32)
    host.files["/data/set.zip.md5"] = f"MD5 (set.zip) = {hashlib.md5(content).hexdigest().upper()}\n".encode()
    with pytest.raises(DataError) as caught:
        rd.download("toy", tmp_path)
    assert caught.value.mend.startswith("its owners have changed it")


def test_an_unknown_checksum_is_read_beside_the_file(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(content := zipped(), known=False)
    host.files["/data/set.zip.md5"] = f"{hashlib.md5(content).hexdigest()}  set.zip\n".encode()
    done = rd.download("toy", tmp_path)
    assert done.checked.startswith("the owners' md5")
    assert done.notes == ()
    host.files["/data/set.zip.md5"] = f"{'0' * 32}  set.zip\n".encode()
    with pytest.raises(DataError, match="its owners publish 0000"):
        rd.download("toy", tmp_path / "b")


def test_an_unknown_checksum_is_said(host: Host, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = publish(zipped(), known=False)
    done = rd.download("toy", tmp_path)
    assert done.checked == "its own checksums"
    assert done.notes == ("the owners' checksum of set.zip is not known to recrl",)
    monkeypatch.setitem(PUBLISHED, "toy", dataclasses.replace(toy, size=7))
    assert "recrl knows it with 7" in rd.download("toy", tmp_path / "b").notes[0]


@pytest.mark.parametrize("code", [404, 403, 410, 401, 400])
def test_a_refusal_is_final(code: int, host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(zipped())
    host.answers = [(code, {})]
    with pytest.raises(StorageError) as caught:
        rd.download("toy", tmp_path)
    assert caught.value.what.startswith(f"the server answers {code} ")
    assert caught.value.where == f"{host.address}/data/set.zip"
    assert "--source" in caught.value.mend
    assert len(host.log) == 1
    assert names(tmp_path) == []


def test_a_server_in_trouble_is_tried_again(host: Host, publish: Publish, tmp_path: Path, pauses: list[float]) -> None:
    publish(zipped())
    host.answers = [(500, {}), (503, {"Retry-After": "7"}), (429, {"Retry-After": "4000"}), (502, {"Retry-After": "soon"})]
    assert tree(rd.download("toy", tmp_path).folder) == FILES
    assert pauses == [1.0, 7.0, 60.0, 8.0]
    host.answers = [(500, {})] * 9
    with pytest.raises(StorageError, match="broke off: the server answers 500 Internal Server Error"):
        rd.download("toy", tmp_path / "b")
    assert len(host.answers) == 9 - transfer.ATTEMPTS


def test_redirects_are_followed_and_keep_the_range(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(content := zipped())
    host.files["/elsewhere"] = content
    redirect = (302, {"Location": "/elsewhere"})
    host.answers, host.cuts = [redirect], [1000]
    original = rd.download
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "ATTEMPTS", 1)
        with pytest.raises(StorageError, match="broke off"):
            original("toy", tmp_path)
    host.answers = [redirect]
    assert tree(rd.download("toy", tmp_path).folder) == FILES
    assert host.log[-1][:2] == ("/elsewhere", "bytes=1000-")


def test_a_redirect_loop_ends(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(zipped())
    host.answers = [(302, {"Location": "/data/set.zip"})] * 30
    with pytest.raises(StorageError, match="the server answers 302"):
        rd.download("toy", tmp_path)


def test_another_size_is_refused_before_the_transfer(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(zipped())
    host.files["/data/set.zip"] = b"<html>we have moved</html>"
    with pytest.raises(StorageError, match=r"the server offers 26 bytes, set\.zip has 5,"):
        rd.download("toy", tmp_path)
    assert names(tmp_path) == []


def test_a_silent_server_is_given_up(host: Host, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(zipped())
    monkeypatch.setattr(transfer, "TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(transfer, "ATTEMPTS", 2)
    over = threading.Event()
    monkeypatch.setattr(Handler, "do_GET", lambda self: over.wait(60))
    try:
        with pytest.raises(StorageError, match=r"broke off: no answer within 0\.05 seconds"):
            rd.download("toy", tmp_path)
    finally:
        over.set()


def test_a_server_that_stalls_in_the_middle(host: Host, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(content := zipped())
    monkeypatch.setattr(transfer, "TIMEOUT_SECONDS", 0.1)
    send = Handler.respond
    held = threading.Event()

    def respond(self: Handler, code: int, headers: dict[str, str]) -> None:
        send(self, code, headers)
        if code == 200:
            self.wfile.write(content[:2000])
            self.wfile.flush()
            held.wait(0.4)
            raise ConnectionAbortedError

    monkeypatch.setattr(Handler, "respond", respond)
    assert tree(rd.download("toy", tmp_path).folder) == FILES
    assert host.log[-1][1] == "bytes=2000-"


def test_nobody_listens(publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    toy = publish(zipped())
    monkeypatch.setitem(PUBLISHED, "toy", dataclasses.replace(toy, address=f"http://127.0.0.1:{port}/set.zip"))
    with pytest.raises(StorageError, match="broke off: Connection refused"):
        rd.download("toy", tmp_path)


def test_an_invalid_certificate_is_final(publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(zipped())
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "certificate has expired"
    calls: list[object] = []

    def refuse(request: object, timeout: float) -> None:
        calls.append(request)
        raise urllib.error.URLError(error)

    monkeypatch.setattr(transfer.urllib.request, "urlopen", refuse)
    with pytest.raises(StorageError, match=r"the certificate of 127\.0\.0\.1:\d+ is not valid: certificate has expired") as caught:
        rd.download("toy", tmp_path)
    assert "--source FILE" in caught.value.mend
    assert len(calls) == 1


def full_disk(monkeypatch: pytest.MonkeyPatch, suffix: str, after: int) -> None:
    """Writes to files whose name ends in ``suffix`` fail once ``after`` bytes are written."""
    real = io.open

    class Full(io.FileIO):
        room = after

        def write(self, data: Any) -> int:
            if Full.room < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            Full.room -= len(data)
            return super().write(data)

    def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if str(file).endswith(suffix) and set(mode) & set("wax"):
            return Full(file, mode)
        return real(file, mode, *args, **options)

    monkeypatch.setattr(io, "open", opened)
    monkeypatch.setattr(builtins, "open", opened)


def test_a_full_disk_keeps_the_part(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(content := zipped())
    host.cuts = [2000]
    with pytest.MonkeyPatch.context() as patch:
        full_disk(patch, ".part", after=3000)
        with pytest.raises(StorageError, match=r"cannot write set\.zip\.part: No space left on device") as caught:
            rd.download("toy", tmp_path)
    assert "free some disk space" in caught.value.mend
    assert (tmp_path / "set.zip.part").stat().st_size == 2000
    assert tree(rd.download("toy", tmp_path).folder) == FILES
    assert host.log[-1][1:] == ("bytes=2000-", len(content) - 2000)


def test_a_full_disk_while_unpacking_keeps_the_archive(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(zipped())
    with pytest.MonkeyPatch.context() as patch:
        full_disk(patch, "users.dat", after=1)
        with pytest.raises(StorageError, match="No space left on device"):
            rd.download("toy", tmp_path)
    assert names(tmp_path) == ["set.zip"]
    assert tree(rd.download("toy", tmp_path).folder) == FILES
    assert len(host.log) == 1
    assert names(tmp_path) == ["toy-set"]


def test_too_little_room_is_told_before(host: Host, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(zipped())
    real = shutil.disk_usage
    monkeypatch.setattr("shutil.disk_usage", lambda path: real(path)._replace(free=21_000))
    with pytest.raises(StorageError, match=r"has 21,000 bytes free, set\.zip and what it unpacks to need about 25,"):
        rd.download("toy", tmp_path)
    assert host.log == []


def test_ctrl_c_keeps_the_part(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(content := zipped())
    host.cuts = [3000]

    def stop(share: float, text: str) -> None:
        if 0.1 < share < 0.7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rd.download("toy", tmp_path, progress=stop)
    held = (tmp_path / "set.zip.part").stat().st_size
    assert 0 < held <= 3000
    assert tree(rd.download("toy", tmp_path).folder) == FILES
    assert host.log[-1][1:] == (f"bytes={held}-", len(content) - held)


def test_ctrl_c_while_unpacking_goes_on_from_the_archive(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(zipped())

    def stop(share: float, text: str) -> None:
        if "unpacking users" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rd.download("toy", tmp_path, progress=stop)
    assert names(tmp_path) == ["set.zip"]
    assert tree(rd.download("toy", tmp_path).folder) == FILES
    assert len(host.log) == 1


def test_a_broken_note_about_the_part_starts_anew(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(content := zipped())
    (tmp_path / "set.zip.part").write_bytes(b"who knows")
    assert tree(rd.download("toy", tmp_path).folder) == FILES
    for note in ("{", "[]", '{"address": 3}'):
        to = tmp_path / f"to{len(note)}"
        to.mkdir()
        (to / "set.zip.part").write_bytes(b"who knows")
        (to / "set.zip.part.json").write_text(note)
        assert tree(rd.download("toy", to).folder) == FILES
    assert host.sent == 4 * len(content)


def test_the_licence_comes_first(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(zipped(), asks=True)
    with pytest.raises(ConfigError, match="the licence of toy restricts its use") as caught:
        rd.download("toy", tmp_path)
    assert (caught.value.where, "--accept-licence" in caught.value.mend) == ("https://terms", True)
    assert host.log == []
    rd.download("toy", tmp_path, accept_licence=True)
    assert rd.download("toy", tmp_path).fetched is False


def test_an_archive_on_this_machine(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(content := zipped())
    mine = tmp_path / "mine.zip"
    mine.write_bytes(content)
    assert tree(rd.download("toy", tmp_path / "to", source=mine).folder) == FILES
    assert host.log == []
    assert mine.read_bytes() == content
    mine.write_bytes(content[:-1])
    with pytest.raises(DataError, match="its owners publish"):
        rd.download("toy", tmp_path / "b", source=mine)
    assert mine.read_bytes() == content[:-1]
    with pytest.raises(StorageError, match=r"there is no file .*nowhere\.zip"):
        rd.download("toy", tmp_path / "b", source=tmp_path / "nowhere.zip")
    with pytest.raises(ConfigError, match="is not an http or https address"):
        rd.download("toy", tmp_path / "b", source="ftp://host/set.zip")


def test_a_mirror(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(content := zipped())
    host.files["/mirror.zip"] = content
    del host.files["/data/set.zip"]
    assert tree(rd.download("toy", tmp_path, source=f"{host.address}/mirror.zip").folder) == FILES


def test_an_archive_that_was_there_is_not_removed(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(content := zipped())
    (tmp_path / "set.zip").write_bytes(b"mine")
    with pytest.raises(DataError, match="its owners publish") as caught:
        rd.download("toy", tmp_path)
    assert caught.value.mend.startswith("remove it")
    assert (tmp_path / "set.zip").read_bytes() == b"mine"
    (tmp_path / "set.zip").write_bytes(content)
    assert tree(rd.download("toy", tmp_path).folder) == FILES
    assert host.sent == 0


def test_a_read_only_place(publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(zipped())

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StorageError, match="Permission denied") as caught:
        rd.download("toy", tmp_path)
    assert caught.value.mend == "choose a folder you may write to"


def test_a_damaged_folder_is_made_again(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(zipped())
    folder = rd.download("toy", tmp_path).folder
    (folder / "ratings.dat").write_bytes(b"half")
    (folder / "README").unlink()
    assert rd.present("toy", tmp_path) is None
    done = rd.download("toy", tmp_path)
    assert done.fetched
    assert tree(folder) == FILES


def test_other_peoples_files_are_not_replaced(host: Host, publish: Publish, tmp_path: Path) -> None:
    publish(zipped())
    (tmp_path / "toy-set").mkdir()
    (tmp_path / "toy-set" / "mine").write_text("x")
    with pytest.raises(StorageError, match="mine in it is not from `recrl data download`") as caught:
        rd.download("toy", tmp_path)
    assert f"recrl data prepare toy --root {tmp_path / 'toy-set'}" in caught.value.mend
    assert host.log == []
    (tmp_path / "toy-set" / "mine").unlink()
    assert tree(rd.download("toy", tmp_path).folder) == FILES


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="recrl knows no address of 'kuairand_pure'") as caught:
        rd.download("kuairand_pure", tmp_path)
    assert "did you mean 'kuairand-pure'" in caught.value.mend


def test_every_registered_dataset_has_an_address() -> None:
    assert set(PUBLISHED) == set(rd.REGISTRY)


@pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED)
def test_the_catalogue(published: Published) -> None:
    assert published.address.startswith("https://")
    assert published.terms.startswith("https://")
    assert published.archive.endswith((".zip", ".tar.gz"))
    assert published.size < published.unpacked < 50 * published.size
    kind, _, digest = (published.checksum or "md5:" + "0" * 32).partition(":")
    assert len(digest) == 2 * hashlib.new(kind).digest_size
    assert int(digest, 16) >= 0
    assert published.asks is published.name.startswith("ml-")
