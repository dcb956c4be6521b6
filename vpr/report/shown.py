"""shown_matches.npz: the matches behind the page's images, so that it can be made again without a network."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from vpr.core import DataError, Dataset, Floats, Image, ImageError, ImageSet
from vpr.images import read_image, resize
from vpr.report.drawing import Correspondences, Points
from vpr.report.gallery import Drawn, Pictures
from vpr.runtime.files import write_atomically

FILE_NAME = "shown_matches.npz"
ROLES = ("query", "database")

Sizes = dict[tuple[str, int], tuple[int, int]]  # (role, row) -> width, height
Found = dict[tuple[int, int], Correspondences]  # (query row, database row)


class Recorder:
    """Passes images and matches on and remembers what was asked for."""

    def __init__(self, pictures: Pictures, correspondences: Drawn) -> None:
        self._pictures = pictures
        self._correspondences = correspondences
        self.sizes: Sizes = {}
        self.found: Found = {}

    def picture(self, role: str, row: int) -> Image | None:
        image = self._pictures(role, row)
        if image is not None:
            self.sizes[role, row] = (image.shape[1], image.shape[0])
        return image

    def correspondences(self, query: int, candidate: int) -> Correspondences | None:
        if (query, candidate) not in self.found:
            matches = self._correspondences(query, candidate)
            if matches is None:
                return None
            self.found[query, candidate] = matches
        return self.found[query, candidate]


def write_shown(path: Path, sizes: Sizes, found: Found) -> None:
    matches = list(found.values())
    keypoints = [
        np.zeros((0, 2), np.float32) if points is None else points
        for each in matches
        for points in (each.query_keypoints, each.candidate_keypoints)
    ]
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        pictures=np.array([[ROLES.index(role), row, *size] for (role, row), size in sizes.items()], dtype=np.int64),
        pairs=np.array(list(found), dtype=np.int64),
        offsets=np.cumsum([0, *(len(each.inliers) for each in matches)]),
        query_points=_points([each.query_points for each in matches]),
        candidate_points=_points([each.candidate_points for each in matches]),
        inliers=np.concatenate([np.zeros(0, dtype=np.bool_), *(each.inliers for each in matches)]),
        confidences=np.concatenate([np.zeros(0, dtype=np.float32), *map(_confidences, matches)]),
        keypoint_offsets=np.cumsum([0, *(len(points) for points in keypoints)]),
        keypoints=_points(keypoints),
    )
    write_atomically(path, buffer.getvalue())


def read_shown(path: Path) -> tuple[Sizes, Found]:
    """Returns what ``write_shown`` wrote; nothing if there is no such file. Raises DataError for a damaged one."""
    if not path.exists():
        return {}, {}
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        bounds = arrays["offsets"]
        sizes: Sizes = {
            (ROLES[role], row): (width, height)
            for role, row, width, height in arrays["pictures"].reshape(-1, 4).tolist()
        }
        found: Found = {}
        pairs = arrays["pairs"].reshape(-1, 2).tolist()
        for place, (query, candidate) in enumerate(pairs):
            own = slice(bounds[place], bounds[place + 1])
            points = arrays["query_points"][own], arrays["candidate_points"][own]
            more = _shown_more(arrays, place, own) if "confidences" in arrays else ()  # not in earlier versions' files
            found[query, candidate] = Correspondences(*points, arrays["inliers"][own], *more)
    except (BadZipFile, OSError, KeyError, ValueError, IndexError) as error:
        raise DataError(f"{path}: damaged: {error}; delete it and make the report again without match lines") from None
    return sizes, found


def _confidences(matches: Correspondences) -> Floats:
    """NaN where they are not known."""
    if matches.confidences is None:
        return np.full(len(matches.inliers), np.nan, np.float32)
    return matches.confidences.astype(np.float32)


def _shown_more(
    arrays: Mapping[str, NDArray[Any]], place: int, own: slice
) -> tuple[Floats | None, Floats | None, Floats | None]:
    """Confidences of a pair's matches and keypoints of both images; None where they are not known or not shown."""
    confidences, bounds = arrays["confidences"][own], arrays["keypoint_offsets"]
    both = [arrays["keypoints"][bounds[i] : bounds[i + 1]] for i in (2 * place, 2 * place + 1)]
    shown = any(map(len, both))
    known = None if np.isnan(confidences).any() else confidences
    return known, both[0] if shown else None, both[1] if shown else None


def pictures_of(dataset: Dataset, sizes: Mapping[tuple[str, int], tuple[int, int]]) -> Pictures:
    """Images read from where the data set lies, at the sizes the matches refer to."""
    sides: dict[str, ImageSet] = {"query": dataset.queries, "database": dataset.database}

    def picture(role: str, row: int) -> Image | None:
        try:
            image = read_image(sides[role].path(row), "rgb")
        except ImageError:
            return None
        return resize(image, sizes.get((role, row), (image.shape[1], image.shape[0])))

    return picture


def _points(arrays: Sequence[Points]) -> Points:
    points: Points = np.concatenate([np.zeros((0, 2), dtype=np.float32), *arrays])  # as precise as they are
    return points
