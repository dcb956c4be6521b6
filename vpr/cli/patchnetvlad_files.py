"""Files of Patch-NetVLAD by the names that its users type, and what its commands take for granted.

Its repository has ``dataset_imagenames``, ``dataset_gt_files``, ``configs``, ``pretrained_models`` and
``example_images`` in the folder ``patchnetvlad``; so has the package of that name, where it is installed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from vpr.core import DataError

if TYPE_CHECKING:
    from vpr.settings import Settings

logger = logging.getLogger(__name__)

PACKAGE = "patchnetvlad"
LISTS, GROUND_TRUTHS, CONFIGS = "dataset_imagenames", "dataset_gt_files", "configs"
# Its .ini files to the configs that say the same.
PUBLISHED = {
    "performance.ini": "patch_netvlad_performance",
    "speed.ini": "patch_netvlad_speed",
    "storage.ini": "patch_netvlad_storage",
}
DEFAULT_CONFIG = PUBLISHED["performance.ini"]


def roots() -> list[Path]:
    """Folders laid out as its repository: the working directory, the folder patchnetvlad in it, the package."""
    found = [Path(), Path(PACKAGE)]
    try:
        found.append(Path(str(distribution(PACKAGE).locate_file(PACKAGE))))
    except PackageNotFoundError:
        pass
    return found


def located(path: Path, folder: str) -> Path:
    """The file as it is given, or a bare or relative name in the ``folder`` of one of the roots.

    Raises DataError that names the places.
    """
    places = list(dict.fromkeys([path, *_places(path, folder)]))
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        others = ", ".join(str(place) for place in places[1:])
        problem = "not a file" if path.exists() else "no such file"
        raise DataError(f"{path}: {problem}" + (f"; it is not at {others} either" if others else ""))
    return found


def _places(path: Path, folder: str) -> list[Path]:
    if path.is_absolute():
        return []
    inside = path.relative_to(PACKAGE) if path.parts[:1] == (PACKAGE,) else path
    return [place for root in roots() for place in (root / inside, root / folder / inside)]


def config_of(chosen: str | None) -> str | None:
    """The chosen config; an .ini file is also found by its name."""
    path = Path(chosen or "")
    if path.suffix.lower() != ".ini":
        return chosen
    try:
        return str(located(path, CONFIGS))
    except DataError:
        if path.name not in PUBLISHED:
            raise
        logger.info("%s: no such file; the config %s says the same", path, PUBLISHED[path.name])
        return PUBLISHED[path.name]


def images_root(root: Path, names: Sequence[str]) -> Path:
    """The folder that relative names of a list start from: the one given, else the first of the roots that has them."""
    places = [root, *(each / root for each in roots() if not root.is_absolute())]
    return next((place for place in places if (place / names[0]).is_file()), root)


def fetch_absent_weights(settings: Settings) -> None:
    """Download the weights of the global descriptor that are not on this machine, after printing their licence."""
    from vpr.cli.models import fetch_absent
    from vpr.weights.manifest import entry_or_none, read_manifest

    entry = entry_or_none(str(getattr(settings.global_descriptor, "weights", "")), read_manifest())
    if entry is not None and entry.url:
        fetch_absent(entry)
