"""Features and true matches in the folders that IMP's published training reads.

Xue, Budvytis and Cipolla, CVPR 2023, arXiv:2304.14837. Files are NumPy's, each a pickled dictionary, as there; KIND is
"spp" (SuperPoint) or "sift" (RootSIFT), or the name of another method:

    keypoints_KIND/SCENE/IMAGE_KIND.npy    keypoints (N, 2), scores (N,), descriptors (N, D), image_size (H, W, C)
    matches_sep_KIND/SCENE/NUMBER.npy      paths, intrinsics and poses of both images; matched_ids1, matched_ids2
    nmatches_KIND/SCENE_KIND.npy           the number of pairs of this scene
    mega_scene_nmatches_KIND.npy           the number of pairs of every scene
    made_by_KIND.json                      the local features, which only vpr writes
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpr.core import DataError, Floats, Rows
from vpr.datasets.pickled_arrays import read_dictionary

KINDS = {"superpoint": "spp", "rootsift": "sift"}  # names of local features there; others keep ours


@dataclass(frozen=True)
class DumpFiles:
    """Where the files of a dump are."""

    root: Path
    kind: str

    def counts(self) -> Path:
        return self.root / f"mega_scene_nmatches_{self.kind}.npy"

    def count(self, scene: str) -> Path:
        return self.root / f"nmatches_{self.kind}" / f"{scene}_{self.kind}.npy"

    def matches(self, scene: str, number: int) -> Path:
        return self.root / f"matches_sep_{self.kind}" / scene / f"{number}.npy"

    def keypoints(self, scene: str, image: str) -> Path:
        return self.root / f"keypoints_{self.kind}" / scene / f"{image}_{self.kind}.npy"

    def made_by(self) -> Path:
        return self.root / f"made_by_{self.kind}.json"


@dataclass(frozen=True, eq=False)
class DumpedFeatures:
    """Local features of one image."""

    keypoints: Floats  # (N, 2) x, y in pixels of the stored image
    scores: Floats  # (N,)
    descriptors: Floats  # (N, D)
    image_size: tuple[int, int]  # width, height of the stored image


@dataclass(frozen=True, eq=False)
class DumpedPair:
    """True matches of two images."""

    images: tuple[str, str]  # names of the files
    matches: Rows  # (M, 2) rows of the keypoints of both


def read_counts(files: DumpFiles) -> dict[str, int]:
    """The number of pairs of each scene that has any."""
    path = files.counts()
    counts = {str(scene): _whole_number(count, path) for scene, count in read_dictionary(path).items()}
    if not any(counts.values()):
        raise DataError(f"{path}: counts no pair of any scene; the dump is empty")
    return {scene: count for scene, count in counts.items() if count}


def read_pair(files: DumpFiles, scene: str, number: int) -> DumpedPair:
    path = files.matches(scene, number)
    entry = read_dictionary(path)
    names = tuple(_name(_entry(entry, f"image_path{side}", path), path) for side in (1, 2))
    sides = [_rows(_entry(entry, f"matched_ids{side}", path), path) for side in (1, 2)]
    if len(sides[0]) != len(sides[1]):
        raise DataError(f"{path}: {len(sides[0])} and {len(sides[1])} matched keypoints; they have to be as many")
    if any(len(np.unique(side)) < len(side) for side in sides):
        raise DataError(f"{path}: matches a keypoint twice")
    return DumpedPair((names[0], names[1]), np.stack(sides, axis=1))


def read_features(path: Path) -> DumpedFeatures:
    entry = read_dictionary(path)
    keypoints, scores, descriptors = (
        _numbers(_entry(entry, key, path), dimensions, key, path)
        for key, dimensions in (("keypoints", 2), ("scores", 1), ("descriptors", 2))
    )
    if keypoints.shape[1] != 2 or not len(keypoints) == len(scores) == len(descriptors):
        shapes = ", ".join(str(each.shape) for each in (keypoints, scores, descriptors))
        raise DataError(f"{path}: keypoints, scores and descriptors are {shapes}; expected (N, 2), (N,) and (N, D)")
    size = _numbers(_entry(entry, "image_size", path), 1, "image_size", path)
    if len(size) < 2 or (size[:2] < 1).any():
        raise DataError(f"{path}: image_size is {size.tolist()}; expected height, width and channels")
    return DumpedFeatures(keypoints, scores, descriptors, (int(size[1]), int(size[0])))


def _entry(entry: dict[Any, Any], key: str, path: Path) -> Any:
    if key not in entry:
        raise DataError(f"{path}: has no {key!r}; it holds {', '.join(sorted(map(str, entry))) or 'nothing'}")
    return entry[key]


def _name(value: Any, path: Path) -> str:
    name = PurePosixPath(str(value)).name
    if not isinstance(value, str) or not name:
        raise DataError(f"{path}: {value!r} is not the path of an image")
    return name


def _whole_number(value: Any, path: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise DataError(f"{path}: {value!r} is not a number of pairs")
    return int(value)


def _rows(value: Any, path: Path) -> Rows:
    rows = np.asarray(value)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu") or (rows < 0).any():
        raise DataError(f"{path}: matched keypoints are no list of row numbers")
    return rows.astype(np.int64)


def _numbers(value: Any, dimensions: int, key: str, path: Path) -> NDArray[np.float32]:
    try:
        numbers = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        raise DataError(f"{path}: {key} are not numbers") from None
    if numbers.ndim != dimensions or not np.isfinite(numbers).all():
        raise DataError(f"{path}: {key} of shape {numbers.shape} are not finite numbers in {dimensions} dimensions")
    return numbers
