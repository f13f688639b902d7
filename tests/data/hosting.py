"""A server on loopback that breaks off, stalls, changes its file, refuses, or sends what it should not; archives to send."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from recrl_datasets.downloading.download import PUBLISHED, Published

FILES = {"ratings.dat": bytes(range(256)) * 20, "sub/users.dat": b"1::F\n", "README": b"terms\n"}


def zipped(files: dict[str, bytes] | None = None, top: str = "set/", method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr(zipfile.ZipInfo(top), b"") if top else None
        for name, content in (FILES if files is None else files).items():
            archive.writestr(zipfile.ZipInfo(top + name), content)
    return out.getvalue()


def tarred(files: dict[str, bytes] | None = None, top: str = "set/", *others: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in (FILES if files is None else files).items():
            info = tarfile.TarInfo(top + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in others:
            archive.addfile(info)
    return out.getvalue()


class Host:
    """What the server does: its files, and how it misbehaves."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etag: str | None = '"one"'
        self.last_modified: str | None = "Tue, 11 Nov 2025 06:52:14 GMT"
        self.ranges = True
        self.if_range = True
        self.length = True
        self.cuts: list[int] = []  # bytes after which each answer breaks off
        self.stall = False
        self.answers: list[tuple[int, dict[str, str]]] = []  # sent first, instead of a file
        self.log: list[tuple[str, str | None, int]] = []  # path, Range, bytes of body sent
        self.address = ""

    def changed(self) -> None:
        self.etag, self.last_modified = '"two"', "Wed, 12 Nov 2025 06:52:14 GMT"

    @property
    def sent(self) -> int:
        return sum(count for _, _, count in self.log)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    host: Host

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        host, asked = self.host, self.headers.get("Range")
        self.close_connection = True
        if host.answers:
            code, headers = host.answers.pop(0)
            host.log.append((self.path, asked, 0))
            self.respond(code, {**headers, "Content-Length": "0"})
            return
        content = host.files.get(self.path)
        if content is None:
            host.log.append((self.path, asked, 0))
            self.respond(404, {"Content-Length": "0"})
            return
        headers = {name: value for name, value in (("ETag", host.etag), ("Last-Modified", host.last_modified)) if value}
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and host.ranges else 0
        fresh = self.headers.get("If-Range") not in (None, host.etag, host.last_modified)
        if start and host.if_range and fresh:
            start = 0
        if start > len(content) or (start and start == len(content)):
            host.log.append((self.path, asked, 0))
            self.respond(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
            return
        body = content[start:]
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if host.length:
            headers["Content-Length"] = str(len(body))
        sent = body[: host.cuts.pop(0)] if host.cuts else body
        host.log.append((self.path, asked, len(sent)))
        self.respond(206 if start else 200, headers)
        self.wfile.write(sent)
        self.wfile.flush()
        if host.stall:
            time.sleep(0.6)

    def respond(self, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


class Server(ThreadingHTTPServer):
    """Connections that the client gave up are no news."""

    def handle_error(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[Host]:
    """A server on a free port of loopback."""
    host = Host()
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"host": host}))
    threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True).start()
    host.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield host
    finally:
        server.shutdown()
        server.server_close()


Publish = Callable[..., Published]
"""Puts content on a server as the dataset ``toy``."""


def publishing(host: Host, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """A function that puts ``content`` on the server as ``toy``, with its checksum known to recrl unless told otherwise."""

    def put(content: bytes, kind: str = "zip", *, known: bool = True, asks: bool = False, md5: str = "", name: str = "toy") -> Published:
        path = f"/data/set.{kind}"
        host.files[path] = content
        digest = f"md5:{md5 or hashlib.md5(content).hexdigest()}" if known else None
        entry = Published(name, host.address + path, len(content), 20_000, digest, "toy-set", "CC BY 4.0", "https://terms", asks)
        monkeypatch.setitem(PUBLISHED, name, entry)
        return entry

    return put


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name[0] != "."}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
