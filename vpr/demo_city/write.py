"""The demo city on disk: rendered by several processes, resumable, and refused where something else lies."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, get_args

import cv2
import numpy as np

from vpr.config import fingerprint
from vpr.core import ConfigError, DataError, Dataset, Image, ImageSet, Origin
from vpr.demo_city.layout import ORIGIN, ZONE, City, build_city
from vpr.demo_city.light import light_named
from vpr.demo_city.records import CAMERAS, DEPTH_STEPS, cameras_table, depth_path, encode_depth, labels_path
from vpr.demo_city.render import Rendering, render
from vpr.demo_city.shots import RADIUS_M, Role, Shot, plan_shots
from vpr.demo_city.traffic import require_share
from vpr.positives import positives_within
from vpr.runtime.files import TEMPORARY, read_json, remove_leftovers, write_atomically, write_json
from vpr.runtime.progress import Progress

_RECIPE = 1  # counts changes of what is drawn
_MADE_BY = "made_by.json"
_QUALITY = 92  # of the JPEGs

_README = f"""\
A procedural city, rendered by vpr with {{settings}}.

database/    images of one drive, in two headings at every position
queries/     images from beside the drive in other light; one in ten is from a street that was not driven
depth/       if asked for: 16-bit PNGs of {DEPTH_STEPS} / (depth along the optical axis in metres); 0 is sky
labels/      if asked for: 8-bit PNGs of Cityscapes label ids
cameras.csv  role, light, place and camera of every image; written last: without it the folder is not complete

Names are @UTM_east@UTM_north@zone@letter@@@@@heading@pitch@roll@height@@light@.jpg in metres and degrees.
The positives of a query are the database images within {RADIUS_M:.0f} m.

Pixels: x right, y down, the centre of the top-left pixel is (0, 0). Camera: x right, y down, z forward.
World: x east, y north, z up in metres; UTM in zone {ZONE[0]}{ZONE[1]} is world plus ({ORIGIN[0]:.0f}, {ORIGIN[1]:.0f}).
Pose: camera = R world + t, with R and t as r11 to r33 and t1 to t3 in cameras.csv; K is fx, fy, cx, cy.
"""

log = logging.getLogger(__name__)


def write_demo_city(
    out: Path,
    places: int = 60,
    seed: int = 0,
    size: tuple[int, int] = (480, 360),
    *,
    workers: int | None = None,
    with_depth: bool = False,
    with_labels: bool = False,
    traffic_share: float = 0.0,
) -> Dataset:
    """Render the city into a folder, or find it there, and return it as a data set.

    With ``traffic_share`` moving vehicles and people cover about this share of every image; with ``with_labels`` a mask
    of Cityscapes ids is written beside it.

    Four database images and four thirds of a query for each place. The pixels depend on the arguments but not on
    ``workers`` (None: one per core; 1: this process). A run that was killed is taken up where it stopped.
    Raises DataError if the folder holds anything else, and ConfigError for numbers that make no city.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"rendering the demo city needs at least 1 worker, not {workers}")
    require_share(traffic_share)
    settings = {"recipe": _RECIPE, "places": places, "seed": seed, "size": list(size), "with_depth": with_depth}
    settings |= {"with_labels": True} if with_labels else {}  # what is left out is as it was before there was a choice
    settings |= {"traffic_share": traffic_share} if traffic_share else {}
    _refuse_others(out, settings)
    city = build_city(places, seed)
    shots = [replace(shot, traffic_share=traffic_share) for shot in plan_shots(city, size)]
    files = CityFolder(out, with_depth=with_depth, with_labels=with_labels)
    missing = [shot for shot in shots if not all(path.exists() for path in files.paths(shot))]
    if missing or not (out / CAMERAS).exists():
        log.info("rendering %d of %d images of the demo city into %s", len(missing), len(shots), out)
        _claim(out, settings)
        render_all(city, missing, files, workers or os.cpu_count() or 1)
        write_atomically(out / CAMERAS, cameras_table(shots))
    return _dataset(out, shots)


class Writer(Protocol):
    """What keeps a rendered image; sent to other processes."""

    def __call__(self, shot: Shot, rendering: Rendering) -> None: ...


@dataclass(frozen=True)
class CityFolder:
    """Writes images as the folders of a demo city hold them."""

    out: Path
    with_depth: bool = False
    with_labels: bool = False

    def paths(self, shot: Shot) -> list[Path]:
        """The files of an image."""
        depth = [depth_path(self.out, shot)] if self.with_depth else []
        labels = [labels_path(self.out, shot)] if self.with_labels else []
        return [self.out / shot.role / shot.name, *depth, *labels]

    def __call__(self, shot: Shot, rendering: Rendering) -> None:
        if self.with_depth:
            write_atomically(depth_path(self.out, shot), encode_depth(rendering.depth))
        if self.with_labels:
            write_atomically(labels_path(self.out, shot), as_png(rendering.labels))
        write_atomically(self.out / shot.role / shot.name, as_jpeg(rendering.image))


def _origin(settings: dict[str, Any]) -> dict[str, Any]:
    return asdict(Origin("demo city", fingerprint(settings), settings=settings)) | {"images": ""}


def _refuse_others(out: Path, settings: dict[str, Any]) -> None:
    """Raise DataError unless the folder is new, empty, or holds the beginning of this very city."""
    made_by = out / _MADE_BY
    if made_by.exists():
        found = read_json(made_by)
        if found != _origin(settings):
            raise DataError(
                f"{out}: holds a demo city made with {found.get('settings')}, not with {settings}; "
                "ask for the same, choose another folder, or delete this one"
            )
    elif out.exists() and not _is_empty(out):
        raise DataError(f"{out}: holds something that is no demo city; choose a new or an empty folder")


def _is_empty(out: Path) -> bool:
    return out.is_dir() and all(path.name.endswith(TEMPORARY) for path in out.iterdir())


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Say in the folder what goes into it and that it is not complete, and make its folders."""
    out.mkdir(parents=True, exist_ok=True)
    (out / CAMERAS).unlink(missing_ok=True)
    write_json(out / _MADE_BY, _origin(settings))
    said = ", ".join(f"{key} {value}" for key, value in settings.items())
    write_atomically(out / "README.txt", _README.format(settings=said))
    tops = [out, *(out / kind for kind in ("depth", "labels") if settings.get(f"with_{kind}"))]
    for folder in (top / role for top in tops for role in get_args(Role)):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)


def as_jpeg(image: Image) -> bytes:
    """The (H, W, 3) RGB image as a JPEG."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes())


def as_png(image: Image) -> bytes:
    """The (H, W) grey or (H, W, 3) RGB image as a PNG."""
    ordered = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim > 2 else image
    return bytes(cv2.imencode(".png", ordered)[1].tobytes())


def render_all(city: City, shots: Sequence[Shot], writer: Writer, workers: int) -> None:
    """Render the shots; neighbouring ones, which share textures, go to one process."""
    ordered = sorted(shots, key=lambda shot: (shot.place, *shot.position))
    with Progress("demo city", len(ordered), "image") as bar:
        if workers == 1:
            for shot in ordered:
                _write_shot(city, shot, writer)
                bar.update()
            return
        batch = max(1, len(ordered) // (8 * workers))
        batches = [ordered[first : first + batch] for first in range(0, len(ordered), batch)]
        for done in _in_processes(city, batches, writer, workers):
            bar.update(done)


def _in_processes(city: City, batches: Sequence[Sequence[Shot]], writer: Writer, workers: int) -> Iterator[int]:
    """Yield the size of each batch as it is done. An error in a process ends the others after their batch."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        tasks = [pool.submit(_write_batch, city.places, city.seed, batch, writer) for batch in batches]
        try:
            for task in as_completed(tasks):
                yield task.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _write_batch(places: int, seed: int, shots: Sequence[Shot], writer: Writer) -> int:
    for shot in shots:
        _write_shot(_city(places, seed), shot, writer)
    return len(shots)


@lru_cache(maxsize=1)
def _city(places: int, seed: int) -> City:
    """A worker builds the city once: that is quicker than to send it with every batch."""
    return build_city(places, seed)


def _write_shot(city: City, shot: Shot, writer: Writer) -> None:
    light = light_named(shot.light, shot.light_seed)
    writer(shot, render(city, shot.camera, light, shot.seed, shot.traffic, traffic_share=shot.traffic_share))


def _dataset(out: Path, shots: Sequence[Shot]) -> Dataset:
    database, queries = (_image_set(out, shots, role) for role in get_args(Role))
    positives = positives_within(queries, database, RADIUS_M)
    return Dataset("demo_city", f"within {RADIUS_M:.0f} m", database, queries, positives)


def _image_set(out: Path, shots: Sequence[Shot], role: Role) -> ImageSet:
    ours = [shot for shot in shots if shot.role == role]
    positions = np.array([shot.position for shot in ours])
    return ImageSet(out / role, tuple(shot.name for shot in ours), positions, f"{ZONE[0]}{ZONE[1]}")
