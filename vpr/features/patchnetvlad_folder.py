"""A folder of features as Patch-NetVLAD's feature_extract.py writes it, read in place.

``globalfeats.npy`` holds the (N, D) global descriptors in the order of the image list, and
``patchfeats_psize<size>_<image name without folder and suffix>.npy`` the (D, P) patch descriptors of one image.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vpr.config import fingerprint
from vpr.core import DataError, Floats, ImageSet
from vpr.features.rows import RowSequence
from vpr.global_descriptors.patches import PatchFeatures, PatchGrid

GLOBAL_FILE = "globalfeats.npy"
UNIT = 1e-3  # largest deviation of a row's length from 1


class PatchNetVladFolder(RowSequence[PatchFeatures]):
    """Global descriptors and, for the given grids, patch descriptors of the images of a list.

    Raises DataError for files that are missing or damaged, or that do not fit the list or the grids.
    """

    kind = "Patch-NetVLAD's features"

    def __init__(self, folder: Path, images: ImageSet, grids: Sequence[PatchGrid], image_size: tuple[int, int]) -> None:
        self.folder = folder
        self.grids = tuple(grids)
        self.image_size = image_size  # width, height of the image that the patches lie in
        self._vectors = _global_descriptors(folder / GLOBAL_FILE, images)
        self._stems = [PurePosixPath(name).stem for name in images.names]
        if self.grids:
            self._require_patches(images)
        self.keys = tuple(map(self._key, range(len(self))))

    @staticmethod
    def lies_in(folder: Path) -> bool:
        return (folder / GLOBAL_FILE).is_file()

    @property
    def dim(self) -> int:
        return int(self._vectors.shape[1])

    @property
    def fingerprint(self) -> str:
        """Of what is known of the settings: the files do not say which weights made them."""
        sizes = [[grid.size, grid.stride, grid.rows, grid.columns] for grid in self.grids]
        return fingerprint({"kind": self.kind, "dim": self.dim, "grids": sizes})

    def __len__(self) -> int:
        return len(self._vectors)

    def _row(self, row: int) -> PatchFeatures:
        read = [self._patches(row, grid) for grid in self.grids]
        return PatchFeatures(self.grids, tuple(torch.from_numpy(each.T.copy()) for each in read), self.image_size)

    def blocks(self) -> Iterator[Floats]:
        """The global descriptors, (n, D) float32 each."""
        yield self._vectors

    def matrix(self) -> Floats:
        """(N, D) float32, all of it."""
        return self._vectors

    def bytes_on_disk(self) -> int:
        patches = sum(self._file(row, grid).stat().st_size for row in range(len(self)) for grid in self.grids)
        return patches + (self.folder / GLOBAL_FILE).stat().st_size

    def _file(self, row: int, grid: PatchGrid) -> Path:
        return self.folder / f"patchfeats_psize{grid.size}_{self._stems[row]}.npy"

    def _patches(self, row: int, grid: PatchGrid) -> NDArray[np.float32]:
        """(D, P) of one image and one grid."""
        return _array(self._file(row, grid), (self.dim, len(grid)))

    def _key(self, row: int) -> str:
        """Of an image's global descriptor and of its files' sizes and times, since hashing them would take hours."""
        digest = hashlib.blake2b(self._vectors[row].tobytes(), digest_size=16)
        for grid in self.grids:
            status = self._file(row, grid).stat()
            digest.update(f"{grid.size} {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _require_patches(self, images: ImageSet) -> None:
        """Raise DataError for a file that is absent, and for images that share one, of which the last was kept."""
        stem, count = Counter(self._stems).most_common(1)[0]
        if count > 1:
            rows = [row for row, each in enumerate(self._stems) if each == stem]
            raise DataError(
                f"{self.folder}: {images.names[rows[0]]} and {images.names[rows[1]]} have one file of patch "
                "descriptors, since only the file name is in its name; extract the features with vpr"
            )
        absent = [
            file for row in range(len(self)) for grid in self.grids if not (file := self._file(row, grid)).exists()
        ]
        if absent:
            raise DataError(
                f"{absent[0]}: no such file ({len(absent)} of {len(self) * len(self.grids)} files of patch descriptors "
                "are absent); give the config that made the folder, or the list that it was made from"
            )


def _global_descriptors(path: Path, images: ImageSet) -> Floats:
    vectors = _array(path, (len(images), None))
    lengths = np.linalg.norm(vectors, axis=1)
    odd = np.flatnonzero(~(np.abs(lengths - 1) <= UNIT))
    if len(odd):
        raise DataError(
            f"{path}: row {odd[0]}, {images.names[odd[0]]}, has the length {lengths[odd[0]]:.3g} instead of 1 "
            f"({len(odd)} such rows); extract the features again"
        )
    return vectors


def _array(path: Path, shape: tuple[int, int | None]) -> NDArray[np.float32]:
    """A float32 matrix of that shape, whose second number may be open; its header is checked before it is read."""
    try:
        mapped: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a readable .npy file: {error}") from None
    wanted = " x ".join("any" if side is None else str(side) for side in shape)
    fits = mapped.ndim == 2 and mapped.shape[0] == shape[0] and shape[1] in (None, mapped.shape[1])
    if not fits or mapped.dtype.kind != "f":
        raise DataError(
            f"{path}: {mapped.dtype} of shape {' x '.join(map(str, mapped.shape))}; for this list and config floats of "
            f"shape {wanted} are expected"
        )
    return np.ascontiguousarray(mapped, dtype=np.float32)
