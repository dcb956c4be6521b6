"""Cost control: how many candidates of a query are compared, and when the shortlist's order is kept.

All of it is off by default. Evidence is counted in inliers beyond those that chance gives, so that one number serves
sparse and dense matches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from typing import Literal

import numpy as np
from pydantic import Field

from vpr.config import Section
from vpr.core import Floats
from vpr.rerank.scores import PairEvidence, inliers_above_chance


class Settings(Section):
    """Settings of cost control; 0 switches a rule off."""

    # Compare candidates in this order. "nearest" first matches all of them by nearest neighbours, which is cheap beside
    # a network, so that rules which stop early see the promising ones first.
    order: Literal["shortlist", "nearest"] = "shortlist"
    promise: float = Field(0, ge=0, le=1)  # with "nearest": leave out who promises less than this share of the best
    stop_inliers: float = Field(0, ge=0)  # stop once a candidate has this many; the rest keeps its order below
    budget_pairs: int = Field(0, ge=0)  # candidates per query
    budget_ms: float = Field(0, ge=0)  # milliseconds per query, checked between groups of candidates
    gate_inliers: float = Field(0, ge=0)  # keep the shortlist's order unless some candidate has this many,
    gate_lead: float = Field(0, ge=0)  # or unless its first leads the others by fewer standard deviations than this


class Meter:
    """Watches one query against the settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started = time.perf_counter()
        self.pairs = 0
        self.best = 0.0

    @property
    def watches(self) -> bool:
        """Whether anything can end the work early."""
        return bool(self.settings.stop_inliers or self.settings.budget_pairs or self.settings.budget_ms)

    def add(self, evidence: Collection[PairEvidence]) -> None:
        self.pairs += len(evidence)
        self.best = max([self.best, *map(inliers_above_chance, evidence)])

    def room(self, wanted: int) -> int:
        """Number of the wanted candidates that may still be compared."""
        settings = self.settings
        decided = 0 < settings.stop_inliers <= self.best
        late = 0 < settings.budget_ms <= 1000 * (time.perf_counter() - self.started)
        if decided or (late and self.pairs):
            return 0
        return min(wanted, settings.budget_pairs - self.pairs) if settings.budget_pairs else wanted

    def may_reorder(self, similarity: Floats) -> bool:
        """Whether the evidence is enough to change the order of a shortlist with these similarities."""
        return self.best >= self.settings.gate_inliers or lead(similarity) < self.settings.gate_lead


def lead(similarity: Floats) -> float:
    """Returns how far the first of a shortlist stands out: its distance to the mean of the others, in their deviations.

    Infinite where the others are alike, or fewer than two.
    """
    others = similarity[1:][np.isfinite(similarity[1:])].astype(np.float64)
    spread = float(others.std()) if len(others) > 1 else 0.0
    return (float(similarity[0]) - float(others.mean())) / spread if spread > 0 else math.inf
