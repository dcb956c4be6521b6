"""Named, versioned evaluation protocols: find one, say what it is, and judge a data set by it."""

from __future__ import annotations

import difflib
import logging
import re
from dataclasses import asdict, replace
from pathlib import PurePosixPath

import numpy as np

from vpr.config import digest_of_names, fingerprint
from vpr.core import ConfigError, DataError, Dataset, ImageSet, Rows
from vpr.datasets.catalogue import PROTOCOLS, EvaluationProtocol
from vpr.datasets.frames import frames_of
from vpr.datasets.ground_truth import answerable_only
from vpr.datasets.groups import by_label, with_regions, without_regions
from vpr.datasets.locating import layouts
from vpr.datasets.readers import reader
from vpr.positives import positives_within

_PROSE = (
    "source",
    "obtain",
    "note",
    "readers",
    "folders",
    "reading",
    "lists",
)  # may be worded better without changing what a recall means
_log = logging.getLogger(__name__)
_HASH = re.compile(r"\[([0-9a-f]{16})\]$")


def protocol(name: str) -> EvaluationProtocol:
    """The protocol of that exact name; raises ConfigError that lists the known ones."""
    if name not in PROTOCOLS:
        close = difflib.get_close_matches(name, PROTOCOLS, n=1, cutoff=0.5)
        hint = f", did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"unknown protocol {name!r}{hint}; known: {', '.join(sorted(PROTOCOLS))}")
    return PROTOCOLS[name]


def protocol_hash(record: EvaluationProtocol) -> str:
    """A short digest of everything in the record that can change a recall; printed with every recall."""
    values = {key: value for key, value in asdict(record).items() if key not in _PROSE}
    if not record.per_city:  # as records that were written before there was the key
        del values["per_city"]
    return fingerprint(values)


def hash_of_rule(stated: str) -> str:
    """The hash of a data set's ``protocol``: the one it ends with, if a named protocol judged it, else of its words."""
    named = _HASH.search(stated)
    return named[1] if named else fingerprint({"rule": stated})


def judge(dataset: Dataset, record: EvaluationProtocol) -> Dataset:
    """The data set with the positives, queries and groups that a protocol asks for, whichever reader read it.

    Where the rule counts frames, they are numbered as ``frames_of`` says, and what does not fit is logged.
    Raises DataError if the numbers of images are not the protocol's, or if positions, listed positives, groups or
    cities that it needs are missing.
    """
    for images, count, role in (
        (dataset.database, record.database, "database images"),
        (dataset.queries, record.queries, "queries"),
    ):
        if count is not None and len(images) != count:
            raise DataError(
                f"{dataset.name}: {len(images)} {role}, but {record.name} has {count}; recalls would not compare"
            )
    if record.one_per_group and dataset.database.groups is None:
        raise DataError(
            f"{dataset.name}: {record.name} keeps one image per panorama, but the database has no groups; "
            "read it with group_size (lists, dbstruct) or group_panoramas (folders)"
        )
    dataset = _by_city(dataset, record) if record.per_city else without_regions(dataset)
    judged = replace(
        dataset,
        database=dataset.database if record.one_per_group else replace(dataset.database, groups=None),
        positives=_positives(dataset, record),
        protocol=f"{record.name}, {rule(record)} [{protocol_hash(record)}]",
    )
    return replace(answerable_only(judged), protocol=judged.protocol) if record.drop_unanswerable else judged


def resembling(dataset: Dataset) -> list[EvaluationProtocol]:
    """The protocols whose image lists these are.

    They are known by the digest of the file names, in any order and of any suffix, else by both numbers of images.
    """
    lists = tuple(_digest_of_list(images) for images in (dataset.database, dataset.queries))
    by_list = [record for record in PROTOCOLS.values() if lists in record.lists]
    counts = (len(dataset.database), len(dataset.queries))
    return by_list or [record for record in PROTOCOLS.values() if (record.database, record.queries) == counts]


def hint(dataset: Dataset) -> str:
    """Which protocols a data set that none has judged looks like, and how to choose one; empty if it is not known."""
    found = resembling(dataset)
    if not found or named_in(dataset.protocol):
        return ""
    texts = [f"{record.name} ({_ranking(record)}; {record.source})" for record in found]
    options = " or ".join(f"--protocol {record.name}" for record in found)
    return f"these are the images of {'; or of '.join(texts)}; choose with {options}"


def named_in(stated: str) -> bool:
    """Whether a data set's ``protocol`` is that of a named protocol."""
    return _HASH.search(stated) is not None


def _digest_of_list(images: ImageSet) -> str:
    return digest_of_names(sorted(PurePosixPath(name).stem for name in images.names))


def _by_city(dataset: Dataset, record: EvaluationProtocol) -> Dataset:
    """The data set with each city as a region; raises DataError if neither its reader nor its names tell the cities."""
    if dataset.database.regions is not None:
        return dataset
    names = (*dataset.database.names, *dataset.queries.names)
    cities = [_city(name) for name in names]
    unknown = next((name for name, city in zip(names, cities, strict=True) if city is None), None)
    if unknown is not None:
        raise DataError(
            f"{dataset.name}: {record.name} searches each city by itself, but nothing says which city {unknown!r} is "
            "of; give the folder of the data set as published (train_val/<city>) to --reader msls"
        )
    regions = by_label([str(city) for city in cities])
    return with_regions(dataset, *np.split(regions, [len(dataset.database)]))


def _city(name: str) -> str | None:
    """The folder above ``database/images`` or ``query/images`` in MSLS's names; None in others."""
    parts = PurePosixPath(name).parts
    return parts[-4] if len(parts) > 3 and parts[-3] in ("database", "query") and parts[-2] == "images" else None


def _ranking(record: EvaluationProtocol) -> str:
    return f"{rule(record)}, {_ranked(record)}"


def _ranked(record: EvaluationProtocol) -> str:
    among = "one image per panorama" if record.one_per_group else "all images"
    return f"{among} of the query's city" if record.per_city else among


def rule(record: EvaluationProtocol) -> str:
    """Returns the rule that makes a candidate correct, in a few words."""
    if record.frames is not None:
        return f"within {record.frames} frame{'' if record.frames == 1 else 's'}"
    return "as listed" if record.radius_m is None else f"within {record.radius_m:g} m"


def describe(record: EvaluationProtocol) -> str:
    """The record for a human: what it is, which files it needs in which layout, what is known of the counts."""
    lines = [
        f"{record.name} (version {record.version}, {protocol_hash(record)})",
        f"  data set     {record.dataset}",
        f"  images       {_count(record.database)} database images, {_count(record.queries)} queries",
        f"  positive is  {rule(record)}",
        f"  ranking      {_ranked(record)}",
        f"  choose       --protocol {record.name}",
        f"  divides by   {'queries with positives' if record.drop_unanswerable else 'all queries'}",
        f"  recall at    {', '.join(map(str, record.recall_at))}",
        f"  used by      {record.source}",
        f"  obtain       {record.obtain}",
    ]
    lines += [f"  files        {name}: {reader(name).layout}" for name in record.readers]
    lines += [f"  below ROOT   {layout}" for layout in layouts(record)]
    lines.append(f"  verify       vpr datasets check {record.name} ROOT")
    if record.note:
        lines.append(f"  note         {record.note}")
    return "\n".join(lines)


def frame_positives(query_frames: Rows, database_frames: Rows, tolerance: int) -> tuple[Rows, ...]:
    """Per query, the rows of the database images at most ``tolerance`` frames away, ascending.

    (Q,) and (N,) frame numbers in any order, for sequences that follow one track, such as Nordland's seasons.
    """
    if tolerance < 0:
        raise ConfigError(f"a tolerance of {tolerance} frames makes no sense; give 0 or more")
    order = np.argsort(database_frames, kind="stable")
    in_order = database_frames[order]
    first = np.searchsorted(in_order, query_frames - tolerance, side="left")
    end = np.searchsorted(in_order, query_frames + tolerance, side="right")
    return tuple(np.sort(order[low:high]) for low, high in zip(first, end, strict=True))


def _positives(dataset: Dataset, record: EvaluationProtocol) -> tuple[Rows, ...]:
    if record.frames is not None:
        frames = frames_of(dataset, record.query_step)
        for remark in frames.remarks:
            _log.warning("%s: %s", dataset.name, remark)
        return frame_positives(frames.queries, frames.database, record.frames)
    if record.radius_m is not None:
        return positives_within(dataset.queries, dataset.database, record.radius_m)
    if dataset.positives is None:
        raise DataError(f"{dataset.name}: {record.name} needs the positives that come with the set; none were read")
    return dataset.positives


def _count(number: int | None) -> str:
    return "an unknown number of" if number is None else f"{number:,}"
