"""What searches the global descriptors of a map: the FAISS indexes of its segments, or Milvus.

The manifest is the truth in both cases: it says which images there are, and what is searched elsewhere follows its
commits.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from vpr.config import Method, MethodSettings, lookup, parse
from vpr.core import Floats
from vpr.maps import milvus
from vpr.maps.about import FILE, About
from vpr.maps.manifest import Changes, Manifest
from vpr.maps.prior import Prior
from vpr.maps.snapshot import FoundRow, Snapshot, by_segment
from vpr.runtime.threads import one_thread

IDENTITY = "identity"  # the fact of a manifest that tells maps apart, whatever folder they lie in


class MapSearch(Protocol):
    """Finds the images of a map that are most similar to queries."""

    @property
    def description(self) -> str:
        """What searches, in a few words."""

    def search(
        self, manifest: Manifest, snapshot: Snapshot, vectors: Floats, k: int, prior: Prior | None = None
    ) -> list[list[FoundRow]]:
        """For each vector (Q, D) the k most similar images that a prior allows, best first; none for a zero vector.

        ``manifest`` and ``snapshot`` are of one state, and only images of this state are found.
        """

    def require(self) -> None:
        """Raise SearchError unless commits can be followed now."""

    def follow(self, manifest: Manifest, changes: Changes) -> None:
        """Take over what was committed. Raises SearchError."""

    def problems(self, manifest: Manifest) -> list[str]:
        """In what it differs from the manifest. Raises SearchError if it cannot be asked."""

    def repair(self, manifest: Manifest, dim: int) -> list[str]:
        """Make it as the manifest says, for descriptors of ``dim`` components; returns what was done.

        Nobody else may write meanwhile. Raises SearchError.
        """


class FaissSettings(MethodSettings):
    """Settings of the search of a map on this machine."""

    method: Literal["faiss"] = "faiss"


class SegmentSearch:
    """The FAISS indexes of the segments themselves, mapped into memory: nothing else has to follow the commits."""

    description = "FAISS, in this folder"

    def search(
        self, manifest: Manifest, snapshot: Snapshot, vectors: Floats, k: int, prior: Prior | None = None
    ) -> list[list[FoundRow]]:
        """See MapSearch."""
        among = None if prior is None else by_segment(prior.places(manifest))
        with one_thread():  # a team of threads takes longer to come together than most searches
            return [snapshot.search(vector, k, among) for vector in vectors]

    def require(self) -> None:
        """See MapSearch; nothing can be missing."""

    def follow(self, manifest: Manifest, changes: Changes) -> None:
        """See MapSearch; a commit names the segments, and with them what is searched."""

    def problems(self, manifest: Manifest) -> list[str]:
        """See MapSearch; the checksums of the segments say it all."""
        return []

    def repair(self, manifest: Manifest, dim: int) -> list[str]:
        """See MapSearch; there is no second copy."""
        return []


def _build_faiss(settings: FaissSettings, folder: Path, identity: str) -> MapSearch:
    return SegmentSearch()


def _build_milvus(settings: milvus.MilvusSettings, folder: Path, identity: str) -> MapSearch:
    from vpr.maps.milvus.search import MilvusSearch

    return MilvusSearch(settings, folder, identity)


SEARCHES: Mapping[str, Method[MapSearch]] = {
    "faiss": Method(FaissSettings, _build_faiss),
    "milvus": Method(milvus.MilvusSettings, _build_milvus),
}


def settings_of(table: Mapping[str, Any], where: str) -> MethodSettings:
    """The settings in a table of a map; those of FAISS for an empty one. Raises ConfigError for others."""
    method = lookup(SEARCHES, str(table.get("method", "faiss")), "search")
    return parse(method.settings, table, where)


def search_table(table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The table of ``map.toml`` for settings: what differs from the defaults, and a file by its full path.

    {} for FAISS. Raises ConfigError for settings that make no sense.
    """
    chosen = settings_of(table, f"{folder}: search")
    changed = chosen.model_dump(mode="json", exclude_defaults=True)
    for name in ("uri", "token_file"):
        if changed.get(name) and "://" not in changed[name]:
            changed[name] = str(Path(changed[name]).resolve())
    return {} if isinstance(chosen, FaissSettings) else {"method": chosen.method, **changed}


def build_search(table: Mapping[str, Any], folder: Path, identity: str) -> MapSearch:
    """What searches a map of this identity in a folder, by the table of its settings; asks no server yet."""
    settings = settings_of(table, f"{folder / FILE}: search")
    return SEARCHES[settings.method].build(settings, folder, identity)


def search_of(folder: Path, manifest: Manifest) -> MapSearch:
    """What searches the map in a folder now."""
    return build_search(About.read(folder).search, folder, str(manifest.fact(IDENTITY, "")))


def identify(manifest: Manifest) -> str:
    """The identity of a map, which it gets at the first call."""
    if not manifest.fact(IDENTITY):
        with manifest.writing():
            manifest.set_fact(IDENTITY, secrets.token_hex(8))
    return str(manifest.fact(IDENTITY))
