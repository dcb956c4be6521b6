"""Cameras and depth of a written demo city: how they lie on disk, and back."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from vpr.core import DataError, Floats
from vpr.demo_city.camera import Camera
from vpr.demo_city.shots import Shot

CAMERAS = "cameras.csv"
DEPTH_STEPS = 32768  # a depth image holds round(DEPTH_STEPS / metres); nearer than half a metre reads half a metre

_POSE = [f"{part}" for row in (1, 2, 3) for part in (f"r{row}1", f"r{row}2", f"r{row}3", f"t{row}")]
_COLUMNS = ["role", "name", "light", "place", "light_seed", "traffic", "seed", "east", "north",
            "width", "height", "fx", "fy", "cx", "cy", *_POSE]  # fmt: skip


def cameras_table(shots: Sequence[Shot]) -> str:
    """The content of cameras.csv; numbers with all their digits."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    for shot in shots:
        matrix, pose = shot.camera.matrix, shot.camera.world_to_camera[:3]
        numbers = [*shot.position, matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2], *pose.ravel()]
        east, north, *rest = (repr(float(number)) for number in numbers)
        table.writerow([shot.role, shot.name, shot.light, shot.place, shot.light_seed, shot.traffic, shot.seed,
                        east, north, *shot.camera.size, *rest])  # fmt: skip
    return text.getvalue()


def read_shots(out: Path) -> list[Shot]:
    """All images of a complete demo city with their cameras. Raises DataError if the folder holds none."""
    path = out / CAMERAS
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [_shot(row) for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; write the demo city into {out} first") from None
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: not a table of cameras ({error}); write the demo city again") from None


def _shot(row: dict[str, str]) -> Shot:
    fx, fy, cx, cy = (float(row[name]) for name in ("fx", "fy", "cx", "cy"))
    pose = np.vstack([np.array([float(row[name]) for name in _POSE]).reshape(3, 4), [0, 0, 0, 1]])
    size = (int(row["width"]), int(row["height"]))
    return Shot(
        name=row["name"],
        role="queries" if row["role"] == "queries" else "database",
        place=int(row["place"]),
        camera=Camera(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), pose, size),
        position=np.array([float(row["east"]), float(row["north"])]),
        light=row["light"],
        light_seed=int(row["light_seed"]),
        traffic=int(row["traffic"]),
        seed=int(row["seed"]),
    )


def depth_path(out: Path, shot: Shot) -> Path:
    return out / "depth" / shot.role / f"{shot.name.removesuffix('.jpg')}.png"


def labels_path(out: Path, shot: Shot) -> Path:
    return out / "labels" / shot.role / f"{shot.name.removesuffix('.jpg')}.png"


def encode_depth(depth: Floats) -> bytes:
    """The (H, W) depth in metres as a 16-bit PNG of inverse depth: fine near by, 15 cm at 100 m."""
    steps = np.clip(np.rint(DEPTH_STEPS / depth), 0, 65535).astype(np.uint16)
    return bytes(cv2.imencode(".png", steps)[1].tobytes())


def read_depth(path: Path) -> Floats:
    """(H, W) metres along the optical axis, infinite for sky, to within depth squared / 65536 metres."""
    steps = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if steps is None or steps.dtype != np.uint16:
        raise DataError(f"{path}: not a 16-bit depth image; write the demo city again, with depth")
    far = np.full(steps.shape, np.inf)
    return np.asarray(np.divide(DEPTH_STEPS, steps, out=far, where=steps > 0), np.float32)
