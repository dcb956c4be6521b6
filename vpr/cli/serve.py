"""``vpr serve``: a map over HTTP."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from pathlib import Path
from typing import Annotated

import typer

from vpr.cli.common import say
from vpr.core import ConfigError, DataError

logger = logging.getLogger(__name__)

TOKEN_VARIABLE = "VPR_TOKEN"
_SHORTEST_TOKEN = 16  # characters
_NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def serve(
    city: Annotated[Path, typer.Argument(metavar="CITY", help="The folder of the map.")],
    *,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is reached from other machines.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="0 for one that is free.", min=0, max=65535)] = 8000,
    images: Annotated[Path | None, typer.Option(help="The folder of the map's images, for thumbnails.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help=f"Its text allows adding and removing; else the variable {TOKEN_VARIABLE}.")
    ] = None,
    upload_mb: Annotated[float, typer.Option(help="Most megabytes of a request.")] = 20.0,
    megapixels: Annotated[float, typer.Option(help="Most megapixels of an image.")] = 50.0,
    seconds: Annotated[float, typer.Option(help="Most seconds to send a request, and again to answer it.")] = 30.0,
    waiting: Annotated[int, typer.Option(help="Most requests that wait for the methods; more get status 503.")] = 32,
    tiles: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Tiles of the page's map: https://tiles.example/{z}/{x}/{y}.png; else none."),
    ] = None,
    attribution: Annotated[str, typer.Option(help="Whose the tiles are; the page shows it.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
) -> None:
    """A map over HTTP and as a page for browsers; needs the extra `serve`."""
    _require_packages()
    from vpr.maps import Map
    from vpr.serve.app import create_app
    from vpr.serve.limits import Limits
    from vpr.serve.page_files import Tiles, has_library
    from vpr.serve.service import Service

    limits = Limits(upload_mb * 1e6, megapixels, seconds, waiting)
    token = read_token(token_file)
    if images is not None and not images.is_dir():
        raise DataError(f"{images}: no such folder; give --images the folder of the map's images")
    with Map(city.resolve(), device=device) as held:
        ground = None if tiles is None else Tiles(tiles, attribution)
        service = Service(held, limits, token, None if images is None else images.resolve(), ground)
        held.engine  # noqa: B018  a weight that is missing is said now, and the first question need not wait
        with _listening(host, port) as listener:
            address = _address(listener)
            say(f"{len(held)} images at {address}; open it in a browser, or see {address}/docs. Ctrl+C ends it")
            if not has_library():
                lacking = "" if tiles is None else ", without tiles"
                logger.warning("Leaflet is missing, so the page has a plain ground%s; `make page` adds it", lacking)
            if not _is_loopback(host):
                logger.warning("other machines can ask this map; put a proxy with TLS and a login before it")
            _run(create_app(service), listener, limits.connections)


def read_token(path: Path | None) -> str | None:
    """The token in a file, else in the variable VPR_TOKEN; None if there is none.

    Raises ConfigError for one that could be guessed or not be sent.
    """
    if path is not None:
        try:
            token, where = path.read_text(encoding="utf-8").strip(), str(path)
        except UnicodeDecodeError:
            raise ConfigError(f"{path}: not a text; write the token into it") from None
    else:
        token, where = os.environ.get(TOKEN_VARIABLE, "").strip(), TOKEN_VARIABLE
        if not token:
            return None
    if len(token) < _SHORTEST_TOKEN or not all("!" <= each <= "~" for each in token):
        raise ConfigError(
            f"{where}: a token has {_SHORTEST_TOKEN} or more letters, digits or signs of ASCII and no space; "
            "`openssl rand -hex 32` makes one"
        )
    return token


def _require_packages() -> None:
    from importlib.util import find_spec

    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(f"`vpr serve` needs {', '.join(missing)}: pip install 'vpr[serve]'")


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens; raises ConfigError for an address that cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--host {host} --port {port}: {reason}; choose another") from None


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _run(app: object, listener: socket.socket, connections: int) -> None:
    import uvicorn

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        limit_concurrency=connections,
        timeout_graceful_shutdown=10,
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a form that cannot be read is the sender's matter
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        logger.info("ended")
