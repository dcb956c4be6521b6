"""shown_matches.npz: the matches behind the page's images, so that it can be made again without a network."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from vpr.core import DataError, Dataset, Image, ImageError, ImageSet
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
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        pictures=np.array([[ROLES.index(role), row, *size] for (role, row), size in sizes.items()], dtype=np.int64),
        pairs=np.array(list(found), dtype=np.int64),
        offsets=np.cumsum([0, *(len(each.inliers) for each in matches)]),
        query_points=_points([each.query_points for each in matches]),
        candidate_points=_points([each.candidate_points for each in matches]),
        inliers=np.concatenate([np.zeros(0, dtype=np.bool_), *(each.inliers for each in matches)]),
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
        for (query, candidate), start, end in zip(arrays["pairs"].reshape(-1, 2), bounds[:-1], bounds[1:], strict=True):
            points = arrays["query_points"][start:end], arrays["candidate_points"][start:end]
            found[int(query), int(candidate)] = Correspondences(*points, arrays["inliers"][start:end])
    except (BadZipFile, OSError, KeyError, ValueError, IndexError) as error:
        raise DataError(f"{path}: damaged: {error}; delete it and make the report again without match lines") from None
    return sizes, found


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
