"""Matches of many pairs of images, each in a file of its own; what is there already is not made again."""

from __future__ import annotations

import logging
import posixpath
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from vpr.build import PairMethods, build_pair_methods
from vpr.config import digest_of_names, dump, fingerprint
from vpr.core import ConfigError, DataError, ImageError, ImageSet
from vpr.datasets.image_pairs import ImagePairs
from vpr.exchange.match_npz import PairFile, read_pair, write_pair
from vpr.exchange.pair_table import PairRow, row_of, write_pair_table
from vpr.features.contents import digest_of_file
from vpr.features.feature_set import FeatureFolders, FeatureSet
from vpr.features.masks import Masks, read_masks
from vpr.images import upright_size
from vpr.pairs.files import pair_file
from vpr.report.match_images import forget_drawings
from vpr.rerank import Pair
from vpr.runtime.files import write_atomically
from vpr.runtime.progress import Progress
from vpr.runtime.threads import one_thread_each
from vpr.settings import Settings

logger = logging.getLogger(__name__)

KEPT = 32  # features of turned images in memory: an image of a list often comes again soon
FEATURES, WORK = "features", "work"  # in the output folder


@dataclass(frozen=True)
class MatchedImage:
    """An image as it is matched."""

    row: int
    turns: int


class PairFeatures:
    """Features of the images of a list: those that are not turned from a store, the others as they are needed."""

    def __init__(self, listed: ImagePairs, methods: PairMethods, folder: Path, masks: Masks | None = None) -> None:
        self.images = listed.images
        self.extractor = methods.extractor
        upright = np.unique(listed.pairs[listed.turns == 0])
        chosen = ImageSet(listed.images.root, tuple(listed.images.names[row] for row in upright.tolist()))
        self.stored: FeatureSet = self.extractor.extract(chosen, FeatureFolders.under(folder), masks=masks)
        assert self.stored.work is not None and self.stored.rerank_store is not None
        self.store = self.stored.rerank_store
        self._places = {row: place for place, row in enumerate(upright.tolist())}
        self._failed = self.stored.work.failed
        self._turned: OrderedDict[MatchedImage, Any] = OrderedDict()
        self.size = cache(self._size)
        self._digest = cache(digest_of_file)

    def of(self, view: MatchedImage) -> Any:
        """Local features, or patches. Raises ImageError for an image that cannot be read."""
        if view.turns == 0:
            place = self._places[view.row]
            if place in self._failed:
                raise ImageError(self._failed[place])
            return self.store[place]
        if view not in self._turned:
            self._turned[view] = self._extract(view)
            if len(self._turned) > KEPT:
                self._turned.popitem(last=False)
        return self._turned[view]

    def key(self, view: MatchedImage) -> str:
        """Names the content of the image and how it is turned."""
        if view.turns == 0:
            return self.stored.keys[self._places[view.row]]
        return f"{self._digest(self.images.path(view.row))} {view.turns}"

    def _extract(self, view: MatchedImage) -> Any:
        return self.extractor.single(self.images.path(view.row), 90 * view.turns).rerank_features

    def _size(self, view: MatchedImage) -> tuple[int, int]:
        """Width and height of the image as it is matched, before the method resizes it."""
        width, height = upright_size(self.images.path(view.row))
        return (width, height) if view.turns % 2 == 0 else (height, width)


@dataclass(frozen=True, eq=False)
class MatchedPairs:
    """What was matched, and the features behind it."""

    rows: Sequence[PairRow]  # of each pair
    features: PairFeatures


def match_pairs(listed: ImagePairs, settings: Settings, out: Path, folder: Path) -> MatchedPairs:
    """Match every pair, into ``folder``; features, pairs.csv and settings.toml go to ``out``.

    A pair of which an image cannot be read has a problem instead of matches. Raises ImageError at the first such image
    if images.on_bad_image is "fail", DataError if no pair can be matched.
    """
    methods = build_pair_methods(settings, masked=True)
    masks = read_masks(settings.images.masks, listed.images, settings.local_features)
    if masks is not None and listed.turns.any():
        raise ConfigError("images.masks: images that are turned have no masks here; leave out masks or turns")
    out.mkdir(parents=True, exist_ok=True)
    features = PairFeatures(listed, methods, out / FEATURES, masks)
    made_by = fingerprint(
        {
            "features": features.store.fingerprint,
            "matcher": settings.matcher,
            "weights": methods.reranker.weights,
            "verification": settings.verification,
            "rerank": settings.rerank,
        }
    )
    paths = [folder / name for name in file_names(listed)]
    rows = _Job(listed, methods, features, settings, made_by, out, paths).run()
    write_pair_table(out, rows)
    write_atomically(out / "settings.toml", dump(settings))
    if all(row.problem for row in rows):
        raise DataError(f"{listed.images.root}: not one of {len(rows)} pairs can be matched: {rows[0].problem}")
    return MatchedPairs(rows, features)


def file_names(listed: ImagePairs) -> list[str]:
    """Of each pair, as SuperGlue has them: the stems of both images; where those are not unique, the whole names."""

    def short(pair: int) -> str:
        first, second = (posixpath.splitext(posixpath.basename(name))[0] for name in listed.names(pair))
        return f"{first}_{second}_matches.npz"

    def long(pair: int) -> str:
        first, second = (name.replace("/", "-") for name in listed.names(pair))
        turned = "" if not listed.turns[pair].any() else "_turned{}{}".format(*listed.turns[pair].tolist())
        return f"{first}_{second}{turned}_matches.npz"

    names = [short(pair) for pair in range(len(listed))]
    counts = Counter(names)
    names = [name if counts[name] == 1 else long(pair) for pair, name in enumerate(names)]
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{pair:06d}_{name}" for pair, name in enumerate(names)]


@dataclass(frozen=True, eq=False)
class _Job:
    listed: ImagePairs
    methods: PairMethods
    features: PairFeatures
    settings: Settings
    made_by: str
    out: Path
    paths: list[Path]

    def run(self) -> list[PairRow]:
        rows: dict[int, PairRow] = {}
        lacking = []
        for pair in range(len(self.listed)):
            found = self._found(pair)
            if found is None:
                lacking.append(pair)
            else:
                rows[pair] = self._row(pair, found)
        reranker = self.methods.reranker
        with (
            Progress("match", len(self.listed), "pair", initial=len(rows)) as progress,
            one_thread_each(reranker.threads) as pool,
        ):
            for group in self._groups(lacking, reranker.together * reranker.threads):
                rows |= self._match(group, pool)
                progress.update(len(group))
        return [rows[pair] for pair in range(len(self.listed))]

    def _views(self, pair: int) -> tuple[MatchedImage, MatchedImage]:
        rows, turns = self.listed.pairs[pair].tolist(), self.listed.turns[pair].tolist()
        return MatchedImage(rows[0], turns[0]), MatchedImage(rows[1], turns[1])

    def _origin(self, pair: int) -> str:
        return digest_of_names([self.made_by, *map(self.features.key, self._views(pair))])

    def _found(self, pair: int) -> PairFile | None:
        """What an earlier run left of a pair, if it was made of the same images in the same way."""
        try:
            found = read_pair(self.paths[pair])
        except DataError:
            return None
        return found if found.origin == self._origin(pair) else None

    def _groups(self, pairs: Sequence[int], most: int) -> Iterator[list[int]]:
        """Pairs of one first image, which are matched together; at most so many."""
        for _, same in groupby(pairs, key=lambda pair: self._views(pair)[0]):
            group = list(same)
            yield from (group[first : first + most] for first in range(0, len(group), most))

    def _match(self, group: Sequence[int], pool: ThreadPoolExecutor) -> dict[int, PairRow]:
        rows: dict[int, PairRow] = {}
        ready: list[tuple[int, Any, Any]] = []
        for pair in group:
            try:
                ready.append((pair, *map(self.features.of, self._views(pair))))
            except ImageError as error:
                if self.settings.images.on_bad_image == "fail":
                    raise
                forget_drawings(self.paths[pair])  # of an earlier run, as the file itself
                self.paths[pair].unlink(missing_ok=True)
                rows[pair] = self._row(pair, None, str(error))
        step = self.methods.reranker.together
        parts = [ready[first : first + step] for first in range(0, len(ready), step)]
        for part, found in zip(parts, pool.map(self._compare, parts), strict=True):
            for (pair, query, candidate), matched in zip(part, found, strict=True):
                file = self._file(pair, query, candidate, matched)
                forget_drawings(self.paths[pair])
                write_pair(self.paths[pair], file)
                rows[pair] = self._row(pair, file)
        return rows

    def _compare(self, part: Sequence[tuple[int, Any, Any]]) -> list[Pair]:
        return self.methods.reranker.compare(part[0][1], [candidate for _, _, candidate in part])

    def _file(self, pair: int, query: Any, candidate: Any, matched: Pair) -> PairFile:
        first, second = self._views(pair)
        return pair_file(
            query,
            candidate,
            matched,
            sizes=(self.features.size(first), self.features.size(second)),
            geometry=self.settings.verification.model,
            score=self.methods.reranker.score(matched),
            turns=(first.turns, second.turns),
            origin=self._origin(pair),
        )

    def _row(self, pair: int, file: PairFile | None, problem: str = "") -> PairRow:
        names = self.listed.names(pair)
        if file is None:
            return PairRow(*names, problem=problem)
        return row_of(*names, file, self.paths[pair].relative_to(self.out).as_posix())
