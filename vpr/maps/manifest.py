"""The manifest of a map: one SQLite file that says which images there are and in which segment each lies.

A write is one transaction; what it does not name does not exist. In write-ahead mode a reader keeps the state in which
its transaction began while another process writes.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vpr.core import DataError, Rows
from vpr.datasets.placed import PlacedImage, Position

FILE = "manifest.sqlite"
FORMAT = 1
BUSY_S = 30.0  # another process commits for at most this long
_CHUNK = 500  # values in one SQL list

_SCHEMA = """
CREATE TABLE facts (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE segments (id INTEGER PRIMARY KEY, folder TEXT NOT NULL, count INTEGER NOT NULL, files TEXT NOT NULL);
CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL,
    latitude REAL, longitude REAL, east_m REAL, north_m REAL, zone TEXT,
    heading REAL, time REAL, "group" TEXT NOT NULL, columns TEXT NOT NULL,
    content TEXT NOT NULL, segment INTEGER NOT NULL, row INTEGER NOT NULL, removed INTEGER);
CREATE UNIQUE INDEX live_names ON images (name) WHERE removed IS NULL;
CREATE UNIQUE INDEX rows ON images (segment, row);
CREATE INDEX removed_rows ON images (segment, row) WHERE removed IS NOT NULL;
CREATE INDEX times ON images (time) WHERE time IS NOT NULL;
CREATE VIRTUAL TABLE positions USING rtree (id, south, north, west, east);
"""
WITHIN = "north >= ? AND south <= ? AND east >= ? AND west <= ?"  # a box: south, north, west, east
OF_IDS = "images.id IN (SELECT value FROM json_each(?))"  # a JSON list of ids
_IMAGE = 'id, name, latitude, longitude, east_m, north_m, zone, heading, time, "group", columns, content, segment, row'


@dataclass(frozen=True)
class SegmentRecord:
    """The record of a segment in the manifest."""

    id: int
    folder: str  # below the folder of segments
    count: int  # images, removed ones included
    files: Mapping[str, tuple[int, str]]  # size in bytes and checksum by file name


@dataclass(frozen=True)
class StoredImage(PlacedImage):
    """An image of a map."""

    id: int = 0  # never used again for another image
    content: str = ""  # digest of the image file
    segment: int = 0
    row: int = 0  # in its segment


class Extent(NamedTuple):
    """What the images that are not removed have in common."""

    with_position: int
    bounds: tuple[float, float, float, float] | None  # south, west, north, east in degrees
    times: tuple[float, float] | None  # first and last, seconds since 1970


@dataclass(frozen=True)
class Changes:
    """The images, by id, that one commit put into a map or took out of it."""

    put: set[int] = field(default_factory=set)  # new, or with another position or other columns
    removed: set[int] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.put or self.removed)


class Manifest:
    """A connection to the manifest of a map; for one thread at a time.

    ``committed`` is called after each commit that changes images; see ``vpr.maps.search``.
    """

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self.path = folder / FILE
        self.committed: Callable[[Changes], None] | None = None
        self._changes = Changes()
        if not create and not self.path.is_file():
            raise DataError(f"{folder}: no map lies here (no {FILE}); `vpr map create` makes one")
        try:
            self.database = self._connect(create)
            found = self._format()
        except sqlite3.Error as error:
            raise self.damaged(error) from None
        if not create and found is None:
            raise DataError(f"{folder}: a map was begun here and has no image yet; run `vpr map create` again")
        if found is not None and found != FORMAT:
            raise DataError(f"{self.path}: a map of format {found}, this version of vpr reads {FORMAT}; update vpr")

    def _connect(self, create: bool) -> sqlite3.Connection:
        for mode in ("rwc",) if create else ("rw", "ro", "ro&immutable=1"):
            if "immutable" in mode and _pending(self.path):
                break
            uri = f"{self.path.resolve().as_uri()}?mode={mode}"
            database = sqlite3.connect(uri, BUSY_S, isolation_level=None, check_same_thread=False, uri=True)
            try:
                database.execute("SELECT 1 FROM sqlite_master").fetchone()
                return database
            except sqlite3.OperationalError as error:
                database.close()
                failed = error
        raise DataError(f"{self.path}: cannot be opened ({failed}); open the map once where its folder can be written")

    def _format(self) -> int | None:
        """The version of the format; None if there are no tables yet."""
        if not self.database.execute("SELECT 1 FROM sqlite_master WHERE name = 'facts'").fetchone():
            return None
        return int(self.fact("format"))

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Make the tables of an empty map, at once or not at all; nothing if they are there."""
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("PRAGMA synchronous = FULL")
        if self._format() is not None:
            return
        with self.writing():
            for statement in filter(str.strip, _SCHEMA.split(";\n")):
                self.database.execute(statement)
            rows = {"format": FORMAT, "version": 0, "next_segment": 1, **facts}
            self.database.executemany("INSERT INTO facts VALUES (?, ?)", list(rows.items()))

    def close(self) -> None:
        self.database.close()

    def damaged(self, error: Exception) -> DataError:
        return DataError(f"{self.path}: damaged or no manifest of a map ({error}); restore it from a copy")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Within it every query sees one state, whatever another process commits."""
        self.database.execute("BEGIN")
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise self.damaged(error) from None
        finally:
            if self.database.in_transaction:
                self.database.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction: all that happens within it is committed, or nothing."""
        self.database.execute("BEGIN IMMEDIATE")
        self._changes = Changes()
        try:
            yield
            if self._format() is not None:
                self.database.execute("UPDATE facts SET value = value + 1 WHERE key = 'version'")
            self.database.execute("COMMIT")
        except BaseException:
            if self.database.in_transaction:
                self.database.execute("ROLLBACK")
            raise
        if self.committed is not None and self._changes:
            self.committed(self._changes)

    def fact(self, key: str, default: Any = None) -> Any:
        row = self.database.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return default if row is None else row[0]

    def set_fact(self, key: str, value: Any) -> None:
        self.database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, value))

    @property
    def version(self) -> int:
        """Counts the commits."""
        return int(self.fact("version"))

    def segments(self) -> list[SegmentRecord]:
        rows = self.database.execute("SELECT id, folder, count, files FROM segments ORDER BY id")
        return [
            SegmentRecord(number, folder, count, {name: tuple(each) for name, each in json.loads(files).items()})
            for number, folder, count, files in rows
        ]

    def next_segment(self) -> int:
        """A number that no segment has had; it is given again until put_segment takes it."""
        return int(self.fact("next_segment"))

    def put_segment(self, segment: SegmentRecord) -> None:
        self.set_fact("next_segment", max(segment.id + 1, self.next_segment()))
        files = json.dumps(segment.files, sort_keys=True)
        row = (segment.id, segment.folder, segment.count, files)
        self.database.execute("INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?)", row)

    def drop_segments(self, numbers: Iterable[int]) -> None:
        """Forget segments, and the removed images that lie in them."""
        for number in numbers:
            self.database.execute("DELETE FROM segments WHERE id = ?", (number,))
            self.database.execute("DELETE FROM images WHERE segment = ? AND removed IS NOT NULL", (number,))

    def insert(self, images: Sequence[PlacedImage], contents: Sequence[str], segment: int) -> None:
        """Images that lie in the rows of a segment, in order."""
        first = self.last_id() + 1
        rows = []
        for row, (image, content) in enumerate(zip(images, contents, strict=True)):
            place = image.position or Position(None, None, None, None, None)
            about = (image.heading, image.time, image.group, _json(image.columns), content, segment, row, None)
            where = (place.latitude, place.longitude, place.east_m, place.north_m, place.zone)
            rows.append((first + row, image.name, *where, *about))
        self.database.executemany(f"INSERT INTO images VALUES ({', '.join('?' * 15)})", rows)
        self._changes.put.update(range(first, first + len(rows)))
        for number, image in enumerate(images, first):
            if image.position is not None and image.position.degrees is not None:
                self._box(number, image.position.degrees)

    def move(self, old: int, rows: Rows, new: int, first: int) -> None:
        """Images in rows of a segment to the rows from ``first`` on of another."""
        moved = [(new, place, old, row) for place, row in enumerate(rows.tolist(), first)]
        self.database.executemany("UPDATE images SET segment = ?, row = ? WHERE segment = ? AND row = ?", moved)

    def update(self, images: Iterable[tuple[int, PlacedImage]]) -> None:
        """What is newly known of the images of these ids; what an image does not say stays."""
        for number, image in images:
            self._changes.put.add(number)
            if image.position is not None:
                place = image.position
                where = (place.latitude, place.longitude, place.east_m, place.north_m, place.zone)
                self.database.execute(
                    "UPDATE images SET latitude = ?, longitude = ?, east_m = ?, north_m = ?, zone = ? WHERE id = ?",
                    (*where, number),
                )
                self.database.execute("DELETE FROM positions WHERE id = ?", (number,))
                if place.degrees is not None:
                    self._box(number, place.degrees)
            known = {"heading": image.heading, "time": image.time, '"group"': image.group or None}
            known["columns"] = _json(image.columns) if image.columns else None
            for column, value in known.items():
                if value is not None:
                    self.database.execute(f"UPDATE images SET {column} = ? WHERE id = ?", (value, number))

    def _box(self, number: int, degrees: tuple[float, float]) -> None:
        latitude, longitude = degrees
        row = (number, latitude, latitude, longitude, longitude)
        self.database.execute("INSERT INTO positions VALUES (?, ?, ?, ?, ?)", row)

    def remove(self, numbers: Sequence[int]) -> None:
        """Mark the images of these ids as removed."""
        self._changes.removed.update(numbers)
        version = self.version + 1
        self.database.executemany("UPDATE images SET removed = ? WHERE id = ?", [(version, each) for each in numbers])
        self.database.executemany("DELETE FROM positions WHERE id = ?", [(each,) for each in numbers])

    def count(self) -> int:
        """Images that are not removed."""
        removed = self.database.execute("SELECT count(*) FROM images WHERE removed IS NOT NULL").fetchone()[0]
        held = self.database.execute("SELECT coalesce(sum(count), 0) FROM segments").fetchone()[0]
        return int(held) - int(removed)

    def extent(self) -> Extent:
        query = (
            "SELECT count(coalesce(latitude, east_m)), min(latitude), min(longitude), max(latitude), max(longitude), "
            "min(time), max(time) FROM images WHERE removed IS NULL"
        )
        placed, south, west, north, east, first, last = self.database.execute(query).fetchone()
        bounds = None if south is None else (south, west, north, east)
        return Extent(placed, bounds, None if first is None else (first, last))

    def removed_rows(self, segment: int) -> Rows:
        rows = self.database.execute("SELECT row FROM images WHERE segment = ? AND removed IS NOT NULL", (segment,))
        return np.fromiter((row for (row,) in rows), dtype=np.int64)

    def by_names(self, names: Sequence[str]) -> dict[str, StoredImage]:
        """Those of the names that the map holds."""
        found: dict[str, StoredImage] = {}
        for first in range(0, len(names), _CHUNK):
            some = names[first : first + _CHUNK]
            marks = ", ".join("?" * len(some))
            found |= {image.name: image for image in self.images(f"name IN ({marks})", some)}
        return found

    def at_rows(self, places: Sequence[tuple[int, int]]) -> list[StoredImage]:
        """The images at rows of segments: (segment, row) each."""
        query = f"SELECT {_IMAGE} FROM images WHERE segment = ? AND row = ?"
        return [_image(self.database.execute(query, place).fetchone()) for place in places]

    def of_ids(self, numbers: Iterable[int]) -> Iterator[StoredImage]:
        """Those of the images of these ids that are not removed, by id."""
        return self.images(OF_IDS, [json.dumps(list(numbers))])

    def contents(self, numbers: Iterable[int]) -> dict[int, tuple[int, int, str, str]]:
        """Segment, row, name and content of those of the images of these ids that are not removed, by id."""
        query = f"SELECT id, segment, row, name, content FROM images WHERE removed IS NULL AND {OF_IDS}"
        return {row[0]: tuple(row[1:]) for row in self.database.execute(query, [json.dumps(list(numbers))])}

    def last_id(self) -> int:
        """The largest id that an image has had; 0 before the first."""
        query = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'images'"
        return int(self.database.execute(query).fetchone()[0])

    def images(self, condition: str = "", values: Sequence[Any] = ()) -> Iterator[StoredImage]:
        """The images that are not removed, by id, and meet a condition in SQL."""
        clause = f" AND ({condition})" if condition else ""
        for row in self.database.execute(
            f"SELECT {_IMAGE} FROM images WHERE removed IS NULL{clause} ORDER BY id", values
        ):
            yield _image(row)

    def places(self, condition: str = "", values: Sequence[Any] = (), *, boxed: bool = False) -> np.ndarray[Any, Any]:
        """(N, 5) id, segment, row, latitude and longitude of images that are not removed and meet a condition.

        With ``boxed`` the condition may name the columns of the R*Tree: south, north, west and east.
        """
        source = "positions JOIN images USING (id)" if boxed else "images"
        clause = f" AND ({condition})" if condition else ""
        query = f"SELECT images.id, segment, row, latitude, longitude FROM {source} WHERE removed IS NULL{clause}"
        rows = self.database.execute(query, values).fetchall()
        return np.array(rows, dtype=np.float64).reshape(-1, 5)

    def cells(self, box: Sequence[float], cell: float) -> np.ndarray[Any, Any]:
        """(N, 4) id of one image, number, mean latitude and longitude of the images in each cell of a grid of degrees.

        ``box`` is south, north, west, east. The places are those of the R*Tree, which rounds to a metre: by its table
        alone the clusters of 300,000 images take 0.5 in place of 1.5 s of the processor.
        """
        rows = self.database.execute(
            "SELECT min(id), count(*), avg((south + north) / 2), avg((west + east) / 2) FROM positions "
            f"WHERE {WITHIN} GROUP BY CAST((south + 90) / ? AS INTEGER), CAST((west + 180) / ? AS INTEGER)",
            (*box, cell, cell),
        )
        return np.array(rows.fetchall(), dtype=np.float64).reshape(-1, 4)

    def spread(self, boxes: Iterable[Sequence[float]]) -> tuple[int, float]:
        """Number of images in boxes, and degrees from the first to the last in latitude or longitude; as for cells."""
        query = f"SELECT count(*), min(south), max(north), min(west), max(east) FROM positions WHERE {WITHIN}"
        found = [row for box in boxes if (row := self.database.execute(query, box).fetchone())[0]]
        if not found:
            return 0, 0.0
        counts, south, north, west, east = np.array(found).T
        return int(counts.sum()), float(max(north.max() - south.min(), east.max() - west.min()))

    def check(self) -> list[str]:
        """What SQLite finds wrong, and what does not agree between the tables."""
        wrong = [row[0] for row in self.database.execute("PRAGMA integrity_check") if row[0] != "ok"]
        wrong += [row[0] for row in self.database.execute("SELECT rtreecheck('positions')") if row[0] != "ok"]
        for query, what in (
            ("SELECT count(*) FROM images WHERE segment NOT IN (SELECT id FROM segments)", "images of no segment"),
            ("SELECT count(*) FROM (SELECT s.count AS n, count(i.id) AS m FROM segments s LEFT JOIN images i "
             "ON i.segment = s.id GROUP BY s.id HAVING n != m)", "segments with another number of images"),
            ("SELECT count(*) FROM images WHERE removed IS NULL AND latitude IS NOT NULL "
             "AND id NOT IN (SELECT id FROM positions)", "positions that are not indexed"),
            ("SELECT count(*) FROM positions WHERE id NOT IN (SELECT id FROM images WHERE removed IS NULL)",
             "indexed positions of no image"),
        ):  # fmt: skip
            count = self.database.execute(query).fetchone()[0]
            wrong += [f"{count} {what}"] if count else []
        return wrong


def _json(columns: Mapping[str, Any]) -> str:
    return json.dumps(dict(columns), ensure_ascii=False)


def _pending(path: Path) -> bool:
    """Whether there are commits that are not in the file itself yet."""
    log = path.with_name(f"{path.name}-wal")
    return log.exists() and log.stat().st_size > 0


def _image(row: Sequence[Any]) -> StoredImage:
    number, name, latitude, longitude, east, north, zone, heading, time, group, columns, content, segment, place = row
    known = latitude is not None or east is not None
    position = Position(latitude, longitude, east, north, zone) if known else None
    return StoredImage(
        name,
        position,
        heading,
        time,
        group,
        json.loads(columns),
        id=number,
        content=content,
        segment=segment,
        row=place,
    )
