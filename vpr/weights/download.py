"""Download published weights: over TLS only, resumed after an interruption, moved into place when complete.

The bytes received so far are kept in ``.<file>.part``, and the server's ETag of the file in ``.<file>.part.etag``: if
the server has another version by then, or gives no ETag, the download starts again.
"""

from __future__ import annotations

import http.client
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from vpr.runtime.files import exclusive_lock, sync_folder
from vpr.weights.checkpoint import WeightsError, read_checkpoint, sha256_of
from vpr.weights.finding import absent, cache_folder, record
from vpr.weights.manifest import Entry

CHUNK = 1 << 20  # bytes
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def fetch(entry: Entry, timeout_s: float = 30.0) -> Path:
    """Download into the cache folder, check, record the hash, and return the file.

    Raises WeightsError if the server cannot be reached or does not have it, if the transfer breaks off (what arrived
    stays, and the next call continues it), or if what came is not the file (it is deleted).
    """
    if not entry.url:
        raise absent(entry)
    _require_tls(entry.url)
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    target, partial = folder / entry.file, folder / f".{entry.file}.part"
    with _locked(partial) as file:
        if target.is_file():  # another process was quicker
            _discard(partial)
            return target
        with _explained(entry, folder):
            _receive(entry, file, _etag_of(partial), timeout_s)
        os.fsync(file.fileno())
        digest = sha256_of(partial)
        try:
            _require_right(entry, partial, digest)
        except WeightsError:
            _discard(partial)
            raise
        os.replace(partial, target)
        _discard(partial)
        sync_folder(folder)
    record(entry, digest)
    return target


def _receive(entry: Entry, file: BinaryIO, etag: Path, timeout_s: float) -> None:
    """Add what is missing to the end of the file."""
    have = file.seek(0, os.SEEK_END)
    version = etag.read_text(encoding="utf-8") if have and etag.exists() else ""
    with _open(entry.url, have if version else 0, version, timeout_s) as response:
        start, total = _span(response)
        if start not in (0, have):
            etag.unlink()  # so that the next call starts again
            raise http.client.HTTPException(f"the server sent byte {start} onwards, asked for {have}")
        if total is None and not entry.sha256:
            raise WeightsError(
                f"{entry.url}: the server does not say how long the file is and no hash of it is published, "
                "so nobody could tell whether it came whole; fetch it by other means"
            )
        if start == 0:
            file.truncate(0)
            etag.write_text(response.headers.get("ETag") or response.headers.get("Last-Modified") or "", "utf-8")
        with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=entry.file, disable=None) as bar:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    file.flush()
    size = file.seek(0, os.SEEK_END)
    if total is not None and size != total:
        raise http.client.HTTPException(f"{size} of {total} bytes arrived")


def _open(url: str, start: int, version: str, timeout_s: float) -> http.client.HTTPResponse:
    """Ask for the file from a byte on, if it still is that version, else for all of it."""
    headers = {"User-Agent": "vpr"}
    part = {"Range": f"bytes={start}-", "If-Range": version} if start else {}
    opener = build_opener(_TlsOnly)
    try:
        response: http.client.HTTPResponse = opener.open(Request(url, headers={**headers, **part}), timeout=timeout_s)
    except HTTPError as error:
        if not part or error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        response = opener.open(Request(url, headers=headers), timeout=timeout_s)
    return response


def _span(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """First byte of the response's body in the file, and the length of the whole file, if the server says."""
    if response.status != http.client.PARTIAL_CONTENT:
        return 0, response.length
    said = re.match(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if not said:
        raise http.client.HTTPException("the server does not say which part of the file it sends")
    return int(said[1]), int(said[2])


def _require_right(entry: Entry, path: Path, digest: str) -> None:
    if entry.sha256 and digest != entry.sha256:
        raise WeightsError(
            f"{entry.url}: what came has the sha256 {digest}, the published file {entry.sha256}; it is deleted. "
            "Try again; if that does not help, the file was replaced"
        )
    try:
        read_checkpoint(path)
    except WeightsError as error:
        raise WeightsError(f"{entry.url}: deleted what came: {str(error).removeprefix(f'{path}: ')}") from None


class _TlsOnly(HTTPRedirectHandler):
    """Follows redirections as long as they stay encrypted."""

    def redirect_request(  # noqa: PLR0917 - urllib's signature
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> Request | None:
        try:
            _require_tls(newurl)
        except WeightsError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_tls(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in THIS_MACHINE):
        raise WeightsError(f"{url}: not encrypted, so anybody on the way could replace the file; only https is fetched")


@contextmanager
def _explained(entry: Entry, folder: Path) -> Iterator[None]:
    """Turn the errors of a transfer into WeightsError."""
    by_hand = f"or put {entry.file} into {folder} by hand"
    try:
        yield
    except HTTPError as error:
        error.close()
        raise WeightsError(
            f"{entry.url}: the server answers {error.code} {error.reason}; try later, {by_hand}"
        ) from None
    except URLError as error:
        raise WeightsError(f"{entry.url}: cannot be reached ({error.reason}); try later, {by_hand}") from None
    except (TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException) as error:
        raise WeightsError(
            f"{entry.url}: the transfer broke off ({error or type(error).__name__}); "
            "run the command again to continue it"
        ) from None


@contextmanager
def _locked(partial: Path) -> Iterator[BinaryIO]:
    """The partial file, opened for adding to it by this process alone."""
    with exclusive_lock(partial) as locked:
        if not locked:
            raise WeightsError(f"{partial}: another process is fetching this file; wait for it to end")
        with partial.open("ab") as file:
            yield file


def _etag_of(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.etag")


def _discard(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _etag_of(partial).unlink(missing_ok=True)
