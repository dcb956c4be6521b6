"""Cards of the page's galleries: a query beside candidates, with match lines and what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vpr.core import NO_ROW, Dataset, Doubles, Floats, Image, Ranking, Rows
from vpr.evaluation.distance import distances_m
from vpr.evaluation.recall import NEVER, first_hits
from vpr.report.drawing import GAP, Correspondences, Points, jpeg_uri, thumbnail
from vpr.report.outcomes import Outcome, spread
from vpr.report.tables import length_text

Pictures = Callable[[str, int], Image | None]  # ("query" or "database", row) -> RGB as the local features saw it
Drawn = Callable[[int, int], Correspondences | None]  # query row, database row -> matches in pixels of those images

SIDE = 320  # pixels of a thumbnail's longer side, and units of its square in the figure
UNREADABLE_HEIGHT = 180  # of the box that stands for an image that cannot be read
MAX_LINES = 100  # drawn per pair and kind: more hide the image
QUALITY, QUALITY_OF_MANY = 80, 60  # of the JPEG files
MANY = ((100, SIDE, MAX_LINES), (250, 224, 50))  # up to this many cards: pixels of a thumbnail, lines
VERY_MANY = (160, 25)  # so that 500 failures stay below 15 MB
LEVELS = 5  # of confidence, each with a colour
OTHERS = 2  # further candidates beside a first one that is right, or whose truth is not known


@dataclass(frozen=True)
class Picture:
    """A thumbnail and its size in a figure; ``uri`` is None if the image cannot be read."""

    uri: str | None
    width: float
    height: float
    per_pixel: float  # units of the figure per pixel of the image


@dataclass(frozen=True)
class ShownCandidate:
    name: str
    right: bool | None  # None without ground truth
    rank: str  # in words
    facts: tuple[str, ...]  # score, matches, distance


@dataclass(frozen=True)
class ShownPair:
    """Query and candidate side by side, top aligned, the seam at x = SIDE."""

    candidate: ShownCandidate
    query: Picture
    picture: Picture
    inliers: tuple[tuple[str, str], ...]  # level of confidence, "" where it is not known, and path of match lines
    rejected: str
    keypoints: str  # path of dots, where they are to be shown


@dataclass(frozen=True)
class Card:
    query: int
    name: str
    outcome: Outcome
    verdict: str  # where the first positive is, in words
    pairs: tuple[ShownPair, ...]
    others: tuple[tuple[ShownCandidate, Picture], ...] = ()


@dataclass(frozen=True, eq=False)
class Gallery:
    """Makes the cards of one run; images and matches are asked for only when a card needs them."""

    dataset: Dataset
    shortlist: Ranking
    predictions: Ranking  # the shortlist itself where nothing was re-ranked
    pictures: Pictures
    correspondences: Drawn
    pixels: int = SIDE  # of a thumbnail's longer side
    lines: int = MAX_LINES  # drawn per pair and kind

    def card(self, query: int, outcome: Outcome) -> Card:
        """A wrong first candidate beside the best positive; a right one, or one of unknown truth, beside the next."""
        if outcome in (Outcome.UNKNOWN, Outcome.KEPT):
            rows, others = self.predictions.rows[query, :1].tolist(), self.predictions.rows[query, 1 : 1 + OTHERS]
        else:
            accused = self.shortlist if outcome is Outcome.RESCUED else self.predictions
            rows, others = [*accused.rows[query, :1].tolist(), self._best_right(query)], np.empty(0, dtype=np.int64)
        picture = self._picture("query", query)
        return Card(
            query,
            self.dataset.queries.names[query],
            outcome,
            self._verdict(query),
            tuple(self._pair(query, picture, row) for row in rows if row != NO_ROW),
            tuple(self._other(query, row) for row in others.tolist() if row != NO_ROW),
        )

    def _other(self, query: int, row: int) -> tuple[ShownCandidate, Picture]:
        return self._candidate(query, row, None), self._picture("database", row)

    def _pair(self, query: int, query_picture: Picture, row: int) -> ShownPair:
        picture, matches = self._picture("database", row), self.correspondences(query, row)
        candidate = self._candidate(query, row, matches)
        if matches is None or query_picture.uri is None or picture.uri is None:
            return ShownPair(candidate, query_picture, picture, (), "", "")
        sides = ((query_picture, SIDE - query_picture.width), (picture, SIDE + GAP))
        starts, ends = (
            _placed(points, *side)
            for points, side in zip((matches.query_points, matches.candidate_points), sides, strict=True)
        )
        rejected = _lines(starts, ends, spread(np.flatnonzero(~matches.inliers).tolist(), self.lines))
        shown = spread(np.flatnonzero(matches.inliers).tolist(), self.lines)
        inliers = tuple((level, _lines(starts, ends, rows)) for level, rows in _by_level(shown, matches.confidences))
        dots = "".join(
            _dots(_placed(points, *side))
            for points, side in zip((matches.query_keypoints, matches.candidate_keypoints), sides, strict=True)
            if points is not None
        )
        return ShownPair(candidate, query_picture, picture, inliers, rejected, dots)

    def _picture(self, role: str, row: int) -> Picture:
        image = self.pictures(role, row)
        if image is None:
            return Picture(None, SIDE, UNREADABLE_HEIGHT, 1.0)
        height, width = image.shape[:2]
        per_pixel = SIDE / max(height, width)
        uri = jpeg_uri(thumbnail(image, self.pixels), QUALITY if self.pixels == SIDE else QUALITY_OF_MANY)
        return Picture(uri, round(width * per_pixel), round(height * per_pixel), per_pixel)

    def _candidate(self, query: int, row: int, matches: Correspondences | None) -> ShownCandidate:
        positives = self.dataset.positives
        right = None if positives is None or query in self.dataset.unknown else bool(np.isin(row, positives[query]))
        facts = (self._score(query, row), self._matched(query, row, matches), self._distance(query, row))
        name = self.dataset.database.names[row]
        return ShownCandidate(name, right, self._rank(query, row), tuple(fact for fact in facts if fact))

    def _score(self, query: int, row: int) -> str:
        place = _place(self.predictions, query, row)
        return "" if place is None else f"score {self.predictions.scores[query, place]:.4g}"

    def _matched(self, query: int, row: int, matches: Correspondences | None) -> str:
        place, evidence = _place(self.predictions, query, row), self.predictions.evidence
        if place is not None and evidence is not None and evidence.inliers[query, place] >= 0:
            verified, found = int(evidence.inliers[query, place]), int(evidence.matches[query, place])
            return f"{verified} of {max(found, verified)} matches verified"
        return "" if matches is None else f"{matches.inliers.sum()} of {len(matches.inliers)} matches verified"

    def _distance(self, query: int, row: int) -> str:
        metres = distances_m(self.dataset, np.array([[row]]), np.array([query]))
        return "" if metres is None else f"{length_text(float(metres[0, 0]))} away"

    def _rank(self, query: int, row: int) -> str:
        after = _place(self.predictions, query, row)
        rank = f"not among the {self._count(query)} candidates" if after is None else f"rank {after + 1}"
        before = _place(self.shortlist, query, row)
        if self.shortlist is self.predictions or before is None:
            return rank
        return f"{rank}, was {before + 1} in the shortlist"

    def _count(self, query: int) -> int:
        return int(np.count_nonzero(self.predictions.rows[query] != NO_ROW))

    def _verdict(self, query: int) -> str:
        """Where the first positive is."""
        if self.dataset.positives is None or query in self.dataset.unknown:
            return ""
        before, after = int(self._hits[0][query]), int(self._hits[1][query])
        if before == after == 1:
            return ""
        if after == NEVER:
            return f"no positive among the {self._count(query)} candidates"
        if self.shortlist is self.predictions or before == NEVER:
            return f"first positive at rank {after}"
        return f"first positive at rank {before} in the shortlist, {after} after re-ranking"

    def _best_right(self, query: int) -> int:
        """The positive that is ranked best, else the nearest, else the middle one of a run of frames."""
        assert self.dataset.positives is not None
        positives, hit = self.dataset.positives[query], int(self._hits[1][query])
        if hit != NEVER:
            return int(self.predictions.rows[query, hit - 1])
        if not len(positives):
            return NO_ROW
        metres = distances_m(self.dataset, positives[None], np.array([query]))
        return int(positives[len(positives) // 2 if metres is None else metres[0].argmin()])

    @cached_property
    def _hits(self) -> tuple[Rows, Rows]:
        """Rank of the first positive before and after, per query."""
        positives = self.dataset.positives or ()
        return first_hits(self.shortlist, positives), first_hits(self.predictions, positives)


def fineness(cards: int) -> tuple[int, int]:
    """Pixels of a thumbnail's longer side, and lines per pair and kind, for a page of this many cards."""
    return next(((pixels, lines) for most, pixels, lines in MANY if cards <= most), VERY_MANY)


def _place(ranking: Ranking, query: int, row: int) -> int | None:
    places = np.flatnonzero(ranking.rows[query] == row)
    return int(places[0]) if len(places) else None


def _placed(points: Points, picture: Picture, left: float) -> Doubles:
    """Pixels to units of the figure; the centre of the first pixel is (0, 0), the corner of the image is not."""
    placed: Doubles = (np.asarray(points, dtype=np.float64) + 0.5) * picture.per_pixel + np.array([left, 0.0])
    return placed


def _by_level(rows: Sequence[int], confidences: Floats | None) -> list[tuple[str, list[int]]]:
    """Rows of matches by level of confidence, from low to high; all together where it is not known."""
    if confidences is None or not rows:
        return [("", list(rows))] if rows else []
    levels = np.clip(confidences[list(rows)] * LEVELS, 0, LEVELS - 1).astype(int).tolist()
    return [
        (str(level), [row for row, own in zip(rows, levels, strict=True) if own == level])
        for level in sorted(set(levels))
    ]


def _lines(starts: Doubles, ends: Doubles, rows: Sequence[int]) -> str:
    """A path of separate lines."""
    ends = ends - starts  # relative coordinates are shorter
    return "".join(
        f"M{x:.0f} {y:.0f}l{dx:.0f} {dy:.0f}" for (x, y), (dx, dy) in zip(starts[rows], ends[rows], strict=True)
    )


def _dots(points: Doubles) -> str:
    return "".join(f"M{x:.0f} {y:.0f}h0" for x, y in points)
