"""Images to what a segment stores of them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpr.core import ImageError, ImageSet
from vpr.maps.engine import MapEngine, MapFeatures
from vpr.maps.local_codec import FITTED_ON, CodecFile, LocalCodec, some_descriptors
from vpr.maps.vectors import VectorCodec
from vpr.runtime.threads import one_thread

ENCODED_AT_ONCE = 16  # images

Encoding = Generator["tuple[int, EncodedImage | ImageError]", None, None]  # by row, in order


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """What a segment stores of an image."""

    vector: NDArray[np.uint8]  # (bytes,) of the global descriptor
    local: NDArray[np.uint8]  # (K, bytes of a keypoint)
    image_size: tuple[int, int]  # width and height that the keypoints refer to


@dataclass(frozen=True, eq=False)
class Encoder:
    """Features to codes; each image by itself and on one thread, so that the bytes are the same on every machine."""

    vectors: VectorCodec
    local: LocalCodec | None  # None where no local features are stored

    def encode(self, features: Sequence[MapFeatures]) -> list[EncodedImage]:
        nothing = np.zeros((0, 1), np.uint8)
        with one_thread():
            return [
                EncodedImage(
                    self.vectors.encode(each.vector[None])[0],
                    nothing if self.local is None else self.local.encode(each.local),
                    each.local.image_size,
                )
                for each in features
            ]


def encoded_here(engine: MapEngine, images: ImageSet, codecs: CodecFile) -> Encoding:
    """Row and codes of each image, in order, or its ImageError, by the methods of this process."""
    to_fit = engine.reranker is not None and not codecs.exists
    encoder = None if to_fit else encoder_of(engine, codecs)
    held: list[tuple[int, MapFeatures | ImageError]] = []
    good = 0
    for row, found in engine.stream(images):
        held.append((row, found))
        good += not isinstance(found, ImageError)
        if good < (FITTED_ON if encoder is None else ENCODED_AT_ONCE) and row < len(images) - 1:
            continue
        readable = [each for _, each in held if not isinstance(each, ImageError)]
        if encoder is None and readable:
            codecs.fit([some_descriptors(each.local) for each in readable])
            encoder = encoder_of(engine, codecs)
        codes = iter([] if encoder is None else encoder.encode(readable))
        yield from ((row, each if isinstance(each, ImageError) else next(codes)) for row, each in held)
        held, good = [], 0


def encoder_of(engine: MapEngine, codecs: CodecFile) -> Encoder:
    """The encoder of a map whose codec is there, or that needs none."""
    return Encoder(VectorCodec(engine.dim), None if engine.reranker is None else codecs.load())
