"""How good local features, matcher and verification are on pairs of images, kept as one JSON file and a table.

    python benchmarks/quality.py DATA --out benchmarks/results/NAME.json [--config NAME] [--set ...] [--work DIR]

DATA holds geometry/ (folders with homographies.csv or poses.csv) and vpr/ (data sets in the ground_truth.csv layout).
Homographies and relative poses are judged by the protocols of `vpr evaluate`, the former with 1,000 points. Images
of cameras that stood still are judged as homographies that change nothing. Of each other data set, every query with the
middle one of its positives, and 500 random pairs of different places, tell how often more than 10 matches are verified.
With train/, whose manifest.csv names groups, so do 500 pairs of some groups in which no two images show one place.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from recall import conditions, options
from tqdm import tqdm

from vpr import pipeline
from vpr.build import build, build_reranker
from vpr.cli.common import settings_of
from vpr.config import dump
from vpr.core import Dataset, ImageSet
from vpr.datasets import read_pair
from vpr.datasets.homography_pairs import HomographyPair, read_homography_folder
from vpr.datasets.pose_pairs import read_pose_folder
from vpr.datasets.tables import read_table
from vpr.features.feature_set import FeatureFolders
from vpr.geometry_benchmark import Options, run_homographies, run_poses
from vpr.global_descriptors.thumbnail import Settings as ThumbnailSettings
from vpr.runtime import device as machine
from vpr.runtime.files import read_json, write_json
from vpr.runtime.timing import Clock
from vpr.settings import Settings

VERIFIED = 10  # matches; more than this many speak for one place
HOMOGRAPHIES = ("oxford_graf", "homogr")
POSES = ("kitti_1",)
FIXED_CAMERAS = ("amos_night",)
PLACES = ("gardens_point", "corridor")
ALIKE = ("paris_artdeco", "buildings_web", "urban100")  # facades of different places
WRONG_PAIRS = 500
APART = 5  # frames of the sequence between a wrong candidate and the nearest right one, at least: these may overlap
SHOWN = {
    *("matches", "correct_matches", "precision", "repeatability", "matching_score_true", "nn_map_true"),
    *("correct_3px", "auc_3px", "auc_5deg", "auc_10deg", "precision_superglue_5e-4"),
}
POINTS = "local_features.max_keypoints=1000"


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="names of data sets, instead of all")
    arguments = parser.parse_args()

    settings = settings_of(arguments.config, arguments.overrides)
    results = measured(arguments, settings)
    for name, figures in results.items():
        print(f"{name:16}", "  ".join(f"{key} {value:.3f}" for key, value in figures.items()))
    about = machine.facts(shlex.join(["python", *sys.argv]), machine.device_of(settings.machine.device))
    write_json(arguments.out, {**about, "settings": dump(settings), "results": results})
    print(arguments.out)


def measured(arguments: argparse.Namespace, settings: Settings) -> dict[str, dict[str, float]]:
    """Figures of each data set, and group of images, that is wanted."""
    results: dict[str, dict[str, float]] = {}

    def wanted(names: Sequence[str]) -> list[str]:
        return [name for name in names if not arguments.only or name in arguments.only]

    def options_of(name: str) -> Options:
        def settings(of_protocol: Sequence[str]) -> Settings:
            return settings_of(arguments.config, [*of_protocol, POINTS, *arguments.overrides])

        return Options(arguments.work / name, settings, shlex.join(["python", *sys.argv]))

    for name in wanted(HOMOGRAPHIES):
        pairs = read_homography_folder(arguments.data / "geometry" / name)
        run_homographies(name, pairs, "plain", options_of(name))
        results[name] = of_pairs(arguments.work / name)
    for name in wanted(FIXED_CAMERAS):
        root = arguments.data / "vpr" / name
        run_homographies(name, still(read_pair(root / "database", root / "queries", None)), "plain", options_of(name))
        results[name] = of_pairs(arguments.work / name)
    for name in wanted(POSES):
        run_poses("pose-folder", read_pose_folder(arguments.data / "geometry" / name), options_of(name))
        results[name] = of_pairs(arguments.work / name)
    for name in wanted(PLACES):
        root = arguments.data / "vpr" / name
        dataset = read_pair(root / "database", root / "queries", None)
        results[name] = verified(dataset, settings, arguments.work / name)
    manifest = arguments.data / "train" / "manifest.csv"
    for group in wanted(ALIKE) if manifest.exists() else ():
        results[group] = verified_alike(of_group(manifest, group), settings, arguments.work / group)
    return results


def still(dataset: Dataset) -> list[HomographyPair]:
    """Each query with the first image of its camera."""
    assert dataset.positives is not None
    return [
        HomographyPair(
            dataset.database.path(int(positives[0])), dataset.queries.path(query), np.eye(3), part="fixed cameras"
        )
        for query, positives in enumerate(dataset.positives)
    ]


def of_pairs(folder: Path) -> dict[str, float]:
    """The figures of `vpr evaluate` that settle whether features and matches are good."""
    tables = read_json(folder / "summary.json")["tables"]
    figures = {}
    for rows in tables.values():
        for row in rows:
            if row["part"] != "all":
                continue
            where = f"{row['estimator']} " if "estimator" in row else ""
            figures |= {f"{where}{name}": value for name, value in row.items() if name in SHOWN}
    return figures


class Comparison:
    """Pairs of a query and a database image, matched and verified with the settings."""

    def __init__(self, dataset: Dataset, settings: Settings, work: Path) -> None:
        unranked = settings.model_copy(update={"global_descriptor": ThumbnailSettings(), "joined": None})
        features = pipeline.extract(dataset, build(unranked), lambda role: FeatureFolders.under(work / role), Clock())
        database, queries = features.database.local_store, features.queries.local_store
        assert queries is not None and database is not None
        self.database, self.queries = database, queries
        self.reranker = build_reranker(settings)

    def share(self, pairs: Sequence[tuple[int, int]], what: str) -> float:
        """Share of the pairs with more than 10 verified matches."""
        strong = 0
        for query, candidate in tqdm(pairs, what, leave=False, disable=None):
            found = self.reranker.pair(self.queries[query], self.database[candidate])
            strong += found.evidence.inliers > VERIFIED
        return strong / len(pairs)


def verified(dataset: Dataset, settings: Settings, work: Path) -> dict[str, float]:
    """Share of pairs with more than 10 verified matches: of one place, by condition, and of different places."""
    assert dataset.positives is not None
    compared = Comparison(dataset, settings, work)
    positives = dataset.positives
    answerable = [row for row in range(len(positives)) if len(positives[row])]
    figures = {}
    for condition, rows in conditions(dataset).items():
        middle = [(row, int(np.sort(positives[row])[len(positives[row]) // 2])) for row in rows if len(positives[row])]
        figures[f"right place, {condition}"] = compared.share(middle, "right places")
    random = np.random.default_rng(0)
    wrong: list[tuple[int, int]] = []
    while len(wrong) < WRONG_PAIRS:
        query, candidate = int(random.choice(answerable)), int(random.integers(len(dataset.database)))
        if np.abs(positives[query] - candidate).min() > APART:
            wrong.append((query, candidate))
    return figures | {"wrong place": compared.share(wrong, "wrong places")}


def of_group(manifest: Path, group: str) -> ImageSet:
    table = read_table(manifest)
    named = zip(table.column("file"), table.column("group"), strict=True)
    return ImageSet(manifest.parent, tuple(file for file, of in named if of == group))


def verified_alike(images: ImageSet, settings: Settings, work: Path) -> dict[str, float]:
    """Share of pairs of different images, all of different places, with more than 10 verified matches."""
    pairs = [(one, other) for one in range(len(images)) for other in range(one)]
    chosen = np.random.default_rng(0).permutation(len(pairs))[:WRONG_PAIRS]
    compared = Comparison(Dataset(work.name, "by group", images, images), settings, work)
    return {"wrong place": compared.share([pairs[each] for each in chosen], "wrong places")}


if __name__ == "__main__":
    main()
