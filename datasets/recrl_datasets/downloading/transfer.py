"""One large file over HTTP: resumed where it broke off, begun anew where the file on the server has changed.

What has arrived stands in ``<file>.part``, and ``<file>.part.json`` says of which file it is a part (address, ETag,
Last-Modified, size). A server that ignores ranges, or offers another file than before, is asked for the whole.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from recrl.core.config import from_dict, to_dict
from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError, RecrlError, StorageError
from recrl.core.files import read_json, storage_error, write_json

ATTEMPTS = 5
"""Tries in a row that bring less than 16 MiB before the transfer is given up; what has arrived is kept."""
TIMEOUT_SECONDS = 30.0
"""How long a silent server is waited for."""
PAUSE_SECONDS = 1.0
"""Pause after the first failure, doubled with each further one, at most a minute."""
_ENOUGH = 16 << 20
_CHUNK = 1 << 18
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_LATER = "run the same command again: it goes on where it stopped; without a way to the server, give the file with --source"


@dataclass(frozen=True)
class _Known:
    """Of which file the part is."""

    address: str
    etag: str | None
    last_modified: str | None
    size: int | None

    @property
    def validator(self) -> str | None:
        """What tells a changed file: a strong ETag, else the time of the last change."""
        return self.etag if self.etag and self.etag.startswith('"') else self.last_modified


class _Broken(Exception):
    """The transfer stopped; a new try may help."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


def part_of(path: Path) -> Path:
    """Where the part of ``path`` stands that has arrived so far."""
    return path.with_name(f"{path.name}.part")


def fetch(address: str, path: Path, *, size: int | None, checked: bool, progress: Progress) -> Path:
    """Fetch ``address`` into the part of ``path``, going on with what is there, and return the part once it is whole.

    Args:
        address: an http or https address.
        path: the file's final place; moving the part there is the caller's, once it is checked.
        size: bytes that the file must have; ``None`` where they are not known.
        checked: whether the caller checks the whole file afterwards: parts may then be joined without a validator.
        progress: called with the finished share and a line of text.

    **Errors**: :class:`StorageError` for an address that is not there, a broken transfer (what arrived is kept), a server whose
    certificate is not valid, or a full disk; :class:`ConfigError` for what is not an address.
    """
    part, failures = part_of(path), 0
    while True:
        before = _length(part)
        try:
            _transfer(address, part, size, checked, progress)
        except _Broken as broken:
            failures = 1 if _length(part) - before >= _ENOUGH else failures + 1
            if failures >= ATTEMPTS:
                raise StorageError(f"the transfer of {path.name} broke off: {broken}", where=address, mend=_LATER) from None
            time.sleep(min(max(broken.pause, PAUSE_SECONDS * 2 ** (failures - 1)), 60.0))
        else:
            return part


def discard(path: Path) -> None:
    """Remove the part of ``path`` and what is known of it."""
    part = part_of(path)
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def read_text(address: str, limit: int = 1 << 16) -> str | None:
    """A small text at ``address``, or ``None`` where there is none."""
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError), _open(_request(address)) as response:
        return response.read(limit).decode("utf-8", "replace")
    return None


def _transfer(address: str, part: Path, size: int | None, checked: bool, progress: Progress) -> None:
    known = _known(part, address, checked)
    start = _length(part) if known else 0
    if start and known and start == known.size:
        return
    request = _request(address)
    if known and start:
        request.add_header("Range", f"bytes={start}-")
        if known.validator:
            request.add_header("If-Range", known.validator)
    with _answer(request) as response:
        if response is not None and response.status != 206:
            offer = _offer(address, response.headers)
            if size is not None and offer.size not in (None, size):
                raise StorageError(
                    f"the server offers {offer.size:,} bytes, {part.stem} has {size:,}",
                    where=address,
                    mend="check the address; where the owners have changed the file, a newer recrl may know it",
                )
            _receive(response, part, 0, offer, progress)
            return
        if response is not None and known and _continues(response.headers, start, known):
            _receive(response, part, start, known, progress)
            return
    if not start:
        raise _Broken("the server answers with a range that was not asked for")
    # the part is of another file: without it the whole is asked for
    discard(part.with_suffix(""))
    _transfer(address, part, size, checked, progress)


def _receive(response: http.client.HTTPResponse, part: Path, start: int, known: _Known, progress: Progress) -> None:
    done = start
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        if not start:
            part.unlink(missing_ok=True)
            write_json(_note(part), to_dict(known))
        with part.open("ab") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                done += len(chunk)
                share = done / known.size if known.size else 0.0
                progress(min(share, 1.0), f"{megabytes(done)} of {megabytes(known.size) if known.size else 'unknown size'}")
    except OSError as error:
        raise storage_error(error, part) from None
    if known.size is not None and done < known.size:
        raise _Broken(f"{done:,} of {known.size:,} bytes arrived")


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            # read1 hands over what has arrived: little is lost when the connection breaks
            chunk = response.read1(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(_words(error)) from None
        if not chunk:
            return
        yield chunk


@contextlib.contextmanager
def _answer(request: urllib.request.Request) -> Iterator[http.client.HTTPResponse | None]:
    """The server's answer; ``None`` where it cannot serve the range."""
    try:
        response = _open(request)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            yield None
            return
        raise _refusal(error, request.full_url) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise StorageError(
                f"the certificate of {request.host} is not valid: {reason.verify_message}",
                where=request.full_url,
                mend="wait until its owners renew it, or fetch the file in another way and give it with --source FILE",
            ) from None
        raise _Broken(_words(reason)) from None
    with response:
        yield response


def _refusal(error: urllib.error.HTTPError, address: str) -> Exception:
    said = f"the server answers {error.code} {http.client.responses.get(error.code, '')}".rstrip()
    if error.code in _PASSING:
        wait = error.headers.get("Retry-After", "") if error.headers else ""
        return _Broken(said, float(wait) if wait.isdigit() else 0.0)
    return StorageError(said, where=address, mend="check whether the file has moved, or give another address or a file with --source")


def _request(address: str) -> urllib.request.Request:
    if not re.match(r"https?://[^/\s]+", address):
        raise ConfigError(f"{address!r} is not an http or https address", where="address", mend="give one such as https://host/file.zip")
    return urllib.request.Request(address, headers={"User-Agent": "recrl", "Accept-Encoding": "identity"})


def _open(request: urllib.request.Request) -> http.client.HTTPResponse:
    response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    return response


def _offer(address: str, headers: Message) -> _Known:
    length = headers.get("Content-Length", "")
    return _Known(address, headers.get("ETag"), headers.get("Last-Modified"), int(length) if length.isdigit() else None)


def _continues(headers: Message, start: int, known: _Known) -> bool:
    """Whether a partial answer goes on with the same file at ``start``."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
    if not found or int(found[1]) != start:
        return False
    same_size = "*" in (found[2], known.size or "*") or int(found[2]) == known.size
    pairs = ((known.etag, headers.get("ETag")), (known.last_modified, headers.get("Last-Modified")))
    return same_size and all(then == now for then, now in pairs if then and now)


def _known(part: Path, address: str, checked: bool) -> _Known | None:
    """Of which file the part is, where one can go on with it; else the part is removed."""
    with contextlib.suppress(RecrlError):
        known = from_dict(_Known, read_json(_note(part)))
        fits = known.size is None or _length(part) <= known.size
        if known.address == address and fits and (checked or known.validator):
            return known
    discard(part.with_suffix(""))
    return None


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _length(part: Path) -> int:
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise storage_error(error, part) from None


def _words(error: object) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT_SECONDS:g} seconds"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def megabytes(count: int) -> str:
    """A size in decimal units, for people."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count:,} bytes"
