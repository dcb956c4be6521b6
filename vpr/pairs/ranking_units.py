"""One image against many by other processes: a unit is some of the candidates."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from vpr.build import build_reranker, on_worker
from vpr.config import fingerprint
from vpr.rerank import PairReranker
from vpr.runtime.progress import Progress
from vpr.runtime.threads import one_thread_each
from vpr.runtime.units import Computed, Workers, in_parts
from vpr.settings import Settings

UNIT_IMAGES = 256  # compared by one unit

Scored = tuple[float, int, int]  # score, matches, inliers


class AskedImage(NamedTuple):
    """The image that is compared: the digest of its file, and its features."""

    content: str
    features: Any


@dataclass(frozen=True, eq=False)
class CandidateMethods:
    """What compares, and the features of the candidates, by row."""

    reranker: PairReranker[Any]
    features: Sequence[Any]


@dataclass(frozen=True, eq=False)
class CandidateUnit:
    """An image, and the rows of those with which it is compared."""

    key: str
    asked: Any
    rows: tuple[int, ...]

    def compute(self, methods: CandidateMethods) -> Computed:
        scored = compared_here(self.asked, methods.features, self.rows, methods.reranker)
        scores, *counts = zip(*(scored[row] for row in self.rows), strict=True)
        return Computed({"scores": np.array(scores), "counts": np.array(counts, np.int64)})


def compared_here(
    asked: Any, features: Sequence[Any], rows: Sequence[int], reranker: PairReranker[Any], progress: Any = None
) -> dict[int, Scored]:
    """Score and counts of an image with each of the candidates of these rows."""

    def compare(part: Sequence[int]) -> list[Scored]:
        pairs = reranker.compare(asked, [features[row] for row in part])
        return [(reranker.score(pair), pair.evidence.matches, pair.evidence.inliers) for pair in pairs]

    parts = [[rows[at] for at in part] for part in in_parts(len(rows), reranker.together)]
    found: dict[int, Scored] = {}
    with one_thread_each(reranker.threads) as pool:
        for part, scored in zip(parts, pool.map(compare, parts), strict=True):
            found |= dict(zip(part, scored, strict=True))
            if progress is not None:
                progress.update(len(part))
    return found


def compared_on(
    workers: Workers,
    settings: Settings,
    query: AskedImage,
    features: Any,
    rows: Sequence[int],
    *,
    progress: Progress,
) -> dict[int, Scored]:
    """As compared_here, by workers, which open the store ``features``."""
    made_by = fingerprint(settings.model_dump(mode="json", exclude={"machine"}))
    units = []
    for part in in_parts(len(rows), UNIT_IMAGES):
        some = tuple(rows[at] for at in part)
        text = "\n".join([made_by, features.fingerprint, query.content, *(features.keys[row] for row in some)])
        units.append(CandidateUnit(hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), query.features, some))
    found: dict[int, Scored] = {}
    build = partial(_methods, on_worker(settings, workers.threads), features)
    with closing(workers.compute(build, units)) as results:
        for unit, computed in zip(units, results, strict=True):
            scores, counts = computed.arrays["scores"].tolist(), computed.arrays["counts"].tolist()
            found |= dict(zip(unit.rows, zip(scores, *counts, strict=True), strict=True))
            progress.update(len(unit.rows))
    return found


def _methods(settings: Settings, features: Sequence[Any]) -> CandidateMethods:
    return CandidateMethods(build_reranker(settings), features)
