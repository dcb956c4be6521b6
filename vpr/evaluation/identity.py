"""Conditions under which two recalls can be compared."""

from __future__ import annotations

import hashlib

import numpy as np

from vpr.core import Dataset, ImageSet, Rows, usable_name


def truth_digest(dataset: Dataset) -> str:
    """A short digest of queries, database, and which database image is right for which query.

    Two recalls with one digest were asked the same questions. A protocol's hash says what the rule is; this says to
    which images it was applied, and so tells apart two copies of a data set that lie in another order.
    """
    digest = hashlib.sha256()
    for images in (dataset.queries, dataset.database):
        digest.update(f"{len(images)}\n".encode())
        for name in images.names:
            digest.update(usable_name(name).encode() + b"\n")
    digest.update(_groups(dataset.database))
    for rows in dataset.positives or ():
        digest.update(np.unique(rows).astype("<i8").tobytes() + b"\n")
    if dataset.unknown:
        digest.update(f"unknown {sorted(dataset.unknown)}\n".encode())
    digest.update(_regions(dataset))
    return digest.hexdigest()[:16]


def _regions(dataset: Dataset) -> bytes:
    """Which images share a region, however the regions are numbered."""
    here, there = dataset.database.regions, dataset.queries.regions
    if here is None or there is None:
        return b""
    return b"regions" + _first_rows(np.concatenate([here, there]))


def _groups(images: ImageSet) -> bytes:
    """Which images share a group, however the groups are numbered."""
    return b"" if images.groups is None else _first_rows(images.groups)


def _first_rows(numbers: Rows) -> bytes:
    """For each row the first with the same number."""
    _, first, member = np.unique(numbers, return_index=True, return_inverse=True)
    return bytes(first[member.reshape(-1)].astype("<i8").tobytes())
