"""What the server does with a map: it answers, adds and removes, and names no path of its own."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from vpr.core import ConfigError, DataError, ImageError, SearchError, VprError, usable_name
from vpr.datasets.placed import PlacedImage, Position, parse_time
from vpr.images import kind_and_size, kind_of
from vpr.maps import Candidate, Map, MatchedPair, StoredImage
from vpr.maps.export import location_text, time_text
from vpr.maps.prior import Prior
from vpr.rotations import require_rotations
from vpr.runtime.files import write_atomically
from vpr.serve.forms import Form
from vpr.serve.limits import Limits
from vpr.serve.overview import overview, parse_box
from vpr.serve.page_files import Tiles, has_library
from vpr.serve.problems import Paths, RequestProblem
from vpr.serve.thumbnails import FOLDER as THUMBNAILS
from vpr.serve.thumbnails import Thumbnails
from vpr.serve.worker import Worker

logger = logging.getLogger(__name__)

MOST_CANDIDATES = 100
CANDIDATES = 10  # where a question does not say how many
RANKED = 2  # the same, at /do_ranking/
QUESTION = ("lat", "lon", "radius_m", "since", "until", "k", "rotations")
RANK = ("rank",)
PAIR = ("id",)
RECORD = ("name", "lat", "lon", "heading", "time", "group")
_FOLDER = "vpr-serve-"  # begins the names of temporary folders
_READS = 4  # short requests that may wait for each one that computes: a page asks for ten thumbnails at once
_LARGEST_ID = 10**9 - 1
_NAME_BYTES, _PART_BYTES = 1000, 200  # of an image's name, and of each of its folders


@dataclass(eq=False)
class Service:
    """A map with its limits."""

    map: Map
    limits: Limits
    token: str | None = None  # of who may add and remove; None: nobody
    images: Path | None = None  # the folder of the map's images, for thumbnails
    tiles: Tiles | None = None  # of the page's map

    def __post_init__(self) -> None:
        self.thumbnails = Thumbnails(self.images, self.map.folder / THUMBNAILS, self.limits.megapixels)
        if self.thumbnails.kept.is_dir():
            self.thumbnails.sweep(lambda number: self.map.image(number) is not None)
        self.paths = Paths({self.map.folder: "map", **({} if self.images is None else {self.images: "images"})})
        self.worker = Worker(self.limits.waiting, "locate")
        self.reader = Worker(_READS * self.limits.waiting, "read")  # what needs no methods

    def answer(self, form: Form) -> dict[str, Any]:
        """The answer to a question, as ``Answer.to_json`` gives it. Raises a problem."""
        near, radius_m = form.degrees(), form.number("radius_m")
        since, until = form.fields.get("since"), form.fields.get("until")
        k, rotations = form.whole("k", CANDIDATES, MOST_CANDIDATES), self._rotations(form)
        try:
            Prior.of(near, radius_m, since, until, "")
        except VprError as error:
            raise self.refused(error, 422) from None
        with self._photo(form) as photo:
            answer = self.map.locate(
                photo, near=near, radius_m=radius_m, since=since, until=until, k=k, rotations=rotations
            )
        return finite_table(answer.to_json())

    def ranking(self, form: Form) -> list[dict[str, Any]]:
        """The images most like a photograph, best first, in the columns of a place database. Raises a problem."""
        with self._photo(form) as photo:
            answer = self.map.locate(photo, k=form.whole("rank", RANKED, MOST_CANDIDATES))
        return [finite_table(place_row(each)) for each in answer.candidates]

    def _rotations(self, form: Form) -> tuple[int, ...]:
        """The degrees in the field rotations, (0,) without it. Raises a problem for others than quarter turns."""
        text = form.fields.get("rotations", "0")
        turns = tuple(int(part) if part.strip().isdecimal() else -1 for part in text[:80].split(","))
        try:
            require_rotations(turns)
        except ConfigError:
            sentence = f"rotations = {text[:80]!r}: give some of 0, 90, 180, 270, each once, separated by commas"
            raise RequestProblem(422, sentence, "ConfigError") from None
        return turns

    def matches(self, form: Form) -> dict[str, Any]:
        """The matches of a photograph with an image of the map, as pixels of both. Raises a problem."""
        if "id" not in form.fields:
            raise RequestProblem(422, "no field 'id'; give the id of an image of the map", "ConfigError")
        image = self.record(form.whole("id", 0, _LARGEST_ID))
        with self._photo(form) as photo:
            try:
                found = self.map.matches(photo, image)
            except ConfigError as error:
                raise self.refused(error, 409) from None
        return {"id": image.id, "name": image.name, **pair_json(found)}

    @contextmanager
    def _photo(self, form: Form) -> Iterator[Path]:
        """The image of a form as a file, which is decoded as those of the map were. Raises a problem for a bad one."""
        self.require_image(form.image)
        with tempfile.TemporaryDirectory(prefix=_FOLDER) as folder:
            photo = Path(folder) / "image"
            photo.write_bytes(form.image)
            try:
                yield photo
            except ImageError as error:
                raise self.refused(error, 422) from None

    def require_image(self, data: bytes) -> None:
        """Raise a problem for an upload that is no image, or has too many pixels by its header; decodes nothing."""
        try:
            kind_and_size(data, self.limits.megapixels)
        except ImageError as error:
            foreign = bool(data) and kind_of(data) is None
            status = 415 if foreign else 413 if "more than" in str(error) else 422
            sentence = str(error).replace(" or raise images.max_megapixels", "")
            raise RequestProblem(status, sentence, "ImageError") from None

    def record(self, number: int) -> StoredImage:
        """The image of an id; raises a problem (404) if there is none."""
        found = self.map.image(number)
        if found is None:
            raise RequestProblem(404, f"no image {number}; it was removed, or there never was one")
        return found

    def record_json(self, image: StoredImage) -> dict[str, Any]:
        """What the map knows of an image, as JSON types."""
        return record_json(image, thumbnail=self.thumbnails.exists(image))

    def thumbnail(self, number: int, longest: int) -> bytes:
        """A small JPEG of an image; raises a problem (404) without its file."""
        image = self.record(number)
        try:
            return self.thumbnails.read(image, longest)
        except ImageError as error:
            raise self.refused(error, 404) from None

    def page_settings(self) -> dict[str, Any]:
        """What the page has to know."""
        return {
            "leaflet": has_library(),
            "tiles": None if self.tiles is None else dict(vars(self.tiles)),
            "thumbnails": self.images is not None or self.thumbnails.kept.is_dir(),
            "upload_mb": self.limits.upload_bytes / 1e6,
            "images": len(self.map),
        }

    def overview(self, bbox: str, limit: int) -> dict[str, Any]:
        """The images within a box as GeoJSON. Raises a problem for a box that is none."""
        try:
            box = parse_box(bbox)
        except ConfigError as error:
            raise self.refused(error, 422) from None
        return finite_table(overview(self.map, box, limit))

    def add(self, form: Form) -> tuple[StoredImage, bool]:
        """The image as the map now holds it, and whether it was new. Raises a problem."""
        try:
            image = _placed(form)
        except VprError as error:
            raise self.refused(error, 422) from None
        self.require_image(form.image)
        with tempfile.TemporaryDirectory(prefix=_FOLDER) as folder:
            path = Path(folder) / image.name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, form.image)
            try:
                added = self.map.add_placed([image], folder)
            except ImageError as error:
                raise self.refused(error, 422) from None
            except DataError as error:
                raise self.refused(error, 409) from None
        for reason in added.failed.values():
            raise self.refused(ImageError(reason), 422)
        stored = self._named(image.name)
        if added.added or added.replaced:
            self.thumbnails.keep(stored.id, form.image)
        return stored, added.added > 0

    def remove(self, name: str) -> None:
        """Remove an image by name; raises a problem (404) if there is none of that name."""
        image = self._named(name)
        try:
            self.map.remove([name])
        except DataError as error:
            raise self.refused(error, 409) from None
        self.thumbnails.forget(image.id)

    def _named(self, name: str) -> StoredImage:
        quoted = name.replace("'", "''")
        known = len(name.encode()) <= _NAME_BYTES
        found = next(self.map.images(f"name = '{quoted}'"), None) if known else None
        if found is None:
            raise RequestProblem(404, f"no image {name[:200]!r}; GET /v1/map gives the names")
        return found

    def refused(self, error: VprError, status: int) -> RequestProblem:
        """An error as the answer to a request."""
        kind = next(each.__name__ for each in (ImageError, ConfigError, DataError, VprError) if isinstance(error, each))
        return RequestProblem(status, self.paths.removed(str(error)), kind)

    def failed(self, error: Exception) -> RequestProblem:
        """An error that the sender cannot mend: of the map's files, or of the server."""
        logger.error("%s", error)
        if isinstance(error, SearchError):  # its sentence names another machine
            sentence = "what searches this map does not answer; the log of the server says more"
            return RequestProblem(503, sentence, "SearchError")
        if isinstance(error, VprError):
            return self.refused(error, 500)
        if isinstance(error, OSError):
            return RequestProblem(500, f"the server cannot use a file: {error.strerror or 'unknown reason'}")
        return RequestProblem(500, "this is a defect of the server, not of the request", "VprError")

    def close(self) -> None:
        self.worker.close()
        self.reader.close()


def record_json(image: StoredImage, *, thumbnail: bool) -> dict[str, Any]:
    """What a map knows of an image, as JSON types."""
    about = {
        "id": image.id,
        "name": image.name,
        "position": None if image.position is None else dict(vars(image.position)),
        "heading": image.heading,
        "time": image.time,
        "group": image.group,
        "columns": dict(image.columns),
        "thumbnail": f"/v1/images/{image.id}/thumbnail" if thumbnail else None,
    }
    return finite_table(about)


def place_row(found: Candidate) -> dict[str, Any]:
    """A candidate in the columns of a place database: file_name, location and date_taken; and its score."""
    return {
        "file_name": found.name,
        "location": location_text(found.position),
        "date_taken": time_text(found.time),
        "score": found.score,
        "matches": found.matches,
        "inliers": found.inliers,
    }


def pair_json(found: MatchedPair) -> dict[str, Any]:
    """Sizes of the two images as their features saw them, and the matches in pixels of these; inliers last."""
    pairs = found.matches.pairs.numpy()
    order = np.argsort(found.inliers, kind="stable")
    points = [
        side.keypoints.numpy()[pairs[order, column]] for column, side in enumerate((found.query, found.candidate))
    ]
    rows = np.concatenate(points, axis=1).round(1).tolist()
    sizes = [dict(zip(("width", "height"), side.image_size, strict=True)) for side in (found.query, found.candidate)]
    matches = [
        {"query": row[:2], "candidate": row[2:], "inlier": inlier}
        for row, inlier in zip(rows, found.inliers[order].tolist(), strict=True)
    ]
    about = {"query": sizes[0], "candidate": sizes[1], "matches": matches, "inliers": int(found.inliers.sum())}
    return finite_table({**about, "inliers_by_chance": found.inliers_by_chance})


def finite_table(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table of JSON types in which numbers that are not finite are null."""
    return {key: finite(value) for key, value in table.items()}


def finite(value: Any) -> Any:
    """A value of JSON, in which numbers that are not finite are null."""
    if isinstance(value, Mapping):
        return finite_table(value)
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _placed(form: Form) -> PlacedImage:
    """The image that is to be added; raises ConfigError or DataError for values that make no sense."""
    name = usable_name(form.fields.get("name") or form.filename)
    if PureWindowsPath(name).anchor or ".." in PureWindowsPath(name).parts:
        raise DataError(f"image name {name!r} is not inside its folder; give a path relative to the folder of images")
    if len(name.encode()) > _NAME_BYTES or any(len(part.encode()) > _PART_BYTES for part in name.split("/")):
        raise DataError(f"image name {name[:80]!r}...: at most {_NAME_BYTES} bytes, {_PART_BYTES} for each folder")
    degrees, heading, time = form.degrees(), form.number("heading"), form.fields.get("time")
    return PlacedImage(
        name,
        None if degrees is None else Position.of_degrees(*degrees),
        None if heading is None else heading % 360 % 360,  # -1e-20 % 360 is 360
        None if time is None else parse_time(time),
        form.fields.get("group", ""),
    )
