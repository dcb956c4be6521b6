"""The table of readers, and the choice of a reader for two plain folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vpr.core import ConfigError, Dataset
from vpr.datasets import dbstruct, folders, ground_truth_csv, image_lists, kapture_tree, msls, msls_test


@dataclass(frozen=True)
class Reader:
    """One convention in which data sets come."""

    read: Callable[..., Dataset]
    layout: str  # the files it needs, for a human


READERS: Mapping[str, Reader] = {
    "folders": Reader(
        folders.read_folders,
        "a folder of database images and one of queries; positions in the file names "
        "(@utm_east@utm_north@...@.jpg) give the ground truth",
    ),
    "ground_truth_csv": Reader(
        ground_truth_csv.read_ground_truth_csv,
        "a folder with database/, queries/ and ground_truth.csv (query,positives[,soft_positives])",
    ),
    "image_lists": Reader(
        image_lists.read_image_lists,
        "two text files with one image name per line, the folder they are relative to, and an npz with utmQ, utmDb "
        "and posDistThr (Patch-NetVLAD)",
    ),
    "dbstruct": Reader(
        dbstruct.read_dbstruct,
        "a .mat file with a dbStruct, the folder of its database images, and that of its queries (NetVLAD)",
    ),
    "msls": Reader(
        msls.read_msls,
        "train_val/<city>/{database,query}/ with images/, postprocessed.csv, raw.csv and subtask_index.csv",
    ),
    "msls_test": Reader(
        msls_test.read_msls_test,
        "test/<city>/{database,query}/ with images/ and subtask_index.csv; without positions, for the MSLS challenge",
    ),
    "kapture": Reader(
        kapture_tree.read_kapture_pair,
        "two kapture 1.x trees, one to search and one of queries, with sensors/records_camera.txt and poses or GNSS",
    ),
}


def reader(name: str) -> Reader:
    """The reader of that exact name; raises ConfigError that lists the known ones."""
    if name not in READERS:
        raise ConfigError(f"unknown reader {name!r}; known: {', '.join(sorted(READERS))}")
    return READERS[name]


def read_pair(database: Path, queries: Path, radius_m: float = 25.0, *, ground_truth: bool = True) -> Dataset:
    """Two folders of images, or single images, with the best ground truth that lies with them; ``protocol`` says which.

    A ``ground_truth.csv`` beside both folders that lists their images comes first, then positions in the file names,
    then none. Without ``ground_truth`` nothing is looked for.
    """
    here, there = (place.parent if place.is_file() else place for place in (queries, database))
    above = Path(os.path.abspath(here)).parent  # Path(".").parent is itself
    listed = above / ground_truth_csv.FILE_NAME
    beside = above.resolve() == Path(os.path.abspath(there)).parent.resolve()
    if ground_truth and beside and not database.is_file() and ground_truth_csv.fits(listed, here):
        return ground_truth_csv.read_listed(listed, database, queries)
    return folders.read_folders(database, queries, radius_m, ground_truth=ground_truth)
