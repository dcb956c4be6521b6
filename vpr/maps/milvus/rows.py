"""Images of a map as rows of a Milvus collection."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vpr.core import DataError, Floats
from vpr.maps.manifest import Manifest, StoredImage
from vpr.maps.milvus.collection import MOST_JSON, MOST_TEXT
from vpr.maps.milvus.expressions import NUMBERS, TEXTS, UNKNOWN
from vpr.maps.segments import open_segment
from vpr.maps.vectors import VectorCodec, codes_of


def content_mark(name: str, content: str) -> int:
    """63 bits of an image's name and content: what a row of its id must have to be of this image."""
    return _digest([name, content])


def row_mark(image: StoredImage) -> int:
    """63 bits of all that a row says of an image: equal marks, equal rows."""
    return _digest([image.name, image.content, _scalars(image), dict(image.columns)])


def rows_of(manifest: Manifest, folder: Path, images: Sequence[StoredImage]) -> Iterator[dict[str, Any]]:
    """The rows of images that are not removed, with the descriptors that their segments hold.

    Raises DataError for a group or free columns that are longer than Milvus takes, or a damaged segment.
    """
    records = {record.id: record for record in manifest.segments()}
    by_segment: dict[int, list[StoredImage]] = {}
    for image in images:
        by_segment.setdefault(image.segment, []).append(image)
    for number, some in by_segment.items():
        vectors = open_segment(folder, records[number]).vectors
        codes = codes_of(vectors)[[image.row for image in some]]
        decoded = VectorCodec(vectors.d).decode(codes)
        for image, vector in zip(some, decoded, strict=True):
            yield _row(image, vector)


def _row(image: StoredImage, vector: Floats) -> dict[str, Any]:
    columns, scalars = dict(image.columns), _scalars(image)
    long = [name for name in TEXTS.values() if len(scalars[name].encode()) > MOST_TEXT]
    if long or len(json.dumps(columns).encode()) > MOST_JSON:
        what = "group" if long else "free columns"
        raise DataError(
            f"image {image.name!r}: its {what} take more than the {MOST_JSON} bytes of Milvus; shorten them"
        )
    marks = {"content": content_mark(image.name, image.content), "mark": row_mark(image)}
    return {"id": image.id, "vector": vector, **marks, **scalars, "columns": columns}


def _scalars(image: StoredImage) -> dict[str, Any]:
    place = image.position
    known = {**({} if place is None else vars(place)), "heading": image.heading, "time": image.time}
    numbers = {name: UNKNOWN if known.get(name) is None else float(known[name]) for name in NUMBERS}
    return {**numbers, TEXTS["zone"]: known.get("zone") or "", TEXTS["group"]: image.group}


def _digest(parts: Sequence[Any]) -> int:
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
