"""Pairs with features and known poses in the HDF5 files of IMP and SGMNet, such as ``yfcc_sp_2000.hdf5``.

Chen et al., ICCV 2021 (SGMNet); Xue, Budvytis and Cipolla, CVPR 2023 (IMP). One group per quantity, in it one dataset
per pair, named by its number: K1, K2 (3, 3) intrinsics of the stored images, R (3, 3) and T (3,) or (3, 1) from the
first camera to the second, img_path1 and img_path2, kpt1 and kpt2 (N, 3) x, y and score in pixels of the stored images,
desc1 and desc2 (N, D). The groups e and f of the published files follow from these and are not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vpr.core import ConfigError, DataError, Doubles, Floats
from vpr.datasets.pose_pairs import PosePair, checked_pair
from vpr.datasets.tables import name_at
from vpr.runtime.files import require_file

GROUPS = ("K1", "K2", "R", "T", "img_path1", "img_path2", "kpt1", "kpt2", "desc1", "desc2")
MAX_BYTES = 1 << 28  # of one dataset, which may be compressed


@dataclass(frozen=True, eq=False)
class StoredKeypoints:
    """Local features of one image of a pair."""

    keypoints: Floats  # (N, 2) pixels of the stored image
    scores: Floats  # (N,); 1 where the file has none
    descriptors: Floats  # (N, D)


class PairsFile:
    """A file that is open for reading."""

    def __init__(self, path: Path) -> None:
        try:
            import h5py
        except ImportError:
            raise ConfigError(f"{path}: HDF5 files need h5py: pip install 'vpr[hdf5]'") from None
        self.path = path
        try:
            self._file = h5py.File(require_file(path), "r")
        except OSError as error:
            raise DataError(f"{path}: not an HDF5 file, or damaged: {error}") from None
        self._dataset, self._group = h5py.Dataset, h5py.Group
        self._numbers = self._pairs()

    def _pairs(self) -> list[str]:
        groups = {name: self._file.get(name) for name in GROUPS}
        missing = [name for name, group in groups.items() if not isinstance(group, self._group)]
        if missing:
            raise DataError(f"{self.path}: no group {', '.join(missing)}; expected a file such as yfcc_sp_2000.hdf5")
        numbers = sorted(groups["K1"], key=lambda name: (len(name), name))
        if not numbers:
            raise DataError(f"{self.path}: holds no pair")
        for name, group in groups.items():
            if set(group) != set(numbers):
                other = min(set(group) ^ set(numbers))
                raise DataError(f"{self.path}: pair {other} is not in all groups ({name} differs from K1); incomplete")
        return numbers

    def pose_pairs(self, images: Path) -> list[PosePair]:
        """The pairs in the order of their numbers; names of images are relative to ``images``."""
        return [self._pose_pair(number, images) for number in self._numbers]

    def features(self, row: int) -> tuple[StoredKeypoints, StoredKeypoints]:
        """Of both images of the pair in this row."""
        return self._features(self._numbers[row], "1"), self._features(self._numbers[row], "2")

    def _pose_pair(self, number: str, images: Path) -> PosePair:
        K1, K2, rotation = (self._array(f"{name}/{number}", (3, 3)) for name in ("K1", "K2", "R"))
        translation = self._array(f"T/{number}").reshape(-1)
        if translation.shape != (3,):
            raise DataError(f"{self.path}: T/{number} has {translation.size} numbers, expected 3")
        first, second = (images / self._name(f"img_path{side}/{number}") for side in "12")
        found = PosePair(first, second, K1, K2, rotation, translation, first.parent.parent.parent.name or "all")
        return checked_pair(found, f"{self.path}, pair {number}")

    def _features(self, number: str, side: str) -> StoredKeypoints:
        keypoints = self._array(f"kpt{side}/{number}").astype(np.float32)
        descriptors = self._array(f"desc{side}/{number}").astype(np.float32)
        whole = keypoints.ndim == descriptors.ndim == 2 and keypoints.shape[1] in (2, 3)
        if not whole or len(keypoints) != len(descriptors):
            raise DataError(
                f"{self.path}, pair {number}: kpt{side} {keypoints.shape} and desc{side} {descriptors.shape}; expected "
                "(N, 3) and (N, D)"
            )
        scores = keypoints[:, 2] if keypoints.shape[1] == 3 else np.ones(len(keypoints), np.float32)
        return StoredKeypoints(np.ascontiguousarray(keypoints[:, :2]), np.ascontiguousarray(scores), descriptors)

    def _name(self, key: str) -> str:
        found = self._read(key)
        value = np.asarray(found).reshape(-1)
        text = value[0] if value.size == 1 else b""
        name = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        return name_at(name, f"{self.path}, {key}")

    def _array(self, key: str, shape: tuple[int, ...] | None = None) -> Doubles:
        found = np.asarray(self._read(key))
        if found.dtype.kind not in "fiu":
            raise DataError(f"{self.path}: {key} holds {found.dtype}; expected numbers")
        array = found.astype(np.float64)
        if shape is not None and array.shape != shape:
            raise DataError(f"{self.path}: {key} has the shape {array.shape}, expected {shape}")
        if not np.isfinite(array).all():
            raise DataError(f"{self.path}: {key} holds numbers that are not finite")
        return array

    def _read(self, key: str) -> Any:
        found = self._file[key]
        if not isinstance(found, self._dataset) or found.size * max(found.dtype.itemsize, 1) > MAX_BYTES:
            raise DataError(f"{self.path}: {key} is no dataset of less than {MAX_BYTES >> 20} MiB")
        try:
            return found[()]
        except OSError as error:
            raise DataError(f"{self.path}: {key} is damaged: {error}") from None
