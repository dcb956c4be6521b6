"""Ask a server from Python: ``vpr.Client("http://127.0.0.1:8000").locate("photo.jpg")``."""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

from vpr.core import ConfigError, DataError, ImageError, SearchError, VprError
from vpr.datasets.placed import Position
from vpr.images import ImageLike, as_image
from vpr.maps import Answer, Candidate

_ERRORS: Mapping[str, type[VprError]] = {
    "ConfigError": ConfigError,
    "ImageError": ImageError,
    "SearchError": SearchError,
}
_MOST_BYTES = 64_000_000  # of an answer


class Client:
    """A server's map. Raises ConfigError for an address or a token that can be none.

    The methods raise ImageError, ConfigError or DataError with the sentence of the server, and DataError where no
    server answers.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout_s: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._token = (token or "").strip()  # a file often ends with a newline
        if not all("!" <= each <= "~" for each in self._token):
            raise ConfigError("token: expected letters, digits and signs of ASCII without a space")
        self._opener = _opener(_host(url))

    def locate(
        self,
        photo: ImageLike,
        *,
        near: tuple[float, float] | None = None,
        radius_m: float | None = None,
        since: str | None = None,
        until: str | None = None,
        k: int | None = None,
        rotations: Sequence[int] = (0,),
    ) -> Answer:
        """Where a photograph was taken, as ``Map.locate`` answers it."""
        fields: dict[str, Any] = {
            **_degrees(near, "near"),
            "radius_m": radius_m,
            "since": since,
            "until": until,
            "k": k,
        }
        fields["rotations"] = ",".join(map(str, rotations)) if tuple(rotations) != (0,) else None
        return answer_of(self._send("POST", "/v1/locate", *form_of(photo, fields)))

    def add(
        self,
        photo: ImageLike,
        name: str,
        *,
        position: tuple[float, float] | None = None,
        heading: float | None = None,
        time: str | None = None,
        group: str = "",
    ) -> dict[str, Any]:
        """Add an image at a latitude and longitude; returns what the map then knows of it. Needs the token."""
        fields = {**_degrees(position, "position"), "name": name, "heading": heading, "time": time, "group": group}
        added: dict[str, Any] = self._send("POST", "/v1/images", *form_of(photo, fields))
        return added

    def remove(self, name: str) -> None:
        """Remove an image by name. Needs the token."""
        self._send("DELETE", f"/v1/images/{quote(name)}")

    def _send(self, method: str, address: str, body: bytes | None = None, content_type: str = "") -> Any:
        headers = {"Accept": "application/json"}
        if content_type:
            headers["Content-Type"] = content_type
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = Request(self.url + address, body, headers, method=method)
        try:
            with self._opener.open(request, timeout=self.timeout_s) as response:
                data = response.read(_MOST_BYTES)
        except HTTPError as error:
            with error:
                raise _of_problem(self.url, error.code, error.read(_MOST_BYTES)) from None
        except (URLError, OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise DataError(f"{self.url}: no answer ({reason}); does `vpr serve` run there?") from None
        try:
            return json.loads(data) if data else None
        except ValueError:
            raise _no_server(self.url) from None


def answer_of(table: Any) -> Answer:
    """The answer that ``Answer.to_json`` wrote; raises DataError for anything else."""
    try:
        about = {**table}
        held = about.pop("map")
        candidates = tuple(
            Candidate(**{**each, "position": _position(each["position"])}) for each in about.pop("candidates")
        )
        place = _position(about.pop("position"))
        return Answer(position=place, candidates=candidates, version=held["version"], images=held["images"], **about)
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(f"no answer of this version of vpr ({error!r}); the server may run another") from None


def _position(table: Mapping[str, Any] | None) -> Position | None:
    return None if table is None else Position(**table)


def _of_problem(url: str, status: int, data: bytes) -> VprError:
    """The error that a server answered."""
    try:
        problem = json.loads(data)
        sentence, kind = str(problem["detail"]), str(problem.get("error", ""))
    except (ValueError, TypeError, KeyError, AttributeError):
        return DataError(f"{url}: answered with status {status} and no reason; is it a server of vpr?")
    return _ERRORS.get(kind, DataError)(f"{url}: {sentence}")


def _no_server(url: str) -> DataError:
    return DataError(f"{url}: the answer is not JSON; is it a server of vpr?")


def _degrees(place: tuple[float, float] | None, name: str) -> dict[str, float]:
    if place is None:
        return {}
    if len(place) != 2:
        raise ConfigError(f"{name} = {place}: give latitude and longitude in degrees")
    return {"lat": place[0], "lon": place[1]}


def form_of(photo: ImageLike, fields: Mapping[str, Any]) -> tuple[bytes, str]:
    """A multipart form with an image, and its content type."""
    boundary = uuid.uuid4().hex
    lines = []
    for name, value in fields.items():
        if value is not None and value != "":
            lines += [f"--{boundary}", f'Content-Disposition: form-data; name="{name}"', "", str(value)]
    lines += [f"--{boundary}", 'Content-Disposition: form-data; name="image"; filename="image"', "", ""]
    body = "\r\n".join(lines).encode() + _bytes_of(photo) + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


def _bytes_of(photo: ImageLike) -> bytes:
    """A file as it is, or an array or a PIL image as PNG. Raises ImageError."""
    if isinstance(photo, str | os.PathLike):
        path = Path(photo)
        try:
            if not path.is_file():
                raise ImageError(f"{path}: no such image")
            return path.read_bytes()
        except OSError as error:
            raise ImageError(f"{path}: cannot be read: {error.strerror}") from None
    import cv2

    return cv2.imencode(".png", as_image(photo, "rgb")[..., ::-1])[1].tobytes()


class _NoRedirect(HTTPRedirectHandler):
    """The token is for one server alone."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _host(url: str) -> str:
    """The host of a server; raises ConfigError for an address that is none of a server."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            return parts.hostname
    except ValueError:  # of brackets that do not close
        pass
    raise ConfigError(f"url {url!r}: give the address of a server, as http://127.0.0.1:8000")


def _opener(host: str) -> OpenerDirector:
    """What sends requests; to this machine itself never by a proxy."""
    try:
        own = ipaddress.ip_address(host).is_loopback
    except ValueError:
        own = host == "localhost"
    return build_opener(_NoRedirect, *([ProxyHandler({})] if own else []))
