"""Work that is cut into units, which this process computes, or others on this and on other machines."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vpr.core import DataError

Methods = TypeVar("Methods")
Methods_contra = TypeVar("Methods_contra", contravariant=True)

_FAILED = "failed images"


@dataclass(frozen=True, eq=False)
class Computed:
    """What came of a unit."""

    arrays: Mapping[str, NDArray[Any]]
    failed: Mapping[int, str] = field(default_factory=dict)  # reason by place in the unit

    def to_bytes(self) -> bytes:
        reasons = json.dumps({str(place): reason for place, reason in self.failed.items()}).encode()
        arrays = {name: np.asarray(array, order="C") for name, array in self.arrays.items()}
        return save({**arrays, _FAILED: np.frombuffer(reasons, np.uint8)})

    @staticmethod
    def of_bytes(data: bytes) -> Computed:
        """What ``to_bytes`` made. Raises DataError for anything else."""
        try:
            arrays = load(data)
            reasons = json.loads(arrays.pop(_FAILED).tobytes())
        except (SafetensorError, KeyError, ValueError) as error:
            raise DataError(f"not the result of a unit of work ({error})") from None
        return Computed(arrays, {int(place): reason for place, reason in reasons.items()})


class WorkUnit(Protocol[Methods_contra]):
    """A part of a job, small enough to be computed again if its process dies."""

    @property
    def key(self) -> str:
        """A digest of everything on which the result depends."""

    def compute(self, methods: Methods_contra) -> Computed:
        """The result. An image that cannot be used is named in it, and costs no other image."""


class Workers(Protocol):
    """Processes that compute units."""

    threads: int  # of the processor that each of them has

    def compute(
        self, build: Callable[[], Methods], units: Sequence[WorkUnit[Methods]], *, kept: int = 1
    ) -> Generator[Computed, None, None]:
        """The result of each unit, in order. Each process calls ``build`` once, for the methods of all its units.

        What the last ``kept`` units gave is kept until the end, so that a job that is killed before it has stored them
        finds them again.
        """


def in_parts(count: int, size: int) -> list[range]:
    """The numbers below ``count`` in parts of ``size``; the last may have fewer."""
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def require_folder(folder: Path) -> None:
    """Raise DataError if a machine that computes units has no such folder."""
    if not folder.is_dir():
        raise DataError(
            f"{folder}: not on {socket.gethostname()}; every machine of the cluster needs it at the same path"
        )
