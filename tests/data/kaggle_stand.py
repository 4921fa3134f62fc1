"""A server that stands in for Kaggle's API and store, and misbehaves as it is told to."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Stand:
    """What the server holds, how it misbehaves, and the headers of what it was asked."""

    content: bytes
    status: int = 200
    breaks: list[int] = field(default_factory=list)
    """Bytes after which the next answers break off."""
    pause_s: float = 0.0
    """After each 100 kB sent."""
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
        for start in range(0, len(body), 100_000):
            self.wfile.write(body[start : start + 100_000])
            if self.stand.pause_s:
                time.sleep(self.stand.pause_s)


@contextmanager
def serve(stand: Stand) -> Iterator[str]:
    """Serve until the block ends; gives the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("_", (Handler,), {"stand": stand}))
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients get killed
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
