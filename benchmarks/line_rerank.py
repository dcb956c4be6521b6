"""Whether lines help to re-rank: points with lines of several weights, on one shortlist, as JSON.

    python benchmarks/line_rerank.py DATA --only gardens_point corridor --gluestick WEIGHTS --out NAME.json
        [--most-queries 30] [--config superpoint_place] [--set rerank.k=10]

The shortlist is the config's. Points are the config's own or GlueStick's, lines are GlueStick's, of which those count
that agree with the geometry of the points. Every pair is matched once, and ordered by points alone (weight 0), with
lines of several weights, and by lines alone. "as the config" also weighs the shortlist's similarity and the evidence
of the points (rerank.retrieval_weight, rerank.evidence_weight), "by score" does not.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from recall import options, subset

from vpr import pipeline
from vpr.build import build, build_image_matcher, build_verifier
from vpr.cli.common import settings_of
from vpr.core import Dataset, Ranking
from vpr.datasets import read_pair
from vpr.features.feature_set import FeatureFolders
from vpr.features.prepared import PreparedImages
from vpr.rerank.line_agreement import lines_agree
from vpr.rerank.lines import LinePair, LineReranker
from vpr.rerank.lines import Settings as LineSettings
from vpr.rerank.reranker import Pair
from vpr.runtime import device as machine
from vpr.runtime.files import write_json
from vpr.runtime.timing import Clock
from vpr.settings import Settings, configured

WEIGHTS = (0.0, 1.0, 4.0)
KS = (1, 5)


class Remembered(LineReranker):
    """Compares rows whose pairs are known; ``points`` 0 leaves the points out of the score."""

    pairs: dict[tuple[int, int], LinePair]
    points = 1.0

    def compare(self, query: Any, candidates: Sequence[Any]) -> list[Pair]:
        return [self.pairs[query, each] for each in candidates]

    def score(self, pair: Pair) -> float:
        assert isinstance(pair, LinePair)
        return super().score(pair) if self.points else pair.confidence_of_lines


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--most-queries", type=int, default=30)
    parser.add_argument("--gluestick", required=True, help="name or file of weights")
    arguments = parser.parse_args()
    settings = settings_of(arguments.config, arguments.overrides)
    method = {"method": "gluestick", "weights": arguments.gluestick}
    matcher: Any = build_image_matcher(configured(None, {"image_matcher": method}))
    results = []
    for root in sorted(path.parent for path in arguments.data.glob("*/ground_truth.csv")):
        if arguments.only and root.name not in arguments.only:
            continue
        dataset = read_pair(root / "database", root / "queries", settings.evaluation.radius_m)
        few = min(arguments.most_queries, len(dataset.queries))
        evenly = np.linspace(0, len(dataset.queries) - 1, few).round().astype(np.int64)
        results.append(of_set(root.name, subset(dataset, evenly), settings, matcher, arguments.work / root.name))
        print(results[-1], flush=True)
    facts = machine.facts(shlex.join(["python", *sys.argv]), torch.device("cpu"))
    write_json(arguments.out, {**facts, "queries_at_most": arguments.most_queries, "results": results})


def of_set(name: str, dataset: Dataset, settings: Settings, matcher: Any, work: Any) -> dict[str, Any]:
    engine, clock = build(settings), Clock()
    features = pipeline.extract(dataset, engine, lambda role: FeatureFolders.under(work / role), clock)
    alone = build(settings.model_copy(update={"rerank": settings.rerank.model_copy(update={"k": 0})}))
    (shortlist,) = pipeline.match(dataset, features, alone, work=work / "work", clock=clock).stages.values()
    rerank = settings.rerank
    reranker = LineReranker(matcher, build_verifier(settings), LineSettings(k=rerank.k), settings.verification)
    pairs = compared(reranker, dataset, shortlist, rerank.k)
    stores = features.queries.rerank_store, features.database.rerank_store
    own = {key: with_points(pair, engine.reranker, stores, key, settings) for key, pair in pairs.items()}
    found = [{"points": "", "order": "shortlist", "lines": "", **recalls(shortlist, dataset)}]
    as_config = {"retrieval_weight": rerank.retrieval_weight, "evidence_weight": rerank.evidence_weight}
    orders = {"as the config": as_config, "by score": {"retrieval_weight": 0.0, "evidence_weight": 0.0}}
    for points, known in (("the config's own", own), ("gluestick", pairs)):
        for order, given in orders.items():
            for weight in (*WEIGHTS, None):
                chosen = LineSettings(k=rerank.k, line_weight=weight or 0.0, **given)
                again = Remembered(matcher, build_verifier(settings), chosen, settings.verification)
                again.pairs, again.points = known, weight is not None
                ranked = again.rerank(shortlist, range(len(dataset.queries)), range(len(dataset.database)))  # type: ignore[arg-type]
                lines = "alone" if weight is None else f"weight {weight:g}"
                found.append({"points": points, "order": order, "lines": lines, **recalls(ranked, dataset)})
    agree = [int(pair.lines_agree.sum()) for pair in own.values()]
    return {
        "set": name,
        "queries": len(dataset.queries),
        "recall": found,
        "lines_a_pair": round(float(np.mean(agree)), 1),
    }


def with_points(
    pair: LinePair, reranker: Any, stores: tuple[Any, Any], key: tuple[int, int], settings: Settings
) -> LinePair:
    """The lines of a pair with points of another matcher, both in pixels of images of one size."""
    points = reranker.pair(stores[0][key[0]], stores[1][key[1]])
    lines, geometry, model = pair.lines, settings.verification, points.verified.model
    agree = np.zeros(len(lines), np.bool_)
    if model is not None:
        ends = (each.numpy().astype(np.float64) for each in (lines.ends0, lines.ends1))
        agree = lines_agree(*ends, model, geometry.model, geometry.threshold)
    return LinePair(points.matches, points.verified, points.evidence, pair.found, lines, agree)


def compared(reranker: LineReranker, dataset: Dataset, shortlist: Ranking, k: int) -> dict[tuple[int, int], LinePair]:
    queries, database = (
        PreparedImages(each, reranker.prepare, reranker.nothing) for each in (dataset.queries, dataset.database)
    )
    pairs = {}
    for query, rows in enumerate(shortlist.rows[:, :k].tolist()):
        known = [row for row in rows if row >= 0]
        for row, pair in zip(known, reranker.compare(queries[query], [database[row] for row in known]), strict=True):
            pairs[query, row] = pair
    return pairs


def recalls(ranking: Ranking, dataset: Dataset) -> dict[str, float]:
    assert dataset.positives is not None
    return {
        f"R@{k}": round(100 * float(np.mean([np.isin(first[:k], right).any() for first, right in both])), 1)
        for k in KS
        for both in [list(zip(ranking.rows, dataset.positives, strict=True))]
    }


if __name__ == "__main__":
    main()
