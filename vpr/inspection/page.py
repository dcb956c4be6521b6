"""One self-contained HTML page: a scatter of two metrics over the items, and the matches of the item that is chosen.

It asks nothing of a network. Names reach the page as data alone: the script sets them as text, never as markup, and no
other script may run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from vpr.core import ImageError
from vpr.images import read_image
from vpr.inspection.items import InspectedPair, InspectedRun, Items, chosen_items, in_common
from vpr.report.drawing import MatchedSegments, Points, jpeg_uri, thumbnail
from vpr.report.outcomes import spread
from vpr.report.page import environment
from vpr.runtime.files import write_atomically
from vpr.runtime.progress import Progress

SIDE = 560  # pixels of the longer side of an image on the page
MOST_MATCHES = 1500  # of a pair, evenly spread over each kind
MOST_KEYPOINTS = 2000  # of an image
FAILED = "inf"  # how the page writes an infinite value, for which JSON has no number


def write_page(path: Path, runs: Sequence[InspectedRun], titles: Sequence[str], shown: int) -> None:
    """Write the page of one or two runs, with the matches of ``shown`` items. Raises ConfigError if they do not fit."""
    items = in_common(runs, titles)
    data = _content(items, runs, titles, chosen_items(items, runs, shown))
    script = (files("vpr.report") / "templates" / "inspect.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = environment().get_template("inspect.html.j2")
    text = template.render(data=_as_script_data(data), script=script, digest=digest, titles=titles)
    write_atomically(path, text.encode("utf-8", "replace"))


def _as_script_data(data: Any) -> str:
    """JSON that cannot end the element it stands in, and needs no escaping by the template."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _content(
    items: Items, runs: Sequence[InspectedRun], titles: Sequence[str], chosen: Sequence[int]
) -> dict[str, Any]:
    images = _Images()
    pairs: dict[str, list[list[Any]]] = {}
    for item in Progress("items", len(chosen), "item").over(iter(chosen)):
        of_runs = [run.pairs(rows[item]) for run, rows in zip(runs, items.rows, strict=True)]
        pairs[str(item)] = [[images.shown(pair) for pair in of_run] for of_run in of_runs]
    return {
        "kind": runs[0].kind,
        "names": items.names,
        "runs": [
            {
                "title": title,
                "main": run.main,
                "rightness": run.rightness,
                "right": [run.right[row] for row in rows],
                "metrics": {name: [_plain(values[row]) for row in rows] for name, values in run.metrics.items()},
            }
            for run, title, rows in zip(runs, titles, items.rows, strict=True)
        ],
        "pairs": pairs,
        "images": images.embedded,
    }


def _plain(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return float(f"{value:.6g}") if math.isfinite(value) else FAILED


class _Images:
    """Thumbnails by number, each once."""

    def __init__(self) -> None:
        self.embedded: list[dict[str, Any]] = []
        self._numbers: dict[Path, int | None] = {}

    def shown(self, pair: InspectedPair) -> dict[str, Any]:
        """A pair as the page takes it: points in pixels of the thumbnails."""
        numbers = [self._number(path) for path in pair.paths]
        matches = pair.matches
        sides = [
            self._placed(points, size, number)
            for points, size, number in zip(
                (matches.query_points, matches.candidate_points), pair.sizes, numbers, strict=True
            )
        ]
        kinds = [spread(np.flatnonzero(kind).tolist(), MOST_MATCHES) for kind in (matches.inliers, ~matches.inliers)]
        confidences = np.zeros(len(matches.inliers)) if matches.confidences is None else matches.confidences
        lines = np.column_stack([*sides, np.round(100 * np.nan_to_num(confidences).clip(0, 1))])
        keypoints = [
            [] if points is None else self._placed(points, size, number)[:MOST_KEYPOINTS].tolist()
            for points, size, number in zip(
                (matches.query_keypoints, matches.candidate_keypoints), pair.sizes, numbers, strict=True
            )
        ]
        segments = matches.segments
        return {
            "title": pair.title,
            "facts": pair.facts,
            "names": pair.names,
            "images": numbers,
            "inliers": lines[kinds[0]].tolist(),
            "rejected": lines[kinds[1]].tolist(),
            "keypoints": keypoints,
            "segments": [] if segments is None else self._segments(segments, pair, numbers),
        }

    def _segments(
        self, segments: MatchedSegments, pair: InspectedPair, numbers: Sequence[int | None]
    ) -> list[list[Any]]:
        """Matched segments: x, y of both ends in both images, and their colour."""
        ends = [
            self._placed(points.reshape(-1, 2), size, number).reshape(-1, 4)
            for points, size, number in zip(
                (segments.query_ends, segments.candidate_ends), pair.sizes, numbers, strict=True
            )
        ]
        colours = ["#" + bytes(colour).hex() for colour in segments.colours()]
        return [[*row, colour] for row, colour in zip(np.hstack(ends).tolist(), colours, strict=True)]

    def _number(self, path: Path) -> int | None:
        """Of an image; None if it cannot be read."""
        if path not in self._numbers:
            try:
                image = thumbnail(read_image(path, "rgb"), SIDE)
            except ImageError:
                self._numbers[path] = None
            else:
                self._numbers[path] = len(self.embedded)
                self.embedded.append({"uri": jpeg_uri(image), "width": image.shape[1], "height": image.shape[0]})
        return self._numbers[path]

    def _placed(self, points: Points, size: tuple[int, int], number: int | None) -> Points:
        """In a thumbnail whose top-left corner is (0, 0)."""
        if number is None:
            return np.zeros((len(points), 2))
        shown = self.embedded[number]
        scale = np.array([shown["width"], shown["height"]]) / np.maximum(size, 1)
        placed: Points = np.round((np.asarray(points, np.float64).reshape(-1, 2) + 0.5) * scale, 1)
        return placed
