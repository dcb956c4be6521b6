"""Changes of a map: add, remove, compact. One writer at a time; each commit is one transaction of the manifest.

The files of a segment are written and flushed before the transaction that names them, so a writer that is killed at any
moment leaves what was committed, and files that nobody names: the next writer deletes those.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vpr.core import ConfigError, DataError, ImageError, ImageSet, LocalFeatures
from vpr.datasets.placed import PlacedImage
from vpr.features.contents import digest_of_file
from vpr.maps.engine import MapEngine, MapFeatures
from vpr.maps.filters import Condition
from vpr.maps.local_codec import LocalCodec, Profile, fit_pca
from vpr.maps.manifest import Changes, Manifest, SegmentRecord, StoredImage
from vpr.maps.search import MapSearch, search_of
from vpr.maps.segments import StoredLocal, sweep, write_segment
from vpr.maps.vectors import VectorCodec
from vpr.runtime.files import exclusive_lock
from vpr.runtime.progress import Progress

logger = logging.getLogger(__name__)

LOCK, CODEC = "writer.lock", "codec.safetensors"
SEGMENT_IMAGES = 1024  # added by one commit, and the most that a kill loses
FITTED_ON = 256  # images, where the codec of local features does not come with vpr


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
) -> Added:
    """Extract the features of images below ``root`` and commit them, ``segment_images`` at a time.

    An image that the map holds, by name and content, costs reading its file alone; one of that name with other content
    replaces it. Images that cannot be used are named in the result, or raised, as ``images.on_bad_image`` says.
    """
    result = Added()
    waiting, contents, replaced = _sorted_out(manifest, images, root, engine.engine.extractor.how.threads, result)
    if not waiting:
        return result
    vectors = VectorCodec(engine.dim)
    progress = Progress("add", len(waiting), "image")
    to_read = ImageSet(root, tuple(image.name for image in waiting))
    some: list[tuple[int, MapFeatures]] = []
    with progress:
        for row, features in engine.stream(to_read):
            progress.update()
            if isinstance(features, ImageError):
                logger.warning("skipped: %s", features)
                result.failed[waiting[row].name] = str(features)
            else:
                some.append((row, features))
            if some and (len(some) == segment_images or row == len(waiting) - 1):
                codec = None if engine.reranker is None else _codec(folder, [each.local for _, each in some], profile)
                chosen = [waiting[row] for row, _ in some]
                old = [replaced[image.name] for image in chosen if image.name in replaced]
                record = _write(manifest, folder, [each for _, each in some], vectors, codec)
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


def _codec(folder: Path, features: Sequence[LocalFeatures], profile: Profile) -> LocalCodec:
    """The codec of the map, which is fitted on these features if there is none yet."""
    path = folder / CODEC
    if not path.exists():
        codec = fit_pca(features[:FITTED_ON]).codec(profile)
        logger.info("%s: codec of local features fitted on %d images", folder, min(len(features), FITTED_ON))
        codec.save(path)
    return LocalCodec.load(path)


def _write(
    manifest: Manifest,
    folder: Path,
    features: Sequence[MapFeatures],
    vectors: VectorCodec,
    codec: LocalCodec | None,
) -> SegmentRecord:
    """The files of a segment, which the manifest does not name yet."""
    local: list[NDArray[np.uint8]] = [np.zeros((0, 1), np.uint8)] * len(features)
    if codec is not None:
        local = [codec.encode(each.local) for each in features]
    codes = vectors.encode(np.stack([each.vector for each in features]))
    frames = [(len(own), *each.local.image_size) for own, each in zip(local, features, strict=True)]
    return write_segment(folder, manifest.next_segment(), vectors, codes, StoredLocal(local, frames, local[0].shape[1]))
