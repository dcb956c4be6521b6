"""Re-ranking of a shortlist: match, verify, score, sort; by local features, or by what another method compares."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import numpy as np
from pydantic import Field, field_validator

from vpr.config import MethodSettings
from vpr.core import (
    NO_ROW,
    ConfigError,
    Doubles,
    Evidence,
    Floats,
    Image,
    ImageMatches,
    LocalFeatures,
    Matcher,
    Matches,
    Ranking,
    Rows,
    Verified,
    Verifier,
)
from vpr.images import ImageLike
from vpr.rerank import cost, verification
from vpr.rerank.ahead import read_ahead
from vpr.rerank.scores import SCORES, PairEvidence, fuse, inliers_above_chance
from vpr.runtime.threads import one_thread_each

F = TypeVar("F")
Candidates: TypeAlias = Sequence[F] | Mapping[int, F]  # features by row of the database


class RerankSettings(MethodSettings):
    """Inputs of every re-ranking method."""

    k: int = Field(50, ge=0)  # candidates re-ranked; the rest keep the shortlist's order; 0 for none
    # Beside the local scores, which count as they stand out among the candidates:
    retrieval_weight: float = Field(0.5, ge=0)  # of the global similarity, likewise
    evidence_weight: float = Field(0.0, ge=0)  # of the logarithm of 1 + the inliers above chance, of each pair alone


def known_score(name: str) -> str:
    """The name of a score. Raises ConfigError for another one."""
    if name not in SCORES:
        raise ConfigError(f"unknown score {name!r}; known: {', '.join(sorted(SCORES))}")
    return name


class Settings(RerankSettings):
    """Settings of re-ranking by local features."""

    method: Literal["local_features"] = "local_features"
    score: str = "confidence_sum"

    known = field_validator("score")(known_score)


@dataclass(frozen=True, eq=False)
class Pair:
    """Evidence of a query and one candidate."""

    matches: Matches
    verified: Verified
    evidence: PairEvidence

    def matched(self, query: Any, candidate: Any) -> tuple[Any, Any]:
        """What the rows of the matches belong to, given what was compared: two objects with keypoints, image_size."""
        return query, candidate


def evidence_of(matches: Matches | ImageMatches, verified: Verified, by_chance: float) -> PairEvidence:
    """Counts and summed confidence of verified matches; see PairEvidence."""
    confidence = float(matches.scores.numpy()[verified.inliers].sum(dtype=np.float64))
    return PairEvidence(len(matches), int(verified.inliers.sum()), confidence, by_chance)


class PairReranker(ABC, Generic[F]):
    """Compares a query with the first k candidates, pair by pair; those without evidence keep the shortlist's order.

    ``F`` is what is compared: the local features of an image, for instance.
    """

    weights = ""  # sha256 of the weights in use
    # from an image and its mask what is compared; None where it is extracted ahead
    prepare: Callable[[ImageLike, Image | None], F] | None = None
    nothing: F  # what an image that cannot be read is prepared to; of methods with ``prepare``
    score_name = ""  # what ``score`` measures

    def __init__(
        self,
        settings: RerankSettings,
        *,
        control: cost.Settings | None,
        threads: int,
        together: int,
        reads_ahead: bool,
    ) -> None:
        self.k = settings.k
        self.retrieval_weight = settings.retrieval_weight
        self.evidence_weight = settings.evidence_weight
        self.control = control or cost.Settings()
        self.threads = threads
        self.together = together  # candidates that one thread compares in one call
        self.reads_ahead = reads_ahead  # all candidates of the next query, while this one is compared

    @abstractmethod
    def compare(self, query: F, candidates: Sequence[F]) -> list[Pair]:
        """Returns the evidence of the query and each candidate; equal to a call with that pair only."""

    @abstractmethod
    def scales(self, pairs: Sequence[Pair]) -> tuple[Doubles, Sequence[float]]:
        """Scores (K, S) of the pairs on each scale, and the scales' weights (S,)."""

    @abstractmethod
    def score(self, pair: Pair) -> float:
        """Score of a single pair: the higher, the more likely both show one place."""

    def pair(self, query: F, candidate: F) -> Pair:
        """Matches, geometry and evidence of one pair."""
        return self.compare(query, [candidate])[0]

    def rerank(self, shortlist: Ranking, queries: Sequence[F], database: Sequence[F], k: int | None = None) -> Ranking:
        """The shortlist in a new order, with evidence. ``queries[i]`` belongs to row i of the shortlist.

        ``k`` candidates are compared; as many as the settings say if it is None.
        """
        k = self.k if k is None else k
        rows, scores = shortlist.rows.copy(), shortlist.scores.copy()
        evidence = _nothing_sought(shortlist)
        at_hand = self._at_hand(shortlist, k, queries, database)
        with one_thread_each(self.threads) as pool, closing(at_hand):
            for query, (features, candidates) in enumerate(at_hand):
                meter = cost.Meter(self.control)
                count = int((rows[query, :k] != NO_ROW).sum())
                pairs = self._examine(features, candidates, rows[query, :count].tolist(), pool, meter)
                order = np.arange(count)
                if pairs and meter.may_reorder(shortlist.scores[query, :count]):
                    order, scores[query] = self._order(pairs, scores[query], count)
                rows[query, :count] = rows[query, order]
                evidence.similarity[query, :count] = shortlist.scores[query, order]
                for place, rank in zip(order.tolist(), range(count), strict=True):
                    if place in pairs:
                        evidence.matches[query, rank] = pairs[place].evidence.matches
                        evidence.inliers[query, rank] = pairs[place].evidence.inliers
                evidence.elapsed_s[query] = time.perf_counter() - meter.started
        return Ranking(rows, scores, evidence)

    def _at_hand(
        self, shortlist: Ranking, k: int, queries: Sequence[F], database: Sequence[F]
    ) -> Generator[tuple[F, Candidates[F]], None, None]:
        """Each query's features, and where those of its candidates are found by row."""
        if self.reads_ahead:
            return read_ahead(shortlist, k, queries, database)
        return ((queries[query], database) for query in range(len(shortlist)))  # read when they are compared

    def _examine(
        self,
        query: F,
        candidates: Candidates[F],
        rows: Sequence[int],
        pool: ThreadPoolExecutor,
        meter: cost.Meter,
    ) -> dict[int, Pair]:
        """Returns the evidence by position in the shortlist, of as many candidates as the cost control allows."""

        def work(places: Sequence[int]) -> list[Pair]:
            return self.compare(query, [candidates[rows[place]] for place in places])

        pairs: dict[int, Pair] = {}
        waiting = self.agenda(query, candidates, rows, pool)
        # Few at first, since the best are often in front; then as many as fill the device.
        wave = max(self.threads, self.together // 16) if meter.watches else max(1, len(waiting))
        while waiting and (room := meter.room(min(wave, len(waiting)))):
            places, waiting = waiting[:room], waiting[room:]
            size = min(self.together, math.ceil(room / self.threads))
            found = [pair for part in pool.map(work, _parts(places, size)) for pair in part]
            pairs.update(zip(places, found, strict=True))
            meter.add([pair.evidence for pair in found])
            wave *= 2
        return pairs

    def agenda(self, query: F, candidates: Candidates[F], rows: Sequence[int], pool: ThreadPoolExecutor) -> list[int]:
        """Places of the shortlist in the order in which they are compared."""
        return list(range(len(rows)))

    def _standing(self, pairs: Sequence[Pair], places: Rows, similarity: Floats) -> Doubles:
        """Returns the score of each pair among all candidates, whose similarities are given; or several scores fused.

        Standardised scores tell which candidate stands out, even if all are chance; the evidence, whether it is.
        One that was not compared stands as low as the lowest that was, so that leaving out the hopeless does not
        change how far the others stand out.
        """
        found, weights = self.scales(pairs)
        scales = np.tile(found.min(axis=0), (len(similarity), 1))
        scales[places] = found
        if self.retrieval_weight > 0:
            scales = np.column_stack([scales, similarity.astype(np.float64)])
            weights = [*weights, self.retrieval_weight]
        if not self.evidence_weight:
            alone: Doubles = (scales[:, 0] if scales.shape[1] == 1 else fuse(scales, weights))[places]
            return alone
        evidence = np.log1p([inliers_above_chance(pair.evidence) for pair in pairs])
        standing: Doubles = fuse(scales, weights)[places] + self.evidence_weight * evidence
        return standing

    def _order(self, pairs: Mapping[int, Pair], similarity: Floats, count: int) -> tuple[Rows, Floats]:
        """The first ``count`` places in their new order, and the scores of the whole row.

        Candidates that were not compared follow below, at the distances the shortlist gave them.
        """
        places = np.array(sorted(pairs))  # so that ties keep the order of the shortlist
        found = [pairs[place] for place in places.tolist()]
        head = self._standing(found, places, similarity[:count]).astype(np.float32)
        best = np.argsort(-head, kind="stable")
        rest = np.delete(np.arange(len(similarity)), places)
        nearest = similarity[rest].max(initial=-np.inf, where=np.isfinite(similarity[rest]))
        tail = similarity[rest] if np.isneginf(nearest) else head.min() + (similarity[rest] - nearest)
        scores = np.concatenate([head[best], tail]).astype(np.float32)
        return np.concatenate([places[best], rest[: count - len(places)]]), scores


class LocalReranker(PairReranker[LocalFeatures]):
    """Matches local features and verifies the matches."""

    def __init__(
        self,
        matcher: Matcher,
        verifier: Verifier,
        settings: Settings,
        geometry: verification.Settings,
        *,
        control: cost.Settings | None = None,
        prefilter: Matcher | None = None,
        threads: int = 2,
        together: int = 4,
        reads_ahead: bool = False,
    ) -> None:
        super().__init__(
            settings,
            control=control,
            threads=threads,
            together=together,
            reads_ahead=reads_ahead,
        )
        self.weights = matcher.weights
        self.score_name = settings.score
        self.matcher = matcher
        self.verifier = verifier
        self.settings = settings
        self.geometry = geometry
        self.prefilter = prefilter  # the cheap matcher that decides in which order candidates are compared

    def compare(self, query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> list[Pair]:
        found = self.matcher.match(query, candidates)
        verified = self.verifier.verify([_points(query, *each) for each in zip(candidates, found, strict=True)])
        pairs = []
        for candidate, matches, kept in zip(candidates, found, verified, strict=True):
            by_chance = verification.inliers_by_chance(len(matches), self.geometry, candidate.image_size)
            pairs.append(Pair(matches, kept, evidence_of(matches, kept, by_chance)))
        return pairs

    def scales(self, pairs: Sequence[Pair]) -> tuple[Doubles, Sequence[float]]:
        return np.array([[self.score(pair)] for pair in pairs]), [1.0]

    def score(self, pair: Pair) -> float:
        return SCORES[self.settings.score](pair.evidence)

    def agenda(
        self, query: LocalFeatures, candidates: Candidates[LocalFeatures], rows: Sequence[int], pool: ThreadPoolExecutor
    ) -> list[int]:
        prefilter = self.prefilter
        if prefilter is None:
            return list(range(len(rows)))

        def prefiltered(places: Sequence[int]) -> list[float]:
            return [
                float(m.scores.sum()) for m in prefilter.match(query, [candidates[rows[place]] for place in places])
            ]

        parts = _parts(range(len(rows)), self.together)
        promise = [score for part in pool.map(prefiltered, parts) for score in part]
        least = self.control.promise * max(promise, default=0.0)
        return sorted((place for place in range(len(rows)) if promise[place] >= least), key=lambda i: -promise[i])


def _parts(places: Sequence[int], size: int) -> list[Sequence[int]]:
    return [places[first : first + size] for first in range(0, len(places), size)]


def _points(query: LocalFeatures, candidate: LocalFeatures, matches: Matches) -> tuple[Doubles, Doubles]:
    pairs = matches.pairs.numpy()
    return (
        query.keypoints.numpy()[pairs[:, 0]].astype(np.float64),
        candidate.keypoints.numpy()[pairs[:, 1]].astype(np.float64),
    )


def _nothing_sought(shortlist: Ranking) -> Evidence:
    """Evidence of a shortlist of which no candidate has been matched yet."""
    return Evidence(
        similarity=shortlist.scores.copy(),
        matches=np.full(shortlist.rows.shape, -1, dtype=np.int32),
        inliers=np.full(shortlist.rows.shape, -1, dtype=np.int32),
        elapsed_s=np.zeros(len(shortlist)),
    )
