"""What a map is, and whether its files are as they were written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpr.core import DataError
from vpr.maps.about import About
from vpr.maps.local_codec import CODEC, LocalCodec
from vpr.maps.manifest import Manifest
from vpr.maps.segments import check_segment
from vpr.maps.snapshot import Snapshot


@dataclass(frozen=True)
class MapInfo:
    """Size and state of a map."""

    folder: Path
    images: int
    removed: int  # images whose data still lie in the segments
    with_position: int
    segments: int
    version: int  # number of commits
    bytes: int  # of all files
    bounds: tuple[float, float, float, float] | None  # south, west, north, east in degrees
    times: tuple[float, float] | None  # of the first and the last image, seconds since 1970
    profile: str
    methods: str  # local features, global descriptor, matcher
    search: str = "FAISS, in this folder"  # of the global descriptors

    @property
    def bytes_per_image(self) -> float:
        """Of all files, over the images that lie in them."""
        return self.bytes / max(1, self.images + self.removed)


def describe(folder: Path, about: About, manifest: Manifest, snapshot: Snapshot, search: str) -> MapInfo:
    """The size and state of a map at a snapshot."""
    extent = manifest.extent()
    held = sum(each.record.count for each in snapshot.segments.values())
    return MapInfo(
        folder=folder,
        images=snapshot.count,
        removed=held - snapshot.count,
        with_position=extent.with_position,
        segments=len(snapshot.segments),
        version=snapshot.version,
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        bounds=extent.bounds,
        times=extent.times,
        profile=about.profile,
        methods=_methods(about.settings),
        search=search,
    )


def problems(folder: Path) -> list[str]:
    """What is wrong with the files of a map; empty if every byte is as it was written. Reads all of them."""
    manifest = Manifest(folder)
    try:
        with manifest.reading():
            wrong = manifest.check()
            for record in manifest.segments():
                wrong += check_segment(folder, record)
    except DataError as error:
        return [str(error)]
    finally:
        manifest.close()
    try:
        if (folder / CODEC).exists():
            LocalCodec.load(folder / CODEC)
    except DataError as error:
        wrong.append(str(error))
    return wrong


def _methods(settings: Mapping[str, Any]) -> str:
    local, whole, matcher = (settings[name]["method"] for name in ("local_features", "global_descriptor", "matcher"))
    joined = settings.get("joined")
    words = f" joined with {joined['descriptor']['method']}" if joined else ""
    return f"{local}, {whole}{words}, {matcher}"
