"""What a map answers: a position with its probability, and the candidates with their evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vpr.datasets.placed import Position, Value
from vpr.rerank.scores import same_place
from vpr.rotations import best_rotation


@dataclass(frozen=True)
class Candidate:
    """One image of the map that may show the place of the query."""

    id: int  # of the image in the map; never used again for another
    name: str
    position: Position | None
    similarity: float  # of the global descriptors, in [-1, 1]
    score: float  # what the candidates are ordered by: the higher the better
    matches: int | None  # correspondences; None where none were sought
    inliers: int | None  # those that one geometry explains
    inliers_by_chance: float | None  # as many inliers unrelated images give
    heading: float | None = None  # degrees clockwise from north
    time: float | None = None  # seconds since 1970, UTC
    group: str = ""
    columns: Mapping[str, Value] = field(default_factory=dict)
    keypoints: int | None = None  # of the query or of the image, whichever has fewer; None where none were sought

    @property
    def evidence(self) -> float:
        """Inliers beyond those that unrelated images give; 0 where none were sought."""
        return max(0.0, (self.inliers or 0) - (self.inliers_by_chance or 0.0))

    @property
    def same_place(self) -> bool:
        """Whether there are clearly more inliers than unrelated images give."""
        return same_place(self.inliers or 0, self.inliers_by_chance or 0.0)


@dataclass(frozen=True)
class Answer:
    """Where a photograph was taken, as far as the map can tell."""

    position: Position | None  # see fused; None without candidates
    probability: float | None  # that the first candidate shows the place; None where it was not calibrated
    here: bool  # False: "not here", the photograph is probably of no place of the map
    candidates: tuple[Candidate, ...]  # best first
    version: int  # of the map: its number of commits
    images: int  # that the map holds
    rotation: int = 0  # degrees by which the photograph was turned counter-clockwise
    elapsed_ms: Mapping[str, float] = field(default_factory=dict)  # by step

    @property
    def verified(self) -> bool:
        """Whether the first candidate was compared, and shows the place."""
        return self.here and bool(self.candidates) and self.candidates[0].inliers is not None

    def to_json(self) -> dict[str, Any]:
        """The answer as JSON types; what is unknown is null."""
        return {
            "position": _position(self.position),
            "probability": self.probability,
            "here": self.here,
            "rotation": self.rotation,
            "candidates": [
                {**_plain(candidate), "position": _position(candidate.position)} for candidate in self.candidates
            ],
            "map": {"version": self.version, "images": self.images},
            "elapsed_ms": {step: round(value, 2) for step, value in self.elapsed_ms.items()},
        }

    def __str__(self) -> str:
        if not self.candidates:
            return "not here: no candidate"
        how_likely = "" if self.probability is None else f" (probability {self.probability:.2f})"
        first = self.candidates[0]
        evidence = "" if first.inliers is None else f", {first.inliers} inliers of {first.matches} matches"
        place = "no position is known" if self.position is None else position_text(self.position)
        if not self.here:
            return f"not here{how_likely}; nearest is {first.name}{evidence}: {place}"
        return f"{place}{how_likely}, as {first.name}{evidence}"


def position_text(position: Position) -> str:
    """Degrees and metres, as far as they are known."""
    parts = []
    if position.degrees is not None:
        parts.append(f"{position.degrees[0]:.6f}, {position.degrees[1]:.6f}")
    if position.metres is not None:
        zone = "own frame" if position.zone is None else f"UTM {position.zone}"
        parts.append(f"{zone} {position.metres[0]:.1f} east {position.metres[1]:.1f} north")
    return "; ".join(parts)


def best_of_rotations(answers: Sequence[Answer]) -> Answer:
    """The verified answer, or else the one that best_rotation chooses; with the time of all of them."""
    steps = sorted({step for answer in answers for step in answer.elapsed_ms})
    elapsed = {step: sum(answer.elapsed_ms.get(step, 0.0) for answer in answers) for step in steps}
    best = len(answers) - 1
    if not answers[-1].verified:
        similarity = [max((each.similarity for each in answer.candidates), default=-1.0) for answer in answers]
        inliers = [max((each.inliers or 0 for each in answer.candidates), default=0) for answer in answers]
        best = int(best_rotation(np.array(similarity)[:, None], np.array(inliers)[:, None])[0])
    return replace(answers[best], elapsed_ms=elapsed)


AGREEING = 10  # candidates whose positions may be averaged,
AGREEING_M = 25.0  # where they are so near to the first; both measured, see docs/map.md


def fused(candidates: Sequence[Candidate], radius_m: float = AGREEING_M) -> Position | None:
    """The mean position of the first candidate and those near it, weighted by their evidence; None without candidates.

    Only the first AGREEING candidates count, and only those with evidence: without re-ranking it is the first's.
    """
    candidates = candidates[:AGREEING]
    first = candidates[0].position if candidates else None
    if first is None or first.metres is None:
        return first
    agreeing = [
        (each.evidence, each.position.metres)
        for each in candidates
        if each.position is not None
        and each.position.metres is not None
        and each.position.zone == first.zone
        and each.position.distance_m(first) <= radius_m
        and each.evidence > 0
    ]
    if len(agreeing) < 2:
        return first
    weights = np.array([weight for weight, _ in agreeing])
    east, north = (weights[:, None] * np.array([metres for _, metres in agreeing])).sum(axis=0) / weights.sum()
    return Position.of_utm(float(east), float(north), first.zone)


def _plain(candidate: Candidate) -> dict[str, Any]:
    about = {**vars(candidate), "columns": dict(candidate.columns)}
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in about.items()
    }


def _position(position: Position | None) -> dict[str, Any] | None:
    return None if position is None else dict(vars(position))
