"""Places to learn from: images that show the same place, and single images, as csv files list them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vpr.core import DataError, Image, Rows
from vpr.datasets.place_folders import read_place_folder
from vpr.datasets.tables import Table, name_at, read_table
from vpr.images import fitted_size, read_image, resize
from vpr.training.grey_images import cut_to

IMAGE_COLUMNS = ("image", "file")
KEPT = 20_000  # images in memory: 4.6 GB in colour at 320 x 240


class Places:
    """The images of some csv files with a column ``image`` (or ``file``), relative to the csv file, or of folders.

    A folder has the layout of GSV-Cities or SF-XL; see vpr.datasets.place_folders.

    A column ``place`` says which of them show the same place. An image without a place is one of its own. Images of
    one ``group``, where there is such a column, may show the same; groups of one name in several files are one group,
    and a place with the name of a group belongs to it. A share ``held_out`` of the places, whole groups of them, and of
    the single images is for validation.

    Images are grey and cut to ``size``; with ``longest_side`` they are whole, in colour, and at most that long.
    """

    def __init__(
        self,
        manifests: Sequence[Path],
        size: tuple[int, int],
        held_out: float,
        *,
        longest_side: int | None = None,
        cosplace_group: int = 0,
    ) -> None:
        self.size = size
        self.longest_side = longest_side
        self.paths: list[Path] = []
        self.labels: Rows  # (N,) the place of each image; a single image has a number of its own
        self.groups: Rows  # (N,) images that may show the same have one number
        self.group_names: list[str] = []  # as the csv files have them
        listed = [
            (number, *listed)
            for number, path in enumerate(manifests)
            for listed in (_of_folder(path, cosplace_group) if path.is_dir() else _rows(read_table(path)))
        ]
        known = {group for *_, group in listed if group}
        found: dict[tuple[object, ...], int] = {}
        labels, groups, singles = [], [], []
        for row, (number, file, place, group) in enumerate(listed):
            self.paths.append(file)
            self.group_names.append(group)
            own = (number, "place", place) if place else (row,)
            labels.append(found.setdefault(own, len(found)))
            name = place if place in known else group
            groups.append(found.setdefault(("group", name) if name else own, len(found)))
            singles.append(not place)
        self.labels, self.groups = np.array(labels, np.int64), np.array(groups, np.int64)
        self.single, self.held_single = _apart(np.flatnonzero(singles), held_out)
        wanted = [
            np.flatnonzero(self.labels == label) for label in np.unique(self.labels[~np.array(singles, np.bool_)])
        ]
        several = [rows for rows in wanted if len(rows) > 1]
        _, held = _apart(np.unique([self.groups[rows[0]] for rows in several]), held_out)
        self.places = [rows for rows in several if self.groups[rows[0]] not in held]
        self.held_places = [rows for rows in several if self.groups[rows[0]] in held]
        if len(self.places) + len(self.single) < 2:
            raise DataError(f"{', '.join(map(str, manifests)) or 'no csv file'}: fewer than two places to learn from")
        self._image = lru_cache(maxsize=KEPT)(self._read)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Image:
        """(height, width) uint8, grey; with ``longest_side`` (height, width, 3) RGB."""
        return self._image(int(row))

    def _read(self, row: int) -> Image:
        if self.longest_side is not None:
            image = read_image(self.paths[row], "rgb")
            height, width = image.shape[:2]
            return resize(image, fitted_size(width, height, longest=self.longest_side))
        return cut_to(read_image(self.paths[row], "grey"), self.size)

    def stack(self, rows: Sequence[int] | Rows) -> NDArray[np.uint8]:
        """(B, 1, height, width)."""
        return np.stack([self[int(row)] for row in rows])[:, None]

    def draw(self, places: int, views: int, single: float, random: np.random.Generator) -> Rows:
        """Rows (places * views,) of this many places, about a share ``single`` of them single images.

        A single image comes ``views`` times, and so does one of a place that has fewer images.
        """
        singles = min(round(places * single), len(self.single))
        together = min(places - singles, len(self.places))
        singles = min(places - together, len(self.single))
        chosen = [np.repeat(random.choice(self.single, singles, replace=False), views)] if singles else []
        for place in random.permutation(len(self.places))[:together]:
            rows = random.permutation(self.places[place])
            chosen.append(np.resize(rows, views))
        return np.concatenate(chosen)

    def training_rows(self, most: int) -> Rows:
        """At most this many rows of what is not held out, spread over all."""
        rows = np.sort(np.concatenate([self.single, *self.places]))
        return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(np.int64))]


def _of_folder(root: Path, group: int) -> list[tuple[Path, str, str]]:
    return [(image.path, image.place, "") for image in read_place_folder(root, group)]


def _rows(table: Table) -> list[tuple[Path, str, str]]:
    """Image, place and group of each line; "" where nothing is said."""
    column = next((name for name in IMAGE_COLUMNS if name in table.columns), IMAGE_COLUMNS[0])
    names = [
        table.path.parent / name_at(name, f"{table.path}, line {line}")
        for name, line in zip(table.column(column), table.lines, strict=True)
    ]
    blank = ("",) * len(names)
    places, groups = (table.column(name) if name in table.columns else blank for name in ("place", "group"))
    return list(zip(names, places, groups, strict=True))


def _apart(rows: Rows, share: float) -> tuple[Rows, Rows]:
    """The rows without, and those of, a share that is spread over them; both keep at least one of two rows."""
    if not share or len(rows) < 2:
        return rows, rows[:0]
    count = min(max(1, round(share * len(rows))), len(rows) - 1)
    held = np.unique(np.linspace(0, len(rows) - 1, count + 2)[1:-1].round().astype(np.int64))
    return np.delete(rows, held), rows[held]
