"""A drive through a map: a forward filter over the candidates of each frame.

A hidden Markov model whose states are images of the map: a frame speaks for an image by the similarity of the global
descriptors, and from one frame to the next the camera moves a short way or, seldom, jumps (as in Hausler et al.'s and
Milford's sequence methods, but causal: an answer depends on the frames so far only).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vpr.core import Doubles
from vpr.maps.answers import Candidate

SHARPNESS = 40.0  # likelihood = exp(SHARPNESS * similarity); measured, see docs/map.md
JUMP = 0.001  # what speaks for an image from which no image of the frame before is near
STEP_M = 10.0  # the camera moves about so far from frame to frame
STEP_IMAGES = 2.0  # or so many images on, where images have no positions: they are taken to be in order


class SequenceFilter:
    """What the frames so far say of where the camera is."""

    def __init__(self, step_m: float = STEP_M) -> None:
        self.step_m = step_m
        self.before: tuple[Sequence[Candidate], Doubles] | None = None

    def update(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates of the next frame, the most probable first; without any the frame is passed over."""
        if not candidates:
            return []
        similarity = np.array([each.similarity for each in candidates], dtype=np.float64)
        belief = np.exp(SHARPNESS * (similarity - similarity.max()))
        if self.before is not None:
            earlier, weights = self.before
            belief *= JUMP + np.exp(-0.5 * self._steps(candidates, earlier) ** 2) @ weights
        belief /= belief.sum()
        self.before = candidates, belief
        return [candidates[place] for place in np.argsort(-belief, kind="stable").tolist()]

    def _steps(self, candidates: Sequence[Candidate], earlier: Sequence[Candidate]) -> Doubles:
        """(K, J) how many steps lie between candidates of this frame and of the one before."""
        steps = [[self._between(one, other) for other in earlier] for one in candidates]
        return np.array(steps)

    def _between(self, one: Candidate, other: Candidate) -> float:
        if one.position is not None and other.position is not None:
            metres = one.position.distance_m(other.position)
            return metres / self.step_m if np.isfinite(metres) else np.inf
        return abs(one.id - other.id) / STEP_IMAGES
