"""pairs.jsonl: the pairs of a geometry benchmark with their known geometry, one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vpr.core import DataError, Doubles
from vpr.datasets.homography_pairs import HomographyPair
from vpr.datasets.pose_pairs import PosePair
from vpr.runtime.files import write_atomically

PAIRS = "pairs.jsonl"
_MATRICES: dict[str, dict[str, tuple[int, ...]]] = {  # of each kind, with their shapes
    "homography": {"homography": (3, 3)},
    "pose": {"first_intrinsics": (3, 3), "second_intrinsics": (3, 3), "rotation": (3, 3), "translation": (3,)},
}


def write_pairs(path: Path, pairs: Sequence[HomographyPair | PosePair]) -> None:
    """Paths are written absolute, so that the file can be read from anywhere."""
    write_atomically(path, (json.dumps(_record(pair), ensure_ascii=False) + "\n" for pair in pairs))


def read_pairs(path: Path) -> list[HomographyPair | PosePair]:
    """What ``write_pairs`` wrote; raises DataError, with the line, for anything else."""
    pairs = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run vpr evaluate again into this folder, its rows are kept") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a text file: {error}") from None
    for number, line in enumerate(lines, 1):
        try:
            pairs.append(_pair(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}, line {number}: not a pair of images: {error!r}") from None
    return pairs


def _record(pair: HomographyPair | PosePair) -> dict[str, Any]:
    kind = "homography" if isinstance(pair, HomographyPair) else "pose"
    paths = {side: str(getattr(pair, side).absolute()) for side in ("first", "second")}
    turns = {"turns": list(pair.turns)} if isinstance(pair, PosePair) else {}
    return paths | {"part": pair.part} | turns | {key: getattr(pair, key).tolist() for key in _MATRICES[kind]}


def _pair(record: dict[str, Any]) -> HomographyPair | PosePair:
    kind = "homography" if "homography" in record else "pose"
    first, second = Path(record["first"]), Path(record["second"])
    arrays = {key: _array(record[key], shape) for key, shape in _MATRICES[kind].items()}
    if kind == "homography":
        return HomographyPair(first, second, arrays["homography"], str(record["part"]))
    one, other = record["turns"]
    return PosePair(first, second, part=str(record["part"]), turns=(int(one), int(other)), **arrays)


def _array(values: Any, shape: tuple[int, ...]) -> Doubles:
    array: Doubles = np.array(values, np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"expected {' x '.join(map(str, shape))} finite numbers, got {array.shape}")
    return array
