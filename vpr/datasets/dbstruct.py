"""The ``dbStruct`` .mat files of Pittsburgh and Tokyo 24/7 (Arandjelovic et al., NetVLAD, CVPR 2016).

Fields by place: 0 the split, 1 database names, 2 database positions (2, N), 3 query names, 4 query positions (2, Q),
5 and 6 the two counts, 7 the radius in metres.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vpr.core import DataError, Dataset, Doubles, ImageSet, Rows
from vpr.datasets import groups
from vpr.positives import positives_within, require_radius

MOST_BYTES = 1 << 29  # that a file may unpack to; Pittsburgh 250k's takes 40 MB
_MAT_HEADER = 128  # bytes before the first variable
_COMPRESSED = 15  # type of a compressed variable
_CHUNK = 1 << 20
_FIELDS = 8  # those that are read; files have ten
_OTHER_SUFFIX = {".jpg": ".png", ".png": ".jpg"}


def read_dbstruct(
    path: Path,
    root: Path,
    queries_root: Path | None = None,
    radius_m: float | None = None,
    *,
    group_size: int | None = None,
) -> Dataset:
    """A dbStruct file and the images it lists; positives within its radius unless another is given.

    Queries lie under ``queries_root``, or ``root/queries_real`` if there is such a folder, or ``root``. Tokyo's file
    says .jpg where the disk has .png: if the first image of a list exists under the other suffix only, all names
    of that list change suffix. ``group_size`` neighbouring database images are the cut-outs of one panorama.
    """
    if radius_m is not None:
        require_radius(radius_m)
    fields = _load(path)
    names, utm_database = _images(path, fields, 1, 5)
    query_names, utm_queries = _images(path, fields, 3, 6)
    if queries_root is None:
        queries_root = root / "queries_real" if (root / "queries_real").is_dir() else root
    panoramas: Rows | None = None if group_size is None else groups.consecutive(len(names), group_size)
    radius_m = _number(path, fields, 7) if radius_m is None else radius_m
    database = ImageSet(root, _on_disk(root, names), utm_database, groups=panoramas)
    queries = ImageSet(queries_root, _on_disk(queries_root, query_names), utm_queries)
    positives = positives_within(queries, database, radius_m)
    return Dataset(path.stem, f"within {radius_m:g} m", database, queries, positives)


def _load(path: Path) -> tuple[Any, ...]:
    from scipy.io import loadmat

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        _require_size(path)
        contents = loadmat(str(path))
    except DataError:
        raise
    except NotImplementedError:
        raise DataError(f"{path}: a version 7.3 .mat file; save it again with save(..., '-v7')") from None
    except Exception as error:  # a damaged file makes scipy raise almost anything
        raise DataError(f"{path}: not a readable .mat file: {error}") from None
    struct = contents.get("dbStruct")
    if struct is None or struct.dtype.names is None or struct.size != 1:
        known = ", ".join(name for name in contents if not name.startswith("__"))
        raise DataError(f"{path}: expected one struct named dbStruct, found {known or 'nothing'}")
    fields = tuple(struct.item())
    if len(fields) < _FIELDS:
        raise DataError(f"{path}: dbStruct has {len(fields)} fields; expected at least {_FIELDS}")
    return fields


def _require_size(path: Path) -> None:
    """Raise DataError if the variables of the file unpack to more than ``MOST_BYTES``; nothing larger is unpacked."""
    unpacked = 0
    with path.open("rb") as file:
        order = "<" if file.read(_MAT_HEADER)[-2:] == b"IM" else ">"
        while len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            if kind != _COMPRESSED:
                file.seek(size, os.SEEK_CUR)
                continue
            unpack, left = zlib.decompressobj(), size
            while left > 0 and (packed := file.read(min(left, _CHUNK))):
                left -= len(packed)
                while packed and unpacked <= MOST_BYTES:
                    unpacked += len(unpack.decompress(packed, _CHUNK))
                    packed = unpack.unconsumed_tail
                if unpacked > MOST_BYTES:
                    raise DataError(
                        f"{path}: {path.stat().st_size / 1e6:.1f} MB that unpack to over {MOST_BYTES / 1e6:.0f} MB; "
                        "no list of images is so large"
                    )


def _images(path: Path, fields: Sequence[Any], place: int, count_place: int) -> tuple[tuple[str, ...], Doubles]:
    names = tuple(_text(path, cell) for cell in np.ravel(fields[place]))
    utm = np.asarray(fields[place + 1])
    count = int(_number(path, fields, count_place))
    if utm.dtype.kind not in "iuf" or utm.shape != (2, len(names)) or count != len(names):
        raise DataError(
            f"{path}: field {place} has {len(names)} names, field {place + 1} is {utm.dtype} of shape {utm.shape} and "
            f"field {count_place} says {count}; expected (2, N) positions for N names"
        )
    return names, utm.T.astype(np.float64)


def _text(path: Path, cell: Any) -> str:
    while isinstance(cell, np.ndarray) and cell.size == 1:
        cell = cell.item()
    if not isinstance(cell, str):
        raise DataError(f"{path}: expected the name of an image, found {cell!r}")
    return cell


def _number(path: Path, fields: Sequence[Any], place: int) -> float:
    value = np.asarray(fields[place])
    if value.size != 1 or value.dtype.kind not in "iuf":
        raise DataError(f"{path}: field {place} of dbStruct is {value!r}; expected one number")
    return float(value.item())


def _on_disk(root: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        return names
    first = PurePosixPath(names[0])
    other = _OTHER_SUFFIX.get(first.suffix)
    if other is None or (root / first).exists() or not (root / first.with_suffix(other)).exists():
        return names
    return tuple(name.removesuffix(first.suffix) + other if name.endswith(first.suffix) else name for name in names)
