"""From the rows that a search found to candidates with evidence, in the order of the re-ranker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpr.core import LocalFeatures, Matches, Ranking
from vpr.features.rows import RowSequence
from vpr.maps.answers import Candidate
from vpr.maps.local_codec import LocalCodec
from vpr.maps.manifest import StoredImage
from vpr.maps.snapshot import FoundRow, Snapshot
from vpr.rerank import LocalReranker, verification


@dataclass(frozen=True, eq=False)
class MatchedPair:
    """A photograph and an image of the map, compared."""

    query: LocalFeatures
    candidate: LocalFeatures  # as they are stored
    matches: Matches
    inliers: NDArray[np.bool_]  # (M,) which matches agree with one geometry
    inliers_by_chance: float  # as many inliers unrelated images give


class StoredFeatures(RowSequence[LocalFeatures]):
    """Local features of rows that were found, decoded when they are compared, in the threads that compare them."""

    def __init__(self, found: Sequence[FoundRow], snapshot: Snapshot, codec: LocalCodec) -> None:
        self.found = found
        self.snapshot = snapshot
        self.codec = codec

    def __len__(self) -> int:
        return len(self.found)

    def _row(self, place: int) -> LocalFeatures:
        each = self.found[place]
        return self.snapshot.segments[each.segment].features(each.row, self.codec)

    def keypoints(self, place: int) -> int:
        """Number of keypoints."""
        each = self.found[place]
        rows = self.snapshot.segments[each.segment].rows
        return int(rows[each.row + 1, 0] - rows[each.row, 0])

    def image_size(self, place: int) -> tuple[int, int]:
        """Width and height that the features refer to."""
        each = self.found[place]
        _, width, height = self.snapshot.segments[each.segment].rows[each.row].tolist()
        return width, height


def as_found(found: Sequence[FoundRow], images: Sequence[StoredImage]) -> list[Candidate]:
    """Candidates in the order of their similarity, none of them compared."""
    return [_candidate(image, each, each.similarity) for image, each in zip(images, found, strict=True)]


def reranked(
    query: LocalFeatures,
    found: Sequence[FoundRow],
    images: Sequence[StoredImage],
    stored: StoredFeatures,
    reranker: LocalReranker,
    *,
    k: int,
) -> list[Candidate]:
    """The first ``k`` compared with the query and sorted; the others follow in the order of their similarity."""
    shortlist = Ranking(np.arange(len(found))[None], np.array([[each.similarity for each in found]], np.float32))
    ranking = reranker.rerank(shortlist, [query], stored, k=k)
    evidence = ranking.evidence
    assert evidence is not None
    candidates = []
    for rank, place in enumerate(ranking.rows[0].tolist()):
        matches, inliers = int(evidence.matches[0, rank]), int(evidence.inliers[0, rank])
        each, score = found[place], float(ranking.scores[0, rank])
        if matches < 0:
            candidates.append(_candidate(images[place], each, score))
            continue
        by_chance = verification.inliers_by_chance(matches, reranker.geometry, stored.image_size(place))
        keypoints = min(len(query), stored.keypoints(place))
        candidates.append(_candidate(images[place], each, score, (matches, inliers, by_chance, keypoints)))
    return candidates


def _candidate(
    image: StoredImage, found: FoundRow, score: float, evidence: tuple[int, int, float, int] | None = None
) -> Candidate:
    matches, inliers, by_chance, keypoints = evidence or (None, None, None, None)
    return Candidate(
        id=image.id,
        name=image.name,
        position=image.position,
        similarity=found.similarity,
        score=score,
        matches=matches,
        inliers=inliers,
        inliers_by_chance=by_chance,
        heading=image.heading,
        time=image.time,
        group=image.group,
        columns=image.columns,
        keypoints=keypoints,
    )
