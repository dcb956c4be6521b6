"""Queries whose camera was turned: each is described at several rotations, and the one that verifies best is kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vpr.core import ConfigError, Doubles, Ranking, Rows
from vpr.descriptors import Features
from vpr.features.feature_set import FeatureSet
from vpr.features.turned import ChosenTurns

logger = logging.getLogger(__name__)

LEAD = 1.5  # a rotation verifies clearly with this many times the inliers of the next best one,
LEAST = 6  # and this many more


def choose(
    features: Features, retrieve: Callable[[Features], Ranking], verify: Callable[[Features, Ranking], Ranking] | None
) -> tuple[Features, Ranking]:
    """The features and the shortlist of the queries, each at the rotation that is chosen for it.

    ``retrieve`` gives a shortlist, and ``verify``, where there is one, compares the first few of its candidates; see
    best_rotation.
    """
    sets = (features.queries, *features.turned)
    shortlists = [retrieve(Features(features.database, each)) for each in sets]
    similarity = np.stack([each.scores[:, 0].astype(np.float64) for each in shortlists])
    inliers = None
    if verify is not None:
        pairs = zip(sets, shortlists, strict=True)
        inliers = np.stack([_inliers(verify(Features(features.database, each), found)) for each, found in pairs])
    choice = best_rotation(similarity, inliers)
    degrees = np.stack([_rotations(each) for each in sets])[choice, np.arange(len(choice))]
    logger.info("rotations: %d of %d queries turned", int((degrees != 0).sum()), len(degrees))
    return Features(features.database, _joined(sets, choice, degrees)), _mixed(shortlists, choice)


def require_rotations(degrees: Sequence[int]) -> None:
    """Raise ConfigError for anything but different ones of 0, 90, 180 and 270."""
    if not degrees or len(set(degrees)) < len(degrees) or not set(degrees) <= {0, 90, 180, 270}:
        raise ConfigError(f"rotations {list(degrees)}: give some of 0, 90, 180 and 270 degrees, each once")


def best_rotation(similarity: Doubles, inliers: Rows | None) -> Rows:
    """(Q,) the rotation of each query, from (R, Q) similarities of its first candidate and inliers of its best one.

    It is the one with clearly most inliers, or else, since those of images that do not verify are chance, the most
    similar one; of equal ones the one named first.
    """
    chosen: Rows = similarity.argmax(axis=0)
    if inliers is not None and len(inliers) > 1:
        second, most = np.sort(inliers, axis=0)[-2:]
        clear = (most >= LEAD * second) & (most >= second + LEAST)
        chosen = np.where(clear, inliers.argmax(axis=0), chosen)
    return chosen


def _rotations(queries: FeatureSet) -> Rows:
    return np.zeros(len(queries.images), np.int64) if queries.rotations is None else queries.rotations


def _inliers(verified: Ranking) -> Rows:
    """(Q,) inliers of the candidate that has most."""
    assert verified.evidence is not None
    most: Rows = verified.evidence.inliers.max(axis=1).astype(np.int64)
    return most


def _joined(sets: Sequence[FeatureSet], choice: Rows, degrees: Rows) -> FeatureSet:
    keys = tuple(sets[place].keys[row] for row, place in enumerate(choice.tolist()))
    stores = [each.rerank_store for each in sets]
    chosen = None if any(store is None for store in stores) else ChosenTurns(stores, choice)
    return replace(sets[0], keys=keys, chosen=chosen, rotations=degrees)


def _mixed(rankings: Sequence[Ranking], choice: Rows) -> Ranking:
    queries = np.arange(len(choice))
    rows = np.stack([each.rows for each in rankings])[choice, queries]
    scores = np.stack([each.scores for each in rankings])[choice, queries]
    return Ranking(rows, scores)
