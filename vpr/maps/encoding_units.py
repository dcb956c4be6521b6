"""Images to what a segment stores of them, by other processes: a unit is a part of the list of images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np

from vpr.build import on_worker
from vpr.config import fingerprint
from vpr.core import Floats, ImageError, ImageSet
from vpr.maps.encoding import EncodedImage, Encoder, Encoding
from vpr.maps.engine import MapEngine, MapFeatures, build_engine
from vpr.maps.local_codec import FITTED_ON, CodecFile, LocalCodec, some_descriptors
from vpr.maps.vectors import VectorCodec
from vpr.runtime.units import Computed, Workers, require_folder

UNIT_IMAGES = 128  # about, and the most that a worker that dies has computed in vain


@dataclass(frozen=True, eq=False)
class EncodingUnit:
    """Some images to be encoded."""

    key: str
    images: ImageSet
    codec: LocalCodec | None

    def compute(self, engine: MapEngine) -> Computed:
        found, failed = _features(engine, self.images)
        return Computed(_arrays(Encoder(VectorCodec(engine.dim), self.codec).encode(found)), failed)


@dataclass(frozen=True, eq=False)
class SamplingUnit:
    """Some images, of whose descriptors the codec of a map is fitted."""

    key: str
    images: ImageSet

    def compute(self, engine: MapEngine) -> Computed:
        found, failed = _features(engine, self.images)
        parts = [some_descriptors(each.local) for each in found]
        counts = np.array([len(part) for part in parts], np.int64)
        kept = [part for part in parts if len(part)] or [np.zeros((0, 1), np.float32)]
        return Computed({"descriptors": np.concatenate(kept), "counts": counts}, failed)


def encoded_on(
    workers: Workers,
    engine: MapEngine,
    images: ImageSet,
    work: Sequence[tuple[str, int]],
    *,
    codecs: CodecFile,
    segment_images: int,
) -> Encoding:
    """As encoded_here, by workers. ``work`` is content and place of each image in the list that was to be added.

    By their places the images fall into the same units after a part of them was committed.
    """
    settings = engine.engine.settings
    size = unit_images(settings.store.batch_size)
    units = [list(rows) for _, rows in groupby(range(len(images)), lambda row: work[row][1] // size)]
    made_by = fingerprint(settings.model_dump(mode="json", exclude={"machine"})) + fingerprint(engine.weights())
    contents = [content for content, _ in work]

    def key(rows: Sequence[int], what: str) -> str:
        digest = hashlib.blake2b(f"{made_by} {what} {images.root}".encode(), digest_size=16)
        for row in rows:
            digest.update(f"\n{images.names[row]}\n{contents[row]}".encode())
        return digest.hexdigest()

    build = partial(build_engine, on_worker(settings, workers.threads))
    if engine.reranker is not None and not codecs.exists:
        sampling = [SamplingUnit(key(rows, "sample"), _part(images, rows)) for rows in units]
        found = _samples(workers, build, sampling)
        if found:
            codecs.fit(found)
    codec = codecs.load() if engine.reranker is not None and codecs.exists else None
    by_codec = "" if codec is None else codec.digest
    encoding = [EncodingUnit(key(rows, by_codec), _part(images, rows), codec) for rows in units]
    kept = 2 + segment_images // size  # as many as the images of a segment that is not committed yet lie in
    with closing(workers.compute(build, encoding, kept=kept)) as results:
        for rows, computed in zip(units, results, strict=True):
            codes = _images(computed)
            for place, row in enumerate(rows):
                reason = computed.failed.get(place)
                if reason is not None and settings.images.on_bad_image == "fail":
                    raise ImageError(reason)
                yield row, next(codes) if reason is None else ImageError(reason)


def unit_images(batch_size: int) -> int:
    """Images of a unit: about UNIT_IMAGES, in whole batches, so that batches hold what they hold in one process."""
    return max(1, UNIT_IMAGES // batch_size) * batch_size


def _samples(workers: Workers, build: Callable[[], MapEngine], units: Sequence[SamplingUnit]) -> list[Floats]:
    """Descriptors of each of the first FITTED_ON images that can be read."""
    found: list[Floats] = []
    first = 0
    while len(found) < FITTED_ON and first < len(units):
        most = first + -(-(FITTED_ON - len(found)) // len(units[first].images.names))
        for computed in workers.compute(build, units[first:most]):
            ends = np.cumsum(computed.arrays["counts"])[:-1]
            found += np.split(computed.arrays["descriptors"], ends) if len(computed.arrays["counts"]) else []
        first = most
    return found[:FITTED_ON]


def _part(images: ImageSet, rows: Sequence[int]) -> ImageSet:
    return ImageSet(images.root, tuple(images.names[row] for row in rows))


def _features(engine: MapEngine, images: ImageSet) -> tuple[list[MapFeatures], dict[int, str]]:
    """Features of the images that can be read, and the reasons by place of the others."""
    require_folder(images.root)
    found: list[MapFeatures] = []
    failed: dict[int, str] = {}
    for place, features in engine.stream(images):
        if isinstance(features, ImageError):
            failed[place] = str(features)
        else:
            found.append(features)
    return found, failed


def _arrays(images: Sequence[EncodedImage]) -> dict[str, np.ndarray]:
    if not images:
        return {}
    return {
        "vectors": np.stack([each.vector for each in images]),
        "local": np.concatenate([each.local for each in images]),
        "frames": np.array([(len(each.local), *each.image_size) for each in images], np.int64),
    }


def _images(computed: Computed) -> Iterator[EncodedImage]:
    """What ``_arrays`` was made of."""
    if "frames" not in computed.arrays:
        return
    first = 0
    for vector, (count, width, height) in zip(
        computed.arrays["vectors"], computed.arrays["frames"].tolist(), strict=True
    ):
        yield EncodedImage(vector, computed.arrays["local"][first : first + count], (width, height))
        first += count
