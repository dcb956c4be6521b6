"""Queries of a run of place recognition: each with its first candidate, and with the best right one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from vpr.build import PairMethods, build_pair_methods, compares_local
from vpr.config import load
from vpr.core import NO_ROW, Dataset, Doubles, ImageError, ImageSet, Ranking, Rows
from vpr.evaluation.distance import distances_m
from vpr.evaluation.recall import NEVER, first_hits
from vpr.features.feature_set import FeatureFolders
from vpr.features.store import LocalStore
from vpr.inspection.items import InspectedPair, each_once
from vpr.report.compared import correspondences_of
from vpr.report.finished import read_run
from vpr.settings import Settings

KEPT = 64  # features of images in memory: a candidate often comes again soon


class InspectedQueries:
    """A folder of ``vpr run``; matches are computed again by its settings, from the features that it stored."""

    kind = "queries"
    rightness = "the first candidate is a positive"

    def __init__(self, folder: Path) -> None:
        run = read_run(folder)
        self.settings = load(Settings, folder / "settings.toml")
        self.dataset: Dataset = run.dataset
        rankings = list(run.stages.values())
        self.shortlist, self.predictions = rankings[0], rankings[-1]
        self.names = each_once(self.dataset.queries.names)
        self.folder = folder
        self._compared = lru_cache(maxsize=KEPT)(self._read)
        self._stored = lru_cache(maxsize=2)(self._open_store)

    @cached_property
    def metrics(self) -> Mapping[str, Sequence[float]]:
        first, found = self.predictions.rows[:, 0] != NO_ROW, {}
        if self.predictions.evidence is not None:
            counts = ("inliers", self.predictions.evidence.inliers), ("matches", self.predictions.evidence.matches)
            found = {name: np.where(first & (each[:, 0] >= 0), each[:, 0], np.nan) for name, each in counts}
            found["similarity"] = np.where(first, self.predictions.evidence.similarity[:, 0], np.nan)
            found["elapsed_ms"] = 1000 * self.predictions.evidence.elapsed_s
        scores = np.where(np.isfinite(self.predictions.scores), self.predictions.scores, np.nan)
        found["score"] = scores[:, 0]
        if scores.shape[1] > 1:
            found["margin"] = scores[:, 0] - scores[:, 1]
        metres = distances_m(self.dataset, self.predictions.rows[:, :1], np.arange(len(self.names)))
        if metres is not None:
            found["distance_m"] = np.where(first, metres[:, 0], np.nan)
        if self.dataset.positives is not None:
            found["rank of the first positive"] = _ranks(self.predictions, self.dataset)
            found["its rank in the shortlist"] = _ranks(self.shortlist, self.dataset)
        return {name: values.tolist() for name, values in found.items() if np.isfinite(values).any()}

    @property
    def main(self) -> str:
        return next(name for name in ("inliers", "score", *self.metrics) if name in self.metrics)

    @cached_property
    def right(self) -> Sequence[bool | None]:
        positives = self.dataset.positives
        if positives is None:
            return [None] * len(self.names)
        unknown = set(self.dataset.unknown)
        return [None if row in unknown else hit == 1 for row, hit in enumerate(self._first_hits.tolist())]

    @cached_property
    def _first_hits(self) -> Rows:
        return _hits(self.predictions, self.dataset)

    def pairs(self, item: int) -> list[InspectedPair]:
        first = int(self.predictions.rows[item, 0])
        shown = [(first, "first candidate" + {True: ", right", False: ", wrong", None: ""}[self.right[item]])]
        if self.right[item] is False and (best := self._best_right(item)) != NO_ROW:
            shown.append((best, f"best right candidate, {self._rank(item, best)}"))
        found = (self._pair(item, row, title) for row, title in shown if row != NO_ROW)
        return [pair for pair in found if pair is not None]

    def _pair(self, query: int, candidate: int, title: str) -> InspectedPair | None:
        try:
            one, other = self._compared("queries", query), self._compared("database", candidate)
        except ImageError:
            return None
        reranker = self._methods.reranker
        pair = reranker.pair(one, other)
        matches = correspondences_of(pair, one, other, keypoints=True)
        inliers, features = matches.inliers, pair.matched(one, other)
        facts = f"{int(inliers.sum())} of {len(inliers)} matches verified, score {reranker.score(pair):.4g}"
        queries, database = self.dataset.queries, self.dataset.database
        paths, names = (
            (queries.path(query), database.path(candidate)),
            (queries.names[query], database.names[candidate]),
        )
        return InspectedPair(title, facts, paths, names, (features[0].image_size, features[1].image_size), matches)

    @cached_property
    def _methods(self) -> PairMethods:
        # Masks are in the stored features; an image matcher's matches are shown without them.
        return build_pair_methods(self.settings, dense=True, masked=True)

    def _read(self, role: str, row: int) -> Any:
        """What the re-ranker compares of an image: as the run stored it, else computed again. Raises ImageError."""
        images = self.dataset.queries if role == "queries" else self.dataset.database
        stored = self._stored(images, role)
        return self._methods.compared(images.path(row)) if stored is None else stored[row]

    def _open_store(self, images: ImageSet, role: str) -> LocalStore | None:
        """The local features in the run's folder, where they are all there."""
        folder = FeatureFolders.under(self.folder / "features" / role).local
        if not compares_local(self.settings) or not folder.exists():
            return None
        store = LocalStore(folder)
        return store if len(store) == len(images) else None

    def _best_right(self, query: int) -> int:
        assert self.dataset.positives is not None
        positives, hit = self.dataset.positives[query], int(self._first_hits[query])
        if hit != NEVER:
            return int(self.predictions.rows[query, hit - 1])
        return int(positives[len(positives) // 2]) if len(positives) else NO_ROW

    def _rank(self, query: int, row: int) -> str:
        places = np.flatnonzero(self.predictions.rows[query] == row)
        return f"rank {places[0] + 1}" if len(places) else "not among the candidates"


def _hits(ranking: Ranking, dataset: Dataset) -> Rows:
    """Rank of the first positive of each query."""
    return first_hits(ranking, dataset.positives or ())


def _ranks(ranking: Ranking, dataset: Dataset) -> Doubles:
    """Rank of the first positive: inf where none is among the candidates, NaN where the positives are not known."""
    hits = _hits(ranking, dataset)
    ranks = np.where(hits == NEVER, np.inf, hits)
    ranks[list(dataset.unknown)] = np.nan
    return ranks
