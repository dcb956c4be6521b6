"""Two methods on one data set: is the second better, or is it chance?

    python examples/compare_two_methods.py DATABASE QUERIES OUT

The features are extracted once, since both methods use the same; only the re-ranking differs.
"""

import sys
from pathlib import Path

from vpr import pipeline
from vpr.build import build
from vpr.config import load
from vpr.datasets import read_pair
from vpr.evaluation.paired import compare_runs
from vpr.features.feature_set import FeatureFolders
from vpr.report.differences import comparison_text
from vpr.runtime.timing import Clock
from vpr.settings import Settings

METHODS = {
    "inliers": ["rerank.score=inliers", "rerank.retrieval_weight=0"],
    "confidence": ["rerank.score=confidence_sum", "rerank.retrieval_weight=0.5"],
}


def main(database: Path, queries: Path, out: Path) -> None:
    dataset = read_pair(database, queries, radius_m=25.0)
    first_of = {}
    for name, changes in METHODS.items():
        settings = load(Settings, None, changes)
        engine, clock = build(settings), Clock()
        features = pipeline.extract(dataset, engine, lambda role: FeatureFolders.under(out / "features" / role), clock)
        outcome = pipeline.match(dataset, features, engine, work=out / "work", clock=clock)
        first_of[name] = outcome.stages[settings.output.predictions_name]
    before, after = METHODS
    comparison = compare_runs(dataset, first_of[before], dataset, first_of[after], ks=[1, 5])
    print(comparison_text(comparison, (before, after), [], 20))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
