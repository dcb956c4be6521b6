"""The demo city on disk: rendered by several processes, resumable, and refused where something else lies."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np

from vpr.config import fingerprint
from vpr.core import ConfigError, DataError, Dataset, ImageSet, Origin
from vpr.demo_city.layout import ORIGIN, ZONE, City, build_city
from vpr.demo_city.light import light_named
from vpr.demo_city.records import CAMERAS, DEPTH_STEPS, cameras_table, depth_path, encode_depth
from vpr.demo_city.render import render
from vpr.demo_city.shots import RADIUS_M, Role, Shot, plan_shots
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
) -> Dataset:
    """Render the city into a folder, or find it there, and return it as a data set.

    Four database images and four thirds of a query for each place. The pixels depend on the arguments but not on
    ``workers`` (None: one per core; 1: this process). A run that was killed is taken up where it stopped.
    Raises DataError if the folder holds anything else, and ConfigError for numbers that make no city.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"rendering the demo city needs at least 1 worker, not {workers}")
    settings = {"recipe": _RECIPE, "places": places, "seed": seed, "size": list(size), "with_depth": with_depth}
    _refuse_others(out, settings)
    city = build_city(places, seed)
    shots = plan_shots(city, size)
    missing = [shot for shot in shots if not all(path.exists() for path in _files(out, shot, with_depth))]
    if missing or not (out / CAMERAS).exists():
        log.info("rendering %d of %d images of the demo city into %s", len(missing), len(shots), out)
        _claim(out, settings)
        render_all(out, city, missing, with_depth, workers or os.cpu_count() or 1)
        write_atomically(out / CAMERAS, cameras_table(shots))
    return _dataset(out, shots)


def _files(out: Path, shot: Shot, with_depth: bool) -> list[Path]:
    picture = out / shot.role / shot.name
    return [picture, depth_path(out, shot)] if with_depth else [picture]


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
    tops = [out, out / "depth"] if settings["with_depth"] else [out]
    for folder in (top / role for top in tops for role in get_args(Role)):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)


def render_all(out: Path, city: City, shots: Sequence[Shot], with_depth: bool, workers: int) -> None:
    """Render the shots; neighbouring ones, which share textures, go to one process."""
    ordered = sorted(shots, key=lambda shot: (shot.place, *shot.position))
    with Progress("demo city", len(ordered), "image") as bar:
        if workers == 1:
            for shot in ordered:
                _write_shot(out, city, shot, with_depth)
                bar.update()
            return
        batch = max(1, len(ordered) // (8 * workers))
        batches = [ordered[first : first + batch] for first in range(0, len(ordered), batch)]
        for done in _in_processes(out, city, batches, with_depth, workers):
            bar.update(done)


def _in_processes(
    out: Path, city: City, batches: Sequence[Sequence[Shot]], with_depth: bool, workers: int
) -> Iterator[int]:
    """Yield the size of each batch as it is done. An error in a process ends the others after their batch."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        tasks = [pool.submit(_write_batch, out, city.places, city.seed, batch, with_depth) for batch in batches]
        try:
            for task in as_completed(tasks):
                yield task.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _write_batch(out: Path, places: int, seed: int, shots: Sequence[Shot], with_depth: bool) -> int:
    for shot in shots:
        _write_shot(out, _city(places, seed), shot, with_depth)
    return len(shots)


@lru_cache(maxsize=1)
def _city(places: int, seed: int) -> City:
    """A worker builds the city once: that is quicker than to send it with every batch."""
    return build_city(places, seed)


def _write_shot(out: Path, city: City, shot: Shot, with_depth: bool) -> None:
    rendering = render(city, shot.camera, light_named(shot.light, shot.light_seed), shot.seed, shot.traffic)
    bgr = cv2.cvtColor(rendering.image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if with_depth:
        write_atomically(depth_path(out, shot), encode_depth(rendering.depth))
    write_atomically(out / shot.role / shot.name, data.tobytes())


def _dataset(out: Path, shots: Sequence[Shot]) -> Dataset:
    database, queries = (_image_set(out, shots, role) for role in get_args(Role))
    positives = positives_within(queries, database, RADIUS_M)
    return Dataset("demo_city", f"within {RADIUS_M:.0f} m", database, queries, positives)


def _image_set(out: Path, shots: Sequence[Shot], role: Role) -> ImageSet:
    ours = [shot for shot in shots if shot.role == role]
    positions = np.array([shot.position for shot in ours])
    return ImageSet(out / role, tuple(shot.name for shot in ours), positions, f"{ZONE[0]}{ZONE[1]}")
