"""Segments of a map on disk: immutable folders with global descriptors and local features of some images.

``vectors-*.faiss`` holds the global descriptors; ``local.npy`` the keypoints of all images one after another, (K,
bytes) uint8; ``rows.npy`` (N + 1, 3) int64: where the keypoints of each image begin, and the width and height that the
local features refer to. A segment that the manifest does not name does not exist.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpr.core import DataError, Floats, LocalFeatures, Rows
from vpr.maps.local_codec import LocalCodec
from vpr.maps.manifest import SegmentRecord
from vpr.maps.vectors import Codes, VectorCodec, read_vectors, write_vectors
from vpr.runtime.files import sync_folder

SEGMENTS = "segments"
LOCAL, ROWS = "local.npy", "rows.npy"
_VECTORS = "vectors-"
_BLOCK = 1 << 24  # bytes that are copied at once


@dataclass(frozen=True, eq=False)
class Segment:
    """A segment that is open for reading; its files are mapped, so it can be read even after they are deleted."""

    record: SegmentRecord
    vectors: Any  # FAISS index of its global descriptors
    local: NDArray[np.uint8]  # (K, bytes)
    rows: Rows  # (N + 1, 3) first keypoint, width, height

    def features(self, row: int, codec: LocalCodec) -> LocalFeatures:
        """The local features of an image. Raises DataError where the files do not agree."""
        first, width, height = self.rows[row].tolist()
        last = int(self.rows[row + 1, 0])
        if not 0 <= first <= last <= len(self.local):
            raise DataError(f"segment {self.record.folder}: damaged {ROWS}; `vpr map verify` says more")
        return codec.decode(np.asarray(self.local[first:last]), (width, height))


def open_segment(folder: Path, record: SegmentRecord) -> Segment:
    """Map the files of a segment. Raises DataError if one is missing or has not the size that the manifest says."""
    home = folder / SEGMENTS / record.folder
    for name, (size, _) in record.files.items():
        found = (home / name).stat().st_size if (home / name).exists() else -1
        if found != size:
            state = "missing" if found < 0 else f"{found} bytes"
            raise DataError(f"{home / name}: {state}, the manifest says {size} bytes; restore it from a copy")
    try:
        local, rows = (np.load(home / name, mmap_mode="r", allow_pickle=False) for name in (LOCAL, ROWS))
    except (OSError, ValueError) as error:
        raise DataError(f"{home}: damaged: {error}; `vpr map verify` says more") from None
    vectors = read_vectors(home / vectors_of(record))
    if not len(rows) - 1 == vectors.ntotal == record.count:
        raise DataError(f"{home}: files of another number of images than the manifest says; `vpr map verify` says more")
    return Segment(record, vectors, local, rows)


def vectors_of(record: SegmentRecord) -> str:
    """The name of the file with the global descriptors."""
    return next(name for name in record.files if name.startswith(_VECTORS))


@dataclass(frozen=True, eq=False)
class StoredLocal:
    """The keypoints of some images, as they are written."""

    pieces: Iterable[NDArray[np.uint8]]  # (K, width) each, in the order of the images
    frames: Sequence[tuple[int, int, int]]  # number of keypoints, image width and height of each image
    width: int  # bytes of a keypoint


def write_segment(
    folder: Path, number: int, codec: VectorCodec, codes: Codes, local: StoredLocal, *, codebook: Floats | None = None
) -> SegmentRecord:
    """Write the files of a segment and flush them to disk; nobody sees it before the manifest names it.

    ``codes`` (N, bytes) are the global descriptors.
    """
    name = f"{number:06d}"
    home = folder / SEGMENTS / name
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    rows = np.zeros((len(local.frames) + 1, 3), np.int64)
    rows[1:, 0] = np.cumsum([count for count, _, _ in local.frames])
    rows[:-1, 1:] = [size for _, *size in local.frames]
    np.save(home / ROWS, rows)
    _write_pieces(home / LOCAL, local.pieces, int(rows[-1, 0]), local.width)
    record = SegmentRecord(number, name, len(codes), {each: _seal(home / each) for each in (LOCAL, ROWS)})
    written = rewrite_vectors(folder, record, codec, codes, codebook)
    sync_folder(home.parent)
    sync_folder(folder)
    return written


def rewrite_vectors(
    folder: Path, record: SegmentRecord, codec: VectorCodec, codes: Codes, codebook: Floats | None
) -> SegmentRecord:
    """The segment with its global descriptors in a new file beside the old one."""
    home = folder / SEGMENTS / record.folder
    old = next((name for name in record.files if name.startswith(_VECTORS)), "")
    count = int(old.removeprefix(_VECTORS).split(".")[0]) + 1 if old else 0
    name = f"{_VECTORS}{count}.faiss"
    (home / name).unlink(missing_ok=True)
    write_vectors(home / name, codec, codes, codebook)
    files = {each: seal for each, seal in record.files.items() if each != old}
    sealed = {**files, name: _seal(home / name)}
    sync_folder(home)
    return replace(record, files=sealed)


def sweep(folder: Path, records: Sequence[SegmentRecord]) -> int:
    """Delete what a killed writer left: folders and files that the manifest does not name. Returns how many."""
    known: Mapping[str, SegmentRecord] = {record.folder: record for record in records}
    swept = 0
    for home in sorted((folder / SEGMENTS).glob("*")):
        if home.name not in known:
            shutil.rmtree(home, ignore_errors=True)
            swept += 1
            continue
        for path in home.iterdir():
            if path.name not in known[home.name].files:
                path.unlink(missing_ok=True)
                swept += 1
    return swept


def check_segment(folder: Path, record: SegmentRecord) -> list[str]:
    """What is wrong with the files of a segment: each is read whole."""
    home, wrong = folder / SEGMENTS / record.folder, []
    for name, (size, digest) in record.files.items():
        try:
            found = _digest(home / name)
        except OSError as error:
            wrong.append(f"{home / name}: {error.strerror}")
            continue
        if found != digest or (home / name).stat().st_size != size:
            wrong.append(f"{home / name}: not the bytes that were written")
    if wrong:
        return wrong
    try:
        segment = open_segment(folder, record)
    except DataError as error:
        return [str(error)]
    starts = segment.rows[:, 0]
    if (np.diff(starts) < 0).any() or starts[-1] != len(segment.local):
        wrong.append(f"{home / ROWS}: the keypoints do not follow one another")
    return wrong


def _write_pieces(path: Path, pieces: Iterable[NDArray[np.uint8]], count: int, width: int) -> None:
    """Arrays (k, width) one after another as one .npy file of (count, width), without holding them in memory."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, width)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        written = sum(file.write(np.ascontiguousarray(piece).data) for piece in pieces if len(piece))
    assert written == count * width


def _seal(path: Path) -> tuple[int, str]:
    """Flush a file to disk; its size and checksum."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
    return path.stat().st_size, _digest(path)


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
