"""What the rules of [cost] save, and what they cost in recall, on data sets in the ground_truth.csv layout.

    python benchmarks/cost.py DATA --out benchmarks/results/NAME.json [--config NAME] [--k 100] [--only SET ...]

Every pair is matched and verified once and remembered; each rule is then played through by the re-ranker itself, so
that its recall and the pairs it looks at are exact, whatever a pair costs. A pair in the prefilter costs what
nearest neighbours cost; seconds of a whole query are in benchmarks/speed.py.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vpr import pipeline
from vpr.build import build, build_reranker
from vpr.cli.common import settings_of
from vpr.config import dump
from vpr.core import Dataset, LocalFeatures, Matches, Ranking
from vpr.datasets import read_pair
from vpr.evaluation.recall import first_hits
from vpr.features.feature_set import FeatureFolders
from vpr.matchers import nearest
from vpr.rerank import LocalReranker, cost
from vpr.rerank.reranker import Pair
from vpr.runtime import device as machine
from vpr.runtime.files import write_json
from vpr.runtime.timing import Clock

RULES: dict[str, dict[str, Any]] = {
    "exhaustive": {},
    **{f"stop {n}": {"stop_inliers": n} for n in (10, 30)},
    **{f"order, stop {n}": {"order": "nearest", "stop_inliers": n} for n in (10, 30)},
    **{f"order, promise {x}": {"order": "nearest", "promise": x} for x in (0.5, 0.6, 0.7, 0.8, 0.9)},
    **{f"order, {n} pairs": {"order": "nearest", "budget_pairs": n} for n in (5, 10, 20)},
    **{
        f"order, promise {x}, stop 10": {"order": "nearest", "promise": x, "stop_inliers": 10}
        for x in (0.5, 0.6, 0.7, 0.8)
    },
    **{f"{n} pairs": {"budget_pairs": n} for n in (5, 10, 20)},
    **{f"gate {n}": {"gate_inliers": n} for n in (5, 20)},
    **{f"gate 5, lead {n}": {"gate_inliers": 5, "gate_lead": n} for n in (2, 3, 4, 6)},
}


class Remembered(LocalReranker):
    """Compares each pair once."""

    def __init__(self, like: LocalReranker) -> None:
        super().__init__(
            like.matcher, like.verifier, like.settings, like.geometry, threads=like.threads, together=like.together
        )
        self.known: dict[tuple[int, int], Pair] = {}

    def compare(self, query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> list[Pair]:
        new = [each for each in candidates if (id(query), id(each)) not in self.known]
        for each, pair in zip(new, super().compare(query, new), strict=True):
            self.known[id(query), id(each)] = pair
        return [self.known[id(query), id(each)] for each in candidates]


class RememberedScout:
    """Nearest neighbours, once per pair."""

    weights = ""

    def __init__(self, prefilter: nearest.Nearest) -> None:
        self.prefilter = prefilter
        self.known: dict[tuple[int, int], Matches] = {}

    def match(self, query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> list[Matches]:
        new = [each for each in candidates if (id(query), id(each)) not in self.known]
        for each, matches in zip(new, self.prefilter.match(query, new), strict=True):
            self.known[id(query), id(each)] = matches
        return [self.known[id(query), id(each)] for each in candidates]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--k", type=int, default=100, help="candidates that are re-ranked")
    parser.add_argument("--only", nargs="*", help="names of data sets, instead of all")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "vpr-benchmark")
    arguments = parser.parse_args()
    overrides = [*arguments.overrides, f"shortlist.k={arguments.k}"]
    settings = settings_of(arguments.config, [*overrides, "rerank.k=0"])
    reranked = settings_of(arguments.config, [*overrides, f"rerank.k={arguments.k}"])
    results = []
    for root in sorted(path.parent for path in arguments.data.glob("*/ground_truth.csv")):
        if arguments.only and root.name not in arguments.only:
            continue
        dataset = read_pair(root / "database", root / "queries", settings.evaluation.radius_m)
        work = arguments.work / root.name
        features = pipeline.extract(
            dataset, build(reranked), lambda role, work=work: FeatureFolders.under(work / role), Clock()
        )
        outcome = pipeline.match(dataset, features, build(settings), work=work / "cost", clock=Clock())
        shortlist = next(iter(outcome.stages.values()))
        database, queries = list(features.database.local_store), list(features.queries.local_store)
        for row in play(dataset, shortlist, queries, database, build_reranker(reranked)):
            results.append({"dataset": root.name, **row})
            print(line(results[-1]), flush=True)
    about = machine.facts(shlex.join(["python", *sys.argv]), machine.device_of(settings.machine.device))
    write_json(arguments.out, {**about, "settings": dump(reranked), "results": results})
    print(arguments.out)


def play(
    dataset: Dataset,
    shortlist: Ranking,
    queries: Sequence[LocalFeatures],
    database: Sequence[LocalFeatures],
    like: LocalReranker,
) -> list[dict[str, Any]]:
    assert dataset.positives is not None
    reranker = Remembered(like)
    prefilter = RememberedScout(nearest.build(nearest.RATIO_ONLY, machine.device_of("cpu")))
    rows = [{"rule": "shortlist", "pairs": 0.0, "recall_at_1": recall(shortlist, dataset)}]
    for name, rule in tqdm(RULES.items(), desc=dataset.name):
        reranker.control = cost.Settings(**rule)
        reranker.prefilter = prefilter if reranker.control.order == "nearest" else None
        ranking = reranker.rerank(shortlist, queries, database)
        assert ranking.evidence is not None
        pairs = float((ranking.evidence.matches >= 0).sum(axis=1).mean())
        rows.append({"rule": name, "pairs": pairs, "recall_at_1": recall(ranking, dataset)})
    return rows


def recall(ranking: Ranking, dataset: Dataset) -> float:
    assert dataset.positives is not None
    return float(np.mean(first_hits(ranking, dataset.positives) == 1))


def line(row: dict[str, Any]) -> str:
    return (
        f"{row['dataset']:18} {row['rule']:28} {row['pairs']:6.1f} pairs a query   R@1 {100 * row['recall_at_1']:.2f}"
    )


if __name__ == "__main__":
    main()
