"""A server of weights on this machine that behaves well or badly, as it is told."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from vpr.weights.manifest import Entry


def checkpoint(value: float) -> bytes:
    data = io.BytesIO()
    torch.save({"a": torch.full((50_000,), value)}, data)
    return data.getvalue()


BODY = checkpoint(1.0)


@dataclass
class Site:
    """What the server has, how it misbehaves, and what it was asked."""

    port: int = 0
    body: bytes = BODY
    etag: str = '"first"'
    ranges: bool = True
    cut: list[int] = field(default_factory=list)  # bytes after which each of the next answers ends
    length: int | None = -1  # said instead of the true one; None says none
    status: int = 200
    location: str = ""
    shift: int = 0  # a part begins this far from where it was asked to
    stall_s: float = 0.0
    asked: list[dict[str, str]] = field(default_factory=list)

    def entry(self, **changes: Any) -> Entry:
        facts = {"name": "one", "file": "one.pth", "url": f"http://127.0.0.1:{self.port}/one.pth", "sha256": ""}
        return Entry(**{**facts, "loads": ("x",), "source": "s", "licence": "MIT", "notice": "", **changes})


def answer(site: Site, request: BaseHTTPRequestHandler) -> None:
    site.asked.append(dict(request.headers))
    time.sleep(site.stall_s)
    if site.location and request.path != "/moved":
        request.send_response(302)
        request.send_header("Location", site.location)
        request.send_header("Content-Length", "0")
        return request.end_headers()
    if site.status != 200:
        return request.send_error(site.status)
    asked = request.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
    start = int(asked) if asked and site.ranges and request.headers.get("If-Range") == site.etag else 0
    if start >= len(site.body):
        return request.send_error(416)
    start += site.shift if start else 0
    part = site.body[start:]
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(site.body) - 1}/{len(site.body)}")
    if site.etag:
        request.send_header("ETag", site.etag)
    if site.length is not None:
        request.send_header("Content-Length", str(len(part) if site.length < 0 else site.length))
    request.end_headers()
    with suppress(ConnectionError):  # who asked has gone
        request.wfile.write(part[: site.cut.pop(0)] if site.cut else part)
    return None


@contextmanager
def serve() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(site, self)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()
