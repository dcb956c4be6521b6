"""Two methods on one data set: is the second better, or is it chance?

    python examples/compare_two_methods.py DATABASE QUERIES OUT

The features are extracted once, since both methods use the same; only the re-ranking differs.
"""

import sys
from pathlib import Path

import vpr
from vpr.evaluation.paired import compare_runs
from vpr.report.differences import comparison_text

METHODS = {
    "inliers": {"score": "inliers", "retrieval_weight": 0},
    "confidence": {"score": "confidence_sum", "retrieval_weight": 0.5},
}


def main(database: Path, queries: Path, out: Path) -> None:
    runs = {
        name: vpr.run(database, queries, out / name, features=out / "features", rerank=settings)
        for name, settings in METHODS.items()
    }
    before, after = runs.values()
    comparison = compare_runs(before.dataset, before.predictions, after.dataset, after.predictions, ks=[1, 5])
    print(comparison_text(comparison, tuple(METHODS), [], 20))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
