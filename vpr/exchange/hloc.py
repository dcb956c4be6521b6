"""Features and matches in the HDF5 files of hloc (Sarlin et al., CVPR 2019, github.com/cvg/Hierarchical-Localization).

| file | group | datasets |
| --- | --- | --- |
| local features | image name | keypoints (N, 2), scores (N,), descriptors (D, N), image_size (width, height) |
| global features | image name | global_descriptor (D,) |
| matches | both names, "/" in them as "-", joined by "/" | matches0 (N,) row or -1, matching_scores0 (N,) |

Keypoints are in pixels of the stored image, and the centre of the top-left pixel is (0, 0), as in vpr; hloc adds 0.5
where it hands them to COLMAP.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpr.core import ConfigError, DataError, Floats, Rows
from vpr.runtime.files import written_whole

MAX_BYTES = 1 << 30  # of one dataset, which may be compressed
GLOBAL = "global_descriptor"
KEYPOINTS = "keypoints"


@dataclass(frozen=True, eq=False)
class HlocFeatures:
    """Local features of one image."""

    keypoints: Floats  # (N, 2) x, y in pixels of the stored image
    scores: Floats  # (N,)
    descriptors: NDArray[Any]  # (N, D); hloc's files have them as (D, N)
    image_size: tuple[int, int]  # width, height of the stored image


def pair_key(first: str, second: str) -> str:
    """Name of the group of a pair."""
    return "/".join(name.replace("/", "-") for name in (first, second))


def write_features(path: Path, features: Iterable[tuple[str, HlocFeatures]]) -> None:
    """Write local features, image by image."""
    with _writing(path) as file:
        for name, each in features:
            group = file.create_group(name)
            group.create_dataset(KEYPOINTS, data=each.keypoints).attrs["uncertainty"] = 1.0
            group.create_dataset("scores", data=each.scores)
            group.create_dataset("descriptors", data=np.ascontiguousarray(each.descriptors.T))
            group.create_dataset("image_size", data=np.array(each.image_size, np.int64))


def write_descriptors(path: Path, descriptors: Iterable[tuple[str, Floats]]) -> None:
    """Write global descriptors (D,), image by image."""
    with _writing(path) as file:
        for name, each in descriptors:
            file.create_group(name).create_dataset(GLOBAL, data=each)


def write_matches(path: Path, matches: Iterable[tuple[str, str, Rows, Floats]]) -> None:
    """Write pairs: both names, the row of each keypoint's match or -1, and its confidence.

    Raises DataError for two pairs that would have one name.
    """
    with _writing(path) as file:
        for first, second, rows, scores in matches:
            key = pair_key(first, second)
            if key in file:
                raise DataError(f"{path}: the pair of {first!r} and {second!r} has the name {key!r} of another pair")
            group = file.create_group(key)
            kind = np.int16 if rows.max(initial=0) <= np.iinfo(np.int16).max else np.int32
            group.create_dataset("matches0", data=rows.astype(kind))
            group.create_dataset("matching_scores0", data=scores.astype(np.float16))


class HlocFile:
    """A file of features or matches, opened for reading; a context."""

    def __init__(self, path: Path) -> None:
        h5py = _library(path)
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise DataError(f"{path}: not an HDF5 file, or damaged: {error}") from None
        self.path = path

    def __enter__(self) -> HlocFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def names(self, dataset: str) -> list[str]:
        """Images that have a dataset, in the order of the file. Raises DataError if there are none."""
        found: list[str] = []

        def visit(name: str, _: object) -> None:
            group, _, last = name.rpartition("/")
            if last == dataset:
                found.append(group)

        self._file.visititems(visit)
        if not found:
            raise DataError(f"{self.path}: holds no {dataset}; give hloc's file of the other kind")
        return found

    def features(self, name: str) -> HlocFeatures:
        """Local features of an image; scores are 1 where the file has none. Raises DataError."""
        keypoints = self._array(f"{name}/{KEYPOINTS}").astype(np.float32)
        descriptors = self._array(f"{name}/descriptors").T
        size = self._array(f"{name}/image_size").reshape(-1).tolist()
        has_scores = f"{name}/scores" in self._file
        scores = self._array(f"{name}/scores").astype(np.float32) if has_scores else np.ones(len(keypoints), np.float32)
        count = len(keypoints)
        shapes = keypoints.shape == (count, 2) and scores.shape == (count,) and descriptors.ndim == 2
        if not shapes or len(descriptors) != count or len(size) != 2:
            raise DataError(
                f"{self.path}, image {name!r}: keypoints {keypoints.shape}, scores {scores.shape}, descriptors "
                f"{descriptors.T.shape} and image_size {size} do not describe one image"
            )
        self._require_finite(name, keypoints, descriptors, scores)
        return HlocFeatures(keypoints, scores, descriptors, (int(size[0]), int(size[1])))

    def descriptor(self, name: str) -> Floats:
        """(D,) global descriptor of an image. Raises DataError."""
        vector = self._array(f"{name}/{GLOBAL}").astype(np.float32).reshape(-1)
        self._require_finite(name, vector)
        return vector

    def matches(self, first: str, second: str) -> tuple[Rows, Floats]:
        """(K, 2) rows of matched keypoints and (K,) confidences, stored in either order. Raises DataError."""
        for names, step in (((first, second), 1), ((second, first), -1)):
            key = pair_key(*names)
            if f"{key}/matches0" in self._file:
                rows = self._array(f"{key}/matches0").astype(np.int64)
                scores = self._array(f"{key}/matching_scores0").astype(np.float32)
                if rows.ndim != 1 or scores.shape != rows.shape:
                    raise DataError(f"{self.path}, pair {key!r}: matches0 and matching_scores0 differ in shape")
                matched = np.flatnonzero(rows >= 0)
                return np.stack([matched, rows[matched]], axis=1)[:, ::step], scores[matched]
        raise DataError(f"{self.path}: no matches of {first!r} and {second!r}")

    def _array(self, key: str) -> NDArray[Any]:
        h5py = _library(self.path)
        found = self._file.get(key)
        if not isinstance(found, h5py.Dataset):
            raise DataError(f"{self.path}: no {key}; is this hloc's file of features?")
        if found.size * found.dtype.itemsize > MAX_BYTES or found.dtype.kind not in "fiu":
            raise DataError(f"{self.path}: {key} holds {found.dtype} {found.shape}; expected numbers, less than 1 GiB")
        try:
            array: NDArray[Any] = np.asarray(found[()])
        except OSError as error:
            raise DataError(f"{self.path}: {key} is damaged: {error}") from None
        return array

    def _require_finite(self, name: str, *arrays: NDArray[Any]) -> None:
        if not all(np.isfinite(array).all() for array in arrays):
            raise DataError(f"{self.path}, image {name!r}: holds numbers that are not finite")


def require_library() -> None:
    """Raise ConfigError if HDF5 files cannot be read and written here."""
    _library(Path())


def _library(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        where = "" if path == Path() else f"{path}: "
        raise ConfigError(f"{where}HDF5 files need h5py: pip install 'vpr[hdf5]'") from None
    return h5py


@contextmanager
def _writing(path: Path) -> Iterator[Any]:
    """A new HDF5 file that appears whole or not at all."""
    h5py = _library(path)
    with written_whole(path) as temporary, h5py.File(temporary, "w", libver="latest") as file:
        yield file
