"""What a collection lacks, has too much, or says differently than the manifest; and making it agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vpr.maps.manifest import Manifest, StoredImage
from vpr.maps.milvus.collection import MARKER, MOST_FOUND, MilvusCollection
from vpr.maps.milvus.rows import row_mark, rows_of
from vpr.runtime.progress import Progress

_WINDOW = MOST_FOUND - 1  # ids


@dataclass(frozen=True)
class Difference:
    """Images by id, of a part of a map."""

    missing: list[StoredImage] = field(default_factory=list)
    differing: list[StoredImage] = field(default_factory=list)
    superfluous: list[int] = field(default_factory=list)


def differences(manifest: Manifest, collection: MilvusCollection) -> Iterator[Difference]:
    """How the collection differs from the manifest, window by window of the ids, so that memory stays small.

    The superfluous of one window must be deleted before the next is asked for, or not all of them are seen.
    """
    last = manifest.last_id() + 1
    with Progress("compare with Milvus", last, "id") as progress:
        for first in range(MARKER + 1, last, _WINDOW):
            end = min(last, first + _WINDOW)
            held = collection.marks(first, end)
            images = list(manifest.images("images.id >= ? AND images.id < ?", [first, end]))
            found = Difference()
            for image in images:
                mark = held.pop(image.id, None)
                if mark is None:
                    found.missing.append(image)
                elif mark != row_mark(image):
                    found.differing.append(image)
            found.superfluous.extend(sorted(held))
            yield found
            progress.update(end - first)
        for numbers in collection.foreign(last):
            yield Difference(superfluous=numbers)


def describe(manifest: Manifest, collection: MilvusCollection) -> list[str]:
    """The differences as sentences; empty if there are none."""
    total: dict[str, list[int]] = {"lacks": [], "says something else of": [], "has, and the map has not,": []}
    lacks, differs, extra = total.values()
    for found in differences(manifest, collection):
        lacks += [image.id for image in found.missing]
        differs += [image.id for image in found.differing]
        extra += found.superfluous
        if len(found.superfluous) == MOST_FOUND:
            break
    where = f"Milvus, collection {collection.name},"
    return [f"{where} {what} {_counted(numbers)}" for what, numbers in total.items() if numbers]


def _counted(numbers: list[int]) -> str:
    some = ", ".join(map(str, numbers[:3])) + (", ..." if len(numbers) > 3 else "")
    return f"{len(numbers)} image{'s' if len(numbers) > 1 else ''} (id {some})"


def repair(manifest: Manifest, folder: Path, collection: MilvusCollection) -> list[str]:
    """Put what is missing or differs, delete what is superfluous; returns what was done."""
    put = deleted = 0
    for found in differences(manifest, collection):
        images = [*found.missing, *found.differing]
        put += write(manifest, folder, collection, images)
        collection.delete(found.superfluous)
        deleted += len(found.superfluous)
    return [f"Milvus, collection {collection.name}: {put} images put, {deleted} deleted"] if put or deleted else []


def write(manifest: Manifest, folder: Path, collection: MilvusCollection, images: list[StoredImage]) -> int:
    """Put images into the collection; returns how many."""
    block = []
    for row in rows_of(manifest, folder, images):
        block.append(row)
        if len(block) == 1024:
            collection.put(block)
            block = []
    collection.put(block)
    return len(images)
