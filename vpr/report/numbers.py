"""Measured numbers as JSON holds them."""

from __future__ import annotations

import math

from vpr.evaluation.bootstrap import Estimate


def estimate_record(estimate: Estimate) -> dict[str, float | None]:
    """Value and ends of the interval; a recall of no query is null."""
    return {"value": number(estimate.value), "low": number(estimate.low), "high": number(estimate.high)}


def number(value: float) -> float | None:
    return None if math.isnan(value) else value
