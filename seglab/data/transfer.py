"""One large file over HTTP, continued where it broke off."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import requests
from requests.auth import AuthBase

from seglab.core.errors import UserError
from seglab.core.progress import progress

CHUNK_BYTES = 1 << 20
CONNECT_S, READ_S = 10, 60
BROKEN = (
    requests.exceptions.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.Timeout,
)


class Refused(Exception):
    """The server answers, but not with the file; carries the HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class Unreachable(Exception):
    """No attempt got anything; the message says what came instead."""


class _Again(Exception):
    """What came is of no use, but another request may do better."""


@dataclass(frozen=True)
class Remote:
    """A file to fetch and who asks for it."""

    url: str
    auth: AuthBase | None = None


def fetch(remote: Remote, target: Path, *, attempts: int = 5, wait_s: float = 1.0) -> int:
    """Download to ``target``, continuing ``target.part`` if an earlier call left one.

    A broken connection is taken up again where it broke; ``attempts`` counts those in a
    row that bring nothing, with waits of ``wait_s``, 2 · ``wait_s``, 4 · ``wait_s`` …
    between them. A part is continued only if the file is still the same (its ETag).

    Returns:
        Size in bytes.

    Raises:
        Refused: an answer other than the file (401, 403, 404, a log-in page …).
        Unreachable: no answer at all.
        UserError: the connection keeps breaking; the part stays for the next call.
        OSError: ``target`` cannot be written.
    """
    part = target.with_name(f"{target.name}.part")
    failures, reason = 0, ""
    while failures < attempts:
        if reason:
            time.sleep(wait_s * 2 ** max(0, failures - 1))
        before = _size(part)
        try:
            _continue(remote, part)
            part.replace(target)
            return _size(target)
        except BROKEN:
            reason = "no connection"
        except _Again as useless:
            reason = str(useless)
        failures = 0 if _size(part) > before else failures + 1
    if not _size(part):
        raise Unreachable(reason)
    raise UserError(
        f"the download to {target} keeps breaking off after {_size(part):,} bytes ({reason}); "
        "run the same command again to continue it"
    )


def _continue(remote: Remote, part: Path) -> None:
    tag = part.with_name(f"{part.name}.etag")
    start = _size(part)
    # Compression would make the byte positions those of another stream.
    headers = {"Accept-Encoding": "identity"}
    if start and tag.exists():
        headers |= {"Range": f"bytes={start}-", "If-Range": tag.read_text(encoding="utf-8")}
    with requests.get(
        remote.url, auth=remote.auth, headers=headers, stream=True, timeout=(CONNECT_S, READ_S)
    ) as answer:
        if answer.status_code == 416:
            _accept_whole(answer, part)
        elif _first_byte(answer, start) == 0:
            part.unlink(missing_ok=True)
            tag.unlink(missing_ok=True)
            if "ETag" in answer.headers:
                tag.write_text(answer.headers["ETag"], encoding="utf-8")
            _append(answer, part)
        else:
            _append(answer, part)
    tag.unlink(missing_ok=True)


def _accept_whole(answer: requests.Response, part: Path) -> None:
    """Nothing lies beyond the part: it is the whole file, or another one."""
    if answer.headers.get("Content-Range") != f"bytes */{_size(part)}":
        part.unlink()
        raise _Again("the file has changed")


def _first_byte(answer: requests.Response, start: int) -> int:
    """Return the position of the first byte sent, 0 if the server sends the whole file."""
    if answer.status_code == 429 or answer.status_code >= 500:
        raise _Again(f"HTTP {answer.status_code}")
    login_page = answer.headers.get("Content-Type", "").startswith("text/html")
    if answer.status_code not in (200, 206) or login_page:
        raise Refused(answer.status_code)
    if answer.status_code == 200:
        return 0
    if not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        raise Refused(answer.status_code)
    return start


def _append(answer: requests.Response, part: Path) -> None:
    start = _size(part)
    length = answer.headers.get("Content-Length")
    chunks = None if length is None else -(-int(length) // CHUNK_BYTES)
    received = progress(answer.iter_content(CHUNK_BYTES), "download", chunks, unit="MiB")
    with part.open("ab") as file:
        for chunk in received:
            file.write(chunk)
    if length is not None and _size(part) != start + int(length):
        raise _Again("less than announced")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
