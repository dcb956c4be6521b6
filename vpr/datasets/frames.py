"""Frame numbers of two traverses of one track, such as Nordland's seasons: from the names where they have them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vpr.core import Dataset, Rows
from vpr.datasets import utm_names

NAMED = 5  # frames that a remark names
_NUMBER = re.compile(r"(\d+)\D*$")


@dataclass(frozen=True, eq=False)
class Frames:
    """Where on the track each image was taken."""

    queries: Rows  # (Q,) frames counted from the first that either side has
    database: Rows  # (N,)
    remarks: tuple[str, ...] = ()  # frames that only one side has, or why the rows were counted instead


def frames_of(dataset: Dataset, query_step: int = 1) -> Frames:
    """The frames of a data set, by the last number in each file name.

    A frame is the place of its number among those of both sides, so stretches that were left out of both (tunnels) do
    not count. With a ``query_step`` the queries may also be numbered one by one. Rows are counted where names have no
    numbers, or repeat them; and where the two sides hardly share a number, which is remarked.
    """
    rows = Frames(
        np.arange(len(dataset.queries), dtype=np.int64) * query_step, np.arange(len(dataset.database), dtype=np.int64)
    )
    here, there = numbers_of(dataset.queries.names), numbers_of(dataset.database.names)
    if here is None or there is None or not len(here) or not len(there):
        return rows
    shared = np.isin(here, there).sum()
    if query_step > 1:
        steps = (here - there.min()) * query_step
        stepped = steps + there.min() if (here >= there.min()).all() else steps
        known = np.isin(stepped, there).sum()
        if known > shared or (known == shared and here.max() - here.min() < len(here)):
            here, shared = stepped, known
    if shared < len(here) / 2:
        remark = (
            f"only {shared} of {len(here)} queries have a number that a database image has, so frames are counted by "
            f"rows: query 0 ({dataset.queries.names[0]}) is taken to show what database image 0 "
            f"({dataset.database.names[0]}) shows"
        )
        return Frames(rows.queries, rows.database, (remark,))
    remarks = [_remark("frames of the queries are not in the database", np.setdiff1d(here, there))]
    if query_step == 1:
        remarks.append(_remark("frames of the database are not among the queries", np.setdiff1d(there, here)))
    both = np.union1d(here, there)
    return Frames(np.searchsorted(both, here), np.searchsorted(both, there), tuple(filter(None, remarks)))


def numbers_of(names: Sequence[str]) -> Rows | None:
    """(N,) the last number in each file name; None where a name has none, has positions, or repeats a number."""
    found = []
    for name in names:
        stem = name.rpartition("/")[2].rpartition(".")[0]
        match = _NUMBER.search(stem)
        if match is None or len(match[1]) > 15 or utm_names.has_position(name):
            return None
        found.append(int(match[1]))
    return np.array(found, dtype=np.int64) if len(set(found)) == len(found) else None


def _remark(what: str, numbers: Rows) -> str:
    if not len(numbers):
        return ""
    more = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
    return f"{len(numbers)} {what}: {', '.join(map(str, numbers[:NAMED].tolist()))}{more}"
