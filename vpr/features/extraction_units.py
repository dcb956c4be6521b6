"""Features of an image set by other processes: a unit is what a shard lacks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from vpr.core import ImageError, ImageSet
from vpr.features.contents import Contents
from vpr.features.extraction import Extraction, FeatureOutput, Kind, Pass, Slice, computed_here
from vpr.features.masks import Masks
from vpr.runtime.units import Computed, Workers, require_folder


class Extracts(Protocol):
    """Methods of a worker."""

    how: Extraction

    def passes(self) -> Sequence[tuple[Pass, Sequence[Kind]]]: ...


@dataclass(frozen=True, eq=False)
class ExtractionUnit:
    """Some images of one pass."""

    key: str
    images: ImageSet
    place: int  # of the pass
    masks: Masks | None
    degrees: int

    def compute(self, methods: Extracts) -> Computed:
        require_folder(self.images.root)
        way, kinds = methods.passes()[self.place]
        rows = list(range(len(self.images)))
        found = computed_here(self.images, way, [rows], how=methods.how, masks=self.masks, degrees=self.degrees)
        features, failed = next(found)
        good = [features[row] for row in rows if row not in failed]
        arrays: dict[str, Any] = {}
        for number, kind in enumerate(kinds if good else ()):
            packed = kind.pack([each[number] for each in good])
            arrays |= {f"{number} {name}": array for name, array in packed.items()}
        return Computed(arrays, failed)


def computed_on(
    workers: Workers,
    build: Callable[[], Extracts],
    images: ImageSet,
    contents: Contents,
    rows: Sequence[Sequence[int]],
    *,
    place: int,
    outputs: Sequence[FeatureOutput],
    how: Extraction,
    masks: Masks | None,
    degrees: int,
) -> Generator[Slice, None, None]:
    """As computed_here, by workers that ``build`` methods with the pass at ``place``."""
    origins = " ".join(f"{output.origin.kind} {output.origin.fingerprint}" for output in outputs)
    made_by = f"{origins} {degrees} {how.max_megapixels} {images.root}"

    def unit(some: Sequence[int]) -> ExtractionUnit:
        digest = hashlib.blake2b(made_by.encode(), digest_size=16)
        for row in some:
            digest.update(f"\n{images.names[row]}\n{contents.keys[row]}".encode())
        part = ImageSet(images.root, tuple(images.names[row] for row in some))
        return ExtractionUnit(digest.hexdigest(), part, place, masks, degrees)

    with closing(workers.compute(build, [unit(some) for some in rows if some])) as results:
        for some in rows:
            if not some:
                yield {}, {}
                continue
            computed = next(results)
            failed = {some[at]: reason for at, reason in computed.failed.items()}
            if failed and how.on_bad_image == "fail":
                raise ImageError(failed[min(failed)])
            good = [row for row in some if row not in failed]
            yield dict(zip(good, _items(computed, outputs, len(good)), strict=True)), failed
        assert next(results, None) is None  # all are stored, and the workers may forget them


def _items(computed: Computed, outputs: Sequence[FeatureOutput], count: int) -> list[tuple[Any, ...]]:
    """The features of each image, of all kinds."""
    arrays: list[dict[str, Any]] = [{} for _ in outputs]
    for name, array in computed.arrays.items():
        number, _, own = name.partition(" ")
        arrays[int(number)][own] = array
    return [
        tuple(output.kind.unpack(own, at) for output, own in zip(outputs, arrays, strict=True)) for at in range(count)
    ]
