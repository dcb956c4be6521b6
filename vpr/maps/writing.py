"""Changes of a map: add, remove, compact. One writer at a time; each commit is one transaction of the manifest.

The files of a segment are written and flushed before the transaction that names them, so a writer that is killed at any
moment leaves what was committed, and files that nobody names: the next writer deletes those.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vpr.core import ConfigError, DataError, ImageError, ImageSet
from vpr.datasets.placed import PlacedImage
from vpr.features.contents import digest_of_file
from vpr.maps.encoding import EncodedImage, encoded_here
from vpr.maps.encoding_units import encoded_on
from vpr.maps.engine import MapEngine
from vpr.maps.filters import Condition
from vpr.maps.local_codec import CodecFile, Profile
from vpr.maps.manifest import Changes, Manifest, SegmentRecord, StoredImage
from vpr.maps.search import MapSearch, search_of
from vpr.maps.segments import StoredLocal, sweep, write_segment
from vpr.maps.vectors import VectorCodec
from vpr.runtime.files import exclusive_lock
from vpr.runtime.progress import Progress
from vpr.runtime.units import Workers

logger = logging.getLogger(__name__)

LOCK = "writer.lock"
SEGMENT_IMAGES = 1024  # added by one commit, and the most that a kill loses


@dataclass
class Added:
    """What became of the images that were to be added."""

    added: int = 0
    replaced: int = 0  # their file had changed
    known: int = 0  # were there already
    updated: int = 0  # of these, with another position or other columns
    failed: dict[str, str] = field(default_factory=dict)  # reason by name


@contextmanager
def writing(folder: Path, *, create: bool = False) -> Iterator[Manifest]:
    """The manifest, for the only writer of a map. Raises DataError while another process writes."""
    with exclusive_lock(folder / LOCK) as locked:
        if not locked:
            raise DataError(f"{folder}: another process is changing this map; wait for it to end")
        manifest = Manifest(folder, create=create)
        try:
            manifest.begin({})
            swept = sweep(folder, manifest.segments())
            if swept:
                logger.info("%s: deleted %d leftovers of a writer that was killed", folder, swept)
            manifest.committed = _Follower(folder, manifest)
            yield manifest
        finally:
            manifest.close()


class _Follower:
    """Passes commits on to what searches the map, which is built at the first of them."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.search: MapSearch | None = None

    def __call__(self, changes: Changes) -> None:
        if self.search is None:
            self.search = search_of(self.folder, self.manifest)
        self.search.follow(self.manifest, changes)


def add(
    manifest: Manifest,
    folder: Path,
    images: Sequence[PlacedImage],
    root: Path,
    *,
    engine: MapEngine,
    profile: Profile,
    segment_images: int = SEGMENT_IMAGES,
    workers: Workers | None = None,
) -> Added:
    """Extract the features of images below ``root`` and commit them, ``segment_images`` at a time.

    With ``workers`` these extract them; the map has the same bytes.
    An image that the map holds, by name and content, costs reading its file alone; one of that name with other content
    replaces it. Images that cannot be used are named in the result, or raised, as ``images.on_bad_image`` says.
    """
    result = Added()
    waiting, contents, replaced = _sorted_out(manifest, images, root, engine.engine.extractor.how.threads, result)
    if not waiting:
        return result
    vectors, codecs = VectorCodec(engine.dim), CodecFile(folder, profile)
    to_read = ImageSet(root, tuple(image.name for image in waiting))
    if workers is None:
        encoded = encoded_here(engine, to_read, codecs)
    else:
        places = {image.name: place for place, image in enumerate(images)}
        work = [(contents[image.name], places[image.name]) for image in waiting]
        encoded = encoded_on(workers, engine, to_read, work, codecs=codecs, segment_images=segment_images)
    some: list[tuple[int, EncodedImage]] = []
    with Progress("add", len(waiting), "image") as progress, closing(encoded):
        for row, image in encoded:
            progress.update()
            if isinstance(image, ImageError):
                logger.warning("skipped: %s", image)
                result.failed[waiting[row].name] = str(image)
            else:
                some.append((row, image))
            if some and (len(some) == segment_images or row == len(waiting) - 1):
                chosen = [waiting[row] for row, _ in some]
                old = [replaced[image.name] for image in chosen if image.name in replaced]
                record = _write(manifest, folder, [each for _, each in some], vectors)
                with manifest.writing():
                    manifest.put_segment(record)
                    manifest.remove(old)
                    manifest.insert(chosen, [contents[image.name] for image in chosen], record.id)
                result.added += len(some) - len(old)
                result.replaced += len(old)
                some = []
    return result


def remove(manifest: Manifest, folder: Path, names: Sequence[str], condition: Condition) -> int:
    """Mark images as removed, by name and by condition; returns how many.

    Raises DataError, and removes nothing, if the map has no image of one of the names.
    """
    if not names and not condition.sql:
        raise ConfigError('name the images to remove, or give a condition; `vpr map remove CITY --where "id > 0"`')
    found = manifest.by_names(names)
    unknown = [name for name in names if name not in found]
    if unknown:
        more = f" ({len(unknown)} such names)" if len(unknown) > 1 else ""
        raise DataError(
            f"{folder}: no image {unknown[0]!r}{more}; `vpr map list` prints the names. Nothing was removed"
        )
    numbers = {image.id for image in found.values()}
    if condition.sql:
        numbers |= set(manifest.places(condition.sql, condition.values)[:, 0].astype(np.int64).tolist())
    if numbers:
        with manifest.writing():
            manifest.remove(sorted(numbers))
    return len(numbers)


def _sorted_out(
    manifest: Manifest, images: Sequence[PlacedImage], root: Path, threads: int, result: Added
) -> tuple[list[PlacedImage], dict[str, str], dict[str, int]]:
    """Images whose features are lacking, content by name, and ids of those that are replaced, by name."""
    by_name: dict[str, PlacedImage] = {}
    for image in images:
        if image.name in by_name:
            raise DataError(f"{root}: image {image.name!r} is listed twice; list every image once")
        by_name[image.name] = image
    with ThreadPoolExecutor(threads, thread_name_prefix="hash") as pool:
        digests = pool.map(lambda name: digest_of_file(root / name), by_name)
        named = zip(by_name, Progress("hash images", len(by_name), "image").over(digests), strict=True)
        contents = dict(named)
    held = manifest.by_names(list(by_name))
    same = {name for name, stored in held.items() if stored.content == contents[name]}
    changed = [(held[name].id, by_name[name]) for name in sorted(same) if _differs(held[name], by_name[name])]
    if changed:
        with manifest.writing():
            manifest.update(changed)
    result.known, result.updated = len(same), len(changed)
    waiting = [image for name, image in by_name.items() if name not in same]
    return waiting, contents, {name: stored.id for name, stored in held.items() if name not in same}


def _differs(stored: StoredImage, image: PlacedImage) -> bool:
    """Whether an image says something new of its place; one without a position or columns says nothing."""
    news = (image.position, image.heading, image.time, image.group or None, dict(image.columns) or None)
    held = (stored.position, stored.heading, stored.time, stored.group or None, dict(stored.columns) or None)
    return any(new is not None and new != old for new, old in zip(news, held, strict=True))


def _write(manifest: Manifest, folder: Path, images: Sequence[EncodedImage], vectors: VectorCodec) -> SegmentRecord:
    """The files of a segment, which the manifest does not name yet."""
    codes = np.stack([each.vector for each in images])
    local = [each.local for each in images]
    frames = [(len(each.local), *each.image_size) for each in images]
    return write_segment(folder, manifest.next_segment(), vectors, codes, StoredLocal(local, frames, local[0].shape[1]))
