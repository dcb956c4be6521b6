"""Images of a kapture 1.x tree (Humenberger et al., arXiv:2007.13867), with positions from its poses or its GNSS.

A pose is a rotation quaternion (w, x, y, z) and a translation from the world to the device, so the camera's centre
is -R^T t. Only text files are read, and nothing in them is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vpr.core import ConfigError, DataError, Dataset, Doubles, ImageSet
from vpr.datasets import zones
from vpr.datasets.folders import NO_GROUND_TRUTH, judged_where_placed
from vpr.datasets.tables import finite
from vpr.positives import require_radius
from vpr.runtime.files import require_file

Source = Literal["auto", "trajectories", "gnss", "none"]
Moment = tuple[int, str]  # timestamp, device

_POSE_FIELDS = 7  # qw, qx, qy, qz, tx, ty, tz
_WGS84 = ("", "EPSG:4326")  # longitude and latitude; what an empty field means too


@dataclass(frozen=True, eq=False)
class _Tree:
    root: Path
    sensors: Mapping[str, tuple[str, ...]]  # device -> type and parameters
    names: tuple[str, ...]  # N
    moments: tuple[Moment, ...]  # N


def read_kapture(root: Path, source: Source = "auto") -> ImageSet:
    """The images of a tree, in the order of its records.

    Positions are x, y of the camera centres in the frame of ``trajectories.txt``, or UTM of ``records_gnss.txt``;
    "auto" takes the first of the two that the tree has. Raises DataError if it has it for some of the images only.
    """
    placed = _place([_load(root)], source)[0]
    placed.require_all()
    return placed.images()


def read_kapture_pair(mapping: Path, query: Path, radius_m: float = 25.0, source: Source = "auto") -> Dataset:
    """A tree to search and a tree of queries; positives within a radius if both have positions of one kind.

    Every image of the database has a position or none has. What is correct for a query without one is not known.
    """
    require_radius(radius_m)
    database, queries = _place([_load(mapping), _load(query)], source)
    database.require_all()
    name, to_search = mapping.resolve().name, database.images()
    if queries.positions is None:
        return Dataset(name, NO_GROUND_TRUTH, to_search, queries.images())
    return judged_where_placed(
        to_search, queries.images(), queries.positions, radius_m, name=name, what=_WHAT[queries.kind]
    )


@dataclass(frozen=True, eq=False)
class _Placed:
    tree: _Tree
    positions: Doubles | None = None  # (N, 2) metres; NaN for an image without one
    zone: str | None = None
    kind: str = ""  # of the source

    def images(self) -> ImageSet:
        """The images; with positions if all have one."""
        known = self.positions is not None and bool(np.isfinite(self.positions).all())
        root = self.tree.root / "sensors/records_data"
        return ImageSet(root, self.tree.names, self.positions if known else None, self.zone)

    def require_all(self) -> None:
        """Raise DataError if only some of the images have a position."""
        lacking = [] if self.positions is None else np.flatnonzero(np.isnan(self.positions).any(axis=1)).tolist()
        if lacking:
            names = self.tree.names
            raise DataError(
                f"{self.tree.root}: {names[lacking[0]]!r} has no {_WHAT[self.kind]} ({len(lacking)} such images of "
                f"{len(names)}); leave those images out, or choose another source of positions, or none"
            )


def _place(trees: Sequence[_Tree], source: Source) -> list[_Placed]:
    """All trees in one frame, the first deciding it; if they share no source, the first alone has positions."""
    if source not in ("auto", "none", *_SOURCES):
        raise ConfigError(f"unknown source of positions {source!r}; known: auto, none, {', '.join(_SOURCES)}")
    if source == "none":
        return [_Placed(tree) for tree in trees]
    of_first = None
    for kind in ("trajectories", "gnss") if source == "auto" else (source,):
        found = [_SOURCES[kind](tree) for tree in trees]
        given = [positions for positions in found if positions is not None]
        if len(given) == len(trees):
            return _in_one_frame(trees, given, kind)
        if of_first is None and found[0] is not None:
            of_first = _in_one_frame(trees[:1], [found[0]], kind)[0]
    if of_first is None and source != "auto":
        raise DataError(f"{trees[0].root}: no positions in {source}; use another source, or none")
    return [of_first or _Placed(trees[0]), *(_Placed(tree) for tree in trees[1:])]


def _in_one_frame(trees: Sequence[_Tree], found: Sequence[Doubles], kind: str) -> list[_Placed]:
    positions, zone = np.concatenate(found), None
    if kind == "gnss":
        known = np.isfinite(positions).all(axis=1)
        of_first = np.arange(len(positions)) < len(found[0])
        positions[known], zone = zones.one_frame_of_latlon(positions[known], of_first[known])
    parts = np.split(positions, np.cumsum([len(part) for part in found])[:-1])
    return [_Placed(tree, part, zone, kind) for tree, part in zip(trees, parts, strict=True)]


def _load(root: Path) -> _Tree:
    for name in ("sensors.txt", "records_camera.txt"):
        if not (root / "sensors" / name).is_file():
            raise DataError(f"{root}: not a kapture tree with images: no sensors/{name}")
    sensors = {fields[0]: fields[2:] for _, fields in _lines(root / "sensors/sensors.txt", least=3)}
    names, moments = [], []
    path = root / "sensors/records_camera.txt"
    for line, (time, device, name) in _lines(path, least=3, most=3):
        if device not in sensors:
            raise DataError(f"{path}, line {line}: camera {device!r} is not in sensors.txt")
        names.append(name)
        moments.append((_time(time, path, line), device))
    if not names:
        raise DataError(f"{path}: lists no images")
    return _Tree(root, sensors, tuple(names), tuple(moments))


def _centres(tree: _Tree) -> Doubles | None:
    """(N, 2) x, y of the camera centres, NaN for an image without a pose; None if no image has one."""
    path = tree.root / "sensors/trajectories.txt"
    if not path.is_file():
        return None
    poses = {
        (_time(time, path, line), device): _pose(pose, path, line)
        for line, (time, device, *pose) in _lines(path, 2 + _POSE_FIELDS, 2 + _POSE_FIELDS)
        if all(pose)  # a pose may lack its rotation or its translation
    }
    carriers = _carriers(tree.root / "sensors/rigs.txt")
    found = [_seen_from(moment, poses, carriers) for moment in tree.moments]
    pairs = [pair for pair in found if pair is not None]
    if not pairs:
        return None
    centres = np.full((len(found), 2), np.nan)
    known = [pair is not None for pair in found]
    centres[known] = _into_world(np.array([pose for pose, _ in pairs]), np.array([point for _, point in pairs]))[:, :2]
    return centres


def _seen_from(
    moment: Moment, poses: Mapping[Moment, Doubles], carriers: Mapping[str, Mapping[str, Doubles]]
) -> tuple[Doubles, Doubles] | None:
    """The pose of a camera, or of a rig that carries it, and the camera's centre in the frame of that device."""
    time, camera = moment
    points = {camera: np.zeros(3)} | dict(carriers.get(camera, {}))
    return next(((poses[time, device], point) for device, point in points.items() if (time, device) in poses), None)


def _carriers(path: Path) -> dict[str, dict[str, Doubles]]:
    """Device -> rig that carries it, at once or on another rig -> (3,) the device's centre in the rig's frame."""
    mounts: dict[str, dict[str, Doubles]] = {}
    if path.is_file():
        for line, (rig, device, *texts) in _lines(path, 2 + _POSE_FIELDS, 2 + _POSE_FIELDS):
            mounts.setdefault(device, {})[rig] = _pose(texts, path, line)
    return {device: _points_on_rigs(device, mounts) for device in mounts}


def _points_on_rigs(device: str, mounts: Mapping[str, Mapping[str, Doubles]]) -> dict[str, Doubles]:
    points = {device: np.zeros(3)}
    open_ends = [device]
    while open_ends:
        carried = open_ends.pop()
        for rig, pose in mounts.get(carried, {}).items():
            if rig not in points:
                points[rig] = _into_world(pose, points[carried])
                open_ends.append(rig)
    del points[device]
    return points


def _into_world(pose: Doubles, point: Doubles) -> Doubles:
    """(..., 3) points of a device's frame in the frame its (..., 7) pose starts from."""
    from scipy.spatial.transform import Rotation

    rotation = Rotation.from_quat(pose[..., [1, 2, 3, 0]])  # scipy writes w last
    moved: Doubles = rotation.inv().apply(point - pose[..., 4:])
    return moved


def _degrees(tree: _Tree) -> Doubles | None:
    """(N, 2) latitude, longitude of the images by GNSS, NaN for an image without a fix; None if no image has one."""
    path = tree.root / "sensors/records_gnss.txt"
    if not path.is_file():
        return None
    fixes: dict[int, dict[str, tuple[float, float]]] = {}
    for line, (time, device, x, y, *_) in _lines(path, least=4):
        if (*tree.sensors.get(device, ()), "")[1] not in _WGS84:
            raise DataError(f"{path}, line {line}: {device!r} is not in EPSG:4326 (longitude, latitude); convert it")
        where = f"{path}, line {line}"
        fixes.setdefault(_time(time, path, line), {})[device] = finite(y, where), finite(x, where)
    found = [_fix_of(moment, fixes, path) for moment in tree.moments]
    if all(fix is None for fix in found):
        return None
    return np.array([fix or (np.nan, np.nan) for fix in found])


def _fix_of(
    moment: Moment, fixes: Mapping[int, Mapping[str, tuple[float, float]]], path: Path
) -> tuple[float, float] | None:
    """The fix of the receiver named after the camera, as kapture's importers name it, or of the only receiver."""
    time, camera = moment
    at_time = fixes.get(time, {})
    if f"GPS_{camera}" in at_time:
        return at_time[f"GPS_{camera}"]
    if len(at_time) > 1:
        raise DataError(
            f"{path}: {', '.join(at_time)} all have a fix at {time}; name the one of {camera!r} GPS_{camera}"
        )
    return next(iter(at_time.values()), None)


_SOURCES: dict[str, Callable[[_Tree], Doubles | None]] = {"trajectories": _centres, "gnss": _degrees}
_WHAT = {"trajectories": "pose", "gnss": "GNSS fix"}


def _pose(texts: Sequence[str], path: Path, line: int) -> Doubles:
    pose = np.array([finite(text, f"{path}, line {line}") for text in texts])
    if not pose[:4].any():
        raise DataError(f"{path}, line {line}: the rotation is a zero quaternion")
    return pose


def _time(text: str, path: Path, line: int) -> int:
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{path}, line {line}: timestamp {text!r}; expected a whole number") from None


def _lines(path: Path, least: int, most: int | None = None) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line number and fields of every line that is neither blank nor a comment."""
    try:
        text = require_file(path).read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip() or content.startswith("#"):
            continue
        fields = tuple(field.strip() for field in content.split(","))
        if len(fields) < least or (most is not None and len(fields) > most):
            raise DataError(
                f"{path}, line {line}: {len(fields)} fields; expected {least}{'' if most else ' or more'}, "
                "separated by commas (kapture's names hold no comma)"
            )
        yield line, fields
