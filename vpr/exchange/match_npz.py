"""The npz of a matched pair, with the keys that SuperGlue's match_pairs gives it, and some of our own.

| key | value |
| --- | --- |
| keypoints0, keypoints1 | (N, 2), (M, 2) float32 x, y in pixels; the centre of the top-left pixel is (0, 0) |
| matches | (N,) int64 row in keypoints1 of each row in keypoints0, -1 for none |
| match_confidence | (N,) float32 in [0, 1], 0 for none |
| inliers | (N,) bool: matches that one geometry explains |
| model, geometry | (3, 3) float64 from the first image to the second, (0, 0) if none; "fundamental" or "homography" |
| score | how much speaks for one place |
| turns | (2,) quarter turns, counter-clockwise, of the stored images before they were matched |
| sizes | (2, 2) width, height of the images that the keypoints lie in |
| origin | digest of all that made the file |
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from vpr.core import DataError, Doubles, Floats, Rows
from vpr.runtime.files import require_file, write_atomically

T = TypeVar("T", bound=np.generic)
MAX_BYTES = 1 << 30  # that a file may unpack to


@dataclass(frozen=True, eq=False)
class PairFile:
    """What a file holds; see the module's text."""

    keypoints0: Floats
    keypoints1: Floats
    matches: Rows
    match_confidence: Floats
    inliers: NDArray[np.bool_]
    model: Doubles
    geometry: str
    score: float
    turns: tuple[int, int]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    origin: str

    def __post_init__(self) -> None:
        count = len(self.keypoints0)
        shapes = (self.matches.shape, self.match_confidence.shape, self.inliers.shape)
        if self.keypoints0.shape != (count, 2) or self.keypoints1.shape != (len(self.keypoints1), 2):
            raise ValueError("keypoints are not (N, 2)")
        if set(shapes) != {(count,)}:
            raise ValueError(f"matches, match_confidence and inliers of shapes {shapes} for {count} keypoints")
        if count and not -1 <= self.matches.min() <= self.matches.max() < max(len(self.keypoints1), 0):
            raise ValueError(
                f"matches name keypoints that the second image, with {len(self.keypoints1)}, does not have"
            )

    def pairs(self) -> Rows:
        """(K, 2) rows of the matched keypoints in the first and in the second image."""
        first = np.flatnonzero(self.matches >= 0)
        return np.stack([first, self.matches[first]], axis=1)


def dense(pairs: Rows, values: NDArray[T], count: int, fill: float) -> NDArray[T]:
    """Values (K,) of matches as an array (count,) over the keypoints of the first image."""
    spread = np.full(count, fill, dtype=values.dtype)
    spread[pairs[:, 0]] = values
    return spread


def write_pair(path: Path, pair: PairFile) -> None:
    """Write a file."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {field.name: np.asarray(getattr(pair, field.name)) for field in fields(pair)}
    np.savez(buffer, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def read_pair(path: Path) -> PairFile:
    """Read a file. Raises DataError if it is missing, damaged, or lacks a key."""
    try:
        with zipfile.ZipFile(require_file(path)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise ValueError("it unpacks to more than 1 GiB")
        with np.load(path) as file:
            arrays = {field.name: file[field.name] for field in fields(PairFile)}
        turns, sizes = arrays["turns"].reshape(2).tolist(), arrays["sizes"].reshape(2, 2).tolist()
        return PairFile(
            **{name: arrays[name] for name in ("keypoints0", "keypoints1", "matches", "match_confidence", "model")},
            inliers=arrays["inliers"].astype(bool),
            geometry=str(arrays["geometry"]),
            score=float(arrays["score"]),
            turns=(turns[0], turns[1]),
            sizes=((sizes[0][0], sizes[0][1]), (sizes[1][0], sizes[1][1])),
            origin=str(arrays["origin"]),
        )
    except FileNotFoundError:
        raise DataError(f"{path}: no such file of matches") from None
    except (BadZipFile, OSError, KeyError, ValueError, TypeError, EOFError) as error:
        raise DataError(f"{path}: not a file of matches, or damaged: {error}; delete it and match again") from None


def origin_of(path: Path) -> str | None:
    """What made a file; None if there is none, or none that is whole."""
    try:
        return read_pair(path).origin
    except DataError:
        return None
