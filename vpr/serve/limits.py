"""What one request may cost the server."""

from __future__ import annotations

from dataclasses import dataclass

from vpr.core import ConfigError


@dataclass(frozen=True)
class Limits:
    """Raises ConfigError for limits that would refuse every request."""

    upload_bytes: float = 20e6  # of a whole request
    megapixels: float = 50.0  # of an image
    seconds: float = 30.0  # to send a request, and again to answer it
    waiting: int = 32  # requests that wait for the methods, the running one included
    connections: int = 256  # open at once

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ConfigError(f"limit {name} = {value}: give a number above 0")
