"""Downloads from a local server that stands in for Kaggle and its store."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import json
import random
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import kagglehub.clients
import pytest
from kagglesdk import kaggle_env

from seglab.cli.main import main
from seglab.core.errors import UserError
from seglab.data import download as module
from seglab.data.download import download

SECRET = "s3cr3t-k3y"
SLICES = {f"data/volume_1_slice_{s}.h5": random.randbytes(100_000) for s in range(6)}


def packed(files: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@dataclass
class Stand:
    """What the server holds, how it misbehaves, and the headers of what it was asked."""

    content: bytes
    status: int = 200
    breaks: list[int] = field(default_factory=list)
    """Bytes after which the next answers break off."""
    asked: list[dict[str, str]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    stand: Stand

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.stand.status == 200 and self.path.endswith("/DownloadDataset"):
            self.answer(302, b"", {"Location": "/store"})
        else:
            told = {"code": self.stand.status, "message": "", "currentVersionNumber": 3}
            kind = {"Content-Type": "application/json"}
            self.answer(self.stand.status, json.dumps(told).encode(), kind)

    def do_GET(self) -> None:
        start = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-")
        md5 = base64.b64encode(hashlib.md5(self.stand.content).digest()).decode()
        headers = {"Accept-Ranges": "bytes", "x-goog-hash": f"md5={md5}"}
        self.answer(206 if int(start) else 200, self.stand.content[int(start) :], headers)

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.stand.asked.append({name.lower(): value for name, value in self.headers.items()})
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if len(body) > 1000 and self.stand.breaks:
            body = body[: self.stand.breaks.pop(0)]
        self.wfile.write(body)


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stand]:
    stand = Stand(packed(SLICES | {"meta_data.csv": b"slice_path,target\n"}))
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("_", (Handler,), {"stand": stand}))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, address)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "home" / ".kaggle"))
    monkeypatch.setenv("KAGGLEHUB_CACHE", "")  # restored after the test
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(kagglehub.clients, "CHUNK_SIZE", 1 << 14)
    monkeypatch.setattr(module, "SLICE_FILES", len(SLICES))
    yield stand
    server.shutdown()
    server.server_close()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "data"


def ranges(stand: Stand) -> list[int]:
    asked = [headers["range"] for headers in stand.asked if "range" in headers]
    return [int(one.removeprefix("bytes=").removesuffix("-")) for one in asked]


def test_files_arrive_byte_for_byte(
    stand: Stand, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "download", "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [report[k] for k in ("root", "files", "slices", "reused")] == [str(out), 7, 6, False]
    for name, content in SLICES.items():
        assert (out / name).read_bytes() == content
    assert sum(path.is_file() for path in out.rglob("*")) == 7
    asked = len(stand.asked)
    assert download(out)["reused"]
    assert len(stand.asked) == asked
    next(out.rglob("*.h5")).unlink()
    assert not download(out)["reused"]


def test_a_broken_connection_is_resumed_where_it_broke(stand: Stand, out: Path) -> None:
    stand.breaks = [130_000] * 9  # of which every second answers without a range, and is dropped
    assert download(out, wait_s=0)["slices"] == 6
    assert len(ranges(stand)) >= 4
    assert ranges(stand) == sorted(set(ranges(stand)))


def test_the_next_call_resumes(
    stand: Stand, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand.breaks = [130_000]
    monkeypatch.setattr(module, "ATTEMPTS", 3)
    monkeypatch.setattr(module.time, "sleep", lambda _: setattr(stand, "status", 503))
    with pytest.raises(UserError, match=r"HTTP 503.*run this again, which resumes"):
        download(out)
    assert "(HTTP 503): attempt 2 of 3" in capsys.readouterr().err
    stand.status = 200
    assert download(out)["slices"] == 6
    assert 100_000 < ranges(stand)[-1] <= 130_000


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refusal_says_what_to_do_and_keeps_the_secret(
    stand: Stand, out: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", SECRET)
    stand.status = status
    with pytest.raises(UserError, match=rf"HTTP {status}.*/settings.*kaggle\.json") as error:
        download(out)
    assert SECRET not in str(error.value)
    basic = base64.b64encode(f"someone:{SECRET}".encode()).decode()
    assert [headers["authorization"] for headers in stand.asked] == [f"Basic {basic}"]


def test_broken_credentials_are_named(stand: Stand, out: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "home" / ".kaggle").mkdir(parents=True)
    (folder / "kaggle.json").write_text(f'{{"username": "me", "kye": "{SECRET}"}}')
    with pytest.raises(UserError, match=r"kaggle\.json is missing 'key'.*/settings") as error:
        download(out)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("content", [b"this is no zip", packed(SLICES)[:-7_000]])
def test_a_damaged_archive_is_fetched_anew(stand: Stand, out: Path, content: bytes) -> None:
    whole, stand.content = stand.content, content
    with pytest.raises(UserError, match=r"damaged .*removed"):
        download(out)
    stand.content = whole
    assert download(out)["slices"] == 6


def test_too_few_slices_are_told(stand: Stand, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand.content = packed(dict(list(SLICES.items())[:2]) | {"../evil.txt": b""})
    with pytest.raises(UserError, match="holds 2 of 6 slice files"):
        download(out)
    assert not list(out.parent.glob("evil*"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kagglehub.clients, "_download_file", full)
    with pytest.raises(UserError, match=rf"cannot write to {out}: No space left on device"):
        download(out)
