"""A database of COLMAP (Schoenberger and Frahm, CVPR 2016): cameras, images, keypoints, matches, two-view geometries.

The tables are those of COLMAP 3.x, which later versions read and bring up to date. COLMAP's pixels begin at the corner
of the image: 0.5 is added to keypoints, and the geometries are those of these pixels.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vpr.core import DataError, Doubles, Floats, Rows
from vpr.exchange.models import in_other_pixels, shift
from vpr.runtime.files import written_whole

CORNER = 0.5  # COLMAP's coordinate of the centre of the first pixel
MAX_IMAGES = 2147483647  # factor of a pair's id
SIMPLE_RADIAL = 2  # camera model: f, cx, cy, k
FOCAL_FACTOR = 1.2  # of the longer side: COLMAP's guess of an unknown focal length
UNCALIBRATED, PLANAR_OR_PANORAMIC = 3, 6  # configurations of a two-view geometry

_TABLES = """
CREATE TABLE cameras (camera_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, model INTEGER NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, params BLOB, prior_focal_length INTEGER NOT NULL);
CREATE TABLE images (image_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, name TEXT NOT NULL UNIQUE,
    camera_id INTEGER NOT NULL, prior_qw REAL, prior_qx REAL, prior_qy REAL, prior_qz REAL,
    prior_tx REAL, prior_ty REAL, prior_tz REAL, FOREIGN KEY(camera_id) REFERENCES cameras(camera_id));
CREATE UNIQUE INDEX index_name ON images(name);
CREATE TABLE keypoints (image_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL,
    data BLOB, FOREIGN KEY(image_id) REFERENCES images(image_id) ON DELETE CASCADE);
CREATE TABLE descriptors (image_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL,
    data BLOB, FOREIGN KEY(image_id) REFERENCES images(image_id) ON DELETE CASCADE);
CREATE TABLE matches (pair_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL, data BLOB);
CREATE TABLE two_view_geometries (pair_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL,
    data BLOB, config INTEGER NOT NULL, F BLOB, E BLOB, H BLOB, qvec BLOB, tvec BLOB);
PRAGMA user_version = 3800;
"""


@dataclass(frozen=True, eq=False)
class ColmapImage:
    """One image; its camera is not known beyond the size."""

    name: str
    size: tuple[int, int]  # width, height
    keypoints: Floats  # (N, 2) x, y; the centre of the top-left pixel is (0, 0)


@dataclass(frozen=True, eq=False)
class ColmapPair:
    """Matches of two images, by rows of their keypoints, and the geometry in the pixels of ``ColmapImage``."""

    first: str
    second: str
    matches: Rows  # (K, 2)
    inliers: NDArray[np.bool_]  # (K,)
    model: Doubles  # (3, 3), or (0, 0) for none
    geometry: str  # "fundamental" or "homography"


def write_colmap(
    path: Path, images: Sequence[ColmapImage], pairs: Iterable[ColmapPair], *, shared_cameras: bool = False
) -> None:
    """Write a database. With ``shared_cameras`` images of one size have one camera, else each has its own.

    Of a pair that comes in both orders the first is kept. Raises DataError for more images than a pair's id can hold.
    """
    if len(images) >= MAX_IMAGES:
        raise DataError(f"{path}: {len(images)} images are more than COLMAP can hold")
    ids = {image.name: number for number, image in enumerate(images, 1)}
    with written_whole(path) as temporary, closing(sqlite3.connect(temporary)) as database:
        database.executescript(_TABLES)
        _write_images(database, images, shared_cameras)
        _write_pairs(database, ids, pairs)
        database.commit()


def _write_images(database: sqlite3.Connection, images: Sequence[ColmapImage], shared: bool) -> None:
    cameras: dict[object, int] = {}
    for number, image in enumerate(images, 1):
        width, height = image.size
        key = image.size if shared else image.name
        if key not in cameras:
            cameras[key] = len(cameras) + 1
            params = np.array([FOCAL_FACTOR * max(width, height), width / 2, height / 2, 0.0])
            row = (cameras[key], SIMPLE_RADIAL, width, height, params.tobytes(), 0)
            database.execute("INSERT INTO cameras VALUES (?, ?, ?, ?, ?, ?)", row)
        database.execute(
            "INSERT INTO images (image_id, name, camera_id) VALUES (?, ?, ?)", (number, image.name, cameras[key])
        )
        points = np.ascontiguousarray(image.keypoints + np.float32(CORNER), np.float32)
        database.execute("INSERT INTO keypoints VALUES (?, ?, ?, ?)", (number, len(points), 2, points.tobytes()))


def _write_pairs(database: sqlite3.Connection, ids: Mapping[str, int], pairs: Iterable[ColmapPair]) -> None:
    written: set[int] = set()
    for pair in pairs:
        first, second = ids[pair.first], ids[pair.second]
        if first == second or pair_id(first, second) in written:
            continue
        number = pair_id(first, second)
        written.add(number)
        exchanged = first > second  # COLMAP's pairs have the smaller id first
        matches = pair.matches[:, ::-1] if exchanged else pair.matches
        inliers = matches[pair.inliers]
        database.execute("INSERT INTO matches VALUES (?, ?, ?, ?)", (number, len(matches), 2, _blob(matches)))
        fundamental, homography = _models(pair, exchanged)
        config = PLANAR_OR_PANORAMIC if homography is not None else UNCALIBRATED
        database.execute(
            "INSERT INTO two_view_geometries VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
            (number, len(inliers), 2, _blob(inliers), config if len(inliers) else 0, fundamental, None, homography),
        )


def pair_id(first: int, second: int) -> int:
    """COLMAP's number of a pair of images."""
    return MAX_IMAGES * min(first, second) + max(first, second)


def _models(pair: ColmapPair, exchanged: bool) -> tuple[bytes | None, bytes | None]:
    """Fundamental matrix and homography as COLMAP stores them, row by row; None for what is not known."""
    if pair.model.shape != (3, 3):
        return None, None
    model = in_other_pixels(pair.model, pair.geometry, shift(-CORNER), shift(-CORNER))
    if pair.geometry == "fundamental":
        return np.ascontiguousarray(model.T if exchanged else model).tobytes(), None
    return None, np.ascontiguousarray(np.linalg.inv(model) if exchanged else model).tobytes()


def _blob(matches: Rows) -> bytes:
    return np.ascontiguousarray(matches, np.uint32).tobytes()
