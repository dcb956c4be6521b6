"""The page of a map: its files, what it is told, and what a browser may load for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from vpr.core import ConfigError

FOLDER = Path(__file__).parent / "page"
LIBRARY = ("vendor/leaflet.js", "vendor/leaflet.css")  # put there by `make page`
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HOST = re.compile(r"[A-Za-z0-9.:{}\[\]-]+")


@dataclass(frozen=True)
class Tiles:
    """Where the page loads the tiles of its map. Raises ConfigError for an address that is none of tiles."""

    url: str  # with {z}, {x}, {y}, and {s} for one of the hosts a, b, c
    attribution: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        lacking = [part for part in ("{z}", "{x}", "{y}") if part not in self.url]
        if parts.scheme not in ("http", "https") or not _HOST.fullmatch(parts.netloc) or lacking:
            raise ConfigError(
                f"--tiles {self.url!r}: give the address of tiles, as https://tiles.example/{{z}}/{{x}}/{{y}}.png"
            )

    @property
    def origin(self) -> str:
        """What a browser is told that it may load images from."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.replace('{s}', '*')}"


def page_files(folder: Path = FOLDER) -> dict[str, Path]:
    """The files that a browser may ask for, by name."""
    found = (*folder.glob("*"), *folder.glob("vendor/*"))
    return {path.relative_to(folder).as_posix(): path for path in found if path.suffix in MEDIA_TYPES}


def has_library(folder: Path = FOLDER) -> bool:
    """Whether Leaflet is there; without it the page draws positions on a plain ground."""
    return all((folder / name).is_file() for name in LIBRARY)


def content_policy(tiles: Tiles | None) -> str:
    """The Content-Security-Policy of the page: its own scripts, and images of the server and of the tiles."""
    images = "img-src 'self' blob: data:" + ("" if tiles is None else f" {tiles.origin}")
    own = "script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'none'; base-uri 'none'"
    return f"default-src 'none'; {own}; {images}; frame-ancestors 'none'"
