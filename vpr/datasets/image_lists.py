"""Patch-NetVLAD's data sets: two text files of image names, one per line, and an npz ground truth.

Source: Hausler et al., Patch-NetVLAD, CVPR 2021; its folders ``dataset_imagenames`` and ``dataset_gt_files``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vpr.core import DataError, Dataset, ImageSet
from vpr.datasets import groups
from vpr.datasets.folders import NO_GROUND_TRUTH
from vpr.datasets.ground_truth import read_npz
from vpr.datasets.tables import name_at
from vpr.positives import positives_within, require_radius
from vpr.runtime.files import require_file, write_atomically

DATABASE_SUFFIX = "_imageNames_index"
QUERY_SUFFIX = "_imageNames_query"


def read_image_lists(
    root: Path,
    database: Path,
    queries: Path,
    ground_truth: Path | None = None,
    radius_m: float | None = None,
    *,
    group_size: int | None = None,
) -> Dataset:
    """Two image lists under one root; positives from the npz, within its radius unless another is given.

    A list of absolute paths inside the root has the deepest folder that holds all of its images for its own root.
    ``group_size`` neighbouring database images are the cut-outs of one panorama (12 in Tokyo 24/7).
    """
    if radius_m is not None:
        require_radius(radius_m)
    name = database.stem.removesuffix(DATABASE_SUFFIX)
    (root_there, to_search), (root_here, to_place) = (read_listed(root, each) for each in (database, queries))
    panoramas = None if group_size is None else groups.consecutive(len(to_search), group_size)
    if ground_truth is None:
        there = ImageSet(root_there, to_search, groups=panoramas)
        return Dataset(name, NO_GROUND_TRUTH, there, ImageSet(root_here, to_place))
    utm_queries, utm_database, stored_m = read_npz(ground_truth)
    _require_equal(database, len(to_search), ground_truth, len(utm_database), "utmDb")
    _require_equal(queries, len(to_place), ground_truth, len(utm_queries), "utmQ")
    radius_m = stored_m if radius_m is None else radius_m
    there = ImageSet(root_there, to_search, utm_database, groups=panoramas)
    here = ImageSet(root_here, to_place, utm_queries)
    return Dataset(name, f"within {radius_m:g} m", there, here, positives_within(here, there, radius_m))


def read_listed(root: Path, path: Path) -> tuple[Path, tuple[str, ...]]:
    """Root and names of a list: the root that is given, or of absolute paths the deepest folder that holds them all.

    Raises DataError as ``read_image_list`` does, and for absolute paths outside a root that is given.
    """
    names = _names_in(path)
    if not all(os.path.isabs(name) for name in names):
        return root, read_image_list(path)
    folder = os.path.commonpath([os.path.dirname(name) for name in names])
    if root != Path() and os.path.commonpath([folder, os.path.abspath(root)]) != os.path.abspath(root):
        line = next(i for i, name in enumerate(names, 1) if not Path(name).is_relative_to(os.path.abspath(root)))
        raise DataError(f"{path}, line {line}: image name {names[line - 1]!r} is not inside its folder, {root}")
    return Path(folder), _require_names(path, [os.path.relpath(name, folder).replace(os.sep, "/") for name in names])


def read_image_list(path: Path) -> tuple[str, ...]:
    """The names as they are written, ``./`` included; blank lines are allowed at the end only.

    Raises DataError, with the line, for blank lines between names, repeated names and names outside the root.
    """
    return _require_names(path, _names_in(path))


def _names_in(path: Path) -> list[str]:
    """The lines of a list, blank ones at the end apart."""
    try:
        text = require_file(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such image list") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable image list: {error}") from None
    names = [line.removesuffix("\r") for line in text.split("\n")]
    while names and not names[-1].strip():
        names.pop()
    if not names:
        raise DataError(f"{path}: lists no images")
    return names


def _require_names(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The names; raises DataError, with the line, for one that is blank, repeated or outside the root."""
    lines: dict[str, int] = {}
    for line, name in enumerate(names, start=1):
        if not name.strip():
            raise DataError(f"{path}, line {line}: blank; remove it, since a blank line would shift the ground truth")
        key = name_at(name, f"{path}, line {line}")
        if key in lines:
            raise DataError(f"{path}, line {line}: {name!r} is on line {lines[key]} too; list every image once")
        lines[key] = line
    return tuple(names)


def write_image_list(path: Path, names: tuple[str, ...]) -> None:
    write_atomically(path, "".join(f"{name}\n" for name in names))


def _require_equal(list_path: Path, listed: int, npz: Path, given: int, key: str) -> None:
    if listed != given:
        raise DataError(
            f"{list_path} lists {listed} images, but {key} of {npz} has {given} positions; "
            "the two files belong to different sets"
        )
