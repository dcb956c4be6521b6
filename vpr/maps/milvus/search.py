"""The search of a map by Milvus: filters inside it, and every answer checked against the manifest."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vpr.core import ConfigError, Floats, SearchError
from vpr.maps.manifest import Changes, Manifest
from vpr.maps.milvus import comparing
from vpr.maps.milvus.collection import MOST_FOUND, Hit, MilvusCollection
from vpr.maps.milvus.expressions import NotExpressible, expression_of
from vpr.maps.milvus.rows import content_mark
from vpr.maps.milvus.settings import MilvusSettings
from vpr.maps.prior import Prior
from vpr.maps.snapshot import FoundRow, Snapshot

logger = logging.getLogger(__name__)

MOST_IDS = 20_000  # in one request, where ids of the manifest take the place of an expression
MOST_NAMED = 1_000_000  # ids altogether
EXACT_SHARE = 0.25  # of the images: where an expression allows fewer, all of these are compared
_MORE = 1.5  # images asked for at first, by those wanted, where a circle is cut out of a box


class MilvusSearch:
    """Searches the collection of a map. It connects at the first call, and then once for all threads."""

    def __init__(self, settings: MilvusSettings, folder: Path, identity: str) -> None:
        self.settings = settings
        self.folder = folder
        self.identity = identity
        self._opening = threading.Lock()
        self._collection: MilvusCollection | None = None
        self._checked = False

    @property
    def description(self) -> str:
        """See MapSearch."""
        try:
            return f"Milvus, {self.settings.index}, at {self.settings.address(self.folder)}"
        except ConfigError:
            return f"Milvus, {self.settings.index}, no server named"

    @property
    def collection(self) -> MilvusCollection:
        """The connection. Raises SearchError, ConfigError."""
        with self._opening:
            if self._collection is None:
                self._collection = MilvusCollection(self.settings, self.folder, self.identity)
            return self._collection

    def search(
        self, manifest: Manifest, snapshot: Snapshot, vectors: Floats, k: int, prior: Prior | None = None
    ) -> list[list[FoundRow]]:
        """See MapSearch.

        Where Milvus cannot express the prior, or its box holds too many images outside the circle, the ids that the
        manifest allows are searched. Raises SearchError, and ConfigError for more images than Milvus can find.
        """
        if k > MOST_FOUND:
            raise ConfigError(f"k = {k}: Milvus finds at most {MOST_FOUND} images")
        asking = np.flatnonzero(vectors.any(axis=1))
        found: list[list[FoundRow]] = [[] for _ in vectors]
        if not len(asking) or k < 1 or not snapshot.count:
            return found
        self._check(vectors.shape[1])
        checked = Checked(manifest, prior)
        for row, some in zip(
            asking.tolist(), self._found(checked, vectors[asking], min(k, snapshot.count)), strict=True
        ):
            found[row] = some
        return found

    def _found(self, checked: Checked, vectors: Floats, k: int) -> list[list[FoundRow]]:
        try:
            expression = expression_of(checked.prior)
        except NotExpressible:
            return self._by_ids(checked, vectors, k)
        found: list[list[FoundRow]] = [[] for _ in vectors]
        open_rows = np.arange(len(vectors))
        circle = checked.prior is not None and checked.prior.near is not None
        exhaustive = circle or (bool(expression) and self._few(expression, checked.manifest))
        asked = min(MOST_FOUND, int(k * _MORE) + 1 if circle else k + 1)  # one more: the marker may be among them
        while len(open_rows):
            hits = self.collection.search(vectors[open_rows], asked, expression, exhaustive=exhaustive)
            kept = checked.keep(hits)
            lacking = []
            for row, some, all_ in zip(open_rows.tolist(), kept, hits, strict=True):
                found[row] = some[:k]
                if len(some) < k and (len(all_) == asked or not exhaustive):
                    lacking.append(row)
            open_rows = np.array(lacking, dtype=np.int64)
            if not exhaustive:  # the lists that were probed may have too few images
                exhaustive = True
                continue
            if len(open_rows) and asked == MOST_FOUND and checked.prior is None:
                logger.warning("Milvus has many images that the map has not; `vpr map verify CITY --repair`")
                break
            if len(open_rows) and asked == MOST_FOUND:
                for row, some in zip(lacking, self._by_ids(checked, vectors[open_rows], k), strict=True):
                    found[row] = some
                break
            asked = min(MOST_FOUND, 2 * asked)
        return found

    def _few(self, expression: str, manifest: Manifest) -> bool:
        """Whether an expression allows so few images that their lists may be none of those that are probed."""
        return self.collection.count(expression) < EXACT_SHARE * manifest.count()

    def _by_ids(self, checked: Checked, vectors: Floats, k: int) -> list[list[FoundRow]]:
        """Search the images that the manifest allows, by their ids."""
        numbers = checked.allowed()
        if len(numbers) > MOST_NAMED:
            raise ConfigError(
                f"the filter allows {len(numbers)} images and Milvus cannot express it (LIKE, names, texts with quotes "
                f"or beyond ASCII); at most {MOST_NAMED} are searched by their ids, so add a place, a time or a group"
            )
        found: list[list[FoundRow]] = [[] for _ in vectors]
        for first in range(0, len(numbers), MOST_IDS):
            some = numbers[first : first + MOST_IDS]
            hits = self.collection.search(vectors, min(k, len(some)), f"id in {some}", exhaustive=True)
            for row, kept in enumerate(checked.keep(hits)):
                found[row] += kept
        return [ordered(each)[:k] for each in found]

    def _check(self, dim: int) -> None:
        if not self._checked:
            self.collection.require(dim)
            self._checked = True

    def require(self) -> None:
        """See MapSearch."""
        self.collection.require(None)

    def follow(self, manifest: Manifest, changes: Changes) -> None:
        """See MapSearch. The commit stands, whatever is raised here."""
        try:
            with manifest.reading():
                images = list(manifest.of_ids(sorted(changes.put)))
                comparing.write(manifest, self.folder, self.collection, images)
            self.collection.delete(sorted(changes.removed))
        except SearchError as error:
            raise SearchError(
                f"{error}. The map has the change (commit {manifest.version}), Milvus not yet: "
                f"`vpr map verify {self.folder} --repair` once it answers"
            ) from None

    def problems(self, manifest: Manifest) -> list[str]:
        """See MapSearch."""
        self.require()
        return comparing.describe(manifest, self.collection)

    def repair(self, manifest: Manifest, dim: int) -> list[str]:
        """See MapSearch; makes the collection and its index too, where they are missing or other ones are set."""
        self.collection.create(dim)
        return comparing.repair(manifest, self.folder, self.collection)


class Checked:
    """Keeps of the rows that Milvus found those that the manifest has and a prior allows."""

    def __init__(self, manifest: Manifest, prior: Prior | None) -> None:
        self.manifest = manifest
        self.prior = prior

    def allowed(self) -> list[int]:
        """The ids of the images that the prior allows."""
        assert self.prior is not None
        return [int(number) for number in self.prior.places(self.manifest)[:, 0]]

    def keep(self, found: Sequence[Sequence[Hit]]) -> list[list[FoundRow]]:
        """Of each list the images that count, best first: those of the manifest, with its content, once each."""
        numbers = {hit.id for hits in found for hit in hits}
        rows = self.manifest.contents(numbers)
        contents = {number: content_mark(name, content) for number, (_, _, name, content) in rows.items()}
        allowed = set(rows)
        if self.prior is not None:
            allowed &= {int(number) for number in self.prior.places(self.manifest, allowed)[:, 0]}
        kept = []
        for hits in found:
            best = {hit.id: hit for hit in reversed(hits) if hit.id in allowed and contents[hit.id] == hit.content}
            kept.append(ordered([FoundRow(*rows[number][:2], hit.similarity) for number, hit in best.items()]))
        return kept


def ordered(found: Sequence[FoundRow]) -> list[FoundRow]:
    """Best first; equal ones in the order of the segments, as a snapshot has them."""
    return sorted(found, key=lambda each: (-each.similarity, each.segment, each.row))
