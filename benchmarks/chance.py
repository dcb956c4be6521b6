"""Inliers that unrelated matches have, against what vpr.rerank.verification.inliers_by_chance says.

python benchmarks/chance.py
"""

from __future__ import annotations

import numpy as np
import torch

from vpr.rerank import VERIFIERS
from vpr.rerank.verification import Settings, inliers_by_chance

REPEATS = 30
SIZES = ((320, 240), (640, 480), (1280, 960))
MATCHES = (10, 20, 50, 100, 300, 1000)


def main() -> None:
    print(
        f"{'model':12} {'size':>9} {'pixels':>6} {'matches':>7} {'median':>6} {'95 %':>6} {'most':>5} {'by chance':>9}"
    )
    for model in ("fundamental", "homography"):
        for threshold in (1.5, 3.0):
            settings = Settings(model=model, threshold=threshold, max_iterations=5000)
            for size in SIZES:
                for matches in MATCHES:
                    counts = unrelated(settings, size, matches)
                    median, high, most = np.percentile(counts, [50, 95, 100])
                    expected = inliers_by_chance(matches, settings, size)
                    shown = f"{size[0]}x{size[1]}"
                    print(
                        f"{model:12} {shown:>9} {threshold:6.1f} {matches:7d} "
                        f"{median:6.0f} {high:6.0f} {most:5.0f} {expected:9.1f}"
                    )


def unrelated(settings: Settings, size: tuple[int, int], matches: int) -> list[int]:
    """Inliers of uniformly random points, again and again."""
    random = np.random.default_rng(0)
    verifier = VERIFIERS[settings.method].build(settings, torch.device("cpu"))
    counts = []
    for _ in range(REPEATS):
        first, second = (random.uniform([0, 0], size, (matches, 2)) for _ in range(2))
        counts.append(int(verifier.verify([(first, second)])[0].inliers.sum()))
    return counts


if __name__ == "__main__":
    main()
