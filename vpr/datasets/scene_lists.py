"""Lists of scenes, such as MegaDepth's official splits: a text file with one name a line."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from vpr.core import DataError

SUFFIXES = ("", ".txt")
FOLDERS = ("", "scene_lists", "megadepth_scenes")  # below the data, where lists may be


def chosen_scenes(wanted: str, root: Path, known: Collection[str]) -> list[str]:
    """Names of the scenes that a list names; all if ``wanted`` is empty.

    ``wanted`` is the path of a file, or the name of one below ``root``: with "train_scenes_clean", for instance
    ``root/train_scenes_clean.txt`` or ``root/scene_lists/train_scenes_clean.txt``. Scenes that a list names and the
    data lack are left out; raises DataError if there is no list, or none of its scenes.
    """
    if not wanted:
        return sorted(known)
    path = _list(wanted, root)
    try:
        names = path.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable list of scenes: {error}") from None
    chosen = [name for name in dict.fromkeys(names) if name in known]
    if not chosen:
        raise DataError(
            f"{path}: names none of the {len(known)} scenes of {root}, such as {', '.join(sorted(known)[:3])}"
        )
    return chosen


def _list(wanted: str, root: Path) -> Path:
    tried = [Path(wanted), *(root / folder / f"{wanted}{suffix}" for folder in FOLDERS for suffix in SUFFIXES)]
    for path in tried:
        if path.is_file():
            return path
    raise DataError(
        f"no list of scenes {wanted!r}: give the path of a text file with one scene a line, or put {wanted}.txt into "
        f"{root} or {root / FOLDERS[1]}; lists are not part of vpr"
    )
