"""A server that stands in for Kaggle's, and misbehaves as it is told to."""

from __future__ import annotations

from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler


@dataclass
class Stand:
    """What the server holds, how it misbehaves, and what it was asked."""

    content: bytes = b""
    status: int = 200
    content_type: str = "application/zip"
    etag: str | None = '"v1"'
    break_after: int | None = None
    breaks: int = 0
    redirect: bool = False
    change_to: bytes | None = None
    """Content after the next break."""
    status_after_break: int | None = None
    url: str = ""
    requests: list[dict[str, str]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    stand: Stand

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.stand.requests.append(
            {
                "path": self.path,
                "host": self.headers["Host"],
                **{k.lower(): v for k, v in self.headers.items()},
            }
        )
        if self.stand.redirect and self.path.startswith("/api/"):
            self.send_response(302)
            port = self.server.server_address[1]
            self.send_header("Location", f"http://localhost:{port}/store?signature=xyz")
            self.end_headers()
            return
        if self.stand.status != 200:
            self.send_response(self.stand.status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_content()

    def send_content(self) -> None:
        start, total = 0, len(self.stand.content)
        asked = self.headers.get("Range")
        if asked and self.headers.get("If-Range") in (None, self.stand.etag):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("Content-Type", self.stand.content_type)
        self.send_header("Content-Length", str(total - start))
        if self.stand.etag:
            self.send_header("ETag", self.stand.etag)
        self.end_headers()
        body = self.stand.content[start:]
        if self.stand.breaks > 0 and self.stand.break_after is not None:
            self.stand.breaks -= 1
            self.wfile.write(body[: self.stand.break_after])
            self.wfile.flush()
            self.close_connection = True
            self.stand.status = self.stand.status_after_break or self.stand.status
            if self.stand.change_to is not None:
                self.stand.content, self.stand.etag = self.stand.change_to, '"v2"'
            return
        self.wfile.write(body)


def handler_for(stand: Stand) -> type[Handler]:
    return type("HandlerOfStand", (Handler,), {"stand": stand})
