"""Compaction of a map: small segments and those with many removed images are merged, and large ones get sketches.

Each new segment is one commit, so a compaction that is killed leaves a map that is whole and partly compacted.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vpr.core import Floats, Rows
from vpr.maps.manifest import Manifest, SegmentRecord
from vpr.maps.segments import (
    SEGMENTS,
    Segment,
    StoredLocal,
    open_segment,
    rewrite_vectors,
    write_segment,
)
from vpr.maps.snapshot import Snapshot, open_snapshot
from vpr.maps.vectors import (
    SKETCHED_ROWS,
    Codes,
    VectorCodec,
    closeness,
    codebook_of,
    codes_of,
    has_sketches,
    train_codebook,
)
from vpr.runtime.files import write_atomically
from vpr.runtime.progress import Progress

logger = logging.getLogger(__name__)

CODEBOOK = "codebook.npy"  # (M, 16, dim / M) of the sketches, shared by the segments that are written next
_FORMER = "quantiser.npy"  # of the inverted lists that large maps had before
MOST_ROWS = 262_144  # of a merged segment
SMALL_ROWS = 8192  # of a segment that is merged with any other
REMOVED_SHARE = 0.1  # a segment with more removed images is rewritten
GROWN = 4.0  # the codebook is trained again when the map has this many times the images,
DRIFT = 0.05  # or when their mean similarity with their sketches has fallen by this share since its training
_COMPARED = 100  # stored images that ask before and after
_TOP = 10
_COPIED = 4096  # images whose keypoints are copied at once


@dataclass(frozen=True)
class Compacted:
    """What a compaction did."""

    before: int  # segments
    after: int
    dropped: int  # removed images whose data are gone
    trained: bool  # whether the codebook of the sketches was
    recall: tuple[float, float] | None  # of the exact first ten, before and after; None without sketches


def compact(manifest: Manifest, folder: Path) -> Compacted:
    """Merge, drop what is removed, and train the codebook where the map has grown or drifted.

    Old files are deleted after the commit; readers that have them mapped go on.
    """
    before = open_snapshot(folder, manifest)
    if not before.segments:
        return Compacted(0, 0, 0, False, None)
    codec = VectorCodec(next(iter(before.segments.values())).vectors.d)
    codebook, trained = _codebook(manifest, folder, codec, before)
    dropped = 0
    for group in _groups(manifest):
        dropped += _merge(manifest, folder, codec, group, codebook)
    for record in manifest.segments():
        if codebook is not None and record.count >= SKETCHED_ROWS:
            _sketch(manifest, folder, codec, record, codebook)
    (folder / _FORMER).unlink(missing_ok=True)
    after = open_snapshot(folder, manifest)
    sketched = any(has_sketches(each.vectors) for each in after.segments.values())
    recall = None
    if sketched:
        queries = _queries(after, codec)
        recall = _recall(before, after, queries)
    return Compacted(len(before.segments), len(after.segments), dropped, trained, recall)


def _codebook(manifest: Manifest, folder: Path, codec: VectorCodec, snapshot: Snapshot) -> tuple[Floats | None, bool]:
    """The codebook, and whether it was trained now; none for a map too small for a segment with sketches."""
    if snapshot.count < SKETCHED_ROWS:
        return None, False
    path = folder / CODEBOOK
    codes = [codes_of(each.vectors) for each in snapshot.segments.values()]
    if path.exists():
        codebook = np.load(path, allow_pickle=False)
        near = _closeness(codec, codes, codebook)
        fine = near >= (1 - DRIFT) * float(manifest.fact("codebook_closeness", 0.0))
        if fine and snapshot.count < GROWN * int(manifest.fact("codebook_images", 0)):
            return codebook, False
    logger.info("training the codebook of sketches on up to %d images", snapshot.count)
    codebook = train_codebook(codec, codes)
    _save(path, codebook)
    manifest.set_fact("codebook_images", snapshot.count)
    manifest.set_fact("codebook_closeness", _closeness(codec, codes, codebook))
    return codebook, True


def _closeness(codec: VectorCodec, codes: Sequence[Codes], codebook: Floats) -> float:
    shares = [(closeness(codec, each, codebook), len(each)) for each in codes if len(each)]
    return float(np.average([near for near, _ in shares], weights=[count for _, count in shares]))


def _save(path: Path, array: Floats) -> None:
    import io

    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomically(path, buffer.getvalue())


def _groups(manifest: Manifest) -> list[list[SegmentRecord]]:
    """Segments that become one, in order; one alone only if many of its images are removed.

    A segment takes part if it is small beside the smaller ones together, so that an image is copied a number of times
    that grows with the logarithm of the map.
    """
    records = {record.id: record for record in manifest.segments()}
    removed = {number: len(manifest.removed_rows(number)) for number in records}
    live = {number: record.count - removed[number] for number, record in records.items()}
    many = {number for number, record in records.items() if removed[number] > REMOVED_SHARE * record.count}
    chosen, total = [], 0
    for number in sorted(records, key=lambda each: (live[each], each)):
        if number in many or live[number] <= max(total, SMALL_ROWS):
            chosen.append(number)
            total += live[number]
    groups: list[list[int]] = []
    room = 0
    for number in sorted(chosen):
        if not groups or live[number] > room:
            groups.append([])
            room = MOST_ROWS
        groups[-1].append(number)
        room -= live[number]
    return [[records[each] for each in group] for group in groups if len(group) > 1 or group[0] in many]


def _merge(
    manifest: Manifest, folder: Path, codec: VectorCodec, group: Sequence[SegmentRecord], codebook: Floats | None
) -> int:
    """One segment instead of several; returns how many removed images were dropped."""
    segments = [open_segment(folder, record) for record in group]
    live = [np.setdiff1d(np.arange(each.count), manifest.removed_rows(each.id)) for each in group]
    count, number = sum(map(len, live)), manifest.next_segment()
    dropped = sum(each.count for each in group) - count
    record = None
    if count:
        codes = np.concatenate([codes_of(each.vectors)[rows] for each, rows in zip(segments, live, strict=True)])
        frames = np.concatenate([_frames(each, rows) for each, rows in zip(segments, live, strict=True)])
        width = max((each.local.shape[1] for each in segments if len(each.local)), default=1)
        with Progress("compact", count, "image") as progress:
            pieces = _pieces(segments, live, progress)
            sizes = [tuple(each) for each in frames.tolist()]
            record = write_segment(folder, number, codec, codes, StoredLocal(pieces, sizes, width), codebook=codebook)
    with manifest.writing():
        first = 0
        for old, rows in zip(group, live, strict=True):
            manifest.move(old.id, rows, number, first)
            first += len(rows)
        if record is not None:
            manifest.put_segment(record)
        manifest.drop_segments([each.id for each in group])
    for old in group:
        shutil.rmtree(folder / SEGMENTS / old.folder, ignore_errors=True)
    return dropped


def _frames(segment: Segment, rows: Rows) -> NDArray[np.int64]:
    """(N, 3) number of keypoints, width and height of images."""
    counts = segment.rows[rows + 1, 0] - segment.rows[rows, 0]
    return np.column_stack([counts, segment.rows[rows, 1:]])


def _pieces(segments: Sequence[Segment], live: Sequence[Rows], progress: Progress) -> Iterator[NDArray[np.uint8]]:
    """The keypoints of all live images, in order; neighbouring images in one piece."""
    for segment, rows in zip(segments, live, strict=True):
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        for run in runs:
            for first in range(0, len(run), _COPIED):
                some = run[first : first + _COPIED]
                yield segment.local[segment.rows[some[0], 0] : segment.rows[some[-1] + 1, 0]]
                progress.update(len(some))


def _sketch(manifest: Manifest, folder: Path, codec: VectorCodec, record: SegmentRecord, codebook: Floats) -> None:
    """Sketches of a large segment; nothing if it has those of this codebook already."""
    vectors = open_segment(folder, record).vectors
    if has_sketches(vectors) and np.array_equal(codebook_of(vectors), codebook):
        return
    written = rewrite_vectors(folder, record, codec, codes_of(vectors), codebook)
    with manifest.writing():
        manifest.put_segment(written)
    for name in record.files.keys() - written.files.keys():
        (folder / SEGMENTS / record.folder / name).unlink(missing_ok=True)


def _queries(snapshot: Snapshot, codec: VectorCodec) -> Floats:
    """The descriptors of some images of the map, a little moved, so that none finds itself exactly."""
    random = np.random.default_rng(0)
    parts = []
    for number, segment in snapshot.segments.items():
        live = np.flatnonzero(snapshot.live.get(number, np.ones(segment.record.count, bool)))
        share = -(-_COMPARED * len(live) // max(1, snapshot.count))
        chosen = live[np.linspace(0, len(live) - 1, min(share, len(live))).astype(np.int64)]
        parts.append(codec.decode(codes_of(segment.vectors)[chosen]))
    vectors = np.concatenate(parts)
    moved = vectors + random.normal(0, 0.3 / vectors.shape[1] ** 0.5, vectors.shape).astype(np.float32)
    unit: Floats = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    return unit


def _recall(before: Snapshot, after: Snapshot, queries: Floats) -> tuple[float, float]:
    """Share of the exact first ten that a search finds before and after, by similarity."""
    shares = []
    for snapshot in (before, after):
        kept = [
            sum(one.similarity >= exact[-1].similarity - 1e-6 for one in snapshot.search(query, _TOP)) / len(exact)
            for query in queries
            if (exact := snapshot.search(query, _TOP, refined=0))
        ]
        shares.append(float(np.mean(kept)))
    return shares[0], shares[1]
